// temporal_descriptor on CUDA devices: products of every two frames of a position, summed over channels.
//
// Floor: the features read once, T(T-1)/2 numbers a position written once; backward the features and the gradient read
// once, and a clip written.
//
// A thread owns one position and a tile of 8 x 8 pairs of frames: it reads a channel's 8 or 16 frames and adds up to 64
// products in registers. Up to T 8 there is one tile, on the diagonal, and the features are read once; for T 16 there
// are three, which find them in the L2 cache. Backward a thread owns one position, 8 frames and 4 channels of the
// result: it reads 8 frames of these channels at a time, and the gradient of every pair, which the L2 cache has for the
// other channels. In channels last a thread's neighbouring channels come out of the L1 cache.
//
// Predicted: 1.2 x floor forward, 1.5 x backward at T 8; in channels last 1.5 x and 2 x. Not yet measured on a GPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "common/clip.h"
#include "common/columns.h"
#include "common/dispatch.h"
#include "common/namespace.h"
#include "common/pack.h"
#include "common/temporal_projection.h"
#include "cuda/steps.cuh"
#include "cuda/tuning.cuh"

namespace vidops {
namespace {

constexpr int kPairThreads = 128, kFrameTile = 8;  // threads: at most

namespace tuned {
// Threads of a block. Positions are few: 28 x 28 of 8 clips are 49 blocks of 128 for an H200's 132 multiprocessors.
Tunable threads("temporal_descriptor", "threads", 128, {32, 64, 128});
Tunable backward_threads("temporal_descriptor", "backward_threads", 128, {32, 64, 128});
}  // namespace tuned
template <class T>
constexpr int kChannelTile = sizeof(T) == 8 ? 2 : 4;

struct DescriptorArgs {
  int32_t C, T;
  uint32_t units;  // positions of all clips
  Divisor by_positions;

  // Which pair of frames s < t is.
  __device__ __forceinline__ int32_t pair(int32_t s, int32_t t) const { return s * (2 * T - s - 1) / 2 + t - s - 1; }
};

struct Unit {
  int64_t n, position;
  bool active;
  __device__ __forceinline__ explicit Unit(const DescriptorArgs& a) {
    const uint32_t unit = blockIdx.x * blockDim.x + threadIdx.x, clip = a.by_positions.divide(unit);
    n = clip, position = unit - clip * a.by_positions.divisor;
    active = unit < a.units;
  }
};

template <class T>
__device__ __forceinline__ device_acc_t<T> element(const T* p) {
  return static_cast<device_acc_t<T>>(load_pack<1>(p).at[0]);
}

// Pairs of frames of one tile, or of two different ones. blockIdx.y: the tile, or which two.
template <class T, bool kDiagonal>
__global__ void __launch_bounds__(kPairThreads)
    descriptor_kernel(const __grid_constant__ DescriptorArgs a, const __grid_constant__ Steps<const T> x,
                      const __grid_constant__ Steps<T> y) {
  using A = device_acc_t<T>;
  const Unit u(a);
  if (!u.active) return;
  int32_t first = static_cast<int32_t>(blockIdx.y), second = first;
  if constexpr (!kDiagonal) {
    second = 1;
    while (second * (second + 1) / 2 <= first) ++second;
    first -= second * (second - 1) / 2;
  }
  first *= kFrameTile, second *= kFrameTile;
  const auto load = [&](int32_t c, int32_t t0, A(&frames)[kFrameTile]) {
    const T* from = x.at(u.n, c, t0) + u.position * x.p;
#pragma unroll
    for (int i = 0; i < kFrameTile; ++i) frames[i] = t0 + i < a.T ? element(from + i * x.t) : A(0);
  };
  constexpr int kAtOnce = kDiagonal ? 2 : 1;  // channels
  A sum[kFrameTile][kFrameTile] = {};
#pragma unroll kAtOnce
  for (int32_t c = 0; c < a.C; ++c) {
    A early[kFrameTile], late[kFrameTile];
    load(c, first, early);
    if constexpr (!kDiagonal) load(c, second, late);
#pragma unroll
    for (int i = 0; i < kFrameTile; ++i) {
#pragma unroll
      for (int j = kDiagonal ? i + 1 : 0; j < kFrameTile; ++j) sum[i][j] += early[i] * (kDiagonal ? early : late)[j];
    }
  }
  const A share = A(1) / static_cast<A>(a.C);
#pragma unroll
  for (int i = 0; i < kFrameTile; ++i) {
#pragma unroll
    for (int j = kDiagonal ? i + 1 : 0; j < kFrameTile; ++j) {
      if (second + j >= a.T) continue;
      y.at(u.n, a.pair(first + i, second + j), 0)[u.position * y.p] = static_cast<T>(sum[i][j] * share);
    }
  }
}

// blockIdx.y: a tile of frames of the result; blockIdx.z: a tile of channels.
template <class T>
__global__ void __launch_bounds__(kPairThreads, 3)
    descriptor_backward_kernel(const __grid_constant__ DescriptorArgs a, const __grid_constant__ Steps<const T> x,
                               const __grid_constant__ Steps<const T> grad, const __grid_constant__ Steps<T> dx) {
  using A = device_acc_t<T>;
  const Unit u(a);
  if (!u.active) return;
  constexpr int kC = kChannelTile<T>;
  const int32_t first = static_cast<int32_t>(blockIdx.y) * kFrameTile, c0 = static_cast<int32_t>(blockIdx.z) * kC;
  const T* slopes = grad.data + u.n * grad.n + u.position * grad.p;
  A sum[kFrameTile][kC] = {};
#pragma unroll 1
  for (int32_t t0 = 0; t0 < a.T; t0 += kFrameTile) {
    A in[kFrameTile][kC];
#pragma unroll
    for (int j = 0; j < kFrameTile; ++j) {
      const T* from = x.at(u.n, c0, t0 + j) + u.position * x.p;
#pragma unroll
      for (int c = 0; c < kC; ++c) in[j][c] = t0 + j < a.T && c0 + c < a.C ? element(from + c * x.c) : A(0);
    }
    // Frames of the same tile meet twice, and share the gradient.
    const auto meet = [&](int i, int j, bool same) {
      const int32_t s = first + i, t = t0 + j;
      if (s >= a.T || t >= a.T) return;
      const A slope = element(slopes + a.pair(min(s, t), max(s, t)) * grad.c);
#pragma unroll
      for (int c = 0; c < kC; ++c) {
        sum[i][c] += slope * in[j][c];
        if (same) sum[j][c] += slope * in[i][c];
      }
    };
#pragma unroll
    for (int i = 0; i < kFrameTile; ++i) {
      if (t0 == first) {
#pragma unroll
        for (int j = i + 1; j < kFrameTile; ++j) meet(i, j, true);
      } else {
#pragma unroll
        for (int j = 0; j < kFrameTile; ++j) meet(i, j, false);
      }
    }
  }
  const A share = A(1) / static_cast<A>(a.C);
#pragma unroll
  for (int i = 0; i < kFrameTile; ++i) {
    if (first + i >= a.T) break;
    T* to = dx.at(u.n, c0, first + i) + u.position * dx.p;
#pragma unroll
    for (int c = 0; c < kC; ++c) {
      if (c0 + c < a.C) to[c * dx.c] = static_cast<T>(sum[i][c] * share);
    }
  }
}

struct DescriptorCall {
  DescriptorArgs args;
  uint32_t threads, blocks, tiles;

