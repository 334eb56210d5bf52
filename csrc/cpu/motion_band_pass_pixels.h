// How motion_band_pass walks clips and scratch planes, whatever the layout.
//
// A plane is a frame of one place: of one channel, a number a pixel (planar layouts, and channels last with few
// channels), or of a vector's worth of neighbouring channels, a vector a pixel (channels last). Scratch planes hold
// pixels in the accumulation type, row after row; steps and positions count pixels.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "common/band_pass.h"
#include "cpu/lane_conv.h"
#include "cpu/plane_conv.h"

namespace vidops {

enum class Walk {
  kPlanar,  // neighbouring positions are adjacent
  kGather,  // positions of one channel, some elements apart
  kLanes,   // neighbouring channels of a position
};

// Zeros, aligned to a vector, and one vector more that whole vectors may be stored into.
template <class A>
class Buffer {
 public:
  explicit Buffer(int64_t count = 0) {
    const size_t bytes = (count * sizeof(A) / kVectorBytes + 2) * kVectorBytes;
    data_.reset(static_cast<A*>(std::aligned_alloc(kVectorBytes, bytes)));
    if (!data_) throw std::bad_alloc();
    std::memset(data_.get(), 0, bytes);
  }
  A* get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(A* p) const { std::free(p); }
  };
  std::unique_ptr<A, Free> data_;
};

// The lanes of one vector: `count` of them exist in the clip, the others are zero.
template <class T, Walk kWalk, bool kWhole>
struct Lanes {
  int64_t count;

  Vec<T> get(const T* x, int64_t p, int64_t step) const {
    if constexpr (kWalk == Walk::kGather) {
      Vec<T> v{};
      for (int64_t i = 0; i < (kWhole ? kLanes<T> : count); ++i) v[i] = load1(x + (p + i) * step);
      return v;
    }
    const T* at = x + (kWalk == Walk::kPlanar ? p : p * step);
    return kWhole ? load(at) : load_part(at, count);
  }
  template <bool kStream>
  void put(T* y, int64_t p, int64_t step, Vec<T> v) const {
    if constexpr (kWalk == Walk::kGather) {
      for (int64_t i = 0; i < (kWhole ? kLanes<T> : count); ++i) store1(y + (p + i) * step, v[i]);
      return;
    }
    T* at = y + (kWalk == Walk::kPlanar ? p : p * step);
    if constexpr (kStream && kWhole) return stream(at, v);
    kWhole ? store(at, v) : store_part(at, v, count);
  }
};

template <class T, Walk kWalk>
struct Pixels {
  static constexpr int64_t size = kWalk == Walk::kLanes ? kLanes<T> : 1;  // elements of a pixel in scratch
  using A = acc_t<T>;
  int64_t channels;  // of a place

  // f(lanes, p, s) for the vectors of `count` positions from 0 on: at position p in a clip, at element s in scratch.
  template <class F>
  void each(int64_t count, F&& f) const {
    if constexpr (kWalk == Walk::kLanes) {
      if (channels == kLanes<T>) {
        for (int64_t p = 0; p < count; ++p) f(Lanes<T, kWalk, true>{}, p, p * size);
      } else {
        for (int64_t p = 0; p < count; ++p) f(Lanes<T, kWalk, false>{channels}, p, p * size);
      }
    } else {
      int64_t p = 0;
      for (; p + kLanes<T> <= count; p += kLanes<T>) f(Lanes<T, kWalk, true>{}, p, p);
      if (p < count) f(Lanes<T, kWalk, false>{count - p}, p, p);
    }
  }

  static A* at(A* plane, int64_t pixel) { return plane + pixel * size; }
  static void copy(A* to, const A* from) { std::copy_n(from, size, to); }
  static void add(A* to, const A* from) {
    for (int64_t i = 0; i < size; ++i) to[i] += from[i];
  }

  // Pixels from one row to the next.
  static int64_t step(int64_t columns, int64_t k) {
    return kWalk == Walk::kLanes ? columns + k - 1 : plane_step<A>(columns, k);
  }
};

// The taps of every place as the convolutions read them.
template <class T, Walk kWalk>
struct PlaceTaps {
  using A = acc_t<T>;
  static constexpr int64_t width = Pixels<T, kWalk>::size;
  int64_t k;
  std::vector<A> spatial, temporal;

  // `transposed`: from the result's gradient to the input's.
  PlaceTaps(const T* over_space, const T* over_time, int64_t channels, int64_t k, bool transposed) : k(k) {
    const int64_t places = (channels + width - 1) / width;
    spatial.resize(places * width * k * k), temporal.resize(places * width * 3);
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t place = c / width, lane = c % width;
      for (int64_t u = 0; u < k; ++u) {
        for (int64_t v = 0; v < k; ++v) {
          const int64_t at = transposed ? index(k - 1 - u, k - 1 - v) : index(u, v);
          spatial[(place * k * k + at) * width + lane] = load1(over_space + (c * k + u) * k + v);
        }
      }
      for (int64_t j = 0; j < 3; ++j) temporal[(place * 3 + j) * width + lane] = load1(over_time + c * 3 + j);
    }
  }

  // Where tap (u, v) is: column-major for planes of numbers, row-major for those of vectors.
  int64_t index(int64_t u, int64_t v) const { return width == 1 ? v * k + u : u * k + v; }
  const A* of(int64_t place) const { return spatial.data() + place * k * k * width; }
  Vec<T> in_time(int64_t place, int64_t j) const {
    const A* at = temporal.data() + (place * 3 + j) * width;
    return width == 1 ? broadcast<Vec<T>>(*at) : load(at);
  }
};

// Stores results of a convolution row after row.
template <class A, int64_t kSize>
struct StoreRows {
  A* to;
  int64_t step;
  void operator()(int64_t i, int64_t j, Vec<A> v) const { store(to + (i * step + j) * kSize, v); }
};

// to[i, j] = sum over u, v of taps[u, v] * plane[i + u, j + v].
template <class A, bool kLaneWise>
__attribute__((noinline)) void convolve(const A* plane, int64_t step, const A* taps, int64_t k, int64_t rows,
                                        int64_t columns, A* to, int64_t to_step) {
  with_tap_rows(k, [&](auto size) {
    if constexpr (kLaneWise) {
      const LaneTerm<A> term{plane, taps};
      lane_conv<size>(&term, 1, step, k, k, rows, columns, StoreRows<A, kLanes<A>>{to, to_step});
    } else {
      const PlaneTerm<A> term{plane, taps};
      plane_conv<size>(&term, 1, step, k, k, rows, columns, StoreRows<A, 1>{to, to_step});
    }
  });
}

// sums of tap (u, v) += the products of g[i, j] and plane[i + u, j + v], in the order of PlaceTaps.
template <class A, bool kLaneWise>
__attribute__((noinline)) void multiply(const A* g, const A* plane, int64_t step, int64_t k, int64_t rows,
                                        int64_t columns, Wide<A>* sums) {
  with_tap_rows(k, [&](auto size) {
    if constexpr (kLaneWise) {
      lane_products<size>(g, step, plane, step, k, k, rows, columns, sums);
    } else {
      plane_products<size>(g, plane, step, k, k, rows, columns, sums);
    }
  });
}

}  // namespace vidops
