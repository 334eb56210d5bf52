// Products of matrix blocks that lie in the cache: 6 rows times some vectors of columns stay in registers while the
// inner index runs, so that 24 multiply-adds of a vector need 4 loads of vectors and 6 of single numbers.
//
// What is added up, and in what order, does not depend on where a block begins or on how many rows it has.
#pragma once

#include <algorithm>

#include "common/vec.h"

namespace vidops {

// A matrix as rows or, transposed, as columns, `step` elements apart.
template <class A, bool kTransposed = false>
struct Block {
  const A* data;
  int64_t step;

  const A* at(int64_t row, int64_t column) const {
    return data + (kTransposed ? column * step + row : row * step + column);
  }
};

// Products summed before their sum is added to that of others; fewer where each is rounded for itself.
#if defined(__FMA__)
constexpr int64_t kInner = 128;
#else
constexpr int64_t kInner = 32;
#endif
#if defined(__AVX512F__)
constexpr int kTileVectors = 4;
#else
constexpr int kTileVectors = 2;  // 16 registers
#endif
constexpr int kTileRows = 6;

// c[kRows][kVectors * lanes] (=, or += if `add`) a b, `columns` of them if kPart.
template <int kRows, int kVectors, bool kPart, bool kTransposed, class A>
inline void multiply_tile(const Block<A, kTransposed>& a, const A* b, int64_t b_step, A* c, int64_t c_step,
                          int64_t inner, int64_t columns, bool add) {
  constexpr int lanes = kLanes<A>;
  Vec<A> sum[kRows][kVectors] = {};
  const A* const from = a.data;
  const int64_t step = a.step;
  for (int64_t k = 0; k < inner; ++k, b += b_step) {
    Vec<A> right[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      right[v] = kPart ? load_part(b + v * lanes, columns - v * lanes) : load(b + v * lanes);
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      const Vec<A> left = broadcast<Vec<A>>(kTransposed ? from[k * step + r] : from[r * step + k]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] += left * right[v];
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      A* const to = c + r * c_step + v * lanes;
      const int64_t count = kPart ? columns - v * lanes : lanes;
      if (add) sum[r][v] += load_part(to, count);
      store_part(to, sum[r][v], count);
    }
  }
}

template <int kVectors, bool kPart, bool kTransposed, class A>
void multiply_rows(Block<A, kTransposed> a, const A* b, int64_t b_step, A* c, int64_t c_step, int64_t rows,
                   int64_t inner, int64_t columns, bool add) {
  const auto tile = [&]<int kRows>(std::integral_constant<int, kRows>, int64_t r) {
    multiply_tile<kRows, kVectors, kPart>(Block<A, kTransposed>{a.at(r, 0), a.step}, b, b_step, c + r * c_step, c_step,
                                          inner, columns, add);
  };
  int64_t r = 0;
  for (; r + kTileRows <= rows; r += kTileRows) tile(std::integral_constant<int, kTileRows>{}, r);
  for (; r + 2 <= rows; r += 2) tile(std::integral_constant<int, 2>{}, r);
  if (r < rows) tile(std::integral_constant<int, 1>{}, r);
}

// c[rows][columns] = a[rows][inner] b[inner][columns]; added to c if `add`.
template <bool kTransposed, class A>
void multiply(const Block<A, kTransposed>& a, Block<A> b, A* c, int64_t c_step, int64_t rows, int64_t inner,
              int64_t columns, bool add) {
  constexpr int64_t lanes = kLanes<A>, wide = kTileVectors * lanes;
  for (int64_t k = 0; k < inner; k += kInner, add = true) {
    const int64_t some = std::min(kInner, inner - k);
    const Block<A, kTransposed> left{a.at(0, k), a.step};
    int64_t j = 0;
    for (; j + wide <= columns; j += wide) {
      multiply_rows<kTileVectors, false>(left, b.at(k, j), b.step, c + j, c_step, rows, some, wide, add);
    }
    for (; j + lanes <= columns; j += lanes) {
      multiply_rows<1, false>(left, b.at(k, j), b.step, c + j, c_step, rows, some, lanes, add);
    }
    if (j < columns) multiply_rows<1, true>(left, b.at(k, j), b.step, c + j, c_step, rows, some, columns - j, add);
  }
}

}  // namespace vidops
