// The kernels of nonlocal_attention: weights from products, forward and backward.
#pragma once

#include "cuda/nonlocal_attention_common.cuh"

namespace vidops {
namespace {

// relu(x) / 2: sums of two fp16 numbers stay finite in fp16.
template <class A>
__device__ __forceinline__ A halved_relu(A x) {
  return x <= A(0) ? A(0) : x * A(0.5);
}

// The running maximum of a lane's rows, and the sums of its own columns' weights.
template <class M>
struct Softmax {
  using S = Shape<M>;
  using A = typename S::A;
  A most[S::kDown][2], sum[S::kDown][2];

  __device__ __forceinline__ Softmax() {
#pragma unroll
    for (int i = 0; i < 2 * S::kDown; ++i) most[i / 2][i % 2] = -A(INFINITY), sum[i / 2][i % 2] = 0;
  }

  // Takes a tile's maxima in; returns by what earlier weights of a row shrink.
  __device__ __forceinline__ void raise(const A (&s)[S::kDown][S::kScores][4], const Stream<M>& stream, int32_t columns,
                                        A (&shrink)[S::kDown][2]) {
    const Place<M>& at = stream.at;
    const A lowest = -A(INFINITY);
    A before[S::kDown][2];
#pragma unroll
    for (int i = 0; i < 2 * S::kDown; ++i) before[i / 2][i % 2] = most[i / 2][i % 2];
    stream.raise(
        most, [&](A row, int m, int n, int i) { return at.column(n) + i % 2 < columns ? max(row, s[m][n][i]) : row; });
#pragma unroll
    for (int i = 0; i < 2 * S::kDown; ++i) {
      const A m = before[i / 2][i % 2], raised = most[i / 2][i % 2];
      // After nothing but -inf all weights are 0 so far, and there is nothing to shrink.
      shrink[i / 2][i % 2] = m == lowest ? A(1) : exp2_of((m - raised) * stream.a.scale2);
      sum[i / 2][i % 2] *= shrink[i / 2][i % 2];
    }
  }
};

// blockIdx.x: clip and tile of rows; blockIdx.y: columns of the result.
template <class M>
__global__ void __launch_bounds__(kAttentionThreads, 1)
    attention_kernel(const __grid_constant__ AttentionArgs<typename M::Element> a) {
  using S = Shape<M>;
  using A = typename S::A;
  const Place<M> at(a);
  Stream<M> stream(a, at);
  Softmax<M> softmax;
  A out[S::kDown][S::kWide][4] = {};
#pragma unroll 1
  for (int32_t tile = 0; tile < a.tiles; ++tile) {
    A s[S::kDown][S::kScores][4] = {};
    stream.product(s, 0);
    const int32_t columns = stream.columns_of(tile);
    A shrink[S::kDown][2];
    if (a.gaussian) {
      if (a.flip) {
#pragma unroll
        for (int i = 0; i < 4 * S::kDown * S::kScores; ++i) {
          A& score = s[i / (4 * S::kScores)][i / 4 % S::kScores][i % 4];
          score = -score;
        }
      }
      softmax.raise(s, stream, columns, shrink);
#pragma unroll
      for (int i = 0; i < 4 * S::kDown * S::kWide; ++i) {
        out[i / (4 * S::kWide)][i / 4 % S::kWide][i % 4] *= shrink[i / (4 * S::kWide)][i % 4 / 2];
      }
    }
#pragma unroll
    for (int i = 0; i < 2 * S::kDown; ++i) {
      typename S::T* to = stream.weights + at.row(i / 2, i % 2) * at.weights_pitch();
      const A m = softmax.most[i / 2][i % 2], base = m == -A(INFINITY) ? A(0) : m;
#pragma unroll
      for (int n = 0; n < S::kScores; ++n) {
        A w[2];
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const A score = s[i / 2][n][i % 2 * 2 + j];
          w[j] = a.gaussian ? exp2_of((score - base) * a.scale2) : halved_relu(score);
          if (at.column(n) + j >= columns) w[j] = 0;
          softmax.sum[i / 2][i % 2] += w[j];
        }
        put_pair(to + at.column(n), w[0], w[1]);
      }
    }
    stream.weigh(out, tile);
  }
  copies_wait<0>();
  A factor[S::kDown][2];
#pragma unroll
  for (int i = 0; i < 2 * S::kDown; ++i) factor[i / 2][i % 2] = a.post;
  if (a.gaussian) {
    stream.add_columns(softmax.sum);
#pragma unroll
    for (int i = 0; i < 2 * S::kDown; ++i) factor[i / 2][i % 2] = A(1) / softmax.sum[i / 2][i % 2];
    stream.each_row([&](int m, int h, int64_t place) {
      a.lse[place] = rounded_product(softmax.most[m][h], a.flip ? -a.scale : a.scale) + log_of(softmax.sum[m][h]);
    });
  }
  stream.store(out, factor);
}

// What a tile of the backward pass takes from the forward one, of a lane's rows or of its columns: logarithms of sums,
// deltas, or what the logarithms have lost.
template <class M>
struct Statistics {
  using S = Shape<M>;
  using A = typename S::A;
  A of_rows[S::kDown][2];
  const A* of_columns;

