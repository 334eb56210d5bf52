// One frame of a vector of channels: maxima and means of every region of every set, and the way back.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "common/keypoint_shifts.h"
#include "cpu/channel_vectors.h"

namespace vidops {

// Whether a later pixel's value counts instead of an earlier one's: it is larger, or the first NaN.
template <class A>
auto beats(const Vec<A>& later, const Vec<A>& earlier) {
  return ~(later <= earlier) & (earlier == earlier);
}

// A largest value so far and where it is, coordinates as numbers of the accumulation type (below 2^15: exact).
template <class A>
struct RowMaximum {
  Vec<A> value, x;

  void follow(const Vec<A>& v, int64_t at) {
    const auto take = beats<A>(v, value);
    value = take ? v : value, x = take ? Vec<A>{} + static_cast<A>(at) : x;
  }
};
template <class A>
struct Maximum {
  Vec<A> value, x, y;

  void follow(const RowMaximum<A>& row, const Vec<A>& at) {
    const auto take = beats<A>(row.value, value);
    value = take ? row.value : value, x = take ? row.x : x, y = take ? at : y;
  }
};

template <class A>
struct Region {
  Maximum<A> maximum;
  Vec<A> mean;
};

// The splits of one frame: of set g along x and along y.
template <class A>
struct FrameSplits {
  const Split<A>* data;
  int64_t step;  // from one set to the next
  const Split<A>& x(int64_t g) const { return data[g * step]; }
  const Split<A>& y(int64_t g) const { return data[g * step + 1]; }
};

// A row's maxima and sums from the left to each pixel, and from each pixel to the right: with them the first and last
// band of every set take one step a row, whatever their width.
template <class A>
class Row {
 public:
  explicit Row(int64_t width) : width_(width), left_(width), right_(width), left_sum_(width), right_sum_(width) {}

  void read(const A* row) {
    row_ = row;
    left_[0] = {pixel(0), Vec<A>{}}, left_sum_[0] = pixel(0);
    for (int64_t x = 1; x < width_; ++x) {
      left_[x] = left_[x - 1];
      left_[x].follow(pixel(x), x);
      left_sum_[x] = left_sum_[x - 1] + pixel(x);
    }
    right_[width_ - 1] = {pixel(width_ - 1), Vec<A>{} + static_cast<A>(width_ - 1)};
    right_sum_[width_ - 1] = pixel(width_ - 1);
    for (int64_t x = width_ - 2; x >= 0; --x) {  // backwards, an equal one and each NaN come first
      const Vec<A> v = pixel(x);
      const RowMaximum<A>& after = right_[x + 1];
      const auto take = (v >= after.value) | (v != v);
      right_[x] = {take ? v : after.value, take ? Vec<A>{} + static_cast<A>(x) : after.x};
      right_sum_[x] = right_sum_[x + 1] + v;
    }
  }

  RowMaximum<A> maximum(const Split<A>& s, int b) const {
    if (b == 0) return left_[s.first[1] - 1];
    if (b == s.bands - 1) return right_[s.first[b]];
    RowMaximum<A> best{pixel(s.first[b]), Vec<A>{} + static_cast<A>(s.first[b])};
    for (int64_t x = s.first[b] + 1; x < s.first[b + 1]; ++x) best.follow(pixel(x), x);
    return best;
  }

  // The integral over a band; pixels without a part in it are not read.
  Vec<A> sum(const Split<A>& s, int b) const {
    if (s.bands == 1) return left_sum_[width_ - 1];
    const int64_t begin = b ? s.pixel(b - 1) : 0, end = b < s.bands - 1 ? s.pixel(b) : width_ - 1;
    if (b == 0) return left_sum_[end - 1] + part(s, b, end);
    if (b == s.bands - 1) return part(s, b, begin) + (begin + 1 < width_ ? right_sum_[begin + 1] : Vec<A>{});
    Vec<A> total = part(s, b, begin);
    for (int64_t x = begin + 1; x <= end; ++x) total += part(s, b, x);
    return total;
  }

 private:
  Vec<A> pixel(int64_t x) const { return load(row_ + x * kLanes<A>); }
  Vec<A> part(const Split<A>& s, int b, int64_t x) const {
    const A cover = s.cover(x, b);
    return cover > 0 ? pixel(x) * cover : Vec<A>{};
  }

