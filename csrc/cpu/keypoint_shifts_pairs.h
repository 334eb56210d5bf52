// Two adjacent frames of a vector of channels: how key points correspond and move, eq. 8-12, and the way back.
//
// In double also for fp32, half a vector of channels at a time: 1 / (d + epsilon) and its square magnify what is
// rounded a hundredfold.
#pragma once

#include <limits>

#include "cpu/attention_weights.h"
#include "cpu/keypoint_shifts_regions.h"

namespace vidops {

constexpr int kMostRegions = kMostBands * kMostBands;

template <class A>
constexpr int kParts = sizeof(Wide<A>) / kVectorBytes;

template <class A>
Vec<double> part_of(const Vec<A>& v, int part) {
  const Wide<A> wide = __builtin_convertvector(v, Wide<A>);
  Vec<double> half;
  std::memcpy(&half, reinterpret_cast<const char*>(&wide) + part * kVectorBytes, kVectorBytes);
  return half;
}
template <class A>
Vec<A> join(const Vec<double>* parts) {
  Wide<A> wide;
  std::memcpy(&wide, parts, sizeof(wide));
  return __builtin_convertvector(wide, Vec<A>);
}
// Regions, [part][region].
template <class A>
void take_apart(const std::vector<Region<A>>& regions, std::vector<Region<double>>& parts) {
  for (int part = 0; part < kParts<A>; ++part) {
    for (size_t i = 0; i < regions.size(); ++i) {
      const Maximum<A>& m = regions[i].maximum;
      parts[part * regions.size() + i] = {{part_of<A>(m.value, part), part_of<A>(m.x, part), part_of<A>(m.y, part)},
                                          part_of<A>(regions[i].mean, part)};
    }
  }
}

// Logits become weights that sum to 1.
template <class A>
void softmax_vectors(Vec<A>* v, int count) {
  Vec<A> top = v[0], total{};
  for (int i = 1; i < count; ++i) top = v[i] > top ? v[i] : top;
  for (int i = 0; i < count; ++i) v[i] = exp_of<A>(v[i] - top), total += v[i];
  for (int i = 0; i < count; ++i) v[i] /= total;
}

// 1 / (|V[a] - V[b]| + epsilon) for all regions b of the next frame.
template <class A>
void closeness(const Vec<A>& value, const Region<A>* next, int count, A epsilon, Vec<A>* to) {
  for (int b = 0; b < count; ++b) {
    const Vec<A> d = value - next[b].maximum.value;
    to[b] = A{1} / ((d < 0 ? -d : d) + epsilon);
  }
}

template <class A>
void region_weights(const Region<A>* now, const Region<A>* next, int count, Vec<A>* to) {
  for (int k = 0; k < count; ++k) to[k] = (now[k].mean + next[k].mean) / A{2};
  softmax_vectors<A>(to, count);
}

// f(a, x, y): the weighted shift of region a.
template <class A, class F>
void pair_forward(const Region<A>* now, const Region<A>* next, int count, A epsilon, F&& f) {
  Vec<A> regions[kMostRegions], weights[kMostRegions];
  region_weights(now, next, count, regions);
  for (int a = 0; a < count; ++a) {
    const Maximum<A>& from = now[a].maximum;
    closeness(from.value, next, count, epsilon, weights);
    softmax_vectors<A>(weights, count);
    Vec<A> x{}, y{};
    for (int b = 0; b < count; ++b) {
      x += weights[b] * (next[b].maximum.x - from.x), y += weights[b] * (next[b].maximum.y - from.y);
    }
    f(a, regions[a] * x, regions[a] * y);
  }
}

// Adds to the gradients of both frames' regions; `x` and `y` are the gradients of the weighted shifts. The order of the
// operations is autograd's: close values cancel, and another order would round them another way.
template <class A>
void pair_backward(const Region<A>* now, const Region<A>* next, int count, A epsilon, const Vec<A>* x, const Vec<A>* y,
                   RegionGradient<A>* grad_now, RegionGradient<A>* grad_next) {
  Vec<A> regions[kMostRegions], slopes[kMostRegions], close[kMostRegions], weights[kMostRegions],
      products[kMostRegions];
  region_weights(now, next, count, regions);
  Vec<A> expected{};
  for (int a = 0; a < count; ++a) {
    const Maximum<A>& from = now[a].maximum;
    closeness(from.value, next, count, epsilon, close);
    std::copy_n(close, count, weights);
    softmax_vectors<A>(weights, count);
    const Vec<A> part_x = x[a] * regions[a], part_y = y[a] * regions[a];
    Vec<A> moved_x{}, moved_y{}, mean{};
    for (int b = 0; b < count; ++b) {
      const Vec<A> away_x = next[b].maximum.x - from.x, away_y = next[b].maximum.y - from.y;
      moved_x += weights[b] * away_x, moved_y += weights[b] * away_y;
      products[b] = part_x * away_x + part_y * away_y;
      mean += products[b] * weights[b];
    }
    slopes[a] = x[a] * moved_x + y[a] * moved_y;
    expected += slopes[a] * regions[a];
    for (int b = 0; b < count; ++b) {
      const Vec<A> d = from.value - next[b].maximum.value;
      const Vec<A> slope = (products[b] * weights[b] - weights[b] * mean) * (close[b] * close[b]);
      const Vec<A> to = d > 0 ? -slope : d < 0 ? slope : d == 0 ? Vec<A>{} : slope * d;
      grad_now[a].value += to, grad_next[b].value -= to;
    }
  }
  for (int k = 0; k < count; ++k) {
    const Vec<A> half = (slopes[k] * regions[k] - regions[k] * expected) / A{2};
    grad_now[k].mean += half, grad_next[k].mean += half;
  }
}

}  // namespace vidops
