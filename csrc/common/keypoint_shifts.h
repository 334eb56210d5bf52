// What the kernels of keypoint_shifts share: guards of the operators, their results, and how lines split an axis. The
// public Python function has checked a call already, with better messages; vidops/reference/keypoint_shifts.py has the
// definition of a split.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/macros/Macros.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "common/clip.h"

namespace vidops {

constexpr int kMostBands = 4;

// An axis of `side` pixels in `bands` bands.
template <class A>
struct Split {
  A border[kMostBands + 1];       // in pixels, both ends among them
  int32_t first[kMostBands + 1];  // pixel of each band, by its centre; the last is `side`
  int8_t source[kMostBands - 1];  // of each line: which separator its gradient goes to, or -1
  int bands;

  // How much of pixel j is in band b.
  C10_HOST_DEVICE A cover(int64_t j, int b) const { return before(j, border[b + 1]) - before(j, border[b]); }
  C10_HOST_DEVICE A width(int b) const { return border[b + 1] - border[b]; }
  // The pixel that line i lies in; on an edge, the one behind it.
  C10_HOST_DEVICE int64_t pixel(int i) const { return static_cast<int64_t>(std::floor(border[i + 1])); }
  C10_HOST_DEVICE int band_of(int64_t j) const {
    int b = 0;
    while (j >= first[b + 1]) ++b;
    return b;
  }

  C10_HOST_DEVICE static A before(int64_t j, A line) {
    const A part = line - static_cast<A>(j);
    return part < 0 ? A{0} : part > 1 ? A{1} : part;
  }
};

// Sorts the separators, then moves them the least that gives every band a width of at least 1.
template <class A, class T>
C10_HOST_DEVICE void split_axis(const T* separators, int bands, int64_t side, Split<A>& s) {
  s.bands = bands;
  const int count = bands - 1;
  A* const line = s.border + 1;
  for (int i = 0; i < count; ++i) {
    A at = static_cast<A>(separators[i]);
    const bool none = std::isnan(at);
    if (none) at = static_cast<A>(i + 1) * static_cast<A>(static_cast<double>(side) / bands);
    int place = i;  // behind those that are equal
    for (; place > 0 && line[place - 1] > at; --place) {
      line[place] = line[place - 1], s.source[place] = s.source[place - 1];
    }
    line[place] = at, s.source[place] = static_cast<int8_t>(none ? -1 : i);
  }
  for (int i = 0; i < count; ++i) {
    const A low = i ? line[i - 1] + 1 : A{1};
    if (!(line[i] >= low)) line[i] = low, s.source[i] = i ? s.source[i - 1] : int8_t{-1};
  }
  for (int i = count - 1; i >= 0; --i) {
    const A high = (i + 1 < count ? line[i + 1] : static_cast<A>(side)) - 1;
    if (!(line[i] <= high)) line[i] = high, s.source[i] = i + 1 < count ? s.source[i + 1] : int8_t{-1};
  }
  s.border[0] = 0, s.border[bands] = static_cast<A>(side);
  s.first[0] = 0, s.first[bands] = static_cast<int32_t>(side);
  // Every band has a centre: none is less than 1 wide, since 1 is subtracted without rounding from a line of 1 or more.
  for (int b = 1; b < bands; ++b) s.first[b] = static_cast<int32_t>(std::ceil(s.border[b] - A(0.5)));
}

struct KeypointSize {
  int64_t N, C, T, H, W, G;
  int bands;  // r
  int64_t regions() const { return static_cast<int64_t>(bands) * bands; }
};

inline KeypointSize check_keypoint_shifts(const Tensor& features, const Tensor& separators) {
  STD_TORCH_CHECK(features.dim() == 5, "features must be a clip (N, C, T, H, W)");
  STD_TORCH_CHECK(separators.dim() == 5 && separators.size(0) == features.size(0) &&
                      separators.size(2) == features.size(2) && separators.size(3) == 2,
                  "separators must be (N, G, T, 2, r-1), of as many clips and frames as features");
  STD_TORCH_CHECK(separators.scalar_type() == features.scalar_type(), "separators must have the dtype of features");
  STD_TORCH_CHECK(separators.get_device() == features.get_device(), "separators must be on the device of features");
  const int64_t H = features.size(3), W = features.size(4), bands = separators.size(4) + 1;
  STD_TORCH_CHECK(bands <= std::min({int64_t{kMostBands}, H, W}), "separators must have fewer lines than ", kMostBands,
                  " and than features have rows and columns, got ", bands - 1);
  STD_TORCH_CHECK(H <= 32768 && W <= 32768, "features must have at most 32768 rows and columns");
  return {features.size(0), features.size(1), features.size(2), H, W, separators.size(1), static_cast<int>(bands)};
}

inline ScalarType shifts_dtype(const Tensor& features) {
  return features.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// What the operator returns, uninitialised: shifts, key points, values, means.
inline std::tuple<Tensor, Tensor, Tensor, Tensor> new_shifts(const Tensor& features, const KeypointSize& s) {
  using torch::stable::new_empty;
  const ScalarType dtype = shifts_dtype(features);
  const int64_t K = s.regions();
  return {new_empty(features, {s.N, s.G, K, s.C, std::max<int64_t>(s.T - 1, 0), 2}, dtype),
          new_empty(features, {s.N, s.G, K, s.C, s.T, 2}, ScalarType::Short),
          new_empty(features, {s.N, s.G, K, s.C, s.T}, dtype), new_empty(features, {s.N, s.G, K, s.C, s.T}, dtype)};
}

// Gradients of features, as x lies, and of separators, uninitialised; of shape (0,) where they are not needed.
inline std::tuple<Tensor, Tensor> new_keypoint_gradients(const Tensor& x, const Tensor& separators, bool need_features,
                                                         bool need_separators) {
  using torch::stable::new_empty;
  const Clip c = describe(x);
  const auto lines = [&](int axis) { return separators.size(axis); };
  return {need_features ? empty_clip(x, c, c.T, c.layout) : new_empty(x, {0}),
          need_separators ? new_empty(separators, {lines(0), lines(1), lines(2), lines(3), lines(4)})
                          : new_empty(separators, {0})};
}

inline void check_keypoint_gradient(const Tensor& grad, const Tensor& features, const Tensor& keypoints,
                                    const Tensor& values, const Tensor& means, const KeypointSize& s) {
  const auto require = [&](const Tensor& tensor, const char* name, ScalarType dtype, std::vector<int64_t> tail) {
    std::vector<int64_t> shape{s.N, s.G, s.regions(), s.C};
    shape.insert(shape.end(), tail.begin(), tail.end());
    bool right = tensor.dim() == static_cast<int64_t>(shape.size());
    for (size_t i = 0; right && i < shape.size(); ++i) right = tensor.size(i) == shape[i];
    STD_TORCH_CHECK(right, name, " must have the shape that the operator gives it");
    STD_TORCH_CHECK(tensor.scalar_type() == dtype, name, " must have the dtype that the operator gives it");
    STD_TORCH_CHECK(tensor.get_device() == features.get_device(), name, " must be on the device of features");
  };
  const ScalarType dtype = shifts_dtype(features);
  require(grad, "grad", dtype, {std::max<int64_t>(s.T - 1, 0), 2});
  require(keypoints, "keypoints", ScalarType::Short, {s.T, 2});
  require(values, "values", dtype, {s.T});
  require(means, "means", dtype, {s.T});
}

}  // namespace vidops
