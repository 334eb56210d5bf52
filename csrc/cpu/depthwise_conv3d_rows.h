// depthwise_conv3d of planar clips without stride and dilation over space, a channel at a time.
//
// depthwise_conv3d_planes.h with neighbouring columns in a vector in place of channels: the rows of a channel are
// copied amid zeros into its ring of frames, and the register tile is that of plane_conv.h. Nothing is transposed, but
// vectors of the input are loaded across lines of the cache, so that it takes about 1.2 times as long a channel as
// full lanes do at 56 columns, and 1.7 times at 28. It is there for the few channels behind the last full vector: six
// of the 54 of X3D take 0.4 ms of 3.2 backward instead of 0.9 of 3.6.
#pragma once

#include "cpu/depthwise_conv3d_planes.h"

namespace vidops {

// Rows of one channel's frames amid zeros, the last `slots` frames that were asked for.
template <class T>
class RowFrames {
  using A = acc_t<T>;
  static constexpr int64_t lanes = kLanes<T>;

 public:
  // A plane has `rows` rows of `step` columns; pixel (0, 0) is `up` and `left` of the first of start's band.
  RowFrames(const View<T>& x, int64_t slots, int64_t rows, int64_t step, int64_t columns, int64_t up, int64_t left)
      : x_(x),
        step_(step),
        up_(up),
        first_(std::max<int64_t>(0, -left)),
        from_(first_ + left),
        count_(std::min(columns - first_, x.shape.W - from_)),
        size_(rows * step),
        held_(slots, -1),
        planes_(slots * size_) {
    std::fill_n(planes_.get(), slots * size_, A(0));
  }

  // From here on frames of channel c of clip n, in the band of `rows` rows of the plane from `row` on.
  void start(int64_t n, int64_t c, int64_t row, int64_t rows) {
    if (n == n_ && c == c_ && row == row_ && rows == rows_) return;
    n_ = n, c_ = c, row_ = row, rows_ = rows;
    std::fill(held_.begin(), held_.end(), -1);
  }

  const A* operator()(int64_t frame) {
    const int64_t slot = frame % static_cast<int64_t>(held_.size());
    A* plane = planes_.get() + slot * size_;
    if (held_[slot] != frame) {
      fill(frame, plane);
      held_[slot] = frame;
    }
    return plane;
  }

 private:
  void fill(int64_t frame, A* to) const {
    const Clip& c = x_.shape;
    const int64_t above = row_ + up_, low = std::clamp<int64_t>(-above, 0, rows_);
    const int64_t high = std::clamp<int64_t>(c.H - above, low, rows_);
    std::fill_n(to, low * step_, A(0));
    std::fill_n(to + high * step_, (rows_ - high) * step_, A(0));
    const T* from = x_.frame(n_, c_, frame) + (above + low) * c.W + from_;
    to += low * step_ + first_;
    for (int64_t row = low; row < high; ++row, from += c.W, to += step_) {
      int64_t p = 0;
      for (; p + lanes <= count_; p += lanes) {
        __builtin_prefetch(from + p + c.sT, 0, 2);
        store(to + p, load(from + p));
      }
      if (p < count_) store_part(to + p, load_part(from + p, count_ - p), count_ - p);
    }
  }

