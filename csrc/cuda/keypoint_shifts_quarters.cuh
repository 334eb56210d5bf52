// Forward kernel of keypoint_shifts for sets of four regions: kShare sets take all they need from one walk over a
// frame; the idea is told in keypoint_shifts.cu.
#pragma once

#include "cuda/keypoint_shifts_forward.cuh"

namespace vidops {
namespace {

constexpr int kShare = 4;          // sets of a walk
constexpr int kWalkedRows = 2;     // rows of a step of it
constexpr int32_t kMostSide = 64;  // of a frame whose sums stay in the accumulation type
constexpr int kQuarters = 4;

// The part of a pixel that a vertical line in it cuts off from its centre.
template <class A>
struct alignas(2 * sizeof(A)) Moved {
  A share;     // above 0 if it is left of the line, else below
  int32_t at;  // the pixel, in a row in shared memory
};

// Two lines that cross, and what is to be done where.
template <class A>
struct Cross {
  Moved<A> moved;
  int32_t set;
  int32_t first_x, first_y;  // pixel that the second band begins with, by its centre
  int32_t pixel_y;           // row that the horizontal line lies in
  A above;                   // its share above the line
  A inverse[kQuarters];      // 1 / area
};

// Those of a frame, in the order of first_x, by one warp. Where there are fewer than kShare, the rest is behind the
// frame, and nothing comes of it.
template <class T, class A = device_acc_t<T>>
__device__ __forceinline__ void place_crosses(const KeypointArgs& a, const T* separators, int64_t n, int32_t t,
                                              int32_t first, int32_t sets, Split<A>* splits, Cross<A>* to) {
  const int32_t lane = threadIdx.x % kLane;
  for (int32_t i = lane; i < 2 * sets; i += kLane) {
    split_axis(separators + a.lines_at(n, first + i / 2, t, i % 2), 2, i % 2 ? a.H : a.W, splits[i]);
  }
  __syncwarp();
  if (lane < sets) {
    const Split<A>&across = splits[2 * lane], &down = splits[2 * lane + 1];
    int32_t place = 0;
    for (int32_t other = 0; other < sets; ++other) {
      const int32_t x = splits[2 * other].first[1];
      place += x < across.first[1] || (x == across.first[1] && other < lane);
    }
    Cross<A>& cross = to[place];
    const int32_t pixel_x = static_cast<int32_t>(across.pixel(0));
    const A left = across.border[1] - static_cast<A>(pixel_x);
    cross.moved = {across.first[1] > pixel_x ? left - 1 : left, pixel_x * kPitch};
    cross.set = lane, cross.first_x = across.first[1], cross.first_y = down.first[1];
    cross.pixel_y = static_cast<int32_t>(down.pixel(0));
    cross.above = down.border[1] - static_cast<A>(cross.pixel_y);
    for (int k = 0; k < kQuarters; ++k) cross.inverse[k] = 1 / (down.width(k / 2) * across.width(k % 2));
  } else if (lane < kShare) {
    to[lane].moved = {0, 0}, to[lane].first_x = a.W, to[lane].first_y = to[lane].pixel_y = -1;
  }
  __syncwarp();
}

// Pixels of a load, where memory lies so that they can be loaded at once, and channels that go together.
template <class T>
constexpr int kTogetherX = sizeof(T) < 8 ? 4 : 2;
constexpr int kTogetherC = 4;

template <class T>
__device__ __forceinline__ bool has_packs(const KeypointArgs& a, const Steps<const T>& x) {
  return !a.last && x.p == 1 && (x.n | x.c | x.t) % kTogetherX<T> == 0 &&
         reinterpret_cast<uintptr_t>(x.data) % sizeof(Pack<T, kTogetherX<T>>) == 0;
}

// Rows of a frame from `from` on, as load_tile puts them, by one warp that waits for memory as seldom as it can.
template <class T>
__device__ __forceinline__ void load_rows(const KeypointArgs& a, const Steps<const T>& x, const T* from,
                                          int32_t channels, int32_t pixels, bool packs, device_acc_t<T>* to) {
  using A = device_acc_t<T>;
  constexpr int kPack = kTogetherX<T>, kBatch = kLane / kTogetherC;
  const int32_t lane = threadIdx.x % kLane;
  if (packs) {
    // Elements of lanes that store together meet in no bank, as 4 i + c is another one for each.
    const int32_t channel = lane % kTogetherC;
    for (int32_t i = lane / kTogetherC * kPack; i < pixels; i += kLane / kTogetherC * kPack) {
      const T* p = from + channel * x.c + i;
      Pack<T, kPack> batch[kBatch];
#pragma unroll
      for (int j = 0; j < kBatch; ++j, p += kTogetherC * x.c) {
        if (channel + j * kTogetherC < channels) batch[j] = load_pack<kPack>(p);
      }
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
#pragma unroll
        for (int v = 0; v < kPack; ++v) to[(i + v) * kPitch + channel + j * kTogetherC] = value(batch[j], v);
      }
    }
  } else if (a.last) {
    if (lane >= channels) return;
    from += lane * x.c, to += lane;
#pragma unroll 14
    for (int32_t i = 0; i < pixels; ++i, from += x.p) to[i * kPitch] = static_cast<A>(load_pack<1>(from).at[0]);
  } else {
    for (int32_t i = lane; i < pixels; i += kLane) {
      const T* p = from + i * x.p;
#pragma unroll 16
      for (int j = 0; j < channels; ++j, p += x.c) to[i * kPitch + j] = static_cast<A>(load_pack<1>(p).at[0]);
    }
  }
}

template <class A>
struct Part {
  A value;  // the largest
  uint32_t place;
  A sum;

