// pathway_select on CUDA devices: every pathway is read once and the result written once; the softmax over the pathways
// happens in registers, where its weights are used.
//
// Floor: M + 1 clips moved forward; backward the gradient and M pathways read and M gradients written, 2M + 1 clips.
// At two operations an element read, device memory is the limit: what counts is wide accesses, many of them under way,
// and little else to do between them.
//
// A thread works on units of one row (pathway_select_common.cuh): packs of 16 bytes, 8 for 2-byte types whose rows are
// no better aligned (14 x 14), and one element where not even that, or where clips lie in different layouts, each of
// which is then read by its own strides. It asks for a pack of every pathway, 128 bytes together, before it adds up the
// first. Where the clips' frames follow each other without a gap and logits do not differ by frame, a row's frames are
// one (7 x 7 is then aligned). Planar, a row has one weight a pathway, taken again by each of its threads; channels
// last each lane of a pack has its own, and a thread takes these once for the positions that it walks.
//
// The gradient of logits needs the sums s_m of gradient times pathway over a row. A thread sums its units, few enough
// for fp32 (fp64 for fp64), the block adds its threads in a fixed tree, and where a block has whole rows it writes
// their gradients. Where rows are too few or too long for that, blocks leave one partial sum a row and pathway, and a
// second small kernel adds those in fp64, in the order of their indices. No atomics: results repeat to the last bit.
//
// Kernels are compiled for up to 4 and up to 8 pathways, which is a matter of registers alone: beyond the last pathway
// nothing is loaded. fp64 is for checking gradients: one element a time.
//
// Predicted: 1.05 to 1.1 x floor forward, 1.1 to 1.2 x backward on an H200. Not yet measured on a GPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

#include "common/clip.h"
#include "common/dispatch.h"
#include "common/namespace.h"
#include "common/pathway_select.h"
#include "cuda/pathway_select_kernels.cuh"
#include "cuda/steps.cuh"
#include "cuda/tuning.cuh"

