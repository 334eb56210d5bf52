// What the forward and backward kernels of temporal_conv share: their arguments, and reading frames and taps.
#pragma once

#include "common/columns.h"
#include "common/pack.h"

namespace vidops {
namespace {

constexpr int kMaxTaps = 7;           // taps in registers, and tap gradients a pass over the columns sums
constexpr int kSlots = kMaxTaps + 1;  // and the bias's gradient
constexpr int kMaxGroups = 16;        // of one launch
constexpr int kWarps = kColumnThreads / 32;
constexpr int kBatch = 8;  // frames of a column asked for at once

// fp64 is for checking gradients: the general loops serve it.
template <class T>
constexpr bool kCompiled = sizeof(T) < 8;

struct ConvGroup {
  int32_t channel_end, taps, dilation;
  int32_t plain;   // taps, where the compiled loops serve; 0 for the general one
  int64_t weight;  // taps of channel c begin at weight + c * taps
};

struct ConvArgs {
  Columns columns;
  int32_t channel0;  // the launch's first channel
  int32_t frames_in, frames_out, stride;
  int32_t offset;  // y[t] is centred at frame t * stride + offset
  int32_t replicate;
  ConvGroup groups[kMaxGroups];

  __device__ __forceinline__ const ConvGroup& group_of(int32_t channel) const {
    int i = 0;
    while (channel >= groups[i].channel_end) ++i;
    return groups[i];
  }
};

// Frame f of a column; outside the clip zeros, or the edge frame.
template <int V, class T>
__device__ __forceinline__ Pack<T, V> frame_of(const T* column, int64_t step, int32_t f, int32_t frames,
                                               bool replicate) {
  if (replicate) f = min(max(f, 0), frames - 1);
  if (static_cast<uint32_t>(f) >= static_cast<uint32_t>(frames)) return Pack<T, V>{};
  return load_pack<V>(column + f * step);
}

// Where a thread's taps are: V sets side by side in channels last, otherwise one for all lanes.
template <int K, int L, class T>
__device__ __forceinline__ void load_taps(const T* weight, device_acc_t<T> (&taps)[K][L]) {
#pragma unroll
  for (int j = 0; j < K; ++j) {
#pragma unroll
    for (int l = 0; l < L; ++l) taps[j][l] = static_cast<device_acc_t<T>>(weight[l * K + j]);
  }
}

}  // namespace
}  // namespace vidops
