// Kernels of motion_band_pass; the idea is told in motion_band_pass.cu.
#pragma once

#include "common/band_pass.h"
#include "common/cuda.h"
#include "common/pack.h"
#include "cuda/steps.cuh"

namespace vidops {
namespace {

constexpr int kRows = 8;           // results of a thread: neighbouring rows of one column
constexpr int kBandThreads = 128;  // of the kernels that filter, fold and gather

// Sizes of a call, and who takes what: a block has `lanes` channels of a tile of `rows` x `columns` pixels of one
// frame. Threads and shared memory count columns first in planar layouts, channels first in channels last.
struct BandArgs {
  int32_t C, T, H, W, frames, stride, first, k, reach;
  int32_t lanes, columns, rows, tiles_x, tiles_y, places;
  int32_t last;

  __device__ __forceinline__ int32_t frame(int32_t t, int32_t j) const {
    return min(max(t * stride + first + j, 0), T - 1);
  }
};

struct BandPlace {
  int64_t n;
  int32_t t, channel, y, x;
};

__device__ __forceinline__ BandPlace place_of(const BandArgs& a, uint32_t block, int32_t frames) {
  BandPlace p;
  const uint32_t tiles = a.tiles_x * a.tiles_y, tile = block % tiles;
  p.y = static_cast<int32_t>(tile / a.tiles_x) * a.rows, p.x = static_cast<int32_t>(tile % a.tiles_x) * a.columns;
  block /= tiles;
  p.t = static_cast<int32_t>(block % frames), block /= frames;
  p.channel = static_cast<int32_t>(block % a.places) * a.lanes;
  p.n = block / a.places;
  return p;
}

// Shared memory of a tile with a border: the element (lane, row, column).
struct TileShape {
  int32_t rows, columns, lane, row, column;  // sizes, then steps
  __device__ __forceinline__ TileShape(const BandArgs& a, int32_t border)
      : rows(a.rows + border),
        columns(a.columns + border),
        lane(a.last ? 1 : rows * columns),
        row(a.last ? columns * a.lanes : columns),
        column(a.last ? a.lanes : 1) {}
};

// to[lane, row, column] = f(lane, row, column) by all threads of the block.
template <class A, class F>
__device__ __forceinline__ void fill_tile(const BandArgs& a, const TileShape& s, A* to, F&& f) {
  for (int32_t i = threadIdx.x; i < a.lanes * s.rows * s.columns; i += blockDim.x) {
    const int32_t lane = a.last ? i % a.lanes : i / (s.rows * s.columns);
    const int32_t pixel = a.last ? i / a.lanes : i % (s.rows * s.columns);
    to[i] = f(lane, pixel / s.columns, pixel % s.columns);
  }
}

__device__ __forceinline__ int32_t mirror(int32_t i, int32_t size) {
  return i < 0 ? -i : i >= size ? 2 * (size - 1) - i : i;
}

// The three frames of a result, combined: pixel (row, column) of the padded frame, zero beyond it.
template <class T>
__device__ __forceinline__ device_acc_t<T> combined(const BandArgs& a, const BandPlace& p, const Steps<const T>& x,
                                                    const T* temporal, int32_t lane, int32_t row, int32_t column) {
  using A = device_acc_t<T>;
  const int32_t c = p.channel + lane, i = p.y + row - a.reach, j = p.x + column - a.reach;
  if (c >= a.C || i >= a.H + a.reach || j >= a.W + a.reach) return A(0);
  const int64_t at = (static_cast<int64_t>(mirror(i, a.H)) * a.W + mirror(j, a.W)) * x.p;
  A sum = 0;
#pragma unroll
  for (int f = 0; f < 3; ++f) {
    sum += static_cast<A>(temporal[c * int64_t{3} + f]) * static_cast<A>(x.at(p.n, c, a.frame(p.t, f))[at]);
  }
  return sum;
}

// The gradient of busy less that of the quiet result, which may be the only one.
template <class T>
struct BandSlope {
  Steps<const T> busy, quiet;
  __device__ __forceinline__ device_acc_t<T> at(int64_t n, int32_t c, int32_t t, int64_t pixel) const {
    using A = device_acc_t<T>;
    A g = busy.data ? static_cast<A>(busy.at(n, c, t)[pixel * busy.p]) : A(0);
    if (quiet.data) g -= static_cast<A>(quiet.at(n, c, t)[pixel * quiet.p]);
    return g;
  }
};

// Which lane, column and first row of the tile a thread has.
struct BandThread {
  int32_t lane, column, row;
  __device__ __forceinline__ explicit BandThread(const BandArgs& a) {
    int32_t i = threadIdx.x;
    if (a.last) lane = i % a.lanes, i /= a.lanes;
    column = i % a.columns, i /= a.columns;
    if (!a.last) lane = i % a.lanes, i /= a.lanes;
    row = i * kRows;
  }
};

// sum[i] = over u, v of taps[u, v] * tile[row + i + u, column + v].
template <int K, class A>
__device__ __forceinline__ void filter(const BandArgs& a, const TileShape& s, const A* tile, const A* taps,
                                       const BandThread& me, A (&sum)[kRows]) {
  const int32_t k = K > 0 ? K : a.k;
  const A* from = tile + me.lane * s.lane + me.row * s.row + me.column * s.column;
  for (int32_t v = 0; v < k; ++v, from += s.column) {
    if constexpr (K > 0) {
      A tap[K];
#pragma unroll
      for (int u = 0; u < K; ++u) tap[u] = taps[(u * K + v) * a.lanes + me.lane];
#pragma unroll
      for (int r = 0; r < kRows + K - 1; ++r) {
        const A in = from[r * s.row];
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          if (r >= i && r - i < K) sum[i] += tap[r - i] * in;
        }
      }
    } else {
      for (int32_t u = 0; u < k; ++u) {
        const A tap = taps[(u * k + v) * a.lanes + me.lane];
#pragma unroll
        for (int i = 0; i < kRows; ++i) sum[i] += tap * from[(i + u) * s.row];
      }
    }
  }
}

template <int K, class T>
__global__ void __launch_bounds__(kBandThreads)
    band_pass_kernel(const BandArgs a, const Steps<const T> x, const T* __restrict__ spatial,
                     const T* __restrict__ temporal, const Steps<T> y, const Steps<T> quiet) {
  using A = device_acc_t<T>;
  const BandPlace p = place_of(a, blockIdx.x, a.frames);
  const TileShape s(a, a.k - 1);
  A* tile = dynamic_shared<A>();
  A* taps = tile + a.lanes * s.rows * s.columns;
  const int32_t kk = a.k * a.k;
  for (int32_t i = threadIdx.x; i < kk * a.lanes; i += blockDim.x) {
    const int32_t c = p.channel + i % a.lanes;
    taps[i] = c < a.C ? static_cast<A>(spatial[static_cast<int64_t>(c) * kk + i / a.lanes]) : A(0);
  }
  fill_tile(a, s, tile,
            [&](int32_t lane, int32_t row, int32_t column) { return combined(a, p, x, temporal, lane, row, column); });
  __syncthreads();
  const BandThread me(a);
  A sum[kRows] = {};
  filter<K>(a, s, tile, taps, me, sum);
  const int32_t c = p.channel + me.lane, j = p.x + me.column;
  if (c >= a.C || j >= a.W) return;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int32_t i = p.y + me.row + r;
    if (i >= a.H) break;
    const int64_t pixel = static_cast<int64_t>(i) * a.W + j;
    y.at(p.n, c, p.t)[pixel * y.p] = static_cast<T>(sum[r]);
    if (!quiet.data) continue;
    A mean = 0;
#pragma unroll
    for (int f = 0; f < 3; ++f) mean += static_cast<A>(x.at(p.n, c, a.frame(p.t, f))[pixel * x.p]);
    quiet.at(p.n, c, p.t)[pixel * quiet.p] = static_cast<T>(mean / 3 - sum[r]);
  }
}

