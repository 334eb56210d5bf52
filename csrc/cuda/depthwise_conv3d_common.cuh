// What the kernels of depthwise_conv3d share: their arguments, who computes what, and the taps in shared memory.
#pragma once

#include "common/cuda.h"
#include "common/pack.h"

namespace vidops {
namespace {

constexpr int kConvThreads = 128;
constexpr int kConvWarps = kConvThreads / 32;

// Elements from one clip, channel, frame and position to the next.
struct ClipSteps {
  int64_t clip, channel, frame, position;
};

struct ConvSizes {
  int32_t t, h, w;
};

struct ConvArgs3d {
  int64_t clips, channels;
  ConvSizes in, out;  // of the tensors read and written: transposed, in is the gradient
  ConvSizes taps, stride, padding, dilation;
  ClipSteps from, to;
  // A block owns 2^lanes_log2 neighbouring channels: one in planar layouts, where neighbouring threads are neighbouring
  // columns, a warp's width in channels last.
  int32_t lanes_log2;
  bool transposed;  // from the result's gradient to the input's
};

template <class T>
__device__ __forceinline__ device_acc_t<T> element(const T* p) {
  return static_cast<device_acc_t<T>>(load_pack<1>(p).at[0]);
}

// The block's taps in shared memory, [tap][channel], and behind them whether one is not finite: its product with the
// zeros around a clip is no part of a result. Every thread must call it.
template <class T>
__device__ __forceinline__ device_acc_t<T>* shared_taps(const ConvArgs3d& a, const T* weight, bool reversed,
                                                        bool* odd = nullptr) {
  using A = device_acc_t<T>;
  A* taps = dynamic_shared<A>();
  const int32_t count = a.taps.t * a.taps.h * a.taps.w, lanes = 1 << a.lanes_log2;
  int32_t* flag = reinterpret_cast<int32_t*>(taps + (count << a.lanes_log2));
  if (odd) {
    if (threadIdx.x == 0) *flag = 0;
    __syncthreads();
  }
  const int64_t c0 = static_cast<int64_t>(blockIdx.y) << a.lanes_log2;
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < count << a.lanes_log2; i += kConvThreads) {
    const int32_t k = i >> a.lanes_log2;
    const int64_t c = c0 + (i & (lanes - 1));
    taps[i] = c < a.channels ? static_cast<A>(weight[c * count + (reversed ? count - 1 - k : k)]) : A(0);
    if (odd && taps[i] - taps[i] != A(0)) *flag = 1;
  }
  __syncthreads();
  if (odd) *odd = *flag != 0;
  return taps;
}

__device__ __forceinline__ bool within(int32_t i, int32_t size) {
  return static_cast<uint32_t>(i) < static_cast<uint32_t>(size);
}

}  // namespace
}  // namespace vidops
