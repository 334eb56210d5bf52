// How temporal_projection walks clips, and the basis between its grid and rows of pixels.
//
// A row is a run of neighbouring elements of one frame: W pixels of one channel in the planar layouts, W pixels of all
// C channels in channels last, which is walked as one channel of W*C pixels whose matrices repeat C times. What belongs
// to a row's T*D matrix entries is stored in blocks of one vector an entry, so that a vector of pixels reads them as
// one sequence.
#pragma once

#include <vector>

#include "common/resize.h"
#include "common/temporal_projection.h"
#include "cpu/channel_vectors.h"

namespace vidops {

// Rows of a clip, or of images in its layout: of (N, D, C, H, W) an image of its columns is a frame.
template <class T>
struct Rows {
  T* data = nullptr;
  int64_t clip = 0, channel = 0, frame = 0, row = 0;  // elements from one to the next
  bool streamed = false;                              // vectors are aligned, and there are many

  T* at(int64_t n, int64_t c, int64_t i) const { return data + n * clip + c * channel + i * row; }
  explicit operator bool() const { return data != nullptr; }
  Rows<const T> constant() const { return {data, clip, channel, frame, row}; }

  template <class Lanes>
  void put(T* to, Vec<T> v, Lanes lanes) const {
    streamed ? lanes.template put<true>(to, v) : lanes.template put<false>(to, v);
  }
};

// The walk over the rows of a native clip.
struct RowWalk {
  bool last;                      // channels last
  int64_t clips, channels, rows;  // of the walk
  int64_t width, repeat;          // elements of a row, and neighbouring ones of the same pixel
  int64_t all_channels, pixels;   // of the clip
};

// Whether a native clip's rows are runs: a slice of the channels of a channels-last clip has gaps.
inline bool has_rows(const Clip& c) { return c.native && (!c.channels_last() || c.P <= 1 || c.sP == c.C); }

inline Tensor clip_of_rows(const Tensor& x) {
  const Clip c = describe(x);
  if (has_rows(c)) return x;
  Tensor copy = empty_clip(x, c, c.T, c.layout);
  torch::stable::copy_(copy, x);
  return copy;
}

inline Tensor clip_of_rows_like(const Tensor& grad, const Clip& x) {
  const Clip c = describe(grad);
  if (has_rows(c) && c.channels_last() == x.channels_last()) return grad;
  Tensor copy = empty_clip(grad, c, c.T, x.layout);
  torch::stable::copy_(copy, grad);
  return copy;
}

inline RowWalk row_walk(const Clip& c) {
  const bool last = c.channels_last();
  return {last, c.N, last ? 1 : c.C, c.H, last ? c.W * c.C : c.W, last ? c.C : 1, c.C, c.P};
}

template <class T>
Rows<T> rows_of_clip(const Tensor& tensor) {
  const Clip c = describe(tensor);
  T* const data = static_cast<T*>(tensor.data_ptr());
  const int64_t row = c.channels_last() ? c.W * c.C : c.W;
  const bool large = c.numel() * static_cast<int64_t>(sizeof(T)) >= kStreamBytes;
  const bool aligned = reinterpret_cast<uintptr_t>(data) % kVectorBytes == 0 && row % kLanes<T> == 0 &&
                       c.sT % kLanes<T> == 0 && c.sN % kLanes<T> == 0 && (c.channels_last() || c.sC % kLanes<T> == 0);
  return {data, c.sN, c.sC, c.sT, row, large && aligned && std::is_same_v<T, acc_t<T>>};
}

// Rows of dense images (N, frames, C, H, W) that lie as empty_coefficients has them.
template <class T>
Rows<T> rows_of_images(const Tensor& tensor, const RowWalk& w, int64_t frames) {
  const int64_t frame = w.all_channels * w.pixels;
  return {static_cast<T*>(tensor.data_ptr()), frames * frame, w.pixels, frame, w.width};
}

// Some rows of a frame that lie between the same two rows of the grid, or all on the first of them. The results of an
// item are one sum, whatever thread makes it.
struct RowItem {
  int64_t begin, end;
  int64_t low, high;  // the same one where no row needs another
  int64_t part;       // of the partial sums: that of `low`, and behind it that of `high` if it is another
};
constexpr int64_t kItemRows = 8;

inline std::vector<RowItem> row_items(int64_t cells, int64_t rows) {
  std::vector<RowItem> items;
  int64_t parts = 0;
  for (int64_t i = 0; i < rows;) {
    RowItem item{i, i, axis_tap(i, cells, rows).low, 0, parts};
    item.high = item.low;
    for (; item.end < rows && item.end < i + kItemRows; ++item.end) {
      const AxisTap tap = axis_tap(item.end, cells, rows);
      if (tap.low != item.low) break;
      item.high = std::max(item.high, tap.high);
    }
    parts += item.high > item.low ? 2 : 1;
    items.push_back(item);
    i = item.end;
  }
  return items;
}

inline int64_t part_count(const std::vector<RowItem>& items) {
  return items.empty() ? 0 : items.back().part + (items.back().high > items.back().low ? 2 : 1);
}

// Rows of the grid spread over the elements of a row of pixels, and back.
template <class T>
class Spread {
  using A = acc_t<T>;
  static constexpr int64_t lanes = kLanes<T>;

