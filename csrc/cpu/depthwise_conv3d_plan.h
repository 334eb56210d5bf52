// What one call of depthwise_conv3d needs besides the tensors: which taps meet what along each axis, and the taps.
#pragma once

#include <vector>

#include "common/conv3d_geometry.h"
#include "common/vec.h"

namespace vidops {

// Every step-th result along an axis, first, first + step, ...: its i-th one collects tap taps[k] from input
// i * in_step + offsets[k]. The offsets ascend.
struct Phase {
  int64_t first = 0, step = 1, in_step = 1;
  std::vector<int64_t> taps, offsets;

  // Neighbouring results share all but one of their inputs.
  bool slides() const {
    for (size_t k = 1; k < offsets.size(); ++k) {
      if (offsets[k] != offsets[0] + static_cast<int64_t>(k)) return false;
    }
    return in_step == 1;
  }
};

// From input to result one phase; `transposed`, from the result's gradient to the input's, one for each residue of the
// stride, so that nothing is ever multiplied with the zeros between strided gradients.
inline std::vector<Phase> phases(const ConvAxis& a, bool transposed) {
  std::vector<Phase> found(transposed ? a.stride : 1);
  for (int64_t r = 0; r < static_cast<int64_t>(found.size()); ++r) {
    Phase& phase = found[r];
    phase.first = r, phase.step = found.size(), phase.in_step = transposed ? 1 : a.stride;
    for (int64_t k = 0; k < a.taps; ++k) {
      const int64_t tap = transposed ? a.taps - 1 - k : k;
      const int64_t at = transposed ? r + a.padding - tap * a.dilation : tap * a.dilation - a.padding;
      if (transposed && at % a.stride) continue;
      phase.taps.push_back(tap), phase.offsets.push_back(transposed ? at / a.stride : at);
    }
  }
  return found;
}

// Taps [tap][channel] in accumulation type, channels padded to whole vectors.
template <class T>
std::vector<acc_t<T>> packed_taps(const T* weight, int64_t channels, int64_t taps, int64_t width) {
  std::vector<acc_t<T>> packed(taps * width);
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t k = 0; k < taps; ++k) packed[k * width + c] = load1(weight + c * taps + k);
  }
  return packed;
}

}  // namespace vidops
