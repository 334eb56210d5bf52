// Forward kernel of keypoint_shifts; the idea is told in keypoint_shifts.cu.
#pragma once

#include "cuda/keypoint_shifts_common.cuh"

namespace vidops {
namespace {

template <class A>
struct KeypointResults {
  A* shifts;
  uint32_t* keypoints;
  A *values, *means;
};

// What a warp has in shared memory of one set: for K regions the frames of a chunk and, in slot 0, the one before.
template <class A>
struct Stage {
  A *values, *means;
  uint32_t* places;
  int32_t pitch, step;  // from one slot to the next, and from one region to the next

  __device__ __forceinline__ int32_t at(int32_t region, int32_t slot, int32_t lane) const {
    return region * step + slot * pitch + lane;
  }
  // The frame in slot `last` is the one before the next chunk.
  __device__ __forceinline__ void keep_last(int32_t region, int32_t last, int32_t lane) const {
    const int32_t i = at(region, 0, lane), j = at(region, last, lane);
    values[i] = values[j], means[i] = means[j], places[i] = places[j];
  }
};

// Elements from one slot to the next: lanes that read a slot each of a few channels meet in no bank.
__host__ __device__ constexpr int32_t slot_pitch(int32_t chunk_log2) {
  return chunk_log2 ? kLane + (kLane >> chunk_log2) : kLane;
}
__host__ __device__ constexpr int32_t stage_size(int32_t regions, int32_t chunk_log2) {
  return regions * ((1 << chunk_log2) + 1) * slot_pitch(chunk_log2);
}

// A region's maximum and sum so far.
template <class A>
struct RegionState {
  A best;
  uint32_t place;
  double sum;
};

constexpr int kRowsAtOnce = 4;
constexpr int32_t kRun = 64;  // pixels of a row that are summed in the accumulation type, sums of them in double

// One region of one channel: what a tile adds to it. All but the pixels is the same for the whole warp.
template <class A>
__device__ __forceinline__ void scan_region(const FrameTile& tile, const A* map, const Split<A>& across,
                                            const Split<A>& down, int32_t bx, int32_t by, RegionState<A>& state) {
  const BandRange x(across, bx, tile.x0, tile.x1), y(down, by, tile.y0, tile.y1);
  const auto member = [&](int32_t j) { return j >= across.first[bx] && j < across.first[bx + 1]; };
  // A band's ends.
  struct End {
    int32_t at;
    A weight;
    bool is_there, is_member;
  };
  const auto end_of_band = [&](int32_t j, bool is_there) {
    return End{j * kPitch, across.cover(j, bx), is_there, member(j)};
  };
  const End before = end_of_band(x.begin, x.begin < x.inner), after = end_of_band(x.outer, x.outer < x.end);
  const int32_t first_row = down.first[by], end_row = down.first[by + 1], step = tile.width() * kPitch;
  A best = state.best;
  double sum = state.sum;
  int32_t best_row = -1;
  const A* pixel = map + tile.at(y.begin, 0);
#pragma unroll 1
  for (int32_t row = y.begin; row < y.end; row += kRowsAtOnce, pixel += kRowsAtOnce * step) {
    int32_t at[kRowsAtOnce];
    A largest[kRowsAtOnce], part[kRowsAtOnce] = {}, cover[kRowsAtOnce];
#pragma unroll
    for (int i = 0; i < kRowsAtOnce; ++i) {
      const int32_t j = row + i;  // past the last one it is read again, and not counted
      at[i] = min(i, y.end - 1 - row) * step, largest[i] = -INFINITY;
      cover[i] = j >= y.end ? A(0) : j >= y.inner && j < y.outer ? A(1) : down.cover(j, by);
    }
    const auto take = [&](int32_t offset, A weight, bool is_member) {
#pragma unroll
      for (int i = 0; i < kRowsAtOnce; ++i) {
        const A v = pixel[at[i] + offset];
        part[i] += v * weight;
        if (is_member) largest[i] = larger(largest[i], v);
      }
    };
    if (before.is_there) take(before.at, before.weight, before.is_member);
    if (after.is_there) take(after.at, after.weight, after.is_member);
    int32_t left = x.outer - x.inner;
    const A* inner[kRowsAtOnce];
#pragma unroll
    for (int i = 0; i < kRowsAtOnce; ++i) inner[i] = pixel + at[i] + x.inner * kPitch;
    do {
      const int32_t count = min(left, kRun);
#pragma unroll 2
      for (int32_t j = 0; j < count; ++j) {
#pragma unroll
        for (int i = 0; i < kRowsAtOnce; ++i) {
          largest[i] = larger(largest[i], *inner[i]), part[i] += *inner[i];
          inner[i] += kPitch;
        }
      }
      A group = 0;
#pragma unroll
      for (int i = 0; i < kRowsAtOnce; ++i) {
        if (cover[i] > 0) group += part[i] * cover[i];
        part[i] = 0;
      }
      sum += static_cast<double>(group), left -= kRun;
    } while (left > 0);
#pragma unroll
    for (int i = 0; i < kRowsAtOnce; ++i) {
      const bool is_member = row + i >= first_row && row + i < end_row && row + i < y.end;
      if (is_member && !(largest[i] <= best) && best == best) best = largest[i], best_row = row + i;
    }
  }
  state.sum = sum;
  if (best_row < 0) return;
  // The first of its row; the others of the row are no larger, and none but a NaN is unlike itself.
  state.best = best;
  pixel = map + tile.at(best_row, 0);
  int32_t column = 0;
  for (int32_t j = min(tile.x1, across.first[bx + 1]) - 1; j >= max(tile.x0, across.first[bx]); --j) {
    const A v = pixel[j * kPitch];
    if (v == best || v != v) column = j;
  }
  state.place = place_of_pixel(best_row, column);
}

// 1 / x for x >= 0, within a unit in the last place; 0 for infinity, NaN for NaN.
__device__ __forceinline__ double inverse(double x) { return 1 / x; }
__device__ __forceinline__ float inverse(float x) {
#ifdef __CUDACC__
  float bounded, near;
  asm("min.NaN.f32 %0, %1, 0f7F7FFFFF;" : "=f"(bounded) : "f"(x));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(near) : "f"(bounded));
  return near * (1 - bounded * near) + near;
#else
  return 1 / x;
#endif
}

// exp(x) as a weight of a softmax: within a few units of the largest one.
__device__ __forceinline__ double weight_of(double x) { return std::exp(x); }
__device__ __forceinline__ float weight_of(float x) {
#ifdef __CUDACC__
  float weight;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(weight) : "f"(x * 1.44269504f));
  return weight;
#else
  return std::exp(x);
#endif
}

