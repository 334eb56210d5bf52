// temporal_conv on the CPU: one pass over the clip, whatever the groups.
//
// Floor: x read once, y written once. A work item is a run of neighbouring positions of one channel (planar
// layouts) or of one clip (channels last), all frames of it, so that the k reads of an element hit the first-level
// cache after the first. Sums live in registers and follow the term table in tap order: the result does not depend
// on the number of threads. Results larger than the caches are streamed past them.
//
// Backward walks x and the gradient once: the input's gradient is the same kernel over the transposed table; the
// taps' gradient is one dot product a tap and work item, in fp32 over a few thousand terms and in fp64 above,
// reduced in item order.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <memory>
#include <optional>
#include <tuple>

#include "common/clip.h"
#include "common/dispatch.h"
#include "common/namespace.h"
#include "common/temporal_taps.h"
#include "common/vec.h"

namespace vidops {
namespace {

constexpr int kUnroll = 4;                      // vectors summed side by side
constexpr int64_t kTileBytes = 16 << 10;        // a planar work item: half of a first-level cache
constexpr int64_t kTileBytesLast = 64 << 10;    // a channels-last tile: well inside a second-level cache
constexpr int64_t kStreamBytes = 4 << 20;       // results from here on are streamed
constexpr int64_t kGrain = 16 << 10;            // elements a thread should have at least

// The weights in accumulation type; tap-major inside a group for channels last, so that channels are adjacent.
template <class T>
std::vector<acc_t<T>> pack_weights(const T* weight, const Groups& groups, bool tap_major) {
  std::vector<acc_t<T>> packed(groups.weights);
  for (const Group& g : groups.items) {
    for (int64_t c = 0; c < g.channels; ++c) {
      for (int64_t k = 0; k < g.taps; ++k) {
        packed[g.weight + (tap_major ? k * g.channels + c : c * g.taps + k)] =
            load1(weight + g.weight + c * g.taps + k);
      }
    }
  }
  return packed;
}

struct Job {
  const Groups& groups;
  std::vector<TermTable> tables;  // one a group
};

Job make_job(const Groups& groups, int64_t frames_in, int64_t frames_result, int64_t stride, Padding padding,
             bool transposed) {
  Job job{groups, {}};
  for (const Group& g : groups.items) {
    job.tables.push_back(term_table(g, frames_in, frames_result, stride, padding, groups.reach, transposed));
  }
  return job;
}

std::vector<int32_t> group_of_channel(const Groups& groups) {
  std::vector<int32_t> of(groups.channels);
  for (size_t i = 0; i < groups.items.size(); ++i) {
    const Group& g = groups.items[i];
    std::fill_n(of.begin() + g.channel, g.channels, static_cast<int32_t>(i));
  }
  return of;
}

int64_t tile_of(int64_t bytes, int64_t bytes_per_position, int64_t multiple) {
  return std::max(bytes / std::max<int64_t>(bytes_per_position, 1) / multiple, int64_t{1}) * multiple;
}

bool may_stream(const void* result, int64_t bytes) {
  return bytes >= kStreamBytes && reinterpret_cast<uintptr_t>(result) % kVectorBytes == 0;
}

// y[0 .. U*lanes) = bias + sum over the terms of tap * frame, positions side by side.
template <class T, int U, bool kStream>
inline void combine(const T* x, int64_t sT, const Term* term, const Term* end, const acc_t<T>* taps,
                    acc_t<T> bias, T* y) {
  Vec<T> sum[U];
  for (int u = 0; u < U; ++u) sum[u] = broadcast<Vec<T>>(bias);
  for (; term != end; ++term) {
    const Vec<T> tap = broadcast<Vec<T>>(taps[term->tap]);
    const T* source = x + term->frame * sT;
    for (int u = 0; u < U; ++u) sum[u] += tap * load(source + u * kLanes<T>);
  }
  for (int u = 0; u < U; ++u) {
    if constexpr (kStream) {
      stream(y + u * kLanes<T>, sum[u]);
    } else {
      store(y + u * kLanes<T>, sum[u]);
    }
  }
}

// One frame's run of `count` positions. The last vector may overlap the one before: it stores equal values.
template <class T, bool kStream>
void combine_run(const T* x, int64_t sT, const Term* term, const Term* end, const acc_t<T>* taps, acc_t<T> bias,
                 T* y, int64_t count) {
  constexpr int64_t lanes = kLanes<T>;
  int64_t i = 0;
  for (; i + kUnroll * lanes <= count; i += kUnroll * lanes) {
    combine<T, kUnroll, kStream>(x + i, sT, term, end, taps, bias, y + i);
  }
  for (; i + lanes <= count; i += lanes) combine<T, 1, kStream>(x + i, sT, term, end, taps, bias, y + i);
  if (i == count) return;
  if (count >= lanes) {
    i = count - lanes;
    combine<T, 1, false>(x + i, sT, term, end, taps, bias, y + i);
    return;
  }
  for (; i < count; ++i) {
    acc_t<T> sum = bias;
    for (const Term* t = term; t != end; ++t) sum += taps[t->tap] * load1(x + t->frame * sT + i);
    store1(y + i, sum);
  }
}

template <class T>
void run_planar(const Job& job, const T* x, const Clip& cx, T* y, const Clip& cy, const acc_t<T>* weight,
                const T* bias) {
  const auto group_of = group_of_channel(job.groups);
  const int64_t tile = tile_of(kTileBytes, cx.T * sizeof(T), 64);
  const int64_t tiles = (cx.P + tile - 1) / tile;
  const bool streamed =
      may_stream(y, cy.numel() * sizeof(T)) && cy.P * sizeof(T) % kVectorBytes == 0 && cy.sP == 1;
  const auto body = [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / (cx.C * tiles), c = item / tiles % cx.C, p = item % tiles * tile;
      const int64_t count = std::min(tile, cx.P - p);
      const int32_t group = group_of[c];
      const Group& g = job.groups.items[group];
      const TermTable& table = job.tables[group];
      const acc_t<T>* taps = weight + g.weight + (c - g.channel) * g.taps;
      const acc_t<T> start = bias ? load1(bias + c) : acc_t<T>(0);
      const T* source = x + n * cx.sN + c * cx.sC + p;
      T* result = y + n * cy.sN + c * cy.sC + p;
      for (int64_t t = 0; t < cy.T; ++t) {
        const Term* first = table.terms.data() + table.begin[t];
        const Term* last = table.terms.data() + table.begin[t + 1];
        if (streamed) {
          combine_run<T, true>(source, cx.sT, first, last, taps, start, result + t * cy.sT, count);
        } else {
          combine_run<T, false>(source, cx.sT, first, last, taps, start, result + t * cy.sT, count);
        }
      }
    }
    if (streamed) stream_fence();
  };
  const int64_t per_item = std::min(tile, cx.P) * std::max(cx.T, cy.T);
  torch::stable::parallel_for(0, cx.N * cx.C * tiles, std::max<int64_t>(1, kGrain / std::max<int64_t>(per_item, 1)),
                              body);
}

// One position's run of the channels of a group, channels side by side; `taps` is tap-major.
template <class T, int U>
inline void combine_channels(const T* x, int64_t sT, const Term* term, const Term* end, const acc_t<T>* taps,
                             int64_t channels, const T* bias, T* y) {
  Vec<T> sum[U];
  for (int u = 0; u < U; ++u) sum[u] = bias ? load(bias + u * kLanes<T>) : Vec<T>{};
  for (; term != end; ++term) {
    const acc_t<T>* tap = taps + term->tap * channels;
    const T* source = x + term->frame * sT;
    for (int u = 0; u < U; ++u) sum[u] += load(tap + u * kLanes<T>) * load(source + u * kLanes<T>);
  }
  for (int u = 0; u < U; ++u) store(y + u * kLanes<T>, sum[u]);
}

template <class T>
void combine_group(const T* x, int64_t sT, const Term* term, const Term* end, const acc_t<T>* taps,
                   int64_t channels, const T* bias, T* y) {
  constexpr int64_t lanes = kLanes<T>;
  const auto at = [&](int64_t c) { return bias ? bias + c : nullptr; };
  int64_t c = 0;
  for (; c + kUnroll * lanes <= channels; c += kUnroll * lanes) {
    combine_channels<T, kUnroll>(x + c, sT, term, end, taps + c, channels, at(c), y + c);
  }
  for (; c + lanes <= channels; c += lanes) {
    combine_channels<T, 1>(x + c, sT, term, end, taps + c, channels, at(c), y + c);
  }
  if (c == channels) return;
  if (channels >= lanes) {
    c = channels - lanes;
    combine_channels<T, 1>(x + c, sT, term, end, taps + c, channels, at(c), y + c);
    return;
  }
  for (; c < channels; ++c) {
    acc_t<T> sum = bias ? load1(bias + c) : acc_t<T>(0);
    for (const Term* t = term; t != end; ++t) sum += taps[t->tap * channels + c] * load1(x + t->frame * sT + c);
    store1(y + c, sum);
  }
}

template <class T>
void run_channels_last(const Job& job, const T* x, const Clip& cx, T* y, const Clip& cy, const acc_t<T>* weight,
                       const T* bias) {
  const int64_t tile = tile_of(kTileBytesLast, cx.T * cx.C * sizeof(T), 1);
  const int64_t tiles = (cx.P + tile - 1) / tile;
  const auto body = [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / tiles, p0 = item % tiles * tile, p1 = std::min(p0 + tile, cx.P);
      for (int64_t t = 0; t < cy.T; ++t) {
        for (int64_t p = p0; p < p1; ++p) {
          const T* source = x + n * cx.sN + p * cx.sP;
          T* result = y + n * cy.sN + t * cy.sT + p * cy.sP;
          for (size_t i = 0; i < job.groups.items.size(); ++i) {
            const Group& g = job.groups.items[i];
            const TermTable& table = job.tables[i];
            combine_group(source + g.channel, cx.sT, table.terms.data() + table.begin[t],
                          table.terms.data() + table.begin[t + 1], weight + g.weight, g.channels,
                          bias ? bias + g.channel : nullptr, result + g.channel);
          }
        }
      }
    }
  };
  const int64_t per_item = tile * cx.C * std::max(cx.T, cy.T);
  torch::stable::parallel_for(0, cx.N * tiles, std::max<int64_t>(1, kGrain / std::max<int64_t>(per_item, 1)), body);
}

