// Kernels of depthwise_conv3d for the gradients of taps and bias; the idea is told in depthwise_conv3d.cu.
#pragma once

#include "cuda/depthwise_conv3d_common.cuh"

namespace vidops {
namespace {

// Adds up what a block's threads have of each of their channels and N slots, in a fixed order, and writes it as one
// partial sum each: partial[(channel * slots + slot) * shares + share].
template <int N, class A>
__device__ __forceinline__ void write_sums(const ConvArgs3d& a, A (&sum)[N], const int32_t (&slot)[N], int32_t slots,
                                           A* partial) {
  A* shared = dynamic_shared<A>();
  const int32_t lanes = 1 << a.lanes_log2, warp = static_cast<int32_t>(threadIdx.x) / 32;
  const int32_t lane = static_cast<int32_t>(threadIdx.x) % 32;
#pragma unroll
  for (int s = 0; s < N; ++s) {
    for (int32_t step = 16; step >= lanes; step /= 2) sum[s] += __shfl_xor_sync(0xffffffffu, sum[s], step);
    if (lane < lanes) shared[(warp * N + s) * lanes + lane] = sum[s];
  }
  __syncthreads();
  if (warp > 0 || lane >= lanes) return;
  const int64_t c = (static_cast<int64_t>(blockIdx.y) << a.lanes_log2) + lane;
  if (c >= a.channels) return;
#pragma unroll
  for (int s = 0; s < N; ++s) {
    A total = 0;
    for (int w = 0; w < kConvWarps; ++w) total += shared[(w * N + s) * lanes + lane];
    partial[(c * slots + slot[s]) * gridDim.x + blockIdx.x] = total;
  }
}

// Stride and dilation 1 in time. A thread walks the frames of its columns with the KT gradients that a frame of the
// input meets, for J rows of taps from J * blockIdx.z on; every share of the columns writes its own sums.
template <class T, int KT, int J, int KW>
__global__ void __launch_bounds__(kConvThreads, 4)
    weight_walk_kernel(const __grid_constant__ ConvArgs3d a, const T* __restrict__ grad, const T* __restrict__ x,
                       int32_t slots, device_acc_t<T>* __restrict__ partial) {
  using A = device_acc_t<T>;
  const int32_t lane = static_cast<int32_t>(threadIdx.x) & ((1 << a.lanes_log2) - 1), j0 = blockIdx.z * J;
  const int64_t c = (static_cast<int64_t>(blockIdx.y) << a.lanes_log2) + lane;
  const uint32_t rows = kConvThreads >> a.lanes_log2, plane = a.out.h * a.out.w;
  A sum[KT * J * KW] = {};
  const uint32_t first = blockIdx.x * rows + (threadIdx.x >> a.lanes_log2);
  const uint32_t end = c < a.channels ? static_cast<uint32_t>(a.clips) * plane : 0;
  for (uint32_t at = first; at < end; at += gridDim.x * rows) {
    const uint32_t n = at / plane, p = at - n * plane;
    const int32_t h = static_cast<int32_t>(p / a.out.w), w = static_cast<int32_t>(p) - h * a.out.w;
    const int32_t first_h = h * a.stride.h - a.padding.h, first_w = w * a.stride.w - a.padding.w;
    const T* gradient = grad + n * a.to.clip + c * a.to.channel + p * a.to.position;
    const T* from = x + n * a.from.clip + c * a.from.channel;
    A window[KT] = {};  // tap i of frame f made result f + padding - i
    for (int32_t f = -a.padding.t; f < a.in.t; ++f) {
#pragma unroll
      for (int i = KT - 1; i > 0; --i) window[i] = window[i - 1];
      const int32_t t = f + a.padding.t;
      window[0] = within(t, a.out.t) ? element(gradient + t * a.to.frame) : A(0);
      if (f < 0) continue;
      // A result that is not there is no partner of a frame, nor a column that is not there of a gradient, which their
      // zeros tell as long as what they meet is finite. Frames in the middle have all partners.
      A finite = 0;
#pragma unroll
      for (int i = 0; i < KT; ++i) finite += window[i] - window[i];
      const bool careful = t < KT - 1 || t >= a.out.t || finite != A(0);
#pragma unroll
      for (int j = 0; j < J; ++j) {
        const int32_t r = first_h + (j0 + j) * a.dilation.h;
        if (!within(r, a.in.h)) continue;
        const T* line = from + f * a.from.frame + static_cast<int64_t>(r) * a.in.w * a.from.position;
        if (careful) {
#pragma unroll
          for (int k = 0; k < KW; ++k) {
            const int32_t q = first_w + k * a.dilation.w;
            if (!within(q, a.in.w)) continue;
            const A in = element(line + q * a.from.position);
#pragma unroll
            for (int i = 0; i < KT; ++i) {
              if (within(t - i, a.out.t)) sum[(i * J + j) * KW + k] += window[i] * in;
            }
          }
          continue;
        }
#pragma unroll
        for (int k = 0; k < KW; ++k) {
          const int32_t q = first_w + k * a.dilation.w;
          const A in = within(q, a.in.w) ? element(line + q * a.from.position) : A(0);
#pragma unroll
          for (int i = 0; i < KT; ++i) sum[(i * J + j) * KW + k] += window[i] * in;
        }
      }
    }
  }
  int32_t slot[KT * J * KW];
#pragma unroll
  for (int s = 0; s < KT * J * KW; ++s) {
    slot[s] = (s / (J * KW) * a.taps.h + j0 + s / KW % J) * KW + s % KW;
  }
  write_sums(a, sum, slot, slots, partial);
}

// Any kernel, stride and dilation: slot first_slot + blockIdx.z alone, the last one being the bias's.
template <class T>
__global__ void __launch_bounds__(kConvThreads, 4)
    weight_any_kernel(const __grid_constant__ ConvArgs3d a, const T* __restrict__ grad, const T* __restrict__ x,
                      int32_t first_slot, int32_t slots, device_acc_t<T>* __restrict__ partial) {
  using A = device_acc_t<T>;
  const int32_t lane = static_cast<int32_t>(threadIdx.x) & ((1 << a.lanes_log2) - 1);
  const int64_t c = (static_cast<int64_t>(blockIdx.y) << a.lanes_log2) + lane;
  const uint32_t rows = kConvThreads >> a.lanes_log2, plane = a.out.h * a.out.w;
  const int32_t slot = first_slot + static_cast<int32_t>(blockIdx.z);
  const bool bias = slot == a.taps.t * a.taps.h * a.taps.w;
  const int32_t k = slot % a.taps.w, j = slot / a.taps.w % a.taps.h, i = slot / (a.taps.w * a.taps.h);
  A sum[1] = {};
  const uint32_t first = blockIdx.x * rows + (threadIdx.x >> a.lanes_log2), frame = plane * a.out.t;
  const uint32_t end = c < a.channels ? static_cast<uint32_t>(a.clips) * frame : 0;
  for (uint32_t at = first; at < end; at += gridDim.x * rows) {
    const uint32_t n = at / frame, t = (at - n * frame) / plane, p = at - n * frame - t * plane;
    const int32_t h = static_cast<int32_t>(p / a.out.w), w = static_cast<int32_t>(p) - h * a.out.w;
    const T* gradient = grad + n * a.to.clip + c * a.to.channel + t * a.to.frame + p * a.to.position;
    if (bias) {
      sum[0] += element(gradient);
      continue;
    }
    const int32_t f = static_cast<int32_t>(t) * a.stride.t + i * a.dilation.t - a.padding.t;
    const int32_t r = h * a.stride.h + j * a.dilation.h - a.padding.h;
    const int32_t q = w * a.stride.w + k * a.dilation.w - a.padding.w;
    if (!within(f, a.in.t) || !within(r, a.in.h) || !within(q, a.in.w)) continue;
    sum[0] += element(gradient) * element(x + n * a.from.clip + c * a.from.channel + f * a.from.frame +
                                          (static_cast<int64_t>(r) * a.in.w + q) * a.from.position);
  }
  const int32_t to[1] = {slot};
  write_sums(a, sum, to, slots, partial);
}

// One warp a slot: adds its shares, lane by lane and then in a tree, in fp64.
template <class T>
__global__ void __launch_bounds__(kConvThreads, 4)
    sum_shares_kernel(const device_acc_t<T>* __restrict__ partial, int64_t count, int32_t first_slot, int32_t slots,
                      int32_t taps, int64_t shares, T* __restrict__ dweight, T* __restrict__ dbias) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kConvWarps + threadIdx.x / 32;
  const uint32_t used = slots - first_slot;
  if (row >= count) return;
  const uint32_t c = static_cast<uint32_t>(row) / used;
  const int32_t slot = first_slot + static_cast<int32_t>(static_cast<uint32_t>(row) - c * used);
  double sum = 0;
  for (int64_t i = threadIdx.x % 32; i < shares; i += 32) {
    sum += static_cast<double>(partial[(static_cast<int64_t>(c) * slots + slot) * shares + i]);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  if (threadIdx.x % 32) return;
  T* to = slot < taps ? dweight + static_cast<int64_t>(c) * taps + slot : dbias + c;
  *to = static_cast<T>(static_cast<device_acc_t<T>>(sum));
}

}  // namespace
}  // namespace vidops
