// Convolution of a padded plane with a few rows of taps, and the products of two planes that are its taps' gradient.
//
// Everything works on scratch in the accumulation type A (fp32, fp64), which the caller fills: padding, strides and
// dtypes are its business. A result is a sum over terms, each a plane and its taps, so that a 3-D kernel is one call
// with a term for each of its frames.
//
// Planar planes have neighbouring columns in a vector. A tile of kTileRows rows by two vectors stays in registers; a
// loaded vector of the input, at any alignment, feeds every row of the tile that needs it, and a tap is read once a
// tile. That is R*KH*2 multiply-adds for (R+KH-1)*2 loads and KH broadcasts, so arithmetic is the limit from 3 x 3 on.
// lane_conv.h has the same for channels last.
//
// KH is the number of rows of taps where it is known when compiled, else 0.
#pragma once

#include <algorithm>

#include "common/vec.h"

namespace vidops {

// AVX-512 has 32 registers: 16 sums, 9 taps, two inputs. AVX2 has 16.
constexpr int kTileRows = kVectorBytes == 64 ? 8 : 4;
// That a lane sums in A before they go on in fp64: fewer where fewer lanes even out each other's rounding.
constexpr int64_t kProducts = 2 * kVectorBytes;

template <class A>
struct PlaneTerm {
  const A* x;     // the element under the first tap of result (0, 0)
  const A* taps;  // column-major: taps[v * kh + u] of row u
};

// Elements from one row of a planar plane to the next for results of `columns`: rows may be read to a whole vector's
// end. A multiple of a vector.
template <class A>
int64_t plane_step(int64_t columns, int64_t kw) {
  constexpr int64_t lanes = kLanes<A>;
  return (std::max(columns, lanes) + kw - 1 + 2 * lanes - 1) / lanes * lanes;
}

template <int KH, int R, int V, class A, class Put>
inline __attribute__((always_inline)) void plane_tile(const PlaneTerm<A>* terms, int64_t count, int64_t step,
                                                      int64_t kh, int64_t kw, int64_t row, const int64_t* at,
                                                      Put&& put) {
  Vec<A> sum[R][V] = {};
  for (int64_t n = 0; n < count; ++n) {
    const A *taps = terms[n].taps, *x = terms[n].x + row * step;
    for (int64_t v = 0; v < kw; ++v) {
      if constexpr (KH > 0) {
        Vec<A> tap[KH];
#pragma GCC unroll 16
        for (int u = 0; u < KH; ++u) tap[u] = broadcast<Vec<A>>(taps[u]);
#pragma GCC unroll 32
        for (int r = 0; r < R + KH - 1; ++r) {
          Vec<A> in[V];
#pragma GCC unroll 4
          for (int w = 0; w < V; ++w) in[w] = held(load(x + r * step + at[w] + v));
#pragma GCC unroll 16
          for (int i = 0; i < R; ++i) {
            if (i > r || r - i >= KH) continue;
#pragma GCC unroll 4
            for (int w = 0; w < V; ++w) sum[i][w] += tap[r - i] * in[w];
          }
        }
        taps += KH;
      } else {
        for (int64_t u = 0; u < kh; ++u, ++taps) {
          const Vec<A> tap = broadcast<Vec<A>>(*taps);
#pragma GCC unroll 16
          for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
            for (int w = 0; w < V; ++w) sum[i][w] += tap * load(x + (i + u) * step + at[w] + v);
          }
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
    for (int w = 0; w < V; ++w) put(row + i, at[w], sum[i][w]);
  }
}

template <int KH, int R, class A, class Put>
void plane_rows(const PlaneTerm<A>* terms, int64_t count, int64_t step, int64_t kh, int64_t kw, int64_t row,
                int64_t columns, Put&& put) {
  constexpr int64_t lanes = kLanes<A>;
  const int64_t last = std::max<int64_t>(columns - lanes, 0);
  int64_t j = 0;
  for (; columns - j > lanes; j += 2 * lanes) {
    const int64_t at[2] = {j, std::min(j + lanes, last)};
    plane_tile<KH, R, 2>(terms, count, step, kh, kw, row, at, put);
  }
  if (j >= columns) return;
  j = std::min(j, last);
  plane_tile<KH, R, 1>(terms, count, step, kh, kw, row, &j, put);
}

// put(i, j, v): vector v is sum over terms, u and w of taps[u, w] * x[i + u, j + w] and its right neighbours, for all
// i < rows; every j < columns is in one. Some are given twice, with the same value; fewer columns than a vector has
// lanes leave its last lanes without meaning.
template <int KH, class A, class Put>
void plane_conv(const PlaneTerm<A>* terms, int64_t count, int64_t step, int64_t kh, int64_t kw, int64_t rows,
                int64_t columns, Put&& put) {
  int64_t i = 0;
  for (; i + kTileRows <= rows; i += kTileRows) {
    plane_rows<KH, kTileRows>(terms, count, step, kh, kw, i, columns, put);
  }
  constexpr int kFew = kTileRows / 2;
  for (; i < rows; i += kFew) {
    if (rows < kFew) {
      for (; i < rows; ++i) plane_rows<KH, 1>(terms, count, step, kh, kw, i, columns, put);
      return;
    }
    plane_rows<KH, kFew>(terms, count, step, kh, kw, std::min(i, rows - kFew), columns, put);
  }
}

// The lanes below `count`, others zero whatever they hold.
template <class A>
inline __attribute__((always_inline)) Vec<A> first_lanes(Vec<A> v, int64_t count) {
  Vec<A> index;
  for (int i = 0; i < kLanes<A>; ++i) index[i] = static_cast<A>(i);
  return index < broadcast<Vec<A>>(static_cast<A>(count)) ? v : Vec<A>{};
}

// sums[v * kh + u] += sum over i < rows and j < columns of g[i, j] * x[i + u, j + v], lane by lane. Both planes have
// rows of `step`; g is zero from `columns` to the end of the vector there, where x is taken to be zero as well: it may
// hold what is not finite.
template <int KH, int NV, class A>
inline __attribute__((always_inline)) void plane_products_of(const A* g, const A* x, int64_t step, int64_t kh,
                                                             int64_t rows, int64_t columns, Wide<A>* sums) {
  constexpr int64_t lanes = kLanes<A>;
  for (int64_t i0 = 0; i0 < rows; i0 += kProducts) {
    const int64_t i1 = std::min(rows, i0 + kProducts), some = kProducts / (i1 - i0) * lanes;
    for (int64_t j0 = 0; j0 < columns; j0 += some) {
      Vec<A> sum[NV][KH] = {};
      const auto strip = [&](int64_t j, auto whole) __attribute__((always_inline)) {
        // Row by row of x, so that a vector of it is loaded once for all rows of taps.
        const auto row = [&](int64_t r, int low, int high) __attribute__((always_inline)) {
          Vec<A> in[NV];
#pragma GCC unroll 16
          for (int v = 0; v < NV; ++v) {
            in[v] = held(load(x + r * step + j + v));
            if constexpr (!whole) in[v] = first_lanes<A>(in[v], columns - j);
          }
#pragma GCC unroll 16
          for (int u = 0; u < KH; ++u) {
            if (u < low || u >= high) continue;
            const Vec<A> grad = held(load(g + (r - u) * step + j));
#pragma GCC unroll 16
            for (int v = 0; v < NV; ++v) sum[v][u] += grad * in[v];
          }
        };
        int64_t r = i0;
        const int64_t end = i1 + KH - 1;
        for (; r < std::min<int64_t>(i0 + KH - 1, end); ++r) {
          row(r, static_cast<int>(std::max<int64_t>(0, r - i1 + 1)), static_cast<int>(r - i0 + 1));
        }
        for (; r < i1; ++r) row(r, 0, KH);
        for (; r < end; ++r) row(r, static_cast<int>(r - i1 + 1), KH);
      };
      const int64_t j1 = std::min(columns, j0 + some);
      int64_t j = j0;
      for (; j + lanes <= j1; j += lanes) strip(j, std::true_type{});
      if (j < j1) strip(j, std::false_type{});
#pragma GCC unroll 16
      for (int v = 0; v < NV; ++v) {
#pragma GCC unroll 16
        for (int u = 0; u < KH; ++u) add_wide<A>(sums[v * kh + u], sum[v][u]);
      }
    }
  }
}

// Columns of taps that are summed at once: as many sums as fit the registers.
template <int KH>
constexpr int kColumnsAtOnce = kVectorBytes == 64 ? (KH <= 3   ? 3
                                                     : KH <= 5 ? 4
                                                     : KH <= 7 ? 3
                                                               : 2)
                               : KH <= 3          ? 3
                                                  : 1;

template <int KH, class A>
void plane_products(const A* g, const A* x, int64_t step, int64_t kh, int64_t kw, int64_t rows, int64_t columns,
                    Wide<A>* sums) {
  if constexpr (KH == 0) {
    for (int64_t v = 0; v < kw; ++v) {
      for (int64_t u = 0; u < kh; ++u) {
        plane_products_of<1, 1>(g, x + u * step + v, step, kh, rows, columns, sums + v * kh + u);
      }
    }
  } else {
    constexpr int some = kColumnsAtOnce<KH>;
    int64_t v = 0;
    for (; v + some <= kw; v += some) {
      plane_products_of<KH, some>(g, x + v, step, kh, rows, columns, sums + v * kh);
    }
    for (; v < kw; ++v) plane_products_of<KH, 1>(g, x + v, step, kh, rows, columns, sums + v * kh);
  }
}

// f(integral_constant<KH>) for a number of tap rows.
template <class F>
void with_tap_rows(int64_t kh, F&& f) {
  switch (kh) {
    case 1:
      return f(std::integral_constant<int, 1>{});
    case 3:
      return f(std::integral_constant<int, 3>{});
    case 5:
      return f(std::integral_constant<int, 5>{});
    case 7:
      return f(std::integral_constant<int, 7>{});
    case 9:
      return f(std::integral_constant<int, 9>{});
    default:
      return f(std::integral_constant<int, 0>{});
  }
}

}  // namespace vidops
