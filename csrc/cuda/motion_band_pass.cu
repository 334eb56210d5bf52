// motion_band_pass on CUDA devices: the temporal filter first, so that the k x k one has T/stride frames to do.
//
// Floor: x read once and the results written once, k*k + 3 multiply-adds an element of the result; backward twice the
// arithmetic. At k 7 and 9 the arithmetic is about what the memory is: 1.6 and 1.9 ps an element of fp32 features.
//
// A block owns a tile of pixels of one result frame, of one channel or several. Its threads combine the three frames
// into shared memory, with a border of k-1 mirrored pixels, so nothing intermediate reaches device memory. A thread
// then makes 8 neighbouring rows of one column: per column of taps it reads k taps and k+7 pixels for 8k multiply-adds.
// Tiles follow the plane: 32 x 32 pixels of a channel for the stem and res2, fewer pixels of more channels for small
// planes; in channels last 16 neighbouring channels of 8 x 8 pixels, so that a warp's reads are whole sectors. k of 3,
// 5, 7, 9 are compiled, others and fp64 take a plain loop.
//
// Backward, from g = grad - grad_quiet: the adjoint D of the spatial filter over the padded frame is the same tile loop
// over zero-padded g with the taps turned round; a second kernel folds D's border onto the pixels it mirrors and
// multiplies it with the three frames, which is d temporal; a third gathers dx. d spatial multiplies g with the
// combined frames in shared memory, a thread a row of taps and a row of the tile: k sums in registers, k*8 products for
// k+15 reads. Partial sums are added in a fixed order: no atomics.
//
// Predicted: 1.6 x floor forward, 2.5 x backward, which moves D twice. Not yet measured on a GPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <tuple>
#include <type_traits>

#include "common/clip.h"
#include "common/dispatch.h"
#include "common/namespace.h"
#include "cuda/motion_band_pass_kernels.cuh"
#include "cuda/sum_partials.cuh"
#include "cuda/tuning.cuh"

