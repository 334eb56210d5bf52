// Bilinear resampling along one axis: what a result reads, and who reads an element.
//
// Places are whole numbers in units of 1 / (2 * out), so both are exact and agree with each other. Sides are less than
// 2^29, and so is the product of an axis's two: common/resize.h checks it.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/columns.h"

namespace vidops {
namespace {

// One axis: the clip's side and the resized one.
struct Axis {
  int32_t in, out;
  double unit;               // 1 / (2 * out)
  Divisor by_unit, by_step;  // 2 * out and 2 * in

  static Axis of(int64_t in, int64_t out) {
    return {static_cast<int32_t>(in), static_cast<int32_t>(out), 1.0 / static_cast<double>(2 * out),
            Divisor(static_cast<uint32_t>(2 * out)), Divisor(static_cast<uint32_t>(2 * in))};
  }

  // part / (2 * out), rounded as a division is but for a last bit now and then; a division calls a subroutine.
  template <class A>
  __device__ __forceinline__ A share(int32_t part) const {
    const A whole = static_cast<A>(2 * out), inverse = static_cast<A>(unit), a = static_cast<A>(part);
    const A quotient = a * inverse;
    return fma(fma(-quotient, whole, a), inverse, quotient);
  }

  __device__ __forceinline__ int32_t place(int32_t d) const {
    return min(max((2 * d + 1) * in - out, 0), 2 * out * (in - 1));
  }
  // The first result that reads at element i or after it, were the axis longer at both ends.
  __device__ __forceinline__ int32_t first(int32_t i) const {
    return min(static_cast<int32_t>(by_step.divide(max(out * (2 * i + 1) - in, 0) + 2 * in - 1)), out);
  }
  // The first result that reads beyond element i, were the axis longer at both ends.
  __device__ __forceinline__ int32_t after(int32_t i) const {
    return min(static_cast<int32_t>(by_step.divide(max(out * (2 * i + 1) + 1 - in, 0) + 2 * in - 1)), out);
  }
};

// What a result reads of an axis: two elements and their weights.
template <class A>
struct Two {
  int32_t low, high;
  A first, second;

  __device__ __forceinline__ Two(const Axis& axis, int32_t d) {
    const int32_t unit = 2 * axis.out, place = axis.place(d);
    low = static_cast<int32_t>(axis.by_unit.divide(place));
    const int32_t rest = place - low * unit;
    high = low + (rest != 0);
    first = rest ? axis.share<A>(unit - rest) : A(0.5);
    second = rest ? axis.share<A>(rest) : A(0.5);
  }
};

// Which results read an element of an axis, and with what weights.
template <class A>
struct Readers {
  Axis axis;
  int32_t at, begin, end;

  __device__ __forceinline__ Readers(const Axis& axis, int32_t i)
      : axis(axis), at(i), begin(axis.after(i - 1)), end(axis.first(i + 1)) {}
  __device__ __forceinline__ A weight(int32_t d) const {
    const int32_t unit = 2 * axis.out, away = axis.place(d) - unit * at;
    return axis.share<A>(max(unit - max(away, -away), 0));
  }
};

}  // namespace
}  // namespace vidops
