// Kernels of depthwise_conv3d from input to result, and with `transposed` or mirrored taps back; the idea is told in
// depthwise_conv3d.cu.
#pragma once

#include "cuda/depthwise_conv3d_common.cuh"

namespace vidops {
namespace {

// Where tap k of result o reads: input o * stride + k * dilation - padding, or transposed the gradient of which input o
// was read by tap k; -1 for none.
__device__ __forceinline__ int32_t read_at(int32_t o, int32_t k, int32_t stride, int32_t padding, int32_t dilation,
                                           int32_t size, bool transposed) {
  int32_t at = transposed ? o + padding - k * dilation : o * stride + k * dilation - padding;
  if (transposed) at = at < 0 || at % stride != 0 ? -1 : at / stride;
  return at < size ? at : -1;
}

// Result (t, h, w) of a clip's channel, tap by tap and only those that there are; `taps` are those of the lane.
template <class T>
__device__ __forceinline__ device_acc_t<T> conv_element(const ConvArgs3d& a, const T* from, const device_acc_t<T>* taps,
                                                        device_acc_t<T> sum, int32_t t, int32_t h, int32_t w,
                                                        bool transposed) {
  for (int32_t i = 0; i < a.taps.t; ++i) {
    const int32_t f = read_at(t, i, a.stride.t, a.padding.t, a.dilation.t, a.in.t, transposed);
    if (f < 0) continue;
    for (int32_t j = 0; j < a.taps.h; ++j) {
      const int32_t r = read_at(h, j, a.stride.h, a.padding.h, a.dilation.h, a.in.h, transposed);
      if (r < 0) continue;
      const T* line = from + f * a.from.frame + static_cast<int64_t>(r) * a.in.w * a.from.position;
      for (int32_t k = 0; k < a.taps.w; ++k) {
        const int32_t p = read_at(w, k, a.stride.w, a.padding.w, a.dilation.w, a.in.w, transposed);
        if (p < 0) continue;
        sum += taps[((i * a.taps.h + j) * a.taps.w + k) << a.lanes_log2] * element(line + p * a.from.position);
      }
    }
  }
  return sum;
}

// Stride 1 in time, S in height, any in width; dilation 1. A thread makes V rows of one column, all frames.
template <class T, int KT, int KH, int KW, int S, int V>
__global__ void __launch_bounds__(kConvThreads, KH* KW > 9 ? 3 : 4)
    conv_walk_kernel(const __grid_constant__ ConvArgs3d a, const T* __restrict__ x, const T* __restrict__ weight,
                     const T* __restrict__ bias, T* __restrict__ y) {
  using A = device_acc_t<T>;
  // Unrolled whole, the rows of 3x7x7 hold 147 taps in registers, more than there are.
  constexpr int kUnrolled = KH * KW > 9 ? 1 : (V - 1) * S + KH;
  bool odd;
  const A* taps = shared_taps(a, weight, a.transposed, &odd);
  const int32_t lane = static_cast<int32_t>(threadIdx.x) & ((1 << a.lanes_log2) - 1);
  const int64_t c = (static_cast<int64_t>(blockIdx.y) << a.lanes_log2) + lane;
  const uint32_t flat = blockIdx.x * (kConvThreads >> a.lanes_log2) + (threadIdx.x >> a.lanes_log2);
  const int32_t group = static_cast<int32_t>(flat / a.out.w), w = static_cast<int32_t>(flat) - group * a.out.w;
  if (c >= a.channels || group >= (a.out.h + V - 1) / V) return;
  const int32_t h = group * V, first_h = h * S - a.padding.h;
  const int32_t first_w = w * a.stride.w - a.padding.w;
  const A start = bias ? static_cast<A>(bias[c]) : A(0);
  taps += lane;
  for (int64_t n = blockIdx.z; n < a.clips; n += gridDim.z) {
    const T* from = x + n * a.from.clip + c * a.from.channel;
    T* to = y + n * a.to.clip + c * a.to.channel + (static_cast<int64_t>(h) * a.out.w + w) * a.to.position;
    if (odd) {
      for (int32_t t = 0; t < a.out.t; ++t) {
        for (int32_t v = 0; v < min(V, a.out.h - h); ++v) {
          to[t * a.to.frame + v * a.out.w * a.to.position] =
              static_cast<T>(conv_element(a, from, taps, start, t, h + v, w, false));
        }
      }
      continue;
    }
    A sum[KT][V];
#pragma unroll
    for (int i = 0; i < KT; ++i) {
#pragma unroll
      for (int v = 0; v < V; ++v) sum[i][v] = start;
    }
    // Frame f reaches results t .. t + KT - 1, in sum[0] and on; the first of them is then complete.
    for (int32_t t = 1 - KT; t < a.out.t; ++t) {
      const int32_t f = t - a.padding.t + KT - 1;
      if (within(f, a.in.t)) {
        const T* frame = from + f * a.from.frame;
#pragma unroll kUnrolled
        for (int r = 0; r < (V - 1) * S + KH; ++r) {
          const bool row = within(first_h + r, a.in.h);
          const T* line = frame + (static_cast<int64_t>(first_h + r) * a.in.w + first_w) * a.from.position;
#pragma unroll
          for (int k = 0; k < KW; ++k) {
            const A in = row && within(first_w + k, a.in.w) ? element(line + k * a.from.position) : A(0);
#pragma unroll
            for (int v = 0; v < V; ++v) {
              const int j = r - v * S;
              if (j < 0 || j >= KH) continue;
#pragma unroll
              for (int i = 0; i < KT; ++i) sum[i][v] += taps[((KT - 1 - i) * KH + j) * KW + k << a.lanes_log2] * in;
            }
          }
        }
      }
      if (t >= 0) {
#pragma unroll
        for (int v = 0; v < V; ++v) {
          if (h + v < a.out.h) to[t * a.to.frame + v * a.out.w * a.to.position] = static_cast<T>(sum[0][v]);
        }
      }
#pragma unroll
      for (int v = 0; v < V; ++v) {
#pragma unroll
        for (int i = 0; i + 1 < KT; ++i) sum[i][v] = sum[i + 1][v];
        sum[KT - 1][v] = start;
      }
    }
  }
}

// Any kernel, stride and dilation: a thread makes one element a frame of the grid, and reads what it needs.
template <class T>
__global__ void __launch_bounds__(kConvThreads, 4)
    conv_any_kernel(const __grid_constant__ ConvArgs3d a, const T* __restrict__ x, const T* __restrict__ weight,
                    const T* __restrict__ bias, T* __restrict__ y) {
  using A = device_acc_t<T>;
  const A* taps = shared_taps(a, weight, false);
  const int32_t lane = static_cast<int32_t>(threadIdx.x) & ((1 << a.lanes_log2) - 1);
  const int64_t c = (static_cast<int64_t>(blockIdx.y) << a.lanes_log2) + lane;
  const uint32_t flat = blockIdx.x * (kConvThreads >> a.lanes_log2) + (threadIdx.x >> a.lanes_log2);
  if (c >= a.channels || flat >= static_cast<uint32_t>(a.out.h * a.out.w)) return;
  const int32_t h = static_cast<int32_t>(flat / a.out.w), w = static_cast<int32_t>(flat) - h * a.out.w;
  const A start = bias ? static_cast<A>(bias[c]) : A(0);
  for (uint32_t item = blockIdx.z; item < static_cast<uint32_t>(a.clips) * a.out.t; item += gridDim.z) {
    const uint32_t n = item / a.out.t;
    const int32_t t = static_cast<int32_t>(item - n * a.out.t);
    const T* from = x + n * a.from.clip + c * a.from.channel;
    const A sum = conv_element(a, from, taps + lane, start, t, h, w, a.transposed);
    y[n * a.to.clip + c * a.to.channel + t * a.to.frame + flat * a.to.position] = static_cast<T>(sum);
  }
}

}  // namespace
}  // namespace vidops