  int64_t width_;
  const A* row_ = nullptr;
  std::vector<RowMaximum<A>> left_, right_;
  std::vector<Vec<A>> left_sum_, right_sum_;
};

// Regions [set][region] of one frame, whose pixels are vectors one behind the other. Sums over rows are in double.
template <class A>
void scan_frame(const A* pixels, const KeypointSize& size, const FrameSplits<A>& splits, Row<A>& row,
                std::vector<Wide<A>>& sums, Region<A>* regions) {
  const int bands = size.bands;
  std::fill(sums.begin(), sums.end(), Wide<A>{});
  for (int64_t y = 0; y < size.H; ++y) {
    row.read(pixels + y * size.W * kLanes<A>);
    const Vec<A> at_y = Vec<A>{} + static_cast<A>(y);
    for (int64_t g = 0; g < size.G; ++g) {
      const Split<A>&across = splits.x(g), &down = splits.y(g);
      const int by = down.band_of(y);
      for (int bx = 0; bx < bands; ++bx) {
        Maximum<A>& best = regions[(g * bands + by) * bands + bx].maximum;
        const RowMaximum<A> found = row.maximum(across, bx);
        if (y == down.first[by]) {
          best = {found.value, found.x, at_y};
        } else {
          best.follow(found, at_y);
        }
        const Vec<A> sum = row.sum(across, bx);
        for (int b = 0; b < bands; ++b) {
          const A cover = down.cover(y, b);
          if (cover > 0) add_wide<A>(sums[(g * bands + b) * bands + bx], sum * cover);
        }
      }
    }
  }
  for (int64_t g = 0; g < size.G; ++g) {
    for (int b = 0; b < bands * bands; ++b) {
      const double area = static_cast<double>(splits.y(g).width(b / bands)) * splits.x(g).width(b % bands);
      regions[g * bands * bands + b].mean = __builtin_convertvector(sums[g * bands * bands + b] / area, Vec<A>);
    }
  }
}

// What arrives at a region.
template <class A>
struct RegionGradient {
  Vec<A> value, mean;
};

// Adds the gradients of one frame's regions to its pixels: means by their areas, maxima at their places.
template <class A>
void spread_frame(const KeypointSize& size, const FrameSplits<A>& splits, const Region<A>* regions,
                  const RegionGradient<A>* grads, A* pixels) {
  constexpr int lanes = kLanes<A>;
  const int bands = size.bands;
  const auto add = [](A* to, const Vec<A>& v) { store(to, load(to) + v); };
  for (int64_t g = 0; g < size.G; ++g) {
    const Split<A>&across = splits.x(g), &down = splits.y(g);
    const Region<A>* found = regions + g * bands * bands;
    const RegionGradient<A>* given = grads + g * bands * bands;
    Vec<A> share[kMostBands * kMostBands];
    for (int k = 0; k < bands * bands; ++k) {
      share[k] = given[k].mean / (down.width(k / bands) * across.width(k % bands));
    }
    for (int64_t y = 0; y < size.H; ++y) {
      A* row = pixels + y * size.W * lanes;
      for (int bx = 0; bx < bands; ++bx) {
        Vec<A> slope{};
        for (int by = 0; by < bands; ++by) {
          const A cover = down.cover(y, by);
          if (cover > 0) slope += share[by * bands + bx] * cover;
        }
        const int64_t begin = bx ? across.pixel(bx - 1) : 0, end = bx < bands - 1 ? across.pixel(bx) : size.W - 1;
        add(row + begin * lanes, slope * across.cover(begin, bx));
        for (int64_t x = begin + 1; x < end; ++x) add(row + x * lanes, slope);
        const A last = across.cover(end, bx);
        if (end > begin && last > 0) add(row + end * lanes, slope * last);
      }
    }
    for (int k = 0; k < bands * bands; ++k) {
      A x[lanes], y[lanes], value[lanes];
      store(x, found[k].maximum.x), store(y, found[k].maximum.y), store(value, given[k].value);
      for (int l = 0; l < lanes; ++l) {
        pixels[(static_cast<int64_t>(y[l]) * size.W + static_cast<int64_t>(x[l])) * lanes + l] += value[l];
      }
    }
  }
}

// Gradient of line i of an axis of set g, summed over channels: of the regions that it ends and begins,
// (mean along the line - mean of the region) * length / area. `along` is the other axis, steps are in pixels. On an
// edge of pixels what is not finite has no part in the region that ends there, but the one that begins makes the
// gradient NaN anyway.
template <class A>
double line_gradient(const A* pixels, const Split<A>& axis, const Split<A>& along, int i, int64_t step,
                     int64_t along_step, int region_step, int along_region_step, const Region<A>* regions,
                     const RegionGradient<A>* grads) {
  const int64_t j = axis.pixel(i);
  Wide<A> total{};
  for (int b = 0; b < along.bands; ++b) {
    Wide<A> sum{};
    const int64_t end = b < along.bands - 1 ? along.pixel(b) : static_cast<int64_t>(along.border[b + 1]) - 1;
    for (int64_t p = b ? along.pixel(b - 1) : 0; p <= end; ++p) {
      const double cover = along.cover(p, b);
      if (!(cover > 0)) continue;
      sum += __builtin_convertvector(load(pixels + (j * step + p * along_step) * kLanes<A>), Wide<A>) * cover;
    }
    const double length = along.width(b);
    const int k = i * region_step + b * along_region_step, next = k + region_step;
    const Wide<A> before = sum - __builtin_convertvector(regions[k].mean, Wide<A>) * length;
    const Wide<A> after = sum - __builtin_convertvector(regions[next].mean, Wide<A>) * length;
    total += __builtin_convertvector(grads[k].mean, Wide<A>) * before / (length * axis.width(i));
    total -= __builtin_convertvector(grads[next].mean, Wide<A>) * after / (length * axis.width(i + 1));
  }
  return sum_lanes(total);
}

}  // namespace vidops