// Shifts between the frames in two slots, eq. 8-12: to(region, x, y). More than 4 regions have their means overwritten.
template <int K, class A, class F>
__device__ __forceinline__ void pair_of_frames(const Stage<A>& stage, int32_t slot, int32_t lane, A epsilon, F&& to) {
  constexpr bool kFew = K <= 4;                // all that is needed twice is held
  constexpr bool kHold = K * sizeof(A) < 128;  // the next frame's regions are, or registers would not do
  constexpr int kInner = kHold ? K : 1, kOuter = kFew ? K : 1;
  const auto here = [&](int k) { return stage.at(k, slot, lane); };
  const auto ahead = [&](int k) { return stage.at(k, slot + 1, lane); };
  A held[kInner], close[kInner], powers[kOuter], columns[kOuter], rows[kOuter];
  uint32_t held_places[kInner];
  const auto power = [&](int k) -> A& {
    if constexpr (kFew) return powers[k];
    return stage.means[here(k)];
  };
  A top = 0, total = 0;
#pragma unroll kInner
  for (int k = 0; k < K; ++k) {
    const A mean = (stage.means[here(k)] + stage.means[ahead(k)]) / 2;
    power(k) = mean, top = k == 0 ? mean : std::fmax(top, mean);
    if constexpr (kHold) held[k] = stage.values[ahead(k)], held_places[k] = stage.places[ahead(k)];
    if constexpr (kFew) {
      columns[k] = static_cast<A>(column_of(held_places[k])), rows[k] = static_cast<A>(row_of(held_places[k]));
    }
  }
#pragma unroll kInner
  for (int k = 0; k < K; ++k) power(k) = std::exp(power(k) - top), total += power(k);
#pragma unroll kOuter
  for (int a = 0; a < K; ++a) {
    const A value = stage.values[here(a)];
    const uint32_t from = stage.places[here(a)];
    const A column = static_cast<A>(column_of(from)), row = static_cast<A>(row_of(from));
    const auto closeness = [&](A next) { return inverse(std::abs(value - next) + epsilon); };
    A largest = 0, whole = 0, x = 0, y = 0;
#pragma unroll kInner
    for (int b = 0; b < K; ++b) {
      A near;
      if constexpr (kHold) {
        near = close[b] = closeness(held[b]);
      } else {
        near = closeness(stage.values[ahead(b)]);
      }
      largest = std::fmax(largest, near);  // a NaN comes back as its own weight
    }
#pragma unroll kInner
    for (int b = 0; b < K; ++b) {
      A near, next_column, next_row;
      if constexpr (kHold) {
        near = close[b];
      } else {
        near = closeness(stage.values[ahead(b)]);
      }
      if constexpr (kFew) {
        next_column = columns[b], next_row = rows[b];
      } else {
        uint32_t place;
        if constexpr (kHold) {
          place = held_places[b];
        } else {
          place = stage.places[ahead(b)];
        }
        next_column = static_cast<A>(column_of(place)), next_row = static_cast<A>(row_of(place));
      }
      const A weight = weight_of(near - largest);
      whole += weight, x += weight * (next_column - column), y += weight * (next_row - row);
    }
    const A share = power(a) * inverse(total * whole);
    to(a, share * x, share * y);
  }
}

