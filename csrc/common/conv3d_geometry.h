// Sizes of a depthwise 3-D convolution, and what its kernels rely on. The public Python function has checked it
// already, with better messages; these guard calls of the registered operators themselves.
#pragma once

#include <algorithm>
#include <vector>

#include "common/temporal_checks.h"

namespace vidops {

constexpr int64_t kMaxKernel = 9;  // taps on an axis

// One axis: result o is centred so that its tap k meets input o * stride + k * dilation - padding.
struct ConvAxis {
  int64_t in, out, taps, stride, padding, dilation;
};

struct ConvGeometry {
  ConvAxis t, h, w;
  int64_t channels, taps;
};

inline ConvGeometry conv_geometry(const Tensor& x, const Tensor& weight, const std::vector<int64_t>& stride,
                                  const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation) {
  STD_TORCH_CHECK(x.dim() == 5, "x must be a clip (N, C, T, H, W)");
  STD_TORCH_CHECK(weight.dim() == 5 && weight.size(0) == x.size(1) && weight.size(1) == 1,
                  "weight must have shape (C, 1, kt, kh, kw)");
  STD_TORCH_CHECK(stride.size() == 3 && padding.size() == 3 && dilation.size() == 3,
                  "stride, padding and dilation must hold 3 numbers");
  check_tensor(weight, "weight", x, weight.numel());
  ConvGeometry g;
  g.channels = x.size(1), g.taps = 1;
  ConvAxis* const axes[3] = {&g.t, &g.h, &g.w};
  for (int i = 0; i < 3; ++i) {
    ConvAxis& a = *axes[i];
    a.in = x.size(2 + i), a.taps = weight.size(2 + i);
    a.stride = stride[i], a.padding = padding[i], a.dilation = dilation[i];
    STD_TORCH_CHECK(a.taps % 2 == 1 && a.taps <= kMaxKernel, "weight must have odd kernel sizes of at most ",
                    kMaxKernel, ", got ", a.taps);
    constexpr int64_t most = int64_t{1} << 40;
    STD_TORCH_CHECK(a.stride >= 1 && a.stride < most, "stride must be at least 1, got ", a.stride);
    STD_TORCH_CHECK(a.padding >= 0 && a.padding < most, "padding must be at least 0, got ", a.padding);
    STD_TORCH_CHECK(a.dilation >= 1 && a.dilation < most, "dilation must be at least 1, got ", a.dilation);
    const int64_t span = a.in + 2 * a.padding - a.dilation * (a.taps - 1);
    STD_TORCH_CHECK(a.in == 0 || span >= 1, "x is too small for weight in dimension ", 2 + i);
    a.out = a.in == 0 ? 0 : (span - 1) / a.stride + 1;
    g.taps *= a.taps;
  }
  return g;
}

inline void check_conv_gradient(const Tensor& grad, const Tensor& x, const ConvGeometry& g) {
  STD_TORCH_CHECK(grad.dim() == 5, "grad must be a clip (N, C, T, H, W)");
  const int64_t shape[5] = {x.size(0), x.size(1), g.t.out, g.h.out, g.w.out};
  for (int64_t i = 0; i < 5; ++i) {
    STD_TORCH_CHECK(grad.size(i) == shape[i], "grad must have size ", shape[i], " in dimension ", i, ", got ",
                    grad.size(i));
  }
  check_tensor(grad, "grad", x, grad.numel());
}

// An uninitialised result in the layout of x.
inline Tensor empty_conv_result(const Tensor& x, const Clip& cx, const ConvGeometry& g) {
  Clip shape = cx;
  shape.H = g.h.out, shape.W = g.w.out, shape.P = g.h.out * g.w.out;
  return empty_clip(x, shape, g.t.out, cx.layout);
}

}  // namespace vidops
