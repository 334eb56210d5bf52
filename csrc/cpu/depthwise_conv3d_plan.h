// What one call of depthwise_conv3d needs besides the tensors: which taps meet what along each axis, and the taps.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <vector>

#include "common/conv3d_geometry.h"
#include "common/vec.h"

namespace vidops {

constexpr int64_t kShares = 32;  // of the clips and channels that sum their gradients apart

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

// The axes of the convolution in one direction.
struct Axes {
  std::vector<Phase> t, h, w;
  int64_t t_in, h_in, w_in, t_out, h_out, w_out, kt, kh, kw;

  Axes(const ConvGeometry& g, bool transposed)
      : t(phases(g.t, transposed)),
        h(phases(g.h, transposed)),
        w(phases(g.w, transposed)),
        t_in(transposed ? g.t.out : g.t.in),
        h_in(transposed ? g.h.out : g.h.in),
        w_in(transposed ? g.w.out : g.w.in),
        t_out(transposed ? g.t.in : g.t.out),
        h_out(transposed ? g.h.in : g.h.out),
        w_out(transposed ? g.w.in : g.w.out),
        kt(g.t.taps),
        kh(g.h.taps),
        kw(g.w.taps) {}
  // Frames of the input that one frame of the result can need.
  int64_t window() const {
    int64_t most = 1;
    for (const Phase& phase : t) {
      if (!phase.offsets.empty()) most = std::max(most, phase.offsets.back() - phase.offsets.front() + 1);
    }
    return std::min(most, t_in);
  }
};

// f(tap, input) for every tap of an axis that result o meets.
template <class F>
void each_tap(const std::vector<Phase>& axis, int64_t o, int64_t size, F&& f) {
  const Phase& phase = axis[o % axis.size()];
  const int64_t i = o / static_cast<int64_t>(axis.size()) * phase.in_step;
  for (size_t k = 0; k < phase.taps.size(); ++k) {
    const int64_t at = i + phase.offsets[k];
    if (at >= 0 && at < size) f(phase.taps[k], at);
  }
}

// Gradients of taps and bias, null where not wanted, from their `parts` in each clip: part(n, i, channel, tap) is a
// share of one, and that of tap `taps` of the bias.
template <class T, class F>
void sum_parts(const Clip& x, int64_t taps, int64_t parts, T* dweight, T* dbias, F&& part) {
  torch::stable::parallel_for(0, x.C, 16, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      for (int64_t k = dweight ? 0 : taps; k < taps + (dbias ? 1 : 0); ++k) {
        double sum = 0;
        for (int64_t n = 0; n < x.N; ++n) {
          for (int64_t i = 0; i < parts; ++i) sum += part(n, i, c, k);
        }
        (k < taps ? dweight[c * taps + k] : dbias[c]) = static_cast<T>(static_cast<acc_t<T>>(sum));
      }
    }
  });
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
