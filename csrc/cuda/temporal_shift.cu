// temporal_shift on CUDA devices: x is read once and the result written once, in whatever layout x has.
//
// Floor: two bytes moved a byte of x, and nothing computed. So elements are moved as bare words, the widest that rows
// are aligned for, whatever the dtype: 16 bytes, else 8, else the element. A thread owns columns (common/columns.h):
// one word of a channel (planar) or of neighbouring channels (channels last) through all frames. It asks for 8 frames
// before it writes the first, so 128 bytes a thread are under way. Frames shifted out are never read. Backward is the
// same move the other way.
//
// Predicted: 1.05 x floor on an H200. Not yet measured on a GPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "common/clip.h"
#include "common/columns.h"
#include "common/namespace.h"
#include "common/temporal_checks.h"
#include "common/pack.h"
#include "cuda/steps.cuh"
#include "cuda/tuning.cuh"

namespace vidops {
namespace {

constexpr int kBatch = 8;

namespace tuned {
Tunable word_bytes("temporal_shift", "word_bytes", 16, {4, 8, 16});  // at most
// Columns of a thread: fewer where the blocks would then be fewer than these.
Tunable trips("temporal_shift", "trips", 1, {1, 2, 4});
Tunable fill_blocks("temporal_shift", "fill_blocks", 4096, {1024, 2048, 4096});
}  // namespace tuned

template <int kBytes>
using Word = typename Access<kBytes>::type;

struct ShiftArgs {
  Columns columns;
  ColumnStrides x, y;  // in words
  int32_t frames, step;
  int32_t fold;  // in channel places
};

// Result frame t of the first fold is frame t + step, of the second frame t - step, of the rest frame t.
template <int kBytes>
__global__ void __launch_bounds__(kColumnThreads)
    shift_kernel(const __grid_constant__ ShiftArgs a, const Word<kBytes>* __restrict__ x,
                 Word<kBytes>* __restrict__ y) {
  const Walk w = walk_of(a.columns);
  if (!w.active) return;
  const int32_t last = a.frames - 1;
  const int32_t step = w.place < a.fold ? a.step : w.place < 2 * a.fold ? -a.step : 0;
  for (uint32_t at = w.first; at < w.end; at += w.step) {
    const Word<kBytes>* column = x + column_offset(a.columns, w, at, a.x);
    Word<kBytes>* result = y + column_offset(a.columns, w, at, a.y);
    for (int32_t t0 = 0; t0 < a.frames; t0 += kBatch) {
      // Read whatever the case, from a frame that is there: loads under a condition are not issued together.
      Word<kBytes> words[kBatch];
#pragma unroll
      for (int s = 0; s < kBatch; ++s) words[s] = __ldg(column + min(max(t0 + s + step, 0), last) * a.x.frame);
#pragma unroll
      for (int s = 0; s < kBatch; ++s) {
        const int32_t t = t0 + s + step;
        const Word<kBytes> word = t >= 0 && t <= last ? words[s] : Word<kBytes>{};
        if (t0 + s <= last) store_whole(result + (t0 + s) * a.y.frame, word);
      }
    }
  }
}

// Strides in words of V elements.
struct InWords {
  int64_t V;
  bool last;
  ColumnStrides strides(const Clip& c) const { return {c.sN / V, last ? 1 : c.sC / V, c.sT / V, last ? c.sP / V : 1}; }
};

template <int kBytes>
void run(const InWords& in, const Tensor& x, const Clip& cx, const Tensor& y, const Clip& cy, int64_t fold,
         int32_t step, const DeviceScope& device) {
  STD_TORCH_CHECK(cx.T < int64_t{1} << 30, "x has too many frames: ", cx.T);
  ShiftArgs a{};
  const int64_t places = in.last ? cx.C / in.V : cx.C;
  a.columns = make_columns(cx.N, in.last ? cx.P : cx.P / in.V, places, in.last ? lanes_log2(places) : 0,
                           tuned::fill_blocks.get(), tuned::trips.get());
  a.x = in.strides(cx), a.y = in.strides(cy);
  a.frames = static_cast<int32_t>(cx.T), a.step = step;
  a.fold = static_cast<int32_t>(in.last ? fold / in.V : fold);
  launch(shift_kernel<kBytes>, column_grid(a.columns), dim3(kColumnThreads), 0, device, a,
         static_cast<const Word<kBytes>*>(x.data_ptr()), static_cast<Word<kBytes>*>(y.data_ptr()));
}

Tensor shift(const Tensor& input, int64_t fold, int32_t step) {
  const DeviceScope device(input);
  check_fold(input, fold);
  const Tensor x = native_clip(input);
  const Clip cx = describe(x);
  Tensor y = empty_clip(x, cx, cx.T, cx.layout);
  if (y.numel() == 0) return y;
  const Clip cy = describe(y);
  const int64_t size = x.element_size(), widest = tuned::word_bytes.get();
  for (int64_t bytes : {16, 8, 4, 2}) {
    const InWords in{bytes / size, cx.channels_last()};
    if (bytes != size && (bytes < size || bytes > widest || !packs_fit(cx, x.data_ptr(), size, in.V, in.last) ||
                          !packs_fit(cy, y.data_ptr(), size, in.V, in.last) || (in.last && fold % in.V != 0))) {
      continue;
    }
    (bytes == 16 ? run<16> : bytes == 8 ? run<8> : bytes == 4 ? run<4> : run<2>)(in, x, cx, y, cy, fold, step, device);
    break;
  }
  return y;
}

Tensor temporal_shift(Tensor x, int64_t fold) { return shift(x, fold, 1); }
Tensor temporal_shift_backward(Tensor grad, int64_t fold) { return shift(grad, fold, -1); }

VIDOPS_LIBRARY_IMPL(VIDOPS_NAMESPACE, VIDOPS_CUDA_KEY, m) {
  m.impl("temporal_shift", TORCH_BOX(&temporal_shift));
  m.impl("temporal_shift_backward", TORCH_BOX(&temporal_shift_backward));
}

}  // namespace
}  // namespace vidops
