// depthwise_conv3d on the CPU: vectors of neighbouring channels, one position after another.
//
// Floor: a multiply-add a tap and element, at 27 taps (3x3x3) and 147 (3x7x7) 2 to 12 times what moving the clip costs.
// For 1x54x16x56x56 and 3x3x3 that is 73 M multiply-adds, 87 M with the last vector of channels filled up, 0.7 ms for a
// core of 124 a ns, beside 11 MB read and written; backward twice that, beside 22 MB read and 11 written. So the kernel
// is a register-tiled direct convolution over scratch that has a vector of channels for a position, amid zeros:
// transposed there from the planar layouts, about six instructions for a vector, or copied from channels last. Without
// stride and dilation over space that is depthwise_conv3d_planes.h, else the rows of whole frames here, with a tile
// that takes any step (depthwise_conv3d_tile.h).
//
// Results do not depend on the number of threads: each is one sum in the order of the taps. Backward, the input's
// gradient is the same convolution with the taps reversed, or with a stride one for each residue of it. The taps'
// gradients are sums over a share of the clip, in fp32 over at most kProducts products a lane, in fp64 above, and over
// shares in the order of memory; the number of shares depends on the shape alone. The bias's is in fp64 throughout: it
// has no products to hide a rounding behind.
//
// The zeros of scratch must not meet what is not finite: taps that are not, go over whole frames with a tile that
// leaves zeros out, and taps' gradients that are not, are summed again without them.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <tuple>
#include <type_traits>

#include "common/dispatch.h"
#include "common/namespace.h"
#include "cpu/channel_vectors.h"
#include "cpu/depthwise_conv3d_plan.h"
#include "cpu/depthwise_conv3d_rows.h"
#include "cpu/depthwise_conv3d_tile.h"

namespace vidops {
namespace {

constexpr int64_t kMostRows = kMaxKernel * kMaxKernel;

// The convolution in one direction.
template <class A>
struct Plan : Axes {
  int64_t width;  // of a packed tap: channels padded to whole vectors
  const A* taps;
  bool careful;                               // with what is not finite: the zeros beside a row are no part of a sum
  std::vector<std::vector<int64_t>> weights;  // of every phase of w: where a row's taps are
  int64_t left = 0, pitch = 0;                // of a row in scratch: zeros in front of it, and its length with them

