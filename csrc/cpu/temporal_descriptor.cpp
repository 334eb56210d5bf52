// temporal_descriptor on the CPU: a vector of positions at a time, all their channels and frames side by side in
// scratch.
//
// Floor: features read once, the descriptor written once; backward reads features and gradient and writes dx. A
// position has C T(T-1)/2 multiply-adds forward, twice that backward: 672 for 192 values read at C 24 and T 8, so that
// bytes and arithmetic take about as long. A tile of one frame times four later ones, backward of one frame times four
// channels, stays in registers while the other index runs, so that five loads from the first cache serve four
// multiply-adds.
//
// Channels-last clips are transposed, a block of as many positions as channels at a time, on their way into scratch and
// back. Sums over channels are in fp32 over 16 at a time, then over those, in an order that nothing changes.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "common/dispatch.h"
#include "common/namespace.h"
#include "common/temporal_projection.h"
#include "cpu/channel_vectors.h"

namespace vidops {
namespace {

constexpr int64_t kGrain = 16 << 10;  // elements a thread should have at least
constexpr int64_t kSome = 16;         // channels summed before their sum is added to that of others
constexpr int kTile = 4;

// Images of some channels, all at one position or more: planes, or channels last.
template <class T>
struct Images {
  T* data;
  bool last;
  int64_t position, channel;  // elements from one to the next

  // `count` positions from p on, at most a vector's lanes, to one vector a channel, `step` vectors apart.
  void gather(int64_t p, int64_t count, int64_t channels, acc_t<T>* to, int64_t step) const {
    constexpr int lanes = kLanes<T>;
    const T* from = data + p * position;
    if (!last) {
      for (int64_t c = 0; c < channels; ++c) store(to + c * step * lanes, load_part(from + c * channel, count));
      return;
    }
    for (int64_t c = 0; c < channels; c += lanes) {
      Vec<acc_t<T>> block[lanes];
#pragma GCC unroll 16
      for (int l = 0; l < lanes; ++l) {
        block[l] = l < count ? load_part(from + l * position + c, channels - c) : Vec<T>{};
      }
      transpose<acc_t<T>>(block);
#pragma GCC unroll 16
      for (int l = 0; l < lanes; ++l) {
        if (c + l < channels) store(to + (c + l) * step * lanes, block[l]);
      }
    }
  }