// What a block of a forward kernel has: sets from the first one on, and frames from `first` to `last`.
struct ForwardBlock {
  int64_t n;
  int32_t c0, first_set, first, last;
  __device__ __forceinline__ explicit ForwardBlock(const KeypointArgs& a) {
    uint32_t block = blockIdx.x;
    first_set = static_cast<int32_t>(block % a.set_chunks) * a.sets, block /= a.set_chunks;
    first = static_cast<int32_t>(block % a.spans) * a.span, block /= a.spans;
    c0 = static_cast<int32_t>(block % a.groups) * kLane;
    n = block / a.groups, last = min(first + a.span, a.T - 1);
  }
  // How many of a chunk's frames are this block's to write: the one that the next block begins with is that one's.
  __device__ __forceinline__ int32_t written(const KeypointArgs& a, int32_t t0, int32_t count) const {
    return t0 + count > last && last < a.T - 1 ? count - 1 : count;
  }
};

// f(place in the stage, offset) for slots `begin` to `end` - 1 of one region, so that neighbouring lanes have
// neighbouring elements of (C, length): slot s is element from + s of its row.
template <class A, class F>
__device__ __forceinline__ void each_slot(const KeypointArgs& a, const Stage<A>& stage, int32_t k, int32_t c0,
                                          int32_t begin, int32_t end, int32_t from, int32_t length, F&& f) {
  const int32_t lane = threadIdx.x % kLane, channels = min(kLane, a.C - c0), together = kLane >> a.chunk_log2;
  const int32_t slot = begin + (lane & ((1 << a.chunk_log2) - 1));
  if (slot >= end) return;
  int64_t offset = static_cast<int64_t>(c0 + (lane >> a.chunk_log2)) * length + from + slot;
#pragma unroll 4
  for (int32_t channel = lane >> a.chunk_log2; channel < channels; channel += together) {
    f(stage.at(k, slot, channel), offset);
    offset += static_cast<int64_t>(together) * length;
  }
}

// Values, means and key points of the first frames of a chunk that begins at t0.
template <class A>
__device__ __forceinline__ void write_regions(const KeypointArgs& a, const ForwardBlock& p, int32_t set, int32_t k,
                                              int32_t t0, int32_t frames, const Stage<A>& stage,
                                              const KeypointResults<A>& to) {
  const int64_t row = ((p.n * a.G + set) * a.regions() + k) * a.C * a.T;
  each_slot(a, stage, k, p.c0, 1, frames + 1, t0 - 1, a.T, [&](int32_t i, int64_t offset) {
    to.values[row + offset] = stage.values[i];
    to.means[row + offset] = stage.means[i];
    to.keypoints[row + offset] = stage.places[i];
  });
}

template <class A>
struct alignas(2 * sizeof(A)) Shift {
  A x, y;
};

// Shifts, which lie where values and means have been.
template <class A>
__device__ __forceinline__ void write_shifts(const KeypointArgs& a, const ForwardBlock& p, int32_t set, int32_t k,
                                             int32_t t0, int32_t begin, int32_t end, const Stage<A>& stage,
                                             const KeypointResults<A>& to) {
  const int64_t row = ((p.n * a.G + set) * a.regions() + k) * a.C * (a.T - 1);
  Shift<A>* shifts = reinterpret_cast<Shift<A>*>(to.shifts) + row;
  each_slot(a, stage, k, p.c0, begin, end, t0 - 1, a.T - 1,
            [&](int32_t i, int64_t offset) { shifts[offset] = {stage.values[i], stage.means[i]}; });
}

