// pathway_select's inner loops: a run of neighbouring elements of M pathways. Elements of a planar clip's run are
// positions of one channel and share their weights; those of a channels-last clip's run are the channels of a position,
// and have one each.
#pragma once

#include "common/vec.h"

namespace vidops {

constexpr int64_t kTerms = 64;  // products a lane sums in fp32 before fp64 takes over

// A run of every pathway, and how far the next one is.
template <class T, int M>
struct Runs {
  T* at[M];
  int64_t step[M];

  void next() {
    for (int m = 0; m < M; ++m) at[m] += step[m];
  }
};

// Calls f(i, whole, count) for every vector of `count` elements; `whole` is a constant. The first one is shorter where
// whole vectors are to begin at aligned addresses of `to`.
template <bool kAligned, class T, class F>
inline __attribute__((always_inline)) void each_vector(const T* to, int64_t count, F&& f) {
  constexpr int64_t lanes = kLanes<T>;
  int64_t i = 0;
  if constexpr (kAligned) {
    const int64_t before = -(reinterpret_cast<intptr_t>(to) / static_cast<int64_t>(sizeof(T))) & (lanes - 1);
    if (before) f(0, std::false_type{}, i = std::min(before, count));
  }
  for (; i + lanes <= count; i += lanes) f(i, std::true_type{}, lanes);
  if (i < count) f(i, std::false_type{}, count - i);
}

template <bool kWhole, class T>
inline __attribute__((always_inline)) Vec<T> load_some(const T* p, int64_t count) {
  if constexpr (kWhole) return load(p);
  return load_part(p, count);
}
template <bool kWhole, bool kStream, class T>
inline __attribute__((always_inline)) void store_some(T* p, Vec<T> v, int64_t count) {
  if constexpr (kWhole && kStream) {
    stream(p, v);
  } else if constexpr (kWhole) {
    store(p, v);
  } else {
    store_part(p, v, count);
  }
}

// to = sum of weight(m, i) * x[m].
template <int M, bool kStream, class T, class Weight>
inline __attribute__((always_inline)) void select_run(const Runs<const T, M>& x, Weight&& weight, int64_t count,
                                                      T* to) {
  each_vector<kStream>(to, count, [&](int64_t i, auto whole, int64_t some) __attribute__((always_inline)) {
    Vec<T> sum = weight(0, i) * load_some<whole>(x.at[0] + i, some);
#pragma GCC unroll 8
    for (int m = 1; m < M; ++m) sum += weight(m, i) * load_some<whole>(x.at[m] + i, some);
    store_some<whole, kStream>(to + i, sum, some);
  });
}

// dx[m] = weight(m, i) * grad, and add(m, i, grad * x[m]).
template <int M, bool kStream, class T, class Weight, class Add>
inline __attribute__((always_inline)) void slope_run(const T* grad, const Runs<const T, M>& x, Weight&& weight,
                                                     int64_t count, const Runs<T, M>& dx, Add&& add) {
  each_vector<kStream>(dx.at[0], count, [&](int64_t i, auto whole, int64_t some) __attribute__((always_inline)) {
    const Vec<T> g = load_some<whole>(grad + i, some);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      add(m, i, g, load_some<whole>(x.at[m] + i, some));
      store_some<whole, kStream>(dx.at[m] + i, weight(m, i) * g, some);
    }
  });
}

}  // namespace vidops
