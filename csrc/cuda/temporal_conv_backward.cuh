// Backward kernels of temporal_conv: the gradients of x, taps and bias; the idea is told in temporal_conv.cu.
#pragma once

#include "cuda/sum_partials.cuh"
#include "cuda/temporal_conv_common.cuh"

namespace vidops {
namespace {

struct Needs {
  bool x, weight, bias;
};

// One thread's gradients of taps (slot j) and bias (the last slot).
template <class A, int L>
using Totals = A[kSlots][L];

template <int K, class T, int V, int L>
__device__ __forceinline__ void backward_plain(const ConvArgs& a, const Needs& need, const Walk& w,
                                               const ColumnStrides& sg, const ColumnStrides& sx,
                                               const ColumnStrides& sd, const T* grad, const T* x, const T* weight,
                                               T* dx, Totals<device_acc_t<T>, L>& total) {
  constexpr int P = kTogether<T, V>, R = (K - 1) / 2;
  using A = device_acc_t<T>;
  A taps[K][L];
  load_taps<K, L>(weight, taps);
  const int32_t frames = a.frames_in, x_frames = need.weight ? frames : 0;
  for (uint32_t at = w.first; at < w.end; at += w.step) {
    const T* gradient = grad + column_offset(a.columns, w, at, sg);
    const T* column = x + column_offset(a.columns, w, at, sx);
    T* result = dx + column_offset(a.columns, w, at, sd);
    Pack<T, V> g[K - 1 + kBatch], c[K - 1 + kBatch];
#pragma unroll
    for (int s = 0; s < K - 1; ++s) {
      g[s] = s < R ? Pack<T, V>{} : frame_of<V>(gradient, sg.frame, s - R, frames, false);
      c[s] = s < R ? Pack<T, V>{} : frame_of<V>(column, sx.frame, s - R, x_frames, false);
    }
    for (int32_t t0 = 0; t0 < frames; t0 += kBatch) {
#pragma unroll
      for (int s = 0; s < kBatch; ++s) {
        g[K - 1 + s] = frame_of<V>(gradient, sg.frame, t0 + s + R, frames, false);
        c[K - 1 + s] = frame_of<V>(column, sx.frame, t0 + s + R, x_frames, false);
      }
      Pack<T, V> made[kBatch];
#pragma unroll
      for (int v = 0; v < V; v += P) {
        A sum[kBatch][P] = {};
#pragma unroll
        for (int i = 0; i < P; ++i) {
          const int l = (v + i) % L;
#pragma unroll
          for (int s = 0; s < kBatch; ++s) {
            if (t0 + s >= frames) break;  // there its zeros would meet frames of x, and 0 * NaN is NaN
            const A centre = value(g[s + R], v + i);
#pragma unroll
            for (int j = 0; j < K; ++j) {
              sum[s][i] += taps[K - 1 - j][l] * value(g[s + j], v + i);
              total[j][l] += centre * value(c[s + j], v + i);
            }
            total[kMaxTaps][l] += centre;
          }
        }
#pragma unroll
        for (int s = 0; s < kBatch; ++s) set_values(made[s], v, sum[s]);
      }
      if (need.x) {
#pragma unroll
        for (int s = 0; s < kBatch; ++s) {
          if (t0 + s < frames) store_pack(result + (t0 + s) * sd.frame, made[s]);
        }
      }
#pragma unroll
      for (int s = 0; s < K - 1; ++s) g[s] = g[s + kBatch], c[s] = c[s + kBatch];
    }
  }
}

// The compiled loops multiply taps with the zeros around a clip, which is nothing only for finite taps.
template <class T, int L>
__device__ __forceinline__ int32_t plain_backward(const ConvGroup& g, const T* weight) {
  bool finite = true;
  for (int32_t j = 0; j < g.plain * L; ++j) {
    const auto tap = static_cast<device_acc_t<T>>(weight[j]);
    finite = finite && tap - tap == 0;
  }
  return finite ? g.plain : 0;
}

// dx of one column for any stride, dilation and padding: frame f collects tap j from the frames `from` .. `to` of the
// gradient that read it, at most one except at replicated edges.
template <class T, int V, int L>
__device__ __forceinline__ void input_gradient(const ConvArgs& a, const ConvGroup& g, const ColumnStrides& sg,
                                               const ColumnStrides& sd, const T* gradient, const T* weight, T* result) {
  using A = device_acc_t<T>;
  for (int32_t f = 0; f < a.frames_in; ++f) {
    A sum[V] = {};
    int32_t ahead = f - a.offset + (g.taps - 1) / 2 * g.dilation;
    for (int32_t j = 0; j < g.taps; ++j, ahead -= g.dilation) {
      int32_t from = ahead < 0 ? 0 : (ahead + a.stride - 1) / a.stride;
      int32_t to = ahead < 0 ? 0 : min(ahead / a.stride + 1, a.frames_out);
      if (a.replicate && f == 0) from = 0;
      if (a.replicate && f == a.frames_in - 1) to = a.frames_out;
      for (int32_t t = from; t < to; ++t) {
        const Pack<T, V> pack = load_pack<V>(gradient + t * sg.frame);
#pragma unroll
        for (int v = 0; v < V; ++v) sum[v] += static_cast<A>(weight[v % L * g.taps + j]) * value(pack, v);
      }
    }
    store_values(result + f * sd.frame, sum);
  }
}

// Sums the gradients of taps [tap0, tap0 + kMaxTaps); the first pass also has dx and the bias's.
template <class T, int V, int L>
__device__ __forceinline__ void backward_general(const ConvArgs& a, const Needs& need, const ConvGroup& g, int32_t tap0,
                                                 const Walk& w, const ColumnStrides& sg, const ColumnStrides& sx,
                                                 const ColumnStrides& sd, const T* grad, const T* x, const T* weight,
                                                 T* dx, Totals<device_acc_t<T>, L>& total) {
  using A = device_acc_t<T>;
  for (uint32_t at = w.first; at < w.end; at += w.step) {
    const T* gradient = grad + column_offset(a.columns, w, at, sg);
    const T* column = x + column_offset(a.columns, w, at, sx);
    if (need.x && tap0 == 0) {
      input_gradient<T, V, L>(a, g, sg, sd, gradient, weight, dx + column_offset(a.columns, w, at, sd));
    }
    if (!need.weight && !need.bias) continue;
    for (int32_t t = 0; t < a.frames_out; ++t) {
      const Pack<T, V> pack = load_pack<V>(gradient + t * sg.frame);
      const int32_t base = t * a.stride + a.offset + (tap0 - (g.taps - 1) / 2) * g.dilation;
#pragma unroll
      for (int j = 0; j < kMaxTaps; ++j) {
        if (!need.weight || tap0 + j >= g.taps) break;
        const Pack<T, V> frame = frame_of<V>(column, sx.frame, base + j * g.dilation, a.frames_in, a.replicate);
#pragma unroll
        for (int v = 0; v < V; ++v) total[j][v % L] += value(pack, v) * value(frame, v);
      }
#pragma unroll
      for (int v = 0; v < V; ++v) total[kMaxTaps][v % L] += value(pack, v);
    }
  }
}

// Adds up what a block's threads have of each channel, in a fixed order, and writes it as one partial sum:
// partial[slot of the gradient][share]. Slots are the launch's taps, then its channels.
template <class T, int L>
__device__ __forceinline__ void write_partials(const ConvArgs& a, int32_t tap0, Totals<device_acc_t<T>, L>& total,
                                               int64_t first_weight, int64_t weights, device_acc_t<T>* partial) {
  using A = device_acc_t<T>;
  A* shared = dynamic_shared<A>();
  const uint32_t lanes = 1u << a.columns.lanes_log2, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  __syncthreads();  // the pass before has read what it needs
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
#pragma unroll
    for (int l = 0; l < L; ++l) {
      A sum = total[s][l];
      for (uint32_t step = 16; step >= lanes; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
      if (lane < lanes) shared[((warp * kSlots + s) * L + l) * lanes + lane] = sum;
    }
  }
  __syncthreads();
  const int64_t shares = static_cast<int64_t>(gridDim.y) * gridDim.z;
  const int64_t share = static_cast<int64_t>(blockIdx.z) * gridDim.y + blockIdx.y;
  for (uint32_t i = threadIdx.x; i < kSlots * L * lanes; i += kColumnThreads) {
    const uint32_t slot = i / (L * lanes), l = i / lanes % L;
    const int32_t place = static_cast<int32_t>(blockIdx.x * lanes + i % lanes);
    if (place >= a.columns.places) continue;
    const int32_t c = a.channel0 + place * L + static_cast<int32_t>(l);
    const ConvGroup& g = a.group_of(c);
    const int32_t tap = tap0 + static_cast<int32_t>(slot);
    if (slot == kMaxTaps ? tap0 != 0 : tap >= g.taps) continue;
    A sum = 0;
    for (int warps = 0; warps < kWarps; ++warps) sum += shared[warps * kSlots * L * lanes + i];
    const int64_t row =
        slot == kMaxTaps ? weights + c - a.channel0 : g.weight + static_cast<int64_t>(c) * g.taps + tap - first_weight;
    partial[row * shares + share] = sum;
  }
}

template <class T, int V, int L>
__global__ void __launch_bounds__(kColumnThreads, sizeof(T) * V == 16 ? 3 : 4)
    backward_kernel(const __grid_constant__ ConvArgs a, Needs need, const __grid_constant__ ColumnStrides sg,
                    const __grid_constant__ ColumnStrides sx, const __grid_constant__ ColumnStrides sd,
                    const T* __restrict__ grad, const T* __restrict__ x, const T* __restrict__ weight,
                    T* __restrict__ dx, int32_t max_taps, int64_t first_weight, int64_t weights,
                    device_acc_t<T>* __restrict__ partial) {
  const Walk w = walk_of(a.columns);
  const int32_t c = a.channel0 + (w.active ? w.place * L : 0);
  const ConvGroup& g = a.group_of(c);
  const T* taps = weight + g.weight + static_cast<int64_t>(c) * g.taps;
  const int32_t plain = kCompiled<T> ? plain_backward<T, L>(g, taps) : 0;
  for (int32_t tap0 = 0; tap0 < max_taps; tap0 += kMaxTaps) {
    Totals<device_acc_t<T>, L> total = {};
    switch (plain) {
      case 1:
        if (tap0 == 0) backward_plain<1, T, V, L>(a, need, w, sg, sx, sd, grad, x, taps, dx, total);
        break;
      case 3:
        if (tap0 == 0) backward_plain<3, T, V, L>(a, need, w, sg, sx, sd, grad, x, taps, dx, total);
        break;
      case 5:
        if (tap0 == 0) backward_plain<5, T, V, L>(a, need, w, sg, sx, sd, grad, x, taps, dx, total);
        break;
      case 7:
        if (tap0 == 0) backward_plain<7, T, V, L>(a, need, w, sg, sx, sd, grad, x, taps, dx, total);
        break;
      default:
        if (tap0 < g.taps) backward_general<T, V, L>(a, need, g, tap0, w, sg, sx, sd, grad, x, taps, dx, total);
    }
    if (!partial) return;
    write_partials<T, L>(a, tap0, total, first_weight, weights, partial);
  }
}

}  // namespace
}  // namespace vidops
