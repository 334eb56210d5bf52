// temporal_projection on the CPU: rows of pixels, a vector of them at a time, whose systems are solved lane by lane.
//
// Floor: x read once, what is asked for written once; backward also reads the arriving gradients and writes dx. A
// vector of V pixels needs T*D (D/2 + 2C) multiply-adds forward, three times that backward, which at C 3, T 8 and D 1
// is a fifth of the time that its bytes take. Forward of 4x3x8x224x224 reads 19 MB: 1 ms at 20 GB/s.
//
// The grid's rows are spread along a row of pixels once, and serve all rows of pixels between them; a vector's A is a
// blend of two such rows. x of a vector and channel is read for At x and, from the first cache, for the residual.
// Nothing but the two spread rows, and backward two rows of sums, is ever stored: 2 T D W numbers a thread.
//
// Backward makes y and p again. With gp the gradient that arrives at p, w = G^-1 (At gp - gy) and q = gp - A w, dx is q
// and dA = -(q yt + p wt); gx, the one at the projection x - p, is added to dx and taken from gp. The gradient of the
// grid is gathered: up to eight rows of pixels between the same two rows of the grid are summed up, those sums along
// the cells, in fp64, and then the items of a row of the grid in their order. So are energy and error, an item at a
// time in fp64: results do not depend on the number of threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "common/dispatch.h"
#include "common/namespace.h"
#include "cpu/temporal_projection_pixels.h"

namespace vidops {
namespace {

constexpr int64_t kGrain = 8 << 10;  // elements of x a thread should have at least

// f(integral_constant<D>): 0 for a number of columns that has no kernel of its own.
template <class F>
void with_columns(int64_t columns, F&& f) {
  switch (columns) {
    case 1:
      return f(std::integral_constant<int, 1>{});
    case 2:
      return f(std::integral_constant<int, 2>{});
    case 3:
      return f(std::integral_constant<int, 3>{});
    case 4:
      return f(std::integral_constant<int, 4>{});
    default:
      return f(std::integral_constant<int, 0>{});
  }
}

// A call's clip and basis.
template <class T>
struct Call {
  Rows<const T> x;
  RowWalk walk;
  const T* basis;
  ProjectionSize size;
  double ridge;

  bool uniform() const { return size.w == 1; }  // along a row
  int64_t items_grain(int64_t items) const {
    const int64_t elements = walk.channels * size.frames * walk.rows * walk.width / std::max<int64_t>(items, 1);
    return kGrain / std::max<int64_t>(elements, 1) + 1;
  }
};

// Matrices of a row of pixels: a blend of two spread rows, or one of them.
template <class T>
class RowMatrices {
  using A = acc_t<T>;

 public:
  RowMatrices(const Call<T>& call, const Spread<T>& spread)
      : call_(call), spread_(spread), rows_(spread, call.basis, call.size.h), blend_(spread.entries() * kLanes<T>) {}

  void item(int64_t n, const RowItem& item) {
    low_ = rows_(n, item.low);
    high_ = item.high > item.low ? rows_(n, item.high) : low_;
  }
  // Row i lies between both rows of its item, or on the first.
  void row(int64_t i) {
    const AxisTap tap = axis_tap(i, call_.size.h, call_.walk.rows);
    between_ = tap.high > tap.low;
    share_ = static_cast<A>(tap.share), rest_ = static_cast<A>(1 - tap.share);
  }
  bool between() const { return between_; }
  A share() const { return share_; }
  A rest() const { return rest_; }

  const Vec<T>* block(int64_t b) const {
    const int64_t count = spread_.entries(), first = b * count * kLanes<T>;
    if (!between_) return reinterpret_cast<const Vec<T>*>(low_ + first);
    for (int64_t k = 0; k < count * kLanes<T>; k += kLanes<T>) {
      store(blend_.get() + k, load(low_ + first + k) * rest_ + load(high_ + first + k) * share_);
    }
    return reinterpret_cast<const Vec<T>*>(blend_.get());
  }