  __device__ __forceinline__ void follow(const Part& behind) {
    if (behind.value > value) value = behind.value, place = behind.place;
    sum += behind.sum;
  }
  __device__ __forceinline__ void precede(const Part& before) {
    if (before.value >= value) value = before.value, place = before.place;
    sum += before.sum;
  }
};

// One region of one channel, pixel by pixel from memory, none but those that have a part in it.
template <class T, class A = device_acc_t<T>>
__device__ __forceinline__ void region_with_care(const T* map, int64_t step, int32_t width, const Split<A>& across,
                                                 const Split<A>& down, int32_t k, const Stage<A>& stage, int32_t to) {
  const int32_t bx = k % 2, by = k / 2;
  const BandRange x(across, bx, 0, across.first[2]), y(down, by, 0, down.first[2]);
  A best = -INFINITY;
  uint32_t place = place_of_pixel(down.first[by], across.first[bx]);
  double sum = 0;
#pragma unroll 1
  for (int32_t row = y.begin; row < y.end; ++row) {
#pragma unroll 1
    for (int32_t j = x.begin; j < x.end; ++j) {
      const A v = static_cast<A>(map[(static_cast<int64_t>(row) * width + j) * step]);
      const double cover = static_cast<double>(down.cover(row, by)) * across.cover(j, bx);
      sum += v * cover;
      const bool member =
          j >= across.first[bx] && j < across.first[bx + 1] && row >= down.first[by] && row < down.first[by + 1];
      if (member && !(v <= best) && best == best) best = v, place = place_of_pixel(row, j);
    }
  }
  stage.values[to] = best, stage.places[to] = place;
  stage.means[to] = static_cast<A>(sum / (static_cast<double>(down.width(by)) * across.width(bx)));
}

// What a warp knows of its frame while it walks.
template <class A>
struct Walk {
  const KeypointArgs& a;
  const Cross<A>* crosses;
  const A* rows;   // of this lane
  Stage<A> stage;  // of set 0
  int32_t size, slot;
  uint64_t events;  // rows that a horizontal line is in, or first in
  // What the sets' current bands have so far, left and right; what all of them have been, times 0.
  Part<A> parts[kShare][2];
  A zero = 0;

