// resize on the CPU: bilinear resampling of every frame, one axis after the other.
//
// Which elements of an axis a result reads, and with what weights, is a small table: two terms a result forward;
// backward its transpose, so that gradients are gathered, in ascending order, and both directions are the same loop. A
// row of the result is a weighted sum of whole rows (vectors along the row), kept in accumulation type, then a weighted
// sum of that row's elements: by permutations (resize_windows.h), channels last as vectors of channels unless these are
// so few that a position fills no vector. Floor: x read once, y written once; rows are read again only as often as
// neighbouring results share them, from the caches.
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
#include "cpu/resize_windows.h"

namespace vidops {
namespace {

constexpr int64_t kGrain = 16 << 10;  // elements a thread should have at least
constexpr int kTogether = 4;          // rows of a result

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

// How a row of a frame becomes one of the result.
template <class A>
struct Plan {
  Terms<A> rows, columns;
  Windows<A> windows;  // of whole rows: in planes, or with the few channels of each position in turn
  bool whole;          // rows are taken as such, not position by position

  Plan(Terms<A> rows_, Terms<A> columns_, const Clip& x)
      : rows(std::move(rows_)),
        columns(std::move(columns_)),
        windows(x.layout == Layout::kNTHWC ? in_turn(columns, x) : columns),
        whole(x.layout != Layout::kNTHWC || (windows.size() > 0 && windows.all_in_vectors())) {}

  static Terms<A> in_turn(const Terms<A>& columns, const Clip& x) {
    return 2 * x.C <= kLanes<A> && x.sP == x.C ? columns.in_turn(x.C) : Terms<A>{};
  }
};

template <class T>
struct Rows {
  using A = acc_t<T>;
  const Plan<A>& plan;
  int64_t inner, width, step;  // neighbouring elements of a position; positions of a row; elements between positions
  int64_t pitch;               // elements from a row of sums to the next
  std::vector<A> row;          // kTogether of them

  Rows(const Plan<A>& plan, const Clip& x)
      : plan(plan),
        inner(x.layout == Layout::kNTHWC ? x.C : 1),
        width(x.W),
        step(x.sP),
        pitch(x.W * inner + 2 * kLanes<T>),
        row(kTogether * pitch) {}

  // Rows `o` to `end` of a frame of the result.
  void frame(const T* from, int64_t o, int64_t end, T* to) {
    const int64_t next = plan.columns.size() * inner;
    if (plan.whole) {
      for (; o + kTogether <= end; o += kTogether, to += kTogether * next) {
        for (int r = 0; r < kTogether; ++r) sum_rows(from, o + r, &row[r * pitch]);
        plan.windows.template apply<kTogether>(row.data(), pitch, to);
      }
    }
    for (; o < end; ++o, to += next) {
      if (!plan.whole && plan.rows.pairs) {
        channels_last_pairs(from, o, to);
        continue;
      }
      sum_rows(from, o, row.data());
      plan.whole ? plan.windows.template apply<1>(row.data(), pitch, to) : channels_last(to);
    }
  }

  // The weighted rows of a frame that row o of the result reads.
  void sum_rows(const T* frame, int64_t o, A* sums) const {
    if (plan.rows.count(o) == 0) return std::fill(sums, sums + pitch, A{0});
    if (step == inner) return sum_run(sums, frame, width * inner, o);
    for (int64_t p = 0; p < width; ++p) sum_run(sums + p * inner, frame + p * step, inner, o);
  }

  // What lies behind `count` sums may be overwritten, a vector of it.
  void sum_run(A* sum, const T* frame, int64_t count, int64_t o) const {
    const int32_t* index = &plan.rows.index[plan.rows.begin[o]];
    const A* weight = &plan.rows.weight[plan.rows.begin[o]];
    const int64_t terms = plan.rows.count(o), stride = width * step;
    const T *first = frame + index[0] * stride, *second = frame + index[terms > 1] * stride;
    for (int64_t next = 0; next < count; next += kLanes<T>) {
      // The last vector starts sooner where there is room: the same sums again.
      const int64_t i = count < kLanes<T> ? 0 : std::min(next, count - kLanes<T>), rest = count - i;
      Vec<T> total = load_part(first + i, rest) * weight[0];
      if (terms > 1) total += load_part(second + i, rest) * weight[1];
      for (int64_t k = 2; k < terms; ++k) total += load_part(frame + index[k] * stride + i, rest) * weight[k];
      store(sum + i, total);
    }
  }

  // Row `o` of the result where every result has two terms: straight from the two rows, vector by vector.
  void channels_last_pairs(const T* frame, int64_t o, T* to) const {
    const Terms<A>&rows = plan.rows, &columns = plan.columns;
    const T* top = frame + rows.index[2 * o] * width * step;
    const T* bottom = frame + rows.index[2 * o + 1] * width * step;
    const A above = rows.weight[2 * o], below = rows.weight[2 * o + 1];
    const auto column = [&](int64_t at, int64_t count) {
      return load_part(top + at, count) * above + load_part(bottom + at, count) * below;
    };
    for (int64_t p = 0; p < columns.size(); ++p, to += inner) {
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
    const Terms<A>& columns = plan.columns;
    for (int64_t o = 0; o < columns.size(); ++o, to += inner) {
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
  const Plan<A> plan(terms(cx.H, cy.H), terms(cx.W, cy.W), cx);
  const T* source = static_cast<const T*>(x.data_ptr());
  T* result = static_cast<T*>(y.data_ptr());
  const int64_t inner = last ? cx.C : 1, planes = last ? 1 : cx.C;
  torch::stable::parallel_for(0, cx.N * planes * cx.T * cy.H,
                              std::max<int64_t>(1, kGrain / (inner * std::max(cx.W, cy.W))),
                              [&](int64_t begin, int64_t end) {
                                Rows<T> of(plan, cx);
                                for (int64_t item = begin; item < end;) {
                                  const int64_t n = item / (cy.H * cx.T * planes);
                                  const int64_t outer = item / cy.H % (cx.T * planes);  // planes in the order of memory
                                  const int64_t t = frames_first ? outer / planes : outer % cx.T;
                                  const int64_t c = frames_first ? outer % planes : outer / cx.T;
                                  const int64_t o = item % cy.H, rows = std::min(cy.H - o, end - item);
                                  of.frame(source + n * cx.sN + c * cx.sC + t * cx.sT, o, o + rows,
                                           result + n * cy.sN + c * cy.sC + t * cy.sT + o * cy.W * cy.sP);
                                  item += rows;
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