// D over the padded frame, which is what `a` has as H and W; h and w are the frame's own.
template <int K, class T>
__global__ void __launch_bounds__(kBandThreads)
    band_pass_adjoint_kernel(const BandArgs a, const int32_t h, const int32_t w, const BandSlope<T> slope,
                             const T* __restrict__ spatial, const Steps<device_acc_t<T>> d) {
  using A = device_acc_t<T>;
  const BandPlace p = place_of(a, blockIdx.x, a.frames);
  const int32_t border = a.k - 1, kk = a.k * a.k;
  const TileShape s(a, border);
  A* tile = dynamic_shared<A>();
  A* taps = tile + a.lanes * s.rows * s.columns;
  int32_t* odd = reinterpret_cast<int32_t*>(taps + kk * a.lanes);
  if (threadIdx.x == 0) *odd = 0;
  __syncthreads();
  for (int32_t i = threadIdx.x; i < kk * a.lanes; i += blockDim.x) {
    const int32_t c = p.channel + i % a.lanes;
    taps[i] = c < a.C ? static_cast<A>(spatial[static_cast<int64_t>(c) * kk + kk - 1 - i / a.lanes]) : A(0);
    if (taps[i] - taps[i] != A(0)) *odd = 1;
  }
  const auto inside = [&](int32_t i, int32_t j) { return i >= 0 && i < h && j >= 0 && j < w; };
  fill_tile(a, s, tile, [&](int32_t lane, int32_t row, int32_t column) {
    const int32_t i = p.y + row - border, j = p.x + column - border, c = p.channel + lane;
    return c < a.C && inside(i, j) ? slope.at(p.n, c, p.t, static_cast<int64_t>(i) * w + j) : A(0);
  });
  __syncthreads();
  const BandThread me(a);
  A sum[kRows] = {};
  if (*odd == 0) {
    filter<K>(a, s, tile, taps, me, sum);
  } else {  // a tap is not finite: its products with the zeros around the gradient are no part of the sum
    for (int32_t u = 0; u < a.k; ++u) {
      for (int32_t v = 0; v < a.k; ++v) {
        const int32_t j = me.column + v;
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const int32_t i = me.row + r + u;
          if (!inside(p.y + i - border, p.x + j - border)) continue;
          sum[r] += taps[(u * a.k + v) * a.lanes + me.lane] * tile[me.lane * s.lane + i * s.row + j * s.column];
        }
      }
    }
  }
  const int32_t c = p.channel + me.lane, j = p.x + me.column;
  if (c >= a.C || j >= a.W) return;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int32_t i = p.y + me.row + r;
    if (i < a.H) d.at(p.n, c, p.t)[(static_cast<int64_t>(i) * a.W + j) * d.p] = sum[r];
  }
}

