// keypoint_shifts on the CPU: a vector of channels at a time, frame by frame, all sets in one pass over the frame.
//
// Floor: features read once and 2 (T-1) + 2 T numbers and 2 T coordinates a set, region and channel written; backward
// reads features (for separators alone) and what was written, and writes dx. At 1x384x8x14x14, 8 sets of 4 regions,
// that is 2.4 MB of features and 6 MB of the rest, a fraction of a millisecond; the arithmetic is more: a row of 14
// pixels is 80 steps of maxima and sums and each set 30 more, each pair of frames and set 20 exponentials and 16
// divisions. Predicted with all of it in fp32: 0.6 to 1 ms on one thread. It takes about 2 ms, and backward 2.5, since
// pairs of frames are in double, without which some gradients missed the bound.
//
// A task is a vector of channels of one clip: its frames are transposed into scratch one after another. A row's running
// maxima and sums, from both ends, serve the first and last band of all sets; bands between are walked. Regions of two
// frames are kept, then paired. Lines are placed once for all channels. Their gradients are summed over channels in
// double, task by task, and over tasks in ascending order.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "common/dispatch.h"
#include "common/namespace.h"
#include "cpu/keypoint_shifts_pairs.h"

namespace vidops {
namespace {

constexpr int64_t kGrain = 16 << 10;  // elements a thread should have at least

// Splits [clip][set][frame][x, y].
template <class A, class T>
std::vector<Split<A>> place_lines(const Tensor& separators, const KeypointSize& s) {
  const T* lines = static_cast<const T*>(separators.data_ptr());
  std::vector<Split<A>> splits(s.N * s.G * s.T * 2);
  for (size_t i = 0; i < splits.size(); ++i, lines += s.bands - 1) {
    split_axis(lines, s.bands, i % 2 ? s.H : s.W, splits[i]);
  }
  return splits;
}

template <class A>
FrameSplits<A> splits_of(const std::vector<Split<A>>& splits, const KeypointSize& s, int64_t n, int64_t t) {
  return {splits.data() + (n * s.G * s.T + t) * 2, s.T * 2};
}

// A vector's channels in a contiguous tensor (N, G, K, C, ...): `step` numbers a channel. They go by memory: a lane
// whose number is not known takes the whole vector there and back.
template <class A>
struct Lanes {
  int64_t count;

  template <class O>
  void put(O* to, int64_t step, const Vec<A>& v) const {
    A lane[kLanes<A>];
    store(lane, v);
    for (int64_t l = 0; l < count; ++l) to[l * step] = static_cast<O>(lane[l]);
  }
  template <class O>
  Vec<A> get(const O* from, int64_t step) const {
    A lane[kLanes<A>] = {};
    for (int64_t l = 0; l < count; ++l) lane[l] = static_cast<A>(from[l * step]);
    return load(lane);
  }
};

// f(task, n, c, lanes) for every vector of channels.
template <class T, class F>
void each_task(const KeypointSize& s, F&& f) {
  const int64_t groups = channel_groups<T>(s.C);
  const int64_t grain = kGrain / (s.T * s.H * s.W * kLanes<T>)+1;
  torch::stable::parallel_for(0, s.N * groups, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t c = task % groups * kLanes<T>;
      f(task, task / groups, c, Lanes<acc_t<T>>{std::min<int64_t>(kLanes<T>, s.C - c)});
    }
  });
}

// Results of one call, and what is kept for its gradients, as plain memory.
template <class A>
struct Results {
  A* shifts;
  int16_t* keypoints;
  A *values, *means;
};

template <class A>
struct Kept {
  const int16_t* keypoints;
  const A *values, *means;
};

template <class T>
void forward(const Tensor& x, const Tensor& separators, const KeypointSize& s, double epsilon,
             const Results<acc_t<T>>& to) {
  using A = acc_t<T>;
  const View<T> clip = view<T>(x);
  const auto splits = place_lines<A, T>(separators, s);
  const int64_t K = s.regions(), pairs = s.T - 1;
  each_task<T>(s, [&](int64_t, int64_t n, int64_t c, const Lanes<A>& lanes) {
    const Scratch<A> pixels(s.H * s.W * kLanes<T>);
    Row<A> row(s.W);
    std::vector<Wide<A>> sums(s.G * K);
    std::vector<Region<A>> found(s.G * K);
    std::vector<Region<double>> before(kParts<A> * s.G * K), now(before.size());
    for (int64_t t = 0; t < s.T; ++t, std::swap(before, now)) {
      gather_channels(clip.frame(n, c, t), clip.shape, lanes.count, pixels.get(), s.W);
      scan_frame(pixels.get(), s, splits_of(splits, s, n, t), row, sums, found.data());
      take_apart(found, now);
      for (int64_t i = 0; i < s.G * K; ++i) {
        const int64_t at = ((n * s.G * K + i) * s.C + c) * s.T + t;
        lanes.put(to.values + at, s.T, found[i].maximum.value);
        lanes.put(to.means + at, s.T, found[i].mean);
        lanes.put(to.keypoints + 2 * at, 2 * s.T, found[i].maximum.x);
        lanes.put(to.keypoints + 2 * at + 1, 2 * s.T, found[i].maximum.y);
      }
      for (int64_t g = 0; t > 0 && g < s.G; ++g) {
        Vec<double> moved[kMostRegions][2][kParts<A>];
        for (int part = 0; part < kParts<A>; ++part) {
          const int64_t first = (part * s.G + g) * K;
          pair_forward<double>(before.data() + first, now.data() + first, static_cast<int>(K), epsilon,
                               [&](int a, const Vec<double>& dx, const Vec<double>& dy) {
                                 moved[a][0][part] = dx, moved[a][1][part] = dy;
                               });
        }
        for (int64_t a = 0; a < K; ++a) {
          A* at = to.shifts + ((((n * s.G + g) * K + a) * s.C + c) * pairs + t - 1) * 2;
          lanes.put(at, 2 * pairs, join<A>(moved[a][0])), lanes.put(at + 1, 2 * pairs, join<A>(moved[a][1]));
        }
      }
    }
  });
}

