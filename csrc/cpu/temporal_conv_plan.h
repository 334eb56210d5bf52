// What one call of temporal_conv needs besides the tensors: which group owns a channel, how it is computed, its taps.
#pragma once

#include <algorithm>
#include <vector>

#include "common/temporal_taps.h"
#include "common/vec.h"

namespace vidops {

constexpr int64_t kSlideTaps = 7;  // up to here a window of frames and its taps fit the registers

// A group of channels in one direction.
struct GroupPlan {
  Group group;
  bool slides;      // a window of neighbouring frames slides over the clip, else the table is followed
  int64_t first;    // slides: the frame under the first tap of result 0
  TermTable table;  // follows the table
  int64_t padded;   // channels last: where its taps start, tap-major, channels padded to whole vectors
  int64_t width;    // of these taps: channels padded to whole vectors
};

template <class T>
struct Plan {
  const Groups& groups;
  bool last;       // channels last
  bool replicate;  // a frame outside the clip is the edge frame
  std::vector<GroupPlan> parts;
  std::vector<int32_t> part_of;  // a channel's
  int64_t padded = 0;            // length of the padded taps
  std::vector<acc_t<T>> taps;

  // `transposed`: from the result's gradient to the input's.
  Plan(const Groups& groups, bool last, int64_t frames_in, int64_t frames_out, int64_t stride, Padding padding,
       bool transposed, const T* weight)
      : groups(groups), last(last), replicate(padding == Padding::kReplicate), part_of(groups.channels) {
    const int64_t offset = padding == Padding::kValid ? groups.reach : 0;
    for (const Group& g : groups.items) {
      std::fill_n(part_of.begin() + g.channel, g.channels, static_cast<int32_t>(parts.size()));
      GroupPlan part{g, stride == 1 && g.dilation == 1 && g.taps <= kSlideTaps};
      // The window multiplies frames of zeros too. Backward they are no part of the sum, so every tap must be finite.
      if (transposed) part.slides = part.slides && !replicate && all_finite(weight + g.weight, g.channels * g.taps);
      part.first = (transposed ? -offset : offset) - g.reach();
      if (!part.slides) {
        part.table = term_table(g, frames_in, frames_out, stride, padding, groups.reach, transposed);
      }
      part.padded = padded, part.width = round_up(g.channels, kLanes<T>);
      padded += g.taps * part.width;
      parts.push_back(std::move(part));
    }
    if (!weight) return;
    taps.resize(last ? padded : groups.weights);
    for (const GroupPlan& part : parts) {
      const Group& g = part.group;
      for (int64_t c = 0; c < g.channels; ++c) {
        for (int64_t k = 0; k < g.taps; ++k) {
          // Seen from the input, a sliding window meets the taps in reverse.
          const int64_t at = transposed && part.slides ? g.taps - 1 - k : k;
          const int64_t flat = g.weight + c * g.taps;
          taps[last ? part.padded + at * part.width + c : flat + at] = load1(weight + flat + k);
        }
      }
    }
  }
};

}  // namespace vidops
