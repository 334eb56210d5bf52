// What the forward and the backward kernels of nonlocal_attention share: both weight rows of values by products,
//     out = w(rows[0] columns[0]', rows[1] columns[1]') values
// where a block owns rows of `out` and some of its columns and everything that belongs to columns streams past it.
//
// A warp owns tiles of 32 (fp64 16) rows by 32 columns of the products, and as many rows by 128 (fp64 64) columns of
// `out`: a fragment of B that was loaded from shared memory serves two products. A block's warps lie `down` below each
// other by `across`; which numbers is chosen by the sizes at run time, and the code knows neither.
//
// Everything streams through a ring of stages in shared memory: first slices of 128 bytes of the columns' rows, product
// by product, then chunks of the rows of `values`. One barrier a stage, behind it the copy for a later stage starts,
// then the tensor cores work. Rows stay in shared memory where they fit, else their slices stream by every time.
#pragma once

#include <cmath>

#include "cuda/copy_async.cuh"
#include "cuda/mma.cuh"

namespace vidops {
namespace {

constexpr int kAttentionThreads = 256, kAttentionWarps = kAttentionThreads / 32;
constexpr int kStatistics = 3;

// M: the product (mma.cuh). Tiles of C in a warp's share: 16 rows times kDown, 8 columns times kScores and kWide.
template <class M>
struct Shape {
  using T = typename M::Element;
  using A = typename M::Sum;
  static constexpr int kDown = sizeof(T) == 8 ? 1 : 2, kScores = 4, kWide = sizeof(T) == 8 ? 8 : 16;
  static constexpr int kRows = 16 * kDown, kColumns = 8 * kScores, kWidth = 8 * kWide;
  static constexpr int kPad = 16 / sizeof(T);  // at the end of rows in shared memory, against bank conflicts
  static constexpr int kSlice = 128 / sizeof(T), kPitch = kSlice + kPad;
  static constexpr int kPadValues = std::is_same_v<M, Mma<Tf32>> ? 2 * kPad : kPad;  // for load_rows
  // fp16 holds three digits from 6e-5 to 65504 only. What goes through it is brought there by powers of two.
  static constexpr bool kShort = std::is_same_v<T, c10::Half>;
  static constexpr A kLift = kShort ? A(1 << 14) : A(1);
};

// Rows of clips' tokens in memory. `one`: a column that is all ones and not in memory, or -1. `wide`: whole 16 bytes
// can be copied.
template <class T>
struct Operand {
  const T* data;
  int64_t rows;
  int32_t width, pitch, one;
  bool wide;
};

template <class T>
struct AttentionArgs {
  using A = device_acc_t<T>;
  Operand<T> rows[2], columns[2], values;
  T* out;
  A *lse, *delta, *rest;  // of rows; backward of columns if by_column. rest: what rounding took from lse
  A scale, scale2, post;  // of the products; times log2(e), not negative; of the result
  int32_t parts[2], row_tiles, tiles, down, across, stages, chunk, stage;  // stage in elements
  bool gaussian, resident, by_column, flip;
};

__device__ __forceinline__ float exp2_of(float x) {
#ifdef __CUDACC__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return std::exp2(x);
#endif
}
__device__ __forceinline__ double exp2_of(double x) { return exp2(x); }
__device__ __forceinline__ float log_of(float x) { return logf(x); }
__device__ __forceinline__ double log_of(double x) { return log(x); }

template <class T>
__device__ __forceinline__ void put_pair(T* p, device_acc_t<T> first, device_acc_t<T> second) {
  Pack<T, 2> pack;
  if constexpr (kTogether<T, 2> == 2) {
    const device_acc_t<T> both[2] = {first, second};
    set_values(pack, 0, both);
  } else {
    pack.at[0] = first, pack.at[1] = second;
  }
  *reinterpret_cast<Pack<T, 2>*>(p) = pack;
}

// Where a thread is: its block's tile, its warp's share of that, its lane's share of C.
template <class M>
struct Place {
  using S = Shape<M>;
  int64_t batch;
  int32_t row0;                    // of the block
  int32_t rows, columns, width;    // of a block's tile
  int32_t warp_down, warp_across;  // warps
  int32_t g, t;

