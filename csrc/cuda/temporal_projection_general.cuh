// Kernels of temporal_projection for any call: long clips, many columns, fp64. A thread has one pixel, G and what else
// has D numbers in shared memory, and takes x from the caches as often as it needs it. The basis comes from shared
// memory as well where its rows fit, otherwise from the caches too.
#pragma once

#include "cuda/temporal_projection_backward.cuh"

namespace vidops {
namespace {

// Element k = t * D + d of the basis at a pixel, from rows in shared memory.
template <class T>
struct FromRows {
  using A = device_acc_t<T>;
  const A *low, *high;
  A first, second;

  __device__ __forceinline__ FromRows(const ProjectionArgs& a, const T* basis, const Spot& s, A* rows) {
    const int32_t places = a.T * a.D;
    basis_rows(a, basis, s, places, rows);
    const Two<A> column(a.columns, s.column);
    rows += s.down * s.touched * places;
    low = rows + (column.low - s.low) * places, high = rows + (column.high - s.low) * places;
    first = column.first, second = column.second;
  }
  __device__ __forceinline__ A operator()(int32_t k) const { return first * low[k] + second * high[k]; }
};

// The same from the grid: four elements and their weights.
template <class T>
struct FromGrid {
  using A = device_acc_t<T>;
  const T* from;
  int64_t plane;
  int32_t at[4];
  A weight[4];

  __device__ __forceinline__ FromGrid(const ProjectionArgs& a, const T* basis, const Spot& s, A* = nullptr)
      : plane(static_cast<int64_t>(a.rows.in) * a.columns.in) {
    from = basis + s.n * a.T * a.D * plane;
    const Two<A> row(a.rows, s.row), column(a.columns, s.column);
    at[0] = row.low * a.columns.in + column.low, weight[0] = row.first * column.first;
    at[1] = row.low * a.columns.in + column.high, weight[1] = row.first * column.second;
    at[2] = row.high * a.columns.in + column.low, weight[2] = row.second * column.first;
    at[3] = row.high * a.columns.in + column.high, weight[3] = row.second * column.second;
  }
  __device__ __forceinline__ A operator()(int32_t k) const {
    const T* here = from + k * plane;
    A sum = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) sum += weight[i] * static_cast<A>(load_pack<1>(here + at[i]).at[0]);
    return sum;
  }
};

constexpr int kSome = 4;  // columns at once

// Numbers of a thread in shared memory: G, y and backward q.
__host__ __device__ constexpr int32_t general_slots(int32_t D, bool backward) {
  return D * (D + 1) / 2 + (backward ? 2 : 1) * D;
}

// Every thread must make one; where it is not active, of no meaning.
template <class T, class Entries>
struct GeneralBasis {
  using A = device_acc_t<T>;
  int32_t frames, D;
  Slots<A> gram, y, q;
  Entries entry;

  __device__ __forceinline__ GeneralBasis(const ProjectionArgs& a, const T* basis, const Spot& s, bool backward)
      : frames(a.T),
        D(a.D),
        gram{dynamic_shared<A>() + threadIdx.x, static_cast<int32_t>(blockDim.x)},
        y(gram.after(a.D * (a.D + 1) / 2)),
        q(y.after(a.D)),
        entry(a, basis, s, dynamic_shared<A>() + general_slots(a.D, backward) * blockDim.x) {
    for (int32_t i = 0; i < D; i += kSome) {
      for (int32_t j = 0; j <= i; j += kSome) square(i, j);
    }
    factor(gram, D, static_cast<A>(a.ridge));
  }

