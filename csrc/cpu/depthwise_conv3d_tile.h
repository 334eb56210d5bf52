// The register tiles of depthwise_conv3d: vectors of channels, a few neighbouring positions of a row at a time.
//
// Forward, kTile results and the K taps of one row of the kernel are in registers; where the results slide (stride and
// dilation 1) a position of the input is loaded once for the K results that it reaches: R + K - 1 loads for R * K
// multiply-adds. Taps' gradients are a few rows of K taps at a time, the window of K positions sliding along the row.
//
// Rows are of vectors, one a position, with zeros on both sides as far as a whole tile's taps reach. Results are
// `apart` positions apart.
#pragma once

#include "common/vec.h"

namespace vidops {

constexpr int kTile = 8;

// One row of taps over one row of the input.
template <class A>
struct TapRow {
  const A* x;  // position 0
  const A* w;  // the row's first tap, tap after tap at TapColumns' offsets
};

// How the taps of a row lie: tap k at weights[k] meets position first * in_step + offsets[k].
struct TapColumns {
  int64_t count, in_step;
  const int64_t *offsets, *weights;
};

// Results first .. first + count - 1 of a row, count <= kTile.
template <class A>
using TileFunction = void (*)(const TapRow<A>* rows, int64_t n, const TapColumns& columns, int64_t first, int64_t count,
                              Vec<A> bias, A* y, int64_t apart);

template <class A>
inline __attribute__((always_inline)) void store_tile(const Vec<A>* sum, int64_t count, A* y, int64_t apart) {
#pragma GCC unroll 16
  for (int r = 0; r < kTile; ++r) {
    if (r < count) store(y + r * apart * kLanes<A>, sum[r]);
  }
}

template <int K, class A>
void slide_tile(const TapRow<A>* rows, int64_t n, const TapColumns& columns, int64_t first, int64_t count, Vec<A> bias,
                A* y, int64_t apart) {
  Vec<A> sum[kTile];
#pragma GCC unroll 16
  for (int r = 0; r < kTile; ++r) sum[r] = bias;
  for (int64_t i = 0; i < n; ++i) {
    const A* x = rows[i].x + (first + columns.offsets[0]) * kLanes<A>;
    Vec<A> tap[K];
#pragma GCC unroll 16
    for (int k = 0; k < K; ++k) tap[k] = load(rows[i].w + columns.weights[k]);
#pragma GCC unroll 32
    for (int p = 0; p < kTile + K - 1; ++p) {
      const Vec<A> in = load(x + p * kLanes<A>);
#pragma GCC unroll 16
      for (int k = 0; k < K; ++k) {
        if (p - k >= 0 && p - k < kTile) sum[p - k] += tap[k] * in;
      }
    }
  }
  store_tile(sum, count, y, apart);
}

// Any stride and dilation: every tap loads its own positions, from the first-level cache.
template <class A>
void any_tile(const TapRow<A>* rows, int64_t n, const TapColumns& columns, int64_t first, int64_t count, Vec<A> bias,
              A* y, int64_t apart) {
  Vec<A> sum[kTile];
#pragma GCC unroll 16
  for (int r = 0; r < kTile; ++r) sum[r] = bias;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t k = 0; k < columns.count; ++k) {
      const Vec<A> tap = load(rows[i].w + columns.weights[k]);
      const A* x = rows[i].x + (first * columns.in_step + columns.offsets[k]) * kLanes<A>;
#pragma GCC unroll 16
      for (int r = 0; r < kTile; ++r) sum[r] += tap * load(x + r * columns.in_step * kLanes<A>);
    }
  }
  store_tile(sum, count, y, apart);
}

// sums[a * K + k] += sum over positions begin <= i < end of g[i] * x_a[i * in_step + offsets[k]], for `rows` rows of x.
template <class A>
using ProductFunction = void (*)(const A* g, const A* const* x, int64_t rows, const TapColumns& columns, int64_t begin,
                                 int64_t end, Vec<A>* sums);

