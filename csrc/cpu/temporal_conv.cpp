// temporal_conv on the CPU: one pass over the clip, whatever the groups.
//
// Floor: x read once, y written once. A vector is 2 to 16 neighbouring elements of every frame: positions of one
// channel in the planar layouts, channels of one position in channels last. Groups without stride and dilation slide a
// window of frames along it (temporal_conv_slide.h); vectors are taken in memory order, so a clip is read as one
// sequential stream a frame. Other groups follow a table (temporal_conv_table.h). Sums
// live in registers in tap order, so results do not depend on the number of threads. Results larger than the caches
// are streamed past them, which saves reading the lines first.
//
// Backward: the input's gradient slides over the gradient with the taps reversed, or follows the transposed table. The
// taps' gradient is one dot product a tap, in fp32 over at most kTerms products a lane, in fp64 above, reduced in the
// order of memory. Both are made of the same block while it is in the caches.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <memory>
#include <optional>
#include <tuple>
#include <type_traits>

#include "common/clip.h"
#include "common/dispatch.h"
#include "common/namespace.h"
#include "common/temporal_checks.h"
#include "cpu/temporal_conv_plan.h"
#include "cpu/temporal_conv_slide.h"
#include "cpu/temporal_conv_table.h"

namespace vidops {
namespace {

constexpr int64_t kBlock = 512;       // planar: positions a thread takes at a time
constexpr int64_t kGrain = 16 << 10;  // elements a thread should have at least
constexpr int64_t kTerms = 64;        // products a lane sums in fp32 before fp64 takes over
constexpr int64_t kShares = 16;       // channels last: shares of the clips that sum their gradients apart

// A clip's memory, and where a strip of it starts.
template <class T>
struct View {
  T* data;
  Clip shape;

  T* planar(int64_t n, int64_t c, int64_t p) const { return data + n * shape.sN + c * shape.sC + p; }
  T* last(int64_t n, int64_t p, int64_t c) const { return data + n * shape.sN + p * shape.sP + c; }
};

template <class T>
View<T> view(const Tensor& tensor) {
  return {static_cast<T*>(tensor.data_ptr()), describe(tensor)};
}

// Calls f with the number of taps as a constant where a window slides, with 0 where the table is followed.
template <class F>
void with_window(const GroupPlan& part, F&& f) {
  if (!part.slides) return f(std::integral_constant<int, 0>{});
  switch (part.group.taps) {
    case 1:
      return f(std::integral_constant<int, 1>{});
    case 3:
      return f(std::integral_constant<int, 3>{});
    case 5:
      return f(std::integral_constant<int, 5>{});
    default:
      return f(std::integral_constant<int, 7>{});
  }
}

// One vector's results: K taps, or the table's.
template <int K, bool kStream, class T, class Lanes, class Tap>
void sum_vector(const GroupPlan& part, const Frames<T, Lanes>& x, Tap&& tap, Vec<T> bias, T* y, const Clip& cy) {
  if constexpr (K > 0) {
    slide_sums<K, kStream>(x, part.first, tap, bias, y, cy.sT, cy.T);
  } else {
    table_sums<kStream>(x, part.table, tap, bias, y, cy.sT);
  }
}

// One vector's products of gradient and input, a sum a tap and one of the gradient.
// `g` starts at frame t0.
template <int K, class T, class Lanes>
void product_vector(const GroupPlan& part, const Frames<T, Lanes>& x, const Frames<T, Lanes>& g, int64_t t0,
                    Vec<T>* sums) {
  if constexpr (K > 0) {
    slide_products<K>(x, part.first + t0, g, sums);
  } else {
    table_products(x, part.table, part.group.taps, g, t0, sums);
  }
}

// One channel's results for `count` neighbouring positions.
template <class T, bool kStream>
void sum_planar(const Plan<T>& plan, const T* x, const Clip& cx, T* y, const Clip& cy, int64_t c, int64_t count,
                const T* bias) {
  const GroupPlan& part = plan.parts[plan.part_of[c]];
  const Group& g = part.group;
  const acc_t<T>* taps = plan.taps.data() + g.weight + (c - g.channel) * g.taps;
  const Vec<T> b = bias ? broadcast<Vec<T>>(load1(bias + c)) : Vec<T>{};
  const auto tap = [&](int64_t k) { return broadcast<Vec<T>>(taps[k]); };
  with_window(part, [&](auto k) {
    each_vector<T>(count, true, [&](auto lanes, int64_t i) {
      const Frames<T, decltype(lanes)> frames{x + i, cx.sT, cx.T, plan.replicate, lanes};
      sum_vector<k, kStream>(part, frames, tap, b, y + i, cy);
    });
  });
}

// All channels' results for one position.
template <class T, bool kStream>
void sum_last(const Plan<T>& plan, const T* x, const Clip& cx, T* y, const Clip& cy, const T* bias) {
  for (const GroupPlan& part : plan.parts) {
    const acc_t<T>* taps = plan.taps.data() + part.padded;
    with_window(part, [&](auto k) {
      each_vector<T>(part.group.channels, true, [&](auto lanes, int64_t i) {
        const int64_t c = part.group.channel + i;
        const Frames<T, decltype(lanes)> frames{x + c, cx.sT, cx.T, plan.replicate, lanes};
        const auto tap = [&](int64_t j) { return load(taps + j * part.width + i); };
        sum_vector<k, kStream>(part, frames, tap, bias ? lanes.get(bias + c) : Vec<T>{}, y + c, cy);
      });
    });
  }
}

// Whether a result is worth streaming, and its vectors are aligned: in every strip, then its rows are too.
template <class T>
bool can_stream(const Plan<T>& plan, const View<T>& y) {
  // Vectors shorter than a line fill lines of many frames at a time, more than write-combining buffers hold.
  if (kVectorBytes < 64 && y.shape.T > 8) return false;
  if (!std::is_same_v<T, acc_t<T>> || y.shape.numel() * static_cast<int64_t>(sizeof(T)) < kStreamBytes) return false;
  bool aligned = reinterpret_cast<uintptr_t>(y.data) % kVectorBytes == 0;
  if (!plan.last) return aligned && y.shape.P % kLanes<T> == 0;
  aligned = aligned && y.shape.C % kLanes<T> == 0;
  for (const GroupPlan& part : plan.parts) aligned = aligned && part.group.channel % kLanes<T> == 0;
  return aligned;
}

template <class T, bool kStream>
void run(const Plan<T>& plan, const View<T>& x, const View<T>& y, const T* bias) {
  const Clip &cx = x.shape, &cy = y.shape;
  const int64_t frames = std::max(cx.T, cy.T), blocks = plan.last ? 1 : (cx.P + kBlock - 1) / kBlock;
  const int64_t items = cx.N * (plan.last ? cx.P : cx.C * blocks);
  const int64_t work = frames * (plan.last ? cx.C : std::min(kBlock, cx.P));
  torch::stable::parallel_for(0, items, kGrain / work + 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      if (plan.last) {
        const int64_t n = item / cx.P, p = item % cx.P;
        sum_last<T, kStream>(plan, x.last(n, p, 0), cx, y.last(n, p, 0), cy, bias);
      } else {
        const int64_t n = item / (cx.C * blocks), c = item / blocks % cx.C, p = item % blocks * kBlock;
        sum_planar<T, kStream>(plan, x.planar(n, c, p), cx, y.planar(n, c, p), cy, c, std::min(kBlock, cx.P - p), bias);
      }
    }
    if (kStream) stream_fence();
  });
}