namespace vidops {
namespace {

constexpr int64_t kMostShared = 48 << 10;
constexpr int32_t kTapThreads = 512;

namespace tuned {
// Tiles of the kernels that filter, 128 threads of 8 rows each: in channels last so many channels at most, in planar
// layouts so many groups of 8 rows; pixels or channels make up the rest.
Tunable lanes("motion_band_pass", "lanes", 16, {4, 8, 16, 32});
Tunable row_groups("motion_band_pass", "row_groups", 4, {1, 2, 4});
Tunable fold_rounds("motion_band_pass", "fold_rounds", 8, {2, 4, 8, 16});  // positions of a thread, element by element
// The kernel of d spatial: the same two, in rows, and the blocks from which on they take several tiles.
Tunable taps_lanes("motion_band_pass", "taps_lanes", 16, {4, 8, 16});
Tunable taps_rows("motion_band_pass", "taps_rows", 32, {8, 16, 32});
Tunable taps_blocks("motion_band_pass", "taps_blocks", 2048, {512, 1024, 2048});
}  // namespace tuned

int32_t power_of_two(int64_t n, int64_t most) {
  int32_t p = 1;
  while (p < n && p < most) p *= 2;
  return p;
}

int64_t blocks_of(int64_t count) {
  STD_TORCH_CHECK(count < (int64_t{1} << 31), "x is too large for the CUDA kernels");
  return count;
}

BandArgs arguments(const BandPass& call, const Clip& x) {
  STD_TORCH_CHECK(x.P < (int64_t{1} << 30) && x.C < (int64_t{1} << 30) && x.T < (int64_t{1} << 29),
                  "a clip of more than 2^30 pixels or channels or 2^29 frames is too large for the CUDA kernels");
  BandArgs a{};
  a.C = static_cast<int32_t>(x.C), a.T = static_cast<int32_t>(x.T);
  a.H = static_cast<int32_t>(x.H), a.W = static_cast<int32_t>(x.W);
  a.frames = static_cast<int32_t>(call.frames_out), a.stride = static_cast<int32_t>(call.stride);
  a.first = static_cast<int32_t>(call.first);
  a.k = static_cast<int32_t>(call.taps), a.reach = static_cast<int32_t>(call.reach);
  a.last = x.channels_last();
  return a;
}

void cover(BandArgs& a) {
  a.tiles_x = (a.W + a.columns - 1) / a.columns, a.tiles_y = (a.H + a.rows - 1) / a.rows;
  a.places = (a.C + a.lanes - 1) / a.lanes;
}

// Halves what a block owns until `fits`: channels first, then rows, then columns.
template <class F>
void shrink(BandArgs& a, int32_t fewest_rows, F&& fits) {
  while (!fits()) {
    int32_t& extent = a.lanes > 1 ? a.lanes : a.rows > fewest_rows ? a.rows : a.columns;
    STD_TORCH_CHECK(extent > (&extent == &a.columns ? 8 : 1), "spatial has too many taps for the CUDA kernels: ", a.k);
    extent /= 2;
  }
  cover(a);
}

// The tile of the kernels that filter, and the bytes of shared memory that it takes.
int64_t filter_tile(BandArgs& a, int64_t size) {
  if (a.last) {
    a.lanes = power_of_two(a.C, tuned::lanes.get()), a.columns = std::min(32, kBandThreads / a.lanes);
    a.rows = kRows * (kBandThreads / (a.lanes * a.columns));
  } else {
    a.columns = std::max(8, power_of_two(a.W, 32));
    const int32_t groups = power_of_two((a.H + kRows - 1) / kRows, tuned::row_groups.get());
    a.rows = kRows * groups, a.lanes = power_of_two(a.C, kBandThreads / (a.columns * groups));
  }
  const auto bytes = [&] {
    const int64_t border = a.k - 1;
    return size * a.lanes * ((a.rows + border) * (a.columns + border) + int64_t{a.k} * a.k) + 16;
  };
  shrink(a, kRows, [&] { return bytes() <= kMostShared; });
  return bytes();
}

// The runs of positions of the kernels that go element by element.
void element_tile(BandArgs& a) {
  const int32_t positions = a.H * a.W;
  a.lanes = a.last ? power_of_two(a.C, 32) : 1, a.columns = kBandThreads / a.lanes;
  a.rows = std::min(static_cast<int32_t>(tuned::fold_rounds.get()), (positions + a.columns - 1) / a.columns);
  a.tiles_x = (positions + a.columns * a.rows - 1) / (a.columns * a.rows), a.tiles_y = 1;
  a.places = (a.C + a.lanes - 1) / a.lanes;
}

// The tile of the kernel of d spatial, and its shared memory.
int64_t taps_tile(BandArgs& a, int64_t size) {
  if (a.last) {
    a.lanes = power_of_two(a.C, tuned::taps_lanes.get()), a.columns = 8, a.rows = 4;
  } else {
    a.columns = std::max(8, power_of_two(a.W, 32)), a.lanes = 1;
    a.rows = power_of_two(a.H, tuned::taps_rows.get());
    while (a.lanes < a.C && a.lanes * a.rows * a.k * 2 <= kTapThreads / 2) a.lanes *= 2;
  }
  const auto bytes = [&] {
    const int64_t border = a.k - 1;
    return size * a.lanes * ((a.rows + border) * (a.columns + border) + a.rows * a.columns + int64_t{a.rows} * a.k);
  };
  shrink(a, 1, [&] { return a.lanes * a.rows * a.k <= kTapThreads && bytes() <= kMostShared; });
  return bytes();
}

// f(integral_constant<K>): compiled for the sizes that networks have.
template <class T, class F>
void with_taps(int64_t k, F&& f) {
  if constexpr (sizeof(T) < 8) {
    if (k == 3) return f(std::integral_constant<int, 3>{});
    if (k == 5) return f(std::integral_constant<int, 5>{});
    if (k == 7) return f(std::integral_constant<int, 7>{});
    if (k == 9) return f(std::integral_constant<int, 9>{});
  }
  f(std::integral_constant<int, 0>{});
}

std::tuple<Tensor, Tensor> motion_band_pass(Tensor x, Tensor spatial, Tensor temporal, int64_t stride,
                                            std::string temporal_padding, bool quiet) {
  const DeviceScope device(x);
  const BandPass call = band_pass_of(x, spatial, temporal, stride, temporal_padding);
  x = native_clip(x);
  const Clip cx = describe(x);
  Tensor y = empty_clip(x, cx, call.frames_out, cx.layout);
  Tensor q = quiet ? empty_clip(x, cx, call.frames_out, cx.layout) : torch::stable::new_empty(x, {0});
  if (y.numel() == 0) return {y, q};
  const Tensor over_space = torch::stable::contiguous(spatial), over_time = torch::stable::contiguous(temporal);
  dispatch_float(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    BandArgs a = arguments(call, cx);
    const int64_t bytes = filter_tile(a, sizeof(device_acc_t<T>));
    const int64_t blocks = blocks_of(cx.N * a.places * a.frames * a.tiles_x * a.tiles_y);
    const std::optional<Tensor> second = quiet ? std::optional<Tensor>(q) : std::nullopt;
    with_taps<T>(call.taps, [&](auto k) {
      launch(band_pass_kernel<k, T>, dim3(blocks), dim3(a.lanes * a.columns * a.rows / kRows), bytes, device, a,
             steps_of<const T>(x), static_cast<const T*>(over_space.data_ptr()),
             static_cast<const T*>(over_time.data_ptr()), steps_of<T>(y), steps_of<T>(second));
    });
  });
  return {y, q};
}

// Scratch in accumulation type, of the result's frames, laid out as x is.
template <class T>
Steps<device_acc_t<T>> scratch(const BandPass& call, const Clip& x, int64_t H, int64_t W, const Tensor& like,
                               std::optional<Tensor>& memory) {
  using A = device_acc_t<T>;
  const int64_t C = x.C, P = H * W, frames = call.frames_out;
  memory = torch::stable::new_empty(like, {x.N * C * frames * P}, torch::headeronly::CppTypeToScalarType<A>::value);
  A* data = static_cast<A*>(memory->data_ptr());
  if (x.channels_last()) return {data, C * frames * P, 1, C * P, C};
  return {data, C * frames * P, frames * P, P, 1};
}

template <class T>
struct BandCall {
  const BandPass& call;
  const Clip cx;
  const Tensor &x, &spatial, &temporal;
  const BandSlope<T> slope;
  const DeviceScope& device;
  using A = device_acc_t<T>;