template <int K, int N, class A>
inline void slide_products_of(const A* g, const A* const* x, const TapColumns& columns, int64_t begin, int64_t end,
                              Vec<A>* sums) {
  Vec<A> sum[N][K], window[N][K];
  const auto at = [&](int a, int64_t p) __attribute__((always_inline)) { return load(x[a] + p * kLanes<A>); };
#pragma GCC unroll 16
  for (int a = 0; a < N; ++a) {
#pragma GCC unroll 16
    for (int k = 0; k < K; ++k) {
      sum[a][k] = sums[a * K + k];
      if (k) window[a][k] = at(a, begin + columns.offsets[0] + k - 1);
    }
  }
  for (int64_t i = begin; i < end; ++i) {
    const Vec<A> grad = load(g + i * kLanes<A>);
#pragma GCC unroll 16
    for (int a = 0; a < N; ++a) {
#pragma GCC unroll 16
      for (int k = 0; k + 1 < K; ++k) window[a][k] = window[a][k + 1];
      window[a][K - 1] = at(a, i + columns.offsets[0] + K - 1);
#pragma GCC unroll 16
      for (int k = 0; k < K; ++k) sum[a][k] += grad * window[a][k];
    }
  }
#pragma GCC unroll 16
  for (int a = 0; a < N; ++a) {
#pragma GCC unroll 16
    for (int k = 0; k < K; ++k) sums[a * K + k] = sum[a][k];
  }
}

// N rows of taps at a time: enough sums that no multiply-add waits for another, and all in registers.
template <int K, int N, class A>
void slide_products(const A* g, const A* const* x, int64_t rows, const TapColumns& columns, int64_t begin, int64_t end,
                    Vec<A>* sums) {
  int64_t a = 0;
  for (; a + N <= rows; a += N) slide_products_of<K, N>(g, x + a, columns, begin, end, sums + a * K);
  for (; a < rows; ++a) slide_products_of<K, 1>(g, x + a, columns, begin, end, sums + a * K);
}

template <class A>
void any_products(const A* g, const A* const* x, int64_t rows, const TapColumns& columns, int64_t begin, int64_t end,
                  Vec<A>* sums) {
  constexpr int chains = 4;
  const int64_t step = columns.in_step;
  for (int64_t a = 0; a < rows; ++a) {
    for (int64_t k = 0; k < columns.count; ++k) {
      const A* from = x[a] + columns.offsets[k] * kLanes<A>;
      Vec<A> sum[chains] = {};
      int64_t i = begin;
      for (; i + chains <= end; i += chains) {
#pragma GCC unroll 4
        for (int j = 0; j < chains; ++j)
          sum[j] += load(g + (i + j) * kLanes<A>) * load(from + (i + j) * step * kLanes<A>);
      }
      for (; i < end; ++i) sum[0] += load(g + i * kLanes<A>) * load(from + i * step * kLanes<A>);
      sums[a * columns.count + k] += (sum[0] + sum[1]) + (sum[2] + sum[3]);
    }
  }
}

// fp64 is for checking gradients: the general loops serve it.
template <class A>
TileFunction<A> tile_function(int64_t taps, bool slides) {
  if constexpr (sizeof(A) < 8) {
    switch (slides ? taps : 0) {
      case 1:
        return slide_tile<1, A>;
      case 2:
        return slide_tile<2, A>;
      case 3:
        return slide_tile<3, A>;
      case 4:
        return slide_tile<4, A>;
      case 5:
        return slide_tile<5, A>;
      case 7:
        return slide_tile<7, A>;
      case 9:
        return slide_tile<9, A>;
    }
  }
  return any_tile<A>;
}

template <class A>
ProductFunction<A> product_function(int64_t taps, bool slides) {
  constexpr bool many = kVectorBytes == 64;  // 32 registers, not 16
  if constexpr (sizeof(A) < 8) {
    switch (slides ? taps : 0) {
      case 3:
        return slide_products < 3, many ? 3 : 1, A > ;
      case 5:
        return slide_products < 5, many ? 2 : 1, A > ;
      case 7:
        return slide_products < 7, many ? 2 : 1, A > ;
    }
  }
  return any_products<A>;
}

}  // namespace vidops
