// keypoint_shifts on CUDA devices: a frame of 32 channels lies in shared memory while all sets are taken from it.
//
// Floor: features read once and, for every set, region and channel, 2 (T-1) numbers of shifts and for every frame a
// value, a mean and two 16-bit coordinates written; of these only the shifts are asked for. At 64x384x8x14x14, 8 sets
// of 4 regions in fp32: 154 MB read, 44 MB of shifts and 76 MB of the rest. Backward reads the features for the
// separators alone, what was written and its gradient, and writes dx.
//
// Forward, four regions (keypoint_shifts_quarters.cuh): a block owns 32 neighbouring channels of one clip, four sets
// and up to eight frames, a warp a frame; lanes are channels and lines are those of all channels, so that a warp never
// diverges. A warp walks over its frame two rows at a time, from memory through shared memory, once for its four sets:
// their vertical lines, in order, cut a row into five strips, whose maxima, places and sums make what is left and right
// of each line, from the left end and from the right. These are added to a set's upper or lower half, in registers. By
// its centre a pixel is on one side of a line; the rest of it is moved to the other side's sum. All is taken to be
// finite: where a mean turns out not to be, its channel is done again with care. Regions meet in shared memory, where a
// warp pairs its frame with the next one's, and go to memory in rows of all frames.
//
// Forward, other numbers of regions and frames wider or higher than 64: the block's warps load a frame, turned so that
// pixels follow each other and channels lie side by side whatever the layout, and each warp takes a set from it. Four
// rows of a region go together, for a pixel a read of shared memory, a maximum and a sum; only rows whose maximum is
// larger are noted, and the key point's column is looked for in one row at the end. Sums over rows are in double.
// Frames that are too large come in tiles of rows.
//
// Backward: a thread makes the gradients of all regions of one clip, set and channel, pair by pair, in double; they go
// to scratch, (N, T, G, K, C). A second kernel gathers dx in shared memory, a warp a row, and writes it once in the
// layout of the features. A third takes the means along lines from the features; sums over 32 channels are partial sums
// in double, added in a fixed order by a fourth. No atomics.
//
// Predicted on an H200 for the sizes above, from the instructions that nvcc made for sm_90, 926 thousand million of
// which the device can issue a second: 15 thousand a frame of 32 channels for 8 sets, 98 us at the full rate. Of these
// are strips 4.0 thousand, what sets make of them 3.4, pairs 3.4, loads 1.5, writes 1.4. Shared memory takes 45 us at
// the same time, memory 64, so issue binds; 16 warps a multiprocessor will not keep the full rate, so 2.1 x the floor
// is the least, 2.8 likely, in bf16 3.5 and 4.6 (its floor is 28 us, and what nobody asks for makes its bytes 46).
// A set a warp takes 28 thousand. Left to try: eight sets a walk, which needs fewer registers than they now take.
// Backward 4 x. Not yet measured on a GPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <limits>
#include <tuple>
#include <type_traits>

#include "common/clip.h"
#include "common/dispatch.h"
#include "common/namespace.h"
#include "cuda/keypoint_shifts_backward.cuh"
#include "cuda/keypoint_shifts_forward.cuh"
#include "cuda/keypoint_shifts_quarters.cuh"
#include "cuda/tuning.cuh"

