// temporal_conv on the CPU: one pass over the clip, whatever the groups.
//
// Floor: x read once, y written once. Work is cut into strips: every frame's run of neighbouring elements that one
// vector loop can walk, which are positions of one channel in the planar layouts and channels of one position in
// channels last. A strip of all frames fits the first-level cache, so an element is read from memory once though
// k taps use it. Planar fp32 and fp64 strips are used where they lie; others are first gathered into a buffer, which
// converts half precision once and keeps frames that lie 2^n bytes apart from evicting each other. Sums live in
// registers and follow the term table in tap order, so results do not depend on the number of threads. Results
// larger than the caches are streamed past them, which saves reading the lines first.
//
// Backward: the input's gradient is the same loop over the transposed table. The taps' gradient is one dot product
// a tap and strip, in fp32 over at most a few thousand terms, in fp64 above, reduced in strip order.
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
#include "common/temporal_taps.h"
#include "common/vec.h"

namespace vidops {
namespace {

constexpr int kUnroll = 4;                 // vectors summed side by side
constexpr int64_t kStripBytes = 16 << 10;  // a strip of all frames: half of a first-level cache
constexpr int64_t kStreamBytes = 4 << 20;  // results from here on are streamed
constexpr int64_t kGrain = 16 << 10;       // elements a thread should have at least
constexpr int64_t kPositions = 32;         // channels last: positions summed in fp32 before fp64 takes over
constexpr int64_t kShares = 16;            // channels last: shares of the clips that sum their gradients apart

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// The elements of a strip's run that keep `frames` of them inside kStripBytes: whole unrolled loops if possible.
template <class T>
int64_t strip_length(int64_t frames) {
  constexpr int64_t step = kUnroll * kLanes<T>;
  return std::max<int64_t>(kStripBytes / (std::max<int64_t>(frames, 1) * sizeof(acc_t<T>)) / step, 1) * step;
}

// Channels-last strips: runs of channels that share a group.
struct Run {
  int64_t group, channel, channels, taps;  // `taps`: where the run's padded, tap-major taps start
};

// What one call needs besides the tensors: a table and the taps of every group.
template <class T>
struct Plan {
  const Groups& groups;
  bool last;
  std::vector<TermTable> tables;
  std::vector<int32_t> group_of;  // planar: a channel's group
  std::vector<Run> runs;          // channels last
  int64_t padded = 0;             // length of the padded taps
  std::vector<acc_t<T>> taps;

  Plan(const Groups& groups, bool last, int64_t frames_in, int64_t frames_result, int64_t frames_strip, int64_t stride,
       Padding padding, bool transposed, const T* weight)
      : groups(groups), last(last), group_of(groups.channels) {
    for (size_t i = 0; i < groups.items.size(); ++i) {
      const Group& g = groups.items[i];
      tables.push_back(term_table(g, frames_in, frames_result, stride, padding, groups.reach, transposed));
      std::fill_n(group_of.begin() + g.channel, g.channels, static_cast<int32_t>(i));
      const int64_t longest = strip_length<T>(frames_strip);
      for (int64_t c = 0; last && c < g.channels; c += longest) {
        const int64_t count = std::min(longest, g.channels - c);
        runs.push_back({static_cast<int64_t>(i), g.channel + c, count, padded});
        padded += g.taps * round_up(count, kLanes<T>);
      }
    }
    if (!weight) return;
    if (!last) {
      taps.resize(groups.weights);
      for (int64_t i = 0; i < groups.weights; ++i) taps[i] = load1(weight + i);
    } else {
      taps.resize(padded);
      each_tap([&](int64_t flat, int64_t at) { taps[at] = load1(weight + flat); });
    }
  }