template <class T>
void run(const Job& job, const Tensor& x, const Clip& cx, Tensor& y, const T* weight, const T* bias) {
  const Clip cy = describe(y);
  const bool last = cx.channels_last();
  const auto packed = pack_weights(weight, job.groups, last);
  const T* source = static_cast<const T*>(x.data_ptr());
  T* result = static_cast<T*>(y.data_ptr());
  (last ? run_channels_last<T> : run_planar<T>)(job, source, cx, result, cy, packed.data(), bias);
}

// Dot product of two runs, `stride` elements apart, added to `sum`.
template <class T>
inline void dot_run(const T* a, const T* b, int64_t count, Vec<T> (&sum)[kUnroll], acc_t<T>& rest) {
  constexpr int64_t lanes = kLanes<T>;
  int64_t i = 0;
  for (; i + kUnroll * lanes <= count; i += kUnroll * lanes) {
    for (int u = 0; u < kUnroll; ++u) sum[u] += load(a + i + u * lanes) * load(b + i + u * lanes);
  }
  for (; i + lanes <= count; i += lanes) sum[0] += load(a + i) * load(b + i);
  for (; i < count; ++i) rest += load1(a + i) * load1(b + i);
}

template <class T>
inline void sum_run(const T* a, int64_t count, Vec<T> (&sum)[kUnroll], acc_t<T>& rest) {
  constexpr int64_t lanes = kLanes<T>;
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) sum[i / lanes % kUnroll] += load(a + i);
  for (; i < count; ++i) rest += load1(a + i);
}

