// motion_band_pass on the CPU: the temporal filter first, so that the k x k one has T/stride frames to do.
//
// Floor: x read once, the results written once, k*k + 3 multiply-adds an element of the result. At k 7 and 9 that is
// arithmetic as much as memory: 2.6 ms and 3 ms at 50 GB/s for 1x256x8x56x56 and one core of 128 multiply-adds a ns.
//
// A thread takes one result frame of one place (a channel, or in channels last a vector of channels) at a time. Rows of
// the three input frames are combined into a padded scratch plane just before they are needed; a band of rows later,
// while all of it is in the first two caches, a register tile goes over it (plane_conv.h, lane_conv.h). The band's
// results are then written in one sequential stream, past the caches where they are large.
//
// Backward, for each result frame, from g = grad - grad_quiet: D is the adjoint of the spatial filter, a convolution
// of the zero-padded g with the taps turned round, over the padded frame, whose border is then folded onto the pixels
// that it mirrors. dx[f] is the sum of temporal tap * D over the results that read frame f, d temporal[j] the product
// of D with frame j, d spatial the products of g with the plane that forward convolves, made again. Products are summed
// in fp32 over at most 128 a lane, in fp64 above, in an order that no number of threads changes.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <tuple>

#include "common/dispatch.h"
#include "common/namespace.h"
#include "cpu/motion_band_pass_backward.h"
#include "cpu/motion_band_pass_forward.h"

namespace vidops {
namespace {

template <class T>
View<T> view(const Tensor& tensor) {
  return {static_cast<T*>(tensor.data_ptr()), describe(tensor)};
}

template <class T>
std::optional<View<T>> view(const std::optional<Tensor>& tensor) {
  if (!tensor) return std::nullopt;
  return view<T>(*tensor);
}

// f(integral_constant<Walk>): channels last with few channels is gathered a channel at a time.
template <class T, class F>
void with_walk(const Clip& x, F&& f) {
  if (!x.channels_last()) return f(std::integral_constant<Walk, Walk::kPlanar>{});
  if (x.C < kLanes<T> / 2) return f(std::integral_constant<Walk, Walk::kGather>{});
  f(std::integral_constant<Walk, Walk::kLanes>{});
}

std::tuple<Tensor, Tensor> motion_band_pass(Tensor x, Tensor spatial, Tensor temporal, int64_t stride,
                                            std::string temporal_padding, bool quiet) {
  const BandPass call = band_pass_of(x, spatial, temporal, stride, temporal_padding);
  x = native_clip(x);
  const Clip cx = describe(x);
  Tensor y = empty_clip(x, cx, call.frames_out, cx.layout);
  Tensor q = quiet ? empty_clip(x, cx, call.frames_out, cx.layout) : torch::stable::new_empty(x, {0});
  if (y.numel() == 0) return {y, q};
  const Tensor over_space = torch::stable::contiguous(spatial), over_time = torch::stable::contiguous(temporal);
  dispatch_float(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    with_walk<T>(cx, [&](auto walk) {
      const PlaceTaps<T, walk> taps(static_cast<const T*>(over_space.data_ptr()),
                                    static_cast<const T*>(over_time.data_ptr()), cx.C, call.taps, false);
      const std::optional<Tensor> second = quiet ? std::optional<Tensor>(q) : std::nullopt;
      band_pass_forward<T, walk>(call, taps, view<T>(x), view<T>(y), view<T>(second));
    });
  });
  return {y, q};
}

std::tuple<Tensor, Tensor, Tensor> motion_band_pass_backward(std::optional<Tensor> grad,
                                                             std::optional<Tensor> grad_quiet, Tensor x, Tensor spatial,
                                                             Tensor temporal, int64_t stride,
                                                             std::string temporal_padding, bool need_x,
                                                             bool need_spatial, bool need_temporal) {
  const BandPass call = band_pass_of(x, spatial, temporal, stride, temporal_padding);
  x = native_clip(x);
  const Clip cx = describe(x);
  grad = band_pass_gradient(grad, "grad", x, call);
  grad_quiet = band_pass_gradient(grad_quiet, "grad_quiet", x, call);
  Tensor dx = need_x ? empty_clip(x, cx, cx.T, cx.layout) : torch::stable::new_empty(x, {0});
  const int64_t C = cx.C, k = call.taps;
  Tensor ds = need_spatial ? torch::stable::new_empty(x, {C, k, k}) : torch::stable::new_empty(x, {0});
  Tensor dt = need_temporal ? torch::stable::new_empty(x, {C, 3}) : torch::stable::new_empty(x, {0});
  if (cx.numel() == 0 || (!grad && !grad_quiet)) {
    torch::stable::zero_(dx), torch::stable::zero_(ds), torch::stable::zero_(dt);
    return {dx, ds, dt};
  }
  const Tensor over_space = torch::stable::contiguous(spatial), over_time = torch::stable::contiguous(temporal);
  dispatch_float(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* first = static_cast<const T*>(over_space.data_ptr());
    with_walk<T>(cx, [&](auto walk) {
      const PlaceTaps<T, walk> taps(first, static_cast<const T*>(over_time.data_ptr()), C, k, true);
      BandPassGradients<T> out{};
      if (need_x) out.x = view<T>(dx);
      if (need_spatial) out.spatial = static_cast<T*>(ds.data_ptr());
      if (need_temporal) out.temporal = static_cast<T*>(dt.data_ptr());
      band_pass_backward<T, walk>(call, taps, all_finite(first, C * k * k), view<T>(grad), view<T>(grad_quiet),
                                  view<T>(x), out);
    });
  });
  return {dx, ds, dt};
}

VIDOPS_LIBRARY_IMPL(VIDOPS_NAMESPACE, CPU, m) {
  m.impl("motion_band_pass", TORCH_BOX(&motion_band_pass));
  m.impl("motion_band_pass_backward", TORCH_BOX(&motion_band_pass_backward));
}

}  // namespace
}  // namespace vidops
