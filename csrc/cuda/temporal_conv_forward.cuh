// Forward kernels of temporal_conv; the idea is told in temporal_conv.cu.
#pragma once

#include "cuda/temporal_conv_common.cuh"

namespace vidops {
namespace {

// A batch of frames is made element by element: raw frames give way to results as it goes, and only one element of
// the window is ever unpacked.
template <int K, class T, int V, int L>
__device__ __forceinline__ void forward_plain(const ConvArgs& a, const Walk& w, const ColumnStrides& sx,
                                              const ColumnStrides& sy, const T* x, const T* weight,
                                              const device_acc_t<T> (&bias)[L], T* y) {
  constexpr int P = kTogether<T, V>;
  using A = device_acc_t<T>;
  A taps[K][L];
  load_taps<K, L>(weight, taps);
  const int32_t first = a.offset - (K - 1) / 2;
  for (uint32_t at = w.first; at < w.end; at += w.step) {
    const T* column = x + column_offset(a.columns, w, at, sx);
    T* result = y + column_offset(a.columns, w, at, sy);
    Pack<T, V> window[K - 1 + kBatch];
#pragma unroll
    for (int s = 0; s < K - 1; ++s) window[s] = frame_of<V>(column, sx.frame, first + s, a.frames_in, a.replicate);
    for (int32_t t0 = 0; t0 < a.frames_out; t0 += kBatch) {
#pragma unroll
      for (int s = 0; s < kBatch; ++s) {
        const int32_t f = t0 + s < a.frames_out ? t0 + s + first + K - 1 : -1;
        window[K - 1 + s] = frame_of<V>(column, sx.frame, f, a.frames_in, a.replicate);
      }
      Pack<T, V> made[kBatch];
#pragma unroll
      for (int v = 0; v < V; v += P) {
        A sum[kBatch][P];
#pragma unroll
        for (int i = 0; i < P; ++i) {
#pragma unroll
          for (int s = 0; s < kBatch; ++s) {
            sum[s][i] = bias[(v + i) % L];
#pragma unroll
            for (int j = 0; j < K; ++j) sum[s][i] += taps[j][(v + i) % L] * value(window[s + j], v + i);
          }
        }
#pragma unroll
        for (int s = 0; s < kBatch; ++s) set_values(made[s], v, sum[s]);
      }
#pragma unroll
      for (int s = 0; s < kBatch; ++s) {
        if (t0 + s < a.frames_out) store_pack(result + (t0 + s) * sy.frame, made[s]);
      }
#pragma unroll
      for (int s = 0; s < K - 1; ++s) window[s] = window[s + kBatch];
    }
  }
}

template <class T, int V, int L>
__device__ __forceinline__ void forward_general(const ConvArgs& a, const ConvGroup& g, const Walk& w,
                                                const ColumnStrides& sx, const ColumnStrides& sy, const T* x,
                                                const T* weight, const device_acc_t<T> (&bias)[L], T* y) {
  using A = device_acc_t<T>;
  for (uint32_t at = w.first; at < w.end; at += w.step) {
    const T* column = x + column_offset(a.columns, w, at, sx);
    T* result = y + column_offset(a.columns, w, at, sy);
    for (int32_t t = 0; t < a.frames_out; ++t) {
      A sum[V];
#pragma unroll
      for (int v = 0; v < V; ++v) sum[v] = bias[v % L];
      int32_t f = t * a.stride + a.offset - (g.taps - 1) / 2 * g.dilation;
      for (int32_t j = 0; j < g.taps; ++j, f += g.dilation) {
        const Pack<T, V> pack = frame_of<V>(column, sx.frame, f, a.frames_in, a.replicate);
#pragma unroll
        for (int v = 0; v < V; ++v) sum[v] += static_cast<A>(weight[v % L * g.taps + j]) * value(pack, v);
      }
      store_values(result + t * sy.frame, sum);
    }
  }
}

// L is V in channels last and 1 in planar layouts: how many channels a column has.
template <class T, int V, int L>
__global__ void __launch_bounds__(kColumnThreads, 4)
    forward_kernel(const __grid_constant__ ConvArgs a, const __grid_constant__ ColumnStrides sx,
                   const __grid_constant__ ColumnStrides sy, const T* __restrict__ x, const T* __restrict__ weight,
                   const T* __restrict__ bias, T* __restrict__ y) {
  const Walk w = walk_of(a.columns);
  if (!w.active) return;
  const int32_t c = a.channel0 + w.place * L;
  const ConvGroup& g = a.group_of(c);
  const T* taps = weight + g.weight + static_cast<int64_t>(c) * g.taps;
  device_acc_t<T> start[L];
#pragma unroll
  for (int l = 0; l < L; ++l) start[l] = bias ? static_cast<device_acc_t<T>>(bias[c + l]) : device_acc_t<T>(0);
  switch (kCompiled<T> ? g.plain : 0) {
    case 1:
      return forward_plain<1, T, V, L>(a, w, sx, sy, x, taps, start, y);
    case 3:
      return forward_plain<3, T, V, L>(a, w, sx, sy, x, taps, start, y);
    case 5:
      return forward_plain<5, T, V, L>(a, w, sx, sy, x, taps, start, y);
    case 7:
      return forward_plain<7, T, V, L>(a, w, sx, sy, x, taps, start, y);
    default:
      return forward_general<T, V, L>(a, g, w, sx, sy, x, taps, start, y);
  }
}

}  // namespace
}  // namespace vidops
