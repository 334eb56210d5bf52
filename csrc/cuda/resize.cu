// resize on CUDA devices: bilinear resampling of every frame, and its transpose, gathered.
//
// Floor: x read once, y written once. A thread owns one position of the result (planar layouts), or 16 bytes of
// channels of it (channels last), in every gridDim.y-th frame, so that where it reads is found once for several frames.
// The four pixels of a result, and those that neighbouring threads share, come from the L1 cache. Where a pixel is read
// is an exact whole number in units of 1 / (2 * out), so weights are as exact as their type. Backward a thread adds up,
// row by row, the gradients of the results that read its pixel: in a fixed order, without atomics.
//
// Predicted: 1.3 x floor forward at fp32; 2-byte types in planar layouts take twice the requests a byte. Not yet
// measured on a GPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>

#include "common/columns.h"
#include "common/dispatch.h"
#include "common/namespace.h"
#include "common/pack.h"
#include "common/resize.h"
#include "cuda/bilinear.cuh"
#include "cuda/tuning.cuh"

namespace vidops {
namespace {

constexpr int kMostThreads = 256;  // of a block

namespace tuned {
Tunable threads("resize", "threads", 256, {64, 128, 256});  // of a block
Tunable frames("resize", "frames", 4, {1, 2, 4, 8});        // of a thread, where there are so many
}  // namespace tuned

struct ResizeArgs {
  Axis rows, columns;
  ColumnStrides x, y;  // unit: of a position
  uint32_t planes;     // frames, each of them of one channel in planar layouts
  int32_t row_x;       // positions of a row of x
  uint32_t units;      // threads a plane
  Divisor by_places, by_width, by_frames, by_channels;
};

template <class T, int V, class F>
__device__ __forceinline__ void each_plane(const ResizeArgs& a, const T* x, T* y, F&& f) {
  for (uint32_t plane = blockIdx.y; plane < a.planes; plane += gridDim.y) {
    const uint32_t channels = a.by_frames.divide(plane), clips = a.by_channels.divide(channels);
    const int64_t t = plane - channels * a.by_frames.divisor, c = channels - clips * a.by_channels.divisor, n = clips;
    device_acc_t<T> sum[V] = {};
    f(x + n * a.x.clip + c * a.x.place + t * a.x.frame, sum);
    store_values<T, V>(y + n * a.y.clip + c * a.y.place + t * a.y.frame, sum);
  }
}

template <class T, int V>
__device__ __forceinline__ void add(device_acc_t<T> (&sum)[V], device_acc_t<T> weight, const T* x) {
  const Pack<T, V> pack = load_pack<V>(x);
#pragma unroll
  for (int v = 0; v < V; ++v) sum[v] += weight * value(pack, v);
}

template <class T, int V, bool kBackward>
__global__ void __launch_bounds__(kMostThreads, 1)
    resize_kernel(const __grid_constant__ ResizeArgs a, const T* __restrict__ x, T* __restrict__ y) {
  using A = device_acc_t<T>;
  const uint32_t unit = blockIdx.x * blockDim.x + threadIdx.x;
  if (unit >= a.units) return;
  const uint32_t position = a.by_places.divide(unit), row = a.by_width.divide(position);
  const int64_t channel = int64_t{V} * (unit - position * a.by_places.divisor);
  const int32_t i = static_cast<int32_t>(row), j = static_cast<int32_t>(position - row * a.by_width.divisor);
  x += channel, y += channel + position * a.y.unit;
  const int64_t step = a.x.unit, down = a.row_x * step;
  if constexpr (kBackward) {
    const Readers<A> rows(a.rows, i), columns(a.columns, j);
    each_plane<T, V>(a, x, y, [&](const T* from, A(&sum)[V]) {
      for (int32_t r = rows.begin; r < rows.end; ++r) {
        const A of_row = rows.weight(r);
        if (of_row == 0) continue;
        A across[V] = {};
        for (int32_t c = columns.begin; c < columns.end; ++c) {
          const A weight = columns.weight(c);
          if (weight != 0) add<T, V>(across, weight, from + r * down + c * step);
        }
#pragma unroll
        for (int v = 0; v < V; ++v) sum[v] += of_row * across[v];
      }
    });
  } else {
    const Two<A> rows(a.rows, i), columns(a.columns, j);
    each_plane<T, V>(a, x, y, [&](const T* from, A(&sum)[V]) {
      A below[V] = {};
      add<T, V>(sum, columns.first, from + rows.low * down + columns.low * step);
      add<T, V>(sum, columns.second, from + rows.low * down + columns.high * step);
      add<T, V>(below, columns.first, from + rows.high * down + columns.low * step);
      add<T, V>(below, columns.second, from + rows.high * down + columns.high * step);
#pragma unroll
      for (int v = 0; v < V; ++v) sum[v] = rows.first * sum[v] + rows.second * below[v];
    });
  }
}

template <class T, int V>
void run(const Tensor& x, const Clip& cx, const Tensor& y, const Clip& cy, bool backward, const DeviceScope& device) {
  const bool last = cx.layout == Layout::kNTHWC;
  const auto axis = [&](int64_t from, int64_t to) {
    const int64_t in = backward ? to : from, out = backward ? from : to;
    return Axis::of(in, out);
  };
  const int64_t places = last ? cx.C / V : 1;
  STD_TORCH_CHECK(places * cy.P < int64_t{1} << 31, "frames of 2^31 elements are too large for the CUDA kernels");
  ResizeArgs a{};
  a.rows = axis(cx.H, cy.H), a.columns = axis(cx.W, cy.W);
  a.x = {cx.sN, cx.sC, cx.sT, cx.sP}, a.y = {cy.sN, cy.sC, cy.sT, cy.sP};
  const int64_t channels = last ? 1 : cx.C, planes = cx.N * cx.T * channels;
  STD_TORCH_CHECK(planes < int64_t{1} << 30, "x has too many frames for the CUDA kernels: ", planes);
  a.planes = static_cast<uint32_t>(planes);
  a.by_frames = Divisor(static_cast<uint32_t>(cx.T)), a.by_channels = Divisor(static_cast<uint32_t>(channels));
  a.row_x = static_cast<int32_t>(cx.W);
  a.units = static_cast<uint32_t>(places * cy.P);
  a.by_places = Divisor(static_cast<uint32_t>(places)), a.by_width = Divisor(static_cast<uint32_t>(cy.W));
  const uint32_t threads = static_cast<uint32_t>(tuned::threads.get());
  const int64_t frames = tuned::frames.get();
  const dim3 grid((a.units + threads - 1) / threads,
                  static_cast<uint32_t>(std::min<int64_t>((planes + frames - 1) / frames, 65535)));
  launch(backward ? resize_kernel<T, V, true> : resize_kernel<T, V, false>, grid, dim3(threads), 0, device, a,
         static_cast<const T*>(x.data_ptr()), static_cast<T*>(y.data_ptr()));
}

// Whether channels can be moved 16 bytes at a time.
bool whole_packs(const Tensor& x, const Clip& c, int64_t V) {
  const auto divides = [&](int64_t extent, int64_t stride) { return extent <= 1 || stride % V == 0; };
  return c.layout == Layout::kNTHWC && c.C % V == 0 && divides(c.N, c.sN) && divides(c.T, c.sT) && divides(c.P, c.sP) &&
         reinterpret_cast<uintptr_t>(x.data_ptr()) % 16 == 0;
}

Tensor resample(const Tensor& input, int64_t height, int64_t width, bool backward) {
  const DeviceScope device(input);
  check_frames(input, height, width);
  const Tensor x = native_clip(input);
  const Clip cx = describe(x), cy = with_frames(cx, height, width);
  Tensor y = empty_clip(x, cy, cy.T, cy.layout);
  if (y.numel() == 0) return y;
  dispatch_float(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    constexpr int V = 16 / sizeof(T);
    (whole_packs(x, cx, V) ? run<T, V> : run<T, 1>)(x, cx, y, cy, backward, device);
  });
  return y;
}

Tensor resize(Tensor x, int64_t height, int64_t width) { return resample(x, height, width, false); }
Tensor resize_backward(Tensor grad, int64_t height, int64_t width) { return resample(grad, height, width, true); }

VIDOPS_LIBRARY_IMPL(VIDOPS_NAMESPACE, VIDOPS_CUDA_KEY, m) {
  m.impl("resize", TORCH_BOX(&resize));
  m.impl("resize_backward", TORCH_BOX(&resize_backward));
}

}  // namespace
}  // namespace vidops