template <class V, class A>
inline double total(const V (&sum)[kUnroll], A rest) {
  double value = rest;
  for (int u = 0; u < kUnroll; ++u) value += sum_lanes(sum[u]);
  return value;
}

// Gradients of taps and bias, planar: item (n, c, tile) writes max_taps + 1 partial sums.
template <class T>
void weight_planar(const Job& job, const T* grad, const Clip& cg, const T* x, const Clip& cx, T* dweight, T* dbias) {
  const auto group_of = group_of_channel(job.groups);
  const int64_t tile = tile_of(kTileBytes, (cx.T + cg.T) * sizeof(T), 64);
  const int64_t tiles = (cx.P + tile - 1) / tile, width = job.groups.max_taps + 1;
  const std::unique_ptr<double[]> partial(new double[cx.N * cx.C * tiles * width]());
  const auto body = [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / (cx.C * tiles), c = item / tiles % cx.C, p = item % tiles * tile;
      const int64_t count = std::min(tile, cx.P - p);
      const int32_t group = group_of[c];
      const TermTable& table = job.tables[group];
      const T* gp = grad + n * cg.sN + c * cg.sC + p;
      const T* xp = x + n * cx.sN + c * cx.sC + p;
      double* out = partial.get() + item * width;
      for (int64_t k = 0; dweight && k < job.groups.items[group].taps; ++k) {
        Vec<T> sum[kUnroll] = {};
        acc_t<T> rest = 0;
        for (int64_t t = 0; t < cg.T; ++t) {
          for (int32_t i = table.begin[t]; i < table.begin[t + 1]; ++i) {
            const Term& term = table.terms[i];
            if (term.tap == k) dot_run(gp + t * cg.sT, xp + term.frame * cx.sT, count, sum, rest);
          }
        }
        out[k] = total(sum, rest);
      }
      if (dbias) {
        Vec<T> sum[kUnroll] = {};
        acc_t<T> rest = 0;
        for (int64_t t = 0; t < cg.T; ++t) sum_run(gp + t * cg.sT, count, sum, rest);
        out[width - 1] = total(sum, rest);
      }
    }
  };
  const int64_t per_item = std::min(tile, cx.P) * std::max(cx.T, cg.T);
  torch::stable::parallel_for(0, cx.N * cx.C * tiles, std::max<int64_t>(1, kGrain / std::max<int64_t>(per_item, 1)),
                              body);
  const auto reduce = [&](int64_t c, int64_t slot) {
    double sum = 0;
    for (int64_t n = 0; n < cx.N; ++n) {
      for (int64_t i = 0; i < tiles; ++i) sum += partial[((n * cx.C + c) * tiles + i) * width + slot];
    }
    return static_cast<T>(sum);
  };
  for (int64_t c = 0; c < cx.C; ++c) {
    const Group& g = job.groups.items[group_of[c]];
    for (int64_t k = 0; dweight && k < g.taps; ++k) dweight[g.weight + (c - g.channel) * g.taps + k] = reduce(c, k);
    if (dbias) dbias[c] = reduce(c, width - 1);
  }
}

