// depthwise_conv3d without stride and dilation over space.
//
// A thread takes a band of rows of one place, a vector of channels, through all frames; in channels last of up to four
// neighbouring places, so that whole lines of memory are read and written. The rows are copied or transposed amid zeros
// into a ring of as many frames as a result needs, which stays in the second-level cache. The register tile of
// lane_conv.h goes over it with a term for each frame, and the results leave in about the order of memory.
//
// Backward, both gradients are sums over the frames of the result's gradient that a frame of the input meets. They
// share a ring of it, and each few rows are convolved and multiplied while the first-level cache has them: the clip's
// gradient is padded once, the clip copied once.
//
// For 1x54x16x56x56 and 3x3x3 in fp32 on one core of 124 multiply-adds a ns, 0.7 ms of them forward and 1.4 backward:
// in cache the tile takes 0.85, the products about 1.2, each clip that is padded or copied 0.5, and putting results
// 0.2 to 0.4. So 1.6 forward and 3.3 backward are expected, and 1.5 to 1.8 and 3.3 to 3.8 were measured.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "cpu/channel_vectors.h"
#include "cpu/depthwise_conv3d_plan.h"
#include "cpu/lane_conv.h"

namespace vidops {

constexpr int64_t kRing = int64_t{512} << 10;  // bytes of rows that a thread keeps
constexpr int64_t kFewProducts = 32;           // of short rows that a lane sums in fp32

inline bool channels_adjacent(const Clip& c) { return c.C > 1 && c.sC == 1; }

// How the places and rows of a convolution's results are divided: `places` of rows of `step` elements.
struct Bands {
  int64_t places, block, blocks, step, slots, band, bands;

  Bands(const Axes& axes, int64_t places, int64_t block, int64_t step, int64_t row_bytes)
      : places(places), block(block), blocks((places + block - 1) / block), step(step), slots(axes.window()) {
    bands = (axes.h_out - 1) / std::max<int64_t>(8, kRing / (slots * block * row_bytes) - (axes.kh - 1)) + 1;
    band = (axes.h_out - 1) / bands + 1;
  }
  // One piece of work: places from `place` on, `count` rows from `row` on, frames from t0 to t1, all of the result.
  struct Item {
    int64_t n, place, places, row, count, t0, t1;
  };
  int64_t items(int64_t clips) const { return clips * blocks * bands; }
  Item item(int64_t i, int64_t shares, const Axes& axes) const {
    const int64_t share = i % shares, row = i / shares % bands * band, b = i / shares / bands % blocks;
    return {i / shares / bands / blocks,         b * block,
            std::min(block, places - b * block), row,
            std::min(band, axes.h_out - row),    axes.t_out * share / shares,
            axes.t_out * (share + 1) / shares};
  }
};

// Places of a vector of channels.
template <class T>
Bands lane_bands(const Axes& axes, const Clip& x, const Clip& y) {
  const int64_t places = channel_groups<T>(x.C), step = axes.w_out + axes.kw - 1;
  const int64_t block = channels_adjacent(x) || channels_adjacent(y) ? std::min<int64_t>(4, places) : 1;
  return {axes, places, block, step, step * kLanes<T> * static_cast<int64_t>(sizeof(acc_t<T>))};
}

// Rows of some places' frames amid zeros, the last `slots` frames that were asked for.
template <class T>
class PaddedFrames {
  using A = acc_t<T>;
  static constexpr int64_t lanes = kLanes<T>;

 public:
  // A plane has `rows` rows of `columns` pixels; pixel (0, 0) is `up` and `left` of the first of start's band.
  PaddedFrames(const View<T>& x, int64_t places, int64_t slots, int64_t rows, int64_t columns, int64_t up, int64_t left)
      : x_(x),
        places_(places),
        step_(columns),
        up_(up),
        left_(left),
        first_(std::max<int64_t>(0, -left)),
        count_(std::min(columns, x.shape.W - left) - first_),
        size_(rows * columns * lanes),
        held_(slots, -1),
        planes_(slots * places * size_) {
    std::fill_n(planes_.get(), slots * places * size_, A(0));
  }
  PaddedFrames(const View<T>& x, const Axes& axes, const Bands& bands)
      : PaddedFrames(x, bands.block, bands.slots, bands.band + axes.kh - 1, bands.step, axes.h[0].offsets[0],
                     axes.w[0].offsets[0]) {}

