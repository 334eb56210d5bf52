// temporal_conv by its table of terms: any stride, dilation, padding and number of taps. What k taps need of one vector
// is loaded k times, from the first-level cache after the first.
#pragma once

#include "common/temporal_taps.h"
#include "cpu/frames.h"

namespace vidops {

// y[t] = bias + the terms of t, for one vector.
template <bool kStream, class T, class Lanes, class Tap>
inline void table_sums(const Frames<T, Lanes>& x, const TermTable& table, Tap&& tap, Vec<T> bias, T* y, int64_t step) {
  x.fetch_ahead();
  for (size_t t = 0; t + 1 < table.begin.size(); ++t) {
    Vec<T> sum = bias;
    for (int64_t n = table.begin[t]; n < table.begin[t + 1]; ++n) {
      const Term term = table.terms[n];
      sum += tap(term.tap) * x.at(term.frame);
    }
    x.lanes.template put<kStream>(y + static_cast<int64_t>(t) * step, sum);
  }
}

// sums[k] += sum over the terms of tap k of g * x and sums[taps] += sum_t g[t], for one vector; g starts at frame t0.
template <class T, class Lanes>
inline void table_products(const Frames<T, Lanes>& x, const TermTable& table, int64_t taps, const Frames<T, Lanes>& g,
                           int64_t t0, Vec<T>* sums) {
  x.fetch_ahead();
  for (int64_t t = 0; t < g.count; ++t) {
    const Vec<T> grad = g.inside(t);
    for (int64_t n = table.begin[t0 + t]; n < table.begin[t0 + t + 1]; ++n) {
      const Term term = table.terms[n];
      sums[term.tap] += grad * x.at(term.frame);
    }
    sums[taps] += grad;
  }
}

}  // namespace vidops