  template <class Args>
  __device__ __forceinline__ explicit Place(const Args& a) {
    batch = blockIdx.x / static_cast<uint32_t>(a.row_tiles);
    rows = a.down * S::kRows, columns = a.across * S::kColumns, width = a.across * S::kWidth;
    row0 = static_cast<int32_t>(blockIdx.x - batch * a.row_tiles) * rows;
    const int32_t warp = static_cast<int32_t>(threadIdx.x / 32);
    warp_down = warp / a.across, warp_across = warp - warp_down * a.across;
    g = lane_of_warp() / 4, t = lane_of_warp() % 4;
  }
  // In the block's tile: a row of this lane's C[m], of half h; a column of this lane's C[.][n], its first.
  __device__ __forceinline__ int32_t row(int m, int h) const { return warp_down * S::kRows + 16 * m + 8 * h + g; }
  __device__ __forceinline__ int32_t column(int n) const { return warp_across * S::kColumns + 8 * n + 2 * t; }
  __device__ __forceinline__ int32_t weights_pitch() const { return columns + S::kPad; }
  __device__ __forceinline__ int32_t values_pitch() const { return width + S::kPadValues; }
};

// Copies rows x 2^log_pieces pieces of 16 bytes into shared memory, zeros where there is nothing to copy.
template <class T>
__device__ __forceinline__ void copy_tile(T* to, int32_t to_pitch, const Operand<T>& from, int64_t batch, int64_t row0,
                                          int32_t rows, int32_t column0, int32_t log_pieces) {
  constexpr int kPiece = 16 / sizeof(T);
  const T* base = from.data + batch * from.rows * from.pitch;
  const int32_t mask = (1 << log_pieces) - 1;
#pragma unroll 1
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < rows << log_pieces; i += static_cast<int32_t>(blockDim.x)) {
    const int32_t column = column0 + (i & mask) * kPiece;
    const int64_t row = row0 + (i >> log_pieces);
    T* place = to + (i >> log_pieces) * to_pitch + (i & mask) * kPiece;
    const bool inside = row < from.rows && column < from.width;
    if (from.wide) {
      copy_async<16>(place, base + (inside ? row * from.pitch + column : 0), inside);
      continue;
    }
#pragma unroll 1
    for (int32_t c = column; c < column + kPiece; ++c) {
      T value = static_cast<T>(0.0f);
      if (inside && c < from.width) {
        value = c == from.one ? static_cast<T>(1.0f) : base[row * from.pitch + c - (from.one == 0 ? 1 : 0)];
      }
      place[c - column] = value;
    }
  }
}

// The ring. Where its stages begin in shared memory, what is copied next, and where the next stage to work on lies.
template <class M>
struct Stream {
  using S = Shape<M>;
  using T = typename S::T;
  using A = typename S::A;
  static constexpr int kLogSlice = 3;
  const AttentionArgs<T>& a;
  const Place<M>& at;
  T *resident, *ring, *weights;
  A *reduced, *statistics;
  int32_t next_tile = 0, next_part = 0, next_slot = 0, slot = 0, log_width;

  __device__ __forceinline__ Stream(const AttentionArgs<T>& a, const Place<M>& at) : a(a), at(at) {
    resident = dynamic_shared<T>();
    ring = resident + (a.resident ? (a.parts[0] + a.parts[1]) * at.rows * S::kPitch : 0);
    weights = ring + a.stages * a.stage;
    reduced = reinterpret_cast<A*>(weights + at.rows * at.weights_pitch());
    statistics = reduced + a.across * at.rows;
    log_width = 0;
    while ((16 / static_cast<int32_t>(sizeof(T))) << log_width < at.width) ++log_width;
    if (a.resident) {
      for (int32_t i = 0; i < a.parts[0] + a.parts[1]; ++i) copy_rows(resident + i * at.rows * S::kPitch, i);
    }
    for (int32_t i = 0; i < a.stages - 1; ++i) copy_next();
  }

  __device__ __forceinline__ void copy_rows(T* to, int32_t part) const {
    const int32_t second = part >= a.parts[0];
    copy_tile(to, S::kPitch, a.rows[second], at.batch, at.row0, at.rows, (part - second * a.parts[0]) * S::kSlice,
              kLogSlice);
  }

  // How many columns a tile has, and how many chunks of values; the last one may be short.
  __device__ __forceinline__ int32_t columns_of(int32_t tile) const {
    const int64_t left = a.values.rows - static_cast<int64_t>(tile) * at.columns;
    return left < at.columns ? static_cast<int32_t>(left) : at.columns;
  }
  __device__ __forceinline__ int32_t chunks(int32_t tile) const {
    return a.values.width == 0 ? 0 : (columns_of(tile) + a.chunk - 1) / a.chunk;
  }