  const View<T>& x_;
  const int64_t step_, up_, first_, from_, count_, size_;
  std::vector<int64_t> held_;
  const Scratch<A> planes_;
  int64_t n_ = 0, c_ = -1, row_ = 0, rows_ = 0;
};

// Planes of one channel each.
template <class T>
Bands row_bands(const Axes& axes, const Clip& x) {
  const int64_t step = plane_step<acc_t<T>>(axes.w_out, axes.kw);
  return {axes, x.C, 1, step, step * static_cast<int64_t>(sizeof(acc_t<T>))};
}

// Taps [channel][frame of taps][column][row], as plane_conv.h has them.
template <class T>
std::vector<acc_t<T>> row_taps(const Axes& axes, const T* weight, int64_t channels) {
  const int64_t kh = axes.kh, kw = axes.kw;
  std::vector<acc_t<T>> packed(channels * axes.kt * kh * kw);
  for (int64_t k = 0; k < channels * axes.kt; ++k) {
    for (int64_t u = 0; u < kh; ++u) {
      for (int64_t v = 0; v < kw; ++v) {
        packed[(k * kw + v) * kh + u] = load1(weight + (k * kh + axes.h[0].taps[u]) * kw + axes.w[0].taps[v]);
      }
    }
  }
  return packed;
}

template <class A>
struct PutRows {
  A* to;
  int64_t row;
  Vec<A> bias;
  void operator()(int64_t i, int64_t j, Vec<A> v) const __attribute__((always_inline)) {
    store(to + i * row + j, v + bias);
  }
};

template <class A>
__attribute__((noinline)) void convolve_rows(const PlaneTerm<A>* terms, int64_t count, int64_t step, int64_t kh,
                                             int64_t kw, int64_t rows, int64_t columns, const PutRows<A>& put) {
  with_tap_rows(kh, [&](auto size) { plane_conv<size>(terms, count, step, kh, kw, rows, columns, put); });
}

// Convolves a few rows and puts them where they belong.
template <class T>
class PlanarWriter {
  using A = acc_t<T>;
  static constexpr int64_t lanes = kLanes<T>;

 public:
  static constexpr int64_t kRows = kTileRows;  // at most

  PlanarWriter(const Axes& axes, int64_t step, const View<T>& y)
      : axes_(axes),
        y_(y),
        step_(step),
        streams_(y.shape.numel() * static_cast<int64_t>(sizeof(T)) >= kStreamBytes),
        direct_(std::is_same_v<T, A> && !streams_ && axes.w_out >= lanes),
        rows_(kRows * axes.w_out + lanes) {}

  // Rows of frame t of channel c of clip n, from `row` on.
  void operator()(const FrameTerms<PlaneTerm<A>>& frame, int64_t n, int64_t c, int64_t t, int64_t row, int64_t rows,
                  A bias) const {
    const int64_t columns = axes_.w_out;
    T* to = y_.frame(n, c, t) + row * columns;
    PutRows<A> put{rows_.get(), columns, broadcast<Vec<A>>(bias)};
    if constexpr (std::is_same_v<T, A>) {
      if (direct_) put.to = to;
    }
    convolve_rows(frame.terms, frame.count, step_, axes_.kh, axes_.kw, rows, columns, put);
    if (direct_) return;
    const int64_t count = rows * columns;
    const bool streams = streams_ && reinterpret_cast<uintptr_t>(to) % kVectorBytes == 0;
    for (int64_t p = 0; p < count; p += lanes) {
      const Vec<A> v = load(rows_.get() + p);
      if (streams && count - p >= lanes) {
        stream(to + p, v);
      } else {
        store_part(to + p, v, count - p);
      }
    }
  }

