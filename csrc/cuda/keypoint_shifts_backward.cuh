// Backward kernels of keypoint_shifts; the idea is told in keypoint_shifts.cu.
#pragma once

#include "cuda/keypoint_shifts_common.cuh"

namespace vidops {
namespace {

constexpr int32_t kPairThreads = 64, kRegionNumbers = 8;

// What arrives at every region: gradients of its maximum and mean, and its key point; (N, T, G, K, C).
template <class A>
struct RegionGradients {
  A *value, *mean;
  uint32_t* place;
  __device__ __forceinline__ int64_t at(const KeypointArgs& a, int64_t n, int32_t t, int32_t set, int32_t k,
                                        int32_t c) const {
    return (((n * a.T + t) * a.G + set) * a.regions() + k) * a.C + c;
  }
};

// What the forward pass wrote, and the gradient of its shifts.
template <class A>
struct KeptRegions {
  const A *grad, *values, *means;
  const int16_t* keypoints;
  __device__ __forceinline__ uint32_t place(int64_t i) const {
    return place_of_pixel(keypoints[2 * i + 1], keypoints[2 * i]);
  }
};

// A number of each region of a thread, in shared memory.
struct RegionNumbers {
  double* data;
  __device__ __forceinline__ double& operator[](int k) const { return data[k * kPairThreads]; }
};

// A thread has one clip, set and channel, and walks along time. In double: 1 / (d + epsilon) and its square magnify
// what is rounded a hundredfold. The order of the operations is autograd's.
template <int R, class A>
__global__ void __launch_bounds__(kPairThreads, R < 4 ? 4 : 1)
    keypoint_pairs_kernel(const __grid_constant__ KeypointArgs a, const int64_t units, const double epsilon,
                          const __grid_constant__ KeptRegions<A> kept, const __grid_constant__ RegionGradients<A> to) {
  constexpr int K = R * R;
  const int64_t unit = static_cast<int64_t>(blockIdx.x) * kPairThreads + threadIdx.x;
  if (unit >= units) return;
  const int32_t c = static_cast<int32_t>(unit % a.C), set = static_cast<int32_t>(unit / a.C % a.G);
  const int64_t n = unit / a.C / a.G, row = (n * a.G + set) * K * a.C + c;
  // Of frame t: [region] to be offset by the frame.
  const auto frames = [&](int k) { return (row + static_cast<int64_t>(k) * a.C) * a.T; };
  const auto numbers = [&](int which) {
    return RegionNumbers{dynamic_shared<double>() + which * K * kPairThreads + threadIdx.x};
  };
  // What has arrived at this frame's regions, what arrives at the next one's, and the latter themselves.
  const RegionNumbers value_here = numbers(0), mean_here = numbers(1), value_ahead = numbers(2), value = numbers(3),
                      column = numbers(4), line = numbers(5), share = numbers(6), slope = numbers(7);
  for (int k = 0; k < K; ++k) value_here[k] = 0, mean_here[k] = 0;
  for (int32_t t = 0; t < a.T; ++t) {
    const bool pair = t + 1 < a.T;
    for (int k = 0; k < K; ++k) value_ahead[k] = 0;
    if (pair) {
      double top = -INFINITY, total = 0, expected = 0;
      for (int k = 0; k < K; ++k) {
        const int64_t i = frames(k) + t;
        const uint32_t place = kept.place(i + 1);
        value[k] = kept.values[i + 1], column[k] = column_of(place), line[k] = row_of(place);
        const double mean = (static_cast<double>(kept.means[i]) + static_cast<double>(kept.means[i + 1])) / 2;
        share[k] = mean, top = k == 0 || mean > top ? mean : top;
      }
#pragma unroll 1
      for (int k = 0; k < K; ++k) share[k] = std::exp(share[k] - top), total += share[k];
#pragma unroll 1
      for (int k = 0; k < K; ++k) {
        const int64_t i = frames(k) + t;
        const double from = kept.values[i], region = share[k] / total;
        const double from_x = column_of(kept.place(i)), from_y = row_of(kept.place(i));
        const A* given = kept.grad + ((row + static_cast<int64_t>(k) * a.C) * (a.T - 1) + t) * 2;
        const double x = given[0], y = given[1], part_x = x * region, part_y = y * region;
        double close[K], weight[K], largest = 0, whole = 0, moved_x = 0, moved_y = 0, mean = 0, own = 0;
#pragma unroll
        for (int b = 0; b < K; ++b) {
          const double d = from - value[b];
          close[b] = 1 / ((d < 0 ? -d : d) + epsilon);
          largest = b == 0 || close[b] > largest ? close[b] : largest;
        }
#pragma unroll
        for (int b = 0; b < K; ++b) weight[b] = std::exp(close[b] - largest), whole += weight[b];
#pragma unroll
        for (int b = 0; b < K; ++b) {
          weight[b] /= whole;
          const double away_x = column[b] - from_x, away_y = line[b] - from_y;
          moved_x += weight[b] * away_x, moved_y += weight[b] * away_y;
          mean += (part_x * away_x + part_y * away_y) * weight[b];
        }
        share[k] = region, slope[k] = x * moved_x + y * moved_y;
        expected += slope[k] * region;
#pragma unroll
        for (int b = 0; b < K; ++b) {
          const double d = from - value[b], product = part_x * (column[b] - from_x) + part_y * (line[b] - from_y);
          const double steep = (product * weight[b] - weight[b] * mean) * (close[b] * close[b]);
          const double sent = d > 0 ? -steep : d < 0 ? steep : d == 0 ? 0.0 : steep * d;
          own += sent, value_ahead[b] -= sent;
        }
        value_here[k] += own;
      }
#pragma unroll 1
      for (int k = 0; k < K; ++k) slope[k] = (slope[k] * share[k] - share[k] * expected) / 2;
    }
    for (int k = 0; k < K; ++k) {
      const int64_t i = to.at(a, n, t, set, k, c);
      const double half = pair ? slope[k] : 0.0;
      to.value[i] = static_cast<A>(value_here[k]);
      to.mean[i] = static_cast<A>(mean_here[k] + half);
      to.place[i] = kept.place(frames(k) + t);
      value_here[k] = value_ahead[k], mean_here[k] = half;
    }
  }
}

// Where a block of the kernels below is: kLane channels of a tile of one frame.
struct TilePlace {
  int64_t n;
  int32_t t, group, tile;
  __device__ __forceinline__ explicit TilePlace(const KeypointArgs& a) {
    uint32_t block = blockIdx.x;
    tile = static_cast<int32_t>(block % a.tiles), block /= a.tiles;
    group = static_cast<int32_t>(block % a.groups), block /= a.groups;
    t = static_cast<int32_t>(block % a.T), n = block / a.T;
  }
};

// dx: what the regions of all sets send to every pixel, a.sets at a time. A warp has whole rows.
template <class T>
__global__ void __launch_bounds__(kKeypointThreads, sizeof(T) < 8 ? 4 : 2)
    keypoint_features_kernel(const __grid_constant__ KeypointArgs a, const T* __restrict__ separators,
                             const __grid_constant__ RegionGradients<const device_acc_t<T>> from,
                             const __grid_constant__ Steps<T> dx) {
  using A = device_acc_t<T>;
  const TilePlace p(a);
  const FrameTile tile(a, p.tile);
  const int32_t lane = threadIdx.x % kLane, warp = threadIdx.x / kLane, warps = blockDim.x / kLane;
  const int32_t K = a.regions(), c = p.group * kLane + lane, jobs = a.sets * K;
  A* shares = dynamic_shared<A>();
  A* values = shares + jobs * kLane;
  uint32_t* places = reinterpret_cast<uint32_t*>(values + jobs * kLane);
  Split<A>* splits = reinterpret_cast<Split<A>*>(places + jobs * kLane);
  A* map = reinterpret_cast<A*>(splits + 2 * a.sets);
  for (int32_t i = threadIdx.x; i < tile.pixels() * kPitch; i += blockDim.x) map[i] = 0;
  for (int32_t first = 0; first < a.G; first += a.sets) {
    const int32_t sets = min(a.sets, a.G - first);
    __syncthreads();
    place_lines(a, separators, p.n, p.t, first, sets, splits);
    __syncthreads();
    for (int32_t job = warp; job < sets * K && c < a.C; job += warps) {
      const int32_t set = job / K, k = job % K;
      const int64_t i = from.at(a, p.n, p.t, first + set, k, c);
      const A area = splits[2 * set + 1].width(k / a.bands) * splits[2 * set].width(k % a.bands);
      shares[job * kLane + lane] = from.mean[i] / area;
      values[job * kLane + lane] = from.value[i], places[job * kLane + lane] = from.place[i];
    }
    __syncthreads();
    for (int32_t row = tile.y0 + warp; row < tile.y1 && c < a.C; row += warps) {
      A* pixel = map + tile.at(row, tile.x0) + lane;
      for (int32_t set = 0; set < sets; ++set) {
        const Split<A>&across = splits[2 * set], &down = splits[2 * set + 1];
        for (int32_t bx = 0; bx < a.bands; ++bx) {
          A slope = 0;
          for (int32_t by = 0; by < a.bands; ++by) {
            const A cover = down.cover(row, by);
            if (cover > 0) slope += shares[(set * K + by * a.bands + bx) * kLane + lane] * cover;
          }
          const BandRange x(across, bx, tile.x0, tile.x1);
          const auto part_of_pixel = [&](int32_t j) { pixel[(j - tile.x0) * kPitch] += slope * across.cover(j, bx); };
          if (x.begin < x.inner) part_of_pixel(x.begin);
#pragma unroll 4
          for (int32_t j = x.inner; j < x.outer; ++j) pixel[(j - tile.x0) * kPitch] += slope;
          if (x.outer < x.end) part_of_pixel(x.outer);
        }
      }
      for (int32_t job = 0; job < sets * K; ++job) {
        const uint32_t place = places[job * kLane + lane];
        const int32_t j = column_of(place);
        if (row_of(place) == row && j >= tile.x0 && j < tile.x1) {
          pixel[(j - tile.x0) * kPitch] += values[job * kLane + lane];
        }
      }
    }
  }
  __syncthreads();
  each_element(a, dx, p.n, p.group * kLane, p.t, tile, [&](int32_t i, T* to) { *to = static_cast<T>(map[i]); });
}

// Gradient of line i of an axis, of one channel and what a tile has of it: of the regions that the line ends and
// begins, (mean along the line - mean of the region) * length / area. `is_x`: of a vertical line. On an edge of pixels
// what is not finite has no part in the region that ends there, but the one that begins makes the gradient NaN anyway.
template <class A, class F>
__device__ __forceinline__ double line_gradient(const FrameTile& tile, const A* map, const Split<A>& axis,
                                                const Split<A>& along, int32_t i, bool is_x, bool first_tile,
                                                F&& region) {
  const int32_t j = static_cast<int32_t>(axis.pixel(i)), bands = axis.bands;
  const bool inside = is_x ? j >= tile.x0 && j < tile.x1 : j >= tile.y0 && j < tile.y1;
  double total = 0;
  for (int32_t b = 0; b < bands; ++b) {
    const BandRange p(along, b, is_x ? tile.y0 : tile.x0, is_x ? tile.y1 : tile.x1);
    if (!first_tile && (!inside || p.begin >= p.end)) continue;
    const auto ends = region(is_x ? b * bands + i : i * bands + b);
    const auto begins = region(is_x ? b * bands + i + 1 : (i + 1) * bands + b);
    const double length = along.width(b);
    double sum = 0;
    for (int32_t q = p.begin; inside && q < p.end; ++q) {
      sum += static_cast<double>(map[is_x ? tile.at(q, j) : tile.at(j, q)]) * along.cover(q, b);
    }
    const double before = first_tile ? sum - ends.mean * length : sum;
    const double after = first_tile ? sum - begins.mean * length : sum;
    total += ends.grad * before / (length * axis.width(i));
    total -= begins.grad * after / (length * axis.width(i + 1));
  }
  return total;
}

// Gradients of lines, summed over the block's channels: partial[line][group, tile].
template <class T>
__global__ void __launch_bounds__(kKeypointThreads, 2)
    keypoint_lines_kernel(const __grid_constant__ KeypointArgs a, const __grid_constant__ Steps<const T> x,
                          const T* __restrict__ separators,
                          const __grid_constant__ RegionGradients<const device_acc_t<T>> from,
                          const device_acc_t<T>* __restrict__ means, double* __restrict__ partial) {
  using A = device_acc_t<T>;
  const TilePlace p(a);
  const FrameTile tile(a, p.tile);
  const int32_t lane = threadIdx.x % kLane, warp = threadIdx.x / kLane, warps = blockDim.x / kLane;
  const int32_t K = a.regions(), c = p.group * kLane + lane, lines = 2 * (a.bands - 1);
  Split<A>* splits = dynamic_shared<Split<A>>();
  A* map = reinterpret_cast<A*>(splits + 2 * a.sets);
  load_tile(a, x, p.n, p.group * kLane, p.t, tile, map);
  for (int32_t first = 0; first < a.G; first += a.sets) {
    const int32_t sets = min(a.sets, a.G - first);
    __syncthreads();
    place_lines(a, separators, p.n, p.t, first, sets, splits);
    __syncthreads();
    for (int32_t job = warp; job < sets * lines; job += warps) {
      const int32_t set = job / lines, axis = job % lines / (a.bands - 1), i = job % (a.bands - 1);
      struct Sent {
        double grad, mean;
      };
      const auto region = [&](int32_t k) {
        const int64_t kept = (((p.n * a.G + first + set) * K + k) * a.C + c) * a.T + p.t;
        return Sent{from.mean[from.at(a, p.n, p.t, first + set, k, c)], means[kept]};
      };
      double total = 0;
      if (c < a.C) {
        total = line_gradient(tile, map + lane, splits[2 * set + axis], splits[2 * set + 1 - axis], i, axis == 0,
                              p.tile == 0, region);
      }
#pragma unroll
      for (int step = kLane / 2; step > 0; step /= 2) total += __shfl_xor_sync(0xffffffffu, total, step);
      if (lane == 0) {
        partial[((a.lines_at(p.n, first + set, p.t, axis) + i) * a.groups + p.group) * a.tiles + p.tile] = total;
      }
    }
  }
}

// A thread has the lines of one axis of a frame: sums of their shares, each line's to the separator it came from.
template <class T>
__global__ void __launch_bounds__(kPairThreads)
    keypoint_separators_kernel(const __grid_constant__ KeypointArgs a, const int64_t units,
                               const T* __restrict__ separators, const double* __restrict__ partial,
                               T* __restrict__ to) {
  using A = device_acc_t<T>;
  const int64_t unit = static_cast<int64_t>(blockIdx.x) * kPairThreads + threadIdx.x;
  if (unit >= units) return;
  const int32_t count = a.bands - 1, shares = a.groups * a.tiles;
  const int64_t at = unit * count;
  Split<A>& split = dynamic_shared<Split<A>>()[threadIdx.x];
  split_axis(separators + at, a.bands, unit % 2 ? a.H : a.W, split);
  for (int32_t source = 0; source < count; ++source) {
    double total = 0;
    for (int32_t i = 0; i < count; ++i) {
      if (split.source[i] != source) continue;
      for (int32_t s = 0; s < shares; ++s) total += partial[(at + i) * shares + s];
    }
    to[at + source] = static_cast<T>(static_cast<A>(total));
  }
}

}  // namespace
}  // namespace vidops
