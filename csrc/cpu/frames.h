// The frames of one vector of a clip: neighbouring positions of a channel, or neighbouring channels of a position.
#pragma once

#include <algorithm>

#include "common/vec.h"

namespace vidops {

// Whole vectors, or the first `count` lanes of one.
struct WholeVector {
  template <class T>
  Vec<T> get(const T* p) const {
    return load(p);
  }
  template <bool kStream, class T>
  void put(T* p, Vec<T> v) const {
    if constexpr (kStream) {
      stream(p, v);
    } else {
      store(p, v);
    }
  }
};
struct PartOfVector {
  int64_t count;
  template <class T>
  Vec<T> get(const T* p) const {
    return load_part(p, count);
  }
  template <bool kStream, class T>
  void put(T* p, Vec<T> v) const {
    store_part(p, v, count);
  }
};

// The frames of one vector of a clip, past both ends.
template <class T, class Lanes>
struct Frames {
  const T* x;
  int64_t step, count;
  bool replicate;
  Lanes lanes;

  Vec<T> inside(int64_t t) const __attribute__((always_inline)) {
    __builtin_prefetch(reinterpret_cast<const char*>(x + t * step) + kAhead);
    return lanes.get(x + t * step);
  }
  Vec<T> at(int32_t frame) const { return frame < 0 ? Vec<T>{} : lanes.get(x + frame * step); }
  void fetch_ahead() const {
    for (int64_t t = 0; t < count; ++t) __builtin_prefetch(reinterpret_cast<const char*>(x + t * step) + kAhead);
  }
  Vec<T> operator()(int64_t t) const __attribute__((always_inline)) {
    if (t >= 0 && t < count) return inside(t);
    return replicate ? inside(std::clamp<int64_t>(t, 0, count - 1)) : Vec<T>{};
  }
};

// f(lanes, i) for the vectors of `count` elements. Where `again`, a last vector that would be partial starts earlier
// and covers some elements twice.
template <class T, class F>
void each_vector(int64_t count, bool again, F&& f) {
  int64_t i = 0;
  for (; i + kLanes<T> <= count; i += kLanes<T>) f(WholeVector{}, i);
  if (i == count) return;
  if (again && count >= kLanes<T>) {
    f(WholeVector{}, count - kLanes<T>);
  } else {
    f(PartOfVector{count - i}, i);
  }
}

}  // namespace vidops