 private:
  const Axes& axes_;
  const View<T>& y_;
  const int64_t step_;
  const bool streams_, direct_;
  const Scratch<A> rows_;
};

template <class T>
void convolve_planar(const Axes& axes, const T* weight, const View<T>& x, const View<T>& y, const acc_t<T>* bias) {
  using A = acc_t<T>;
  constexpr int64_t some = PlanarWriter<T>::kRows;
  const std::vector<A> taps = row_taps<T>(axes, weight, x.shape.C);
  const Bands bands = row_bands<T>(axes, x.shape);
  const int64_t in_space = axes.kh * axes.kw, items = bands.items(x.shape.N),
                threads = torch::stable::get_num_threads();
  const int64_t shares = threads == 1 ? 1 : std::clamp<int64_t>(16 * threads / items, 1, axes.t_out);
  torch::stable::parallel_for(0, items * shares, 1, [&](int64_t begin, int64_t end) {
    RowFrames<T> frames(x, bands.slots, bands.band + axes.kh - 1, bands.step, axes.w_out + axes.kw - 1,
                        axes.h[0].offsets[0], axes.w[0].offsets[0]);
    const PlanarWriter<T> write(axes, bands.step, y);
    for (int64_t i = begin; i < end; ++i) {
      const auto item = bands.item(i, shares, axes);
      const int64_t c = item.place;
      frames.start(item.n, c, item.row, item.count + axes.kh - 1);
      for (int64_t t = item.t0; t < item.t1; ++t) {
        FrameTerms<PlaneTerm<A>> frame(axes, t, taps.data() + c * axes.kt * in_space, in_space, frames);
        for (int64_t r = 0; r < item.count; r += some, frame.advance(some * bands.step)) {
          write(frame, item.n, c, t, item.row + r, std::min(some, item.count - r), bias[c]);
        }
      }
    }
    stream_fence();
  });
}

// As backward_planes.
template <class T>
void backward_planar(const Axes& axes, const T* weight, const View<T>& grad, const View<T>& x, const View<T>& dx,
                     T* dweight) {
  using A = acc_t<T>;
  constexpr int64_t some = PlanarWriter<T>::kRows;
  const std::vector<A> packed = row_taps<T>(axes, weight, x.shape.C);
  const Bands bands = row_bands<T>(axes, x.shape);
  const int64_t in_space = axes.kh * axes.kw, taps = axes.kt * in_space, items = bands.items(x.shape.N);
  const int64_t shares = std::clamp<int64_t>(kShares / items, 1, axes.t_out);
  std::vector<double> partial(items * shares * taps);
  torch::stable::parallel_for(0, items * shares, 1, [&](int64_t begin, int64_t end) {
    RowFrames<T> frames(grad, bands.slots, bands.band + axes.kh - 1, bands.step, axes.w_out + axes.kw - 1,
                        axes.h[0].offsets[0], axes.w[0].offsets[0]);
    RowFrames<T> inputs(x, 1, bands.band, bands.step, axes.w_out, 0, 0);
    const PlanarWriter<T> write(axes, bands.step, dx);
    std::vector<Wide<A>> sums(taps);
    for (int64_t i = begin; i < end; ++i) {
      const auto item = bands.item(i, shares, axes);
      const int64_t c = item.place;
      frames.start(item.n, c, item.row, item.count + axes.kh - 1);
      inputs.start(item.n, c, item.row, item.count);
      std::fill(sums.begin(), sums.end(), Wide<A>{});
      for (int64_t t = item.t0; t < item.t1; ++t) {
        FrameTerms<PlaneTerm<A>> frame(axes, t, packed.data() + c * taps, in_space, frames);
        const A* input = dweight ? inputs(t) : nullptr;
        for (int64_t r = 0; r < item.count; r += some, frame.advance(some * bands.step)) {
          const int64_t now = std::min(some, item.count - r);
          if (dx.data) write(frame, item.n, c, t, item.row + r, now, A(0));
          if (!dweight) continue;
          for (int64_t j = 0; j < frame.count; ++j) {
            with_tap_rows(axes.kh, [&](auto rows) {
              plane_products<rows>(input + r * bands.step, frame.terms[j].x, bands.step, axes.kh, axes.kw, now,
                                   axes.w_out, sums.data() + frame.taps[j] * in_space);
            });
          }
        }
      }
      for (int64_t k = 0; k < taps; ++k) partial[i * taps + k] = sum_lanes(sums[k]);
    }
    stream_fence();
  });
  if (!dweight) return;
  const int64_t parts = bands.bands * shares;
  sum_parts<T>(x.shape, taps, parts, dweight, nullptr, [&](int64_t n, int64_t part, int64_t c, int64_t k) {
    // Of the tap under (u, v) in the result's direction: rows and columns are reversed, and columns lead.
    const int64_t u = axes.kh - 1 - k / axes.kw % axes.kh, v = axes.kw - 1 - k % axes.kw;
    const int64_t item = (n * bands.blocks + c) * parts + part;
    return partial[item * taps + k / in_space * in_space + v * axes.kh + u];
  });
}

// The channels that are done as vectors of channels. In planar clips a rest that would leave half a vector empty goes
// by rows, if those fill a vector.
template <class T>
int64_t channels_in_lanes(const Axes& axes, const Clip& x, const Clip& y) {
  constexpr int64_t lanes = kLanes<T>;
  const int64_t rest = x.C % lanes;
  return channels_adjacent(x) || channels_adjacent(y) || 2 * rest > lanes || axes.w_out < lanes ? x.C : x.C - rest;
}

}  // namespace vidops