  Plan(const Axes& axes, const A* taps, int64_t width, bool careful)
      : Axes(axes), width(width), taps(taps), careful(careful) {
    for (const Phase& phase : w) {
      weights.emplace_back();
      for (const int64_t tap : phase.taps) weights.back().push_back(tap * width);
      for (const int64_t offset : phase.offsets) {
        left = std::max(left, -offset);
        pitch = std::max(pitch, (round_up(results(phase), kTile) - 1) * phase.in_step + offset + 1);
      }
    }
    pitch = left + std::max(pitch, w_in);
  }
  // Results of a row in a phase.
  int64_t results(const Phase& phase) const { return (w_out - phase.first + phase.step - 1) / phase.step; }
  TapColumns columns(size_t phase) const {
    const Phase& p = w[phase];
    return {static_cast<int64_t>(p.taps.size()), p.in_step, w_in, p.offsets.data(), weights[phase].data()};
  }
};

// Row (t, h) of the result for the vector of channels from c on; row(frame, h) is where a row of the input starts.
template <class A, class Row>
void conv_row(const Plan<A>& plan, int64_t t, int64_t h, int64_t c, Row&& row, Vec<A> bias, A* y) {
  TapRow<A> rows[kMostRows];
  int64_t n = 0;
  each_tap(plan.t, t, plan.t_in, [&](int64_t i, int64_t frame) {
    each_tap(plan.h, h, plan.h_in, [&](int64_t j, int64_t line) {
      rows[n++] = {row(frame, line), plan.taps + (i * plan.kh + j) * plan.kw * plan.width + c};
    });
  });
  for (size_t q = 0; q < plan.w.size(); ++q) {
    const TapColumns columns = plan.columns(q);
    const int64_t first = plan.w[q].first, apart = plan.w[q].step;
    const int64_t count = plan.results(plan.w[q]);
    for (int64_t i = 0; i < count; i += kTile) {
      (plan.careful ? careful_tile<A> : tile<A>)(rows, n, columns, i, std::min<int64_t>(kTile, count - i), bias,
                                                 y + (first + i * apart) * kLanes<A>, apart);
    }
  }
}

template <class T>
void convolve_vectors(const Axes& axes, const T* weight, const View<T>& x, const View<T>& y, const acc_t<T>* bias) {
  using A = acc_t<T>;
  constexpr int64_t lanes = kLanes<T>;
  const int64_t width = channel_groups<T>(x.shape.C) * lanes;
  const std::vector<A> taps = packed_taps(weight, x.shape.C, axes.kt * axes.kh * axes.kw, width);
  const Plan<A> plan(axes, taps.data(), width, !all_finite(taps.data(), static_cast<int64_t>(taps.size())));
  const Clip &cx = x.shape, &cy = y.shape;
  const int64_t groups = channel_groups<T>(cx.C), wanted = 2 * static_cast<int64_t>(torch::stable::get_num_threads());
  const int64_t shares = std::clamp<int64_t>(wanted / (cx.N * groups), 1, plan.t_out);
  torch::stable::parallel_for(0, cx.N * groups * shares, 1, [&](int64_t begin, int64_t end) {
    const Scratch<A> made(lanes * plan.w_out * lanes);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / (groups * shares), share = item % shares, c = item / shares % groups * lanes;
      VectorFrames<T> frames(x, n, c, plan.window(), plan.left, plan.pitch);
      const auto row = [&](int64_t f, int64_t h) { return static_cast<const A*>(frames(f) + h * plan.pitch * lanes); };
      T* to = y.data + n * cy.sN + c * cy.sC;
      for (int64_t t = plan.t_out * share / shares; t < plan.t_out * (share + 1) / shares; ++t) {
        for (int64_t h0 = 0; h0 < plan.h_out; h0 += lanes) {
          const int64_t count = std::min(lanes, plan.h_out - h0);
          for (int64_t h = 0; h < count; ++h) {
            conv_row(plan, t, h0 + h, c, row, load(bias + c), made.get() + h * plan.w_out * lanes);
          }
          scatter_channels(made.get(), std::min(lanes, cx.C - c), count * plan.w_out,
                           to + t * cy.sT + h0 * cy.W * cy.sP, cy);
        }
      }
    }
  });
}

// ---- gradients of taps and bias

// One vector of channels' sums: fp32 for a while, then fp64.
template <class A>
struct Sums {
  std::vector<Vec<A>> few;
  Wide<A>* many;
  int64_t terms = 0;