  // kSome x kSome entries of G, from (i0, j0) on.
  __device__ __forceinline__ void square(int32_t i0, int32_t j0) {
    A sum[kSome][kSome] = {};
    for (int32_t t = 0; t < frames; ++t) {
      A row[kSome], column[kSome];
#pragma unroll
      for (int i = 0; i < kSome; ++i) {
        row[i] = i0 + i < D ? entry(t * D + i0 + i) : A(0);
        column[i] = j0 + i < D ? entry(t * D + j0 + i) : A(0);
      }
#pragma unroll
      for (int i = 0; i < kSome; ++i) {
#pragma unroll
        for (int j = 0; j < kSome; ++j) sum[i][j] += row[i] * column[j];
      }
    }
#pragma unroll
    for (int i = 0; i < kSome; ++i) {
#pragma unroll
      for (int j = 0; j < kSome; ++j) {
        if (i0 + i < D && j0 + j <= i0 + i) gram[packed(i0 + i, j0 + j)] = sum[i][j];
      }
    }
  }
  // to += scale * At v, with v(t) at every frame
  template <class F>
  __device__ __forceinline__ void transposed(const Slots<A>& to, A scale, F&& v) const {
    for (int32_t d0 = 0; d0 < D; d0 += kSome) {
      A sum[kSome] = {};
      for (int32_t t = 0; t < frames; ++t) {
        const A in = v(t);
#pragma unroll
        for (int i = 0; i < kSome; ++i) {
          if (d0 + i < D) sum[i] += entry(t * D + d0 + i) * in;
        }
      }
#pragma unroll
      for (int i = 0; i < kSome; ++i) {
        if (d0 + i < D) to[d0 + i] += scale * sum[i];
      }
    }
  }
  // y = G^-1 At x
  __device__ __forceinline__ void coefficients(const T* x, int64_t step) {
    for (int32_t d = 0; d < D; ++d) y[d] = 0;
    transposed(y, A(1), [&](int32_t t) { return static_cast<A>(x[t * step]); });
    solve(gram, y, D);
  }
  // (A y) at a frame
  __device__ __forceinline__ A combine(int32_t t, const Slots<A>& of) const {
    A sum = 0;
    for (int32_t d = 0; d < D; ++d) sum += entry(t * D + d) * of[d];
    return sum;
  }
  // p at a frame
  __device__ __forceinline__ A rest(const T* x, int64_t step, int32_t t) const {
    return static_cast<A>(x[t * step]) - combine(t, y);
  }
};

template <class T, class Entries>
__global__ void __launch_bounds__(kProjectionThreads, 1)
    projection_general_kernel(const __grid_constant__ ProjectionArgs a, const __grid_constant__ Steps<const T> x,
                              const T* __restrict__ basis, const __grid_constant__ ProjectionResults<T> to) {
  using A = device_acc_t<T>;
  const Spot s = spot_of(a, blockIdx.x, 1);
  A energy = 0, error = 0;
  GeneralBasis<T, Entries> local(a, basis, s, false);
  if (s.active) {
    for (int32_t c = s.first; c < s.end; ++c) {
      const T* from = x.at(s.n, c, 0) + s.position * x.p;
      local.coefficients(from, x.t);
      for (int32_t d = 0; to.coefficients.data && d < a.D; ++d) {
        to.coefficients.at(s.n, c, d)[s.position * to.coefficients.p] = static_cast<T>(local.y[d]);
      }
      A square = 0, mean = 0;
      for (int32_t t = 0; t < a.T; ++t) {
        const A fit = local.combine(t, local.y), rest = static_cast<A>(from[t * x.t]) - fit;
        square += rest * rest, mean += rest;
        if (to.projection.data) {
          to.projection.at(s.n, c, t)[s.position * to.projection.p] = static_cast<T>(fit);
        }
        if (to.residual.data) to.residual.at(s.n, c, t)[s.position * to.residual.p] = static_cast<T>(rest);
      }
      energy += square, error += sqrt(square);
      if (to.mean.data) {
        to.mean.at(s.n, c, 0)[s.position * to.mean.p] = static_cast<T>(mean / static_cast<A>(a.T));
      }
    }
  }
  add_lengths(a, s, to, energy, error);
}

// What the gradient of the basis needs again of every pixel and channel: y, q and what |p| brings; images of the clip.
template <class A>
struct Solutions {
  A* data;
  __device__ __forceinline__ A* at(const ProjectionArgs& a, int64_t n, int32_t c, int64_t position) const {
    return data + (n * a.C + c) * (2 * a.D + 1) * a.pixels() + position;
  }
};

// What the gradients bring to a pixel and channel.
template <class T>
struct Arriving {
  using A = device_acc_t<T>;
  const ProjectionGrads<T>& grads;
  const Spot& s;
  int32_t c;
  A mean;

