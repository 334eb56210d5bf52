// Backward of motion_band_pass; the idea is in motion_band_pass.cpp.
#pragma once

#include "cpu/motion_band_pass_forward.h"

namespace vidops {

// What backward writes; an absent or null one is not wanted.
template <class T>
struct BandPassGradients {
  std::optional<View<T>> x;
  T *spatial, *temporal;
};

// A gradient and, where there is one, its counterpart of the quiet result, which is the mean minus busy.
template <class T>
struct Slopes {
  std::optional<View<T>> busy, quiet;
  const Clip& shape() const { return busy ? busy->shape : quiet->shape; }
};

// A place's work through its result frames, in a thread's scratch.
template <class T, Walk kWalk>
class BackwardPlace {
  using A = acc_t<T>;
  using P = Pixels<T, kWalk>;
  static constexpr int64_t size = P::size, lanes = kLanes<T>;
  static constexpr bool lane_wise = kWalk == Walk::kLanes;

 public:
  // Of each tap, in the order of PlaceTaps, then of the three temporal ones: `size` numbers, in fp64.
  static int64_t partial_sums(int64_t k) { return (k * k + 3) * size; }

  BackwardPlace(const BandPass& call, const PlaceTaps<T, kWalk>& taps, bool finite_taps, const Slopes<T>& slopes,
                const View<T>& x, const BandPassGradients<T>& out)
      : call_(call),
        taps_(taps),
        finite_taps_(finite_taps),
        slopes_(slopes),
        x_(x),
        out_(out),
        H_(x.shape.H),
        W_(x.shape.W),
        padded_(x.shape.W + 2 * call.reach),
        left_(lane_wise ? 2 * call.reach : (2 * call.reach + lanes - 1) / lanes * lanes),
        step_(P::step(padded_, call.taps) + left_ - (lane_wise ? 2 * call.reach : 0)),
        g_((x.shape.H + 4 * call.reach + 1) * step_ * size),
        z_(out.spatial ? (x.shape.H + 2 * call.reach + 1) * step_ * size : 0),
        wide_((x.shape.H + 2 * call.reach) * padded_ * size),
        taps_sums_(call.taps * call.taps) {
    for (Buffer<A>& d : folded_) d = Buffer<A>(needs_adjoint() ? x.shape.P * size : 0);
  }

  // Result frames t0 to t1 of a place: writes the input frames that f0 and f1 enclose, and its own partial sums.
  void run(int64_t n, int64_t place, int64_t t0, int64_t t1, int64_t f0, int64_t f1, double* partial) {
    n_ = n, place_ = place;
    pixels_ = {std::min(size, x_.shape.C - place * size)};
    std::fill(taps_sums_.begin(), taps_sums_.end(), Wide<A>{});
    for (Wide<A>& sum : time_sums_) sum = Wide<A>{};
    for (int64_t t = t0, f = f0; t < t1; ++t) {
      load_slope(t);
      if (needs_adjoint()) adjoint(folded_[t % 3].get());
      if (out_.temporal) multiply_frames(t);
      if (out_.spatial) multiply_planes(t);
      if (!out_.x) continue;
      for (; f < f1 && (t + 1 == t1 || call_.end_result(f) <= t + 1); ++f) write_frame(f);
    }
    for (int64_t i = 0; i < call_.taps * call_.taps; ++i) put_sum(partial + i * size, taps_sums_[i]);
    for (int64_t j = 0; j < 3; ++j) {
      put_sum(partial + (call_.taps * call_.taps + j) * size, time_sums_[j]);
    }
  }

 private:
  bool needs_adjoint() const { return out_.x || out_.temporal; }
  A* slope_row(int64_t i) const { return P::at(g_.get(), (2 * call_.reach + i) * step_ + left_); }

  static void put_sum(double* to, const Wide<A>& sum) {
    if constexpr (lane_wise) {
      for (int64_t i = 0; i < lanes; ++i) to[i] = sum[i];
    } else {
      *to = sum_lanes(sum);
    }
  }

  // The gradient of result frame t amid zeros.
  void load_slope(int64_t t) {
    const int64_t c = place_ * size;
    for (int64_t i = 0; i < H_; ++i) {
      A* row = slope_row(i);
      const auto part = [&](const std::optional<View<T>>& view) { return view ? view->frame(n_, c, t) : nullptr; };
      const T *busy = part(slopes_.busy), *quiet = part(slopes_.quiet);
      const int64_t busy_sP = busy ? slopes_.busy->shape.sP : 0, quiet_sP = quiet ? slopes_.quiet->shape.sP : 0;
      pixels_.each(W_, [&](auto some, int64_t p, int64_t s) __attribute__((always_inline)) {
        Vec<T> g = busy ? some.get(busy + i * W_ * busy_sP, p, busy_sP) : Vec<T>{};
        if (quiet) g -= some.get(quiet + i * W_ * quiet_sP, p, quiet_sP);
        store(row + s, g);
      });
    }
  }