  Sums(int64_t count, Wide<A>* many) : few(count), many(many) {}
  // Makes room for `more` products a lane.
  void expect(int64_t more) {
    if (terms + more > kProducts) flush();
    terms += more;
  }
  void flush() {
    for (size_t i = 0; i < few.size(); ++i) add_wide<A>(many[i], few[i]), few[i] = Vec<A>{};
    terms = 0;
  }
};

// Adds the products of row (t, h) of the gradient, tap by tap where they are wanted, and its own sum last.
template <class A, class Row>
void row_products(const Plan<A>& plan, bool wanted, const A* g, int64_t t, int64_t h, Row&& row, int64_t count,
                  Sums<A>& sums) {
  constexpr int64_t lanes = kLanes<A>;
  const TapColumns columns = plan.columns(0);
  for (int64_t w = 0; w < count; w += kProducts) {
    const int64_t end = std::min(w + kProducts, count);
    sums.expect(end - w);
    Wide<A> sum{};
    for (int64_t i = w; i < end; ++i) add_wide<A>(sum, load(g + i * lanes));
    sums.many[plan.kt * plan.kh * plan.kw] += sum;
    if (!wanted) continue;
    each_tap(plan.t, t, plan.t_in, [&](int64_t i, int64_t frame) {
      const A* rows[kMaxKernel];
      int64_t n = 0, first = 0;
      each_tap(plan.h, h, plan.h_in, [&](int64_t j, int64_t line) {
        if (n == 0) first = j;
        rows[n++] = row(frame, line);
      });
      (plan.careful ? careful_products<A> : tap_products<A>)(g, rows, n, columns, w, end,
                                                             sums.few.data() + (i * plan.kh + first) * plan.kw);
    });
  }
}

template <class T>
void multiply_vectors(const Axes& axes, bool careful, const View<T>& grad, const View<T>& x, T* dweight, T* dbias) {
  using A = acc_t<T>;
  constexpr int64_t lanes = kLanes<T>;
  const Clip &cx = x.shape, &cg = grad.shape;
  const int64_t taps = axes.kt * axes.kh * axes.kw, groups = channel_groups<T>(cx.C);
  const int64_t shares = std::clamp<int64_t>(kShares / (cx.N * groups), 1, cg.T);
  std::vector<Wide<T>> totals(cx.N * groups * shares * (taps + 1));
  const Plan<A> plan(axes, nullptr, 0, careful);
  torch::stable::parallel_for(0, cx.N * groups * shares, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / (groups * shares), share = item % shares, c = item / shares % groups * lanes;
      Sums<A> sums(taps, totals.data() + item * (taps + 1));
      VectorFrames<T> frames(x, n, c, plan.window(), plan.left, plan.pitch), gradient(grad, n, c, 1, 0, cg.W);
      const auto row = [&](int64_t f, int64_t h) { return static_cast<const A*>(frames(f) + h * plan.pitch * lanes); };
      for (int64_t t = cg.T * share / shares; t < cg.T * (share + 1) / shares; ++t) {
        const A* g = gradient(t);
        for (int64_t h = 0; h < cg.H; ++h) {
          row_products(plan, dweight != nullptr, g + h * cg.W * lanes, t, h, row, cg.W, sums);
        }
      }
      sums.flush();
    }
  });
  sum_parts(cx, taps, shares, dweight, dbias, [&](int64_t n, int64_t part, int64_t c, int64_t k) {
    return totals[((n * groups + c / lanes) * shares + part) * (taps + 1) + k][c % lanes];
  });
}

// ---- calls

template <class T>
void convolve(const ConvGeometry& g, const Tensor& weight, const View<T>& x, const View<T>& y, const acc_t<T>* bias) {
  const Axes axes(g, false);
  const Tensor dense = torch::stable::contiguous(weight);
  const T* taps = static_cast<const T*>(dense.data_ptr());
  if (!planes_serve(axes, x.shape) || !all_finite(taps, g.channels * g.taps)) {
    return convolve_vectors<T>(axes, taps, x, y, bias);
  }
  const int64_t C = x.shape.C, most = channels_in_lanes<T>(axes, x.shape, y.shape);
  if (most > 0) convolve_planes<T>(axes, taps, x.channels(0, most), y.channels(0, most), bias);
  if (most < C) convolve_planar<T>(axes, taps + most * g.taps, x.channels(most, C), y.channels(most, C), bias + most);
}

