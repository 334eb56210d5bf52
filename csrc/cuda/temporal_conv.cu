// temporal_conv on CUDA devices: one pass over the clip, whatever the groups.
//
// Floor: x read once and y written once forward; gradient and x read once and dx written once backward. At 4 to 24
// bytes an element against 2k multiply-adds at most (k <= 7), device memory is the limit, so all that counts is that
// each element crosses the bus once, in wide accesses, with many of them under way.
//
// A thread owns whole columns (common/columns.h): V neighbouring elements through all frames, so the k reads of an
// element are k reads of a register. It asks for 8 frames of its column, and the k-1 around them, before it uses the
// first, makes 8 frames of the result element by element in the registers of those it has used up, writes them, and
// slides on. Taps are in registers. V is 16 bytes' worth in planar layouts; 8 bytes for 2-byte types where rows are no
// better aligned (14 x 14), and in backward, which holds two clips; one element where not even that. In channels last
// every lane has its own taps, k*V registers of them, so V is 2 there and a warp still covers whole lines. A thread of
// the H200 has 64 to 256 bytes under way, a multiprocessor 48 to 98 KB, where about 30 KB hide its memory's latency.
//
// k of 1, 3, 5, 7 without stride and dilation are compiled, for every padding forward and for zeros backward;
// everything else, and fp64, takes a plain loop that reads again, from the caches, what it needs again. All groups are
// one launch; in planar layouts a block's tap count is uniform, in channels last it may change within a warp.
//
// Backward has windows of both clips around frame t, zero outside, as the definition pads:
//     dx[t] = sum_j w[j] * g[t+r-j]        dw[j] += g[t] * x[t+j-r]        db += g[t]
// dw and db are summed in fp32 (fp64 for fp64) by each thread over its few columns, hundreds of products, then over the
// block in a fixed tree; one partial sum a block and tap goes to memory, and a second small kernel adds those in fp64.
// No atomics: the order is that of the indices, so results repeat to the last bit.
//
// Predicted: 1.05 to 1.1 x floor forward, 1.1 to 1.2 x backward on an H200. Not yet measured on a GPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <initializer_list>
#include <optional>
#include <tuple>
#include <type_traits>

#include "common/clip.h"
#include "common/dispatch.h"
#include "common/namespace.h"
#include "common/temporal_checks.h"
#include "common/temporal_taps.h"
#include "cuda/steps.cuh"
#include "cuda/temporal_conv_backward.cuh"
#include "cuda/temporal_conv_forward.cuh"
#include "cuda/tuning.cuh"

