// temporal_conv by a window of K neighbouring frames that slides over the clip in registers: every element is loaded
// once, multiplied with K taps and never needed again. A frame outside the clip is a vector of zeros, or the edge
// frame. Stride 1, dilation 1 and up to 7 taps take it, but for the input's gradient under replicated frames or taps
// that are not finite.
#pragma once

#include "cpu/frames.h"

namespace vidops {

// visit(t, window) for every result frame t: the K frames from first + t on.
template <int K, class T, class Lanes, class Visit>
inline __attribute__((always_inline)) void slide(const Frames<T, Lanes>& frames, int64_t first, int64_t results,
                                                 Visit&& visit) {
  Vec<T> window[K];
#pragma GCC unroll 8
  for (int j = 0; j + 1 < K; ++j) window[j + 1] = frames(first + j);
  const auto step = [&](int64_t t, Vec<T> newest) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int j = 0; j + 1 < K; ++j) window[j] = window[j + 1];
    window[K - 1] = newest;
    visit(t, window);
  };
  const int64_t newest = first + K - 1;
  const int64_t begin = std::clamp<int64_t>(-newest, 0, results);
  const int64_t end = std::clamp<int64_t>(frames.count - newest, begin, results);
  int64_t t = 0;
  for (; t < begin; ++t) step(t, frames(newest + t));
  for (; t < end; ++t) step(t, frames.inside(newest + t));
  for (; t < results; ++t) step(t, frames(newest + t));
}

// y[t] = bias + sum_j tap(j) * x[first + t + j] for one vector.
template <int K, bool kStream, class T, class Lanes, class Tap>
inline void slide_sums(const Frames<T, Lanes>& x, int64_t first, Tap&& tap, Vec<T> bias, T* y, int64_t step,
                       int64_t results) {
  Vec<T> taps[K];
#pragma GCC unroll 8
  for (int j = 0; j < K; ++j) taps[j] = tap(j);
  slide<K>(x, first, results, [&](int64_t t, const Vec<T>* window) __attribute__((always_inline)) {
    Vec<T> sum = bias;
#pragma GCC unroll 8
    for (int j = 0; j < K; ++j) sum += taps[j] * window[j];
    x.lanes.template put<kStream>(y + t * step, sum);
  });
}

// sums[j] += sum_t g[t] * x[first + t + j] and sums[K] += sum_t g[t] for one vector.
template <int K, class T, class Lanes>
inline void slide_products(const Frames<T, Lanes>& x, int64_t first, const Frames<T, Lanes>& g, Vec<T>* sums) {
  Vec<T> sum[K + 1];
#pragma GCC unroll 8
  for (int j = 0; j <= K; ++j) sum[j] = sums[j];
  slide<K>(x, first, g.count, [&](int64_t t, const Vec<T>* window) __attribute__((always_inline)) {
    const Vec<T> grad = g.inside(t);
#pragma GCC unroll 8
    for (int j = 0; j < K; ++j) sum[j] += grad * window[j];
    sum[K] += grad;
  });
#pragma GCC unroll 8
  for (int j = 0; j <= K; ++j) sums[j] = sum[j];
}

}  // namespace vidops
