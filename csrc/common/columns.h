// Who computes what in kernels that walk clips along time.
//
// A column is V neighbouring elements of the fast axis, through all frames: V positions of one channel (planar
// layouts), or V channels of one position (channels last). A thread owns whole columns of the same channels, so
// that whatever belongs to a channel stays in its registers, and a block owns the columns of `lanes` neighbouring
// channel places: one in planar layouts, up to a warp's width in channels last. Clips and positions of a channel
// place are numbered through, cut into shares, and a block walks one share.
//
//     blockIdx.x  channel place / lanes      blockIdx.y  share      blockIdx.z  slab of clips
//
// A slab has so few clips that columns count in 32 bits; offsets into a tensor are in 64.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/cuda.h"

namespace vidops {

constexpr int kColumnThreads = 128;

// n / divisor for n < 2^31 by a multiplication.
struct Divisor {
  uint32_t divisor = 1, magic = 1, shift = 0;
  Divisor() = default;
  explicit Divisor(uint32_t d) : divisor(d) {
    while (shift < 32 && (uint64_t{1} << shift) < d) ++shift;
    magic = static_cast<uint32_t>(((uint64_t{1} << 32) * ((uint64_t{1} << shift) - d)) / d + 1);
  }
  __device__ __forceinline__ uint32_t divide(uint32_t n) const { return (__umulhi(n, magic) + n) >> shift; }
};

// Elements from one clip, channel place, frame and unit (column of a channel place) to the next.
struct ColumnStrides {
  int64_t clip, place, frame, unit;
};

struct Columns {
  int64_t clips, slab_clips;
  uint32_t units;  // columns of a channel place in one clip
  uint32_t share;  // columns of a channel place that a block walks: at most this many
  int32_t places;  // channel places
  uint32_t lanes_log2;
  Divisor by_units;
  uint32_t shares, slabs;  // grid.y, grid.z
};

// Lanes of a block along channel places in channels last: a warp's width, fewer where many would stand idle.
inline uint32_t lanes_log2(int64_t places) {
  uint32_t best = 5;
  const auto idle = [&](uint32_t log) { return ((places + (1 << log) - 1) >> log << log) - places; };
  for (uint32_t log = 4; log >= 2 && idle(best) * 8 > places; --log) {
    if (idle(log) < idle(best)) best = log;
  }
  return best;
}

constexpr int64_t kSlabColumns = int64_t{1} << 30;  // the largest number, and one more step, is far from 2^31

// `trips`: how often a thread goes round in a share, at most; fewer when the shares are then too few for the device.
inline Columns make_columns(int64_t clips, int64_t units, int64_t places, uint32_t lanes_log2, int64_t min_blocks,
                            int64_t trips, int64_t slab_columns = kSlabColumns) {
  STD_TORCH_CHECK(units < slab_columns && places < (int64_t{1} << 31),
                  "a clip of more than 2^30 positions or 2^31 channels is too large for the CUDA kernels");
  Columns k;
  k.clips = clips;
  k.slab_clips = std::min(clips, slab_columns / units);
  k.slabs = static_cast<uint32_t>((clips + k.slab_clips - 1) / k.slab_clips);
  k.units = static_cast<uint32_t>(units);
  k.by_units = Divisor(k.units);
  k.places = static_cast<int32_t>(places);
  k.lanes_log2 = lanes_log2;
  const int64_t rows = kColumnThreads >> lanes_log2;
  const int64_t rounds = (k.slab_clips * units + rows - 1) / rows;  // of a block, if it had everything
  const int64_t across = (places + (1 << lanes_log2) - 1) >> lanes_log2;
  int64_t shares = std::max((rounds + trips - 1) / trips, std::min(rounds, (min_blocks + across - 1) / across));
  shares = std::min<int64_t>(shares, 65535);
  const int64_t share_rounds = (rounds + shares - 1) / shares;
  k.share = static_cast<uint32_t>(share_rounds * rows);
  k.shares = static_cast<uint32_t>((rounds + share_rounds - 1) / share_rounds);
  STD_TORCH_CHECK(k.slabs <= 65535, "x has too many clips for the CUDA kernels: ", clips);
  return k;
}

inline dim3 column_grid(const Columns& k) {
  return dim3((k.places + (1 << k.lanes_log2) - 1) >> k.lanes_log2, k.shares, k.slabs);
}

// What one thread walks: columns first, first + step, ... below `end` of its channel place.
struct Walk {
  int32_t place;
  int64_t clip;  // the slab's first
  uint32_t first, end, step;
  bool active;  // an inactive thread walks nothing, and meets the others at barriers
};

__device__ __forceinline__ Walk walk_of(const Columns& k) {
  Walk w;
  const uint32_t lane = threadIdx.x & ((1u << k.lanes_log2) - 1), row = threadIdx.x >> k.lanes_log2;
  w.place = static_cast<int32_t>((blockIdx.x << k.lanes_log2) + lane);
  w.clip = static_cast<int64_t>(blockIdx.z) * k.slab_clips;
  const int64_t left = k.clips - w.clip;
  const uint32_t count = static_cast<uint32_t>(left < k.slab_clips ? left : k.slab_clips) * k.units;
  const uint32_t begin = blockIdx.y * k.share;
  w.active = w.place < k.places;
  w.end = !w.active || begin >= count ? 0 : count - begin < k.share ? count : begin + k.share;
  w.first = begin + row;
  w.step = kColumnThreads >> k.lanes_log2;
  return w;
}

// Where a column begins, from the tensor's first element.
__device__ __forceinline__ int64_t column_offset(const Columns& k, const Walk& w, uint32_t column,
                                                 const ColumnStrides& s) {
  const uint32_t clip = k.by_units.divide(column), unit = column - clip * k.units;
  return (w.clip + clip) * s.clip + w.place * s.place + unit * s.unit;
}

}  // namespace vidops