  // The three kinds of numbers of a tile's columns: lse, delta and rest.
  __device__ __forceinline__ A* statistics_of(int32_t tile) const {
    return statistics + tile % 2 * kStatistics * at.columns;
  }

  __device__ __forceinline__ void copy_statistics() const {
    const int64_t first = static_cast<int64_t>(next_tile) * at.columns;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < at.columns; i += static_cast<int32_t>(blockDim.x)) {
      const bool inside = first + i < a.values.rows;
      const int64_t from = at.batch * a.values.rows + (inside ? first + i : 0);
      A* to = statistics_of(next_tile) + i;
      copy_async<sizeof(A)>(to, a.lse + from, inside);
      if (a.delta) copy_async<sizeof(A)>(to + at.columns, a.delta + from, inside);
      copy_async<sizeof(A)>(to + 2 * at.columns, a.rest + from, inside);
    }
  }

  __device__ __forceinline__ void copy_next() {
    if (next_tile < a.tiles) {
      T* to = ring + next_slot * a.stage;
      const int64_t first = static_cast<int64_t>(next_tile) * at.columns;
      const int32_t products = a.parts[0] + a.parts[1];
      if (next_part < products) {
        const int32_t second = next_part >= a.parts[0];
        copy_tile(to, S::kPitch, a.columns[second], at.batch, first, at.columns,
                  (next_part - second * a.parts[0]) * S::kSlice, kLogSlice);
        if (!a.resident) copy_rows(to + at.columns * S::kPitch, next_part);
        if (next_part == 0 && a.by_column && a.lse) copy_statistics();
      } else {
        copy_tile(to, at.values_pitch(), a.values, at.batch, first + (next_part - products) * a.chunk, a.chunk,
                  static_cast<int32_t>(blockIdx.y) * at.width, log_width);
      }
      next_slot = next_slot + 1 == a.stages ? 0 : next_slot + 1;
      if (++next_part == products + chunks(next_tile)) next_part = 0, ++next_tile;
    }
    copies_commit();
  }

  // The next stage, once it is there for all threads.
  __device__ __forceinline__ const T* next() {
    if (a.stages == 3) {
      copies_wait<1>();
    } else {
      copies_wait<0>();
    }
    __syncthreads();
    copy_next();
    const T* here = ring + slot * a.stage;
    slot = slot + 1 == a.stages ? 0 : slot + 1;
    return here;
  }

  // c += rows[which] columns[which]', of the warp's share.
  __device__ __forceinline__ void product(A (&c)[S::kDown][S::kScores][4], int32_t which) {
#pragma unroll 1
    for (int32_t part = 0; part < a.parts[which]; ++part) {
      const T* columns = next();
      const T* rows =
          a.resident ? resident + (which * a.parts[0] + part) * at.rows * S::kPitch : columns + at.columns * S::kPitch;
      rows += at.warp_down * S::kRows * S::kPitch;
      columns += at.warp_across * S::kColumns * S::kPitch;
#pragma unroll M::kUnroll
      for (int k = 0; k < S::kSlice; k += M::kK) {
        typename M::A x[S::kDown];
#pragma unroll
        for (int m = 0; m < S::kDown; ++m) M::load(x[m], rows + 16 * m * S::kPitch + k, S::kPitch);
#pragma unroll
        for (int n = 0; n < S::kScores; n += 2) {
          typename M::B y[2];
          M::load_columns(y, columns + 8 * n * S::kPitch + k, S::kPitch);
#pragma unroll
          for (int m = 0; m < S::kDown; ++m) {
            M::multiply(c[m][n], x[m], y[0]);
            M::multiply(c[m][n + 1], x[m], y[1]);
          }
        }
      }
    }
  }

  // c += weights values, of the warp's share of a tile of columns.
  __device__ __forceinline__ void weigh(A (&c)[S::kDown][S::kWide][4], int32_t tile) {
    const int32_t own = at.warp_across * S::kWidth;
    const int32_t wanted = a.values.width - static_cast<int32_t>(blockIdx.y) * at.width - own;
    const T* from = weights + at.warp_down * S::kRows * at.weights_pitch();
    const int32_t count = chunks(tile);
#pragma unroll 1
    for (int32_t chunk = 0; chunk < count; ++chunk) {
      const T* values = next() + own;
#pragma unroll 1
      for (int32_t k = 0; k < a.chunk; k += M::kK) {
        typename M::A x[S::kDown];
#pragma unroll
        for (int m = 0; m < S::kDown; ++m) {
          M::load(x[m], from + 16 * m * at.weights_pitch() + chunk * a.chunk + k, at.weights_pitch());
        }
        constexpr int kAtOnce = S::kWide / 2;  // narrow results skip half of the work
#pragma unroll
        for (int half = 0; half < S::kWide; half += kAtOnce) {
          if (8 * half >= wanted) break;
#pragma unroll
          for (int n = half; n < half + kAtOnce; n += 2) {
            typename M::B y[2];
            M::load_rows(y, values + k * at.values_pitch() + 8 * n, at.values_pitch());
#pragma unroll
            for (int m = 0; m < S::kDown; ++m) {
              M::multiply(c[m][n], x[m], y[0]);
              M::multiply(c[m][n + 1], x[m], y[1]);
            }
          }
        }
      }
    }
  }

