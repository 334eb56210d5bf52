// plane_conv.h for channels last: a plane has one vector of channels a pixel, and every channel its own taps.
//
// Scratch in the accumulation type A, filled by the caller. A tile of neighbouring pixels of a row stays in registers
// with a row of taps; each pixel of the input is loaded once a row of taps, R*KW multiply-adds for R+2*KW-1 loads, all
// aligned. Steps count pixels.
//
// KW is the number of columns of taps where it is known when compiled, else 0.
#pragma once

#include "cpu/plane_conv.h"

namespace vidops {

template <class A>
struct LaneTerm {
  const A* x;     // the pixel under the first tap of result (0, 0)
  const A* taps;  // row-major, one vector each
};

template <int KW, int R, class A, class Put>
inline __attribute__((always_inline)) void lane_tile(const LaneTerm<A>* terms, int64_t count, int64_t step, int64_t kh,
                                                     int64_t kw, int64_t row, int64_t column, Put&& put) {
  constexpr int64_t lanes = kLanes<A>;
  Vec<A> sum[R] = {};
  if constexpr (requires { put.start; }) {
#pragma GCC unroll 16
    for (int p = 0; p < R; ++p) sum[p] = put.start;
  }
  for (int64_t n = 0; n < count; ++n) {
    const A *taps = terms[n].taps, *x = terms[n].x + (row * step + column) * lanes;
    for (int64_t u = 0; u < kh; ++u, taps += kw * lanes, x += step * lanes) {
      if constexpr (KW > 0) {
        Vec<A> tap[KW];
#pragma GCC unroll 16
        for (int v = 0; v < KW; ++v) tap[v] = load(taps + v * lanes);
#pragma GCC unroll 32
        for (int p = 0; p < R + KW - 1; ++p) {
          const Vec<A> in = held(load(x + p * lanes));
#pragma GCC unroll 16
          for (int v = 0; v < KW; ++v) {
            if (v <= p && p - v < R) sum[p - v] += tap[v] * in;
          }
        }
      } else {
        for (int64_t v = 0; v < kw; ++v) {
          const Vec<A> tap = load(taps + v * lanes);
#pragma GCC unroll 16
          for (int p = 0; p < R; ++p) sum[p] += tap * load(x + (p + v) * lanes);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int p = 0; p < R; ++p) put(row, column + p, sum[p]);
}

// put(i, j, v): v is put.start, where there is one, and the sum over terms, u and w of taps[u, w] * x[i + u, j + w],
// for all i < rows and j < columns. Some are given twice, with the same value.
template <int KW, class A, class Put>
void lane_conv(const LaneTerm<A>* terms, int64_t count, int64_t step, int64_t kh, int64_t kw, int64_t rows,
               int64_t columns, Put&& put) {
  constexpr int kMany = kVectorBytes == 64 ? 14 : 7, kFew = kVectorBytes == 64 ? 7 : 4;
  for (int64_t i = 0; i < rows; ++i) {
    int64_t j = 0;
    for (; j + kMany <= columns; j += kMany) lane_tile<KW, kMany>(terms, count, step, kh, kw, i, j, put);
    for (; j < columns && columns >= kFew; j += kFew) {
      lane_tile<KW, kFew>(terms, count, step, kh, kw, i, std::min(j, columns - kFew), put);
    }
    for (; j < columns; ++j) lane_tile<KW, 1>(terms, count, step, kh, kw, i, j, put);
  }
}

// The window of pixels under a row of taps slides along, so that each is loaded once a row of taps.
//
// sums[u * kw + v] += sum over i < rows and j < columns of g[i, j] * x[i + u, j + v], lane by lane, for NU rows u.
template <int KW, int NU, class A>
inline __attribute__((always_inline)) void lane_products_of(const A* g, int64_t g_step, const A* x, int64_t step,
                                                            int64_t kw, int64_t rows, int64_t columns, Wide<A>* sums) {
  constexpr int64_t lanes = kLanes<A>;
  const int64_t some_columns = std::min(columns, kProducts), some_rows = kProducts / some_columns;
  for (int64_t i0 = 0; i0 < rows; i0 += some_rows) {
    for (int64_t j0 = 0; j0 < columns; j0 += some_columns) {
      Vec<A> sum[NU][KW] = {};
      for (int64_t i = i0; i < std::min(rows, i0 + some_rows); ++i) {
        const A *grads = g + (i * g_step + j0) * lanes, *from = x + (i * step + j0) * lanes;
        Vec<A> window[NU][KW];
#pragma GCC unroll 4
        for (int u = 0; u < NU; ++u) {
#pragma GCC unroll 16
          for (int v = 1; v < KW; ++v) window[u][v] = load(from + (u * step + v - 1) * lanes);
        }
        for (int64_t j = 0; j < std::min(columns - j0, some_columns); ++j, grads += lanes, from += lanes) {
          const Vec<A> grad = load(grads);
#pragma GCC unroll 4
          for (int u = 0; u < NU; ++u) {
#pragma GCC unroll 16
            for (int v = 0; v + 1 < KW; ++v) window[u][v] = window[u][v + 1];
            window[u][KW - 1] = load(from + (u * step + KW - 1) * lanes);
#pragma GCC unroll 16
            for (int v = 0; v < KW; ++v) sum[u][v] += grad * window[u][v];
          }
        }
      }
#pragma GCC unroll 4
      for (int u = 0; u < NU; ++u) {
#pragma GCC unroll 16
        for (int v = 0; v < KW; ++v) add_wide<A>(sums[u * kw + v], sum[u][v]);
      }
    }
  }
}

template <int KW, class A>
void lane_products(const A* g, int64_t g_step, const A* x, int64_t step, int64_t kh, int64_t kw, int64_t rows,
                   int64_t columns, Wide<A>* sums) {
  constexpr int64_t lanes = kLanes<A>;
  if constexpr (KW == 0) {
    for (int64_t u = 0; u < kh; ++u) {
      for (int64_t v = 0; v < kw; ++v) {
        lane_products_of<1, 1>(g, g_step, x + (u * step + v) * lanes, step, kw, rows, columns, sums + u * kw + v);
      }
    }
  } else {
    constexpr int some = kVectorBytes < 64 ? 1 : KW <= 3 ? 3 : KW <= 7 ? 2 : 1;
    int64_t u = 0;
    for (; u + some <= kh; u += some) {
      lane_products_of<KW, some>(g, g_step, x + u * step * lanes, step, kw, rows, columns, sums + u * kw);
    }
    for (; u < kh; ++u) {
      lane_products_of<KW, 1>(g, g_step, x + u * step * lanes, step, kw, rows, columns, sums + u * kw);
    }
  }
}

}  // namespace vidops
