// The register tile of depthwise_conv3d with strides or dilation: vectors of channels, kTile results of a row at a
// time.
//
// Rows are of vectors, one a position, with zeros on both sides as far as a whole tile's taps reach. Results are
// `apart` positions apart. Without strides lane_conv.h loads a position once for all results that it reaches.
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

// How the taps of a row lie: tap k at weights[k] meets position first * in_step + offsets[k], of `positions`.
struct TapColumns {
  int64_t count, in_step, positions;
  const int64_t *offsets, *weights;
};

// Results first .. first + count - 1 of a row, count <= kTile; every tap loads its own positions.
template <class A>
void tile(const TapRow<A>* rows, int64_t n, const TapColumns& columns, int64_t first, int64_t count, Vec<A> bias, A* y,
          int64_t apart) {
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
#pragma GCC unroll 16
  for (int r = 0; r < kTile; ++r) {
    if (r < count) store(y + r * apart * kLanes<A>, sum[r]);
  }
}

// The same without the zeros beside a row, for taps that may not be finite.
template <class A>
void careful_tile(const TapRow<A>* rows, int64_t n, const TapColumns& columns, int64_t first, int64_t count,
                  Vec<A> bias, A* y, int64_t apart) {
  for (int64_t r = 0; r < count; ++r) {
    Vec<A> sum = bias;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t k = 0; k < columns.count; ++k) {
        const int64_t at = (first + r) * columns.in_step + columns.offsets[k];
        if (at < 0 || at >= columns.positions) continue;
        sum += load(rows[i].w + columns.weights[k]) * load(rows[i].x + at * kLanes<A>);
      }
    }
    store(y + r * apart * kLanes<A>, sum);
  }
}

// sums[a * K + k] += sum over positions begin <= i < end of g[i] * x_a[i * in_step + offsets[k]], for `rows` rows of x
// under K taps each.
template <class A>
void tap_products(const A* g, const A* const* x, int64_t rows, const TapColumns& columns, int64_t begin, int64_t end,
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

// The same without the zeros beside a row, for gradients that may not be finite.
template <class A>
void careful_products(const A* g, const A* const* x, int64_t rows, const TapColumns& columns, int64_t begin,
                      int64_t end, Vec<A>* sums) {
  for (int64_t a = 0; a < rows; ++a) {
    for (int64_t k = 0; k < columns.count; ++k) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t at = i * columns.in_step + columns.offsets[k];
        if (at < 0 || at >= columns.positions) continue;
        sums[a * columns.count + k] += load(g + i * kLanes<A>) * load(x[a] + at * kLanes<A>);
      }
    }
  }
}

}  // namespace vidops
