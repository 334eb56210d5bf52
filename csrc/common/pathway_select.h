// What the kernels of pathway_select share: guards of their operators, and how their results lie in memory. The public
// Python function has checked a call already, with better messages.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <tuple>
#include <vector>

#include "common/clip.h"

namespace vidops {

constexpr int64_t kMostPathways = 8;

struct SelectSize {
  int64_t N, C, T;
  int64_t pathways;  // M
  int64_t frames;    // of the logits: T, or 1 where those of a channel are the same in all frames
};

inline void check_pathway(const Tensor& path, const char* name, const Tensor& first) {
  STD_TORCH_CHECK(path.dim() == 5, name, " must be a clip (N, C, T, H, W)");
  for (int64_t i = 0; i < 5; ++i) {
    STD_TORCH_CHECK(path.size(i) == first.size(i), name, " must have the shape of paths[0]");
  }
  STD_TORCH_CHECK(path.scalar_type() == first.scalar_type(), name, " must have the dtype of paths[0]");
  STD_TORCH_CHECK(path.get_device() == first.get_device(), name, " must be on the device of paths[0]");
}

inline SelectSize check_pathway_select(const std::vector<Tensor>& paths, const Tensor& logits) {
  const int64_t M = static_cast<int64_t>(paths.size());
  STD_TORCH_CHECK(M >= 1 && M <= kMostPathways, "paths must hold 1 to ", kMostPathways, " clips, got ", M);
  const Tensor& first = paths[0];
  for (const Tensor& path : paths) check_pathway(path, "each of paths", first);
  const int64_t N = first.size(0), C = first.size(1), T = first.size(2);
  const bool per_frame = logits.dim() == 4;
  STD_TORCH_CHECK((per_frame || logits.dim() == 3) && logits.size(0) == N && logits.size(1) == M &&
                      logits.size(2) == C && (!per_frame || logits.size(3) == T),
                  "logits must be (N, M, C) or (N, M, C, T)");
  STD_TORCH_CHECK(logits.scalar_type() == first.scalar_type(), "logits must have the dtype of paths");
  STD_TORCH_CHECK(logits.get_device() == first.get_device(), "logits must be on the device of paths");
  return {N, C, T, M, per_frame ? T : 1};
}

// Gradients of the paths, each in the layout of the first of them, and of the logits; uninitialised.
inline std::tuple<std::vector<Tensor>, Tensor> new_select_gradients(const std::vector<Tensor>& paths,
                                                                    const Tensor& logits) {
  const Clip c = describe(paths[0]);
  std::vector<Tensor> grads;
  for (size_t m = 0; m < paths.size(); ++m) grads.push_back(empty_clip(paths[0], c, c.T, c.layout));
  if (logits.dim() == 4) {
    return {grads, torch::stable::new_empty(logits, {c.N, logits.size(1), c.C, c.T})};
  }
  return {grads, torch::stable::new_empty(logits, {c.N, logits.size(1), c.C})};
}

}  // namespace vidops
