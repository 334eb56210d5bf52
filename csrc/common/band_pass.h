// What motion_band_pass's kernels share: which frames and pixels a result is made of, and the guards of its operators.
// The public Python function has checked a call already, with better messages.
#pragma once

#include <algorithm>
#include <optional>
#include <string>

#include "common/clip.h"
#include "common/temporal_checks.h"

namespace vidops {

struct BandPass {
  int64_t taps, reach;    // of the spatial filter along one axis, and those before its centre
  int64_t stride, first;  // result t reads the frames from t*stride + first on, held at the clip's ends
  int64_t frames_in, frames_out;

  int64_t frame(int64_t t, int64_t j) const { return std::clamp<int64_t>(t * stride + first + j, 0, frames_in - 1); }
  // The results that frame f may be part of: from first_result(f) to before end_result(f).
  int64_t first_result(int64_t f) const { return std::max<int64_t>(f - first - 2, 0) / stride; }
  int64_t end_result(int64_t f) const { return std::min((f - first) / stride + 1, frames_out); }
};

// A pixel beyond the edge is mirrored at the edge pixel.
inline int64_t mirrored(int64_t i, int64_t size) { return i < 0 ? -i : i >= size ? 2 * (size - 1) - i : i; }

inline BandPass band_pass_of(const Tensor& x, const Tensor& spatial, const Tensor& temporal, int64_t stride,
                             const std::string& padding) {
  STD_TORCH_CHECK(x.dim() == 5, "x must be a clip (N, C, T, H, W)");
  STD_TORCH_CHECK(stride >= 1, "stride must be at least 1, got ", stride);
  STD_TORCH_CHECK(padding == "valid" || padding == "replicate",
                  "temporal_padding must be 'valid' or 'replicate', got '", padding, "'");
  const int64_t k = spatial.dim() == 3 ? spatial.size(2) : 0, frames = x.size(2);
  STD_TORCH_CHECK(spatial.dim() == 3 && k % 2 == 1 && spatial.size(1) == k && spatial.size(0) == x.size(1),
                  "spatial must have shape (C, k, k), k odd");
  check_tensor(spatial, "spatial", x, x.size(1) * k * k);
  check_tensor(temporal, "temporal", x, x.size(1) * 3);
  for (int64_t size : {x.size(3), x.size(4)}) {
    STD_TORCH_CHECK(size == 0 || size > k / 2, "spatial_padding 'reflect' needs frames of more than ", k / 2,
                    " pixels each way");
  }
  STD_TORCH_CHECK(padding == "replicate" || frames >= 3, "temporal_padding 'valid' needs at least 3 frames");
  const int64_t span = padding == "valid" ? frames - 2 : frames;
  stride = std::min(stride, std::max<int64_t>(frames, 1));
  return {k, k / 2, stride, padding == "valid" ? 0 : -1, frames, (span + stride - 1) / stride};
}

// Each gradient that is there, as it can be walked together with x.
inline std::optional<Tensor> band_pass_gradient(const std::optional<Tensor>& grad, const char* name, const Tensor& x,
                                                const BandPass& call) {
  if (!grad) return std::nullopt;
  check_gradient(*grad, x, call.frames_out, name);
  return native_clip_like(*grad, describe(x));
}

}  // namespace vidops
