// Where a kernel finds the elements of a clip: a pointer and four steps.
#pragma once

#include <optional>

#include "common/clip.h"
#include "common/cuda.h"

namespace vidops {
namespace {

// A clip or scratch in steps of clip, channel, frame and position.
template <class T>
struct Steps {
  T* data;
  int64_t n, c, t, p;
  __device__ __forceinline__ T* at(int64_t clip, int64_t channel, int64_t frame) const {
    return data + clip * n + channel * c + frame * t;
  }
};

template <class T>
Steps<T> steps_of(const Tensor& tensor) {
  const Clip c = describe(tensor);
  return {static_cast<T*>(tensor.data_ptr()), c.sN, c.sC, c.sT, c.sP};
}
template <class T>
Steps<T> steps_of(const std::optional<Tensor>& tensor) {
  return tensor ? steps_of<T>(*tensor) : Steps<T>{nullptr, 0, 0, 0, 0};
}

template <class T>
Steps<const T> constant(const Steps<T>& s) {
  return {s.data, s.n, s.c, s.t, s.p};
}

// Whether V neighbouring elements, of channels if `last` and of positions otherwise, are one aligned access wherever in
// the clip they begin.
inline bool packs_fit(const Clip& c, const void* data, int64_t element_size, int64_t V, bool last) {
  const auto even = [&](int64_t extent, int64_t stride) { return extent <= 1 || stride % V == 0; };
  return (last ? c.C % V == 0 && even(c.P, c.sP) : c.P % V == 0 && even(c.C, c.sC)) && even(c.N, c.sN) &&
         even(c.T, c.sT) && reinterpret_cast<uintptr_t>(data) % (V * element_size) == 0;
}

}  // namespace
}  // namespace vidops
