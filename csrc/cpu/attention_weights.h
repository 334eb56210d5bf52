// From products of queries and keys to weights and back, a vector of queries at a time: tiles hold the keys as rows,
// so that maxima and sums over keys go down the lanes.
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#include "common/vec.h"
#include "cpu/exp.h"

namespace vidops {

// Products (keys, queries) at `data`, rows `step` apart; a whole number of vectors wide.
template <class A>
struct Tile {
  A* data;
  int64_t step, keys, vectors;

  A* column(int64_t v) const { return data + v * kLanes<A>; }
};

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