  __device__ __forceinline__ int32_t at(int e, int k) const {
    return crosses[e].set * size + stage.at(k, slot, threadIdx.x % kLane);
  }
  __device__ __forceinline__ void begin_maxima(int e) { parts[e][0].value = parts[e][1].value = -INFINITY; }
  __device__ __forceinline__ void end_maxima(int e, int band) {
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const int32_t i = at(e, 2 * band + side);
      stage.values[i] = parts[e][side].value, stage.places[i] = parts[e][side].place;
    }
  }
  __device__ __forceinline__ void end_sums(int e, int band) {
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const A mean = parts[e][side].sum * crosses[e].inverse[2 * band + side];
      stage.means[at(e, 2 * band + side)] = mean, zero += mean * 0;
    }
  }

  // The strips of a row between neighbouring lines, to all sets. kEvents: horizontal lines may be in it or before it.
  template <bool kEvents>
  __device__ __forceinline__ void take_row(int32_t row, const A* pixels, const Part<A> (&strips)[kShare + 1]) {
    Part<A> right[kShare];
    right[kShare - 1] = strips[kShare];
#pragma unroll
    for (int e = kShare - 1; e > 0; --e) right[e - 1] = right[e], right[e - 1].precede(strips[e]);
    Part<A> so_far = strips[0];
#pragma unroll
    for (int e = 0; e < kShare; ++e) {
      if (e > 0) so_far.follow(strips[e]);
      Part<A> left = so_far;
      const Moved<A> moved = crosses[e].moved;
      const A v = pixels[moved.at];
      left.sum += v * moved.share, right[e].sum -= v * moved.share;
      if (kEvents && row == crosses[e].first_y) end_maxima(e, 0), begin_maxima(e);
      if (kEvents && row == crosses[e].pixel_y) {
        const A above = crosses[e].above;
        parts[e][0].sum += left.sum * above, parts[e][1].sum += right[e].sum * above;
        end_sums(e, 0);
        left.sum *= 1 - above, right[e].sum *= 1 - above;
        parts[e][0].sum = parts[e][1].sum = 0;
      }
      parts[e][0].follow(left), parts[e][1].follow(right[e]);
    }
  }

  __device__ __forceinline__ void take_rows(int32_t y) {
    Part<A> strips[kWalkedRows][kShare + 1];
    const A* pixel = rows;
    int32_t x = 0;
#pragma unroll
    for (int e = 0; e <= kShare; ++e) {
      const int32_t end = e < kShare ? crosses[e].first_x : a.W;
#pragma unroll
      for (int r = 0; r < kWalkedRows; ++r) strips[r][e] = {-INFINITY, 0, 0};
#pragma unroll 1
      for (; x < end; ++x, pixel += kPitch) {
#pragma unroll
        for (int r = 0; r < kWalkedRows; ++r) {
          const A v = pixel[r * a.W * kPitch];
          strips[r][e].follow({v, static_cast<uint32_t>(x), v});
        }
      }
#pragma unroll
      for (int r = 0; r < kWalkedRows; ++r) strips[r][e].place |= place_of_pixel(y + r, 0);
    }
#pragma unroll
    for (int r = 0; r < kWalkedRows; ++r) {
      const A* pixels = rows + r * a.W * kPitch;
      if (events >> (y + r) & 1) {
        take_row<true>(y + r, pixels, strips[r]);
      } else if (y + r < a.H) {
        take_row<false>(y + r, pixels, strips[r]);
      }
    }
  }
};

// All regions of `sets` sets of a frame, to a slot of their stages.
template <class T, class A = device_acc_t<T>>
__device__ __forceinline__ void walk_frame(const KeypointArgs& a, const Steps<const T>& x, const T* map, int32_t c0,
                                           const Split<A>* splits, const Cross<A>* crosses, A* rows,
                                           const Stage<A>& stage, int32_t sets, int32_t size, int32_t slot) {
  const int32_t lane = threadIdx.x % kLane, channels = min(kLane, a.C - c0);
  uint64_t events = 0;
  for (int32_t e = 0; e < sets; ++e) events |= uint64_t{1} << crosses[e].first_y | uint64_t{1} << crosses[e].pixel_y;
  Walk<A> walk{a, crosses, rows + lane, stage, size, slot, events, {}};
  const bool packs = has_packs(a, x);
#pragma unroll
  for (int e = 0; e < kShare; ++e) walk.begin_maxima(e);
#pragma unroll 1
  for (int32_t y = 0; y < a.H; y += kWalkedRows) {
    __syncwarp();
    const int32_t pixels = min(kWalkedRows, a.H - y) * a.W;
    load_rows(a, x, map + static_cast<int64_t>(y) * a.W * x.p, channels, pixels,
              packs && (kWalkedRows * a.W | pixels) % kTogetherX<T> == 0, rows);
    __syncwarp();
    walk.take_rows(y);
  }
#pragma unroll
  for (int e = 0; e < kShare; ++e) {
    if (e < sets) walk.end_maxima(e, 1), walk.end_sums(e, 1);
  }
  // Almost always all is finite.
  if (walk.zero == 0 || lane >= channels) return;
#pragma unroll 1
  for (int32_t job = 0; job < sets * kQuarters; ++job) {
    const int32_t set = job / kQuarters, k = job % kQuarters;
    region_with_care(map + lane * x.c, x.p, a.W, splits[2 * set], splits[2 * set + 1], k, stage,
                     set * size + stage.at(k, slot, lane));
  }
}