  // D of the loaded gradient, without padding.
  void adjoint(A* to) {
    const int64_t k = call_.taps, reach = call_.reach, rows = H_ + 2 * reach;
    const A* taps = taps_.of(place_);
    A* wide = wide_.get();
    if (finite_taps_) {
      convolve<A, lane_wise>(slope_row(0) - (2 * reach * step_ + 2 * reach) * size, step_, taps, k, rows, padded_, wide,
                             padded_);
    } else {
      scatter(taps, wide);
    }
    for (int64_t i = 0; i < rows; ++i) {
      A* row = P::at(wide, i * padded_);
      for (int64_t v = 1; v <= reach; ++v) {
        P::add(P::at(row, reach + v), P::at(row, reach - v));
        P::add(P::at(row, reach + W_ - 1 - v), P::at(row, reach + W_ - 1 + v));
      }
    }
    const auto inside = [&](int64_t i) { return P::at(wide, (reach + i) * padded_ + reach); };
    for (int64_t u = 1; u <= reach; ++u) {
      for (int64_t s = 0; s < W_ * size; ++s) {
        inside(u)[s] += inside(-u)[s];
        inside(H_ - 1 - u)[s] += inside(H_ - 1 + u)[s];
      }
    }
    for (int64_t i = 0; i < H_; ++i) std::copy_n(inside(i), W_ * size, to + i * W_ * size);
  }

  // The same convolution where a tap is not finite: its product with the zeros around the gradient is no part of it.
  void scatter(const A* taps, A* wide) const {
    const int64_t k = call_.taps;
    std::fill_n(wide, (H_ + 2 * call_.reach) * padded_ * size, A(0));
    for (int64_t u = 0; u < k; ++u) {
      for (int64_t v = 0; v < k; ++v) {
        const A* tap = taps + taps_.index(k - 1 - u, k - 1 - v) * size;
        for (int64_t i = 0; i < H_; ++i) {
          A* to = P::at(wide, (i + u) * padded_ + v);
          for (int64_t s = 0; s < W_ * size; ++s) to[s] += tap[s % size] * slope_row(i)[s];
        }
      }
    }
  }

  // d temporal: D times each of the three frames. It is the sum of a whole plane's products whose parts are large and
  // cancel, so that fp64 takes over after few of them; that costs little beside the convolution.
  void multiply_frames(int64_t t) {
    const A* d = folded_[t % 3].get();
    const int64_t some_pixels = 16 * lanes / size, sP = x_.shape.sP;
    const T* frames[3];
    for (int64_t j = 0; j < 3; ++j) frames[j] = x_.frame(n_, place_ * size, call_.frame(t, j));
    for (int64_t first = 0; first < x_.shape.P; first += some_pixels) {
      Vec<T> sums[3] = {};
      pixels_.each(std::min(some_pixels, x_.shape.P - first),
                   [&](auto some, int64_t p, int64_t s) __attribute__((always_inline)) {
                     const Vec<T> slope = load(d + first * size + s);
                     for (int j = 0; j < 3; ++j) sums[j] += slope * some.get(frames[j] + first * sP, p, sP);
                   });
      for (int j = 0; j < 3; ++j) add_wide<A>(time_sums_[j], sums[j]);
    }
  }

  // d spatial: the gradient times the plane that forward convolves.
  void multiply_planes(int64_t t) {
    const Combined<T, kWalk> z(call_, taps_, x_, n_, place_, t, z_.get(), step_);
    for (int64_t i = 0; i < H_ + 2 * call_.reach; ++i) z.fill(i);
    multiply<A, lane_wise>(slope_row(0), z_.get(), step_, call_.taps, H_, W_, taps_sums_.data());
  }

