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
#include "common/vec.h"
#include "cpu/index.h"

namespace vidops {
namespace {

constexpr int64_t kGrain = 32 << 10;  // elements a thread should have at least

// A run of bytes of the result: of a frame, or zeros outside the clip.
void move(char* to, const char* frame0, int64_t step, int64_t t, int64_t frames, int64_t bytes) {
  if (t < 0 || t >= frames) {
    std::memset(to, 0, bytes);
  } else {
    std::memcpy(to, frame0 + t * step, bytes);
  }
}

// The same in whole vectors, past the caches. The runs of channels last are too short for memcpy to do so by itself.
void move_streamed(char* to, const char* frame0, int64_t step, int64_t t, int64_t frames, int64_t bytes) {
  const bool inside = t >= 0 && t < frames;
  const char* from = inside ? frame0 + t * step : nullptr;
  for (int64_t i = 0; i < bytes; i += kVectorBytes) {
    Vec<float> v{};
    if (inside) {
      __builtin_prefetch(from + i + 8 * kAhead);  // one frame at a time: as far ahead as eight side by side
      std::memcpy(&v, from + i, sizeof v);
    }
    stream(reinterpret_cast<float*>(to + i), v);
  }
}

// Result frame t of the first fold is frame t + step, of the second frame t - step, of the rest frame t.
Tensor shift(const Tensor& input, int64_t fold, int64_t step) {
  check_fold(input, fold);
  const Tensor x = native_clip(input);
  const Clip cx = describe(x);
  Tensor y = empty_clip(x, cx, cx.T, cx.layout);
  if (y.numel() == 0) return y;
  const Clip cy = describe(y);
  const int64_t size = x.element_size(), step_x = cx.sT * size;
  const char* source = static_cast<const char*>(x.data_ptr());
  char* result = static_cast<char*>(y.data_ptr());
  if (cx.channels_last()) {
    const int64_t folded = fold * size, all = cx.C * size;
    const bool streamed = all * cx.N * cx.T * cx.P >= kStreamBytes && folded % kVectorBytes == 0 &&
                          all % kVectorBytes == 0 && reinterpret_cast<uintptr_t>(result) % kVectorBytes == 0;
    const auto run = streamed ? move_streamed : move;
    torch::stable::parallel_for(0, cx.N * cx.T * cx.P, std::max<int64_t>(1, kGrain / cx.C),
                                [&](int64_t begin, int64_t end) {
                                  for (int64_t i = begin; i < end; ++i) {
                                    const int64_t n = i / (cx.T * cx.P), t = i / cx.P % cx.T, p = i % cx.P;
                                    const char* from = source + (n * cx.sN + p * cx.sP) * size;
                                    char* to = result + (n * cy.sN + t * cy.sT + p * cy.sP) * size;
                                    run(to, from, step_x, t + step, cx.T, folded);
                                    run(to + folded, from + folded, step_x, t - step, cx.T, folded);
                                    run(to + 2 * folded, from + 2 * folded, step_x, t, cx.T, all - 2 * folded);
                                  }
                                  if (streamed) stream_fence();
                                });
    return y;
  }
  const bool frames_first = cy.sT > cy.sC;  // NTCHW; in the order of memory either way
  torch::stable::parallel_for(
      0, cx.N * cx.C * cx.T, std::max<int64_t>(1, kGrain / cx.P), [&](int64_t begin, int64_t end) {
        Index at(begin, frames_first ? cx.T : cx.C, frames_first ? cx.C : cx.T);
        for (int64_t i = begin; i < end; ++i, at.next()) {
          const int64_t n = at.outer, c = frames_first ? at.inner : at.middle, t = frames_first ? at.middle : at.inner;
          const int64_t from = c < fold ? t + step : c < 2 * fold ? t - step : t;
          move(result + (n * cy.sN + c * cy.sC + t * cy.sT) * size, source + (n * cx.sN + c * cx.sC) * size, step_x,
               from, cx.T, cx.P * size);
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