// Adds one channel's products over `count` neighbouring positions to out[tap], those of the gradient alone to the last.
template <class T>
void product_planar(const Plan<T>& plan, const T* grad, const Clip& cg, const T* x, const Clip& cx, int64_t c,
                    int64_t count, double* out) {
  const GroupPlan& part = plan.parts[plan.part_of[c]];
  const int64_t slots = part.group.taps + 1, some = std::max<int64_t>(kTerms / cg.T, 1) * kLanes<T>;
  std::vector<Wide<T>> totals(slots);
  with_window(part, [&](auto k) {
    std::vector<Vec<T>> many(k > 0 ? 0 : slots);
    Vec<T> few[k + 1];  // stays in registers
    Vec<T>* sums = k > 0 ? few : many.data();
    for (int64_t at = 0; at < count; at += some) {
      for (int64_t t0 = 0; t0 < cg.T; t0 += kTerms) {
        std::fill_n(sums, slots, Vec<T>{});
        each_vector<T>(std::min(some, count - at), false, [&](auto lanes, int64_t i) {
          using Vectors = Frames<T, decltype(lanes)>;
          const T* g = grad + at + i + t0 * cg.sT;
          product_vector<k>(part, Vectors{x + at + i, cx.sT, cx.T, plan.replicate, lanes},
                            Vectors{g, cg.sT, std::min(kTerms, cg.T - t0), false, lanes}, t0, sums);
        });
        for (int64_t j = 0; j < slots; ++j) add_wide<T>(totals[j], sums[j]);
      }
    }
  });
  for (int64_t j = 0; j < slots; ++j) out[j] += sum_lanes(totals[j]);
}

