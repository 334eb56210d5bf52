// Kernels of pathway_select; their idea is told in pathway_select.cu.
//
// V elements are a pack, L of which have weights of their own: V channels last, otherwise 1. kM pathways at most are
// compiled: what is loaded and kept of each is in registers, which want a constant.
#pragma once

#include "cuda/pathway_select_common.cuh"

namespace vidops {
namespace {

// Units that a thread asks for before it uses the first, 1 to 4: `kBytes` of packs in all pathways together.
template <class T, int V, int kM, int kBytes>
constexpr int kAtOnce = std::clamp(kBytes / (kM * V * static_cast<int>(sizeof(T))), 1, 4);
template <class T, int V, int kM>
constexpr int kAtOnceForward = kAtOnce<T, V, kM, 128>;
template <class T, int V, int kM>
constexpr int kAtOnceBackward = kAtOnce<T, V, kM, 64>;  // and the gradient, and sums are in registers too

// A round of units of every pathway. Loads are issued whatever the unit, from one that is there: under a thread's own
// condition they would not be issued together.
template <class T, int V, int kUnits>
struct Round {
  uint32_t frame[kUnits], place[kUnits];
  bool there[kUnits];

  __device__ __forceinline__ Round(const SelectArgs& a, const RowWalk& w, uint32_t at) {
#pragma unroll
    for (int j = 0; j < kUnits; ++j) {
      const uint32_t unit = at + j * w.step;
      there[j] = unit < w.end;
      const uint32_t inside = there[j] ? unit : w.end - 1;
      frame[j] = a.by_frame.divide(inside), place[j] = inside - frame[j] * a.by_frame.divisor;
    }
  }
  __device__ __forceinline__ void load(const T* row, const RowSteps& steps, Pack<T, V> (&packs)[kUnits]) const {
#pragma unroll
    for (int j = 0; j < kUnits; ++j) packs[j] = load_pack<V>(row + unit_offset(steps, frame[j], place[j]));
  }
};

template <class T, int V, int L, int kM>
__device__ __forceinline__ void load_weights(const SelectArgs& a, const RowPlace& place, const LogitSteps& steps,
                                             const T* logits, device_acc_t<T> (&weights)[L][kM]) {
  const T* first = logits + place.offset(steps);
#pragma unroll
  for (int l = 0; l < L; ++l) weights_at(a.paths, first + l * steps.lane, steps.path, weights[l]);
}

template <class T, int V, int L, int kM>
__global__ void __launch_bounds__(kSelectThreads)
    select_kernel(const __grid_constant__ SelectArgs a, const __grid_constant__ PathRows<const T> paths,
                  const __grid_constant__ Rows<T> result, const __grid_constant__ LogitSteps logit_steps,
                  const T* __restrict__ logits) {
  using A = device_acc_t<T>;
  const RowWalk w(a);
  if (!w.active) return;
  const RowPlace place(a, w.row);
  A weights[L][kM];
  load_weights<T, V, L, kM>(a, place, logit_steps, logits, weights);
  T* to = result.data + place.offset(result.steps);
  constexpr int kUnits = kAtOnceForward<T, V, kM>;
  for (uint32_t at = w.first; at < w.end; at += kUnits * w.step) {
    const Round<T, V, kUnits> round(a, w, at);
    Pack<T, V> in[kM][kUnits];
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      if (m < a.paths) round.load(paths.at[m].data + place.offset(paths.at[m].steps), paths.at[m].steps, in[m]);
    }
#pragma unroll
    for (int j = 0; j < kUnits; ++j) {
      A sum[V] = {};
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        if (m >= a.paths) break;
#pragma unroll
        for (int v = 0; v < V; ++v) sum[v] += weights[v % L][m] * value(in[m][j], v);
      }
      if (round.there[j]) store_values(to + unit_offset(result.steps, round.frame[j], round.place[j]), sum);
    }
  }
}

// Adds the sums of the threads that share rows: of a warp through its lanes, of the block through shared memory, and
// gives them to f(slot, sums), a slot being a lane's channel l of the block's rows: lane * L + l.
template <class A, int L, int kM, class F>
__device__ __forceinline__ void sum_block(const SelectArgs& a, const RowWalk& w, A (&sums)[L][kM], F&& f) {
  A* shared = dynamic_shared<A>();
  const uint32_t lanes = 1u << a.lanes_log2, slots = lanes * L, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t low = a.across ? lanes : 1, high = a.across ? 16 : min(w.step, 32u) / 2;
  const uint32_t parts = a.across || w.step > 32 ? kSelectWarps : 1;  // warps with the same rows
  const bool writes = a.across ? lane < lanes : (w.step > 32 ? lane : w.worker) == 0;
  for (uint32_t step = high; step >= low && step > 0; step /= 2) {
#pragma unroll
    for (int i = 0; i < L * kM; ++i) sums[i / kM][i % kM] += __shfl_xor_sync(0xffffffffu, sums[i / kM][i % kM], step);
  }
  if (writes) {
#pragma unroll
    for (int i = 0; i < L * kM; ++i) {
      shared[((parts > 1 ? warp : 0) * kM + i % kM) * slots + w.lane * L + i / kM] = sums[i / kM][i % kM];
    }
  }
  __syncthreads();
  for (uint32_t slot = threadIdx.x; slot < slots; slot += kSelectThreads) {
    A total[kM] = {};
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      for (uint32_t part = 0; part < parts; ++part) total[m] += shared[(part * kM + m) * slots + slot];
    }
    f(slot, total);
  }
}