// Gradients; those that are not wanted are null.
template <class T>
void differentiate(const ConvGeometry& g, const Tensor& weight, const View<T>& grad, const View<T>& x,
                   const View<T>& dx, T* dweight, T* dbias) {
  const Axes forward(g, false), backward(g, true);
  const Tensor dense = torch::stable::contiguous(weight);
  const T* taps = static_cast<const T*>(dense.data_ptr());
  if (planes_serve(backward, grad.shape) && all_finite(taps, g.channels * g.taps)) {
    const int64_t C = x.shape.C, most = channels_in_lanes<T>(backward, grad.shape, x.shape);
    const auto part = [&](auto&& run, int64_t first, int64_t end) {
      if (first == end || !(dx.data || dweight)) return;
      run(backward, taps + first * g.taps, grad.channels(first, end), x.channels(first, end), dx.channels(first, end),
          dweight ? dweight + first * g.taps : nullptr);
    };
    part(backward_planes<T>, 0, most);
    part(backward_planar<T>, most, C);
  } else {
    const std::vector<acc_t<T>> none(channel_groups<T>(g.channels) * kLanes<T>);
    if (dx.data) convolve_vectors<T>(backward, taps, grad, dx, none.data());
    if (dweight) multiply_vectors<T>(forward, false, grad, x, dweight, nullptr);
  }
  if (dbias) multiply_vectors<T>(forward, false, grad, x, nullptr, dbias);
  // Gradients of the result that are not finite have met the zeros around the clip.
  if (dweight && !all_finite(dweight, g.channels * g.taps)) {
    multiply_vectors<T>(forward, true, grad, x, dweight, nullptr);
  }
}

Tensor depthwise_conv3d(Tensor x, Tensor weight, std::optional<Tensor> bias, std::vector<int64_t> stride,
                        std::vector<int64_t> padding, std::vector<int64_t> dilation) {
  const ConvGeometry g = conv_geometry(x, weight, stride, padding, dilation);
  if (bias) check_tensor(*bias, "bias", x, g.channels);
  x = native_clip(x);
  Tensor y = empty_conv_result(x, describe(x), g);
  if (y.numel() == 0) return y;
  dispatch_float(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    std::vector<acc_t<T>> start(channel_groups<T>(g.channels) * kLanes<T>);
    if (bias) {
      const Tensor b = torch::stable::contiguous(*bias);
      for (int64_t c = 0; c < g.channels; ++c) start[c] = load1(static_cast<const T*>(b.data_ptr()) + c);
    }
    convolve<T>(g, weight, view<T>(x), view<T>(y), start.data());
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> depthwise_conv3d_backward(Tensor grad, Tensor x, Tensor weight,
                                                             std::vector<int64_t> stride, std::vector<int64_t> padding,
                                                             std::vector<int64_t> dilation, bool need_x,
                                                             bool need_weight, bool need_bias) {
  const ConvGeometry g = conv_geometry(x, weight, stride, padding, dilation);
  check_conv_gradient(grad, x, g);
  x = native_clip(x);
  const Clip cx = describe(x);
  grad = native_clip(grad);
  Tensor dx = need_x ? empty_clip(x, cx, cx.T, cx.layout) : torch::stable::new_empty(x, {0});
  const int64_t kt = g.t.taps, kh = g.h.taps, kw = g.w.taps;
  Tensor dw = need_weight ? torch::stable::new_empty(x, {cx.C, 1, kt, kh, kw}) : torch::stable::new_empty(x, {0});
  Tensor db = torch::stable::new_empty(x, {need_bias ? cx.C : 0});
  if (grad.numel() == 0) {
    torch::stable::zero_(dx), torch::stable::zero_(dw), torch::stable::zero_(db);
    return {dx, dw, db};
  }
  dispatch_float(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const View<T> none{nullptr, cx};
    differentiate<T>(g, weight, view<T>(grad), view<T>(x), need_x ? view<T>(dx) : none,
                     need_weight ? static_cast<T*>(dw.data_ptr()) : nullptr,
                     need_bias ? static_cast<T*>(db.data_ptr()) : nullptr);
  });
  return {dx, dw, db};
}

VIDOPS_LIBRARY_IMPL(VIDOPS_NAMESPACE, CPU, m) {
  m.impl("depthwise_conv3d", TORCH_BOX(&depthwise_conv3d));
  m.impl("depthwise_conv3d_backward", TORCH_BOX(&depthwise_conv3d_backward));
}

}  // namespace
}  // namespace vidops
