// temporal_projection of one vector of pixels: the least squares and their gradients; the idea is in
// temporal_projection.cpp. `kD` is D, or 0 where it is only known when running.
#pragma once

#include "cpu/frames.h"
#include "cpu/temporal_projection_rows.h"

namespace vidops {

// Square roots of the lanes.
template <class V>
inline V root(V v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(v[0]) == 4) return _mm512_sqrt_ps(v);
  if constexpr (sizeof(v[0]) == 8) return _mm512_sqrt_pd(v);
#elif defined(__AVX2__)
  if constexpr (sizeof(v[0]) == 4) return _mm256_sqrt_ps(v);
  if constexpr (sizeof(v[0]) == 8) return _mm256_sqrt_pd(v);
#elif defined(__SSE2__)
  if constexpr (sizeof(v[0]) == 4) return _mm_sqrt_ps(v);
  if constexpr (sizeof(v[0]) == 8) return _mm_sqrt_pd(v);
#endif
  for (size_t i = 0; i < sizeof(V) / sizeof(v[0]); ++i) v[i] = __builtin_sqrt(v[i]);
  return v;
}

// G of every lane, decomposed as L diag(pivots) Lt, without square roots.
template <class T, int kD>
struct System {
  using V = Vec<T>;
  static constexpr int kMost = kD > 0 ? kD : 16;
  int columns;
  V lower[kMost * (kMost + 1) / 2];  // L, its rows one behind the other
  V inverse[kMost];                  // of the pivots

  int size() const { return kD > 0 ? kD : columns; }
  static int index(int i, int j) { return i * (i + 1) / 2 + j; }

  // Entries of the matrix A: frame by frame, a vector each.
  void factorise(const V* a, int64_t frames, V ridge) {
    const int D = size();
#pragma GCC unroll 10
    for (int k = 0; k < D * (D + 1) / 2; ++k) lower[k] = V{};
    for (int64_t t = 0; t < frames; ++t, a += D) {
#pragma GCC unroll 4
      for (int i = 0; i < D; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j <= i; ++j) lower[index(i, j)] += a[i] * a[j];
      }
    }
    V pivots[kMost];
#pragma GCC unroll 4
    for (int j = 0; j < D; ++j) {
      // The products in the reference's order: they decide what an infinity becomes.
#pragma GCC unroll 4
      for (int k = 0; k < j; ++k) {
        const V scaled = lower[index(j, k)] * pivots[k];
#pragma GCC unroll 4
        for (int i = j; i < D; ++i) lower[index(i, j)] -= lower[index(i, k)] * scaled;
      }
      // Truly no pivot is less than the ridge; one that is, by rounding, is set to it.
      const V pivot = lower[index(j, j)] + ridge;
      pivots[j] = pivot < ridge ? ridge : pivot;
      inverse[j] = V{} + 1;
      inverse[j] /= pivots[j];
#pragma GCC unroll 4
      for (int i = j + 1; i < D; ++i) lower[index(i, j)] *= inverse[j];
    }
  }

  void solve(V* y) const {
    const int D = size();
#pragma GCC unroll 4
    for (int j = 1; j < D; ++j) {
#pragma GCC unroll 4
      for (int k = 0; k < j; ++k) y[j] -= lower[index(j, k)] * y[k];
    }
#pragma GCC unroll 4
    for (int j = D - 1; j >= 0; --j) {
      y[j] *= inverse[j];
#pragma GCC unroll 4
      for (int k = j + 1; k < D; ++k) y[j] -= lower[index(k, j)] * y[k];
    }
  }
};

// What forward writes, and whether it sums up energy and error.
template <class T>
struct ProjectionOutputs {
  Rows<T> coefficients, projection, residual, mean;
  bool energy, error;
};

// The gradients that arrive, one number a clip for energy and error, and what backward writes.
template <class T>
struct ProjectionGradients {
  Rows<const T> coefficients, projection, residual, mean;
  const acc_t<T>*energy, *error;  // over the number of values of a frame
  Rows<T> x;
  bool basis;
};

template <class T>
struct ResidualSums {
  Wide<T> energy{}, error{};
};

// A row of pixels, clip n, row i, and the system of the last vector that was factorised.
template <class T, int kD>
struct PixelRow {
  using A = acc_t<T>;
  using V = Vec<T>;
  const Rows<const T>& x;
  int64_t n, i, channels, frames;
  int columns;
  V ridge;
  System<T, kD> system{};

  int size() const { return kD > 0 ? kD : columns; }

  void factorise(const V* a) {
    system.columns = columns;
    system.factorise(a, frames, ridge);
  }

  // sums[d] += sum over t of a[t, d] * value(t).
  template <class F>
  void gather(const V* a, V* sums, F&& value) const {
    const int D = size();
    for (int64_t t = 0; t < frames; ++t, a += D) {
      const V v = value(t);
#pragma GCC unroll 4
      for (int d = 0; d < D; ++d) sums[d] += a[d] * v;
    }
  }
  // A y at frame t.
  V combine(const V* a, const V* y, int64_t t) const {
    const int D = size();
    a += t * D;
    V sum = a[0] * y[0];
#pragma GCC unroll 4
    for (int d = 1; d < D; ++d) sum += a[d] * y[d];
    return sum;
  }
  template <class Lanes>
  V frame(const T* from, int64_t t, Lanes lanes) const {
    return lanes.get(from + t * x.frame);
  }

