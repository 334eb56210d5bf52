// depthwise_conv3d on CUDA devices.
//
// Floor: x read once and y written once; at 27 taps (3x3x3) memory is the limit in fp32 and arithmetic nearly so in
// bf16, at 147 (3x7x7) arithmetic is. A thread owns V rows of one column of one channel and walks through the frames
// with the kt results that a frame reaches in registers. So a frame's element is asked for kh * kw times by
// neighbouring threads, from the first-level cache after the first, not kt * kh * kw times, and V rows share (V - 1) *
// stride + kh rows of loads: 18 loads for 108 multiply-adds at 3x3x3 and V = 4. Neighbouring threads are neighbouring
// columns in the planar layouts and neighbouring channels in channels last, so a warp's loads are whole lines in both.
// Taps are in shared memory, one set a block or one a lane.
//
// Backward, the input's gradient is the same walk with the taps mirrored. The taps' gradient walks the same way, a
// frame of the input meeting the kt gradients it made in registers, with a sum a tap; threads sum hundreds of products
// in fp32, a block adds its threads in a fixed tree, and a second small kernel adds the blocks in fp64. No atomics.
//
// The zeros around a clip are part of the walks, and their products with what is not finite are no part of a result: a
// block with such a tap, and a thread for the frames with such a gradient, goes tap by tap and leaves them out.
//
// Compiled are 3x3x3 with a stride of 1 or 2 in height and 3x7x7, in fp32 and the 2-byte types; everything else, and
// fp64, takes plain loops, as does the input's gradient under strides.
//
// Predicted: 1.5 x floor forward at 3x3x3, 2 x at 3x7x7 on an H200. Not yet measured on a GPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <bit>
#include <optional>
#include <tuple>

#include "common/conv3d_geometry.h"
#include "common/dispatch.h"
#include "common/namespace.h"
#include "cuda/depthwise_conv3d_forward.cuh"
#include "cuda/depthwise_conv3d_weight.cuh"
#include "cuda/tuning.cuh"