namespace vidops {
namespace {

namespace tuned {
Tunable pack_bytes("pathway_select", "pack_bytes", 16, {4, 8, 16});  // at most; or one element
Tunable backward_pack_bytes("pathway_select", "backward_pack_bytes", 16, {4, 8, 16});
// Rows are parted where there are fewer blocks; 4096 are about eight rounds of an H200's 132 x 4 resident ones.
Tunable fill_blocks("pathway_select", "fill_blocks", 4096, {512, 1024, 2048, 4096});
Tunable backward_fill_blocks("pathway_select", "backward_fill_blocks", 4096, {512, 1024, 2048, 4096});
// Units that a thread sums, at most: of 2-byte types, whose results keep fewer digits, twice as many.
Tunable summed("pathway_select", "summed", 16, {4, 8, 16});
}  // namespace tuned

// One clip of a call, and how its rows are numbered there.
struct Side {
  Clip clip;
  void* data;
};

// What all clips of a call have in common.
struct Geometry {
  int64_t C, T, P;
  bool each_frame;  // logits differ by frame
  bool last;        // neighbouring channels are adjacent in the first pathway
  bool frames_first;
  bool outer_frame() const { return last || frames_first; }
};

// Frames that have the same weights become one frame where in all clips they follow each other without a gap.
Geometry geometry_of(std::vector<Side>& sides, bool each_frame) {
  const bool one = !each_frame && std::all_of(sides.begin(), sides.end(), [](const Side& side) {
    return side.clip.T <= 1 || side.clip.sT == side.clip.P * side.clip.sP;
  });
  const Clip& first = sides[0].clip;
  const Geometry g{first.C,    one ? 1 : first.T,     one ? first.T * first.P : first.P,
                   each_frame, first.channels_last(), first.sT > first.sC};
  for (Side& side : sides) side.clip.T = g.T, side.clip.P = g.P;
  return g;
}

bool fits(const Side& side, const Geometry& g, int64_t size, int64_t V) {
  return (g.last ? side.clip.sC : side.clip.sP) == 1 && packs_fit(side.clip, side.data, size, V, g.last);
}

RowSteps steps_of(const Clip& c, const Geometry& g, int64_t V) {
  const int64_t channel = g.last ? c.sC * V : c.sC, frame = g.each_frame ? c.sT : 0;
  return {c.sN, g.outer_frame() ? frame : channel, g.outer_frame() ? channel : frame, g.each_frame ? 0 : c.sT,
          g.last ? c.sP : c.sP * V};
}

LogitSteps logit_steps(const Tensor& logits, const Geometry& g, int64_t V) {
  const int64_t channel = logits.stride(2), frame = g.each_frame ? logits.stride(3) : 0;
  const int64_t place = g.last ? channel * V : channel;
  return {logits.stride(0), g.outer_frame() ? frame : place, g.outer_frame() ? place : frame, logits.stride(1),
          channel};
}

SelectArgs plan(int64_t clips, int64_t paths, const Geometry& g, int64_t V, int64_t at_once, int64_t most,
                int64_t fill_blocks) {
  const int64_t places = g.last ? g.C / V : g.C, frames = g.each_frame ? g.T : 1;
  const int64_t per_frame = g.last ? g.P : g.P / V;
  SelectArgs a = rows_of_blocks(clips, g.outer_frame() ? frames : places, g.outer_frame() ? places : frames,
                                g.each_frame ? 1 : g.T, per_frame, g.last, at_once, most, fill_blocks);
  a.paths = static_cast<int32_t>(paths);
  return a;
}

// Calls f(V, L, kM) as integral constants: the widest packs that all clips and `most_bytes` allow, and room for all
// pathways.
template <class T, class F>
void with_kernel(const std::vector<Side>& sides, const Geometry& g, int64_t paths, int64_t most_bytes, F&& f) {
  using std::integral_constant;
  const auto fit = [&](int64_t V) {
    const int64_t bytes = V * static_cast<int64_t>(sizeof(T));
    return bytes <= most_bytes &&
           std::all_of(sides.begin(), sides.end(), [&](const Side& s) { return fits(s, g, sizeof(T), V); });
  };
  const auto with = [&](auto width, auto lanes) {
    if (paths <= 4) return f(width, lanes, integral_constant<int, 4>{});
    f(width, lanes, integral_constant<int, 8>{});
  };
  if constexpr (sizeof(T) < 8) {
    constexpr int wide = 16 / sizeof(T);
    using Wide = integral_constant<int, wide>;
    if (g.last && fit(wide)) return with(Wide{}, Wide{});
    if (!g.last && fit(wide)) return with(Wide{}, integral_constant<int, 1>{});
    if constexpr (sizeof(T) == 2) {
      if (!g.last && fit(4)) return with(integral_constant<int, 4>{}, integral_constant<int, 1>{});
    }
  }
  f(integral_constant<int, 1>{}, integral_constant<int, 1>{}, integral_constant<int, kMostPathways>{});
}

template <class T>
Rows<T> rows_of(const Side& side, const Geometry& g, int64_t V) {
  return {static_cast<T*>(side.data), steps_of(side.clip, g, V)};
}
template <class T>
PathRows<T> path_rows(const Side* sides, int64_t paths, const Geometry& g, int64_t V) {
  PathRows<T> rows{};
  for (int64_t m = 0; m < paths; ++m) rows.at[m] = rows_of<T>(sides[m], g, V);
  return rows;
}
template <class T>
GradientRows<T> gradient_rows(const Side* sides, int64_t paths, const Geometry& g, int64_t V) {
  GradientRows<T> rows{{}, steps_of(sides[0].clip, g, V)};
  for (int64_t m = 0; m < paths; ++m) rows.data[m] = static_cast<T*>(sides[m].data);
  return rows;
}

template <class A>
size_t shared_bytes(const SelectArgs& a, int L, int kM) {
  const bool together = a.across || a.lanes_log2 == 0;  // all warps of a block have the same rows
  return sizeof(A) * (together ? kSelectWarps : 1) * kM * L << a.lanes_log2;
}

Side side_of(const Tensor& clip) { return {describe(clip), clip.data_ptr()}; }

// Clips whose positions have one step are read as they lie; others are copied.
std::vector<Side> sides_of(std::vector<Tensor>& clips) {
  std::vector<Side> sides;
  for (Tensor& clip : clips) {
    const Clip c = describe(clip);
    if (!c.native) clip = native_clip(clip);
    sides.push_back(side_of(clip));
  }
  return sides;
}

Tensor pathway_select(std::vector<Tensor> paths, Tensor logits) {
  const int64_t M = check_pathway_select(paths, logits).pathways;
  const DeviceScope device(paths[0]);
  std::vector<Side> sides = sides_of(paths);
  const Clip first = sides[0].clip;
  Tensor result = empty_clip(paths[0], first, first.T, first.layout);
  if (result.numel() == 0) return result;
  sides.push_back(side_of(result));
  const Geometry g = geometry_of(sides, logits.dim() == 4);
  dispatch_float(result.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    with_kernel<T>(sides, g, M, tuned::pack_bytes.get(), [&](auto width, auto lanes, auto most) {
      constexpr int V = decltype(width)::value, L = decltype(lanes)::value, kM = decltype(most)::value;
      const SelectArgs a = plan(first.N, M, g, V, kAtOnceForward<T, V, kM>, kSlabRows, tuned::fill_blocks.get());
      launch(select_kernel<T, V, L, kM>, grid_of(a), dim3(kSelectThreads), 0, device, a,
             path_rows<const T>(sides.data(), M, g, V), rows_of<T>(sides[M], g, V), logit_steps(logits, g, V),
             static_cast<const T*>(logits.data_ptr()));
    });
  });
  return result;
}

std::tuple<std::vector<Tensor>, Tensor> pathway_select_backward(Tensor grad, std::vector<Tensor> paths, Tensor logits) {
  const int64_t M = check_pathway_select(paths, logits).pathways;
  check_pathway(grad, "grad", paths[0]);
  const DeviceScope device(paths[0]);
  std::vector<Side> sides = sides_of(paths);
  const Clip first = sides[0].clip;
  auto [dpaths, dlogits] = new_select_gradients(paths, logits);
  if (grad.numel() == 0) {
    torch::stable::zero_(dlogits);
    return {dpaths, dlogits};
  }
  for (const Tensor& dpath : dpaths) sides.push_back(side_of(dpath));
  grad = native_clip(grad);
  sides.push_back(side_of(grad));
  const Geometry g = geometry_of(sides, logits.dim() == 4);
  dispatch_float(grad.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = device_acc_t<T>;
    with_kernel<T>(sides, g, M, tuned::backward_pack_bytes.get(), [&](auto width, auto lanes, auto most) {
      constexpr int V = decltype(width)::value, L = decltype(lanes)::value, kM = decltype(most)::value;
      const int64_t summed = tuned::summed.get() * (sizeof(T) == 2 ? 2 : 1);
      const SelectArgs a = plan(first.N, M, g, V, kAtOnceBackward<T, V, kM>, summed, tuned::backward_fill_blocks.get());
      const LogitSteps from = logit_steps(logits, g, V), to = logit_steps(dlogits, g, V);
      const T* weights = static_cast<const T*>(logits.data_ptr());
      T* result = static_cast<T*>(dlogits.data_ptr());
      std::optional<Tensor> partial;
      if (a.shares > 1) {
        partial = torch::stable::new_empty(grad, {a.rows * L * M * a.shares},
                                           torch::headeronly::CppTypeToScalarType<A>::value);
      }
      A* sums = partial ? static_cast<A*>(partial->data_ptr()) : nullptr;
      launch(select_backward_kernel<T, V, L, kM>, grid_of(a), dim3(kSelectThreads), shared_bytes<A>(a, L, kM), device,
             a, rows_of<const T>(sides[2 * M], g, V), path_rows<const T>(sides.data(), M, g, V),
             gradient_rows<T>(sides.data() + M, M, g, V), from, weights, to, result, sums);
      if (!partial) return;
      const int64_t slots = static_cast<int64_t>(a.slab_rows) * L;
      launch(select_logits_kernel<T>, dim3((slots + kSelectWarps - 1) / kSelectWarps, 1, a.slabs), dim3(kSelectThreads),
             0, device, a, static_cast<uint32_t>(L), sums, from, weights, to, result);
    });
  });
  return {dpaths, dlogits};
}

VIDOPS_LIBRARY_IMPL(VIDOPS_NAMESPACE, VIDOPS_CUDA_KEY, m) {
  m.impl("pathway_select", TORCH_BOX(&pathway_select));
  m.impl("pathway_select_backward", TORCH_BOX(&pathway_select_backward));
}

}  // namespace
}  // namespace vidops