  // visit(index in the flat weight, index in the padded tap-major one)
  template <class F>
  void each_tap(F&& visit) const {
    for (const Run& r : runs) {
      const Group& g = groups.items[r.group];
      for (int64_t c = 0; c < r.channels; ++c) {
        for (int64_t k = 0; k < g.taps; ++k) {
          visit(g.weight + (r.channel - g.channel + c) * g.taps + k, r.taps + k * round_up(r.channels, kLanes<T>) + c);
        }
      }
    }
  }
};

// Copies `frames` runs of `count` elements into rows of the accumulation type, padded with zeros to whole vectors.
template <class T>
void gather(const T* x, int64_t sT, int64_t frames, int64_t count, acc_t<T>* rows, int64_t width) {
  for (int64_t t = 0; t < frames; ++t) {
    const T* from = x + t * sT;
    acc_t<T>* to = rows + t * width;
    int64_t i = 0;
    for (; i + kLanes<T> <= count; i += kLanes<T>) store(to + i, load(from + i));
    for (; i < count; ++i) to[i] = load1(from + i);
    for (; i < width; ++i) to[i] = 0;
  }
}

template <class T, bool kLast>
inline Vec<T> tap_vector(const acc_t<T>* taps, int64_t width, int32_t tap, int64_t i) {
  if constexpr (kLast) return load(taps + tap * width + i);
  return broadcast<Vec<T>>(taps[tap]);
}

// y[i .. i + U*lanes) of one frame. Channels last has a tap and a bias an element, planar one a strip.
template <class T, int U, bool kLast, bool kStream>
inline void combine(const acc_t<T>* x, int64_t step, const Term* term, const Term* end, const acc_t<T>* taps,
                    int64_t width, const T* bias, int64_t i, int64_t count, T* y) {
  Vec<T> sum[U];
  for (int u = 0; u < U; ++u) {
    sum[u] = Vec<T>{};
    if (bias && !kLast) sum[u] = broadcast<Vec<T>>(load1(bias));
    if (bias && kLast) sum[u] = load_part(bias + i + u * kLanes<T>, count - i - u * kLanes<T>);
  }
  for (; term != end; ++term) {
    const acc_t<T>* source = x + term->frame * step + i;
    for (int u = 0; u < U; ++u) {
      sum[u] += tap_vector<T, kLast>(taps, width, term->tap, i + u * kLanes<T>) * load(source + u * kLanes<T>);
    }
  }
  for (int u = 0; u < U; ++u) {
    T* to = y + i + u * kLanes<T>;
    if constexpr (kStream) {
      stream(to, sum[u]);
    } else {
      store_part(to, sum[u], count - i - u * kLanes<T>);
    }
  }
}

// All frames of one strip of rows in the accumulation type; rows are readable to whole vectors.
template <class T, bool kLast, bool kStream>
void combine_strip(const acc_t<T>* x, int64_t step, const TermTable& table, const acc_t<T>* taps, int64_t width,
                   const T* bias, int64_t count, T* y, int64_t sT, int64_t frames) {
  constexpr int64_t lanes = kLanes<T>;
  for (int64_t t = 0; t < frames; ++t) {
    const Term* term = table.terms.data() + table.begin[t];
    const Term* end = table.terms.data() + table.begin[t + 1];
    T* to = y + t * sT;
    int64_t i = 0;
    for (; i + kUnroll * lanes <= count; i += kUnroll * lanes) {
      combine<T, kUnroll, kLast, kStream>(x, step, term, end, taps, width, bias, i, count, to);
    }
    for (; i + lanes <= count; i += lanes) {
      combine<T, 1, kLast, kStream>(x, step, term, end, taps, width, bias, i, count, to);
    }
    if (i < count) combine<T, 1, kLast, false>(x, step, term, end, taps, width, bias, i, count, to);
  }
}

// Planar strips of fp32 and fp64 can be used where they lie, but for a last vector that would read past them.
template <class T>
constexpr bool kInPlace = std::is_same_v<T, acc_t<T>>;

template <class T, bool kStream>
void run_planar(const Plan<T>& plan, const T* x, const Clip& cx, T* y, const Clip& cy, const T* bias) {
  constexpr int64_t lanes = kLanes<T>;
  const int64_t length = strip_length<T>(cx.T), strips = (cx.P + length - 1) / length;
  torch::stable::parallel_for(
      0, cx.N * cx.C * strips, kGrain / (std::min(length, cx.P) * std::max(cx.T, cy.T)) + 1,
      [&](int64_t begin, int64_t end) {
        const std::unique_ptr<acc_t<T>[]> rows(new acc_t<T>[cx.T * length]);
        for (int64_t item = begin; item < end; ++item) {
          const int64_t n = item / (cx.C * strips), c = item / strips % cx.C, p = item % strips * length;
          const int64_t count = std::min(length, cx.P - p), whole = kInPlace<T> ? count / lanes * lanes : 0;
          const Group& g = plan.groups.items[plan.group_of[c]];
          const TermTable& table = plan.tables[plan.group_of[c]];
          const acc_t<T>* taps = plan.taps.data() + g.weight + (c - g.channel) * g.taps;
          const T* from = x + n * cx.sN + c * cx.sC + p;
          T* to = y + n * cy.sN + c * cy.sC + p;
          const T* b = bias ? bias + c : nullptr;
          if constexpr (kInPlace<T>) {
            combine_strip<T, false, kStream>(from, cx.sT, table, taps, 0, b, whole, to, cy.sT, cy.T);
          }
          if (whole < count) {
            const int64_t width = round_up(count - whole, lanes);
            gather(from + whole, cx.sT, cx.T, count - whole, rows.get(), width);
            combine_strip<T, false, false>(rows.get(), width, table, taps, 0, b, count - whole, to + whole, cy.sT,
                                           cy.T);
          }
        }
        if (kStream) stream_fence();
      });
}

template <class T, bool kStream>
void run_last(const Plan<T>& plan, const T* x, const Clip& cx, T* y, const Clip& cy, const T* bias) {
  torch::stable::parallel_for(
      0, cx.N * cx.P, kGrain / (cx.C * std::max(cx.T, cy.T)) + 1, [&](int64_t begin, int64_t end) {
        const std::unique_ptr<acc_t<T>[]> rows(new acc_t<T>[cx.T * strip_length<T>(cx.T)]);
        for (int64_t item = begin; item < end; ++item) {
          const int64_t n = item / cx.P, p = item % cx.P;
          for (const Run& r : plan.runs) {
            const int64_t width = round_up(r.channels, kLanes<T>);
            gather(x + n * cx.sN + p * cx.sP + r.channel, cx.sT, cx.T, r.channels, rows.get(), width);
            combine_strip<T, true, kStream>(rows.get(), width, plan.tables[r.group], plan.taps.data() + r.taps, width,
                                            bias ? bias + r.channel : nullptr, r.channels,
                                            y + n * cy.sN + p * cy.sP + r.channel, cy.sT, cy.T);
          }
        }
        if (kStream) stream_fence();
      });
}

template <class T>
void run(const Plan<T>& plan, const Tensor& x, const Clip& cx, Tensor& y, const T* bias) {
  const Clip cy = describe(y);
  const T* from = static_cast<const T*>(x.data_ptr());
  T* to = static_cast<T*>(y.data_ptr());
  // A streamed vector must be aligned, in every strip: then its rows are too.
  bool streamed = kInPlace<T> && cy.numel() * static_cast<int64_t>(sizeof(T)) >= kStreamBytes &&
                  reinterpret_cast<uintptr_t>(to) % kVectorBytes == 0;
  if (!plan.last) {
    streamed = streamed && cy.P % kLanes<T> == 0;
    (streamed ? run_planar<T, true> : run_planar<T, false>)(plan, from, cx, to, cy, bias);
  } else {
    streamed = streamed && cy.C % kLanes<T> == 0;
    for (const Run& r : plan.runs) streamed = streamed && r.channel % kLanes<T> == 0;
    (streamed ? run_last<T, true> : run_last<T, false>)(plan, from, cx, to, cy, bias);
  }
}

// Dot product over `count` elements, a multiple of the lanes, of frame pairs of one tap.
template <class T>
double dot_pairs(const acc_t<T>* g, int64_t sg, const acc_t<T>* x, int64_t sx, const TapTable::Pair* pair,
                 const TapTable::Pair* end, int64_t count) {
  constexpr int64_t lanes = kLanes<T>;
  Vec<T> sum[kUnroll] = {};
  for (; pair != end; ++pair) {
    const acc_t<T>* a = g + pair->out * sg;
    const acc_t<T>* b = x + pair->in * sx;
    int64_t i = 0;
    for (; i + kUnroll * lanes <= count; i += kUnroll * lanes) {
      for (int u = 0; u < kUnroll; ++u) sum[u] += load(a + i + u * lanes) * load(b + i + u * lanes);
    }
    for (; i < count; i += lanes) sum[0] += load(a + i) * load(b + i);
  }
  return sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

template <class T>
double sum_frames(const acc_t<T>* g, int64_t sg, int64_t frames, int64_t count) {
  Vec<T> sum{};
  for (int64_t t = 0; t < frames; ++t) {
    for (int64_t i = 0; i < count; i += kLanes<T>) sum += load(g + t * sg + i);
  }
  return sum_lanes(sum);
}

// Planar: strip (n, c, p) writes its own max_taps + 1 partial sums, the last for the bias.
template <class T>
void weight_planar(const Plan<T>& plan, const std::vector<TapTable>& tables, const T* grad, const Clip& cg, const T* x,
                   const Clip& cx, T* dweight, T* dbias) {
  constexpr int64_t lanes = kLanes<T>;
  const int64_t length = strip_length<T>(cx.T + cg.T), strips = (cx.P + length - 1) / length;
  const int64_t slots = plan.groups.max_taps + 1;
  const std::unique_ptr<double[]> partial(new double[cx.N * cx.C * strips * slots]());
  torch::stable::parallel_for(
      0, cx.N * cx.C * strips, kGrain / (std::min(length, cx.P) * std::max(cx.T, cg.T)) + 1,
      [&](int64_t begin, int64_t end) {
        const std::unique_ptr<acc_t<T>[]> rows(new acc_t<T>[(cx.T + cg.T) * length]);
        for (int64_t item = begin; item < end; ++item) {
          const int64_t n = item / (cx.C * strips), c = item / strips % cx.C, p = item % strips * length;
          const int64_t count = std::min(length, cx.P - p), whole = kInPlace<T> ? count / lanes * lanes : 0;
          const T* gp = grad + n * cg.sN + c * cg.sC + p;
          const T* xp = x + n * cx.sN + c * cx.sC + p;
          const TapTable& table = tables[plan.group_of[c]];
          double* out = partial.get() + item * slots;
          const auto add = [&](const acc_t<T>* g, int64_t sg, const acc_t<T>* v, int64_t sv, int64_t elements) {
            for (size_t k = 0; dweight && k + 1 < table.begin.size(); ++k) {
              out[k] += dot_pairs<T>(g, sg, v, sv, table.pairs.data() + table.begin[k],
                                     table.pairs.data() + table.begin[k + 1], elements);
            }
            if (dbias) out[slots - 1] += sum_frames<T>(g, sg, cg.T, elements);
          };
          if constexpr (kInPlace<T>) add(gp, cg.sT, xp, cx.sT, whole);
          if (whole < count) {
            const int64_t width = round_up(count - whole, lanes);
            acc_t<T>* g = rows.get() + cx.T * width;
            gather(xp + whole, cx.sT, cx.T, count - whole, rows.get(), width);
            gather(gp + whole, cg.sT, cg.T, count - whole, g, width);
            add(g, width, rows.get(), width, width);
          }
        }
      });
  for (int64_t c = 0; c < cx.C; ++c) {
    const Group& g = plan.groups.items[plan.group_of[c]];
    for (int64_t slot = 0; slot < slots; ++slot) {
      const bool bias = slot == slots - 1;
      if (bias ? !dbias : !dweight || slot >= g.taps) continue;
      double sum = 0;
      for (int64_t n = 0; n < cx.N; ++n) {
        for (int64_t i = 0; i < strips; ++i) sum += partial[((n * cx.C + c) * strips + i) * slots + slot];
      }
      (bias ? dbias[c] : dweight[g.weight + (c - g.channel) * g.taps + slot]) = static_cast<T>(sum);
    }
  }
}

// Channels last: a share of a clip's positions keeps one fp64 sum a padded tap and channel, fp32 ones for a while.
template <class T>
void weight_last(const Plan<T>& plan, const std::vector<TapTable>& tables, const T* grad, const Clip& cg, const T* x,
                 const Clip& cx, T* dweight, T* dbias) {
  constexpr int64_t lanes = kLanes<T>;
  const int64_t shares = std::clamp<int64_t>(kShares / cx.N, 1, cx.P), width = plan.padded + round_up(cx.C, lanes);
  const std::unique_ptr<double[]> partial(new double[cx.N * shares * width]());
  torch::stable::parallel_for(0, cx.N * shares, 1, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<acc_t<T>[]> rows(new acc_t<T>[(cx.T + cg.T) * strip_length<T>(cx.T + cg.T)]);
    std::vector<acc_t<T>> sums(width + lanes);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / shares, from = cx.P * (item % shares) / shares, to = cx.P * (item % shares + 1) / shares;
      for (int64_t p = from; p < to; ++p) {
        for (const Run& r : plan.runs) {
          const int64_t w = round_up(r.channels, lanes);
          acc_t<T>* g = rows.get() + cx.T * w;
          gather(x + n * cx.sN + p * cx.sP + r.channel, cx.sT, cx.T, r.channels, rows.get(), w);
          gather(grad + n * cg.sN + p * cg.sP + r.channel, cg.sT, cg.T, r.channels, g, w);
          const TapTable& table = tables[r.group];
          for (size_t k = 0; dweight && k + 1 < table.begin.size(); ++k) {
            acc_t<T>* into = sums.data() + r.taps + k * w;
            for (int64_t i = 0; i < w; i += lanes) {
              Vec<T> sum = load(into + i);
              for (int32_t j = table.begin[k]; j < table.begin[k + 1]; ++j) {
                sum += load(g + table.pairs[j].out * w + i) * load(rows.get() + table.pairs[j].in * w + i);
              }
              store(into + i, sum);
            }
          }
          for (int64_t t = 0; dbias && t < cg.T; ++t) {
            for (int64_t i = 0; i < r.channels; ++i) sums[plan.padded + r.channel + i] += g[t * w + i];
          }
        }
        if ((p - from) % kPositions == kPositions - 1 || p + 1 == to) {
          for (int64_t i = 0; i < width; ++i) partial[item * width + i] += sums[i];
          std::fill(sums.begin(), sums.end(), acc_t<T>(0));
        }
      }
    }
  });
  const auto total = [&](int64_t at) {
    double sum = 0;
    for (int64_t item = 0; item < cx.N * shares; ++item) sum += partial[item * width + at];
    return static_cast<T>(sum);
  };
  if (dweight) plan.each_tap([&](int64_t flat, int64_t at) { dweight[flat] = total(at); });
  for (int64_t c = 0; dbias && c < cx.C; ++c) dbias[c] = total(plan.padded + c);
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
    const Plan<T> plan(parsed, cx.channels_last(), cx.T, y.size(2), cx.T, stride, pad, false, pointer<T>(w, true));
    run<T>(plan, x, cx, y, pointer<T>(b, bias.has_value()));
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
  const Clip cg = describe(grad);
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
    const bool last = cx.channels_last() && cg.channels_last();
    if (need_x) {
      const Plan<T> plan(parsed, last, cx.T, cg.T, cg.T, stride, pad, true, pointer<T>(w, true));
      run<T>(plan, grad, cg, dx, nullptr);
    }
    if (need_weight || need_bias) {
      const Plan<T> plan(parsed, last, cx.T, cg.T, cx.T + cg.T, stride, pad, false, nullptr);
      std::vector<TapTable> tables;
      for (size_t i = 0; i < parsed.items.size(); ++i) tables.push_back(tap_table(parsed.items[i], plan.tables[i]));
      (last ? weight_last<T> : weight_planar<T>)(plan, tables, pointer<T>(grad, true), cg, pointer<T>(x, true), cx,
                                                 pointer<T>(dw, need_weight), pointer<T>(db, need_bias));
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
