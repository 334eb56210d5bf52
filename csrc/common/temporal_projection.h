// What the kernels of temporal_projection and temporal_descriptor share: guards of their operators, and how their
// results lie in memory. The public Python functions have checked a call already, with better messages.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "common/clip.h"

namespace vidops {

// Fields of a projection; bit i of `outputs` stands for field i.
enum ProjectionField { kCoefficients, kProjection, kResidual, kResidualMean, kEnergy, kError };
constexpr const char* kFieldNames[] = {"coefficients", "projection", "residual", "residual_mean", "energy", "error"};

struct ProjectionSize {
  int64_t frames, columns;  // T, D
  int64_t h, w;             // the basis' grid
};

inline ProjectionSize check_projection(const Tensor& x, const Tensor& basis) {
  STD_TORCH_CHECK(x.dim() == 5, "x must be a clip (N, C, T, H, W)");
  STD_TORCH_CHECK(x.size(1) > 0 && x.size(3) > 0 && x.size(4) > 0, "x must have channels and pixels");
  const int64_t frames = x.size(2);
  STD_TORCH_CHECK(frames >= 2 && frames <= 64, "x must have 2 to 64 frames, got ", frames);
  STD_TORCH_CHECK(basis.dim() == 5 && basis.size(0) == x.size(0) && basis.size(1) == frames,
                  "basis must be (N, T, D, h, w), of as many clips and frames as x");
  STD_TORCH_CHECK(basis.scalar_type() == x.scalar_type(), "basis must have the dtype of x");
  STD_TORCH_CHECK(basis.get_device() == x.get_device(), "basis must be on the device of x");
  const ProjectionSize s{frames, basis.size(2), basis.size(3), basis.size(4)};
  STD_TORCH_CHECK(s.columns >= 1 && s.columns <= 16 && s.columns < frames,
                  "basis must have 1 to 16 columns, fewer than frames, got ", s.columns);
  STD_TORCH_CHECK(s.h >= 1 && s.h <= x.size(3) && s.w >= 1 && s.w <= x.size(4),
                  "basis must have a grid of at least one cell and at most the pixels of a frame");
  return s;
}

inline ScalarType sums_dtype(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Tensor empty_strided_like(const Tensor& like, ScalarType dtype, std::initializer_list<int64_t> sizes,
                                 std::initializer_list<int64_t> strides) {
  int32_t device_type = 0, device_index = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  int32_t type = 0;
  if (dtype == like.scalar_type()) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &type));
  } else {
    type = dtype == ScalarType::Double ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32();
  }
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(sizes.size(), sizes.begin(), strides.begin(), type, device_type, device_index, &handle));
  return Tensor(handle);
}

// Uninitialised images (N, channels, H, W): contiguous, or channels last where the clip `c` is.
inline Tensor empty_images(const Tensor& like, const Clip& c, int64_t channels) {
  const int64_t K = channels, P = c.P, W = c.W;
  if (c.layout == Layout::kNTHWC) {
    return empty_strided_like(like, like.scalar_type(), {c.N, K, c.H, W}, {K * P, 1, W * K, K});
  }
  return empty_strided_like(like, like.scalar_type(), {c.N, K, c.H, W}, {K * P, P, W, 1});
}

// Uninitialised (N, D, C, H, W): D images of the clip's channels, which lie as empty_images has them.
inline Tensor empty_coefficients(const Tensor& like, const Clip& c, int64_t D) {
  const int64_t C = c.C, P = c.P, W = c.W;
  if (c.layout == Layout::kNTHWC) {
    return empty_strided_like(like, like.scalar_type(), {c.N, D, C, c.H, W}, {D * C * P, C * P, 1, W * C, C});
  }
  return empty_strided_like(like, like.scalar_type(), {c.N, D, C, c.H, W}, {D * C * P, C * P, P, W, 1});
}

// Field i of the results, empty where it is not wanted.
inline Tensor empty_field(const Tensor& x, const Clip& c, const ProjectionSize& size, int field, int64_t outputs) {
  const bool wanted = outputs >> field & 1;
  if (field == kEnergy || field == kError) {
    return empty_strided_like(x, sums_dtype(x), {wanted ? c.N : 0}, {1});
  }
  if (!wanted) return torch::stable::new_empty(x, {0});
  if (field == kCoefficients) return empty_coefficients(x, c, size.columns);
  return field == kResidualMean ? empty_images(x, c, c.C) : empty_clip(x, c, c.T, c.layout);
}

inline void check_shape(const Tensor& tensor, const std::string& name, std::initializer_list<int64_t> shape) {
  bool right = tensor.dim() == static_cast<int64_t>(shape.size());
  std::string wanted;
  for (int64_t i = 0; const int64_t size : shape) {
    right = right && tensor.size(i++) == size;
    wanted += (wanted.empty() ? "" : ", ") + std::to_string(size);
  }
  STD_TORCH_CHECK(right, name, " must have shape (", wanted, ")");
}

// The gradient of field i has the field's shape and dtype.
inline void check_field_gradient(const std::optional<Tensor>& grad, int field, const Tensor& x, int64_t columns) {
  if (!grad) return;
  const std::string name = std::string("grad_") + kFieldNames[field];
  const int64_t N = x.size(0), C = x.size(1), T = x.size(2), H = x.size(3), W = x.size(4);
  const bool sums = field == kEnergy || field == kError;
  if (sums) {
    check_shape(*grad, name, {N});
  } else if (field == kCoefficients) {
    check_shape(*grad, name, {N, columns, C, H, W});
  } else if (field == kResidualMean) {
    check_shape(*grad, name, {N, C, H, W});
  } else {
    check_shape(*grad, name, {N, C, T, H, W});
  }
  STD_TORCH_CHECK(grad->scalar_type() == (sums ? sums_dtype(x) : x.scalar_type()), name,
                  " must have the dtype of its field");
  STD_TORCH_CHECK(grad->get_device() == x.get_device(), name, " must be on the device of x");
}

inline bool same_strides(const Tensor& a, const Tensor& b) {
  for (int64_t i = 0; i < a.dim(); ++i) {
    if (a.size(i) > 1 && a.stride(i) != b.stride(i)) return false;
  }
  return true;
}

// The gradient of images that lie as `like` does, copied where it lies otherwise.
inline Tensor laid_out_as(const Tensor& grad, Tensor like) {
  if (same_strides(grad, like)) return grad;
  torch::stable::copy_(like, grad);
  return like;
}

inline int64_t pairs_of(int64_t frames) { return frames * (frames - 1) / 2; }

inline void check_features(const Tensor& features) {
  STD_TORCH_CHECK(features.dim() == 5, "features must be a clip (N, C, T, H, W)");
  STD_TORCH_CHECK(features.size(1) > 0, "features must have channels");
}

inline void check_descriptor_gradient(const Tensor& grad, const Tensor& features) {
  check_features(features);
  const bool right = grad.dim() == 4 && grad.size(0) == features.size(0) &&
                     grad.size(1) == pairs_of(features.size(2)) && grad.size(2) == features.size(3) &&
                     grad.size(3) == features.size(4);
  STD_TORCH_CHECK(right, "grad must have shape (N, T(T-1)/2, h, w)");
  STD_TORCH_CHECK(grad.scalar_type() == features.scalar_type(), "grad must have the dtype of features");
  STD_TORCH_CHECK(grad.get_device() == features.get_device(), "grad must be on the device of features");
}

}  // namespace vidops
