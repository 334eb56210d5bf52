// What temporal_conv's kernels rely on. The public Python function has checked it already, with better messages; these
// guard calls of the registered operators themselves, from exported graphs or by hand.
#pragma once

#include "common/clip.h"
#include "common/temporal_taps.h"

namespace vidops {

inline void check_tensor(const Tensor& tensor, const char* name, const Tensor& x, int64_t numel) {
  STD_TORCH_CHECK(tensor.scalar_type() == x.scalar_type(), name, " must have the dtype of x");
  STD_TORCH_CHECK(tensor.get_device() == x.get_device(), name, " must be on the device of x");
  STD_TORCH_CHECK(tensor.numel() == numel, name, " must hold ", numel, " elements, got ", tensor.numel());
}

inline void check_call(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const Groups& groups,
                       int64_t stride) {
  STD_TORCH_CHECK(x.dim() == 5, "x must be a clip (N, C, T, H, W)");
  STD_TORCH_CHECK(x.size(1) == groups.channels, "groups must hold as many channels as x, ", x.size(1), ", got ",
                  groups.channels);
  STD_TORCH_CHECK(stride >= 1, "stride must be at least 1, got ", stride);
  check_tensor(weight, "weight", x, groups.weights);
  if (bias) check_tensor(*bias, "bias", x, groups.channels);
}

inline void check_gradient(const Tensor& grad, const Tensor& x, int64_t frames, const char* name = "grad") {
  STD_TORCH_CHECK(grad.dim() == 5, name, " must be a clip (N, C, T, H, W)");
  const int64_t shape[5] = {x.size(0), x.size(1), frames, x.size(3), x.size(4)};
  for (int64_t i = 0; i < 5; ++i) {
    STD_TORCH_CHECK(grad.size(i) == shape[i], name, " must have size ", shape[i], " in dimension ", i, ", got ",
                    grad.size(i));
  }
  check_tensor(grad, name, x, grad.numel());
}

// temporal_shift's: both folds fit into the channels.
inline void check_fold(const Tensor& x, int64_t fold) {
  STD_TORCH_CHECK(x.dim() == 5, "x must be a clip (N, C, T, H, W)");
  STD_TORCH_CHECK(fold >= 0 && 2 * fold <= x.size(1), "fold must be from 0 to C/2, got ", fold);
}

}  // namespace vidops