namespace vidops {
namespace {

namespace tuned {
// Elements of a pack, at most: positions in planar layouts (8, 4 and 1 are compiled), channels in channels last.
Tunable planar_pack("temporal_conv", "planar_pack", 8, {1, 4, 8});
Tunable channel_pack("temporal_conv", "channel_pack", 2, {1, 2});
Tunable backward_planar_pack("temporal_conv", "backward_planar_pack", 4, {1, 4});
Tunable backward_channel_pack("temporal_conv", "backward_channel_pack", 2, {1, 2});
// Columns of a thread: fewer where the blocks would then be fewer than these, which are about eight rounds of an H200's
// 132 x 4 resident ones. Backward a thread sums taps' gradients over its columns in fp32: 16 are hundreds of products.
Tunable trips("temporal_conv", "trips", 1, {1, 2, 4});
Tunable fill_blocks("temporal_conv", "fill_blocks", 4096, {1024, 2048, 4096});
Tunable backward_trips("temporal_conv", "backward_trips", 16, {4, 8, 16});
Tunable backward_fill_blocks("temporal_conv", "backward_fill_blocks", 4096, {512, 1024, 2048, 4096});
}  // namespace tuned

struct Side {  // one tensor of a launch
  Clip clip;
  void* data;
};

ColumnStrides strides_of(const Clip& c, int V, bool last) {
  return {c.sN, last ? c.sC * V : c.sC, c.sT, last ? c.sP : V};
}

// Backward has twice as much of a column in registers: 8 bytes of 2-byte types, unpacked, are what fits.
template <class T>
constexpr int kWidestBackward = sizeof(T) == 2 ? 8 : 16;

struct Call {
  Groups groups;
  Padding padding;
  int64_t stride;
  int64_t frames_in, frames_out;
};

// Calls f(args, first group, last group) for every run of groups that fits a launch, with args complete but columns.
template <class F>
void each_launch(const Call& call, bool backward, F&& f) {
  const auto& items = call.groups.items;
  STD_TORCH_CHECK(call.frames_in * (call.groups.max_taps + 1) < (int64_t{1} << 31),
                  "x has too many frames: ", call.frames_in);
  for (size_t from = 0; from < items.size(); from += kMaxGroups) {
    const size_t to = std::min(from + kMaxGroups, items.size());
    ConvArgs a{};
    a.channel0 = static_cast<int32_t>(items[from].channel);
    a.frames_in = static_cast<int32_t>(call.frames_in), a.frames_out = static_cast<int32_t>(call.frames_out);
    a.stride = static_cast<int32_t>(std::min(call.stride, call.frames_in));
    a.offset = call.padding == Padding::kValid ? static_cast<int32_t>(call.groups.reach) : 0;
    a.replicate = call.padding == Padding::kReplicate;
    for (size_t i = from; i < to; ++i) {
      const Group& g = items[i];
      ConvGroup& to_fill = a.groups[i - from];
      to_fill.channel_end = static_cast<int32_t>(g.channel + g.channels);
      to_fill.taps = static_cast<int32_t>(g.taps);
      to_fill.dilation = static_cast<int32_t>(std::min(g.dilation, call.frames_in));  // all past T are alike
      const bool plain = a.stride == 1 && g.taps <= kMaxTaps && (g.taps == 1 || g.dilation == 1);
      // Backward's compiled loops know zero padding alone; one tap never meets a border.
      const bool zeros = a.offset == 0 && (!a.replicate || g.taps == 1);
      to_fill.plain = plain && (!backward || zeros) ? to_fill.taps : 0;
      to_fill.weight = g.weight - g.channel * g.taps;
    }
    f(a, items[from], items[to - 1]);
  }
}

// Calls f(integral_constant<V>, integral_constant<L>) with the widest packs that all sides and groups and `most` allow.
template <class T, int kWidest, class F>
void with_width(const Groups& groups, bool last, int64_t most, std::initializer_list<Side> sides, F&& f) {
  const auto all = [&](int64_t V) {
    bool fit = V <= most;
    for (const Side& side : sides) fit = fit && packs_fit(side.clip, side.data, sizeof(T), V, last);
    for (const Group& g : groups.items) fit = fit && (!last || g.channels % V == 0);
    return fit;
  };
  using std::integral_constant;
  constexpr int wide = kWidest / sizeof(T);
  if constexpr (wide > 2) {
    if (last && all(2)) return f(integral_constant<int, 2>{}, integral_constant<int, 2>{});
    if (!last && all(wide)) return f(integral_constant<int, wide>{}, integral_constant<int, 1>{});
    if constexpr (wide > 4) {
      if (!last && all(4)) return f(integral_constant<int, 4>{}, integral_constant<int, 1>{});
    }
  }
  f(integral_constant<int, 1>{}, integral_constant<int, 1>{});
}

Columns columns_of(const Clip& clip, const Group& from, const Group& to, bool last, int V, int64_t min_blocks,
                   int64_t trips) {
  const int64_t channels = to.channel + to.channels - from.channel;
  const int64_t places = last ? channels / V : channels;
  return make_columns(clip.N, last ? clip.P : clip.P / V, places, last ? lanes_log2(places) : 0, min_blocks, trips);
}

template <class T>
T* data_of(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

Tensor temporal_conv(Tensor x, Tensor weight, std::optional<Tensor> bias, std::vector<int64_t> groups, int64_t stride,
                     std::string padding) {
  const DeviceScope device(x);
  const Padding pad = parse_padding(padding);
  check_call(x, weight, bias, parse_groups(groups), stride);
  x = native_clip(x);
  const Clip cx = describe(x);
  Call call{parse_groups(groups), pad, stride, cx.T, 0};
  call.frames_out = frames_out(cx.T, stride, pad, call.groups.reach);
  Tensor y = empty_clip(x, cx, call.frames_out, cx.layout);
  if (y.numel() == 0) return y;
  const Clip cy = describe(y);
  const bool last = cx.channels_last();
  const Tensor w = torch::stable::contiguous(weight);
  std::optional<Tensor> b;
  if (bias) b = torch::stable::contiguous(*bias);
  dispatch_float(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const int64_t most = last ? tuned::channel_pack.get() : tuned::planar_pack.get();
    const int64_t blocks = tuned::fill_blocks.get(), trips = tuned::trips.get();
    with_width<T, 16>(
        call.groups, last, most, {{cx, x.data_ptr()}, {cy, y.data_ptr()}}, [&](auto width, auto channels) {
          constexpr int V = decltype(width)::value, L = decltype(channels)::value;
          each_launch(call, false, [&](ConvArgs& a, const Group& from, const Group& to) {
            a.columns = columns_of(cx, from, to, last, V, blocks, trips);
            launch(forward_kernel<T, V, L>, column_grid(a.columns), dim3(kColumnThreads), 0, device, a,
                   strides_of(cx, V, last), strides_of(cy, V, last), data_of<const T>(x) + from.channel * cx.sC,
                   data_of<const T>(w), b ? data_of<const T>(*b) : nullptr, data_of<T>(y) + from.channel * cy.sC);
          });
        });
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> temporal_conv_backward(Tensor grad, Tensor x, Tensor weight,
                                                          std::vector<int64_t> groups, int64_t stride,
                                                          std::string padding, bool need_x, bool need_weight,
                                                          bool need_bias) {
  const DeviceScope device(x);
  const Groups parsed = parse_groups(groups);
  check_call(x, weight, std::nullopt, parsed, stride);
  check_gradient(grad, x, frames_out(x.size(2), stride, parse_padding(padding), parsed.reach));
  x = native_clip(x);
  const Clip cx = describe(x);
  grad = native_clip_like(grad, cx);
  const Clip cg = describe(grad);
  const Call call{parsed, parse_padding(padding), stride, cx.T, cg.T};
  const bool last = cx.channels_last();
  const Tensor w = torch::stable::contiguous(weight);
  Tensor dx = need_x ? empty_clip(x, cx, cx.T, cx.layout) : torch::stable::new_empty(x, {0});
  Tensor dw = torch::stable::new_empty(x, {need_weight ? call.groups.weights : 0});
  Tensor db = torch::stable::new_empty(x, {need_bias ? cx.C : 0});
  if (grad.numel() == 0) {
    torch::stable::zero_(dx), torch::stable::zero_(dw), torch::stable::zero_(db);
    return {dx, dw, db};
  }
  const Side sides[3] = {{cg, grad.data_ptr()}, {cx, x.data_ptr()}, {need_x ? describe(dx) : cx, dx.data_ptr()}};
  const Needs need{need_x, need_weight, need_bias};
  dispatch_float(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = device_acc_t<T>;
    const int64_t most = last ? tuned::backward_channel_pack.get() : tuned::backward_planar_pack.get();
    const int64_t blocks = tuned::backward_fill_blocks.get(), trips = tuned::backward_trips.get();
    with_width<T, kWidestBackward<T>>(
        call.groups, last, most, {sides[0], sides[1], sides[2]}, [&](auto width, auto channels) {
          constexpr int V = decltype(width)::value, L = decltype(channels)::value;
          each_launch(call, true, [&](ConvArgs& a, const Group& from, const Group& to) {
            a.columns = columns_of(cx, from, to, last, V, blocks, trips);
            const int64_t weights = to.weight + to.channels * to.taps - from.weight;
            const int64_t rows = weights + to.channel + to.channels - from.channel;
            const int64_t shares = static_cast<int64_t>(a.columns.shares) * a.columns.slabs;
            std::optional<Tensor> partial;
            if (need_weight || need_bias) {
              partial = torch::stable::new_empty(x, {rows * shares}, torch::headeronly::CppTypeToScalarType<A>::value);
            }
            launch(backward_kernel<T, V, L>, column_grid(a.columns), dim3(kColumnThreads),
                   sizeof(A) * kWarps * kSlots * L << a.columns.lanes_log2, device, a, need, strides_of(cg, V, last),
                   strides_of(cx, V, last), strides_of(sides[2].clip, V, last),
                   data_of<const T>(grad) + from.channel * cg.sC, data_of<const T>(x) + from.channel * cx.sC,
                   data_of<const T>(w), need_x ? data_of<T>(dx) + from.channel * sides[2].clip.sC : nullptr,
                   static_cast<int32_t>(call.groups.max_taps), from.weight, weights,
                   partial ? data_of<A>(*partial) : nullptr);
            if (!partial) return;
            launch(sum_partials_kernel<T>, dim3((rows + kWarps - 1) / kWarps), dim3(kColumnThreads), 0, device,
                   data_of<const A>(*partial), rows, weights, shares,
                   need_weight ? data_of<T>(dw) + from.weight : nullptr,
                   need_bias ? data_of<T>(db) + from.channel : nullptr);
          });
        });
  });
  return {dx, dw, db};
}

VIDOPS_LIBRARY_IMPL(VIDOPS_NAMESPACE, VIDOPS_CUDA_KEY, m) {
  m.impl("temporal_conv", TORCH_BOX(&temporal_conv));
  m.impl("temporal_conv_backward", TORCH_BOX(&temporal_conv_backward));
}

}  // namespace
}  // namespace vidops