 private:
  const Call<T>& call_;
  const Spread<T>& spread_;
  SpreadRows<T> rows_;
  Scratch<A> blend_;
  const A *low_ = nullptr, *high_ = nullptr;
  bool between_ = false;
  A share_ = 0, rest_ = 1;
};

// f(lanes, j) for the vectors of a row.
template <class T, class F>
void each_block(int64_t width, F&& f) {
  int64_t j = 0;
  for (; j + kLanes<T> <= width; j += kLanes<T>) f(WholeVector{}, j);
  if (j < width) f(PartOfVector{width - j}, j);
}

template <class T, int kD>
PixelRow<T, kD> pixel_row(const Call<T>& call, int64_t n, int64_t i) {
  return {call.x,
          n,
          i,
          call.walk.channels,
          call.size.frames,
          static_cast<int>(call.size.columns),
          broadcast<Vec<T>>(static_cast<acc_t<T>>(call.ridge))};
}

// `sums`: of every clip's items, energy and error.
template <class T, int kD>
void forward(const Call<T>& call, const ProjectionOutputs<T>& out, std::vector<double>& sums) {
  const std::vector<RowItem> items = row_items(call.size.h, call.walk.rows);
  const int64_t count = static_cast<int64_t>(items.size());
  const Spread<T> spread(call.size.w, call.walk, call.size.frames, call.size.columns);
  sums.assign(call.walk.clips * count * 2, 0.0);
  torch::stable::parallel_for(0, call.walk.clips * count, call.items_grain(count), [&](int64_t begin, int64_t end) {
    RowMatrices<T> matrices(call, spread);
    for (int64_t k = begin; k < end; ++k) {
      const int64_t n = k / count;
      const RowItem& item = items[k % count];
      matrices.item(n, item);
      ResidualSums<T> total;
      for (int64_t i = item.begin; i < item.end; ++i) {
        matrices.row(i);
        PixelRow<T, kD> row = pixel_row<T, kD>(call, n, i);
        each_block<T>(call.walk.width, [&](auto lanes, int64_t j) {
          const Vec<T>* a = matrices.block(j / kLanes<T>);
          if (j == 0 || !call.uniform()) row.factorise(a);
          row.forward(a, out, total, j, lanes);
        });
      }
      sums[2 * k] = sum_lanes(total.energy), sums[2 * k + 1] = sum_lanes(total.error);
    }
    stream_fence();
  });
}

// The gradient of the grid, from the items' parts: `entries` rows of `cells` numbers each.
template <class T>
void sum_parts(const Call<T>& call, const std::vector<RowItem>& items, const acc_t<T>* parts, int64_t part_size,
               T* to) {
  const int64_t cells = call.size.w, rows = call.size.h, entries = part_size / cells, count = part_count(items);
  torch::stable::parallel_for(0, call.walk.clips * rows, kGrain / part_size + 1, [&](int64_t begin, int64_t end) {
    std::vector<double> sums(part_size);
    for (int64_t k = begin; k < end; ++k) {
      const int64_t n = k / rows, r = k % rows;
      std::fill(sums.begin(), sums.end(), 0.0);
      for (const RowItem& item : items) {
        if (item.low != r && item.high != r) continue;
        const acc_t<T>* part = parts + (n * count + item.part + (item.low != r)) * part_size;
        for (int64_t e = 0; e < part_size; ++e) sums[e] += part[e];
      }
      for (int64_t e = 0; e < entries; ++e) {
        T* row = to + ((n * entries + e) * rows + r) * cells;
        for (int64_t v = 0; v < cells; ++v) store1(row + v, static_cast<acc_t<T>>(sums[e * cells + v]));
      }
    }
  });
}

template <class T, int kD>
void backward(const Call<T>& call, const ProjectionGradients<T>& g, T* basis_grad) {
  using A = acc_t<T>;
  using V = Vec<T>;
  const std::vector<RowItem> items = row_items(call.size.h, call.walk.rows);
  const int64_t count = static_cast<int64_t>(items.size()), parts_a_clip = part_count(items);
  const Spread<T> spread(call.size.w, call.walk, call.size.frames, call.size.columns);
  const int64_t entries = spread.entries();
  const Scratch<A> parts(g.basis ? call.walk.clips * parts_a_clip * spread.part_size() : 0);
  torch::stable::parallel_for(0, call.walk.clips * count, call.items_grain(count), [&](int64_t begin, int64_t end) {
    RowMatrices<T> matrices(call, spread);
    const Scratch<A> low(g.basis ? spread.size() : 0), high(g.basis ? spread.size() : 0);
    const Scratch<A> memory((entries + 2 * call.size.frames) * kLanes<T>);
    V *const slopes = reinterpret_cast<V*>(memory.get()), *const work = slopes + entries;
    for (int64_t k = begin; k < end; ++k) {
      const int64_t n = k / count;
      const RowItem& item = items[k % count];
      const bool both = item.high > item.low;
      matrices.item(n, item);
      if (g.basis) std::fill_n(low.get(), spread.size(), A(0));
      if (g.basis && both) std::fill_n(high.get(), spread.size(), A(0));
      for (int64_t i = item.begin; i < item.end; ++i) {
        matrices.row(i);
        PixelRow<T, kD> row = pixel_row<T, kD>(call, n, i);
        each_block<T>(call.walk.width, [&](auto lanes, int64_t j) {
          const int64_t b = j / kLanes<T>;
          const V* a = matrices.block(b);
          if (j == 0 || !call.uniform()) row.factorise(a);
          if (g.basis) std::fill_n(slopes, entries, V{});
          row.backward(a, g, slopes, work, j, lanes);
          if (!g.basis) return;
          V* const lows = reinterpret_cast<V*>(low.get()) + b * entries;
          V* const highs = reinterpret_cast<V*>(high.get()) + b * entries;
          if (matrices.between()) {
            for (int64_t e = 0; e < entries; ++e) {
              lows[e] += slopes[e] * matrices.rest(), highs[e] += slopes[e] * matrices.share();
            }
          } else {
            for (int64_t e = 0; e < entries; ++e) lows[e] += slopes[e];
          }
        });
      }
      if (!g.basis) continue;
      A* const part = parts.get() + (n * parts_a_clip + item.part) * spread.part_size();
      spread.reduce(low.get(), part);
      if (both) spread.reduce(high.get(), part + spread.part_size());
    }
    stream_fence();
  });
  if (g.basis) sum_parts(call, items, parts.get(), spread.part_size(), basis_grad);
}

template <class T>
Call<T> call_of(const Tensor& x, const Tensor& basis, const ProjectionSize& size, double ridge) {
  const T* const grid = static_cast<const T*>(basis.data_ptr());
  return {rows_of_clip<T>(x).constant(), row_walk(describe(x)), grid, size, ridge};
}

using Projection = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Projection temporal_projection(Tensor x, Tensor basis, double ridge, int64_t outputs) {
  const ProjectionSize size = check_projection(x, basis);
  x = clip_of_rows(x);
  const Clip cx = describe(x);
  const auto empty = [&](int field) { return empty_field(x, cx, size, field, outputs); };
  Tensor y = empty(kCoefficients), projection = empty(kProjection), residual = empty(kResidual);
  Tensor mean = empty(kResidualMean), energy = empty(kEnergy), error = empty(kError);
  if (cx.N == 0) return {y, projection, residual, mean, energy, error};
  const Tensor grid = torch::stable::contiguous(basis);
  const auto wanted = [&](int field) { return (outputs >> field & 1) != 0; };
  dispatch_float(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = acc_t<T>;
    const Call<T> call = call_of<T>(x, grid, size, ridge);
    ProjectionOutputs<T> out{};
    if (wanted(kCoefficients)) out.coefficients = rows_of_images<T>(y, call.walk, size.columns);
    if (wanted(kProjection)) out.projection = rows_of_clip<T>(projection);
    if (wanted(kResidual)) out.residual = rows_of_clip<T>(residual);
    if (wanted(kResidualMean)) out.mean = rows_of_images<T>(mean, call.walk, 1);
    out.energy = wanted(kEnergy), out.error = wanted(kError);
    std::vector<double> sums;
    with_columns(size.columns, [&](auto columns) { forward<T, columns>(call, out, sums); });
    const int64_t items = static_cast<int64_t>(sums.size()) / (2 * cx.N);
    for (int field : {kEnergy, kError}) {
      if (!wanted(field)) continue;
      A* to = static_cast<A*>((field == kEnergy ? energy : error).data_ptr());
      for (int64_t n = 0; n < cx.N; ++n) {
        double total = 0;
        for (int64_t k = n * items; k < (n + 1) * items; ++k) total += sums[2 * k + (field == kError)];
        to[n] = static_cast<A>(total / static_cast<double>(cx.C * cx.P));
      }
    }
  });
  return {y, projection, residual, mean, energy, error};
}

// A clip's gradient at its energy or error, over the number of values of a frame.
template <class A>
std::vector<A> gradients_of_sums(const std::optional<Tensor>& grad, const Clip& c) {
  std::vector<A> values;
  if (!grad) return values;
  const A* from = static_cast<const A*>(grad->data_ptr());
  for (int64_t n = 0; n < c.N; ++n) {
    values.push_back(static_cast<A>(static_cast<double>(from[n * grad->stride(0)]) / static_cast<double>(c.C * c.P)));
  }
  return values;
}

std::tuple<Tensor, Tensor> temporal_projection_backward(
    std::optional<Tensor> grad_coefficients, std::optional<Tensor> grad_projection, std::optional<Tensor> grad_residual,
    std::optional<Tensor> grad_residual_mean, std::optional<Tensor> grad_energy, std::optional<Tensor> grad_error,
    Tensor x, Tensor basis, double ridge, bool need_x, bool need_basis) {
  const ProjectionSize size = check_projection(x, basis);
  const std::optional<Tensor>* const given[] = {&grad_coefficients,  &grad_projection, &grad_residual,
                                                &grad_residual_mean, &grad_energy,     &grad_error};
  for (int field = 0; field < 6; ++field) check_field_gradient(*given[field], field, x, size.columns);
  x = clip_of_rows(x);
  const Clip cx = describe(x);
  Tensor dx = need_x ? empty_clip(x, cx, cx.T, cx.layout) : torch::stable::new_empty(x, {0});
  Tensor dbasis = torch::stable::new_empty(x, {need_basis ? cx.N : 0, size.frames, size.columns, size.h, size.w});
  if (!need_basis) dbasis = torch::stable::new_empty(x, {0});
  const bool any = std::any_of(std::begin(given), std::end(given), [](const auto* grad) { return grad->has_value(); });
  if (cx.N == 0 || !any) {
    torch::stable::zero_(dx), torch::stable::zero_(dbasis);
    return {dx, dbasis};
  }
  if (grad_coefficients) grad_coefficients = laid_out_as(*grad_coefficients, empty_coefficients(x, cx, size.columns));
  if (grad_residual_mean) grad_residual_mean = laid_out_as(*grad_residual_mean, empty_images(x, cx, cx.C));
  if (grad_projection) grad_projection = clip_of_rows_like(*grad_projection, cx);
  if (grad_residual) grad_residual = clip_of_rows_like(*grad_residual, cx);
  const Tensor grid = torch::stable::contiguous(basis);
  dispatch_float(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Call<T> call = call_of<T>(x, grid, size, ridge);
    const auto energy = gradients_of_sums<acc_t<T>>(grad_energy, cx),
               error = gradients_of_sums<acc_t<T>>(grad_error, cx);
    ProjectionGradients<T> g{};
    if (grad_coefficients) g.coefficients = rows_of_images<T>(*grad_coefficients, call.walk, size.columns).constant();
    if (grad_projection) g.projection = rows_of_clip<T>(*grad_projection).constant();
    if (grad_residual) g.residual = rows_of_clip<T>(*grad_residual).constant();
    if (grad_residual_mean) g.mean = rows_of_images<T>(*grad_residual_mean, call.walk, 1).constant();
    g.energy = grad_energy ? energy.data() : nullptr, g.error = grad_error ? error.data() : nullptr;
    if (need_x) g.x = rows_of_clip<T>(dx);
    g.basis = need_basis;
    T* const to = static_cast<T*>(dbasis.data_ptr());
    with_columns(size.columns, [&](auto columns) { backward<T, columns>(call, g, to); });
  });
  return {dx, dbasis};
}

VIDOPS_LIBRARY_IMPL(VIDOPS_NAMESPACE, CPU, m) {
  m.impl("temporal_projection", TORCH_BOX(&temporal_projection));
  m.impl("temporal_projection_backward", TORCH_BOX(&temporal_projection_backward));
}

}  // namespace
}  // namespace vidops
