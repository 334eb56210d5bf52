// pathway_select on the CPU: all pathways are read side by side, in the order of memory; each result is written once.
//
// Floor: M clips read and one written; backward reads M clips and the gradient and writes M. The weights are a small
// table made before (pathway_select_softmax.h). Planar clips are walked row by row, a row being the positions of a
// channel's frame, which share M weights in registers: of all its frames where logits do not tell these apart and
// memory does not either. Vectors go on from a row to the next where memory does. Channels-last clips are walked
// position by position, with a vector of weights a vector of channels, from the first cache. Results larger than the
// caches are streamed past them, which saves reading the lines first.
//
// Backward writes weight * gradient while it sums gradient * pathway for the logits: in fp32 over kTerms products a
// lane, in fp64 above. For channels last every share of kPixels positions has sums of its own. Rows are shared out in
// blocks that no number of threads changes, lest sums have other bits.
//
// A path that is planar where the first one is channels last, or the other way, is copied, as such a gradient is.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <numeric>

#include "common/dispatch.h"
#include "common/namespace.h"
#include "common/pathway_select.h"
#include "cpu/channel_vectors.h"
#include "cpu/index.h"
#include "cpu/pathway_select_rows.h"
#include "cpu/pathway_select_softmax.h"

namespace vidops {
namespace {

constexpr int64_t kGrain = 16 << 10;  // elements of a path that a thread should have at least
constexpr int64_t kBlock = 8 << 10;   // elements of a path in a block of rows, about
constexpr int64_t kPixels = kTerms;   // channels last: positions a thread takes at a time

template <class T>
struct Call {
  SelectSize size;
  std::vector<View<T>> paths, outs;  // outs: the result, or the gradients of the paths
  View<T> grad;                      // backward alone
  const acc_t<T>* weights;
  acc_t<T>* slopes;  // gradients of the weights, backward alone

  const Clip& shape() const { return outs[0].shape; }
  // Calls f with the shape of every clip.
  template <class F>
  void each_clip(F&& f) const {
    for (const View<T>& path : paths) f(path.shape);
    for (const View<T>& out : outs) f(out.shape);
    if (grad.data) f(grad.shape);
  }
  // Whether all are channels last. Clips of one pixel may be some so and some not: all are walked as planar ones then.
  bool last() const {
    bool all = true;
    each_clip([&](const Clip& c) { all = all && c.channels_last(); });
    return all;
  }
};

// Calls f with the number of pathways as a constant.
template <class F>
void with_pathways(int64_t pathways, F&& f) {
  [&]<int... I>(std::integer_sequence<int, I...>) {
    ((pathways == I + 1 ? f(std::integral_constant<int, I + 1>{}) : void()), ...);
  }(std::make_integer_sequence<int, kMostPathways>{});
}

// Where M clips have position p of a frame.
template <int M, class T, class U>
Places<T, M> places_of(const std::vector<View<U>>& views, int64_t n, int64_t c, int64_t t, int64_t p = 0) {
  Places<T, M> places;
  for (int m = 0; m < M; ++m) {
    const Clip& shape = views[m].shape;
    places.at[m] = views[m].frame(n, c, t) + p * shape.sP, places.step[m] = shape.sP;
  }
  return places;
}

// Whether a row is followed by the next one in all clips, or channels-last positions are.
template <class T>
bool dense(const Call<T>& call) {
  const Clip& c = call.shape();
  bool alike = true;
  const auto same = [&](int64_t size, int64_t ours, int64_t step) { alike = alike && (size == 1 || ours == step); };
  call.each_clip([&](const Clip& o) { same(c.N, o.sN, c.sN), same(c.C, o.sC, c.sC), same(c.T, o.sT, c.sT); });
  return alike;
}

// Whether results are worth streaming past the caches, and all their vectors are aligned.
template <class T>
bool can_stream(const Call<T>& call) {
  if (!std::is_same_v<T, float>) return false;
  int64_t bytes = 0;
  bool aligned = true;
  for (const View<T>& out : call.outs) {
    bytes += out.shape.numel() * static_cast<int64_t>(sizeof(T));
    aligned = aligned && reinterpret_cast<uintptr_t>(out.data) % kVectorBytes == 0;
  }
  const Clip& c = call.shape();
  if (call.last()) return aligned && bytes >= kStreamBytes && c.C % kLanes<T> == 0;
  return aligned && bytes >= kStreamBytes && (c.P % kLanes<T> == 0 || (c.P >= kLanes<T> && dense(call)));
}

// The rows of planar clips, in the order of memory.
template <class T>
struct RowPlan {
  Clip c;
  bool frames_first, dense;
  int64_t block;  // rows; a whole number of vectors where rows follow each other