// A block has kLane channels of one clip and a.sets sets, and walks along time, a warp a frame.
template <class T>
__global__ void __launch_bounds__(kKeypointThreads, sizeof(T) < 8 ? 2 : 1)
    keypoint_quarters_kernel(const __grid_constant__ KeypointArgs a, const __grid_constant__ Steps<const T> x,
                             const T* __restrict__ separators, const device_acc_t<T> epsilon,
                             const __grid_constant__ KeypointResults<device_acc_t<T>> to) {
  using A = device_acc_t<T>;
  const int32_t lane = threadIdx.x % kLane, warp = threadIdx.x / kLane, warps = blockDim.x / kLane;
  const ForwardBlock p(a);
  const int32_t sets = min(a.sets, a.G - p.first_set), chunk = 1 << a.chunk_log2, jobs = sets * kQuarters;
  const int32_t size = stage_size(kQuarters, a.chunk_log2), pitch = slot_pitch(a.chunk_log2);

  // Stages have a multiple of 16 elements, so that what follows is aligned.
  A* numbers = dynamic_shared<A>();
  const Stage<A> stage{numbers, numbers + a.sets * size, reinterpret_cast<uint32_t*>(numbers + 2 * a.sets * size),
                       pitch, (chunk + 1) * pitch};
  Cross<A>* crosses = reinterpret_cast<Cross<A>*>(stage.places + a.sets * size) + warp * kShare;
  Split<A>* splits = reinterpret_cast<Split<A>*>(crosses + (warps - warp) * kShare) + warp * 2 * kShare;
  A* rows = reinterpret_cast<A*>(splits + (warps - warp) * 2 * kShare) + warp * kWalkedRows * a.W * kPitch;
  const auto stage_of = [&](int32_t set) {
    return Stage<A>{stage.values + set * size, stage.means + set * size, stage.places + set * size, stage.pitch,
                    stage.step};
  };

  for (int32_t t0 = p.first; t0 <= p.last; t0 += chunk) {
    const int32_t count = min(chunk, p.last + 1 - t0), t = t0 + warp;
    if (warp < count) {
      place_crosses(a, separators, p.n, t, p.first_set, sets, splits, crosses);
      walk_frame<T>(a, x, x.at(p.n, p.c0, t), p.c0, splits, crosses, rows, stage, sets, size, warp + 1);
    }
    __syncthreads();
    const int32_t written = p.written(a, t0, count), begin = t0 == p.first ? 1 : 0;
    for (int32_t job = warp; job < jobs; job += warps) {
      write_regions(a, p, p.first_set + job / kQuarters, job % kQuarters, t0, written, stage_of(job / kQuarters), to);
    }
#pragma unroll 1
    for (int32_t set = 0; set < sets; ++set) {
      const bool pair = warp >= begin && warp < count;
      const Stage<A> own = stage_of(set);
      A shift_x[kQuarters], shift_y[kQuarters];
      if (pair) {
        pair_of_frames<kQuarters>(own, warp, lane, epsilon,
                                  [&](int k, A dx, A dy) { shift_x[k] = dx, shift_y[k] = dy; });
      }
      __syncthreads();  // the warp before has read this frame too
#pragma unroll
      for (int k = 0; k < kQuarters; ++k) {
        const int32_t i = own.at(k, warp, lane);
        if (pair) own.values[i] = shift_x[k], own.means[i] = shift_y[k];
      }
    }
    __syncthreads();
    for (int32_t job = warp; job < jobs; job += warps) {
      write_shifts(a, p, p.first_set + job / kQuarters, job % kQuarters, t0, begin, count, stage_of(job / kQuarters),
                   to);
    }
    if (t0 + chunk > p.last) return;
    __syncthreads();
    for (int32_t job = warp; job < jobs; job += warps)
      stage_of(job / kQuarters).keep_last(job % kQuarters, count, lane);
    __syncthreads();
  }
}

}  // namespace
}  // namespace vidops