  // From here on frames of clip n, of places from `place` on, in the band of `rows` rows of the plane from `row` on.
  // More of the same band goes on with what is there.
  void start(int64_t n, int64_t place, int64_t row, int64_t rows) {
    if (n == n_ && place == place_ && row == row_ && rows == rows_) return;
    n_ = n, place_ = place, row_ = row, rows_ = rows;
    std::fill(held_.begin(), held_.end(), -1);
  }

  // The plane of the i-th place.
  const A* operator()(int64_t frame, int64_t i) {
    const int64_t slot = frame % static_cast<int64_t>(held_.size());
    A* planes = planes_.get() + slot * places_ * size_;
    if (held_[slot] != frame) {
      fill(frame, planes);
      held_[slot] = frame;
    }
    return planes + i * size_;
  }

 private:
  void fill(int64_t frame, A* planes) const {
    const Clip& c = x_.shape;
    const int64_t above = row_ + up_, low = std::clamp<int64_t>(-above, 0, rows_);
    const int64_t high = std::clamp<int64_t>(c.H - above, low, rows_);
    const auto each_place = [&](auto&& f) {
      for (int64_t i = 0, channel = place_ * lanes; i < places_ && channel < c.C; ++i, channel += lanes) {
        f(planes + i * size_, x_.frame(n_, channel, frame), std::min<int64_t>(lanes, c.C - channel));
      }
    };
    each_place([&](A* to, const T*, int64_t) {
      std::fill_n(to, low * step_ * lanes, A(0));
      std::fill_n(to + high * step_ * lanes, (rows_ - high) * step_ * lanes, A(0));
    });
    if (!channels_adjacent(c)) {
      Clip part = c;
      part.P = (high - low) * c.W;
      return each_place([&](A* to, const T* from, int64_t channels) {
        gather_channels(from + (above + low) * c.W * c.sP, part, channels, to + (low * step_ + first_) * lanes, step_);
      });
    }
    for (int64_t row = low; row < high; ++row) {
      each_place([&](A* to, const T* from, int64_t channels) {
        from += ((above + row) * c.W + first_ + left_) * c.sP, to += (row * step_ + first_) * lanes;
        for (int64_t p = 0; p < count_; ++p, from += c.sP, to += lanes) {
          __builtin_prefetch(from + c.sT, 0, 2);
          store(to, load_part(from, channels));
        }
      });
    }
  }

  const View<T>& x_;
  const int64_t places_, step_, up_, left_, first_, count_, size_;
  std::vector<int64_t> held_;
  const Scratch<A> planes_;
  int64_t n_ = 0, place_ = 0, row_ = 0, rows_ = 0;
};

// Where results go, from `start` on: at rows and pixels of those steps, `count` lanes of each vector.
template <class A>
struct PutResults {
  A* to;
  int64_t row, pixel, count = kLanes<A>;
  Vec<A> start{};
  void operator()(int64_t i, int64_t j, Vec<A> v) const __attribute__((always_inline)) {
    store_part(to + i * row + j * pixel, v, count);
  }
};

template <class A>
__attribute__((noinline)) void convolve_lanes(const LaneTerm<A>* terms, int64_t count, int64_t step, int64_t kh,
                                              int64_t kw, int64_t rows, int64_t columns, const PutResults<A>& put) {
  with_tap_rows(kw, [&](auto size) { lane_conv<size>(terms, count, step, kh, kw, rows, columns, put); });
}

// Taps [place][frame of taps][tap][lane] in the order of a term's.
template <class T>
std::vector<acc_t<T>> plane_taps(const Axes& axes, const T* weight, int64_t channels) {
  constexpr int64_t size = kLanes<T>;
  const int64_t kt = axes.kt, kh = axes.kh, kw = axes.kw;
  std::vector<acc_t<T>> packed((channels + size - 1) / size * size * kt * kh * kw);
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t i = 0; i < kt; ++i) {
      for (int64_t u = 0; u < kh; ++u) {
        for (int64_t v = 0; v < kw; ++v) {
          packed[((c / size * kt + i) * kh * kw + u * kw + v) * size + c % size] =
              load1(weight + ((c * kt + i) * kh + axes.h[0].taps[u]) * kw + axes.w[0].taps[v]);
        }
      }
    }
  }
  return packed;
}