  // `which`: 0 for lse, 1 for delta, 2 for rest, which the pass that makes it takes for zero.
  __device__ __forceinline__ Statistics(const Stream<M>& stream, int32_t tile, int which) {
    of_columns = stream.a.by_column ? stream.statistics_of(tile) + which * stream.at.columns : nullptr;
    const A* from = which == 0 ? stream.a.lse : which == 1 ? stream.a.delta : stream.a.rest;
    const bool known = which < 2 || stream.a.values.width > 0;
#pragma unroll
    for (int i = 0; i < 2 * S::kDown; ++i) {
      const int64_t row = stream.at.row0 + stream.at.row(i / 2, i % 2), rows = stream.a.rows[0].rows;
      of_rows[i / 2][i % 2] = of_columns || !known || row >= rows ? A(0) : from[stream.at.batch * rows + row];
    }
  }
  __device__ __forceinline__ A at(int m, int h, int32_t column) const {
    return of_columns ? of_columns[column] : of_rows[m][h];
  }
};

// Turns a tile of products into weights in place, with f(product, m, h, column).
template <class M, class F>
__device__ __forceinline__ void turn(typename M::Sum (&s)[Shape<M>::kDown][Shape<M>::kScores][4],
                                     const Stream<M>& stream, int32_t tile, F&& f) {
  using S = Shape<M>;
  const int32_t columns = stream.columns_of(tile);
#pragma unroll
  for (int n = 0; n < S::kScores; ++n) {
#pragma unroll
    for (int i = 0; i < 4 * S::kDown; ++i) {
      const int32_t column = stream.at.column(n) + i % 2;
      typename S::A& w = s[i / 4][n][i % 4];
      w = f(w, i / 4, i / 2 % 2, column);
      if (column >= columns) w = 0;
    }
  }
}

// Puts them into shared memory.
template <class M>
__device__ __forceinline__ void put_weights(const typename M::Sum (&s)[Shape<M>::kDown][Shape<M>::kScores][4],
                                            const Stream<M>& stream) {
  using S = Shape<M>;
  const Place<M>& at = stream.at;
#pragma unroll
  for (int n = 0; n < S::kScores; ++n) {
#pragma unroll
    for (int i = 0; i < 2 * S::kDown; ++i) {
      typename S::T* to = stream.weights + at.row(i / 2, i % 2) * at.weights_pitch() + at.column(n);
      put_pair(to, s[i / 2][n][i % 2 * 2], s[i / 2][n][i % 2 * 2 + 1]);
    }
  }
}

// Weights times slopes in fp16: a gradient of 1e-3 over 4096 keys would vanish, one of 1e3 leave the range. The largest
// one of a row so far becomes 2^14 to 2^15, by a power of two that follows it as a softmax follows its maximum.
template <class M>
struct Range {
  using S = Shape<M>;
  using A = typename S::A;
  static constexpr A kLeast = A(0x1p-100), kMost = A(0x1p127);
  A most[S::kDown][2];  // rounded down to a power of two

  __device__ __forceinline__ Range() {
#pragma unroll
    for (int i = 0; i < 2 * S::kDown; ++i) most[i / 2][i % 2] = kLeast;
  }
  __device__ __forceinline__ A taken_out(int m, int h) const { return most[m][h] * (A(1) / S::kLift); }