  DescriptorCall(const Clip& x, int64_t of_block) {
    const int64_t units = x.N * x.P, tile_count = (x.T + kFrameTile - 1) / kFrameTile;
    STD_TORCH_CHECK(
        units < (int64_t{1} << 30) && x.C < (1 << 17) - 1 && tile_count < 256,
        "features are too large for the CUDA kernels: at most 2^30 positions, 2^17 - 2 channels, 2040 frames");
    args = {static_cast<int32_t>(x.C), static_cast<int32_t>(x.T), static_cast<uint32_t>(units),
            Divisor(static_cast<uint32_t>(x.P))};
    threads = static_cast<uint32_t>(of_block);
    blocks = static_cast<uint32_t>((units + of_block - 1) / of_block);
    tiles = static_cast<uint32_t>(tile_count);
  }
};

// Images (N, K, h, w), which kernels walk as a clip of one frame.
template <class T>
Steps<T> steps_of_pairs(const Tensor& images) {
  const int64_t step = images.size(3) > 1 ? images.stride(3) : images.stride(2);
  return {static_cast<T*>(images.data_ptr()), images.stride(0), images.stride(1), 0, step};
}

Tensor temporal_descriptor(Tensor features) {
  const DeviceScope device(features);
  check_features(features);
  const Tensor x = native_clip(features);
  const Clip cx = describe(x);
  Tensor y = empty_images(x, cx, pairs_of(cx.T));
  if (y.numel() == 0) return y;
  const DescriptorCall call(cx, tuned::threads.get());
  dispatch_float(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto run = [&](auto kernel, uint32_t across) {
      launch(kernel, dim3(call.blocks, across), dim3(call.threads), 0, device, call.args, steps_of<const T>(x),
             steps_of_pairs<T>(y));
    };
    run(descriptor_kernel<T, true>, call.tiles);
    if (call.tiles > 1) run(descriptor_kernel<T, false>, call.tiles * (call.tiles - 1) / 2);
  });
  return y;
}

Tensor temporal_descriptor_backward(Tensor grad, Tensor features) {
  const DeviceScope device(features);
  check_descriptor_gradient(grad, features);
  const Tensor x = native_clip(features);
  const Clip cx = describe(x);
  Tensor dx = empty_clip(x, cx, cx.T, cx.layout);
  if (grad.numel() == 0) torch::stable::zero_(dx);
  if (grad.numel() == 0) return dx;
  if (cx.H > 1 && cx.W > 1 && grad.stride(2) != cx.W * grad.stride(3)) grad = torch::stable::contiguous(grad);
  const DescriptorCall call(cx, tuned::backward_threads.get());
  dispatch_float(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const dim3 grid(call.blocks, call.tiles, static_cast<uint32_t>((cx.C + kChannelTile<T> - 1) / kChannelTile<T>));
    launch(descriptor_backward_kernel<T>, grid, dim3(call.threads), 0, device, call.args, steps_of<const T>(x),
           steps_of_pairs<const T>(grad), steps_of<T>(dx));
  });
  return dx;
}

VIDOPS_LIBRARY_IMPL(VIDOPS_NAMESPACE, VIDOPS_CUDA_KEY, m) {
  m.impl("temporal_descriptor", TORCH_BOX(&temporal_descriptor));
  m.impl("temporal_descriptor_backward", TORCH_BOX(&temporal_descriptor_backward));
}

}  // namespace
}  // namespace vidops