// Blocks of the backward kernel that a multiprocessor's registers are to hold, with L * kM weights and as many sums.
template <int L, int kM>
constexpr int kBackwardBlocks = L * kM > 32       ? 2
                                : kM > 4 && L > 1 ? 3
                                : kM > 4 || L > 1 ? 4
                                                  : 6;

// `partial` is null where a block has all of its rows; otherwise it takes [row of the slab * L + l][path][share].
template <class T, int V, int L, int kM>
__global__ void __launch_bounds__(kSelectThreads, kBackwardBlocks<L, kM>)
    select_backward_kernel(const __grid_constant__ SelectArgs a, const __grid_constant__ Rows<const T> grad,
                           const __grid_constant__ PathRows<const T> paths,
                           const __grid_constant__ GradientRows<T> dpaths,
                           const __grid_constant__ LogitSteps logit_steps, const T* __restrict__ logits,
                           const __grid_constant__ LogitSteps dlogit_steps, T* __restrict__ dlogits,
                           device_acc_t<T>* __restrict__ partial) {
  using A = device_acc_t<T>;
  const RowWalk w(a);
  const RowPlace place(a, w.row);
  A weights[L][kM], sums[L][kM] = {};
  load_weights<T, V, L, kM>(a, place, logit_steps, logits, weights);
  constexpr int kUnits = kAtOnceBackward<T, V, kM>;
  for (uint32_t at = w.active ? w.first : w.end; at < w.end; at += kUnits * w.step) {
    const Round<T, V, kUnits> round(a, w, at);
    Pack<T, V> g[kUnits], in[kM][kUnits];
    round.load(grad.data + place.offset(grad.steps), grad.steps, g);
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      if (m < a.paths) round.load(paths.at[m].data + place.offset(paths.at[m].steps), paths.at[m].steps, in[m]);
    }
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      if (m >= a.paths) break;
      T* to = dpaths.data[m] + place.offset(dpaths.steps);
#pragma unroll
      for (int j = 0; j < kUnits; ++j) {
        A sum[L] = {}, made[V];
#pragma unroll
        for (int v = 0; v < V; ++v) {
          const A slope = value(g[j], v);
          sum[v % L] += slope * value(in[m][j], v);
          made[v] = weights[v % L][m] * slope;
        }
#pragma unroll
        for (int l = 0; l < L; ++l) sums[l][m] += round.there[j] ? sum[l] : A(0);
        if (round.there[j]) store_values(to + unit_offset(dpaths.steps, round.frame[j], round.place[j]), made);
      }
    }
  }
  sum_block<A, L, kM>(a, w, sums, [&](uint32_t slot, const A(&total)[kM]) {
    const uint32_t row = (blockIdx.x << a.lanes_log2) + slot / L;
    if (row >= rows_of_slab(a)) return;
    if (!partial) {
      write_logit_gradient(a, RowPlace(a, row), slot % L, logit_steps, logits, dlogit_steps, dlogits, total);
      return;
    }
    const int64_t first = (static_cast<int64_t>(blockIdx.z) * a.slab_rows + row) * L + slot % L;
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      if (m < a.paths) partial[(first * a.paths + m) * a.shares + blockIdx.y] = total[m];
    }
  });
}

// One warp a row and channel of it: the shares' sums in fp64, lane by lane, then over the lanes.
template <class T>
__global__ void __launch_bounds__(kSelectThreads)
    select_logits_kernel(const __grid_constant__ SelectArgs a, uint32_t channels,
                         const device_acc_t<T>* __restrict__ partial, const __grid_constant__ LogitSteps logit_steps,
                         const T* __restrict__ logits, const __grid_constant__ LogitSteps dlogit_steps,
                         T* __restrict__ dlogits) {
  using A = device_acc_t<T>;
  const int64_t slot = static_cast<int64_t>(blockIdx.x) * kSelectWarps + threadIdx.x / 32;
  const uint32_t row = static_cast<uint32_t>(slot / channels), lane = threadIdx.x % 32;
  if (row >= rows_of_slab(a)) return;
  const A* first = partial + (static_cast<int64_t>(blockIdx.z) * a.slab_rows * channels + slot) * a.paths * a.shares;
  double sums[kMostPathways] = {};
#pragma unroll
  for (int m = 0; m < kMostPathways; ++m) {
    if (m >= a.paths) break;
    double sum = 0;
    for (uint32_t i = lane; i < a.shares; i += 32)
      sum += static_cast<double>(first[m * static_cast<int64_t>(a.shares) + i]);
#pragma unroll
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    sums[m] = sum;
  }
  if (lane != 0) return;
  write_logit_gradient(a, RowPlace(a, row), static_cast<uint32_t>(slot % channels), logit_steps, logits, dlogit_steps,
                       dlogits, sums);
}

}  // namespace
}  // namespace vidops
