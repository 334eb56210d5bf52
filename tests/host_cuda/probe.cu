// Kernels that show what the host emulation of CUDA catches, and the parts of common/columns.h in isolation.
#include <torch/csrc/stable/library.h>

#include <cmath>

#include "common/columns.h"
#include "cuda/pathway_select_common.cuh"

namespace vidops {
namespace {

#define VIDOPS_PROBE extern "C" __attribute__((visibility("default")))

// Every thread takes what its mirror image wrote.
__global__ void mirror_kernel(bool barrier, float* out) {
  float* shared = dynamic_shared<float>();
  shared[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (barrier) __syncthreads();
  out[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

// Values move round the block; without the second barrier a thread overwrites what another has yet to read.
__global__ void rotate_kernel(int rounds, bool barrier, float* out) {
  float* shared = dynamic_shared<float>();
  shared[threadIdx.x] = static_cast<float>(threadIdx.x);
  for (int i = 0; i < rounds; ++i) {
    __syncthreads();
    const float next = shared[(threadIdx.x + 1) % blockDim.x];
    if (barrier) __syncthreads();
    shared[threadIdx.x] = next;
  }
  out[threadIdx.x] = shared[threadIdx.x];
}

__global__ void divergent_kernel() {
  if (threadIdx.x != 0) __syncthreads();
}

__global__ void shuffle_kernel(int* out) {
  int sum = static_cast<int>(threadIdx.x);
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  const int third = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x), 3);
  const double down = __shfl_down_sync(0xffffffffu, static_cast<double>(threadIdx.x), 1);
  out[threadIdx.x] = sum * 10000 + third * 100 + static_cast<int>(down);
}

__global__ void visit_kernel(Columns k, ColumnStrides strides, int64_t* visits) {
  const Walk w = walk_of(k);
  if (!w.active) return;
  for (uint32_t i = w.first; i < w.end; i += w.step) ++visits[column_offset(k, w, i, strides)];
}

__global__ void visit_rows_kernel(SelectArgs a, RowSteps steps, int64_t* visits) {
  const RowWalk w(a);
  if (!w.active) return;
  for (uint32_t i = w.first; i < w.end; i += w.step) {
    const uint32_t frame = a.by_frame.divide(i);
    ++visits[RowPlace(a, w.row).offset(steps) + unit_offset(steps, frame, i - frame * a.by_frame.divisor)];
  }
}

template <class Kernel, class... Args>
void run(Kernel kernel, uint32_t blocks, uint32_t threads, Args... args) {
  host::launch(kernel, dim3(blocks), dim3(threads), threads * sizeof(float), args...);
}

}  // namespace

VIDOPS_PROBE int probe_mirror(int barrier) {
  float out[96];
  run(mirror_kernel, 2, 96, barrier != 0, out);
  int wrong = 0;
  for (int i = 0; i < 96; ++i) wrong += out[i] != static_cast<float>(95 - i);
  return wrong;
}

VIDOPS_PROBE int probe_rotate(int barrier) {
  float out[64];
  run(rotate_kernel, 1, 64, 5, barrier != 0, out);
  int wrong = 0;
  for (int i = 0; i < 64; ++i) wrong += out[i] != static_cast<float>((i + 5) % 64);
  return wrong;
}

VIDOPS_PROBE int probe_deadlock(int threads, int shuffle) {
  int out[64] = {};
  try {
    shuffle ? run(shuffle_kernel, 1, threads, out) : run(divergent_kernel, 1, threads);
  } catch (const std::exception&) {
    return 1;
  }
  return 0;
}

VIDOPS_PROBE int probe_shuffle() {
  int out[64];
  run(shuffle_kernel, 1, 64, out);
  int wrong = 0;
  for (int i = 0; i < 64; ++i) {
    const int warp = i / 32, sum = 496 + warp * 1024, down = i % 32 == 31 ? i : i + 1;
    wrong += out[i] != sum * 10000 + (warp * 32 + 3) * 100 + down;
  }
  return wrong;
}

// How many (clip, place, unit) are not visited exactly once; -1 when a block has nothing to do.
VIDOPS_PROBE int64_t probe_columns(int64_t clips, int64_t units, int64_t places, int lanes, int64_t min_blocks,
                                   int64_t trips, int64_t slab_columns) {
  const Columns k = make_columns(clips, units, places, lanes, min_blocks, trips, slab_columns);
  std::vector<int64_t> visits(clips * units * places);
  const dim3 grid = column_grid(k);
  if (int64_t{grid.y - 1} * k.share >= k.slab_clips * units || int64_t{grid.z - 1} * k.slab_clips >= clips) return -1;
  host::launch(visit_kernel, grid, dim3(kColumnThreads), 0, k, ColumnStrides{units * places, units, 0, 1},
               visits.data());
  return std::count_if(visits.begin(), visits.end(), [](int64_t v) { return v != 1; });
}

// The same of pathway_select's rows (clip, outer, inner) and their units (frame, unit).
VIDOPS_PROBE int64_t probe_rows(int64_t clips, int64_t outer, int64_t inner, int64_t frames, int64_t per_frame,
                                int across, int64_t at_once, int64_t most, int64_t slab_rows) {
  const SelectArgs a =
      rows_of_blocks(clips, outer, inner, frames, per_frame, across != 0, at_once, most, 4096, slab_rows);
  const int64_t units = frames * per_frame;
  std::vector<int64_t> visits(clips * outer * inner * units);
  const dim3 grid = grid_of(a);
  if (int64_t{grid.y - 1} * a.share >= units || int64_t{grid.z - 1} * a.slab_clips >= clips) return -1;
  host::launch(visit_rows_kernel, grid, dim3(kSelectThreads), 0, a,
               RowSteps{outer * inner * units, inner * units, units, per_frame, 1}, visits.data());
  return std::count_if(visits.begin(), visits.end(), [](int64_t v) { return v != 1; });
}

VIDOPS_PROBE int probe_divisor(uint32_t divisor) {
  const Divisor by(divisor);
  int wrong = 0;
  for (int64_t multiple = 0; multiple < (int64_t{1} << 31); multiple += std::max<int64_t>(1, divisor) * 977) {
    for (int64_t n = multiple - 2; n <= multiple + 2; ++n) {
      if (n >= 0 && n < (int64_t{1} << 31)) wrong += by.divide(static_cast<uint32_t>(n)) != n / divisor;
    }
  }
  const uint32_t largest = 0x7fffffffu;
  return wrong + (by.divide(largest) != largest / divisor);
}

// Where the last column of a clip of such size begins.
VIDOPS_PROBE int64_t probe_last_offset(int64_t clips, int64_t units, int64_t clip_stride, int64_t unit_stride) {
  const Columns k = make_columns(clips, units, 1, 0, 1, 1);
  Walk w{};
  w.clip = (k.slabs - 1) * k.slab_clips;
  const int64_t count = (clips - w.clip) * units;
  return column_offset(k, w, static_cast<uint32_t>(count - 1), {clip_stride, 0, 0, unit_stride});
}

}  // namespace vidops