// Adds one position's products of all channels, of gradient frames t0 and on: of group m, vector v of channels and tap
// k to sums[start_m + v * (taps + 1) + k], those of the gradient alone after the last tap.
template <class T>
void product_last(const Plan<T>& plan, const T* grad, const Clip& cg, const T* x, const Clip& cx, int64_t t0,
                  Vec<T>* sums) {
  for (const GroupPlan& part : plan.parts) {
    const int64_t slots = part.group.taps + 1;
    with_window(part, [&](auto k) {
      each_vector<T>(part.group.channels, false, [&](auto lanes, int64_t i) {
        using Vectors = Frames<T, decltype(lanes)>;
        const int64_t c = part.group.channel + i;
        product_vector<k>(part, Vectors{x + c, cx.sT, cx.T, plan.replicate, lanes},
                          Vectors{grad + c + t0 * cg.sT, cg.sT, std::min(kTerms, cg.T - t0), false, lanes}, t0,
                          sums + i / kLanes<T> * slots);
      });
    });
    sums += part.width / kLanes<T> * slots;
  }
}

// What backward writes; a null pointer is not wanted.
template <class T>
struct Gradients {
  View<T> x;
  T *weight, *bias;

  void set(const Group& g, int64_t c, int64_t slot, double sum) const {
    if (slot == g.taps) {
      if (bias) bias[c] = static_cast<T>(sum);
    } else if (weight) {
      weight[g.weight + (c - g.channel) * g.taps + slot] = static_cast<T>(sum);
    }
  }
};

// Block (n, c, p) writes its own max_taps + 1 partial sums.
template <class T, bool kStream>
void backward_planar(const Plan<T>& plan, const Plan<T>* to_x, const View<T>& grad, const View<T>& x,
                     const Gradients<T>& out) {
  const Clip &cx = x.shape, &cg = grad.shape;
  const int64_t blocks = (cx.P + kBlock - 1) / kBlock, slots = plan.groups.max_taps + 1;
  const std::unique_ptr<double[]> partial(new double[cx.N * cx.C * blocks * slots]());
  torch::stable::parallel_for(
      0, cx.N * cx.C * blocks, kGrain / (std::min(kBlock, cx.P) * std::max(cx.T, cg.T)) + 1,
      [&](int64_t begin, int64_t end) {
        for (int64_t item = begin; item < end; ++item) {
          const int64_t n = item / (cx.C * blocks), c = item / blocks % cx.C, p = item % blocks * kBlock;
          const int64_t count = std::min(kBlock, cx.P - p);
          const T* g = grad.planar(n, c, p);
          product_planar(plan, g, cg, x.planar(n, c, p), cx, c, count, partial.get() + item * slots);
          if (to_x) {
            sum_planar<T, kStream>(*to_x, g, cg, out.x.planar(n, c, p), out.x.shape, c, count, nullptr);
          }
        }
        if (kStream) stream_fence();
      });
  for (int64_t c = 0; c < cx.C; ++c) {
    const Group& g = plan.parts[plan.part_of[c]].group;
    for (int64_t slot = 0; slot <= g.taps; ++slot) {
      double sum = 0;
      for (int64_t n = 0; n < cx.N; ++n) {
        for (int64_t b = 0; b < blocks; ++b) sum += partial[((n * cx.C + c) * blocks + b) * slots + slot];
      }
      out.set(g, c, slot, sum);
    }
  }
}

// A share of a clip's positions keeps one fp64 sum a tap and channel, and fp32 ones for a while.
template <class T, bool kStream>
void backward_last(const Plan<T>& plan, const Plan<T>* to_x, const View<T>& grad, const View<T>& x,
                   const Gradients<T>& out) {
  constexpr int64_t lanes = kLanes<T>;
  const Clip &cx = x.shape, &cg = grad.shape;
  const int64_t shares = std::clamp<int64_t>(kShares / cx.N, 1, cx.P);
  int64_t vectors = 0;
  for (const GroupPlan& part : plan.parts) vectors += part.width / lanes * (part.group.taps + 1);
  const int64_t positions = std::max<int64_t>(kTerms / cg.T, 1);
  std::vector<Wide<T>> totals(cx.N * shares * vectors);
  torch::stable::parallel_for(0, cx.N * shares, 1, [&](int64_t begin, int64_t end) {
    std::vector<Vec<T>> sums(vectors);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / shares, from = cx.P * (item % shares) / shares, to = cx.P * (item % shares + 1) / shares;
      for (int64_t p = from; p < to; ++p) {
        const T* g = grad.last(n, p, 0);
        for (int64_t t0 = 0; t0 < cg.T; t0 += kTerms) {
          product_last(plan, g, cg, x.last(n, p, 0), cx, t0, sums.data());
          if ((p - from) % positions != positions - 1 && p + 1 != to && cg.T <= kTerms) continue;
          Wide<T>* into = totals.data() + item * vectors;
          for (int64_t i = 0; i < vectors; ++i) add_wide<T>(into[i], sums[i]);
          std::fill(sums.begin(), sums.end(), Vec<T>{});
        }
        if (to_x) {
          const T* none = nullptr;
          sum_last<T, kStream>(*to_x, g, cg, out.x.last(n, p, 0), out.x.shape, none);
        }
      }
    }
    if (kStream) stream_fence();
  });
  int64_t start = 0;
  for (const GroupPlan& part : plan.parts) {
    const Group& g = part.group;
    for (int64_t c = 0; c < g.channels; ++c) {
      for (int64_t slot = 0; slot <= g.taps; ++slot) {
        double sum = 0;
        const int64_t at = start + c / lanes * (g.taps + 1) + slot;
        for (int64_t item = 0; item < cx.N * shares; ++item) sum += totals[item * vectors + at][c % lanes];
        out.set(g, g.channel + c, slot, sum);
      }
    }
    start += part.width / lanes * (g.taps + 1);
  }
}