// Channels last: an item is a share of one clip's positions and keeps one partial sum a weight and a channel.
template <class T>
void weight_channels_last(const Job& job, const T* grad, const Clip& cg, const T* x, const Clip& cx, T* dweight,
                          T* dbias) {
  constexpr int64_t lanes = kLanes<T>, kShares = 16;
  const int64_t tile = tile_of(kTileBytesLast, (cx.T + cg.T) * cx.C * sizeof(T), 1);
  const int64_t shares = std::clamp<int64_t>(kShares / std::max<int64_t>(cx.N, 1), 1, (cx.P + tile - 1) / tile);
  const int64_t width = job.groups.weights + cx.C;
  const std::unique_ptr<double[]> partial(new double[cx.N * shares * width]());
  const auto body = [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / shares, share = item % shares;
      const int64_t from = cx.P * share / shares, to = cx.P * (share + 1) / shares;
      double* out = partial.get() + item * width;
      // Adds sum over positions of one term's products to `into[channel]`; without xp, sums of the gradient.
      const auto add = [&](const T* gp, const T* xp, int64_t p0, int64_t p1, int64_t channels, int64_t step,
                           double* into) {
        int64_t c = 0;
        for (; c + lanes <= channels; c += lanes) {
          Vec<T> sum{};
          for (int64_t p = p0; p < p1; ++p) {
            const Vec<T> g = load(gp + p * cg.sP + c);
            sum += xp ? g * load(xp + p * cx.sP + c) : g;
          }
          for (int64_t i = 0; i < lanes; ++i) into[(c + i) * step] += sum[i];
        }
        for (; c < channels; ++c) {
          acc_t<T> sum = 0;
          for (int64_t p = p0; p < p1; ++p) {
            const acc_t<T> g = load1(gp + p * cg.sP + c);
            sum += xp ? g * load1(xp + p * cx.sP + c) : g;
          }
          into[c * step] += sum;
        }
      };
      for (int64_t p0 = from; p0 < to; p0 += tile) {
        const int64_t p1 = std::min(p0 + tile, to);
        for (size_t i = 0; dweight && i < job.groups.items.size(); ++i) {
          const Group& g = job.groups.items[i];
          const TermTable& table = job.tables[i];
          for (int64_t t = 0; t < cg.T; ++t) {
            const T* gp = grad + n * cg.sN + t * cg.sT + g.channel;
            for (int32_t k = table.begin[t]; k < table.begin[t + 1]; ++k) {
              const Term& term = table.terms[k];
              add(gp, x + n * cx.sN + term.frame * cx.sT + g.channel, p0, p1, g.channels, g.taps,
                  out + g.weight + term.tap);
            }
          }
        }
        for (int64_t t = 0; dbias && t < cg.T; ++t) {
          add(grad + n * cg.sN + t * cg.sT, nullptr, p0, p1, cx.C, 1, out + job.groups.weights);
        }
      }
    }
  };
  torch::stable::parallel_for(0, cx.N * shares, 1, body);
  for (int64_t w = 0; w < width; ++w) {
    double sum = 0;
    for (int64_t item = 0; item < cx.N * shares; ++item) sum += partial[item * width + w];
    if (w < job.groups.weights) {
      if (dweight) dweight[w] = static_cast<T>(sum);
    } else if (dbias) {
      dbias[w - job.groups.weights] = static_cast<T>(sum);
    }
  }
}

