// pathway_select's inner loops. Planar clips: rows, whose positions share M weights, in registers. Channels-last clips:
// positions, whose channels have M weights each, in a table.
#pragma once

#include <algorithm>
#include <type_traits>
#include <utility>

#include "common/vec.h"

namespace vidops {

constexpr int64_t kTerms = 64;  // products a lane sums in fp32 before fp64 takes over

// Where each of M clips is read or written.
template <class T, int M>
struct Places {
  T* at[M];
  int64_t step[M];  // to the next position

  void next() {
    for (int m = 0; m < M; ++m) at[m] += step[m];
  }
};

template <int M, class A>
struct RowWeights {
  Vec<A> of[M];

  Vec<A> operator()(int m, int64_t) const { return of[m]; }
};

// The first `count` lanes of a, the others of b.
template <class A>
inline __attribute__((always_inline)) Vec<A> blend(int64_t count, const Vec<A>& a, const Vec<A>& b) {
  typedef std::conditional_t<sizeof(A) == 8, int64_t, int32_t> Int;
  typedef Int Ints __attribute__((vector_size(kVectorBytes)));
  const Ints lanes = [&]<int... I>(std::integer_sequence<int, I...>) {
    return Ints{I...};
  }(std::make_integer_sequence<int, kLanes<A>>{});
  return lanes < static_cast<Int>(count) ? a : b;
}

template <int M, class A>
RowWeights<M, A> blend(int64_t count, const RowWeights<M, A>& a, const RowWeights<M, A>& b) {
  RowWeights<M, A> both;
  for (int m = 0; m < M; ++m) both.of[m] = blend<A>(count, a.of[m], b.of[m]);
  return both;
}

template <int N>
struct DoublesOf {
  typedef double type __attribute__((vector_size(N * sizeof(double))));
};

// The N lanes of a vector summed in double, half by half.
template <int N, class V>
inline __attribute__((always_inline)) double sum_halves(const V& v) {
  constexpr int half = N / 2;
  using Half = typename DoublesOf<half>::type;
  const Half sum = [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    return __builtin_convertvector(__builtin_shufflevector(v, v, I...), Half) +
           __builtin_convertvector(__builtin_shufflevector(v, v, (half + I)...), Half);
  }(std::make_integer_sequence<int, half>{});
  if constexpr (half > 1) {
    return sum_halves<half>(sum);
  } else {
    return sum[0];
  }
}

// The vector at element i: to = sum of weight(m, i) * x[m].
template <int M, bool kStream, class T, class Weights>
inline __attribute__((always_inline)) void select_vector(const Places<const T, M>& x, Weights&& weight, int64_t i,
                                                         T* to) {
  Vec<T> sum = weight(0, i) * load(x.at[0] + i);
#pragma GCC unroll 8
  for (int m = 1; m < M; ++m) sum += weight(m, i) * load(x.at[m] + i);
  kStream ? stream(to + i, sum) : store(to + i, sum);
}

// Its first `count` elements alone. A function of its own and no loop unrolled: it would be most of the code otherwise.
template <int M, class T, class Weights>
__attribute__((noinline)) void select_part(const Places<const T, M>& x, Weights weight, int64_t i, T* to,
                                           int64_t count) {
  Vec<T> sum = weight(0, i) * load_part(x.at[0] + i, count);
#pragma GCC unroll 1
  for (int m = 1; m < M; ++m) sum += weight(m, i) * load_part(x.at[m] + i, count);
  store_part(to + i, sum, count);
}

// dx[m] = weight(m, i) * grad, and add(m, grad * x[m]).
template <int M, bool kStream, class T, class Weights, class Add>
inline __attribute__((always_inline)) void slope_vector(const T* grad, const Places<const T, M>& x, Weights&& weight,
                                                        int64_t i, const Places<T, M>& dx, Add&& add) {
  const Vec<T> g = load(grad + i);
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
    add(m, g * load(x.at[m] + i));
    const Vec<T> slope = weight(m, i) * g;
    kStream ? stream(dx.at[m] + i, slope) : store(dx.at[m] + i, slope);
  }
}

// Of the first `count` elements alone; the products with x are left in `products`, zeros behind them.
template <int M, class T, class Weights>
__attribute__((noinline)) void slope_part(const T* grad, const Places<const T, M>& x, Weights weight, int64_t i,
                                          const Places<T, M>& dx, int64_t count, Vec<T>* products) {
  const Vec<T> g = load_part(grad + i, count);
#pragma GCC unroll 1
  for (int m = 0; m < M; ++m) {
    products[m] = g * load_part(x.at[m] + i, count);
    store_part<T>(dx.at[m] + i, weight(m, i) * g, count);
  }
}

