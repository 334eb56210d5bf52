// temporal_projection on CUDA devices: least squares along time in registers, with the basis up-sampled on the fly.
//
// Floor: x read once, the wanted results written once, the basis next to nothing; backward x and the gradients read
// once, dx and the basis' gradient written once. An RGB pixel of 8 frames is some 200 multiply-adds: memory decides.
//
// A thread owns neighbouring pixels of a row: 4 up to T 8, 2 or 1 up to T 16. Its block lays the basis at its rows,
// each between two rows of the grid, into shared memory; from two columns of that the thread makes A (T x D) of a pixel
// and factors G = AtA + ridge in registers, once for all channels. Then a channel's T frames are read into registers,
// solved for, and turned into the residual where they are. Channels-last clips are read a channel at a time, and what
// lies between stays in the L1 cache for the next one; dx leaves through shared memory, or every channel would write
// all its sectors again. Energy and error are sums of blocks, added by a second kernel in a fixed order.
//
// The basis' gradient is gathered: a block puts dA of its pixels into shared memory, sums it along its rows over the
// readers of every column of the grid, and a second kernel adds rows: scratch of T D H w numbers a clip, not T D H W.
//
// T above 16, D above 4 and fp64 take general kernels: D x D systems in shared memory, x read from the caches several
// times, and dA a frame at a time from coefficients that the first kernel left.
//
// Predicted for N 64, C 3, T 8 and 16, D 1: 1.15 x floor forward, 1.3 x backward; in channels last 1.5 x and 2 x. Not
// yet measured on a GPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <array>
#include <optional>
#include <tuple>
#include <type_traits>

#include "common/clip.h"
#include "common/dispatch.h"
#include "common/namespace.h"
#include "common/resize.h"
#include "common/temporal_projection.h"
#include "cuda/sum_partials.cuh"
#include "cuda/temporal_projection_general.cuh"
#include "cuda/tuning.cuh"

namespace vidops {
namespace {

constexpr int64_t kMostShared = 48 << 10, kMostStaged = 40 << 10;

namespace tuned {
Tunable threads("temporal_projection", "threads", 128, {32, 64, 128});  // of a block, at most
Tunable backward_threads("temporal_projection", "backward_threads", 128, {32, 64, 128});
Tunable pixels("temporal_projection", "pixels", 4, {1, 4});  // of a thread, at most; fewer are compiled past 8 frames
Tunable backward_pixels("temporal_projection", "backward_pixels", 4, {1, 4});
Tunable few_blocks("temporal_projection", "few_blocks", 512, {128, 256, 512, 1024});  // with fewer, channels are parted
}  // namespace tuned

struct Call {
  ProjectionArgs args;
  uint32_t blocks;
  dim3 threads;

