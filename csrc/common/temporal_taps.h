// Which input frames an output frame of temporal_conv reads, and through which tap.
//
// Padding, stride and dilation only ever decide this small table, so kernels on the CPU loop over it and know
// nothing else; the gradient to the input is the same loop over the transposed table.
#pragma once

#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

namespace vidops {

enum class Padding { kZeros, kReplicate, kValid };

inline Padding parse_padding(const std::string& name) {
  if (name == "zeros") return Padding::kZeros;
  if (name == "replicate") return Padding::kReplicate;
  STD_TORCH_CHECK(name == "valid", "padding must be 'zeros', 'replicate' or 'valid', got '", name, "'");
  return Padding::kValid;
}

// One group of channels that share a kernel size and dilation.
struct Group {
  int64_t channel, channels;  // first channel, how many
  int64_t weight;             // where its taps start in the flat weight: channel-major, `taps` a channel
  int64_t taps, dilation;
  int64_t reach() const { return (taps - 1) / 2 * dilation; }
};

struct Groups {
  std::vector<Group> items;
  int64_t channels = 0, weights = 0, reach = 0, max_taps = 0;
};

// `flat` is C_0, k_0, d_0, C_1, k_1, d_1, ... as the operator's schema has it. Groups without channels drop out.
inline Groups parse_groups(const std::vector<int64_t>& flat) {
  Groups groups;
  STD_TORCH_CHECK(flat.size() % 3 == 0, "groups must hold (channels, taps, dilation) triples");
  for (size_t i = 0; i < flat.size(); i += 3) {
    Group g{groups.channels, flat[i], groups.weights, flat[i + 1], flat[i + 2]};
    STD_TORCH_CHECK(g.channels >= 0 && g.taps > 0 && g.taps % 2 == 1 && g.dilation > 0,
                    "groups must hold channels >= 0, odd taps and dilation >= 1");
    if (g.channels == 0) continue;
    groups.items.push_back(g);
    groups.channels += g.channels;
    groups.weights += g.channels * g.taps;
    groups.reach = std::max(groups.reach, g.reach());
    groups.max_taps = std::max(groups.max_taps, g.taps);
  }
  return groups;
}

inline int64_t frames_out(int64_t frames, int64_t stride, Padding padding, int64_t reach) {
  const int64_t span = padding == Padding::kValid ? frames - 2 * reach : frames;
  return span > 0 ? (span + stride - 1) / stride : 0;
}

struct Term {
  int32_t frame, tap;  // the frame to read, -1 for one of zeros, and the tap to multiply it with
};

// terms[begin[t] .. begin[t+1]) are the terms of frame t of the result.
struct TermTable {
  std::vector<int64_t> begin;
  std::vector<Term> terms;
};

constexpr int64_t kMostTerms = int64_t{1} << 28;  // of a table
constexpr int64_t kZeroTerms = int64_t{1} << 22;  // up to here a table has terms outside the clip

// The table of one group: result frame `out` reads input frame `in`, which outside the clip is a frame of zeros: such a
// term decides only where taps or gradients are not finite, and tables of millions of terms have none. Transposed it
// gives the input's gradient: result frame `in` reads gradient frame `out`. The order of terms is fixed: by tap, or
// transposed by frame.
inline TermTable term_table(const Group& g, int64_t frames_in, int64_t frames_out, int64_t stride, Padding padding,
                            int64_t reach, bool transposed) {
  const int64_t rows = transposed ? frames_in : frames_out;
  const int64_t offset = padding == Padding::kValid ? reach : 0;
  STD_TORCH_CHECK(padding != Padding::kReplicate || g.taps <= kMostTerms / frames_out,
                  "groups must have kernel sizes of at most ", kMostTerms / frames_out, " for ", frames_out,
                  " frames here, got ", g.taps);
  const bool zeros = !transposed && g.taps <= kZeroTerms / frames_out;
  const auto each = [&](auto&& visit) {
    for (int64_t out = 0; out < frames_out; ++out) {
      for (int64_t tap = 0; tap < g.taps; ++tap) {
        int64_t in = out * stride + offset + tap * g.dilation - g.reach();
        if (padding == Padding::kReplicate) in = std::clamp<int64_t>(in, 0, frames_in - 1);
        const bool inside = in >= 0 && in < frames_in;
        if (transposed && inside) visit(in, out, tap);
        if (!transposed && (inside || zeros)) visit(out, inside ? in : -1, tap);
      }
    }
  };
  TermTable table;
  table.begin.assign(rows + 1, 0);
  each([&](int64_t row, int64_t, int64_t) { ++table.begin[row + 1]; });
  for (int64_t row = 0; row < rows; ++row) table.begin[row + 1] += table.begin[row];
  table.terms.resize(table.begin[rows]);
  std::vector<int64_t> next(table.begin.begin(), table.begin.end() - 1);
  each([&](int64_t row, int64_t frame, int64_t tap) {
    table.terms[next[row]++] = {static_cast<int32_t>(frame), static_cast<int32_t>(tap)};
  });
  return table;
}

}  // namespace vidops
