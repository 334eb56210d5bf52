// The weights of pathway_select, a table of softmaxes over M logits, and their gradients. The table has one number
// where a frame of the clip has H*W, so that it costs hardly anything and stays in the caches.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "common/pathway_select.h"
#include "common/vec.h"
#include "cpu/exp.h"

namespace vidops {

constexpr int64_t kSoftmaxes = 4 << 10;  // a thread should have at least

// Softmax of M vectors, in place. Whatever makes one of them NaN makes all so, as in PyTorch.
template <class A>
inline void softmax(Vec<A>* v, int64_t M) {
  Vec<A> top = v[0], sum{};
  for (int64_t m = 1; m < M; ++m) top = v[m] > top ? v[m] : top;
  for (int64_t m = 0; m < M; ++m) sum += v[m] = exp_of<A>(v[m] - top);
  for (int64_t m = 0; m < M; ++m) v[m] /= sum;
}

// Gradients of M logits from those of their weights, in place.
template <class A>
inline void softmax_slope(const Vec<A>* weights, Vec<A>* v, int64_t M) {
  Vec<A> mean{};
  for (int64_t m = 0; m < M; ++m) mean += weights[m] * v[m];
  for (int64_t m = 0; m < M; ++m) v[m] = weights[m] * (v[m] - mean);
}

// Calls f(n, i, count) for vectors of the logits of clip n, `each` of a pathway.
template <class T, class F>
void each_softmax(const SelectSize& s, int64_t each, F&& f) {
  const int64_t blocks = (each + kLanes<T> - 1) / kLanes<T>;
  torch::stable::parallel_for(0, s.N * blocks, kSoftmaxes / kLanes<T>, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const int64_t i = k % blocks * kLanes<T>;
      f(k / blocks, i, std::min<int64_t>(kLanes<T>, each - i));
    }
  });
}

// Planar clips: logits (N, M, C, frames) to weights that lie likewise.
template <class T>
void planar_weights(const T* logits, const SelectSize& s, acc_t<T>* to) {
  const int64_t each = s.C * s.frames;
  each_softmax<T>(s, each, [&](int64_t n, int64_t i, int64_t count) {
    Vec<T> v[kMostPathways];
    for (int64_t m = 0; m < s.pathways; ++m) v[m] = load_part(logits + (n * s.pathways + m) * each + i, count);
    softmax<acc_t<T>>(v, s.pathways);
    for (int64_t m = 0; m < s.pathways; ++m) store_part(to + (n * s.pathways + m) * each + i, v[m], count);
  });
}

// Their gradients, from those of the weights.
template <class T>
void planar_slopes(const acc_t<T>* weights, const acc_t<T>* slopes, const SelectSize& s, T* to) {
  const int64_t each = s.C * s.frames;
  each_softmax<T>(s, each, [&](int64_t n, int64_t i, int64_t count) {
    Vec<T> w[kMostPathways], v[kMostPathways];
    for (int64_t m = 0; m < s.pathways; ++m) {
      const int64_t at = (n * s.pathways + m) * each + i;
      w[m] = load_part(weights + at, count), v[m] = load_part(slopes + at, count);
    }
    softmax_slope<acc_t<T>>(w, v, s.pathways);
    for (int64_t m = 0; m < s.pathways; ++m) store_part(to + (n * s.pathways + m) * each + i, v[m], count);
  });
}

// Channels last: logits to weights (N, frames, M, C), and gradients back.
template <class T>
void last_weights(const T* logits, const SelectSize& s, acc_t<T>* to) {
  const int64_t M = s.pathways;
  each_softmax<T>(s, s.frames * round_up(s.C, kLanes<T>), [&](int64_t n, int64_t i, int64_t) {
    const int64_t t = i / round_up(s.C, kLanes<T>), c = i % round_up(s.C, kLanes<T>);
    const int64_t count = std::min<int64_t>(kLanes<T>, s.C - c);
    Vec<T> v[kMostPathways] = {};
    for (int64_t m = 0; m < M; ++m) {
      const T* from = logits + ((n * M + m) * s.C + c) * s.frames + t;
      for (int64_t l = 0; l < count; ++l) v[m][l] = load1(from + l * s.frames);
    }
    softmax<acc_t<T>>(v, M);
    for (int64_t m = 0; m < M; ++m) store_part(to + ((n * s.frames + t) * M + m) * s.C + c, v[m], count);
  });
}
template <class T>
void last_slopes(const acc_t<T>* weights, const acc_t<T>* slopes, const SelectSize& s, T* to) {
  const int64_t M = s.pathways;
  each_softmax<T>(s, s.frames * round_up(s.C, kLanes<T>), [&](int64_t n, int64_t i, int64_t) {
    const int64_t t = i / round_up(s.C, kLanes<T>), c = i % round_up(s.C, kLanes<T>);
    const int64_t count = std::min<int64_t>(kLanes<T>, s.C - c);
    Vec<T> w[kMostPathways], v[kMostPathways];
    for (int64_t m = 0; m < M; ++m) {
      const int64_t at = ((n * s.frames + t) * M + m) * s.C + c;
      w[m] = load_part(weights + at, count), v[m] = load_part(slopes + at, count);
    }
    softmax_slope<acc_t<T>>(w, v, M);
    for (int64_t m = 0; m < M; ++m) {
      T* into = to + ((n * M + m) * s.C + c) * s.frames + t;
      for (int64_t l = 0; l < count; ++l) store1(into + l * s.frames, v[m][l]);
    }
  });
}

}  // namespace vidops