  // Of each of a lane's rows the largest f(m, h, score index n, j) that the lanes and warps which share it have, not
  // less than `most`.
  template <class F>
  __device__ __forceinline__ void raise(A (&most)[S::kDown][2], F&& f) const {
#pragma unroll
    for (int i = 0; i < 2 * S::kDown; ++i) {
      A row = most[i / 2][i % 2];
#pragma unroll
      for (int n = 0; n < S::kScores; ++n) {
#pragma unroll
        for (int j = 0; j < 2; ++j) row = f(row, i / 2, n, i % 2 * 2 + j);
      }
      row = max(row, __shfl_xor_sync(0xffffffffu, row, 1));
      row = max(row, __shfl_xor_sync(0xffffffffu, row, 2));
      if (at.t == 0) reduced[at.warp_across * at.rows + at.row(i / 2, i % 2)] = row;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 2 * S::kDown; ++i) {
      A& row = most[i / 2][i % 2];
      for (int32_t w = 0; w < a.across; ++w) row = max(row, reduced[w * at.rows + at.row(i / 2, i % 2)]);
    }
  }

  // Adds up what the lanes and warps that share rows have of them; each gets all.
  __device__ __forceinline__ void add_columns(A (&of_rows)[S::kDown][2]) const {
#pragma unroll
    for (int i = 0; i < 2 * S::kDown; ++i) {
      A row = of_rows[i / 2][i % 2];
      row += __shfl_xor_sync(0xffffffffu, row, 1);
      row += __shfl_xor_sync(0xffffffffu, row, 2);
      if (at.t == 0) reduced[at.warp_across * at.rows + at.row(i / 2, i % 2)] = row;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 2 * S::kDown; ++i) {
      A row = 0;
      for (int32_t w = 0; w < a.across; ++w) row += reduced[w * at.rows + at.row(i / 2, i % 2)];
      of_rows[i / 2][i % 2] = row;
    }
  }

  // f(m, h, place) for rows of this lane, which one lane of the whole grid writes; `place` in an array of all rows.
  template <class F>
  __device__ __forceinline__ void each_row(F&& f) const {
    if (at.t != 0 || at.warp_across != 0 || blockIdx.y != 0) return;
#pragma unroll
    for (int i = 0; i < 2 * S::kDown; ++i) {
      const int64_t row = at.row0 + at.row(i / 2, i % 2);
      if (row < a.rows[0].rows) f(i / 2, i % 2, at.batch * a.rows[0].rows + row);
    }
  }

  // Writes the warp's share of the result, each row times its factor.
  __device__ __forceinline__ void store(const A (&c)[S::kDown][S::kWide][4], const A (&factor)[S::kDown][2]) const {
    const int32_t width = a.values.width;
    const int32_t first = static_cast<int32_t>(blockIdx.y) * at.width + at.warp_across * S::kWidth + 2 * at.t;
#pragma unroll
    for (int i = 0; i < 2 * S::kDown; ++i) {
      const int64_t row = at.row0 + at.row(i / 2, i % 2);
      if (row >= a.rows[0].rows) continue;
      T* to = a.out + (at.batch * a.rows[0].rows + row) * width;
#pragma unroll
      for (int n = 0; n < S::kWide; ++n) {
        const int32_t column = first + 8 * n;
        const A x = c[i / 2][n][i % 2 * 2] * factor[i / 2][i % 2],
                y = c[i / 2][n][i % 2 * 2 + 1] * factor[i / 2][i % 2];
        if (width % 2 == 0) {
          if (column < width) put_pair(to + column, x, y);
        } else {
          if (column < width) to[column] = static_cast<T>(x);
          if (column + 1 < width) to[column + 1] = static_cast<T>(y);
        }
      }
    }
  }
};

}  // namespace
}  // namespace vidops
