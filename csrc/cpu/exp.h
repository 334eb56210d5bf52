// exp of a vector, for softmaxes.
#pragma once

#include <cstdint>
#include <utility>

#include "common/vec.h"

namespace vidops {

// Numbers of exp: exp(x) = 2^n exp(r) with x = n log 2 + r, |r| < 0.35, and Taylor's series of exp(r).
template <class A>
struct ExpNumbers;
template <>
struct ExpNumbers<float> {
  using Int = int32_t;
  using Unsigned = uint32_t;
  static constexpr float lowest = -104, round = 0x1.8p23f, high = 0.693359375f, low = -2.12194440e-4f;
  static constexpr int terms = 7, mantissa = 23, bias = 127;
};
template <>
struct ExpNumbers<double> {
  using Int = int64_t;
  using Unsigned = uint64_t;
  static constexpr double lowest = -746, round = 0x1.8p52, high = 6.93145751953125e-1, low = 1.42860682030941723212e-6;
  static constexpr int terms = 13, mantissa = 52, bias = 1023;
};

// exp(x) to the last bit or two for x up to 80, with subnormal numbers and NaN; 0 for -infinity.
template <class A>
inline __attribute__((always_inline)) Vec<A> exp_of(Vec<A> x) {
  using N = ExpNumbers<A>;
  typedef typename N::Int Int __attribute__((vector_size(kVectorBytes)));
  typedef typename N::Unsigned Unsigned __attribute__((vector_size(kVectorBytes)));
  x = x < N::lowest ? Vec<A>{} + N::lowest : x;
  const Vec<A> whole = (x * A(1.4426950408889634) + N::round) - N::round;
  const Vec<A> r = (x - whole * N::high) - whole * N::low;
  constexpr auto inverse_factorial = [](int n) {
    double product = 1;
    for (int i = 2; i <= n; ++i) product *= i;
    return static_cast<A>(1 / product);
  };
  Vec<A> y = broadcast<Vec<A>>(inverse_factorial(N::terms));
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    ((y = y * r + inverse_factorial(N::terms - 1 - I)), ...);
  }(std::make_integer_sequence<int, N::terms>{});
  // 2^n in two factors: the first stays a normal number.
  const Int n = __builtin_convertvector(whole, Int), half = n >> 1;
  const auto power = [](Int k)
                         __attribute__((always_inline)) { return (Vec<A>)((Unsigned)(k + N::bias) << N::mantissa); };
  return y * power(half) * power(n - half);
}

}  // namespace vidops
