// Results whose frames have another size than those of the clip they are made from.
#pragma once

#include <algorithm>

#include <torch/headeronly/util/Exception.h>

#include "common/clip.h"

namespace vidops {

inline void check_frames(const Tensor& x, int64_t height, int64_t width) {
  STD_TORCH_CHECK(x.dim() == 5, "x must be a clip (N, C, T, H, W)");
  STD_TORCH_CHECK(x.size(3) > 0 && x.size(4) > 0, "x must have pixels");
  constexpr int64_t most = int64_t{1} << 29;
  STD_TORCH_CHECK(
      height > 0 && width > 0 && height < most && width < most && height * x.size(3) < most && width * x.size(4) < most,
      "height and width must be from 1 to less than 2^29 over the sides of x, got ", height, " and ", width);
}

// Where result d of an axis reads, in units of 1 / (2 * out), as an exact number.
inline int64_t place_of(int64_t d, int64_t in, int64_t out) {
  return std::clamp<int64_t>((2 * d + 1) * in - out, 0, 2 * out * (in - 1));
}

// The two elements that result d reads, and the second one's share: at an element both are the same one.
struct AxisTap {
  int64_t low, high;
  double share;
};
inline AxisTap axis_tap(int64_t d, int64_t in, int64_t out) {
  const int64_t place = place_of(d, in, out), low = place / (2 * out), rest = place % (2 * out);
  return {low, low + (rest != 0), rest ? static_cast<double>(rest) / (2 * out) : 0.5};
}

// How an uninitialised dense clip in the layout of x lies, with frames of another size.
inline Clip with_frames(const Clip& x, int64_t height, int64_t width) {
  Clip y = x;
  const int64_t P = height * width, C = x.C, T = x.T;
  y.H = height, y.W = width, y.P = P, y.native = true;
  y.sN = C * T * P, y.sC = T * P, y.sT = P, y.sP = 1;
  if (x.layout == Layout::kNTCHW) y.sC = P, y.sT = C * P;
  if (x.layout == Layout::kNTHWC) y.sC = 1, y.sT = C * P, y.sP = C;
  return y;
}

}  // namespace vidops