// Regions of frame t, from what the forward pass kept.
template <class A>
void recall(const Kept<A>& kept, const KeypointSize& s, int64_t n, int64_t c, int64_t t, const Lanes<A>& lanes,
            std::vector<Region<A>>& regions) {
  for (int64_t i = 0; i < s.G * s.regions(); ++i) {
    const int64_t at = ((n * s.G * s.regions() + i) * s.C + c) * s.T + t;
    regions[i].maximum = {lanes.get(kept.values + at, s.T), lanes.get(kept.keypoints + 2 * at, 2 * s.T),
                          lanes.get(kept.keypoints + 2 * at + 1, 2 * s.T)};
    regions[i].mean = lanes.get(kept.means + at, s.T);
  }
}

// Gradients of all lines of a frame, summed over a vector of channels: [set][axis][line].
template <class A>
void line_gradients(const A* pixels, const KeypointSize& s, const FrameSplits<A>& splits, const Region<A>* regions,
                    const RegionGradient<A>* grads, double* to, int64_t set_step) {
  const int bands = s.bands, K = bands * bands;
  for (int64_t g = 0; g < s.G; ++g, regions += K, grads += K) {
    const Split<A>&x = splits.x(g), &y = splits.y(g);
    for (int i = 0; i + 1 < bands; ++i) {
      double* at = to + g * set_step + i;
      at[0] = line_gradient(pixels, x, y, i, 1, s.W, 1, bands, regions, grads);
      at[bands - 1] = line_gradient(pixels, y, x, i, s.W, 1, bands, 1, regions, grads);
    }
  }
}

// `partial` takes the gradients of lines, [task][set][frame][axis][line]; null where nobody wants them.
template <class T>
void backward(const acc_t<T>* grad, const Tensor& x, const std::vector<Split<acc_t<T>>>& splits, const KeypointSize& s,
              double epsilon, const Kept<acc_t<T>>& kept, const Tensor* dx, double* partial) {
  using A = acc_t<T>;
  const View<T> clip = view<T>(x), to = dx ? view<T>(*dx) : View<T>{};
  const int64_t K = s.regions(), pairs = s.T - 1, lines = 2 * (s.bands - 1);
  each_task<T>(s, [&](int64_t task, int64_t n, int64_t c, const Lanes<A>& lanes) {
    const Scratch<A> pixels(s.H * s.W * kLanes<T>);
    std::vector<Region<A>> regions(s.G * K), ahead(s.G * K);
    std::vector<RegionGradient<A>> arrived(s.G * K);
    std::vector<Region<double>> now(kParts<A> * s.G * K), next(now.size());
    std::vector<RegionGradient<double>> grad_now(now.size()), grad_next(now.size());
    recall(kept, s, n, c, 0, lanes, ahead);
    take_apart(ahead, next);
    for (int64_t t = 0; t < s.T; ++t) {
      std::swap(regions, ahead), std::swap(now, next), std::swap(grad_now, grad_next);
      std::fill(grad_next.begin(), grad_next.end(), RegionGradient<double>{});
      if (t < pairs) recall(kept, s, n, c, t + 1, lanes, ahead), take_apart(ahead, next);
      for (int64_t g = 0; t < pairs && g < s.G; ++g) {
        Vec<A> gx[kMostRegions], gy[kMostRegions];
        for (int64_t a = 0; a < K; ++a) {
          const A* at = grad + ((((n * s.G + g) * K + a) * s.C + c) * pairs + t) * 2;
          gx[a] = lanes.get(at, 2 * pairs), gy[a] = lanes.get(at + 1, 2 * pairs);
        }
        for (int part = 0; part < kParts<A>; ++part) {
          const int64_t first = (part * s.G + g) * K;
          Vec<double> x_part[kMostRegions], y_part[kMostRegions];
          for (int64_t a = 0; a < K; ++a) x_part[a] = part_of<A>(gx[a], part), y_part[a] = part_of<A>(gy[a], part);
          pair_backward<double>(now.data() + first, next.data() + first, static_cast<int>(K), epsilon, x_part, y_part,
                                grad_now.data() + first, grad_next.data() + first);
        }
      }
      for (int64_t i = 0; i < s.G * K; ++i) {
        Vec<double> value[kParts<A>], mean[kParts<A>];
        for (int part = 0; part < kParts<A>; ++part) {
          value[part] = grad_now[part * s.G * K + i].value, mean[part] = grad_now[part * s.G * K + i].mean;
        }
        arrived[i] = {join<A>(value), join<A>(mean)};
      }
      const FrameSplits<A> of = splits_of(splits, s, n, t);
      if (dx) {
        std::fill_n(pixels.get(), s.H * s.W * kLanes<T>, A{0});
        spread_frame(s, of, regions.data(), arrived.data(), pixels.get());
        scatter_channels(pixels.get(), lanes.count, s.H * s.W, to.frame(n, c, t), to.shape);
      }
      if (partial) {
        gather_channels(clip.frame(n, c, t), clip.shape, lanes.count, pixels.get(), s.W);
        line_gradients(pixels.get(), s, of, regions.data(), arrived.data(), partial + (task * s.G * s.T + t) * lines,
                       s.T * lines);
      }
    }
  });
}