  explicit RowPlan(const Call<T>& call)
      : c(call.shape()), frames_first(c.sT > c.sC), dense(vidops::dense(call)), block(1) {
    if (dense) block = kLanes<T> / std::gcd<int64_t>(kLanes<T>, c.P);
    block *= kBlock / (block * c.P) + 1;
  }
  Index index(int64_t row) const { return {row, frames_first ? c.T : c.C, frames_first ? c.C : c.T}; }
  int64_t n(const Index& at) const { return at.outer; }
  int64_t channel(const Index& at) const { return frames_first ? at.inner : at.middle; }
  int64_t frame(const Index& at) const { return frames_first ? at.middle : at.inner; }

  // Calls f(index, rows) for rows that follow each other.
  template <class F>
  void run(F&& f) const {
    const int64_t rows = c.N * c.C * c.T, blocks = (rows + block - 1) / block;
    torch::stable::parallel_for(0, blocks, kGrain / (block * c.P) + 1, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        const int64_t first = b * block, count = std::min(block, rows - first);
        if (dense) {
          f(index(first), count);
        } else {
          for (int64_t i = 0; i < count; ++i) f(index(first + i), 1);
        }
      }
      stream_fence();
    });
  }
};

// Weights of the rows from an index on.
template <int M, class T>
auto weights_from(const Call<T>& call, const RowPlan<T>& plan, Index at) {
  return [&call, &plan, at]() mutable {
    const SelectSize& s = call.size;
    RowWeights<M, acc_t<T>> weights;
    const acc_t<T>* from =
        call.weights + (plan.n(at) * M * s.C + plan.channel(at)) * s.frames + (s.frames > 1 ? plan.frame(at) : 0);
    for (int m = 0; m < M; ++m) weights.of[m] = broadcast<Vec<T>>(from[m * s.C * s.frames]);
    at.next();
    return weights;
  };
}

template <int M, bool kStream, class T>
void select_planar(const Call<T>& call) {
  const RowPlan<T> plan(call);
  plan.run([&](const Index& at, int64_t rows) {
    const int64_t n = plan.n(at), c = plan.channel(at), t = plan.frame(at);
    select_rows<M, kStream>(places_of<M, const T>(call.paths, n, c, t), rows, plan.c.P, call.outs[0].frame(n, c, t),
                            weights_from<M>(call, plan, at));
  });
}

// Gradients of the weights to slopes (N, M, C, T) of the clip.
template <int M, bool kStream, class T>
void slope_planar(const Call<T>& call) {
  const RowPlan<T> plan(call);
  plan.run([&](const Index& at, int64_t rows) {
    const int64_t n = plan.n(at), c = plan.channel(at), t = plan.frame(at);
    Index done = at;
    slope_rows<M, kStream>(call.grad.frame(n, c, t), places_of<M, const T>(call.paths, n, c, t), rows, plan.c.P,
                           places_of<M, T>(call.outs, n, c, t), weights_from<M>(call, plan, at),
                           [&](int m, double sum) {
                             const int64_t clip = (plan.n(done) * M + m) * plan.c.C + plan.channel(done);
                             call.slopes[clip * plan.c.T + plan.frame(done)] = static_cast<acc_t<T>>(sum);
                             if (m == M - 1) done.next();
                           });
  });
}

