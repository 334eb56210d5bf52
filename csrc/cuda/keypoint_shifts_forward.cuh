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
  // A band's ends: a pixel each, but for rounding.
  struct End {
    int32_t at;
    A weight;
    bool is_there, is_member;
  };
  const auto end_of_band = [&](int32_t j, bool is_there) {
    return End{j * kPitch, across.cover(j, bx), is_there, member(j)};
  };
  const End before = end_of_band(x.begin, x.begin < x.inner), after = end_of_band(x.outer, x.outer < x.end);
  const bool odd = x.inner - x.begin > 1 || x.end - x.outer > 1;
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
        if (weight > 0) part[i] += v * weight;
        if (is_member) largest[i] = larger(largest[i], v);
      }
    };
    if (before.is_there) take(before.at, before.weight, before.is_member);
    if (after.is_there) take(after.at, after.weight, after.is_member);
#pragma unroll 1
    for (int32_t j = x.begin + 1; odd && j < x.end; ++j) {
      if (j < x.inner || j > x.outer) take(j * kPitch, across.cover(j, bx), member(j));
    }
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

// Shifts between the frames in two slots, eq. 8-12. They take the place of the first frame's values and means.
template <int K, class A>
__device__ __forceinline__ void pair_of_frames(const Stage<A>& stage, int32_t slot, int32_t lane, A epsilon) {
  constexpr bool kHold = K * sizeof(A) < 128;  // the next frame's regions, or registers would not do
  constexpr int kInner = kHold ? K : 1, kOuter = K <= 4 ? K : 1;
  const auto here = [&](int k) { return stage.at(k, slot, lane); };
  const auto ahead = [&](int k) { return stage.at(k, slot + 1, lane); };
  A held[kInner];
  uint32_t held_places[kInner];
  A top = 0, total = 0;
#pragma unroll kInner
  for (int k = 0; k < K; ++k) {
    const A mean = (stage.means[here(k)] + stage.means[ahead(k)]) / 2;
    stage.means[here(k)] = mean, top = k == 0 || mean > top ? mean : top;
    if constexpr (kHold) held[k] = stage.values[ahead(k)], held_places[k] = stage.places[ahead(k)];
  }
#pragma unroll kInner
  for (int k = 0; k < K; ++k) {
    const A power = std::exp(stage.means[here(k)] - top);
    stage.means[here(k)] = power, total += power;
  }
#pragma unroll kOuter
  for (int a = 0; a < K; ++a) {
    const A value = stage.values[here(a)], share = stage.means[here(a)] / total;
    const uint32_t from = stage.places[here(a)];
    const auto closeness = [&](int b) {
      A next;
      if constexpr (kHold) {
        next = held[b];
      } else {
        next = stage.values[ahead(b)];
      }
      const A d = value - next;
      return A(1) / ((d < 0 ? -d : d) + epsilon);
    };
    A largest = 0, whole = 0, x = 0, y = 0;
#pragma unroll kInner
    for (int b = 0; b < K; ++b) {
      const A close = closeness(b);
      largest = b == 0 || close > largest ? close : largest;
    }
#pragma unroll kInner
    for (int b = 0; b < K; ++b) {
      uint32_t place;
      if constexpr (kHold) {
        place = held_places[b];
      } else {
        place = stage.places[ahead(b)];
      }
      const A weight = std::exp(closeness(b) - largest);
      whole += weight;
      x += weight * static_cast<A>(column_of(place) - column_of(from));
      y += weight * static_cast<A>(row_of(place) - row_of(from));
    }
    stage.values[here(a)] = share * (x / whole), stage.means[here(a)] = share * (y / whole);
  }
}

template <class A>
struct alignas(2 * sizeof(A)) Shift {
  A x, y;
};

// f(region, slot, lane, offset) for the frames of slots first to end - 1, so that neighbouring lanes have neighbouring
// elements of (K, C, length): slot s is element from + s of its row.
template <class F>
__device__ __forceinline__ void each_slot(const KeypointArgs& a, int32_t c0, int32_t first, int32_t end, int32_t from,
                                          int32_t length, F&& f) {
  const int32_t most = 1 << a.chunk_log2, channels = min(kLane, a.C - c0);
  for (int32_t k = 0; k < a.regions(); ++k) {
    for (int32_t i = threadIdx.x % kLane; i < channels << a.chunk_log2; i += kLane) {
      const int32_t slot = first + (i & (most - 1)), lane = i >> a.chunk_log2;
      if (slot < end) f(k, slot, lane, (static_cast<int64_t>(k) * a.C + c0 + lane) * length + from + slot);
    }
  }
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
  uint32_t block = blockIdx.x;
  const int32_t set = static_cast<int32_t>(block % a.set_chunks) * a.sets + warp;
  block /= a.set_chunks;
  const int32_t first = static_cast<int32_t>(block % a.spans) * a.span;
  block /= a.spans;
  const int32_t c0 = static_cast<int32_t>(block % a.groups) * kLane;
  const int64_t n = block / a.groups;
  const int32_t last = min(first + a.span, a.T - 1), chunk = 1 << a.chunk_log2;
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

  for (int32_t t0 = first; t0 <= last; t0 += chunk) {
    const int32_t count = min(chunk, last + 1 - t0);
    for (int32_t i = lane; active && i < 2 * count; i += kLane) {
      split_axis(separators + a.lines_at(n, set, t0 + i / 2, i % 2), R, i % 2 ? a.H : a.W, splits[i]);
    }
    for (int32_t f = 0; f < count; ++f) {
      for (int32_t tile_index = 0; tile_index < a.tiles; ++tile_index) {
        const FrameTile tile(a, tile_index);
        __syncthreads();
        load_tile(a, x, n, c0, t0 + f, tile, map);
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
    // The frame that the next block begins with is the next block's.
    const int32_t written = t0 + count > last && last < a.T - 1 ? count - 1 : count;
    const int64_t row = (n * a.G + set) * K * a.C, frames = row * a.T, pairs = row * (a.T - 1);
    each_slot(a, c0, 1, written + 1, t0 - 1, a.T, [&](int32_t k, int32_t slot, int32_t channel, int64_t offset) {
      const int32_t i = stage.at(k, slot, channel);
      to.values[frames + offset] = stage.values[i];
      to.means[frames + offset] = stage.means[i];
      to.keypoints[frames + offset] = stage.places[i];
    });
    __syncwarp();
    const int32_t begin = t0 == first ? 1 : 0;
    for (int32_t slot = begin; slot < count; ++slot) pair_of_frames<K>(stage, slot, lane, epsilon);
    __syncwarp();
    each_slot(a, c0, begin, count, t0 - 1, a.T - 1, [&](int32_t k, int32_t slot, int32_t channel, int64_t offset) {
      const int32_t i = stage.at(k, slot, channel);
      reinterpret_cast<Shift<A>*>(to.shifts)[pairs + offset] = {stage.values[i], stage.means[i]};
    });
    __syncwarp();
    for (int k = 0; k < K; ++k) {
      const int32_t i = stage.at(k, 0, lane), j = stage.at(k, count, lane);
      stage.values[i] = stage.values[j], stage.means[i] = stage.means[j], stage.places[i] = stage.places[j];
    }
    __syncwarp();
  }
}

}  // namespace
}  // namespace vidops