  const T* in_space() const { return static_cast<const T*>(spatial.data_ptr()); }
  const T* in_time() const { return static_cast<const T*>(temporal.data_ptr()); }

  void add_rows(const Tensor& partial, int64_t rows, int64_t shares, const Tensor& to) const {
    launch(sum_partials_kernel<T>, dim3(blocks_of((rows + kSumWarps - 1) / kSumWarps)), dim3(kColumnThreads), 0, device,
           static_cast<const A*>(partial.data_ptr()), rows, rows, shares, static_cast<T*>(to.data_ptr()),
           static_cast<T*>(nullptr));
  }

  void x_and_time(bool need_x, const Tensor& dx, bool need_temporal, const Tensor& dt) const {
    BandArgs wide = arguments(call, cx);
    wide.H += 2 * wide.reach, wide.W += 2 * wide.reach;
    const int64_t bytes = filter_tile(wide, sizeof(A));
    std::optional<Tensor> d_memory, folded_memory, partial;
    const auto d = scratch<T>(call, cx, wide.H, wide.W, x, d_memory);
    const auto folded = scratch<T>(call, cx, cx.H, cx.W, x, folded_memory);
    with_taps<T>(call.taps, [&](auto k) {
      launch(band_pass_adjoint_kernel<k, T>,
             dim3(blocks_of(cx.N * wide.places * wide.frames * wide.tiles_x * wide.tiles_y)),
             dim3(wide.lanes * wide.columns * wide.rows / kRows), bytes, device, wide, static_cast<int32_t>(cx.H),
             static_cast<int32_t>(cx.W), slope, in_space(), d);
    });
    BandArgs a = arguments(call, cx);
    element_tile(a);
    const int64_t shares = cx.N * a.frames * a.tiles_x, rows = cx.C * 3;
    if (need_temporal) {
      partial = torch::stable::new_empty(x, {rows * shares}, torch::headeronly::CppTypeToScalarType<A>::value);
    }
    launch(band_pass_fold_kernel<T>, dim3(blocks_of(shares * a.places)), dim3(kBandThreads), sizeof(A) * kBandThreads,
           device, a, steps_of<const T>(x), constant(d), folded,
           partial ? static_cast<A*>(partial->data_ptr()) : nullptr, shares);
    if (need_temporal) add_rows(*partial, rows, shares, dt);
    if (!need_x) return;
    launch(band_pass_frames_kernel<T>, dim3(blocks_of(cx.N * a.T * a.tiles_x * a.places)), dim3(kBandThreads), 0,
           device, a, constant(folded), slope.quiet, in_time(), steps_of<T>(dx));
  }