// Calls f(n, t, p, count, share) for shares of the positions of channels-last clips.
template <class T, class F>
void each_share(const Call<T>& call, F&& f) {
  const Clip& c = call.shape();
  const int64_t shares = (c.P + kPixels - 1) / kPixels;
  torch::stable::parallel_for(0, c.N * c.T * shares, kGrain / (c.C * std::min(c.P, kPixels)) + 1,
                              [&](int64_t begin, int64_t end) {
                                for (int64_t i = begin; i < end; ++i) {
                                  const int64_t p = i % shares * kPixels;
                                  f(i / (c.T * shares), i / shares % c.T, p, std::min(kPixels, c.P - p), i);
                                }
                                stream_fence();
                              });
}

template <class T>
TableWeights<T> weights_of_frame(const Call<T>& call, int64_t n, int64_t t) {
  const SelectSize& s = call.size;
  return {call.weights + (n * s.frames + (s.frames > 1 ? t : 0)) * s.pathways * s.C, s.C};
}

template <int M, bool kStream, class T>
void select_last(const Call<T>& call) {
  const Clip& c = call.shape();
  each_share(call, [&](int64_t n, int64_t t, int64_t p, int64_t count, int64_t) {
    select_positions<M, kStream>(places_of<M, const T>(call.paths, n, 0, t, p), weights_of_frame(call, n, t), count,
                                 call.outs[0].frame(n, 0, t) + p * c.sP, c.sP);
  });
}

// Gradients of the weights to slopes (shares, M, C): of each share of the positions.
template <int M, bool kStream, class T>
void slope_last(const Call<T>& call) {
  const Clip &c = call.shape(), &g = call.grad.shape;
  each_share(call, [&](int64_t n, int64_t t, int64_t p, int64_t count, int64_t share) {
    const int64_t size = M * c.C;
    // Vectors past the last channel belong to the next pathway, and add nothing to it.
    const Scratch<acc_t<T>> sums(size + kLanes<T>);
    std::fill_n(sums.get(), size + kLanes<T>, 0);
    slope_positions<M, kStream>(call.grad.frame(n, 0, t) + p * g.sP, g.sP,
                                places_of<M, const T>(call.paths, n, 0, t, p), weights_of_frame(call, n, t), count,
                                places_of<M, T>(call.outs, n, 0, t, p), sums.get());
    std::copy_n(sums.get(), size, call.slopes + share * size);
  });
}

// Sums of `count` neighbours, each of `each` numbers, to the front.
template <class A>
void sum_up(A* values, int64_t groups, int64_t count, int64_t each) {
  if (count == 1) return;
  std::vector<double> total(each);
  for (int64_t g = 0; g < groups; ++g) {
    std::fill(total.begin(), total.end(), 0);
    for (int64_t k = 0; k < count; ++k) {
      const A* from = values + (g * count + k) * each;
      for (int64_t i = 0; i < each; ++i) total[i] += from[i];
    }
    for (int64_t i = 0; i < each; ++i) values[g * each + i] = static_cast<A>(total[i]);
  }
}

// A planar clip whose frames lie one behind the other, as a single frame.
void join_frames(Clip& c) { c.P *= c.T, c.sT = c.P, c.T = 1; }

template <class T>
bool joins(const Call<T>& call) {
  bool dense = call.size.frames == 1 && !call.last();
  call.each_clip([&](const Clip& c) { dense = dense && (c.T == 1 || c.sT == c.P); });
  return dense;
}

template <class T>
void join(Call<T>& call) {
  if (!joins(call)) return;
  for (View<T>& path : call.paths) join_frames(path.shape);
  for (View<T>& out : call.outs) join_frames(out.shape);
  join_frames(call.grad.shape);
}

template <class T>
Call<T> make_call(const SelectSize& size, const std::vector<Tensor>& paths, const std::vector<Tensor>& outs) {
  Call<T> call{size, {}, {}, {}, nullptr, nullptr};
  for (const Tensor& path : paths) call.paths.push_back(view<T>(path));
  for (const Tensor& out : outs) call.outs.push_back(view<T>(out));
  return call;
}

// All paths planar or all channels last, as the first one is.
std::vector<Tensor> native_paths(const std::vector<Tensor>& paths) {
  std::vector<Tensor> native{native_clip(paths[0])};
  const Clip first = describe(native[0]);
  for (size_t m = 1; m < paths.size(); ++m) native.push_back(native_clip_like(paths[m], first));
  return native;
}

