// Clips of any native layout as vectors of neighbouring channels, one a position, in scratch of accumulation type.
#pragma once

#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "common/clip.h"
#include "common/vec.h"

namespace vidops {

// A clip's memory.
template <class T>
struct View {
  T* data;
  Clip shape;
  T* frame(int64_t n, int64_t c, int64_t t) const { return data + n * shape.sN + c * shape.sC + t * shape.sT; }
  // The channels from `first` on, before `end`.
  View channels(int64_t first, int64_t end) const {
    View part{data ? data + first * shape.sC : nullptr, shape};
    part.shape.C = end - first;
    return part;
  }
};
template <class T>
View<T> view(const Tensor& tensor) {
  return {static_cast<T*>(tensor.data_ptr()), describe(tensor)};
}

// Uninitialised, aligned to vectors.
template <class A>
class Scratch {
 public:
  explicit Scratch(int64_t count)
      : data_(static_cast<A*>(::operator new[](std::max<int64_t>(count, 1) * sizeof(A), kAlign))) {}
  A* get() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlign{64};
  struct Free {
    void operator()(A* p) const { ::operator delete[](p, kAlign); }
  };
  std::unique_ptr<A[], Free> data_;
};

template <int S, class V, int... J>
inline __attribute__((always_inline)) void exchange(V& a, V& b, std::integer_sequence<int, J...>) {
  constexpr int lanes = sizeof...(J);
  const V low = __builtin_shufflevector(a, b, (J & S ? lanes + J - S : J)...);
  b = __builtin_shufflevector(a, b, (J & S ? lanes + J : J + S)...);
  a = low;
}

// Transposes as many vectors as they have lanes.
template <class A, int S = 1>
inline __attribute__((always_inline)) void transpose(Vec<A>* v) {
  constexpr int lanes = kLanes<A>;
  if constexpr (S < lanes) {
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) {
      if (!(i & S)) exchange<S>(v[i], v[i + S], std::make_integer_sequence<int, lanes>{});
    }
    transpose<A, 2 * S>(v);
  }
}

template <class T>
int64_t channel_groups(int64_t channels) {
  return (channels + kLanes<T> - 1) / kLanes<T>;
}

// The positions of `channels` planes, as many as a vector has lanes or fewer, to one vector each, rows `pitch` vectors
// apart; lanes without a channel are zero.
template <class T>
void gather_channels(const T* plane, const Clip& c, int64_t channels, acc_t<T>* to, int64_t pitch) {
  using A = acc_t<T>;
  constexpr int lanes = kLanes<T>;
  int64_t column = 0;
  const auto put = [&](const Vec<A>& v) __attribute__((always_inline)) {
    store(to, v);
    to += lanes;
    if (++column == c.W) column = 0, to += (pitch - c.W) * lanes;
  };
  if (c.sC == 1 && c.C > 1) {
    for (int64_t p = 0; p < c.P; ++p) put(load_part(plane + p * c.sP, channels));
    return;
  }
  int64_t p = 0;
  for (; p + lanes <= c.P; p += lanes) {
    Vec<A> block[lanes];
    for (int l = 0; l < channels; ++l) __builtin_prefetch(plane + l * c.sC + p + c.sT, 0, 2);
#pragma GCC unroll 16
    for (int l = 0; l < lanes; ++l) block[l] = l < channels ? load(plane + l * c.sC + p) : Vec<A>{};
    transpose<A>(block);
#pragma GCC unroll 16
    for (int l = 0; l < lanes; ++l) put(block[l]);
  }
  if (p == c.P) return;
  Vec<A> block[lanes];
#pragma GCC unroll 16
  for (int l = 0; l < lanes; ++l) block[l] = l < channels ? load_part(plane + l * c.sC + p, c.P - p) : Vec<A>{};
  transpose<A>(block);
  for (int l = 0; p + l < c.P; ++l) put(block[l]);
}

// The other way; `plane` is that of the first channel. Whole vectors of a plane may go past the caches.
template <class T>
void scatter_channels(const acc_t<T>* from, int64_t channels, int64_t count, T* plane, const Clip& c,
                      bool streams = false) {
  using A = acc_t<T>;
  constexpr int lanes = kLanes<T>;
  if (c.sC == 1 && c.C > 1) {
    for (int64_t p = 0; p < count; ++p) store_part(plane + p * c.sP, load(from + p * lanes), channels);
    return;
  }
  streams = streams && reinterpret_cast<uintptr_t>(plane) % kVectorBytes == 0 && c.sC % lanes == 0;
  for (int64_t p = 0; p < count; p += lanes) {
    Vec<A> block[lanes] = {};
#pragma GCC unroll 16
    for (int l = 0; l < lanes; ++l) {
      if (p + l < count) block[l] = load(from + (p + l) * lanes);
    }
    transpose<A>(block);
#pragma GCC unroll 16
    for (int l = 0; l < lanes; ++l) {
      if (l >= channels) continue;
      T* to = plane + l * c.sC + p;
      if (streams && count - p >= lanes) {
        stream(to, block[l]);
      } else {
        store_part(to, block[l], count - p);
      }
    }
  }
}

// Frames of the channels from `first` on, as many as a vector has lanes or there are: the last `slots` that were asked
// for, in a ring.
template <class T>
class VectorFrames {
 public:
  // Rows have `left` zeros in front and are `pitch` vectors long; what is behind a row is zero too.
  VectorFrames(const View<T>& clip, int64_t n, int64_t first, int64_t slots, int64_t left, int64_t pitch)
      : clip_(clip),
        start_(clip.data + n * clip.shape.sN + first * clip.shape.sC),
        channels_(std::min<int64_t>(kLanes<T>, clip.shape.C - first)),
        left_(left * kLanes<T>),
        pitch_(pitch),
        size_(clip.shape.H * pitch * kLanes<T>),
        held_(slots, -1),
        scratch_(slots * size_) {
    std::fill_n(scratch_.get(), slots * size_, acc_t<T>(0));
  }

  const acc_t<T>* operator()(int64_t frame) {
    const int64_t slot = frame % static_cast<int64_t>(held_.size());
    acc_t<T>* to = scratch_.get() + slot * size_ + left_;
    if (held_[slot] != frame) {
      gather_channels(start_ + frame * clip_.shape.sT, clip_.shape, channels_, to, pitch_);
      held_[slot] = frame;
    }
    return to;
  }

 private:
  const View<T> clip_;
  const T* start_;
  int64_t channels_, left_, pitch_, size_;
  std::vector<int64_t> held_;
  Scratch<acc_t<T>> scratch_;
};

}  // namespace vidops