  // dx of frame f, whose results' D are all there.
  void write_frame(int64_t f) {
    struct Part {
      const A* d;
      const T* quiet;
      Vec<T> tap, share;
    } parts[3];
    int count = 0;
    for (int64_t t = call_.first_result(f); t < call_.end_result(f); ++t) {
      Part part{folded_[t % 3].get(), nullptr, {}, {}};
      int64_t times = 0;
      for (int64_t j = 0; j < 3; ++j) {
        if (call_.frame(t, j) == f) part.tap += taps_.in_time(place_, j), ++times;
      }
      if (times == 0) continue;
      if (slopes_.quiet) part.quiet = slopes_.quiet->frame(n_, place_ * size, t);
      part.share = broadcast<Vec<T>>(A(times) / 3);
      parts[count++] = part;
    }
    const View<T>& dx = *out_.x;
    T* to = dx.frame(n_, place_ * size, f);
    const int64_t sP = dx.shape.sP, quiet_sP = slopes_.quiet ? slopes_.quiet->shape.sP : 0;
    pixels_.each(dx.shape.P, [&](auto some, int64_t p, int64_t s) __attribute__((always_inline)) {
      Vec<T> sum{};
      for (int i = 0; i < count; ++i) {
        sum += parts[i].tap * load(parts[i].d + s);
        if (parts[i].quiet) sum += parts[i].share * some.get(parts[i].quiet, p, quiet_sP);
      }
      some.template put<false>(to, p, sP, sum);
    });
  }

  const BandPass& call_;
  const PlaceTaps<T, kWalk>& taps_;
  const bool finite_taps_;
  const Slopes<T>& slopes_;
  const View<T>& x_;
  const BandPassGradients<T>& out_;
  const int64_t H_, W_, padded_, left_, step_;
  const Buffer<A> g_, z_, wide_;
  Buffer<A> folded_[3];  // D of the last three results
  std::vector<Wide<A>> taps_sums_;
  Wide<A> time_sums_[3];
  Pixels<T, kWalk> pixels_{};
  int64_t n_ = 0, place_ = 0;
};

// Adds the partial sums of all clips and shares in their order.
template <class T, Walk kWalk>
void sum_partials(const BandPass& call, const PlaceTaps<T, kWalk>& taps, const double* partial, int64_t clips,
                  int64_t places, int64_t shares, int64_t channels, const BandPassGradients<T>& out) {
  constexpr int64_t size = Pixels<T, kWalk>::size;
  const int64_t k = call.taps, sums = BackwardPlace<T, kWalk>::partial_sums(k);
  for (int64_t c = 0; c < channels; ++c) {
    const auto total = [&](int64_t index) {
      double sum = 0;
      for (int64_t n = 0; n < clips; ++n) {
        const double* at = partial + (n * places + c / size) * shares * sums + index * size + c % size;
        for (int64_t i = 0; i < shares; ++i) sum += at[i * sums];
      }
      return static_cast<T>(sum);
    };
    for (int64_t u = 0; u < k && out.spatial; ++u) {
      for (int64_t v = 0; v < k; ++v) out.spatial[(c * k + u) * k + v] = total(taps.index(u, v));
    }
    for (int64_t j = 0; j < 3 && out.temporal; ++j) out.temporal[c * 3 + j] = total(k * k + j);
  }
}

template <class T, Walk kWalk>
void band_pass_backward(const BandPass& call, const PlaceTaps<T, kWalk>& taps, bool finite_taps,
                        const std::optional<View<T>>& grad, const std::optional<View<T>>& grad_quiet, const View<T>& x,
                        const BandPassGradients<T>& out) {
  constexpr int64_t size = Pixels<T, kWalk>::size;
  const Slopes<T> slopes{grad, grad_quiet};
  const Clip& cx = x.shape;
  const int64_t places = (cx.C + size - 1) / size, sums = BackwardPlace<T, kWalk>::partial_sums(call.taps);
  // From a stride of 3 on no two results read the same frame, and each is a share of its own.
  const int64_t shares = call.stride >= 3 ? call.frames_out : 1;
  const std::unique_ptr<double[]> partial(new double[cx.N * places * shares * sums]);
  const int64_t grain =
      (int64_t{128} << 10) / (cx.P * size * (call.taps * call.taps + 8) * (call.frames_out / shares)) + 1;
  torch::stable::parallel_for(0, cx.N * places * shares, grain, [&](int64_t begin, int64_t end) {
    BackwardPlace<T, kWalk> work(call, taps, finite_taps, slopes, x, out);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / (places * shares), place = item / shares % places, share = item % shares;
      const bool whole = shares == 1, last = whole || share + 1 == shares;
      const int64_t f0 = share == 0 ? 0 : share * call.stride + call.first;
      const int64_t f1 = last ? cx.T : (share + 1) * call.stride + call.first;
      work.run(n, place, whole ? 0 : share, whole ? call.frames_out : share + 1, f0, f1, partial.get() + item * sums);
    }
  });
  sum_partials(call, taps, partial.get(), cx.N, places, shares, cx.C, out);
}

}  // namespace vidops