 public:
  Spread(int64_t cells, const RowWalk& walk, int64_t frames, int64_t columns)
      : cells_(cells), entries_(frames * columns), columns_(columns), blocks_((walk.width + lanes - 1) / lanes) {
    const int64_t pixels = walk.width / walk.repeat;
    const auto add = [&](int64_t low, int64_t high, double share) {
      low_.push_back(static_cast<int32_t>(low)), high_.push_back(static_cast<int32_t>(high));
      low_share_.push_back(static_cast<A>(1 - share)), high_share_.push_back(static_cast<A>(share));
    };
    for (int64_t j = 0; j < walk.width; ++j) {
      const AxisTap tap = axis_tap(j / walk.repeat, cells, pixels);
      if (j == 0 || tap.low != low_.back() || tap.high != high_.back()) runs_.push_back(j);
      add(tap.low, tap.high, tap.share);
    }
    runs_.push_back(walk.width);
  }

  int64_t size() const { return blocks_ * entries_ * lanes; }  // of a row's blocks
  int64_t entries() const { return entries_; }
  int64_t part_size() const { return entries_ * cells_; }

  // Row `r` of the grid to blocks. Behind the row's end the columns are different unit vectors, whose systems have
  // finite solutions.
  void expand(const T* basis, int64_t rows, int64_t r, A* to) const {
    const Scratch<A> cells(cells_), spread(blocks_ * lanes);
    for (int64_t e = 0; e < entries_; ++e) {
      const T* from = basis + (e * rows + r) * cells_;
      for (int64_t v = 0; v < cells_; ++v) cells.get()[v] = load1(from + v);
      blend(cells.get(), low_.data(), high_.data(), low_share_.data(), high_share_.data(), runs_.back(), spread.get());
      for (int64_t j = runs_.back(); j < blocks_ * lanes; ++j) spread.get()[j] = e / columns_ == e % columns_;
      for (int64_t b = 0; b < blocks_; ++b) store(to + (b * entries_ + e) * lanes, load(spread.get() + b * lanes));
    }
  }

  // The adjoint: the blocks' sums over the pixels of each cell, for as many entries at a time as a vector has lanes.
  void reduce(const A* blocks, A* part) const {
    std::vector<Wide<A>> sums(cells_);
    for (int64_t e = 0; e < entries_; e += lanes) {
      std::fill(sums.begin(), sums.end(), Wide<A>{});
      size_t run = 0;
      for (int64_t b = 0; b < blocks_; ++b) {
        Vec<A> pixels[lanes];
#pragma GCC unroll 16
        for (int l = 0; l < lanes; ++l) {
          pixels[l] = e + l < entries_ ? load(blocks + (b * entries_ + e + l) * lanes) : Vec<A>{};
        }
        transpose<A>(pixels);
        reduce_block(pixels, b * lanes, std::min((b + 1) * lanes, runs_.back()), run, sums.data());
      }
      const int64_t count = std::min(lanes, entries_ - e);
      for (int64_t v = 0; v < cells_; ++v) {
        for (int64_t l = 0; l < count; ++l) part[(e + l) * cells_ + v] = static_cast<A>(sums[v][l]);
      }
    }
  }

 private:
  static void blend(const A* cells, const int32_t* low, const int32_t* high, const A* low_share, const A* high_share,
                    int64_t count, A* __restrict to) {
    for (int64_t j = 0; j < count; ++j) to[j] = cells[low[j]] * low_share[j] + cells[high[j]] * high_share[j];
  }

  // Elements `begin` to `end` of a row, the first of which belongs to `run`, to the sums of their cells.
  void reduce_block(const Vec<A>* pixels, int64_t begin, int64_t end, size_t& run, Wide<A>* sums) const {
    for (int64_t j = begin; j < end; ++run) {
      const int64_t stop = std::min(end, runs_[run + 1]);
      const int32_t to_low = low_[j], to_high = high_[j];
      Vec<A> low{}, high{};
      for (; j < stop; ++j) low += pixels[j - begin] * low_share_[j], high += pixels[j - begin] * high_share_[j];
      add_wide<A>(sums[to_low], low), add_wide<A>(sums[to_high], high);
      if (stop < runs_[run + 1]) return;  // goes on in the next block
    }
  }

  int64_t cells_, entries_, columns_, blocks_;  // columns of the basis, vectors of a row
  std::vector<int32_t> low_, high_;
  std::vector<A> low_share_, high_share_;
  std::vector<int64_t> runs_;  // where elements between other cells begin
};

// The two rows of the grid that a thread's rows lie between, spread.
template <class T>
class SpreadRows {
  using A = acc_t<T>;

 public:
  SpreadRows(const Spread<T>& spread, const T* basis, int64_t rows)
      : spread_(spread), basis_(basis), rows_(rows), slots_{Scratch<A>(spread.size()), Scratch<A>(spread.size())} {}

  const A* operator()(int64_t n, int64_t r) {
    const int64_t row = n * rows_ + r, slot = r % 2;
    if (held_[slot] != row) {
      spread_.expand(basis_ + n * rows_ * spread_.part_size(), rows_, r, slots_[slot].get());
      held_[slot] = row;
    }
    return slots_[slot].get();
  }

 private:
  const Spread<T>& spread_;
  const T* basis_;
  int64_t rows_, held_[2] = {-1, -1};
  Scratch<A> slots_[2];
};

}  // namespace vidops
