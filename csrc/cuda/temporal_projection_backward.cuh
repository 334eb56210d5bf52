// Backward kernel of temporal_projection for short clips, and how a basis' gradient is gathered onto its grid.
#pragma once

#include "cuda/temporal_projection_forward.cuh"

namespace vidops {
namespace {

// The gradient of a basis, gathered along rows: for every part of the channels, element k = t * D + d and row of a
// frame the sums over the pixels that read a column of the grid. A column that several segments of a row read has a
// place for each: 2 * segment places further on.
template <class A>
struct RowSums {
  A* data;
  int32_t length, shift;  // places of a row, and from one segment's to the next one's

  // Where those of element k and a row begin.
  __device__ __forceinline__ A* at(const ProjectionArgs& a, int64_t n, int32_t part, int32_t k, int32_t row) const {
    return data + (((n * a.parts + part) * a.T * a.D + k) * a.rows.out + row) * length;
  }
};

// Sums the values of elements k0 to k0 + K of the block's pixels over each column's readers, weighted. Columns go round
// the threads, several lanes each where they are few. Every thread must call it.
template <int K, int P, class A, class F>
__device__ __forceinline__ void gather_columns(const ProjectionArgs& a, const Spot& s, const RowSums<A>& to, int32_t k0,
                                               int32_t count, F&& of) {
  A* values = dynamic_shared<A>();
  const int32_t threads = static_cast<int32_t>(blockDim.x), me = static_cast<int32_t>(threadIdx.x);
  const int32_t step = threads + (P > 1 ? 32 / P : 0);  // so that neighbouring pixels lie in different banks
  __syncthreads();
#pragma unroll
  for (int k = 0; k < K; ++k) {
#pragma unroll
    for (int p = 0; p < P; ++p) {
      if (k < count) values[(k * P + p) * step + me] = s.active ? of(k, p) : A(0);
    }
  }
  __syncthreads();
  const int32_t begin = s.segment * a.across * P, end = min(begin + a.across * P, a.columns.out);
  const int32_t items = min(a.down, a.rows.out - s.band * a.down) * s.touched;
  int32_t log = 5;
  while (log > 0 && items << log > threads) --log;
  const int32_t lanes = 1 << log, lane = me & (lanes - 1);
  for (int32_t i = 0; i < items; i += threads >> log) {
    const int32_t item = i + (me >> log), down = item / s.touched, j = s.low + item - down * s.touched;
    A sum[K] = {};
    if (item < items) {
      const Readers<A> readers(a.columns, j);
      for (int32_t d = max(readers.begin, begin) + lane; d < min(readers.end, end); d += lanes) {
        const A weight = readers.weight(d);
        const A* from = values + (d - begin) % P * step + down * a.across + (d - begin) / P;
#pragma unroll
        for (int k = 0; k < K; ++k) {
          if (k < count) sum[k] += weight * from[k * P * step];
        }
      }
    }
    for (int32_t half = lanes / 2; half > 0; half /= 2) {
#pragma unroll
      for (int k = 0; k < K; ++k) sum[k] += __shfl_xor_sync(0xffffffffu, sum[k], half);
    }
    if (item >= items || lane != 0) continue;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      if (k < count) to.at(a, s.n, s.part, k0 + k, s.band * a.down + down)[j + to.shift * s.segment] = sum[k];
    }
  }
}

// How long a lane's sum is at most when rows are added up, where there are lanes for it.
constexpr int32_t kRowsOfLane = 8;

struct RowSumsArgs {
  ProjectionArgs of;
  int32_t length, shift, segment_pixels;
  uint32_t elements;  // of the basis
  int32_t lanes_log2;
};

// The gradient of the basis, from sums along rows: neighbouring threads have neighbouring elements, and lanes of a warp
// share an element's rows.
template <class T>
__global__ void __launch_bounds__(kProjectionThreads)
    add_rows_kernel(const __grid_constant__ RowSumsArgs a, const device_acc_t<T>* __restrict__ sums,
                    T* __restrict__ dbasis) {
  using A = device_acc_t<T>;
  const uint32_t at_once = 32u >> a.lanes_log2, in_warp = threadIdx.x % 32;
  const int32_t lane = static_cast<int32_t>(in_warp / at_once);
  const uint32_t o = (blockIdx.x * (kProjectionThreads / 32) + threadIdx.x / 32) * at_once + in_warp % at_once;
  double sum = 0;
  if (o < a.elements) {
    const ProjectionArgs& of = a.of;
    const int32_t j = static_cast<int32_t>(o % of.columns.in), i = static_cast<int32_t>(o / of.columns.in % of.rows.in);
    const uint32_t element = o / of.columns.in / of.rows.in, size = of.T * of.D;
    const int64_t n = element / size;
    const int32_t k = static_cast<int32_t>(element % size);
    const Readers<A> rows(of.rows, i), columns(of.columns, j);
    const RowSums<const A> from{sums, a.length, a.shift};
    const int32_t first = columns.begin / a.segment_pixels, last = (columns.end - 1) / a.segment_pixels;
    for (int32_t part = 0; columns.begin < columns.end && part < of.parts; ++part) {
      for (int32_t h = rows.begin + lane; h < rows.end; h += 1 << a.lanes_log2) {
        const A* row = from.at(of, n, part, k, h) + j;
        double along = 0;
        for (int32_t g = first; g <= last; ++g) along += static_cast<double>(row[g * a.shift]);
        sum += static_cast<double>(rows.weight(h)) * along;
      }
    }
  }
  for (uint32_t step = 16; step >= at_once; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  if (o < a.elements && lane == 0) dbasis[o] = static_cast<T>(static_cast<A>(sum));
}

// A chunk of the channels of dx, of a clip that is channels last: threads leave their pixels in shared memory, and
// neighbouring threads store neighbouring channels. Stored one by one, every channel would touch all sectors again.
template <class T>
struct Chunk {
  T* memory;
  int32_t stride;  // of a pixel; odd, so that neighbouring pixels lie in different banks

  __device__ __forceinline__ explicit Chunk(const ProjectionArgs& a)
      : memory(dynamic_shared<T>()), stride(a.chunk | 1) {}
  __device__ __forceinline__ T& at(int32_t t, int32_t c) const {
    return memory[static_cast<int32_t>(t * blockDim.x + threadIdx.x) * stride + c];
  }
  // Stores channels c0 and on of the block's pixels. Every thread must call it.
  __device__ __forceinline__ void store(const ProjectionArgs& a, const Spot& s, const Steps<T>& dx, int32_t c0) const {
    __syncthreads();
    const int32_t left = s.segment * a.across, top = s.band * a.down;
    int32_t rows = min(a.down, a.rows.out - top), width = min(a.across, a.columns.out - left);
    if (a.segments == 1) width *= rows, rows = 1;
    for (int32_t t = 0; t < a.T; ++t) {
      for (int32_t r = 0; r < rows; ++r) {
        const T* from = memory + static_cast<int32_t>(t * blockDim.x + r * a.across) * stride;
        T* to = dx.at(s.n, c0, t) + (static_cast<int64_t>(top + r) * a.columns.out + left) * dx.p;
        for (int32_t i = static_cast<int32_t>(threadIdx.x); i < width * a.chunk;
             i += static_cast<int32_t>(blockDim.x)) {
          const int32_t pixel = static_cast<int32_t>(a.by_chunk.divide(i)), c = i - pixel * a.chunk;
          if (c0 + c < s.end) to[pixel * dx.p + c] = from[pixel * stride + c];
        }
      }
    }
    __syncthreads();
  }
};

// With gp arriving at p, gx at the projection and gy at the coefficients: q = G^-1 (gy - At (gp - gx)) and
// s = gp - gx + A q give dx = s + gx and dA = p qt - s yt, summed over channels.
template <class T, int D, int kT, int P>
__global__ void __launch_bounds__(kProjectionThreads, D > 1 && kT > 8 ? 2 : 3)
    projection_backward_kernel(const __grid_constant__ ProjectionArgs a, const __grid_constant__ Steps<const T> x,
                               const T* __restrict__ basis, const __grid_constant__ ProjectionGrads<T> grads,
                               const __grid_constant__ Steps<T> dx, const RowSums<device_acc_t<T>> sums) {
  using A = device_acc_t<T>;
  const Spot s = spot_of(a, blockIdx.x, P);
  A slope[kT][D][P] = {};  // dA
  LocalBasis<T, D, kT, P> local(a, basis, s);
  const Chunk<T> chunk(a);
  if (a.chunk) __syncthreads();  // before it overwrites the basis' rows
  const int32_t step = a.chunk ? a.chunk : a.part;
  const A share = A(1) / static_cast<A>(a.T);
  const bool by_frames = grads.residual.data || grads.projection.data;
  for (int32_t c0 = s.first; c0 < s.end; c0 += step) {
    for (int32_t c = c0; s.active && c < min(c0 + step, s.end); ++c) {
      const T* from = x.at(s.n, c, 0) + s.position * x.p;
      A v[kT][P];
      local.each_frame([&](int t) { load_values<P>(from, v[t]), from += x.t; });
      Registers<A, D> y[P], q[P];
      local.coefficients(v, y);
      A pull[P] = {}, mean[P] = {};
      local.each_frame([&](int t) {
        A fit[P];
        local.combine(t, y, fit);
#pragma unroll
        for (int p = 0; p < P; ++p) v[t][p] -= fit[p], pull[p] += v[t][p] * v[t][p];
      });
#pragma unroll
      for (int p = 0; p < P; ++p) pull[p] = grads.pull(a, s.n, pull[p]);
      if (grads.mean.data) {
        load_values<P>(grads.mean.at(s.n, c, 0) + s.position * grads.mean.p, mean);
#pragma unroll
        for (int p = 0; p < P; ++p) mean[p] *= share;
      }
      // gp - gx at a frame, and gx
      const auto arriving = [&](int t, A(&g)[P], A(&direct)[P]) {
#pragma unroll
        for (int p = 0; p < P; ++p) g[p] = grads.lengths() ? mean[p] + pull[p] * v[t][p] : mean[p], direct[p] = 0;
        if (!by_frames) return;
        if (grads.residual.data) {
          load_values<P>(grads.residual.at(s.n, c, t) + s.position * grads.residual.p, direct);
#pragma unroll
          for (int p = 0; p < P; ++p) g[p] += direct[p], direct[p] = 0;
        }
        if (grads.projection.data) {
          load_values<P>(grads.projection.at(s.n, c, t) + s.position * grads.projection.p, direct);
#pragma unroll
          for (int p = 0; p < P; ++p) g[p] -= direct[p];
        }
      };
#pragma unroll
      for (int d = 0; d < D; ++d) {
        A given[P] = {};
        if (grads.coefficients.data) {
          load_values<P>(grads.coefficients.at(s.n, c, d) + s.position * grads.coefficients.p, given);
        }
#pragma unroll
        for (int p = 0; p < P; ++p) q[p][d] = given[p];
      }
      local.each_frame([&](int t) {
        A g[P], direct[P];
        arriving(t, g, direct);
#pragma unroll
        for (int d = 0; d < D; ++d) {
#pragma unroll
          for (int p = 0; p < P; ++p) q[p][d] -= local.at[t][d][p] * g[p];
        }
      });
      local.to_system(q);
      T* back_to = dx.at(s.n, c, 0) + s.position * dx.p;
      local.each_frame([&](int t) {
        A g[P], direct[P], back[P];
        arriving(t, g, direct);
        local.combine(t, q, back);
#pragma unroll
        for (int p = 0; p < P; ++p) {
          g[p] += back[p];
#pragma unroll
          for (int d = 0; d < D; ++d) slope[t][d][p] += v[t][p] * q[p][d] - g[p] * y[p][d];
          direct[p] += g[p];
        }
        if (a.chunk) {
          chunk.at(t, c - c0) = static_cast<T>(direct[0]);
        } else if (dx.data) {
          store_values<T, P>(back_to, direct), back_to += dx.t;
        }
      });
    }
    if (a.chunk) chunk.store(a, s, dx, c0);
  }
  if (!sums.data) return;
  constexpr int kFrames = D > 1 ? 16 / D : kT;  // at once
#pragma unroll
  for (int t0 = 0; t0 < kT; t0 += kFrames) {
    if (t0 >= a.T) break;
    gather_columns<kFrames * D, P>(a, s, sums, t0 * D, min(kFrames, a.T - t0) * D, [&](int k, int p) {
      return t0 + k / D < kT ? slope[min(t0 + k / D, kT - 1)][k % D][p] : A(0);
    });
  }
}

}  // namespace
}  // namespace vidops
