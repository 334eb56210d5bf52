// What the kernels of keypoint_shifts share: tiles of a frame in shared memory, and the lines of a set; the idea is
// told in keypoint_shifts.cu.
#pragma once

#include "common/cuda.h"
#include "common/keypoint_shifts.h"
#include "common/pack.h"
#include "cuda/steps.cuh"

namespace vidops {
namespace {

constexpr int32_t kLane = 32;          // channels of a block: one a lane
constexpr int32_t kPitch = kLane + 1;  // of a pixel in shared memory: neither pixels nor channels meet in a bank
constexpr int32_t kKeypointThreads = 256;

// Sizes of a call, and who takes what. A tile is whole rows of a frame or a part of one row.
struct KeypointArgs {
  int32_t C, T, H, W, G, bands;
  int32_t last;              // channels last
  int32_t groups;            // of kLane channels
  int32_t rows, columns;     // of a tile
  int32_t tiles_x, tiles;    // of a frame
  int32_t sets, set_chunks;  // of a block; what a set is to it is told by each kernel
  int32_t span, spans;       // forward: pairs of frames of a block
  int32_t chunk_log2;        // forward: frames between two writes

  __host__ __device__ __forceinline__ int32_t regions() const { return bands * bands; }
  // The numbers of one set's frames, from one set of splits to the next.
  __device__ __forceinline__ int64_t lines_at(int64_t n, int32_t set, int32_t t, int32_t axis) const {
    return (((n * G + set) * T + t) * 2 + axis) * (bands - 1);
  }
};

struct FrameTile {
  int32_t y0, y1, x0, x1;
  __device__ __forceinline__ FrameTile(const KeypointArgs& a, int32_t tile)
      : y0(tile / a.tiles_x * a.rows),
        y1(min(y0 + a.rows, a.H)),
        x0(tile % a.tiles_x * a.columns),
        x1(min(x0 + a.columns, a.W)) {}
  __device__ __forceinline__ int32_t width() const { return x1 - x0; }
  __device__ __forceinline__ int32_t pixels() const { return (y1 - y0) * width(); }
  // Where a pixel of lane 0 lies in shared memory.
  __device__ __forceinline__ int32_t at(int32_t y, int32_t x) const { return ((y - y0) * width() + x - x0) * kPitch; }
};

// f(element of shared memory, element of the clip) for all pixels and channels of a tile, whatever lies side by side
// in the clip by neighbouring lanes.
template <class T, class F>
__device__ __forceinline__ void each_element(const KeypointArgs& a, const Steps<T>& x, int64_t n, int32_t c0, int32_t t,
                                             const FrameTile& tile, F&& f) {
  const int32_t lane = threadIdx.x % kLane, warp = threadIdx.x / kLane, warps = blockDim.x / kLane;
  const int32_t pixels = tile.pixels();
  T* from = x.at(n, c0, t) + (static_cast<int64_t>(tile.y0) * a.W + tile.x0) * x.p;
  if (a.last) {
    if (c0 + lane >= a.C) return;
    from += lane * x.c;
#pragma unroll 4
    for (int32_t i = warp; i < pixels; i += warps) f(i * kPitch + lane, from + i * x.p);
  } else {
    for (int32_t channel = warp; channel < min(kLane, a.C - c0); channel += warps) {
#pragma unroll 4
      for (int32_t i = lane; i < pixels; i += kLane) f(i * kPitch + channel, from + channel * x.c + i * x.p);
    }
  }
}

template <class T>
__device__ __forceinline__ void load_tile(const KeypointArgs& a, const Steps<const T>& x, int64_t n, int32_t c0,
                                          int32_t t, const FrameTile& tile, device_acc_t<T>* to) {
  each_element(a, x, n, c0, t, tile,
               [&](int32_t i, const T* from) { to[i] = static_cast<device_acc_t<T>>(load_pack<1>(from).at[0]); });
}

// Splits of `sets` sets of a frame from `first` on, [set][axis], by all threads of the block.
template <class T>
__device__ __forceinline__ void place_lines(const KeypointArgs& a, const T* separators, int64_t n, int32_t t,
                                            int32_t first, int32_t sets, Split<device_acc_t<T>>* to) {
  for (int32_t i = threadIdx.x; i < 2 * sets; i += blockDim.x) {
    const int32_t axis = i % 2;
    split_axis(separators + a.lines_at(n, first + i / 2, t, axis), a.bands, axis ? a.H : a.W, to[i]);
  }
}

// The pixels of a band in a tile: [begin, end) have a part in it, [inner, outer) lie in it wholly; no more than one is
// on either side of these. All that are members by their centre have a part.
struct BandRange {
  int32_t begin, inner, outer, end;
  template <class A>
  __device__ __forceinline__ BandRange(const Split<A>& s, int32_t band, int32_t low, int32_t high) {
    const A from = s.border[band], to = s.border[band + 1];
    begin = max(static_cast<int32_t>(std::floor(from)), low);
    end = max(min(static_cast<int32_t>(std::ceil(to)), high), begin);
    inner = min(max(static_cast<int32_t>(std::ceil(from)), begin), end);
    outer = max(min(static_cast<int32_t>(std::floor(to)), end), inner);
  }
};

// The larger one, NaN where there is one.
__device__ __forceinline__ double larger(double a, double b) { return b > a || b != b ? b : a; }
__device__ __forceinline__ float larger(float a, float b) {
#ifdef __CUDACC__
  float found;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(found) : "f"(a), "f"(b));
  return found;
#else
  return b > a || b != b ? b : a;
#endif
}

// Coordinates of a key point as they lie in memory: x, then y, 16 bits each.
__device__ __forceinline__ uint32_t place_of_pixel(int32_t y, int32_t x) {
  return static_cast<uint32_t>(y) << 16 | static_cast<uint32_t>(x);
}
__device__ __forceinline__ int32_t row_of(uint32_t place) { return static_cast<int32_t>(place >> 16); }
__device__ __forceinline__ int32_t column_of(uint32_t place) { return static_cast<int32_t>(place & 0xffffu); }

}  // namespace
}  // namespace vidops
