// resize on the CPU: bilinear resampling of every frame, one axis after the other.
//
// Which elements of an axis a result reads, and with what weights, is a small table: two terms a result forward;
// backward its transpose, so that gradients are gathered, in ascending order, and both directions are the same loop. A
// row of the result is a weighted sum of whole rows (vectors along the row), kept in accumulation type, then a weighted
// sum of that row's elements (channels last: vectors of channels). Floor: x read once, y written once; rows are read
// again only as often as neighbouring results share them, from the caches.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "common/clip.h"
#include "common/dispatch.h"
#include "common/resize.h"
#include "common/namespace.h"
#include "common/vec.h"

namespace vidops {
namespace {

constexpr int64_t kGrain = 16 << 10;  // elements a thread should have at least

// Result o is the sum of weight[i] * element[index[i]] for i in begin[o] .. begin[o + 1].
template <class A>
struct Terms {
  std::vector<int64_t> begin{0};
  std::vector<int32_t> index;
  std::vector<A> weight;
  bool pairs = false;  // always two terms a result: where it reads one element, half of it twice

  void add(int64_t i, double w) { index.push_back(static_cast<int32_t>(i)), weight.push_back(static_cast<A>(w)); }
  void close() { begin.push_back(static_cast<int64_t>(index.size())); }
};

template <class A>
Terms<A> forward_terms(int64_t in, int64_t out) {
  Terms<A> terms;
  terms.pairs = true;
  for (int64_t d = 0; d < out; ++d) {
    const AxisTap tap = axis_tap(d, in, out);
    terms.add(tap.low, 1 - tap.share);
    terms.add(tap.high, tap.share);
    terms.close();
  }
  return terms;
}

template <class A>
Terms<A> backward_terms(int64_t in, int64_t out) {
  Terms<A> terms;
  int64_t first = 0;  // results before it read only elements before i
  for (int64_t i = 0; i < in; ++i) {
    while (first < out && place_of(first, in, out) <= 2 * out * (i - 1)) ++first;
    for (int64_t d = first; d < out && place_of(d, in, out) < 2 * out * (i + 1); ++d) {
      const int64_t away = std::abs(place_of(d, in, out) - 2 * out * i);
      terms.add(d, static_cast<double>(2 * out - away) / (2 * out));
    }
    terms.close();
  }
  return terms;
}

// sum = weight * x over `count` neighbouring elements, added to what is there unless it is the first term.
template <class T>
void add_run(acc_t<T>* sum, const T* x, int64_t count, acc_t<T> weight, bool first) {
  using A = acc_t<T>;
  int64_t i = 0;
  for (; i + kLanes<T> <= count; i += kLanes<T>) {
    const Vec<T> term = load(x + i) * weight;
    store(sum + i, first ? term : load<A>(sum + i) + term);
  }
  for (; i < count; ++i) sum[i] = (first ? A{0} : sum[i]) + load1(x + i) * weight;
}

template <class T>
struct Rows {
  using A = acc_t<T>;
  const Terms<A>&rows, &columns;
  int64_t inner, width, step;  // neighbouring elements of a position; positions of a row; elements between positions
  std::vector<A> row, result;

  Rows(const Terms<A>& rows, const Terms<A>& columns, const Clip& x, bool last)
      : rows(rows),
        columns(columns),
        inner(last ? x.C : 1),
        width(x.W),
        step(x.sP),
        row(x.W * inner),
        result(last ? 0 : columns.begin.size() - 1) {}

  // row = the weighted rows of a frame that row o of the result reads.
  void sum_rows(const T* frame, int64_t o) {
    if (rows.begin[o] == rows.begin[o + 1]) std::fill(row.begin(), row.end(), A{0});
    for (int64_t i = rows.begin[o]; i < rows.begin[o + 1]; ++i) {
      const T* from = frame + rows.index[i] * width * step;
      const bool first = i == rows.begin[o];
      if (step == inner) {
        add_run(row.data(), from, width * inner, rows.weight[i], first);
      } else {
        for (int64_t p = 0; p < width; ++p) add_run(&row[p * inner], from + p * step, inner, rows.weight[i], first);
      }
    }
  }

  void planar(T* to) {
    const int64_t count = static_cast<int64_t>(result.size());
    const int32_t* index = columns.index.data();
    const A* weight = columns.weight.data();
    for (int64_t o = 0; o < count; ++o) {
      if (columns.pairs) {
        result[o] = row[index[2 * o]] * weight[2 * o] + row[index[2 * o + 1]] * weight[2 * o + 1];
      } else {
        A sum = 0;
        for (int64_t i = columns.begin[o]; i < columns.begin[o + 1]; ++i) sum += row[index[i]] * weight[i];
        result[o] = sum;
      }
    }
    int64_t o = 0;
    for (; o + kLanes<T> <= count; o += kLanes<T>) store(to + o, load<A>(&result[o]));
    for (; o < count; ++o) store1(to + o, result[o]);
  }