  // Shared memory of basis_rows.
  int64_t rows_bytes(int64_t places, int64_t pixels, int64_t size) const {
    const int64_t touched =
        std::min<int64_t>(args.columns.in, args.segments > 1 ? args.across * pixels + 1 : args.columns.in);
    return size * places * touched * args.down;
  }
  int64_t shares() const { return static_cast<int64_t>(args.segments) * args.bands * args.parts; }
};

// Who owns what, with P pixels a thread and at most so many threads a block.
Call call_of(const Clip& x, const Tensor& basis, double ridge, int64_t P, int64_t most_threads, bool in_parts) {
  Call call{};
  ProjectionArgs& a = call.args;
  a.rows = Axis::of(basis.size(3), x.H), a.columns = Axis::of(basis.size(4), x.W);
  STD_TORCH_CHECK(x.C < (int64_t{1} << 24), "x has too many channels for the CUDA kernels: ", x.C);
  a.C = static_cast<int32_t>(x.C), a.T = static_cast<int32_t>(x.T), a.D = static_cast<int32_t>(basis.size(2));
  a.ridge = ridge;
  const int64_t groups = (x.W + P - 1) / P;
  a.segments = static_cast<int32_t>((groups + most_threads - 1) / most_threads);
  a.across = static_cast<int32_t>((groups + a.segments - 1) / a.segments);
  a.down = static_cast<int32_t>(std::min(most_threads / a.across, x.H));
  a.bands = static_cast<int32_t>((x.H + a.down - 1) / a.down);
  // Channels are parted where blocks are few: every part makes A and G anew.
  const int64_t tiles = x.N * a.segments * a.bands;
  const int64_t parts =
      in_parts ? std::clamp<int64_t>((tuned::few_blocks.get() + tiles - 1) / tiles, 1, (x.C + 7) / 8) : 1;
  a.part = static_cast<int32_t>((x.C + parts - 1) / parts);
  a.parts = static_cast<int32_t>((x.C + a.part - 1) / a.part);
  STD_TORCH_CHECK(tiles * a.parts < (int64_t{1} << 31) / 64, "x is too large for the CUDA kernels");
  const auto divisor = [](int64_t by) { return Divisor(static_cast<uint32_t>(by)); };
  a.by_across = divisor(a.across), a.by_segments = divisor(a.segments);
  a.by_bands = divisor(a.bands), a.by_parts = divisor(a.parts);
  call.blocks = static_cast<uint32_t>(tiles * a.parts);
  call.threads = dim3(static_cast<uint32_t>((a.across * a.down + 31) / 32 * 32));
  return call;
}

// Whether P neighbouring pixels can be moved at once.
template <class T>
bool whole(const Steps<T>& s, int64_t W, int64_t P) {
  const bool steps = s.p == 1 && s.n % P == 0 && s.c % P == 0 && s.t % P == 0;
  return !s.data || (W % P == 0 && steps && reinterpret_cast<uintptr_t>(s.data) % (P * sizeof(T)) == 0);
}

template <int N>
using Number = std::integral_constant<int, N>;

// Calls f(D, frames, pixels) with what a compiled kernel has of each, the last `pixels` where all can be moved so.
// False where the general kernels have to serve.
template <class T, bool kBackward, class F>
bool compiled(int64_t D, int64_t frames, F&& f) {
  constexpr int kLong = kBackward && sizeof(T) == 4 ? 1 : 2;  // pixels of up to 16 frames; two spilled
  if (sizeof(T) == 8 || D > 4 || frames > 16) return false;
  if constexpr (sizeof(T) < 8) {
    const auto with_frames = [&](auto d) {
      if (frames > 8) {
        f(d, Number<16>{}, Number<d == 1 ? kLong : 1>{});
      } else {
        f(d, Number<8>{}, Number<d == 1 ? 4 : 1>{});
      }
    };
    if (D == 1) with_frames(Number<1>{});
    if (D == 2) with_frames(Number<2>{});
    if (D == 3) with_frames(Number<3>{});
    if (D == 4) with_frames(Number<4>{});
  }
  return true;
}

// A block of the general kernels: as many threads as have their numbers in shared memory, and the basis' rows behind
// those where there is room.
struct GeneralCall : Call {
  int64_t bytes;
  bool rows;
};
GeneralCall general_call(const Clip& x, const Tensor& basis, double ridge, int64_t size, bool backward) {
  const int64_t D = basis.size(2), of_thread = size * general_slots(static_cast<int32_t>(D), backward);
  GeneralCall best{};
  const int64_t most = backward ? tuned::backward_threads.get() : tuned::threads.get();
  for (int64_t threads = most; threads >= 32; threads /= 2) {
    GeneralCall call{call_of(x, basis, ridge, 1, threads, true), 0, true};
    const int64_t numbers = of_thread * call.threads.x, with_rows = numbers + call.rows_bytes(x.T * D, 1, size);
    if (with_rows <= kMostShared) return call.bytes = with_rows, call;
    if (numbers <= kMostShared && best.bytes == 0) best = call, best.bytes = numbers, best.rows = false;
  }
  return best;
}

Tensor scratch(const Tensor& like, int64_t count) { return torch::stable::new_empty(like, {count}, sums_dtype(like)); }

// One tensor a field, none where it is not wanted or not given.
using Fields = std::array<std::optional<Tensor>, 6>;

// Images (N, C, H, W) in steps of a clip of one frame, those of coefficients (N, D, C, H, W) of D.
template <class T>
Steps<T> steps_of_images(const std::optional<Tensor>& images) {
  if (!images) return {nullptr, 0, 0, 0, 0};
  const Tensor& i = *images;
  const int64_t d = i.dim() - 4, step = i.size(3 + d) > 1 ? i.stride(3 + d) : i.stride(2 + d);
  return {static_cast<T*>(i.data_ptr()), i.stride(0), i.stride(1 + d), d ? i.stride(1) : 0, step};
}

template <class T>
T* data_of(const std::optional<Tensor>& tensor) {
  return tensor ? static_cast<T*>(tensor->data_ptr()) : nullptr;
}

template <class T>
void project(const Tensor& x, const Tensor& basis, double ridge, const Fields& to, const DeviceScope& device) {
  using A = device_acc_t<T>;
  const Clip cx = describe(x);
  const auto from = steps_of<const T>(x);
  ProjectionResults<T> results{steps_of_images<T>(to[kCoefficients]),
                               steps_of<T>(to[kProjection]),
                               steps_of<T>(to[kResidual]),
                               steps_of_images<T>(to[kResidualMean]),
                               nullptr,
                               nullptr};
  const auto run = [&](auto kernel, const Call& call, int64_t bytes) {
    const int64_t count = cx.N * call.shares();
    std::optional<Tensor> sums;
    if (to[kEnergy] || to[kError]) {
      sums = scratch(x, 2 * count);
      A* data = static_cast<A*>(sums->data_ptr());
      results.energy = to[kEnergy] ? data : nullptr, results.error = to[kError] ? data + count : nullptr;
    }
    launch(kernel, dim3(call.blocks), call.threads, std::max<int64_t>(bytes, sizeof(A) * 32), device, call.args, from,
           static_cast<const T*>(basis.data_ptr()), results);
    if (!sums) return;
    launch(sum_partials_kernel<A>, dim3(static_cast<uint32_t>((2 * cx.N + kSumWarps - 1) / kSumWarps)),
           dim3(kColumnThreads), 0, device, static_cast<const A*>(sums->data_ptr()), 2 * cx.N, cx.N, call.shares(),
           data_of<A>(to[kEnergy]), data_of<A>(to[kError]));
  };
  const bool served = compiled<T, false>(basis.size(2), cx.T, [&](auto d, auto frames, auto pixels) {
    const auto all = [&](int64_t P) {
      return P <= tuned::pixels.get() && whole(from, cx.W, P) && whole(results.coefficients, cx.W, P) &&
             whole(results.projection, cx.W, P) && whole(results.residual, cx.W, P) && whole(results.mean, cx.W, P);
    };
    const auto with = [&](auto p) {
      const Call call = call_of(cx, basis, ridge, p, tuned::threads.get(), true);
      run(projection_kernel<T, d, frames, p>, call, call.rows_bytes(frames * d, p, sizeof(A)));
    };
    all(pixels) ? with(pixels) : with(Number<1>{});
  });
  if (served) return;
  const GeneralCall call = general_call(cx, basis, ridge, sizeof(A), false);
  call.rows ? run(projection_general_kernel<T, FromRows<T>>, call, call.bytes)
            : run(projection_general_kernel<T, FromGrid<T>>, call, call.bytes);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> temporal_projection(Tensor x, Tensor basis, double ridge,
                                                                               int64_t outputs) {
  const DeviceScope device(x);
  const ProjectionSize size = check_projection(x, basis);
  x = native_clip(x);
  const Clip cx = describe(x);
  Fields wanted;
  const auto field = [&](int i) {
    const Tensor made = empty_field(x, cx, size, i, outputs);
    if (outputs >> i & 1) wanted[i] = made;
    return made;
  };
  const std::tuple results{field(0), field(1), field(2), field(3), field(4), field(5)};
  if (x.numel() == 0) return results;
  check_frames(basis, cx.H, cx.W);
  const Tensor grid = torch::stable::contiguous(basis);
  dispatch_float(x.scalar_type(),
                 [&](auto tag) { project<typename decltype(tag)::type>(x, grid, ridge, wanted, device); });
  return results;
}

// Kernels of the backward pass, and the basis' gradient from what they leave.
template <class T>
struct BackwardCall {
  using A = device_acc_t<T>;
  const Tensor &x, &basis;
  double ridge;
  const ProjectionGrads<T> grads;
  const Tensor &dx, &dbasis;  // empty where not wanted
  bool need_x, need_basis;
  const DeviceScope& device;

  const T* grid() const { return static_cast<const T*>(basis.data_ptr()); }
  Steps<T> to() const { return need_x ? steps_of<T>(dx) : Steps<T>{nullptr, 0, 0, 0, 0}; }

  // Where sums along rows go: the gradient itself, if no rows are to be added.
  RowSums<A> place(const Call& call, std::optional<Tensor>& memory) const {
    const ProjectionArgs& a = call.args;
    if (!need_basis) return {nullptr, 0, 0};
    const bool same_width = a.columns.in == a.columns.out;
    const int32_t shift = same_width || a.segments == 1 ? 0 : 2;
    const int32_t length = a.columns.in + shift * (a.segments - 1);
    if (std::is_same_v<A, T> && a.rows.in == a.rows.out && a.parts == 1 && shift == 0) {
      return {static_cast<A*>(dbasis.data_ptr()), length, 0};
    }
    memory = scratch(x, x.size(0) * a.parts * a.T * a.D * a.rows.out * length);
    return {static_cast<A*>(memory->data_ptr()), length, shift};
  }

  void add_rows(const Call& call, int64_t pixels, const RowSums<A>& sums) const {
    const ProjectionArgs& a = call.args;
    if (!need_basis || static_cast<void*>(sums.data) == dbasis.data_ptr()) return;
    int32_t log = 0;
    while (log < 5 && (2 * a.rows.out / a.rows.in) >> log > kRowsOfLane) ++log;
    STD_TORCH_CHECK(dbasis.numel() < (int64_t{1} << 31), "basis is too large for the CUDA kernels");
    const RowSumsArgs args{
        a,  sums.length, sums.shift, static_cast<int32_t>(a.across * pixels), static_cast<uint32_t>(dbasis.numel()),
        log};
    const int64_t at_once = kProjectionThreads >> log;
    launch(add_rows_kernel<T>, dim3(static_cast<uint32_t>((dbasis.numel() + at_once - 1) / at_once)),
           dim3(kProjectionThreads), 0, device, args, static_cast<const A*>(sums.data),
           static_cast<T*>(dbasis.data_ptr()));
  }

  // Shared memory of gather_columns.
  static int64_t gather_bytes(const Call& call, int64_t values, int64_t pixels) {
    return sizeof(A) * values * pixels * (call.threads.x + (pixels > 1 ? 32 / pixels : 0));
  }

  // Channels of dx that pass through shared memory together: all of them, or whole sectors. Returns the bytes.
  static int64_t stage(Call& call) {
    ProjectionArgs& a = call.args;
    const int64_t channel = sizeof(T) * a.T * call.threads.x;
    a.chunk = std::min(a.part, static_cast<int32_t>(kMostStaged / channel - 1) | 1);
    if (a.chunk < a.part) a.chunk = a.chunk >= 32 ? 32 : a.chunk >= 16 ? 16 : a.chunk >= 8 ? 8 : 4;
    a.by_chunk = Divisor(static_cast<uint32_t>(a.chunk));
    return channel * (a.chunk | 1);
  }

  bool in_registers() const {
    const Clip cx = describe(x);
    const auto from = steps_of<const T>(x);
    return compiled<T, true>(basis.size(2), cx.T, [&](auto d, auto frames, auto pixels) {
      const auto all = [&](int64_t P) {
        return P <= tuned::backward_pixels.get() && whole(from, cx.W, P) && whole(to(), cx.W, P) &&
               whole(grads.coefficients, cx.W, P) && whole(grads.projection, cx.W, P) &&
               whole(grads.residual, cx.W, P) && whole(grads.mean, cx.W, P);
      };
      const auto with = [&](auto p) {
        Call call = call_of(cx, basis, ridge, p, tuned::backward_threads.get(), true);
        const int64_t staged = cx.channels_last() && need_x ? stage(call) : 0;
        std::optional<Tensor> memory;
        const RowSums<A> sums = place(call, memory);
        launch(projection_backward_kernel<T, d, frames, p>, dim3(call.blocks), call.threads,
               std::max({staged, gather_bytes(call, d > 1 ? 16 / d * d : frames, p),
                         call.rows_bytes(frames * d, p, sizeof(A))}),
               device, call.args, from, grid(), grads, to(), sums);
        add_rows(call, p, sums);
      };
      all(pixels) ? with(pixels) : with(Number<1>{});
    });
  }

  void in_general() const {
    const Clip cx = describe(x);
    const int32_t D = static_cast<int32_t>(basis.size(2));
    const GeneralCall solving = general_call(cx, basis, ridge, sizeof(A), true);
    std::optional<Tensor> solutions, memory;
    if (need_basis) solutions = scratch(x, cx.N * cx.C * (2 * D + 1) * cx.P);
    A* kept = need_basis ? static_cast<A*>(solutions->data_ptr()) : nullptr;
    launch(solving.rows ? projection_general_backward_kernel<T, FromRows<T>>
                        : projection_general_backward_kernel<T, FromGrid<T>>,
           dim3(solving.blocks), solving.threads, solving.bytes, device, solving.args, steps_of<const T>(x), grid(),
           grads, to(), Solutions<A>{kept});
    if (!need_basis) return;
    const Call call = call_of(cx, basis, ridge, 1, tuned::backward_threads.get(), false);
    STD_TORCH_CHECK(int64_t{call.blocks} * call.args.T < (int64_t{1} << 31), "x is too large for the CUDA kernels");
    const RowSums<A> sums = place(call, memory);
    const auto with = [&](auto columns) {
      launch(projection_general_basis_kernel<T, columns>, dim3(call.blocks * call.args.T), call.threads,
             gather_bytes(call, columns, 1), device, call.args, steps_of<const T>(x), grid(), grads,
             Solutions<const A>{kept}, sums);
    };
    D > 4 ? with(Number<16>{}) : with(Number<4>{});
    add_rows(call, 1, sums);
  }
};

// Gradients as kernels can walk them: every position one step from the one before.
Fields walkable(Fields grads, const Tensor& x, const ProjectionSize& size) {
  const Clip cx = describe(x);
  for (int i = 0; i < 6; ++i) {
    check_field_gradient(grads[i], i, x, size.columns);
    if (!grads[i]) continue;
    Tensor& grad = *grads[i];
    if (i == kProjection || i == kResidual) {
      grad = native_clip_like(grad, cx);
    } else if (i == kEnergy || i == kError) {
      grad = torch::stable::contiguous(grad);
    } else {
      const int64_t d = grad.dim() - 4, rows = grad.stride(2 + d), columns = grad.stride(3 + d);
      if (cx.H == 1 || cx.W == 1 || rows == cx.W * columns) continue;
      grad = torch::stable::contiguous(grad);
    }
  }
  return grads;
}

std::tuple<Tensor, Tensor> temporal_projection_backward(
    std::optional<Tensor> grad_coefficients, std::optional<Tensor> grad_projection, std::optional<Tensor> grad_residual,
    std::optional<Tensor> grad_residual_mean, std::optional<Tensor> grad_energy, std::optional<Tensor> grad_error,
    Tensor x, Tensor basis, double ridge, bool need_x, bool need_basis) {
  const DeviceScope device(x);
  const ProjectionSize size = check_projection(x, basis);
  x = native_clip(x);
  basis = torch::stable::contiguous(basis);
  const Clip cx = describe(x);
  const Fields given = walkable(
      {grad_coefficients, grad_projection, grad_residual, grad_residual_mean, grad_energy, grad_error}, x, size);
  Tensor dx = need_x ? empty_clip(x, cx, cx.T, cx.layout) : torch::stable::new_empty(x, {0});
  Tensor dbasis = need_basis ? torch::stable::empty_like(basis) : torch::stable::new_empty(x, {0});
  const bool any = std::any_of(given.begin(), given.end(), [](const auto& grad) { return grad.has_value(); });
  if (x.numel() == 0 || !any) {
    torch::stable::zero_(dx), torch::stable::zero_(dbasis);
    return {dx, dbasis};
  }
  check_frames(basis, cx.H, cx.W);
  dispatch_float(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = device_acc_t<T>;
    const ProjectionGrads<T> grads{steps_of_images<const T>(given[kCoefficients]),
                                   steps_of<const T>(given[kProjection]),
                                   steps_of<const T>(given[kResidual]),
                                   steps_of_images<const T>(given[kResidualMean]),
                                   data_of<const A>(given[kEnergy]),
                                   data_of<const A>(given[kError])};
    const BackwardCall<T> work{x, basis, ridge, grads, dx, dbasis, need_x, need_basis, device};
    if (!work.in_registers()) work.in_general();
  });
  return {dx, dbasis};
}

VIDOPS_LIBRARY_IMPL(VIDOPS_NAMESPACE, VIDOPS_CUDA_KEY, m) {
  m.impl("temporal_projection", TORCH_BOX(&temporal_projection));
  m.impl("temporal_projection_backward", TORCH_BOX(&temporal_projection_backward));
}

}  // namespace
}  // namespace vidops
