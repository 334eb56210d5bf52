// Forward kernel of temporal_projection for short clips: a pixel's x and A in registers.
#pragma once

#include "cuda/temporal_projection_common.cuh"

namespace vidops {
namespace {

// The rows of the basis at a block's rows of pixels, in shared memory: `places` for the elements t * D + d of every
// column of the grid, those beyond the last frame zero. Every thread must call it.
template <class T>
__device__ __forceinline__ void basis_rows(const ProjectionArgs& a, const T* basis, const Spot& s, int32_t places,
                                           device_acc_t<T>* rows) {
  using A = device_acc_t<T>;
  const int32_t warps = static_cast<int32_t>(blockDim.x / 32), lane = static_cast<int32_t>(threadIdx.x % 32);
  const int32_t wide = a.columns.in, count = a.T * a.D;
  const int64_t plane = static_cast<int64_t>(a.rows.in) * wide;
  basis += s.n * count * plane + s.low;
#pragma unroll 1
  for (int32_t r = 0; r < min(a.down, a.rows.out - s.band * a.down); ++r) {
    const Two<A> row(a.rows, s.band * a.down + r);
    A* to = rows + r * s.touched * places;
#pragma unroll 2
    for (int32_t k = static_cast<int32_t>(threadIdx.x / 32); k < places; k += warps) {
      const T *low = basis + k * plane + row.low * wide, *high = basis + k * plane + row.high * wide;
#pragma unroll 1
      for (int32_t j = lane; j < s.touched; j += 32) {
        A sum = 0;
        if (k < count) {
          sum = row.first * static_cast<A>(load_pack<1>(low + j).at[0]) +
                row.second * static_cast<A>(load_pack<1>(high + j).at[0]);
        }
        to[j * places + k] = sum;
      }
    }
  }
  __syncthreads();
}

// A and the factors of its G at P pixels, of at most kT frames. Every thread must make one; where it is not active, of
// no meaning.
template <class T, int D, int kT, int P>
struct LocalBasis {
  using A = device_acc_t<T>;
  A at[kT][D][P];
  Registers<A, packed(D, 0)> gram[P];
  int32_t frames;

  __device__ __forceinline__ LocalBasis(const ProjectionArgs& a, const T* basis, const Spot& s) : frames(a.T) {
    constexpr int kCount = kT * D;
    basis_rows(a, basis, s, kCount, dynamic_shared<A>());
    const A* row = dynamic_shared<A>() + s.down * s.touched * kCount;
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const Two<A> column(a.columns, s.column + p);
      const auto* low = reinterpret_cast<const Pack<A, 4>*>(row + (column.low - s.low) * kCount);
      const auto* high = reinterpret_cast<const Pack<A, 4>*>(row + (column.high - s.low) * kCount);
#pragma unroll
      for (int k = 0; k < kCount; k += 4) {
        const Pack<A, 4> four = low[k / 4], next = high[k / 4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          at[(k + i) / D][(k + i) % D][p] = column.first * four.at[i] + column.second * next.at[i];
        }
      }
    }
#pragma unroll
    for (int p = 0; p < P; ++p) {
#pragma unroll
      for (int i = 0; i < D; ++i) {
#pragma unroll
        for (int j = 0; j <= i; ++j) {
          A sum = 0;
#pragma unroll
          for (int t = 0; t < kT; ++t) sum += at[t][i][p] * at[t][j][p];
          gram[p][packed(i, j)] = sum;
        }
      }
      factor(gram[p], Fixed<D>{}, static_cast<A>(a.ridge));
    }
  }

  // f(t) of every frame.
  template <class F>
  __device__ __forceinline__ void each_frame(F&& f) const {
#pragma unroll
    for (int t = 0; t < kT; ++t) {
      if (t < frames) f(t);
    }
  }
  __device__ __forceinline__ void to_system(Registers<A, D> (&y)[P]) {
#pragma unroll
    for (int p = 0; p < P; ++p) solve(gram[p], y[p], Fixed<D>{});
  }
  // y = G^-1 At v
  __device__ __forceinline__ void coefficients(const A (&v)[kT][P], Registers<A, D> (&y)[P]) {
#pragma unroll
    for (int p = 0; p < P; ++p) {
#pragma unroll
      for (int d = 0; d < D; ++d) y[p][d] = 0;
    }
    each_frame([&](int t) {
#pragma unroll
      for (int d = 0; d < D; ++d) {
#pragma unroll
        for (int p = 0; p < P; ++p) y[p][d] += at[t][d][p] * v[t][p];
      }
    });
    to_system(y);
  }
  // (A y) at a frame
  __device__ __forceinline__ void combine(int t, Registers<A, D> (&y)[P], A (&sum)[P]) const {
#pragma unroll
    for (int p = 0; p < P; ++p) {
      sum[p] = at[t][0][p] * y[p][0];
#pragma unroll
      for (int d = 1; d < D; ++d) sum[p] += at[t][d][p] * y[p][d];
    }
  }
};

template <class T, int D, int kT, int P>
__global__ void __launch_bounds__(kProjectionThreads, D > 2 || (kT > 8 && P > 1) ? 3 : 4)
    projection_kernel(const __grid_constant__ ProjectionArgs a, const __grid_constant__ Steps<const T> x,
                      const T* __restrict__ basis, const __grid_constant__ ProjectionResults<T> to) {
  using A = device_acc_t<T>;
  const Spot s = spot_of(a, blockIdx.x, P);
  A energy = 0, error = 0;
  LocalBasis<T, D, kT, P> local(a, basis, s);
  if (s.active) {
    const A share = A(1) / static_cast<A>(a.T);
    for (int32_t c = s.first; c < s.end; ++c) {
      const T* from = x.at(s.n, c, 0) + s.position * x.p;
      A v[kT][P];
      local.each_frame([&](int t) { load_values<P>(from, v[t]), from += x.t; });
      Registers<A, D> y[P];
      local.coefficients(v, y);
      if (to.coefficients.data) {
#pragma unroll
        for (int d = 0; d < D; ++d) {
          A values[P];
#pragma unroll
          for (int p = 0; p < P; ++p) values[p] = y[p][d];
          store_values<T, P>(to.coefficients.at(s.n, c, d) + s.position * to.coefficients.p, values);
        }
      }
      A square[P] = {}, mean[P] = {};
      T* fits = to.projection.at(s.n, c, 0) + s.position * to.projection.p;
      T* rests = to.residual.at(s.n, c, 0) + s.position * to.residual.p;
      local.each_frame([&](int t) {
        A fit[P];
        local.combine(t, y, fit);
        if (to.projection.data) store_values<T, P>(fits, fit), fits += to.projection.t;
#pragma unroll
        for (int p = 0; p < P; ++p) {
          fit[p] = v[t][p] - fit[p];
          square[p] += fit[p] * fit[p], mean[p] += fit[p];
        }
        if (to.residual.data) store_values<T, P>(rests, fit), rests += to.residual.t;
      });
#pragma unroll
      for (int p = 0; p < P; ++p) {
        mean[p] *= share;
        energy += square[p];
        if (to.error) error += sqrt(square[p]);
      }
      if (to.mean.data) store_values<T, P>(to.mean.at(s.n, c, 0) + s.position * to.mean.p, mean);
    }
  }
  add_lengths(a, s, to, energy, error);
}

}  // namespace
}  // namespace vidops