namespace vidops {
namespace {

// Two blocks fit an H200's multiprocessor, one that of any of our targets; the regions take a part of it at most.
constexpr int64_t kKeypointShared = 98 << 10, kStageShared = 60 << 10;
constexpr int32_t kMostSets = kKeypointThreads / kLane;

namespace tuned {
Tunable quarters("keypoint_shifts", "quarters", 1, {0, 1});  // whether four regions have their own kernel
// Of its blocks, at most: sets, and frames at once, a warp each.
Tunable walk_sets("keypoint_shifts", "walk_sets", kShare, {1, 2, kShare});
Tunable walk_frames("keypoint_shifts", "walk_frames", 8, {2, 4, 8});
Tunable few_blocks("keypoint_shifts", "few_blocks", 512, {256, 512, 1024});  // with fewer, they walk along less time
}  // namespace tuned

int64_t keypoint_blocks(int64_t count) {
  STD_TORCH_CHECK(count < (int64_t{1} << 31), "features are too large for the CUDA kernels");
  return count;
}

KeypointArgs arguments(const KeypointSize& s, const Clip& x) {
  STD_TORCH_CHECK(
      s.C < (int64_t{1} << 30) && s.T < (int64_t{1} << 30) && s.G < (int64_t{1} << 30),
      "features of more than 2^30 channels or frames or separators of more than 2^30 sets are too large for "
      "the CUDA kernels");
  KeypointArgs a{};
  a.C = static_cast<int32_t>(s.C), a.T = static_cast<int32_t>(s.T), a.G = static_cast<int32_t>(s.G);
  a.H = static_cast<int32_t>(s.H), a.W = static_cast<int32_t>(s.W), a.bands = s.bands;
  a.last = x.channels_last();
  a.groups = (a.C + kLane - 1) / kLane;
  return a;
}

// The tiles of frames that fit `bytes` of shared memory; returns how many bytes they take.
int64_t cover(KeypointArgs& a, int64_t bytes, int64_t size) {
  const int64_t pixels = bytes / (kPitch * size);
  a.columns = static_cast<int32_t>(std::min<int64_t>(a.W, pixels));
  a.rows = a.columns < a.W ? 1 : static_cast<int32_t>(std::min<int64_t>(a.H, pixels / a.W));
  a.tiles_x = (a.W + a.columns - 1) / a.columns;
  a.tiles = a.tiles_x * ((a.H + a.rows - 1) / a.rows);
  return int64_t{a.rows} * a.columns * kPitch * size;
}

// How many pairs of frames a block walks along: they are split among blocks where there would be too few.
void split_time(KeypointArgs& a, int64_t clips) {
  a.set_chunks = (a.G + a.sets - 1) / a.sets;
  const int32_t pairs = std::max(a.T - 1, 1);
  const int64_t across = clips * a.groups * a.set_chunks;
  a.span = static_cast<int32_t>(std::max<int64_t>(pairs * across / tuned::few_blocks.get(), std::min(pairs, 4)));
  a.span = std::min(a.span, pairs);
  a.spans = (pairs + a.span - 1) / a.span;
}

// What a block of the kernel for four regions owns; returns its shared memory, 0 where it cannot take this call. It has
// a warp for each frame of a chunk.
template <class A>
int64_t quarters_plan(KeypointArgs& a, int64_t clips) {
  if (a.bands != 2 || std::max(a.H, a.W) > kMostSide || tuned::quarters.get() == 0) return 0;
  const auto most_sets = static_cast<int32_t>(tuned::walk_sets.get());
  const int64_t most_frames = tuned::walk_frames.get();
  const auto bytes = [&] {
    const int64_t row = sizeof(A) * a.W * kPitch, lines = kShare * (sizeof(Cross<A>) + 2 * sizeof(Split<A>));
    return a.sets * int64_t{stage_size(kQuarters, a.chunk_log2)} * (2 * sizeof(A) + sizeof(uint32_t)) +
           ((lines + kWalkedRows * row) << a.chunk_log2);
  };
  for (int32_t chunks = (a.G + most_sets - 1) / most_sets; chunks <= a.G; ++chunks) {
    a.sets = (a.G + chunks - 1) / chunks;
    split_time(a, clips);
    for (a.chunk_log2 = 3; a.chunk_log2 >= 0; --a.chunk_log2) {
      const int32_t frames = 1 << a.chunk_log2;
      if (frames <= most_frames && frames / 2 <= a.span && bytes() <= kKeypointShared) return bytes();
    }
  }
  return 0;
}

// What a block of the general forward kernel owns; returns its shared memory.
template <class A>
int64_t forward_plan(KeypointArgs& a, int64_t clips) {
  const int32_t K = a.regions();
  const auto stage = [&] {
    return a.sets * (int64_t{stage_size(K, a.chunk_log2)} * (2 * sizeof(A) + sizeof(uint32_t)) +
                     (sizeof(Split<A>) * 2 << a.chunk_log2) + sizeof(double) * K * kLane);
  };
  a.sets = std::min(a.G, kMostSets), a.chunk_log2 = 0;
  while (a.sets > 1 && stage() > kStageShared) a.sets = (a.sets + 1) / 2;
  split_time(a, clips);
  for (a.chunk_log2 = 3; a.chunk_log2 > 0 && ((1 << a.chunk_log2) > a.span || stage() > kStageShared);) --a.chunk_log2;
  const int64_t bytes = stage();
  return bytes + cover(a, kKeypointShared - bytes, sizeof(A));
}

// f(integral_constant<r>)
template <class F>
void with_bands(int bands, F&& f) {
  if (bands == 1) return f(std::integral_constant<int, 1>{});
  if (bands == 2) return f(std::integral_constant<int, 2>{});
  if (bands == 3) return f(std::integral_constant<int, 3>{});
  f(std::integral_constant<int, 4>{});
}

std::tuple<Tensor, Tensor, Tensor, Tensor> keypoint_shifts(Tensor features, Tensor separators, double epsilon) {
  const DeviceScope device(features);
  const KeypointSize s = check_keypoint_shifts(features, separators);
  Tensor shifts, keypoints, values, means;
  std::tie(shifts, keypoints, values, means) = new_shifts(features, s);
  if (values.numel() == 0) return {shifts, keypoints, values, means};
  const Tensor x = native_clip(features), lines = torch::stable::contiguous(separators);
  dispatch_float(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = device_acc_t<T>;
    KeypointArgs a = arguments(s, describe(x));
    const int64_t quarters = quarters_plan<A>(a, s.N), bytes = quarters ? quarters : forward_plan<A>(a, s.N);
    const int64_t blocks = keypoint_blocks(s.N * a.groups * a.spans * a.set_chunks);
    const KeypointResults<A> to{static_cast<A*>(shifts.data_ptr()), static_cast<uint32_t*>(keypoints.data_ptr()),
                                static_cast<A*>(values.data_ptr()), static_cast<A*>(means.data_ptr())};
    const A least = std::max(static_cast<A>(epsilon), std::numeric_limits<A>::min());  // no kernel divides by less
    const auto launch_with = [&](auto kernel, int32_t warps) {
      launch(kernel, dim3(blocks), dim3(warps * kLane), bytes, device, a, steps_of<const T>(x),
             static_cast<const T*>(lines.data_ptr()), least, to);
    };
    if (quarters) return launch_with(keypoint_quarters_kernel<T>, 1 << a.chunk_log2);
    with_bands(s.bands, [&](auto r) { launch_with(keypoint_forward_kernel<r, T>, a.sets); });
  });
  return {shifts, keypoints, values, means};
}

template <class T>
struct KeypointBackward {
  using A = device_acc_t<T>;
  const KeypointSize& s;
  const Tensor &x, &lines;
  const DeviceScope& device;
  KeypointArgs a;
  Tensor memory, points;
  RegionGradients<A> regions;