  __device__ __forceinline__ Arriving(const ProjectionArgs& a, const ProjectionGrads<T>& grads, const Spot& s,
                                      int32_t c)
      : grads(grads), s(s), c(c), mean(element(grads.mean, 0) / static_cast<A>(a.T)) {}
  __device__ __forceinline__ A element(const Steps<const T>& of, int32_t t) const {
    return of.data ? static_cast<A>(of.at(s.n, c, t)[s.position * of.p]) : A(0);
  }
  __device__ __forceinline__ A at_fit(int32_t t) const { return element(grads.projection, t); }
  // At p, less what arrives at the projection. `pulled`: by |p|^2 and |p|.
  __device__ __forceinline__ A at_p(int32_t t, A pulled) const {
    return (grads.lengths() ? mean + pulled : mean) + element(grads.residual, t) - at_fit(t);
  }
};

// dx, and the solutions if there is a place for them.
template <class T, class Entries>
__global__ void __launch_bounds__(kProjectionThreads, 1)
    projection_general_backward_kernel(const __grid_constant__ ProjectionArgs a,
                                       const __grid_constant__ Steps<const T> x, const T* __restrict__ basis,
                                       const __grid_constant__ ProjectionGrads<T> grads,
                                       const __grid_constant__ Steps<T> dx, const Solutions<device_acc_t<T>> kept) {
  using A = device_acc_t<T>;
  const Spot s = spot_of(a, blockIdx.x, 1);
  GeneralBasis<T, Entries> local(a, basis, s, true);
  if (!s.active) return;
  for (int32_t c = s.first; c < s.end; ++c) {
    const T* from = x.at(s.n, c, 0) + s.position * x.p;
    local.coefficients(from, x.t);
    A square = 0;
    for (int32_t t = 0; grads.error && t < a.T; ++t) {
      const A p = local.rest(from, x.t, t);
      square += p * p;
    }
    const A pull = grads.pull(a, s.n, square);
    for (int32_t d = 0; d < a.D; ++d) {
      const auto& given = grads.coefficients;
      local.q[d] = given.data ? static_cast<A>(given.at(s.n, c, d)[s.position * given.p]) : A(0);
    }
    const Arriving<T> arriving(a, grads, s, c);
    const auto pulled = [&](int32_t t) { return grads.lengths() ? pull * local.rest(from, x.t, t) : A(0); };
    local.transposed(local.q, A(-1), [&](int32_t t) { return arriving.at_p(t, pulled(t)); });
    solve(local.gram, local.q, a.D);
    for (int32_t t = 0; dx.data && t < a.T; ++t) {
      const A sum = arriving.at_p(t, pulled(t)) + local.combine(t, local.q) + arriving.at_fit(t);
      dx.at(s.n, c, t)[s.position * dx.p] = static_cast<T>(sum);
    }
    if (!kept.data) continue;
    A* to = kept.at(a, s.n, c, s.position);
    for (int32_t d = 0; d < a.D; ++d) {
      to[d * a.pixels()] = local.y[d];
      to[(a.D + d) * a.pixels()] = local.q[d];
    }
    to[2 * a.D * a.pixels()] = pull;
  }
}

// dA of one frame, of at most kD columns, from the solutions. Blocks are those of spot_of, of every frame.
template <class T, int kD>
__global__ void __launch_bounds__(kProjectionThreads, 1)
    projection_general_basis_kernel(const __grid_constant__ ProjectionArgs a, const __grid_constant__ Steps<const T> x,
                                    const T* __restrict__ basis, const __grid_constant__ ProjectionGrads<T> grads,
                                    const Solutions<const device_acc_t<T>> kept, const RowSums<device_acc_t<T>> sums) {
  using A = device_acc_t<T>;
  const uint32_t block = blockIdx.x / a.T;
  const int32_t t = static_cast<int32_t>(blockIdx.x - block * a.T);
  const Spot s = spot_of(a, block, 1);
  A slope[kD] = {};
  if (s.active) {
    const FromGrid<T> entry(a, basis, s);
    A row[kD], y[kD], q[kD];
#pragma unroll
    for (int d = 0; d < kD; ++d) row[d] = d < a.D ? entry(t * a.D + d) : A(0);
    for (int32_t c = 0; c < a.C; ++c) {
      const A* from = kept.at(a, s.n, c, s.position);
      A fit = 0, back = 0;
#pragma unroll
      for (int d = 0; d < kD; ++d) {
        if (d >= a.D) continue;
        y[d] = from[d * a.pixels()], q[d] = from[(a.D + d) * a.pixels()];
        fit += row[d] * y[d], back += row[d] * q[d];
      }
      const A p = static_cast<A>(x.at(s.n, c, t)[s.position * x.p]) - fit;
      const A g = Arriving<T>(a, grads, s, c).at_p(t, from[2 * a.D * a.pixels()] * p) + back;
#pragma unroll
      for (int d = 0; d < kD; ++d) {
        if (d < a.D) slope[d] += p * q[d] - g * y[d];
      }
    }
  }
  gather_columns<kD, 1>(a, s, sums, t * a.D, a.D, [&](int k, int) { return slope[k]; });
}

}  // namespace
}  // namespace vidops