  // Elements j and on, as many as there are lanes. `a` has a vector an entry.
  template <class Lanes>
  void forward(const V* a, const ProjectionOutputs<T>& out, ResidualSums<T>& sums, int64_t j, Lanes lanes) const {
    for (int64_t c = 0; c < channels; ++c) {
      const T* from = x.at(n, c, i) + j;
      V y[System<T, kD>::kMost] = {};
      gather(a, y, [&](int64_t t) __attribute__((always_inline)) {
        __builtin_prefetch(reinterpret_cast<const char*>(from + t * x.frame) + kAhead);
        return frame(from, t, lanes);
      });
      system.solve(y);
      if (out.coefficients) {
        T* to = out.coefficients.at(n, c, i) + j;
        for (int d = 0; d < size(); ++d) out.coefficients.put(to + d * out.coefficients.frame, y[d], lanes);
      }
      if (out.projection || out.residual || out.mean || out.energy || out.error)
        residuals(a, y, out, sums, from, c, j, lanes);
    }
  }

  template <class Lanes>
  void residuals(const V* a, const V* y, const ProjectionOutputs<T>& out, ResidualSums<T>& sums, const T* from,
                 int64_t c, int64_t j, Lanes lanes) const {
    T* const projection = out.projection ? out.projection.at(n, c, i) + j : nullptr;
    T* const residual = out.residual ? out.residual.at(n, c, i) + j : nullptr;
    V total{}, squares{};
    for (int64_t t = 0; t < frames; ++t) {
      const V fit = combine(a, y, t), p = frame(from, t, lanes) - fit;
      if (projection) out.projection.put(projection + t * out.projection.frame, fit, lanes);
      if (residual) out.residual.put(residual + t * out.residual.frame, p, lanes);
      total += p, squares += p * p;
    }
    if (out.mean) out.mean.put(out.mean.at(n, c, i) + j, total / static_cast<A>(frames), lanes);
    if (out.energy) add_wide<T>(sums.energy, squares);
    if (out.error) add_wide<T>(sums.error, root(squares));
  }

  // Adds the gradient of every entry of A to `slopes`; `work` has room for 2 T vectors.
  template <class Lanes>
  void backward(const V* a, const ProjectionGradients<T>& g, V* slopes, V* work, int64_t j, Lanes lanes) const {
    const int D = size();
    V *const p = work, *const gp = work + frames;
    for (int64_t c = 0; c < channels; ++c) {
      V y[System<T, kD>::kMost] = {}, w[System<T, kD>::kMost] = {};
      V squares{};
      if (g.basis || g.energy || g.error) {
        const T* from = x.at(n, c, i) + j;
        gather(a, y, [&](int64_t t) __attribute__((always_inline)) {
          __builtin_prefetch(reinterpret_cast<const char*>(from + t * x.frame) + kAhead);
          return frame(from, t, lanes);
        });
        system.solve(y);
        for (int64_t t = 0; t < frames; ++t) {
          p[t] = frame(from, t, lanes) - combine(a, y, t);
          squares += p[t] * p[t];
        }
      }
      arriving(g, squares, p, gp, c, j, lanes);
      gather(a, w, [&](int64_t t) __attribute__((always_inline)) { return gp[t]; });
      if (g.coefficients) {
        const T* from = g.coefficients.at(n, c, i) + j;
        for (int d = 0; d < D; ++d) w[d] -= lanes.get(from + d * g.coefficients.frame);
      }
      system.solve(w);
      T* const dx = g.x ? g.x.at(n, c, i) + j : nullptr;
      const T* const gx = g.projection ? g.projection.at(n, c, i) + j : nullptr;
      for (int64_t t = 0; t < frames; ++t) {
        const V q = gp[t] - combine(a, w, t);
        if (dx) g.x.put(dx + t * g.x.frame, gx ? q + lanes.get(gx + t * g.projection.frame) : q, lanes);
        if (!g.basis) continue;
#pragma GCC unroll 4
        for (int d = 0; d < D; ++d) slopes[t * D + d] -= q * y[d] + p[t] * w[d];
      }
    }
  }

  // gp: the gradient at the residual of one channel.
  template <class Lanes>
  void arriving(const ProjectionGradients<T>& g, V squares, const V* p, V* gp, int64_t c, int64_t j,
                Lanes lanes) const {
    V every{}, times{};
    if (g.mean) every = lanes.get(g.mean.at(n, c, i) + j) / static_cast<A>(frames);
    if (g.energy) times += 2 * g.energy[n];
    if (g.error) times += squares == V{} ? V{} : g.error[n] / root(squares);
    const bool sums = g.energy || g.error;
    const T* const residual = g.residual ? g.residual.at(n, c, i) + j : nullptr;
    const T* const projection = g.projection ? g.projection.at(n, c, i) + j : nullptr;
    for (int64_t t = 0; t < frames; ++t) {
      V sum = every;
      if (sums) sum += times * p[t];
      if (residual) sum += lanes.get(residual + t * g.residual.frame);
      if (projection) sum -= lanes.get(projection + t * g.projection.frame);
      gp[t] = sum;
    }
  }
};

}  // namespace vidops