  // Row `o` of the result where every result has two terms: straight from the two rows, vector by vector.
  void channels_last_pairs(const T* frame, int64_t o, T* to) const {
    const T* top = frame + rows.index[2 * o] * width * step;
    const T* bottom = frame + rows.index[2 * o + 1] * width * step;
    const A above = rows.weight[2 * o], below = rows.weight[2 * o + 1];
    const auto column = [&](int64_t at, int64_t count) {
      return load_part(top + at, count) * above + load_part(bottom + at, count) * below;
    };
    for (size_t p = 0; p + 1 < columns.begin.size(); ++p, to += inner) {
      const int64_t left = columns.index[2 * p] * step, right = columns.index[2 * p + 1] * step;
      const A before = columns.weight[2 * p], after = columns.weight[2 * p + 1];
      int64_t c = 0;
      for (; c + kLanes<T> <= inner; c += kLanes<T>) {
        const Vec<T> near = load(top + left + c) * above + load(bottom + left + c) * below;
        const Vec<T> far = load(top + right + c) * above + load(bottom + right + c) * below;
        store(to + c, near * before + far * after);
      }
      if (c < inner) {
        const int64_t rest = inner - c;
        store_part(to + c, column(left + c, rest) * before + column(right + c, rest) * after, rest);
      }
    }
  }

  void channels_last(T* to) const {
    for (size_t o = 0; o + 1 < columns.begin.size(); ++o, to += inner) {
      for (int64_t c = 0; c < inner; c += kLanes<T>) {
        Vec<T> sum{};
        for (int64_t i = columns.begin[o]; i < columns.begin[o + 1]; ++i) {
          sum += load_part<A>(&row[columns.index[i] * inner + c], inner - c) * columns.weight[i];
        }
        store_part(to + c, sum, inner - c);
      }
    }
  }
};

template <class T>
void resample(const Tensor& x, const Clip& cx, const Tensor& y, const Clip& cy, bool backward) {
  using A = acc_t<T>;
  const bool last = cx.layout == Layout::kNTHWC, frames_first = cx.layout == Layout::kNTCHW;
  const auto terms = [&](int64_t from, int64_t to) {
    return backward ? backward_terms<A>(to, from) : forward_terms<A>(from, to);
  };
  const Terms<A> rows = terms(cx.H, cy.H), columns = terms(cx.W, cy.W);
  const bool pairs = rows.pairs && columns.pairs;
  const T* source = static_cast<const T*>(x.data_ptr());
  T* result = static_cast<T*>(y.data_ptr());
  const int64_t inner = last ? cx.C : 1, planes = last ? 1 : cx.C;
  torch::stable::parallel_for(0, cx.N * planes * cx.T * cy.H,
                              std::max<int64_t>(1, kGrain / (inner * std::max(cx.W, cy.W))),
                              [&](int64_t begin, int64_t end) {
                                Rows<T> of(rows, columns, cx, last);
                                for (int64_t item = begin; item < end; ++item) {
                                  const int64_t o = item % cy.H, n = item / (cy.H * cx.T * planes);
                                  const int64_t outer = item / cy.H % (cx.T * planes);  // planes in the order of memory
                                  const int64_t t = frames_first ? outer / planes : outer % cx.T;
                                  const int64_t c = frames_first ? outer % planes : outer / cx.T;
                                  const T* frame = source + n * cx.sN + c * cx.sC + t * cx.sT;
                                  T* to = result + n * cy.sN + c * cy.sC + t * cy.sT + o * cy.W * cy.sP;
                                  if (last && pairs) {
                                    of.channels_last_pairs(frame, o, to);
                                    continue;
                                  }
                                  of.sum_rows(frame, o);
                                  last ? of.channels_last(to) : of.planar(to);
                                }
                              });
}

Tensor run(const Tensor& input, int64_t height, int64_t width, bool backward) {
  check_frames(input, height, width);
  const Tensor x = native_clip(input);
  const Clip cx = describe(x);
  const Clip cy = with_frames(cx, height, width);
  Tensor y = empty_clip(x, cy, cy.T, cy.layout);
  if (y.numel() == 0) return y;
  dispatch_float(x.scalar_type(), [&](auto tag) { resample<typename decltype(tag)::type>(x, cx, y, cy, backward); });
  return y;
}

Tensor resize(Tensor x, int64_t height, int64_t width) { return run(x, height, width, false); }
Tensor resize_backward(Tensor grad, int64_t height, int64_t width) { return run(grad, height, width, true); }

VIDOPS_LIBRARY_IMPL(VIDOPS_NAMESPACE, CPU, m) {
  m.impl("resize", TORCH_BOX(&resize));
  m.impl("resize_backward", TORCH_BOX(&resize_backward));
}

}  // namespace
}  // namespace vidops