  // The other way.
  void scatter(int64_t p, int64_t count, int64_t channels, const acc_t<T>* from, int64_t step) const {
    constexpr int lanes = kLanes<T>;
    T* to = data + p * position;
    if (!last) {
      for (int64_t c = 0; c < channels; ++c) store_part(to + c * channel, load(from + c * step * lanes), count);
      return;
    }
    for (int64_t c = 0; c < channels; c += lanes) {
      Vec<acc_t<T>> block[lanes];
#pragma GCC unroll 16
      for (int l = 0; l < lanes; ++l) {
        block[l] = c + l < channels ? load(from + (c + l) * step * lanes) : Vec<T>{};
      }
      transpose<acc_t<T>>(block);
#pragma GCC unroll 16
      for (int l = 0; l < lanes; ++l) {
        if (l < count) store_part(to + l * position + c, block[l], channels - c);
      }
    }
  }
};

template <class T>
Images<T> frame_images(const View<T>& clip, int64_t n, int64_t t) {
  const Clip& c = clip.shape;
  return {clip.frame(n, 0, t), c.layout == Layout::kNTHWC, c.sP, c.sC};
}

// Clip n of dense images of `channels` that lie as empty_images has them.
template <class T>
Images<T> descriptor_images(T* data, const Clip& c, int64_t channels, int64_t n) {
  const bool last = c.layout == Layout::kNTHWC;
  return {data + n * channels * c.P, last, last ? channels : 1, last ? 1 : c.P};
}

// Products over the channels of frame `first` and kCount frames from `second` on; features lie frame by frame.
template <int kCount, class A>
inline void multiply_frames(const A* features, int64_t channels, int64_t frames, int64_t first, int64_t second, A* to) {
  constexpr int64_t lanes = kLanes<A>;
  Vec<A> total[kCount] = {};
  for (int64_t c0 = 0; c0 < channels; c0 += kSome) {
    Vec<A> sum[kCount] = {};
    for (int64_t c = c0; c < std::min(channels, c0 + kSome); ++c) {
      const A* at = features + c * frames * lanes;
      const Vec<A> one = load(at + first * lanes);
#pragma GCC unroll 4
      for (int k = 0; k < kCount; ++k) sum[k] += one * load(at + (second + k) * lanes);
    }
#pragma GCC unroll 4
    for (int k = 0; k < kCount; ++k) total[k] += sum[k];
  }
#pragma GCC unroll 4
  for (int k = 0; k < kCount; ++k) store(to + k * lanes, total[k] / static_cast<A>(channels));
}

template <class A>
void multiply_pairs(const A* features, int64_t channels, int64_t frames, A* pairs) {
  for (int64_t t = 0; t + 1 < frames; ++t) {
    int64_t s = t + 1;
    for (; s + kTile <= frames; s += kTile, pairs += kTile * kLanes<A>) {
      multiply_frames<kTile>(features, channels, frames, t, s, pairs);
    }
    for (; s < frames; ++s, pairs += kLanes<A>) multiply_frames<1>(features, channels, frames, t, s, pairs);
  }
}

// f(n, p, count) for every vector of positions.
template <class T, class F>
void each_positions(const Clip& c, F&& f) {
  const int64_t lanes = kLanes<T>, blocks = (c.P + lanes - 1) / lanes;
  torch::stable::parallel_for(0, c.N * blocks, kGrain / (c.C * c.T * lanes) + 1, [&](int64_t begin, int64_t end) {
    f([&](auto&& each) {
      for (int64_t k = begin; k < end; ++k) {
        const int64_t p = k % blocks * lanes;
        each(k / blocks, p, std::min(lanes, c.P - p));
      }
    });
  });
}

template <class T>
void forward(const View<T>& x, T* to) {
  using A = acc_t<T>;
  const Clip& c = x.shape;
  const int64_t pairs = pairs_of(c.T);
  each_positions<T>(c, [&](auto&& walk) {
    const Scratch<A> features(c.C * c.T * kLanes<T>), products(pairs * kLanes<T>);
    walk([&](int64_t n, int64_t p, int64_t count) {
      for (int64_t t = 0; t < c.T; ++t) {
        frame_images(x, n, t).gather(p, count, c.C, features.get() + t * kLanes<T>, c.T);
      }
      multiply_pairs(features.get(), c.C, c.T, products.get());
      descriptor_images(to, c, pairs, n).scatter(p, count, pairs, products.get(), 1);
    });
  });
}

// dx of frame t in kCount channels: the other frames, each times the gradient of its pair with t.
template <int kCount, class A>
inline void add_frames(const A* features, const A* grad, int64_t frames, int64_t t, A* dx) {
  constexpr int64_t lanes = kLanes<A>;
  Vec<A> sum[kCount] = {};
  const auto add = [&](int64_t s, int64_t pair) __attribute__((always_inline)) {
    const Vec<A> slope = load(grad + pair * lanes);
#pragma GCC unroll 4
    for (int k = 0; k < kCount; ++k) sum[k] += slope * load(features + (k * frames + s) * lanes);
  };
  int64_t pair = t - 1;  // of (0, t), then (1, t), ...
  for (int64_t s = 0; s < t; ++s, pair += frames - 1 - s) add(s, pair);
  pair = t * (2 * frames - t - 1) / 2;  // of (t, t + 1), then (t, t + 2), ...
  for (int64_t s = t + 1; s < frames; ++s, ++pair) add(s, pair);
#pragma GCC unroll 4
  for (int k = 0; k < kCount; ++k) store(dx + (k * frames + t) * lanes, sum[k]);
}

template <class T>
void backward(T* grad, const View<T>& x, const View<T>& dx) {
  using A = acc_t<T>;
  constexpr int64_t lanes = kLanes<T>;
  const Clip& c = x.shape;
  const int64_t pairs = pairs_of(c.T), frames = c.T;
  each_positions<T>(c, [&](auto&& walk) {
    const Scratch<A> features(c.C * frames * lanes), slopes(pairs * lanes), result(c.C * frames * lanes);
    walk([&](int64_t n, int64_t p, int64_t count) {
      for (int64_t t = 0; t < frames; ++t) {
        frame_images(x, n, t).gather(p, count, c.C, features.get() + t * lanes, frames);
      }
      descriptor_images(grad, c, pairs, n).gather(p, count, pairs, slopes.get(), 1);
      for (int64_t k = 0; k < pairs * lanes; k += lanes) {
        store(slopes.get() + k, load(slopes.get() + k) / static_cast<A>(c.C));
      }
      for (int64_t t = 0; t < frames; ++t) {
        int64_t i = 0;
        const auto at = [&](const Scratch<A>& scratch) { return scratch.get() + i * frames * lanes; };
        for (; i + kTile <= c.C; i += kTile) add_frames<kTile>(at(features), slopes.get(), frames, t, at(result));
        for (; i < c.C; ++i) add_frames<1>(at(features), slopes.get(), frames, t, at(result));
      }
      for (int64_t t = 0; t < frames; ++t) {
        frame_images(dx, n, t).scatter(p, count, c.C, result.get() + t * lanes, frames);
      }
    });
  });
}

Tensor temporal_descriptor(Tensor features) {
  check_features(features);
  const Tensor x = native_clip(features);
  const Clip c = describe(x);
  Tensor to = empty_images(x, c, pairs_of(c.T));
  if (to.numel() == 0) return to;
  dispatch_float(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    forward(view<T>(x), static_cast<T*>(to.data_ptr()));
  });
  return to;
}

Tensor temporal_descriptor_backward(Tensor grad, Tensor features) {
  check_descriptor_gradient(grad, features);
  const Tensor x = native_clip(features);
  const Clip c = describe(x);
  Tensor dx = empty_clip(x, c, c.T, c.layout);
  if (dx.numel() == 0) return dx;
  if (c.T < 2) {
    torch::stable::zero_(dx);
    return dx;
  }
  grad = laid_out_as(grad, empty_images(x, c, pairs_of(c.T)));
  dispatch_float(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    backward(static_cast<T*>(grad.data_ptr()), view<T>(x), view<T>(dx));
  });
  return dx;
}

VIDOPS_LIBRARY_IMPL(VIDOPS_NAMESPACE, CPU, m) {
  m.impl("temporal_descriptor", TORCH_BOX(&temporal_descriptor));
  m.impl("temporal_descriptor_backward", TORCH_BOX(&temporal_descriptor_backward));
}

}  // namespace
}  // namespace vidops
