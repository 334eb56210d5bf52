// From products of queries and keys to weights and back, a vector of queries at a time: tiles hold the keys as rows,
// so that maxima and sums over keys go down the lanes.
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#include "common/vec.h"

namespace vidops {

// Products (keys, queries) at `data`, rows `step` apart; a whole number of vectors wide.
template <class A>
struct Tile {
  A* data;
  int64_t step, keys, vectors;

  A* column(int64_t v) const { return data + v * kLanes<A>; }
};

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

// Softmax as far as it can go with the keys so far: products become exp(scale * product - top), `top` their largest so
// far, `total` their sum; `factor` is what earlier sums shrink by.
template <class A>
void softmax_tile(const Tile<A>& t, A scale, A* top, A* total, A* factor) {
  constexpr A infinity = std::numeric_limits<A>::infinity();
  for (int64_t v = 0; v < t.vectors; ++v, top += kLanes<A>, total += kLanes<A>, factor += kLanes<A>) {
    A* const column = t.column(v);
    const Vec<A> before = load(top);
    Vec<A> largest = before;
    for (int64_t j = 0; j < t.keys; ++j) {
      const Vec<A> s = load(column + j * t.step) * scale;
      largest = s > largest ? s : largest;
    }
    store(top, largest);
    // While all are -infinity their weights are 0, lest they be NaN before a finite one comes.
    const Vec<A> from = largest == -infinity ? Vec<A>{} : largest;
    Vec<A> sum{};
    for (int64_t j = 0; j < t.keys; ++j) {
      const Vec<A> p = exp_of<A>(load(column + j * t.step) * scale - from);
      store(column + j * t.step, p);
      sum += p;
    }
    const Vec<A> shrunk = exp_of<A>(before - from);
    store(factor, shrunk);
    store(total, load(total) * shrunk + sum);
  }
}

template <class A>
void relu_tile(const Tile<A>& t, A weight) {
  for (int64_t j = 0; j < t.keys; ++j) {
    for (int64_t v = 0; v < t.vectors; ++v) {
      A* const at = t.column(v) + j * t.step;
      const Vec<A> s = load(at);
      store(at, (s < 0 ? Vec<A>{} : s) * weight);
    }
  }
}

// Gradients of the weights become gradients of the products, products become weights.
template <class A>
void relu_slopes(const Tile<A>& t, A* slopes, A weight) {
  for (int64_t j = 0; j < t.keys; ++j) {
    for (int64_t v = 0; v < t.vectors; ++v) {
      const int64_t at = v * kLanes<A> + j * t.step;
      const Vec<A> s = load(t.data + at), g = load(slopes + at) * weight;
      store(t.data + at, (s < 0 ? Vec<A>{} : s) * weight);
      store(slopes + at, s <= 0 ? Vec<A>{} : g);
    }
  }
}

// Products become exp(scale * product - lse): weights but for the rounding of lse. Their gradients are less `base`,
// which leaves softmax's gradient as it is and saves it most of their rounding. `totals` are the sums of weights, and
// after `step` more those of weights times gradients.
template <class A>
void weigh_again(const Tile<A>& t, A* slopes, A scale, const A* lse, const A* base, A* totals) {
  for (int64_t v = 0; v < t.vectors; ++v) {
    const int64_t lane = v * kLanes<A>;
    A* const column = t.data + lane;
    A* const slope = slopes + lane;
    const Vec<A> from = load(lse + lane), less = load(base + lane);
    Vec<A> sum{}, through{};
    for (int64_t j = 0; j < t.keys; ++j) {
      const Vec<A> p = exp_of<A>(load(column + j * t.step) * scale - from), g = load(slope + j * t.step) - less;
      store(column + j * t.step, p);
      store(slope + j * t.step, g);
      sum += p, through += p * g;
    }
    store(totals + lane, sum);
    store(totals + t.step + lane, through);
  }
}

// Softmax's gradient: weights over their `total`, and weight * (its gradient - the mean of those) * scale.
template <class A>
void softmax_slopes(const Tile<A>& t, A* slopes, A scale, const A* share, const A* mean) {
  for (int64_t j = 0; j < t.keys; ++j) {
    for (int64_t v = 0; v < t.vectors; ++v) {
      const int64_t lane = v * kLanes<A>, at = lane + j * t.step;
      const Vec<A> p = load(t.data + at) * load(share + lane);
      store(t.data + at, p);
      store(slopes + at, p * (load(slopes + at) - load(mean + lane)) * scale);
    }
  }
}

// Sums of a tile of slopes over its queries, added to `sums` of the keys. In double: sums of so many numbers, and
// nothing else is done with them that would take longer.
template <class A>
void add_over_queries(const Tile<A>& t, double* sums) {
  for (int64_t j = 0; j < t.keys; ++j) {
    Wide<A> sum{};
    for (int64_t v = 0; v < t.vectors; ++v) add_wide<A>(sum, load(t.column(v) + j * t.step));
    sums[j] += sum_lanes(sum);
  }
}

// Sums over the keys, of `count` queries.
template <class A>
void sum_over_keys(const Tile<A>& t, int64_t count, A* sums) {
  for (int64_t v = 0; v < t.vectors; ++v) {
    Wide<A> sum{};
    for (int64_t j = 0; j < t.keys; ++j) add_wide<A>(sum, load(t.column(v) + j * t.step));
    for (int64_t l = 0; l < kLanes<A> && v * kLanes<A> + l < count; ++l) {
      sums[v * kLanes<A> + l] = static_cast<A>(sum[l]);
    }
  }
}

}  // namespace vidops
