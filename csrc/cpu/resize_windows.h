// A weighted sum of a row's elements for every element of another row, vector by vector.
//
// Neighbouring results read neighbouring elements: kLanes results find all of theirs in a window of two vectors, from
// which one permutation takes a term of each. A result with fewer terms than its neighbours takes its last one in
// halves, quarters, ..., so that no weight of 0 meets a value that is not finite. Where a window is too small for what
// its results read (a row is made less than half as long), or a result reads nothing, they are made one by one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/vec.h"

namespace vidops {

// Result o is the sum of weight[i] * element[index[i]] for i in begin[o] .. begin[o + 1].
template <class A>
struct Terms {
  std::vector<int64_t> begin{0};
  std::vector<int32_t> index;
  std::vector<A> weight;
  bool pairs = false;  // always two terms a result: where it reads one element, half of it twice

  int64_t size() const { return static_cast<int64_t>(begin.size()) - 1; }
  int64_t count(int64_t o) const { return begin[o + 1] - begin[o]; }
  void add(int64_t i, double w) { index.push_back(static_cast<int32_t>(i)), weight.push_back(static_cast<A>(w)); }
  void close() { begin.push_back(static_cast<int64_t>(index.size())); }

  // The same of `channels` rows whose elements lie in turn.
  Terms in_turn(int64_t channels) const {
    Terms all;
    all.pairs = pairs;
    for (int64_t o = 0; o < size(); ++o) {
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t i = begin[o]; i < begin[o + 1]; ++i) all.add(index[i] * channels + c, weight[i]);
        all.close();
      }
    }
    return all;
  }
};

#if defined(__AVX512F__)
template <class A>
constexpr bool kPicks = true;
#elif defined(__AVX2__)
template <class A>
constexpr bool kPicks = sizeof(A) == 4;
#else
template <class A>
constexpr bool kPicks = false;
#endif

template <class A>
using place_t = std::conditional_t<sizeof(A) == 8, int64_t, int32_t>;  // as wide as what it finds

// Lane i of the result is lane at[i] of the two vectors, counted through.
template <class A>
inline Vec<A> pick(Vec<A> a, Vec<A> b, const place_t<A>* at) {
#if defined(__AVX512F__)
  const __m512i from = _mm512_loadu_si512(at);
  if constexpr (sizeof(A) == 4) return _mm512_permutex2var_ps(a, from, b);
  if constexpr (sizeof(A) == 8) return _mm512_permutex2var_pd(a, from, b);
#elif defined(__AVX2__)
  if constexpr (sizeof(A) == 4) {
    const __m256i from = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
    const __m256 second = _mm256_castsi256_ps(_mm256_slli_epi32(from, 28));  // bit 3, where a blend looks
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(a, from), _mm256_permutevar8x32_ps(b, from), second);
  }
#endif
  Vec<A> v{};
  for (int i = 0; i < kLanes<A>; ++i) v[i] = at[i] < kLanes<A> ? a[at[i]] : b[at[i] - kLanes<A>];
  return v;
}

template <class A>
class Windows {
 public:
  static constexpr int kL = kLanes<A>;

  explicit Windows(Terms<A> terms) : terms_(std::move(terms)) {
    for (int64_t first = 0; first < terms_.size(); first += kL) {
      windows_.push_back(kPicks<A> ? make(first, std::min<int64_t>(kL, terms_.size() - first)) : Window{0, 0, 0});
    }
  }

  int64_t size() const { return terms_.size(); }
  bool all_in_vectors() const {
    return std::all_of(windows_.begin(), windows_.end(), [](const Window& w) { return w.terms > 0; });
  }

  // Results of R rows, each of which can be read two vectors past its end. Several at once share what is loaded of the
  // tables, and a row is read later than it was written: right after, its two vectors would have to wait for the cache.
  template <int R, class T>
  void apply(const A* rows, int64_t pitch, T* to) const {
    const int64_t count = terms_.size();
    int64_t first = 0;
    for (const Window& window : windows_) {
      Vec<A> sums[R];
      if (window.terms) {
        in_vectors<R>(rows, pitch, window, sums);
      } else {
        for (int r = 0; r < R; ++r) sums[r] = one_by_one(rows + r * pitch, first, count - first);
      }
      for (int r = 0; r < R; ++r) store_part(to + r * count + first, sums[r], count - first);
      first += kL;
    }
  }

 private:
  struct Window {
    int64_t base;  // element that its two vectors start at
    int64_t terms;
    int64_t at;  // of its first place and weight
  };

  Window make(int64_t first, int64_t count) {
    const auto least = terms_.index.begin() + terms_.begin[first],
               end = terms_.index.begin() + terms_.begin[first + count];
    if (least == end) return {0, 0, 0};
    const int64_t base = *std::min_element(least, end);
    int64_t most = 0;
    for (int64_t o = first; o < first + count; ++o) {
      if (terms_.count(o) == 0) return {0, 0, 0};
      most = std::max(most, terms_.count(o));
    }
    if (*std::max_element(least, end) >= base + 2 * kL) return {0, 0, 0};
    const int64_t at = static_cast<int64_t>(places_.size());
    for (int64_t term = 0; term < most; ++term) {
      for (int lane = 0; lane < kL; ++lane) {
        const int64_t o = first + std::min<int64_t>(lane, count - 1), last = terms_.count(o) - 1;
        const int64_t i = terms_.begin[o] + std::min(term, last);
        // The last term in all that are left: 1/2, 1/4, ..., and what remains.
        A share = 1;
        for (int64_t part = last; part < most - 1 && part <= term; ++part) share /= 2;
        places_.push_back(static_cast<place_t<A>>(terms_.index[i] - base));
        weights_.push_back(terms_.weight[i] * share);
      }
    }
    return {base, most, at};
  }

  template <int R>
  void in_vectors(const A* rows, int64_t pitch, const Window& window, Vec<A>* sums) const {
    Vec<A> near[R], far[R], total[R];
    for (int r = 0; r < R; ++r) {
      near[r] = load(rows + r * pitch + window.base), far[r] = load(rows + r * pitch + window.base + kL);
    }
    const place_t<A>* place = &places_[window.at];
    const A* weight = &weights_[window.at];
    for (int r = 0; r < R; ++r) total[r] = pick<A>(near[r], far[r], place) * load(weight);
    for (int64_t term = 1; term < window.terms; ++term) {
      place += kL, weight += kL;
      for (int r = 0; r < R; ++r) total[r] += pick<A>(near[r], far[r], place) * load(weight);
    }
    for (int r = 0; r < R; ++r) sums[r] = total[r];
  }

  Vec<A> one_by_one(const A* row, int64_t first, int64_t rest) const {
    const int64_t count = std::min<int64_t>(kL, rest);
    A sums[kL] = {};
    for (int64_t o = 0; o < count; ++o) {
      if (terms_.pairs) {
        const int64_t i = 2 * (first + o);
        sums[o] = row[terms_.index[i]] * terms_.weight[i] + row[terms_.index[i + 1]] * terms_.weight[i + 1];
      } else {
        for (int64_t i = terms_.begin[first + o]; i < terms_.begin[first + o + 1]; ++i) {
          sums[o] += row[terms_.index[i]] * terms_.weight[i];
        }
      }
    }
    return load(sums);
  }

  Terms<A> terms_;
  std::vector<Window> windows_;
  std::vector<place_t<A>> places_;
  std::vector<A> weights_;
};

}  // namespace vidops