template <class T>
T* pointer(Tensor& tensor, bool wanted) {
  return wanted ? static_cast<T*>(tensor.data_ptr()) : nullptr;
}

Tensor temporal_conv(Tensor x, Tensor weight, std::optional<Tensor> bias, std::vector<int64_t> groups, int64_t stride,
                     std::string padding) {
  const Groups parsed = parse_groups(groups);
  const Padding pad = parse_padding(padding);
  check_call(x, weight, bias, parsed, stride);
  x = native_clip(x);
  const Clip cx = describe(x);
  Tensor y = empty_clip(x, cx, frames_out(cx.T, stride, pad, parsed.reach), cx.layout);
  if (y.numel() == 0) return y;
  Tensor w = torch::stable::contiguous(weight);
  Tensor b = bias ? torch::stable::contiguous(*bias) : w;
  dispatch_float(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const View<T> result = view<T>(y);
    const Plan<T> plan(parsed, cx.channels_last(), cx.T, y.size(2), stride, pad, false, pointer<T>(w, true));
    (can_stream(plan, result) ? run<T, true> : run<T, false>)(plan, view<T>(x), result,
                                                              pointer<T>(b, bias.has_value()));
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> temporal_conv_backward(Tensor grad, Tensor x, Tensor weight,
                                                          std::vector<int64_t> groups, int64_t stride,
                                                          std::string padding, bool need_x, bool need_weight,
                                                          bool need_bias) {
  const Groups parsed = parse_groups(groups);
  const Padding pad = parse_padding(padding);
  check_call(x, weight, std::nullopt, parsed, stride);
  check_gradient(grad, x, frames_out(x.size(2), stride, pad, parsed.reach));
  x = native_clip(x);
  const Clip cx = describe(x);
  grad = native_clip_like(grad, cx);
  Tensor w = torch::stable::contiguous(weight);
  Tensor dx = need_x ? empty_clip(x, cx, cx.T, cx.layout) : torch::stable::new_empty(x, {0});
  Tensor dw = torch::stable::new_empty(x, {need_weight ? parsed.weights : 0});
  Tensor db = torch::stable::new_empty(x, {need_bias ? cx.C : 0});
  if (grad.numel() == 0) {
    torch::stable::zero_(dx), torch::stable::zero_(dw), torch::stable::zero_(db);
    return {dx, dw, db};
  }
  dispatch_float(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const View<T> from = view<T>(x), slope = view<T>(grad);
    const bool last = cx.channels_last() && slope.shape.channels_last();
    std::optional<Plan<T>> to_x;
    Gradients<T> out{{}, pointer<T>(dw, need_weight), pointer<T>(db, need_bias)};
    bool streamed = false;
    if (need_x) {
      to_x.emplace(parsed, last, cx.T, slope.shape.T, stride, pad, true, pointer<T>(w, true));
      out.x = view<T>(dx);
      streamed = can_stream(*to_x, out.x);
    }
    const T* none = nullptr;
    if (need_weight || need_bias) {
      const Plan<T> plan(parsed, last, cx.T, slope.shape.T, stride, pad, false, none);
      const Plan<T>* back = need_x ? &*to_x : nullptr;
      (last       ? streamed ? backward_last<T, true> : backward_last<T, false>
       : streamed ? backward_planar<T, true>
                  : backward_planar<T, false>)(plan, back, slope, from, out);
    } else if (need_x) {
      (streamed ? run<T, true> : run<T, false>)(*to_x, slope, out.x, none);
    }
  });
  return {dx, dw, db};
}

VIDOPS_LIBRARY_IMPL(VIDOPS_NAMESPACE, CPU, m) {
  m.impl("temporal_conv", TORCH_BOX(&temporal_conv));
  m.impl("temporal_conv_backward", TORCH_BOX(&temporal_conv_backward));
}

}  // namespace
}  // namespace vidops
