// What pathway_select's kernels share: who walks which rows, and the softmax over the pathways.
//
// A row is what one weight of each pathway serves: all elements of a (clip, channel), or with logits for every frame of
// a (clip, channel, frame). Channels last, V neighbouring channels are a row together, with weights of their own. A
// row's units are its packs of V elements, frame after frame; a block has 2^lanes_log2 neighbouring rows and one share
// of their units.
//
//     blockIdx.x  rows >> lanes_log2      blockIdx.y  share of the units      blockIdx.z  slab of clips
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "common/columns.h"
#include "common/pack.h"
#include "common/pathway_select.h"

namespace vidops {
namespace {

constexpr int kSelectThreads = 128, kSelectWarps = kSelectThreads / 32;

// Elements from one clip, outer row, inner row, frame and unit to the next. Rows of a clip are numbered outer first:
// frames and channels, in whichever order memory has them.
struct RowSteps {
  int64_t clip, outer, inner, frame, unit;
};

template <class T>
struct Rows {
  T* data;
  RowSteps steps;
};
template <class T>
struct PathRows {
  Rows<T> at[kMostPathways];
};
// The pathways' gradients, which all lie alike.
template <class T>
struct GradientRows {
  T* data[kMostPathways];
  RowSteps steps;
};

// Logits, or their gradient: rows as above, then from one pathway and one channel of a pack to the next.
struct LogitSteps {
  int64_t clip, outer, inner, path, lane;
};

struct SelectArgs {
  int32_t paths;
  bool across;  // neighbouring threads have neighbouring rows (channels last), otherwise neighbouring units of a row
  uint32_t lanes_log2;
  uint32_t units, share;  // of a row, and of those a block walks
  uint32_t slab_rows, slabs, shares;
  int64_t rows;
  Divisor by_inner, by_outer, by_frame;  // rows of an outer one, outer ones of a clip, units of a frame
  int64_t slab_clips;
};

constexpr int64_t kSlabRows = int64_t{1} << 30;  // far enough from 2^31

// Blocks for outer * inner rows of every clip, each of so many frames and units a frame. A thread takes `at_once` units
// together and `most` at most, where the grid allows; fewer, where blocks would be fewer than `fill_blocks`.
inline SelectArgs rows_of_blocks(int64_t clips, int64_t outer, int64_t inner, int64_t frames, int64_t per_frame,
                                 bool across, int64_t at_once, int64_t most, int64_t fill_blocks,
                                 int64_t slab_rows = kSlabRows) {
  const int64_t clip_rows = outer * inner, units = frames * per_frame;
  STD_TORCH_CHECK(units < kSlabRows && clip_rows <= slab_rows,
                  "paths are too large for the CUDA kernels: at most 2^30 positions, and channels times frames");
  SelectArgs a{};
  a.across = across;
  a.rows = clips * clip_rows;
  a.slab_clips = std::min(clips, slab_rows / clip_rows);
  a.slab_rows = static_cast<uint32_t>(a.slab_clips * clip_rows);
  a.slabs = static_cast<uint32_t>((clips + a.slab_clips - 1) / a.slab_clips);
  STD_TORCH_CHECK(a.slabs <= 65535, "paths have too many clips for the CUDA kernels: ", clips);
  a.by_inner = Divisor(static_cast<uint32_t>(inner)), a.by_outer = Divisor(static_cast<uint32_t>(outer));
  a.by_frame = Divisor(static_cast<uint32_t>(per_frame)), a.units = static_cast<uint32_t>(units);
  // Planar, a warp has several rows where one has too few units for it.
  uint32_t workers_log2 = units >= 2 * kSelectThreads ? 7 : 0;
  while (workers_log2 < 5 && (at_once << workers_log2) < units) ++workers_log2;
  a.lanes_log2 = across ? lanes_log2(inner) : 7 - workers_log2;
  const int64_t workers = kSelectThreads >> a.lanes_log2, rounds = (units + workers - 1) / workers;
  const int64_t blocks = ((a.slab_rows + (1 << a.lanes_log2) - 1) >> a.lanes_log2) * a.slabs;
  const int64_t shares = std::max((rounds + most - 1) / most, std::min(rounds / at_once, fill_blocks / blocks));
  const int64_t share_rounds = (rounds - 1) / std::clamp<int64_t>(shares, 1, 65535) + 1;
  a.share = static_cast<uint32_t>(std::min((share_rounds + at_once - 1) / at_once * at_once * workers, units));
  a.shares = (a.units + a.share - 1) / a.share;
  return a;
}

inline dim3 grid_of(const SelectArgs& a) {
  return dim3((a.slab_rows + (1u << a.lanes_log2) - 1) >> a.lanes_log2, a.shares, a.slabs);
}

// A row of a slab as clip, outer and inner row.
struct RowPlace {
  int64_t clip, outer, inner;
  __device__ __forceinline__ RowPlace(const SelectArgs& a, uint32_t row) {
    const uint32_t wide = a.by_inner.divide(row), n = a.by_outer.divide(wide);
    inner = row - wide * a.by_inner.divisor, outer = wide - n * a.by_outer.divisor;
    clip = blockIdx.z * a.slab_clips + n;
  }
  __device__ __forceinline__ int64_t offset(const RowSteps& s) const {
    return clip * s.clip + outer * s.outer + inner * s.inner;
  }
  __device__ __forceinline__ int64_t offset(const LogitSteps& s) const {
    return clip * s.clip + outer * s.outer + inner * s.inner;
  }
};

// The rows of this block's slab.
__device__ __forceinline__ uint32_t rows_of_slab(const SelectArgs& a) {
  const int64_t left = a.rows - static_cast<int64_t>(blockIdx.z) * a.slab_rows;
  return static_cast<uint32_t>(left < a.slab_rows ? left : a.slab_rows);
}

// What one thread walks: units first, first + step, ... below `end` of a row. An idle one has the slab's last row.
struct RowWalk {
  uint32_t lane, worker, row;
  uint32_t first, end, step;
  bool active;
  __device__ __forceinline__ explicit RowWalk(const SelectArgs& a) {
    const uint32_t lanes = 1u << a.lanes_log2;
    step = kSelectThreads >> a.lanes_log2;
    lane = a.across ? threadIdx.x & (lanes - 1) : threadIdx.x / step;
    worker = a.across ? threadIdx.x >> a.lanes_log2 : threadIdx.x & (step - 1);
    row = (blockIdx.x << a.lanes_log2) + lane;
    const uint32_t rows = rows_of_slab(a);
    active = row < rows;
    row = active ? row : rows - 1;
    const uint32_t begin = blockIdx.y * a.share;
    end = a.units - begin < a.share ? a.units : begin + a.share;
    first = begin + worker;
  }
};

// Where in its row a unit lies.
__device__ __forceinline__ int64_t unit_offset(const RowSteps& s, uint32_t frame, uint32_t place) {
  return frame * s.frame + place * s.unit;
}

// Weights of the pathways from their logits, those beyond the last one 0. Infinities and NaN make NaN of all of them,
// as torch.softmax does.
template <class A, int kM>
__device__ __forceinline__ void softmax(int32_t paths, A (&weights)[kM]) {
  A top = weights[0], total = 0;
#pragma unroll
  for (int m = 1; m < kM; ++m) top = max(top, weights[m]);
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    weights[m] = std::exp(weights[m] - top);
    total += weights[m];
  }
  const A share = A(1) / total;
#pragma unroll
  for (int m = 0; m < kM; ++m) weights[m] = m < paths ? weights[m] * share : A(0);
}

// The same from the logits of one channel, `first` being the first pathway's.
template <class T, int kM>
__device__ __forceinline__ void weights_at(int32_t paths, const T* first, int64_t step,
                                           device_acc_t<T> (&weights)[kM]) {
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    weights[m] = -device_acc_t<T>(INFINITY);
    if (m < paths) weights[m] = static_cast<device_acc_t<T>>(load_pack<1>(first + m * step).at[0]);
  }
  softmax(paths, weights);
}

// dlogit_m = w_m (s_m - sum_k w_k s_k), with s_m the sum over the row of gradient times pathway m. The sums cancel: of
// 4-byte types they are taken apart in fp64.
template <class T, int kM, class S>
__device__ __forceinline__ void write_logit_gradient(const SelectArgs& a, const RowPlace& place, uint32_t lane,
                                                     const LogitSteps& from, const T* logits, const LogitSteps& to,
                                                     T* dlogits, const S (&sums)[kM]) {
  device_acc_t<T> weights[kM];
  weights_at(a.paths, logits + place.offset(from) + lane * from.lane, from.path, weights);
  using Wide = std::conditional_t<sizeof(T) == 2, float, double>;
  Wide mean = 0, total = 0;  // beyond the last pathway weights and sums are 0
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    mean += static_cast<Wide>(weights[m]) * static_cast<Wide>(sums[m]);
    total += static_cast<Wide>(weights[m]);
  }
  mean /= total;
  T* result = dlogits + place.offset(to) + lane * to.lane;
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    if (m >= a.paths) break;
    result[m * to.path] = static_cast<T>(static_cast<device_acc_t<T>>(weights[m] * (sums[m] - mean)));
  }
}

}  // namespace
}  // namespace vidops