// One frame of one place: the terms of its results, and under which frame of taps each of them is.
template <class Term>
struct FrameTerms {
  Term terms[kMaxKernel];
  int64_t taps[kMaxKernel], count = 0;

  // plane(frame) has been padded; `packed` has `size` numbers for each frame of taps.
  template <class A, class Plane>
  FrameTerms(const Axes& axes, int64_t t, const A* packed, int64_t size, Plane&& plane) {
    each_tap(axes.t, t, axes.t_in, [&](int64_t tap, int64_t frame) {
      terms[count] = {plane(frame), packed + tap * size};
      taps[count++] = tap;
    });
  }
  void advance(int64_t elements) {
    for (int64_t j = 0; j < count; ++j) terms[j].x += elements;
  }
};
template <class A, class T>
FrameTerms<LaneTerm<A>> lane_terms(const Axes& axes, const A* packed, PaddedFrames<T>& frames, int64_t t, int64_t place,
                                   int64_t q) {
  const int64_t size = axes.kh * axes.kw * kLanes<A>;
  return {axes, t, packed + place * axes.kt * size, size, [&](int64_t frame) { return frames(frame, q); }};
}

// Convolves a few rows and puts them where they belong.
template <class T>
class RowWriter {
  using A = acc_t<T>;
  static constexpr int64_t lanes = kLanes<T>;

 public:
  static constexpr int64_t kRows = 8;  // at most

  RowWriter(const Axes& axes, int64_t step, const View<T>& y)
      : axes_(axes),
        y_(y),
        step_(step),
        direct_(std::is_same_v<T, A> && channels_adjacent(y.shape)),
        streams_(y.shape.numel() * static_cast<int64_t>(sizeof(T)) >= kStreamBytes),
        rows_(kRows * axes.w_out * lanes) {}

  // Rows of frame t of clip n from `row` on, for the channels from `channel` on.
  void operator()(const FrameTerms<LaneTerm<A>>& frame, int64_t n, int64_t channel, int64_t t, int64_t row,
                  int64_t rows, Vec<A> bias) const {
    const Clip& c = y_.shape;
    const int64_t channels = std::min(lanes, c.C - channel), columns = axes_.w_out;
    T* to = y_.frame(n, channel, t) + row * columns * c.sP;
    PutResults<A> put{rows_.get(), columns * lanes, lanes, lanes, bias};
    if constexpr (std::is_same_v<T, A>) {
      if (direct_) put = {to, columns * c.sP, c.sP, channels, bias};
    }
    convolve_lanes(frame.terms, frame.count, step_, axes_.kh, axes_.kw, rows, columns, put);
    if (!direct_) scatter_channels(rows_.get(), channels, rows * columns, to, c, streams_);
  }

 private:
  const Axes& axes_;
  const View<T>& y_;
  const int64_t step_;
  const bool direct_, streams_;
  const Scratch<A> rows_;
};

template <class T>
void convolve_planes(const Axes& axes, const T* weight, const View<T>& x, const View<T>& y, const acc_t<T>* bias) {
  using A = acc_t<T>;
  constexpr int64_t size = kLanes<T>, some = RowWriter<T>::kRows;
  const std::vector<A> taps = plane_taps<T>(axes, weight, x.shape.C);
  const Bands bands = lane_bands<T>(axes, x.shape, y.shape);
  const int64_t items = bands.items(x.shape.N), threads = torch::stable::get_num_threads();
  const int64_t shares = threads == 1 ? 1 : std::clamp<int64_t>(16 * threads / items, 1, axes.t_out);
  torch::stable::parallel_for(0, items * shares, 1, [&](int64_t begin, int64_t end) {
    PaddedFrames<T> frames(x, axes, bands);
    const RowWriter<T> write(axes, bands.step, y);
    for (int64_t i = begin; i < end; ++i) {
      const auto item = bands.item(i, shares, axes);
      frames.start(item.n, item.place, item.row, item.count + axes.kh - 1);
      for (int64_t t = item.t0; t < item.t1; ++t) {
        for (int64_t q = 0; q < item.places; ++q) {
          const int64_t place = item.place + q;
          auto frame = lane_terms(axes, taps.data(), frames, t, place, q);
          for (int64_t r = 0; r < item.count; r += some, frame.advance(some * bands.step * size)) {
            write(frame, item.n, place * size, t, item.row + r, std::min(some, item.count - r),
                  load(bias + place * size));
          }
        }
      }
    }
    stream_fence();
  });
}