  KeypointBackward(const KeypointSize& s, const Tensor& x, const Tensor& lines, const DeviceScope& device)
      : s(s), x(x), lines(lines), device(device), a(arguments(s, describe(x))) {
    const int64_t count = s.N * s.T * s.G * s.regions() * s.C;
    memory = torch::stable::new_empty(x, {2 * count}, torch::headeronly::CppTypeToScalarType<A>::value);
    points = torch::stable::new_empty(x, {2 * count}, ScalarType::Short);
    A* data = static_cast<A*>(memory.data_ptr());
    regions = {data, data + count, static_cast<uint32_t*>(points.data_ptr())};
  }
  const T* separators() const { return static_cast<const T*>(lines.data_ptr()); }
  RegionGradients<const A> found() const { return {regions.value, regions.mean, regions.place}; }
  int64_t tiles() const { return keypoint_blocks(s.N * a.T * a.groups * a.tiles); }

  void pairs(const KeptRegions<A>& kept, double epsilon) const {
    const int64_t units = s.N * s.G * s.C, K = s.regions();
    with_bands(s.bands, [&](auto r) {
      launch(keypoint_pairs_kernel<r, A>, dim3(keypoint_blocks((units + kPairThreads - 1) / kPairThreads)),
             dim3(kPairThreads), kRegionNumbers * K * kPairThreads * sizeof(double), device, a, units, epsilon, kept,
             regions);
    });
  }