template <class T>
void make_weights(const Call<T>& call, Tensor& logits, acc_t<T>* to) {
  const T* from = static_cast<const T*>(logits.data_ptr());
  (call.last() ? last_weights<T> : planar_weights<T>)(from, call.size, to);
}

template <class T>
int64_t table_size(const SelectSize& s) {
  return s.N * s.pathways * s.C * s.frames + kLanes<T>;
}

template <class T>
void forward(Call<T> call, Tensor& logits) {
  const Scratch<acc_t<T>> weights(table_size<T>(call.size));
  make_weights(call, logits, weights.get());
  call.weights = weights.get();
  join(call);
  const bool streams = can_stream(call);
  with_pathways(call.size.pathways, [&](auto m) {
    if constexpr (std::is_same_v<T, float>) {
      if (streams) return (call.last() ? select_last<m, true, T> : select_planar<m, true, T>)(call);
    }
    (call.last() ? select_last<m, false, T> : select_planar<m, false, T>)(call);
  });
}

template <class T>
void backward(Call<T> call, Tensor& logits, T* to) {
  using A = acc_t<T>;
  const SelectSize& s = call.size;
  const Scratch<A> weights(table_size<T>(s));
  make_weights(call, logits, weights.get());
  call.weights = weights.get();
  join(call);
  const Clip& c = call.shape();
  const bool streams = can_stream(call), last = call.last();
  const int64_t shares = last ? (c.P + kPixels - 1) / kPixels : 1;
  const Scratch<A> slopes(s.N * c.T * shares * s.pathways * s.C);
  call.slopes = slopes.get();
  with_pathways(s.pathways, [&](auto m) {
    if constexpr (std::is_same_v<T, float>) {
      if (streams) return (last ? slope_last<m, true, T> : slope_planar<m, true, T>)(call);
    }
    (last ? slope_last<m, false, T> : slope_planar<m, false, T>)(call);
  });
  if (last) {
    sum_up(slopes.get(), s.N * s.frames, c.T / s.frames * shares, s.pathways * s.C);
    last_slopes(weights.get(), slopes.get(), s, to);
  } else {
    sum_up(slopes.get(), s.N * s.pathways * s.C * s.frames, c.T / s.frames, 1);
    planar_slopes(weights.get(), slopes.get(), s, to);
  }
}

Tensor pathway_select(std::vector<Tensor> paths, Tensor logits) {
  const SelectSize size = check_pathway_select(paths, logits);
  paths = native_paths(paths);
  const Clip c = describe(paths[0]);
  Tensor y = empty_clip(paths[0], c, c.T, c.layout);
  if (y.numel() == 0) return y;
  logits = torch::stable::contiguous(logits);
  dispatch_float(y.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    forward(make_call<T>(size, paths, {y}), logits);
  });
  return y;
}

std::tuple<std::vector<Tensor>, Tensor> pathway_select_backward(Tensor grad, std::vector<Tensor> paths, Tensor logits) {
  const SelectSize size = check_pathway_select(paths, logits);
  check_pathway(grad, "grad", paths[0]);
  paths = native_paths(paths);
  auto [grads, slope] = new_select_gradients(paths, logits);
  if (grad.numel() == 0) {
    torch::stable::zero_(slope);
    return {grads, slope};
  }
  grad = native_clip_like(grad, describe(paths[0]));
  logits = torch::stable::contiguous(logits);
  dispatch_float(grad.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    Call<T> call = make_call<T>(size, paths, grads);
    call.grad = view<T>(grad);
    backward(call, logits, static_cast<T*>(slope.data_ptr()));
  });
  return {grads, slope};
}

VIDOPS_LIBRARY_IMPL(VIDOPS_NAMESPACE, CPU, m) {
  m.impl("pathway_select", TORCH_BOX(&pathway_select));
  m.impl("pathway_select_backward", TORCH_BOX(&pathway_select_backward));
}

}  // namespace
}  // namespace vidops