// Sums over tasks, each line's to the separator it came from.
template <class A, class T>
void gather_lines(const std::vector<double>& partial, const std::vector<Split<A>>& splits, const KeypointSize& s,
                  int64_t groups, T* to) {
  const int64_t count = s.bands - 1, axes = s.G * s.T * 2;
  for (int64_t n = 0; n < s.N; ++n) {
    for (int64_t axis = 0; axis < axes; ++axis, to += count) {
      double total[kMostBands] = {};
      for (int64_t i = 0; i < count; ++i) {
        const int source = splits[n * axes + axis].source[i];
        for (int64_t task = n * groups; source >= 0 && task < (n + 1) * groups; ++task) {
          total[source] += partial[(task * axes + axis) * count + i];
        }
      }
      for (int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(static_cast<A>(total[i]));
    }
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor> keypoint_shifts(Tensor features, Tensor separators, double epsilon) {
  const KeypointSize s = check_keypoint_shifts(features, separators);
  Tensor shifts, keypoints, values, means;
  std::tie(shifts, keypoints, values, means) = new_shifts(features, s);
  if (values.numel() == 0) return {shifts, keypoints, values, means};
  const Tensor x = native_clip(features), lines = torch::stable::contiguous(separators);
  dispatch_float(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = acc_t<T>;
    const auto data = [](const Tensor& tensor) { return static_cast<A*>(tensor.data_ptr()); };
    forward<T>(x, lines, s, epsilon,
               {data(shifts), static_cast<int16_t*>(keypoints.data_ptr()), data(values), data(means)});
  });
  return {shifts, keypoints, values, means};
}

std::tuple<Tensor, Tensor> keypoint_shifts_backward(Tensor grad, Tensor features, Tensor separators, Tensor keypoints,
                                                    Tensor values, Tensor means, double epsilon, bool need_features,
                                                    bool need_separators) {
  const KeypointSize s = check_keypoint_shifts(features, separators);
  check_keypoint_gradient(grad, features, keypoints, values, means, s);
  using torch::stable::contiguous;
  const Tensor x = native_clip(features);
  Tensor dx, dlines;
  std::tie(dx, dlines) = new_keypoint_gradients(x, separators, need_features, need_separators);
  if (x.numel() == 0 || s.G == 0) {
    torch::stable::zero_(dx), torch::stable::zero_(dlines);
    return {dx, dlines};
  }
  const Tensor lines = contiguous(separators), g = contiguous(grad);
  const Tensor points = contiguous(keypoints), v = contiguous(values), m = contiguous(means);
  dispatch_float(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = acc_t<T>;
    const auto data = [](const Tensor& tensor) { return static_cast<const A*>(tensor.data_ptr()); };
    const auto splits = place_lines<A, T>(lines, s);
    const int64_t groups = channel_groups<T>(s.C);
    std::vector<double> partial(need_separators ? s.N * groups * s.G * s.T * 2 * (s.bands - 1) : 0);
    backward<T>(data(g), x, splits, s, epsilon, {static_cast<const int16_t*>(points.data_ptr()), data(v), data(m)},
                need_features ? &dx : nullptr, partial.empty() ? nullptr : partial.data());
    if (!partial.empty()) gather_lines(partial, splits, s, groups, static_cast<T*>(dlines.data_ptr()));
  });
  return {dx, dlines};
}

VIDOPS_LIBRARY_IMPL(VIDOPS_NAMESPACE, CPU, m) {
  m.impl("keypoint_shifts", TORCH_BOX(&keypoint_shifts));
  m.impl("keypoint_shifts_backward", TORCH_BOX(&keypoint_shifts_backward));
}

}  // namespace
}  // namespace vidops