  void space(const Tensor& ds) const {
    BandArgs a = arguments(call, cx);
    const int64_t bytes = taps_tile(a, sizeof(A));
    const int64_t items = blocks_of(cx.N * a.frames * a.tiles_x * a.tiles_y);
    const int64_t run = std::clamp<int64_t>(items * a.places / tuned::taps_blocks.get(), 1, 128 / a.columns);
    const int64_t shares = (items + run - 1) / run, rows = cx.C * call.taps * call.taps;
    const Tensor partial =
        torch::stable::new_empty(x, {rows * shares}, torch::headeronly::CppTypeToScalarType<A>::value);
    with_taps<T>(call.taps, [&](auto k) {
      launch(band_pass_taps_kernel<k, T>, dim3(blocks_of(shares * a.places)), dim3(a.lanes * a.rows * a.k), bytes,
             device, a, steps_of<const T>(x), in_time(), slope, static_cast<uint32_t>(items),
             static_cast<uint32_t>(run), static_cast<A*>(partial.data_ptr()));
    });
    add_rows(partial, rows, shares, ds);
  }
};

std::tuple<Tensor, Tensor, Tensor> motion_band_pass_backward(std::optional<Tensor> grad,
                                                             std::optional<Tensor> grad_quiet, Tensor x, Tensor spatial,
                                                             Tensor temporal, int64_t stride,
                                                             std::string temporal_padding, bool need_x,
                                                             bool need_spatial, bool need_temporal) {
  const DeviceScope device(x);
  const BandPass call = band_pass_of(x, spatial, temporal, stride, temporal_padding);
  x = native_clip(x);
  const Clip cx = describe(x);
  grad = band_pass_gradient(grad, "grad", x, call);
  grad_quiet = band_pass_gradient(grad_quiet, "grad_quiet", x, call);
  const int64_t C = cx.C, k = call.taps;
  Tensor dx = need_x ? empty_clip(x, cx, cx.T, cx.layout) : torch::stable::new_empty(x, {0});
  Tensor ds = need_spatial ? torch::stable::new_empty(x, {C, k, k}) : torch::stable::new_empty(x, {0});
  Tensor dt = need_temporal ? torch::stable::new_empty(x, {C, 3}) : torch::stable::new_empty(x, {0});
  if (cx.numel() == 0 || (!grad && !grad_quiet)) {
    torch::stable::zero_(dx), torch::stable::zero_(ds), torch::stable::zero_(dt);
    return {dx, ds, dt};
  }
  const Tensor over_space = torch::stable::contiguous(spatial), over_time = torch::stable::contiguous(temporal);
  dispatch_float(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const BandSlope<T> slope{steps_of<const T>(grad), steps_of<const T>(grad_quiet)};
    const BandCall<T> work{call, cx, x, over_space, over_time, slope, device};
    if (need_x || need_temporal) work.x_and_time(need_x, dx, need_temporal, dt);
    if (need_spatial) work.space(ds);
  });
  return {dx, ds, dt};
}

VIDOPS_LIBRARY_IMPL(VIDOPS_NAMESPACE, VIDOPS_CUDA_KEY, m) {
  m.impl("motion_band_pass", TORCH_BOX(&motion_band_pass));
  m.impl("motion_band_pass_backward", TORCH_BOX(&motion_band_pass_backward));
}

}  // namespace
}  // namespace vidops