namespace vidops {
namespace {

constexpr uint32_t kMostGrid = 65535;

namespace tuned {
Tunable channel_lanes("depthwise_conv3d", "channel_lanes", 32, {8, 16, 32});  // of a block, in channels last, at most
// Of a block, one after the other: clips in compiled walks, frames in plain loops. More share the taps.
Tunable clips("depthwise_conv3d", "clips", 1, {1, 2, 4});
Tunable frames("depthwise_conv3d", "frames", 1, {1, 2, 4, 8});
// Products that a thread sums, about, before its block adds them up.
Tunable products("depthwise_conv3d", "products", 128, {32, 64, 128, 256});
}  // namespace tuned

ClipSteps steps_of(const Clip& c) { return {c.sN, c.sC, c.sT, c.sP}; }

int32_t narrowed(int64_t value) {
  STD_TORCH_CHECK(value < (int64_t{1} << 30), "x is too large for the CUDA kernels: ", value, " is 2^30 or more");
  return static_cast<int32_t>(value);
}

ConvSizes sizes(const ConvGeometry& g, int64_t ConvAxis::* field) {
  return {narrowed(g.t.*field), narrowed(g.h.*field), narrowed(g.w.*field)};
}

ConvArgs3d arguments(const ConvGeometry& g, const Clip& x, const Clip& y) {
  ConvArgs3d a;
  a.clips = x.N, a.channels = x.C;
  a.in = sizes(g, &ConvAxis::in), a.out = sizes(g, &ConvAxis::out), a.taps = sizes(g, &ConvAxis::taps);
  a.stride = sizes(g, &ConvAxis::stride), a.padding = sizes(g, &ConvAxis::padding);
  a.dilation = sizes(g, &ConvAxis::dilation);
  a.from = steps_of(x), a.to = steps_of(y);
  a.lanes_log2 = x.channels_last() ? std::countr_zero(static_cast<uint64_t>(tuned::channel_lanes.get())) : 0;
  a.transposed = false;
  // What threads count with, in 32 bits: positions of all clips, and how far an axis is reached.
  for (const ConvAxis& axis : {g.t, g.h, g.w}) narrowed(axis.in + 2 * axis.padding + axis.dilation * axis.taps);
  for (const Clip& c : {x, y}) narrowed(std::max<int64_t>(c.N, 1) * c.T * c.P);
  return a;
}

// From the result's gradient to the input's.
ConvArgs3d transposed(ConvArgs3d a, const Clip& grad, const Clip& dx) {
  std::swap(a.in, a.out);
  a.from = steps_of(grad), a.to = steps_of(dx);
  a.transposed = true;
  return a;
}

bool is(const ConvSizes& s, int32_t t, int32_t h, int32_t w) { return s.t == t && s.h == h && s.w == w; }

uint32_t limited(int64_t blocks) { return static_cast<uint32_t>(std::min<int64_t>(blocks, kMostGrid)); }

dim3 grid_of(const ConvArgs3d& a, int64_t positions, int64_t slabs) {
  const int64_t rows = kConvThreads >> a.lanes_log2, across = (a.channels + (1 << a.lanes_log2) - 1) >> a.lanes_log2;
  STD_TORCH_CHECK(across <= kMostGrid, "x has too many channels for the CUDA kernels: ", a.channels);
  const int64_t blocks = (positions + rows - 1) / rows;
  STD_TORCH_CHECK(blocks < (int64_t{1} << 31), "x has too many positions for the CUDA kernels: ", positions);
  return dim3(static_cast<uint32_t>(blocks), static_cast<uint32_t>(across), limited(slabs));
}

template <class T, int KT, int KH, int KW, int S, int V>
void launch_walk(ConvArgs3d a, size_t shared, const DeviceScope& device, const T* x, const T* weight, const T* bias,
                 T* y) {
  if (a.transposed) a.padding = {KT - 1 - a.padding.t, KH - 1 - a.padding.h, KW - 1 - a.padding.w};
  const int64_t each = tuned::clips.get(), columns = static_cast<int64_t>((a.out.h + V - 1) / V) * a.out.w;
  const dim3 grid = grid_of(a, columns, (a.clips + each - 1) / each);
  launch(conv_walk_kernel<T, KT, KH, KW, S, V>, grid, dim3(kConvThreads), shared, device, a, x, weight, bias, y);
}

template <class T>
void convolve(ConvArgs3d a, const DeviceScope& device, const T* x, const T* weight, const T* bias, T* y) {
  // A warp's width of 9 x 9 x 9 taps does not fit the shared memory of a block.
  const int64_t taps = static_cast<int64_t>(a.taps.t) * a.taps.h * a.taps.w * sizeof(device_acc_t<T>);
  const auto shared_bytes = [&] { return (taps << a.lanes_log2) + static_cast<int64_t>(sizeof(int32_t)); };
  while (shared_bytes() > 48 << 10) --a.lanes_log2;
  const size_t shared = shared_bytes();
  if constexpr (sizeof(T) < 8) {
    const bool walks = a.stride.t == 1 && is(a.dilation, 1, 1, 1) && !(a.transposed && !is(a.stride, 1, 1, 1));
    if (walks && is(a.taps, 3, 3, 3) && a.stride.h == 1) {
      return launch_walk<T, 3, 3, 3, 1, 4>(a, shared, device, x, weight, bias, y);
    }
    if (walks && is(a.taps, 3, 3, 3) && a.stride.h == 2) {
      return launch_walk<T, 3, 3, 3, 2, 2>(a, shared, device, x, weight, bias, y);
    }
    if (walks && is(a.taps, 3, 7, 7) && a.stride.h == 1) {
      return launch_walk<T, 3, 7, 7, 1, 4>(a, shared, device, x, weight, bias, y);
    }
  }
  const int64_t each = tuned::frames.get(), plane = static_cast<int64_t>(a.out.h) * a.out.w;
  const dim3 grid = grid_of(a, plane, (a.clips * a.out.t + each - 1) / each);
  launch(conv_any_kernel<T>, grid, dim3(kConvThreads), shared, device, a, x, weight, bias, y);
}

// Sums of slots [first, slots): the taps' come first, the bias's last.
template <class T>
void sum_gradients(const ConvArgs3d& a, const DeviceScope& device, const Tensor& grad, const Tensor& x, Tensor& dweight,
                   Tensor& dbias) {
  using A = device_acc_t<T>;
  const int32_t taps = a.taps.t * a.taps.h * a.taps.w;
  const bool need_weight = dweight.numel() > 0, need_bias = dbias.numel() > 0;
  const int32_t first = need_weight ? 0 : taps, slots = taps + (need_bias ? 1 : 0);
  const int64_t rows = kConvThreads >> a.lanes_log2, plane = static_cast<int64_t>(a.out.h) * a.out.w;
  const int64_t each = std::max<int64_t>(tuned::products.get() / a.out.t, 1) * a.out.t;
  const int64_t shares = limited((a.clips * a.out.t * plane + rows * each - 1) / (rows * each));
  const Tensor partial =
      torch::stable::new_empty(x, {a.channels * slots * shares}, torch::headeronly::CppTypeToScalarType<A>::value);
  const T *g = static_cast<const T*>(grad.data_ptr()), *from = static_cast<const T*>(x.data_ptr());
  A* sums = static_cast<A*>(partial.data_ptr());
  dim3 grid = grid_of(a, 1, 1);
  grid.x = static_cast<uint32_t>(shares);
  const auto any = [&](int32_t slot, int32_t count) {
    if (count == 0) return;
    grid.z = count;
    launch(weight_any_kernel<T>, grid, dim3(kConvThreads), (sizeof(A) * kConvWarps) << a.lanes_log2, device, a, g, from,
           slot, slots, sums);
  };
  const auto walk = [&](auto* kernel, int32_t count, int32_t parts) {
    grid.z = parts;
    launch(kernel, grid, dim3(kConvThreads), (sizeof(A) * kConvWarps * count) << a.lanes_log2, device, a, g, from,
           slots, sums);
    any(taps, slots - taps);
  };
  const bool walks = sizeof(T) < 8 && a.stride.t == 1 && a.dilation.t == 1 && need_weight;
  if (walks && is(a.taps, 3, 3, 3)) {
    if constexpr (sizeof(T) < 8) walk(&weight_walk_kernel<T, 3, 3, 3>, 27, 1);
  } else if (walks && is(a.taps, 3, 7, 7)) {
    if constexpr (sizeof(T) < 8) walk(&weight_walk_kernel<T, 3, 1, 7>, 21, 7);
  } else {
    any(first, slots - first);
  }
  const int64_t count = a.channels * (slots - first);
  launch(sum_shares_kernel<T>, dim3((count + kConvWarps - 1) / kConvWarps), dim3(kConvThreads), 0, device,
         static_cast<const A*>(sums), count, first, slots, taps, shares,
         need_weight ? static_cast<T*>(dweight.data_ptr()) : nullptr,
         need_bias ? static_cast<T*>(dbias.data_ptr()) : nullptr);
}

Tensor depthwise_conv3d(Tensor x, Tensor weight, std::optional<Tensor> bias, std::vector<int64_t> stride,
                        std::vector<int64_t> padding, std::vector<int64_t> dilation) {
  const DeviceScope device(x);
  const ConvGeometry g = conv_geometry(x, weight, stride, padding, dilation);
  if (bias) check_tensor(*bias, "bias", x, g.channels);
  x = native_clip(x);
  Tensor y = empty_conv_result(x, describe(x), g);
  if (y.numel() == 0) return y;
  const Tensor w = torch::stable::contiguous(weight);
  std::optional<Tensor> b;
  if (bias) b = torch::stable::contiguous(*bias);
  dispatch_float(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    convolve<T>(arguments(g, describe(x), describe(y)), device, static_cast<const T*>(x.data_ptr()),
                static_cast<const T*>(w.data_ptr()), b ? static_cast<const T*>(b->data_ptr()) : nullptr,
                static_cast<T*>(y.data_ptr()));
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> depthwise_conv3d_backward(Tensor grad, Tensor x, Tensor weight,
                                                             std::vector<int64_t> stride, std::vector<int64_t> padding,
                                                             std::vector<int64_t> dilation, bool need_x,
                                                             bool need_weight, bool need_bias) {
  const DeviceScope device(x);
  const ConvGeometry g = conv_geometry(x, weight, stride, padding, dilation);
  check_conv_gradient(grad, x, g);
  x = native_clip(x);
  const Clip cx = describe(x);
  grad = native_clip_like(grad, cx);
  Tensor dx = need_x ? empty_clip(x, cx, cx.T, cx.layout) : torch::stable::new_empty(x, {0});
  Tensor dw = need_weight ? torch::stable::new_empty(x, {cx.C, 1, g.t.taps, g.h.taps, g.w.taps})
                          : torch::stable::new_empty(x, {0});
  Tensor db = torch::stable::new_empty(x, {need_bias ? cx.C : 0});
  if (grad.numel() == 0) {
    torch::stable::zero_(dx), torch::stable::zero_(dw), torch::stable::zero_(db);
    return {dx, dw, db};
  }
  const Tensor w = torch::stable::contiguous(weight);
  const ConvArgs3d a = arguments(g, cx, describe(grad));
  dispatch_float(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* none = nullptr;
    if (need_x) {
      convolve<T>(transposed(a, describe(grad), describe(dx)), device, static_cast<const T*>(grad.data_ptr()),
                  static_cast<const T*>(w.data_ptr()), none, static_cast<T*>(dx.data_ptr()));
    }
    if (need_weight || need_bias) sum_gradients<T>(a, device, grad, x, dw, db);
  });
  return {dx, dw, db};
}

VIDOPS_LIBRARY_IMPL(VIDOPS_NAMESPACE, VIDOPS_CUDA_KEY, m) {
  m.impl("depthwise_conv3d", TORCH_BOX(&depthwise_conv3d));
  m.impl("depthwise_conv3d_backward", TORCH_BOX(&depthwise_conv3d_backward));
}

}  // namespace
}  // namespace vidops