Tensor temporal_conv(Tensor x, Tensor weight, std::optional<Tensor> bias, std::vector<int64_t> groups,
                     int64_t stride, std::string padding) {
  const Groups parsed = parse_groups(groups);
  const Padding pad = parse_padding(padding);
  x = native_clip(x);
  const Clip cx = describe(x);
  Tensor y = empty_clip(x, cx, frames_out(cx.T, stride, pad, parsed.reach), cx.layout);
  if (y.numel() == 0) return y;
  const Job job = make_job(parsed, cx.T, y.size(2), stride, pad, false);
  const Tensor w = torch::stable::contiguous(weight);
  std::optional<Tensor> b;
  if (bias) b = torch::stable::contiguous(*bias);
  dispatch_float(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    run<T>(job, x, cx, y, static_cast<const T*>(w.data_ptr()), b ? static_cast<const T*>(b->data_ptr()) : nullptr);
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> temporal_conv_backward(Tensor grad, Tensor x, Tensor weight,
                                                          std::vector<int64_t> groups, int64_t stride,
                                                          std::string padding, bool need_x, bool need_weight,
                                                          bool need_bias) {
  const Groups parsed = parse_groups(groups);
  const Padding pad = parse_padding(padding);
  x = native_clip(x);
  const Clip cx = describe(x);
  grad = native_clip_like(grad, cx);
  const Clip cg = describe(grad);
  const Tensor w = torch::stable::contiguous(weight);
  Tensor dx = need_x ? empty_clip(x, cx, cx.T, cx.layout) : torch::stable::new_empty(x, {0});
  Tensor dw = torch::stable::new_empty(x, {need_weight ? parsed.weights : 0});
  Tensor db = torch::stable::new_empty(x, {need_bias ? cx.C : 0});
  if (grad.numel() == 0) {
    torch::stable::zero_(dx), torch::stable::zero_(dw), torch::stable::zero_(db);
    return {dx, dw, db};
  }
  dispatch_float(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (need_x) {
      run<T>(make_job(parsed, cx.T, cg.T, stride, pad, true), grad, cg, dx, static_cast<const T*>(w.data_ptr()),
             nullptr);
    }
    if (need_weight || need_bias) {
      const Job job = make_job(parsed, cx.T, cg.T, stride, pad, false);
      const bool last = cx.channels_last() && cg.channels_last();
      (last ? weight_channels_last<T> : weight_planar<T>)(
          job, static_cast<const T*>(grad.data_ptr()), cg, static_cast<const T*>(x.data_ptr()), cx,
          need_weight ? static_cast<T*>(dw.data_ptr()) : nullptr, need_bias ? static_cast<T*>(db.data_ptr()) : nullptr);
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