// `rows` rows of P positions, one behind the other in all clips; next() gives their weights in turn. Vectors that two
// rows share are whole ones too, so that all of them are where the first one is in its line.
template <int M, bool kStream, class T, class Next>
void select_rows(const Places<const T, M>& x, int64_t rows, int64_t P, T* to, Next&& next) {
  constexpr int64_t lanes = kLanes<T>;
  RowWeights<M, acc_t<T>> weights = next();
  int64_t i = 0;
  for (int64_t row = 1; row <= rows; ++row) {
    const int64_t end = row * P;
    for (; i + lanes <= end; i += lanes) select_vector<M, kStream>(x, weights, i, to);
    const RowWeights<M, acc_t<T>> after = row < rows ? next() : weights;
    if (i < end && row < rows && P >= lanes) {
      select_vector<M, kStream>(x, blend(end - i, weights, after), i, to);
      i += lanes;
    } else if (i < end) {
      select_part<M>(x, weights, i, to, end - i);
      i = end;
    }
    weights = after;
  }
}

// The same for gradients; done(m, sum) takes those of each row's weights in turn.
template <int M, bool kStream, class T, class Next, class Done>
void slope_rows(const T* grad, const Places<const T, M>& x, int64_t rows, int64_t P, const Places<T, M>& dx,
                Next&& next, Done&& done) {
  constexpr int64_t lanes = kLanes<T>, some = kTerms * lanes;
  RowWeights<M, acc_t<T>> weights = next();
  Vec<T> sum[M] = {}, behind[M] = {};  // of this row, and of the next one in a vector that both share
  int64_t i = 0;
  const auto add = [&](int m, const Vec<T>& product) __attribute__((always_inline)) { sum[m] += product; };
  for (int64_t row = 1; row <= rows; ++row) {
    const int64_t end = row * P;
    double total[M] = {};
    while (i + lanes <= end) {
      const int64_t stop = std::min(end, i + some);
      for (; i + lanes <= stop; i += lanes) {
        slope_vector<M, kStream>(grad, x, weights, i, dx, add);
      }
      if (i + lanes > end) break;
      for (int m = 0; m < M; ++m) total[m] += sum_halves<kLanes<T>>(sum[m]), sum[m] = Vec<T>{};
    }
    const RowWeights<M, acc_t<T>> after = row < rows ? next() : weights;
    if (i < end && row < rows && P >= lanes) {
      const int64_t ours = end - i;
      slope_vector<M, kStream>(grad, x, blend(ours, weights, after), i, dx,
                               [&](int m, const Vec<T>& product) __attribute__((always_inline)) {
                                 sum[m] += blend<acc_t<T>>(ours, product, Vec<T>{});
                                 behind[m] = blend<acc_t<T>>(ours, Vec<T>{}, product);
                               });
      i += lanes;
    } else if (i < end) {
      Vec<T> products[M];
      slope_part<M>(grad, x, weights, i, dx, end - i, products);
      for (int m = 0; m < M; ++m) sum[m] += products[m];
      i = end;
    }
    for (int m = 0; m < M; ++m) {
      done(m, total[m] + sum_halves<kLanes<T>>(sum[m]));
      sum[m] = behind[m], behind[m] = Vec<T>{};
    }
    weights = after;
  }
}

// Weights of the channels of a position.
template <class T>
struct TableWeights {
  const acc_t<T>* table;
  int64_t channels;

  Vec<T> operator()(int m, int64_t c) const { return load(table + m * channels + c); }
};

// `count` positions of channels-last clips.
template <int M, bool kStream, class T>
void select_positions(Places<const T, M> x, const TableWeights<T>& weights, int64_t count, T* to, int64_t step) {
  for (; count; --count, x.next(), to += step) {
    int64_t c = 0;
    for (; c + kLanes<T> <= weights.channels; c += kLanes<T>) select_vector<M, kStream>(x, weights, c, to);
    if (c < weights.channels) select_part<M>(x, weights, c, to, weights.channels - c);
  }
}

// The same for gradients; those of the weights are added to `sums`, which lie as the table does. Of a part of a vector
// nothing is added to the next pathway's.
template <int M, bool kStream, class T>
void slope_positions(const T* grad, int64_t step, Places<const T, M> x, const TableWeights<T>& weights, int64_t count,
                     Places<T, M> dx, acc_t<T>* sums) {
  const int64_t channels = weights.channels;
  for (; count; --count, x.next(), dx.next(), grad += step) {
    int64_t c = 0;
    const auto add = [&](int m, const Vec<T>& product) __attribute__((always_inline)) {
      acc_t<T>* const at = sums + m * channels + c;
      store(at, load(at) + product);
    };
    for (; c + kLanes<T> <= channels; c += kLanes<T>) slope_vector<M, kStream>(grad, x, weights, c, dx, add);
    if (c < channels) {
      Vec<T> products[M];
      slope_part<M>(grad, x, weights, c, dx, channels - c, products);
      for (int m = 0; m < M; ++m) add(m, products[m]);
    }
  }
}

}  // namespace vidops