// A block has kLane channels of one clip, a set a warp, and walks along time.
template <int R, class T>
__global__ void __launch_bounds__(kKeypointThreads, sizeof(T) < 8 ? 2 : 1)
    keypoint_forward_kernel(const __grid_constant__ KeypointArgs a, const __grid_constant__ Steps<const T> x,
                            const T* __restrict__ separators, const device_acc_t<T> epsilon,
                            const __grid_constant__ KeypointResults<device_acc_t<T>> to) {
  using A = device_acc_t<T>;
  constexpr int K = R * R;
  const int32_t lane = threadIdx.x % kLane, warp = threadIdx.x / kLane;
  const ForwardBlock p(a);
  const int32_t set = p.first_set + warp, chunk = 1 << a.chunk_log2;
  const bool active = set < a.G;

  double* sums = dynamic_shared<double>() + warp * K * kLane;
  const int32_t size = stage_size(K, a.chunk_log2);
  A* numbers = reinterpret_cast<A*>(dynamic_shared<double>() + a.sets * K * kLane);
  const Stage<A> stage{numbers + warp * size, numbers + (a.sets + warp) * size,
                       reinterpret_cast<uint32_t*>(numbers + 2 * a.sets * size) + warp * size, slot_pitch(a.chunk_log2),
                       (chunk + 1) * slot_pitch(a.chunk_log2)};
  // A whole number of 32 places lies before the splits.
  Split<A>* all = reinterpret_cast<Split<A>*>(reinterpret_cast<uint32_t*>(numbers + 2 * a.sets * size) + a.sets * size);
  Split<A>* splits = all + warp * 2 * chunk;
  A* map = reinterpret_cast<A*>(all + a.sets * 2 * chunk);

  for (int32_t t0 = p.first; t0 <= p.last; t0 += chunk) {
    const int32_t count = min(chunk, p.last + 1 - t0);
    for (int32_t i = lane; active && i < 2 * count; i += kLane) {
      split_axis(separators + a.lines_at(p.n, set, t0 + i / 2, i % 2), R, i % 2 ? a.H : a.W, splits[i]);
    }
    for (int32_t f = 0; f < count; ++f) {
      for (int32_t tile_index = 0; tile_index < a.tiles; ++tile_index) {
        const FrameTile tile(a, tile_index);
        __syncthreads();
        load_tile(a, x, p.n, p.c0, t0 + f, tile, map);
        __syncthreads();
        if (!active) continue;
        const Split<A>&across = splits[2 * f], &down = splits[2 * f + 1];
#pragma unroll 1
        for (int k = 0; k < K; ++k) {
          const int32_t bx = k % R, by = k / R, i = stage.at(k, f + 1, lane);
          RegionState<A> state{-INFINITY, place_of_pixel(down.first[by], across.first[bx]), 0};
          if (tile_index > 0) state = {stage.values[i], stage.places[i], sums[k * kLane + lane]};
          scan_region(tile, map + lane, across, down, bx, by, state);
          stage.values[i] = state.best, stage.places[i] = state.place;
          if (tile_index < a.tiles - 1) {
            sums[k * kLane + lane] = state.sum;
          } else {
            stage.means[i] = static_cast<A>(state.sum / (static_cast<double>(down.width(by)) * across.width(bx)));
          }
        }
      }
    }
    if (!active) continue;
    __syncwarp();
    const int32_t written = p.written(a, t0, count), begin = t0 == p.first ? 1 : 0;
    for (int32_t k = 0; k < K; ++k) write_regions(a, p, set, k, t0, written, stage, to);
    __syncwarp();
    for (int32_t slot = begin; slot < count; ++slot) {
      // They take the place of the first frame's values and means.
      pair_of_frames<K>(stage, slot, lane, epsilon, [&](int k, A dx, A dy) {
        const int32_t i = stage.at(k, slot, lane);
        stage.values[i] = dx, stage.means[i] = dy;
      });
    }
    __syncwarp();
    for (int32_t k = 0; k < K; ++k) write_shifts(a, p, set, k, t0, begin, count, stage, to);
    __syncwarp();
    for (int32_t k = 0; k < K; ++k) stage.keep_last(k, count, lane);
    __syncwarp();
  }
}

}  // namespace
}  // namespace vidops