  // Brings a tile's weights into range, and what has been summed with it.
  __device__ __forceinline__ void fit(A (&s)[S::kDown][S::kScores][4], A (&out)[S::kDown][S::kWide][4],
                                      const Stream<M>& stream) {
    A before[S::kDown][2];
#pragma unroll
    for (int i = 0; i < 2 * S::kDown; ++i) before[i / 2][i % 2] = most[i / 2][i % 2];
    stream.raise(most, [&](A row, int m, int n, int i) { return max(row, fabsf(s[m][n][i])); });
#pragma unroll
    for (int i = 0; i < 2 * S::kDown; ++i) {
      A& m = most[i / 2][i % 2];
      m = min(__uint_as_float(__float_as_uint(m) & 0x7f800000u), kMost);  // infinity stays what it is
      const A shrink = before[i / 2][i % 2] / m, lift = S::kLift / m;
#pragma unroll
      for (int j = 0; j < 2 * S::kScores; ++j) s[i / 2][j / 2][i % 2 * 2 + j % 2] *= lift;
      if (shrink != A(1)) {
#pragma unroll
        for (int j = 0; j < 2 * S::kWide; ++j) out[i / 2][j / 2][i % 2 * 2 + j % 2] *= shrink;
      }
    }
  }
};

// The gradient of query, key or value: weights of one product for the values', of two for the others. For query,
// logarithms and deltas are its rows' own, for key and value they are those of the columns. What the first product
// gives waits in the weights' place in shared memory for the second one: registers hold one of them.
//
// A pass without values comes first, for what rounding has taken from lse and delta: a row's weights add up to 1, and
// their sum with slopes less delta to 0.
// - lse near 80 has lost up to 4e-6 in fp32, and weights made from it as much of their value, all of a row the same
//   share, near 1e8 all of it: `rest` is the logarithm of their sum. Products are rounded before lse leaves them, as
//   they were before it was made of them: of the largest one nothing is left, however large it is.
// - delta is a sum over a rounded `out`. Where one key has nearly all the weight, slopes less delta are what is left of
//   a cancellation, and would be wrong in all digits; with a single key they are zero.
template <class M>
__global__ void __launch_bounds__(kAttentionThreads, 1)
    attention_backward_kernel(const __grid_constant__ AttentionArgs<typename M::Element> a) {
  using S = Shape<M>;
  using A = typename S::A;
  const Place<M> at(a);
  Stream<M> stream(a, at);
  A out[S::kDown][S::kWide][4] = {};
  A sum[S::kDown][2] = {}, missed[S::kDown][2] = {};  // of weights, and what delta lacks
  const bool slopes = a.parts[1] > 0;
  Range<M> range;
#pragma unroll 1
  for (int32_t tile = 0; tile < a.tiles; ++tile) {
    A s[S::kDown][S::kScores][4] = {};
    stream.product(s, 0);
    if (a.gaussian) {
      const Statistics<M> logarithms(stream, tile, 0), rests(stream, tile, 2);
      const int32_t columns = stream.columns_of(tile);
      turn(s, stream, tile, [&](A score, int m, int h, int32_t column) {
        const A above = rounded_product(score, a.scale) - logarithms.at(m, h, column);
        const A w = exp2_of((above - rests.at(m, h, column)) * A(M_LOG2E));
        sum[m][h] += column < columns ? w : A(0);
        return w * S::kLift;
      });
    } else {
      turn(s, stream, tile,
           [&](A score, int, int, int32_t) { return slopes ? score <= A(0) ? A(0) : A(0.5) : halved_relu(score); });
    }
    put_weights(s, stream);
    if (slopes) {
#pragma unroll
      for (int i = 0; i < 4 * S::kDown * S::kScores; ++i) s[i / (4 * S::kScores)][i / 4 % S::kScores][i % 4] = 0;
      stream.product(s, 1);
      const auto weight = [&](int m, int h, int32_t column) {
        return static_cast<A>(stream.weights[at.row(m, h) * at.weights_pitch() + column]);
      };
      if (a.gaussian) {
        const Statistics<M> deltas(stream, tile, 1);
        const int32_t columns = stream.columns_of(tile);
        turn(s, stream, tile, [&](A slope, int m, int h, int32_t column) {
          const A w = weight(m, h, column) * (A(1) / S::kLift) * (slope - deltas.at(m, h, column));
          missed[m][h] += column < columns ? w : A(0);
          return w;
        });
      } else {
        turn(s, stream, tile, [&](A slope, int m, int h, int32_t column) {
          const A half = weight(m, h, column);
          return half == A(0) ? A(0) : slope * half;
        });
      }
      if (a.values.width > 0) {
        if constexpr (S::kShort) range.fit(s, out, stream);
        put_weights(s, stream);
      }
    }
    stream.weigh(out, tile);
  }
  copies_wait<0>();
  A factor[S::kDown][2];
#pragma unroll
  for (int i = 0; i < 2 * S::kDown; ++i) {
    factor[i / 2][i % 2] = a.post;
    if constexpr (S::kShort) {
      if (slopes) {
        factor[i / 2][i % 2] *= range.taken_out(i / 2, i % 2);
      } else if (a.gaussian) {
        factor[i / 2][i % 2] /= S::kLift;
      }
    }
  }
  if (a.gaussian && a.values.width == 0) {
    stream.add_columns(sum);
    __syncthreads();
    stream.add_columns(missed);
    stream.each_row([&](int m, int h, int64_t place) {
      a.delta[place] += missed[m][h] / sum[m][h];
      a.rest[place] = log_of(sum[m][h]);
    });
  }
  stream.store(out, factor);
}

// delta = sum over the width of grad * out; a warp a row.
template <class T>
__global__ void __launch_bounds__(kAttentionThreads)
    attention_delta_kernel(const T* __restrict__ grad, const T* __restrict__ out, int64_t rows, int32_t width,
                           device_acc_t<T>* __restrict__ delta) {
  using A = device_acc_t<T>;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kAttentionWarps + threadIdx.x / 32;
  if (row >= rows) return;
  A sum = 0;
  for (int32_t c = lane_of_warp(); c < width; c += 32) {
    sum += static_cast<A>(grad[row * width + c]) * static_cast<A>(out[row * width + c]);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  if (lane_of_warp() == 0) delta[row] = sum;
}

}  // namespace
}  // namespace vidops
