// What the kernels of temporal_projection share: who owns which pixels, the basis at a pixel, and the D x D system.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/columns.h"
#include "common/pack.h"
#include "cuda/bilinear.cuh"
#include "cuda/steps.cuh"

namespace vidops {
namespace {

constexpr int kProjectionThreads = 128;  // of a block, at most

// Sizes of a call, and who takes what: a block has `down` rows of `across` threads, each of some neighbouring pixels,
// and one part of the channels. Blocks count segments of a row first, then bands of rows, parts and clips.
struct ProjectionArgs {
  Axis rows, columns;  // from the basis' grid to frames
  int32_t C, T, D;
  int32_t across, down, segments, bands;
  int32_t parts, part;  // how many, and channels of one
  int32_t chunk;        // channels of dx that a block stores together; 0: each by itself
  Divisor by_across, by_segments, by_bands, by_parts, by_chunk;
  double ridge;

  __device__ __forceinline__ int64_t pixels() const { return static_cast<int64_t>(rows.out) * columns.out; }
};

struct Spot {
  int64_t n, position;       // position: of the thread's first pixel
  int32_t row, column;       // the same
  int32_t down;              // the thread's row in the block
  int32_t band, segment;     // of the block
  int32_t part, first, end;  // channels
  int32_t share;             // the block's number among those of its clip
  int32_t low, touched;      // columns of the grid that its pixels read: the first, and how many
  bool active;
};

__device__ __forceinline__ Spot spot_of(const ProjectionArgs& a, uint32_t block, int32_t pixels) {
  Spot s;
  const uint32_t bands = a.by_segments.divide(block), parts = a.by_bands.divide(bands), n = a.by_parts.divide(parts);
  s.n = n;
  s.part = static_cast<int32_t>(parts - n * a.parts);
  s.band = static_cast<int32_t>(bands - parts * a.bands);
  s.segment = static_cast<int32_t>(block - bands * a.segments);
  s.share = (s.part * a.bands + s.band) * a.segments + s.segment;
  s.first = s.part * a.part, s.end = min(s.first + a.part, a.C);
  const int32_t thread = static_cast<int32_t>(threadIdx.x), begin = s.segment * a.across * pixels;
  const int32_t down = static_cast<int32_t>(a.by_across.divide(threadIdx.x));
  s.row = s.band * a.down + down;
  s.column = begin + (thread - down * a.across) * pixels;
  s.active = down < a.down && s.row < a.rows.out && s.column < a.columns.out;
  s.down = min(down, a.down - 1);
  s.position = static_cast<int64_t>(s.row) * a.columns.out + s.column;
  s.low = 0, s.touched = a.columns.in;
  if (a.segments > 1) {
    s.low = Two<float>(a.columns, begin).low;
    s.touched = Two<float>(a.columns, min(begin + a.across * pixels, a.columns.out) - 1).high - s.low + 1;
  }
  return s;
}

// A number that compilers know.
template <int kNumber>
struct Fixed {
  __device__ constexpr operator int32_t() const { return kNumber; }
};

// A thread's numbers in shared memory.
template <class A>
struct Slots {
  A* first;
  int32_t step;
  __device__ __forceinline__ A& operator[](int32_t i) const { return first[i * step]; }
  __device__ __forceinline__ Slots after(int32_t count) const { return {first + count * step, step}; }
};
template <class A, int kCount>
struct Registers {
  A at[kCount];
  __device__ __forceinline__ A& operator[](int32_t i) { return at[i]; }
};

// Where the entry (i, j), j <= i, of a symmetric matrix is.
__host__ __device__ constexpr int32_t packed(int32_t i, int32_t j) { return i * (i + 1) / 2 + j; }

// G = L diag(pivots) Lt by Cholesky's method without square roots, in place: L below the diagonal, on it the pivots'
// inverses. No pivot is truly less than the ridge; one that is, by rounding, is set to it. The order of operations is
// that of the reference, so that overflow ends in the same NaN.
template <class G, class N, class A>
__device__ __forceinline__ void factor(G&& g, N n, A ridge) {
#pragma unroll
  for (int32_t j = 0; j < n; ++j) {
    const A sum = g[packed(j, j)] + ridge, pivot = sum < ridge ? ridge : sum, inverse = A(1) / pivot;
#pragma unroll
    for (int32_t i = j + 1; i < n; ++i) {
      g[packed(i, j)] *= inverse;
#pragma unroll
      for (int32_t k = j + 1; k <= i; ++k) g[packed(i, k)] -= g[packed(i, j)] * (g[packed(k, j)] * pivot);
    }
    g[packed(j, j)] = inverse;
  }
}

// y = G^-1 y, from the factors.
template <class G, class Y, class N>
__device__ __forceinline__ void solve(G&& g, Y&& y, N n) {
#pragma unroll
  for (int32_t i = 1; i < n; ++i) {
#pragma unroll
    for (int32_t j = 0; j < i; ++j) y[i] -= g[packed(i, j)] * y[j];
  }
#pragma unroll
  for (int32_t i = n - 1; i >= 0; --i) {
    y[i] *= g[packed(i, i)];
#pragma unroll
    for (int32_t j = i + 1; j < n; ++j) y[i] -= g[packed(j, i)] * y[j];
  }
}

// The sum over a block's threads, in a fixed order; thread 0 gets it. Every thread must call it.
template <class A>
__device__ __forceinline__ A block_sum(A value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  A* sums = dynamic_shared<A>();
  __syncthreads();
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  A total = 0;
  if (threadIdx.x == 0) {
    for (uint32_t i = 0; i < blockDim.x / 32; ++i) total += sums[i];
  }
  return total;
}

// Results; null where not wanted. `energy` and `error` have a row of blocks' sums a clip.
template <class T>
struct ProjectionResults {
  Steps<T> coefficients, projection, residual, mean;  // coefficients: column for frame
  device_acc_t<T>*energy, *error;
};

// A block's part of energy and error, from those of its threads. Every thread must call it.
template <class T>
__device__ __forceinline__ void add_lengths(const ProjectionArgs& a, const Spot& s, const ProjectionResults<T>& to,
                                            device_acc_t<T> energy, device_acc_t<T> error) {
  using A = device_acc_t<T>;
  const int64_t shares = static_cast<int64_t>(a.segments) * a.bands * a.parts;
  const A whole = static_cast<A>(a.pixels()) * static_cast<A>(a.C);
  if (to.energy) {
    const A sum = block_sum(energy);
    if (threadIdx.x == 0) to.energy[s.n * shares + s.share] = sum / whole;
  }
  if (to.error) {
    const A sum = block_sum(error);
    if (threadIdx.x == 0) to.error[s.n * shares + s.share] = sum / whole;
  }
}

// Gradients of the results; null where there is none.
template <class T>
struct ProjectionGrads {
  Steps<const T> coefficients, projection, residual, mean;
  const device_acc_t<T>*energy, *error;

  __device__ __forceinline__ bool lengths() const { return energy || error; }
  // What |p|^2 and |p| bring to a pixel's p: this times p.
  __device__ __forceinline__ device_acc_t<T> pull(const ProjectionArgs& a, int64_t n, device_acc_t<T> square) const {
    using A = device_acc_t<T>;
    const A whole = static_cast<A>(a.pixels()) * static_cast<A>(a.C);
    A sum = energy ? 2 * energy[n] / whole : A(0);
    if (error && square != 0) sum += error[n] / (whole * sqrt(square));
    return sum;
  }
};

template <int P, class T>
__device__ __forceinline__ void load_values(const T* from, device_acc_t<T> (&to)[P]) {
  const Pack<T, P> pack = load_pack<P>(from);
#pragma unroll
  for (int p = 0; p < P; ++p) to[p] = value(pack, p);
}

}  // namespace
}  // namespace vidops