// Gradients of the input, where dx.data is not null, and of the taps, where dweight is not. `axes` lead from the result
// to the input: both are sums over the frames of the result's gradient, amid zeros, that one frame of the input meets.
template <class T>
void backward_planes(const Axes& axes, const T* weight, const View<T>& grad, const View<T>& x, const View<T>& dx,
                     T* dweight) {
  using A = acc_t<T>;
  constexpr int64_t size = kLanes<T>, some = RowWriter<T>::kRows;
  const std::vector<A> packed = plane_taps<T>(axes, weight, x.shape.C);
  const Bands bands = lane_bands<T>(axes, grad.shape, x.shape);
  const int64_t in_space = axes.kh * axes.kw, taps = axes.kt * in_space;
  const int64_t items = bands.items(x.shape.N);
  const int64_t shares = std::clamp<int64_t>(kShares / items, 1, axes.t_out);
  const int64_t few = std::max<int64_t>(1, kFewProducts / axes.w_out);  // rows summed before fp64
  std::vector<double> partial(items * shares * bands.block * taps * size);
  torch::stable::parallel_for(0, items * shares, 1, [&](int64_t begin, int64_t end) {
    PaddedFrames<T> frames(grad, axes, bands);
    PaddedFrames<T> inputs(x, bands.block, 1, bands.band, bands.step, 0, 0);
    const RowWriter<T> write(axes, bands.step, dx);
    std::vector<Wide<A>> sums(bands.block * taps);
    for (int64_t i = begin; i < end; ++i) {
      const auto item = bands.item(i, shares, axes);
      frames.start(item.n, item.place, item.row, item.count + axes.kh - 1);
      inputs.start(item.n, item.place, item.row, item.count);
      std::fill(sums.begin(), sums.end(), Wide<A>{});
      for (int64_t t = item.t0; t < item.t1; ++t) {
        for (int64_t q = 0; q < item.places; ++q) {
          const int64_t place = item.place + q;
          auto frame = lane_terms(axes, packed.data(), frames, t, place, q);
          const A* input = dweight ? inputs(t, q) : nullptr;
          for (int64_t r = 0; r < item.count; r += some, frame.advance(some * bands.step * size)) {
            const int64_t now = std::min(some, item.count - r);
            if (dx.data) write(frame, item.n, place * size, t, item.row + r, now, Vec<A>{});
            if (!dweight) continue;
            for (int64_t j = 0; j < frame.count; ++j) {
              with_tap_rows(axes.kw, [&](auto columns) {
                Wide<A>* to = sums.data() + q * taps + frame.taps[j] * in_space;
                for (int64_t k = 0; k < now; k += few) {
                  lane_products<columns>(input + (r + k) * bands.step * size, bands.step,
                                         frame.terms[j].x + k * bands.step * size, bands.step, axes.kh, axes.kw,
                                         std::min(few, now - k), axes.w_out, to);
                }
              });
            }
          }
        }
      }
      double* to = partial.data() + i * bands.block * taps * size;
      for (size_t k = 0; k < sums.size(); ++k) std::memcpy(to + k * size, &sums[k], sizeof(sums[k]));
    }
    stream_fence();
  });
  if (!dweight) return;
  const int64_t parts = bands.bands * shares;
  sum_parts<T>(x.shape, taps, parts, dweight, nullptr, [&](int64_t n, int64_t part, int64_t c, int64_t k) {
    const int64_t place = c / size, item = (n * bands.blocks + place / bands.block) * parts + part;
    const int64_t reversed = k / in_space * in_space + (in_space - 1 - k % in_space);
    return partial[((item * bands.block + place % bands.block) * taps + reversed) * size + c % size];
  });
}

// Whether this serves a convolution of x. Transposing copies whole rows only.
inline bool planes_serve(const Axes& axes, const Clip& x) {
  if (axes.h.size() > 1 || axes.w.size() > 1 || !axes.h[0].slides() || !axes.w[0].slides()) return false;
  const int64_t left = axes.w[0].offsets[0];
  return channels_adjacent(x) || (left <= 0 && x.W - left <= axes.w_out + axes.kw - 1);
}

}  // namespace vidops