  void features(const Tensor& dx) {
    const int64_t K = s.regions();
    a.sets = static_cast<int32_t>(std::min<int64_t>(s.G, std::max<int64_t>(1, 32 / K)));
    const int64_t bytes =
        a.sets * (K * kLane * (2 * sizeof(A) + sizeof(uint32_t)) + 2 * static_cast<int64_t>(sizeof(Split<A>)));
    const int64_t tile = cover(a, kKeypointShared - bytes, sizeof(A));
    launch(keypoint_features_kernel<T>, dim3(tiles()), dim3(kKeypointThreads), bytes + tile, device, a, separators(),
           found(), steps_of<T>(dx));
  }

  void separator_lines(const A* means, const Tensor& dlines) {
    a.sets = static_cast<int32_t>(std::min<int64_t>(s.G, 32));
    const int64_t bytes = a.sets * 2 * sizeof(Split<A>), tile = cover(a, kKeypointShared - bytes, sizeof(A));
    const int64_t axes = s.N * s.G * s.T * 2, shares = a.groups * int64_t{a.tiles};
    const Tensor partial = torch::stable::new_empty(x, {axes * (s.bands - 1) * shares}, ScalarType::Double);
    double* sums = static_cast<double*>(partial.data_ptr());
    launch(keypoint_lines_kernel<T>, dim3(tiles()), dim3(kKeypointThreads), bytes + tile, device, a,
           steps_of<const T>(x), separators(), found(), means, sums);
    launch(keypoint_separators_kernel<T>, dim3(keypoint_blocks((axes + kPairThreads - 1) / kPairThreads)),
           dim3(kPairThreads), kPairThreads * sizeof(Split<A>), device, a, axes, separators(),
           static_cast<const double*>(sums), static_cast<T*>(dlines.data_ptr()));
  }
};

std::tuple<Tensor, Tensor> keypoint_shifts_backward(Tensor grad, Tensor features, Tensor separators, Tensor keypoints,
                                                    Tensor values, Tensor means, double epsilon, bool need_features,
                                                    bool need_separators) {
  const DeviceScope device(features);
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
    using A = device_acc_t<T>;
    const auto data = [](const Tensor& tensor) { return static_cast<const A*>(tensor.data_ptr()); };
    KeypointBackward<T> work(s, x, lines, device);
    work.pairs({data(g), data(v), data(m), static_cast<const int16_t*>(points.data_ptr())}, epsilon);
    if (need_features) work.features(dx);
    if (dlines.numel() > 0) work.separator_lines(data(m), dlines);
  });
  return {dx, dlines};
}

VIDOPS_LIBRARY_IMPL(VIDOPS_NAMESPACE, VIDOPS_CUDA_KEY, m) {
  m.impl("keypoint_shifts", TORCH_BOX(&keypoint_shifts));
  m.impl("keypoint_shifts_backward", TORCH_BOX(&keypoint_shifts_backward));
}

}  // namespace
}  // namespace vidops
