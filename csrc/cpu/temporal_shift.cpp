// temporal_shift on the CPU: x is read once and the result written once, in whatever layout x has.
//
// Nothing is computed, so elements are moved as bytes. Backward is the same move the other way.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstring>

#include "common/clip.h"
#include "common/namespace.h"
#include "common/temporal_checks.h"

namespace vidops {
namespace {

constexpr int64_t kGrain = 32 << 10;  // elements a thread should have at least

// Result frame t of the first fold is frame t + step, of the second frame t - step, of the rest frame t.
Tensor shift(const Tensor& input, int64_t fold, int64_t step) {
  check_fold(input, fold);
  const Tensor x = native_clip(input);
  const Clip cx = describe(x);
  Tensor y = empty_clip(x, cx, cx.T, cx.layout);
  if (y.numel() == 0) return y;
  const Clip cy = describe(y);
  const int64_t size = x.element_size();
  const char* source = static_cast<const char*>(x.data_ptr());
  char* result = static_cast<char*>(y.data_ptr());
  const auto move = [&](char* to, const char* frame0, int64_t sT, int64_t t, int64_t count) {
    if (t < 0 || t >= cx.T) {
      std::memset(to, 0, count * size);
    } else {
      std::memcpy(to, frame0 + t * sT * size, count * size);
    }
  };
  if (cx.channels_last()) {
    torch::stable::parallel_for(0, cx.N * cx.T * cx.P, std::max<int64_t>(1, kGrain / cx.C),
                                [&](int64_t begin, int64_t end) {
                                  for (int64_t i = begin; i < end; ++i) {
                                    const int64_t n = i / (cx.T * cx.P), t = i / cx.P % cx.T, p = i % cx.P;
                                    const char* frame0 = source + (n * cx.sN + p * cx.sP) * size;
                                    char* to = result + (n * cy.sN + t * cy.sT + p * cy.sP) * size;
                                    move(to, frame0, cx.sT, t + step, fold);
                                    move(to + fold * size, frame0 + fold * size, cx.sT, t - step, fold);
                                    move(to + 2 * fold * size, frame0 + 2 * fold * size, cx.sT, t, cx.C - 2 * fold);
                                  }
                                });
    return y;
  }
  torch::stable::parallel_for(0, cx.N * cx.C * cx.T, std::max<int64_t>(1, kGrain / cx.P),
                              [&](int64_t begin, int64_t end) {
                                for (int64_t i = begin; i < end; ++i) {
                                  const int64_t n = i / (cx.C * cx.T), c = i / cx.T % cx.C, t = i % cx.T;
                                  const int64_t from = c < fold ? t + step : c < 2 * fold ? t - step : t;
                                  move(result + (n * cy.sN + c * cy.sC + t * cy.sT) * size,
                                       source + (n * cx.sN + c * cx.sC) * size, cx.sT, from, cx.P);
                                }
                              });
  return y;
}

Tensor temporal_shift(Tensor x, int64_t fold) { return shift(x, fold, 1); }
Tensor temporal_shift_backward(Tensor grad, int64_t fold) { return shift(grad, fold, -1); }

VIDOPS_LIBRARY_IMPL(VIDOPS_NAMESPACE, CPU, m) {
  m.impl("temporal_shift", TORCH_BOX(&temporal_shift));
  m.impl("temporal_shift_backward", TORCH_BOX(&temporal_shift_backward));
}

}  // namespace
}  // namespace vidops