// Where pixel i of a padded axis comes from: itself, or what the border before or behind mirrors; -1 for nothing.
__device__ __forceinline__ int32_t folded_from(int which, int32_t i, int32_t size, int32_t reach) {
  if (which == 0) return i + reach;
  if (which == 1) return i >= 1 && i <= reach ? reach - i : -1;
  return i >= size - 1 - reach && i <= size - 2 ? 2 * (size - 1) - i + reach : -1;
}

// D folded onto the pixels that its border mirrors, and its products with the three frames: row c * 3 + j of `partial`.
// Blocks have one row of tiles' pixels here: a.columns positions at a time, a.rows times, a.tiles_x such runs.
template <class T>
__global__ void __launch_bounds__(kBandThreads)
    band_pass_fold_kernel(const BandArgs a, const Steps<const T> x, const Steps<const device_acc_t<T>> d,
                          const Steps<device_acc_t<T>> folded, device_acc_t<T>* __restrict__ partial,
                          const int64_t shares) {
  using A = device_acc_t<T>;
  const BandPlace p = place_of(a, blockIdx.x, a.frames);
  const int32_t lane = threadIdx.x % a.lanes, c = p.channel + lane, positions = a.H * a.W, r = a.reach;
  const int32_t padded = a.W + 2 * r, run = static_cast<int32_t>(blockIdx.x % a.tiles_x);
  A first = 0, second = 0, third = 0;  // products with the three frames
  for (int32_t step = 0; step < a.rows; ++step) {
    const int32_t q = (run * a.rows + step) * a.columns + static_cast<int32_t>(threadIdx.x) / a.lanes;
    if (c >= a.C || q >= positions) break;
    const int32_t y = q / a.W, z = q % a.W;
    const A* from = d.at(p.n, c, p.t);
    A sum = 0;
#pragma unroll
    for (int u = 0; u < 3; ++u) {
#pragma unroll
      for (int v = 0; v < 3; ++v) {
        const int32_t i = folded_from(u, y, a.H, r), j = folded_from(v, z, a.W, r);
        if (i >= 0 && j >= 0) sum += from[(static_cast<int64_t>(i) * padded + j) * d.p];
      }
    }
    folded.at(p.n, c, p.t)[q * folded.p] = sum;
    if (partial) {
      const auto product = [&](int32_t j) { return sum * static_cast<A>(x.at(p.n, c, a.frame(p.t, j))[q * x.p]); };
      first += product(0), second += product(1), third += product(2);
    }
  }
  if (!partial) return;
  A* sums = dynamic_shared<A>();
  const auto add_up = [&](int32_t j, A dot) {
    sums[threadIdx.x] = dot;
    __syncthreads();
    for (int32_t half = kBandThreads / 2; half >= a.lanes; half /= 2) {
      if (static_cast<int32_t>(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
      __syncthreads();
    }
    if (static_cast<int32_t>(threadIdx.x) < a.lanes && c < a.C) {
      partial[(c * int64_t{3} + j) * shares + (p.n * a.frames + p.t) * a.tiles_x + run] = sums[threadIdx.x];
    }
    __syncthreads();
  };
  add_up(0, first), add_up(1, second), add_up(2, third);
}

// dx of a frame: what the results that read it send, three at most.
template <class T>
__global__ void __launch_bounds__(kBandThreads)
    band_pass_frames_kernel(const BandArgs a, const Steps<const device_acc_t<T>> folded, const Steps<const T> quiet,
                            const T* __restrict__ temporal, const Steps<T> dx) {
  using A = device_acc_t<T>;
  const BandPlace p = place_of(a, blockIdx.x, a.T);
  const int32_t c = p.channel + static_cast<int32_t>(threadIdx.x) % a.lanes;
  if (c >= a.C) return;
  const int32_t first = max(p.t - a.first - 2, 0) / a.stride, run = static_cast<int32_t>(blockIdx.x % a.tiles_x);
  A taps[3] = {};
  int32_t times[3] = {};
#pragma unroll
  for (int i = 0; i < 3; ++i) {
#pragma unroll
    for (int j = 0; j < 3; ++j) {
      if (first + i >= a.frames || a.frame(first + i, j) != p.t) continue;
      taps[i] += static_cast<A>(temporal[c * int64_t{3} + j]), ++times[i];
    }
  }
  for (int32_t i = 0; i < a.rows; ++i) {
    const int32_t q = (run * a.rows + i) * a.columns + static_cast<int32_t>(threadIdx.x) / a.lanes;
    if (q >= a.H * a.W) break;
    A sum = 0;
#pragma unroll
    for (int f = 0; f < 3; ++f) {
      if (times[f] == 0) continue;
      sum += taps[f] * folded.at(p.n, c, first + f)[q * folded.p];
      if (quiet.data) sum += static_cast<A>(quiet.at(p.n, c, first + f)[q * quiet.p]) * A(times[f]) / A(3);
    }
    dx.at(p.n, c, p.t)[q * dx.p] = static_cast<T>(sum);
  }
}

// Products of the gradient and the combined frames: row (c * k + u) * k + v of `partial`. A thread has one lane, row of
// taps and row of the tile, and the sums of kSome columns of taps over a run of tiles.
template <int K, class T>
__global__ void __launch_bounds__(512, 2)
    band_pass_taps_kernel(const BandArgs a, const Steps<const T> x, const T* __restrict__ temporal,
                          const BandSlope<T> slope, const uint32_t items, const uint32_t run,
                          device_acc_t<T>* __restrict__ partial) {
  using A = device_acc_t<T>;
  constexpr int kSome = K > 0 ? K : 1, kChunk = 8;
  const int32_t k = K > 0 ? K : a.k;
  const TileShape s(a, k - 1), flat(a, 0);
  A* tile = dynamic_shared<A>();
  A* slopes = tile + a.lanes * s.rows * s.columns;
  A* sums = slopes + a.lanes * flat.rows * flat.columns;
  const int32_t row = static_cast<int32_t>(threadIdx.x) % a.rows, rest = static_cast<int32_t>(threadIdx.x) / a.rows;
  const int32_t lane = rest % a.lanes, u = rest / a.lanes, place = static_cast<int32_t>(blockIdx.x) % a.places;
  const uint32_t share = blockIdx.x / a.places, shares = gridDim.x / a.places, tiles = a.tiles_x * a.tiles_y;
  const uint32_t begin = share * run, end = min(begin + run, items);
  for (int32_t v0 = 0; v0 < k; v0 += kSome) {
    A sum[kSome] = {};
    for (uint32_t item = begin; item < end; ++item) {
      const uint32_t frame = item / tiles;
      BandPlace p = place_of(a, item - frame * tiles, 1);
      p.n = frame / a.frames, p.t = static_cast<int32_t>(frame % a.frames);
      p.channel = place * a.lanes;
      __syncthreads();
      fill_tile(a, s, tile, [&](int32_t l, int32_t i, int32_t j) { return combined(a, p, x, temporal, l, i, j); });
      fill_tile(a, flat, slopes, [&](int32_t l, int32_t i, int32_t j) {
        const int32_t c = p.channel + l, y = p.y + i, z = p.x + j;
        return c < a.C && y < a.H && z < a.W ? slope.at(p.n, c, p.t, static_cast<int64_t>(y) * a.W + z) : A(0);
      });
      __syncthreads();
      if (p.y + row >= a.H) continue;
      const A* from = tile + lane * s.lane + (row + u) * s.row + v0 * s.column;
      const A* grad = slopes + lane * flat.lane + row * flat.row;
      for (int32_t j0 = 0; j0 < a.columns && p.x + j0 < a.W; j0 += kChunk) {
        A in[kChunk + kSome - 1];
#pragma unroll
        for (int j = 0; j < kChunk + kSome - 1; ++j) in[j] = from[(j0 + j) * s.column];
#pragma unroll
        for (int j = 0; j < kChunk; ++j) {
          const A g = grad[(j0 + j) * flat.column];
          // Beyond the frame g is zero, and its product with what is not finite would not be.
          const bool inside = p.x + j0 + j < a.W;
#pragma unroll
          for (int v = 0; v < kSome; ++v) sum[v] += inside ? g * in[j + v] : A(0);
        }
      }
    }
#pragma unroll
    for (int v = 0; v < kSome; ++v) {
      __syncthreads();
      sums[threadIdx.x] = sum[v];
      __syncthreads();
      const int32_t c = place * a.lanes + lane;
      if (row != 0 || c >= a.C) continue;
      A total = 0;
      for (int32_t i = 0; i < a.rows; ++i) total += sums[threadIdx.x + i];
      partial[((static_cast<int64_t>(c) * k + u) * k + v0 + v) * int64_t{shares} + share] = total;
    }
  }
}

}  // namespace
}  // namespace vidops
