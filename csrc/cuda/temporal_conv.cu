// temporal_conv on CUDA devices: one pass over the clip, whatever the groups.
//
// Floor: x read once and y written once forward; gradient and x read once and dx written once backward. At 4 to 8
// bytes an element forward against k multiply-adds (k <= 7), device memory is the limit by far, so all that counts is
// that each element crosses the bus once, in wide accesses, with many of them under way.
//
// A thread owns whole columns (common/columns.h): V neighbouring elements through all frames, so the k reads of an
// element are k reads of a register. It asks for 8 frames of its column, and the k-1 around them, before it uses the
// first: 8 x 16 bytes a thread under way, and then slides along time. Taps are in registers. V is 16 bytes' worth in
// planar layouts; 8 bytes for 2-byte types where rows are no better aligned (14 x 14); one element where not even
// that. In channels last every lane has its own taps, k*V registers of them, so V is 2 there and a warp still covers
// whole lines. k of 1, 3, 5, 7 without stride and dilation are compiled; everything else takes a plain loop that
// reads from the caches again what it needs again. All channels are one launch, a block's tap count is uniform.
//
// Backward keeps a window of the gradient around frame t: with it and x[t] alone it has both
//     dx[t] = sum_m w[k-1-m] * g[t-r+m]        dw[k-1-m] += g[t-r+m] * x[t]
// The taps' gradient is summed in fp32 (fp64 for fp64) over 8 frames of a column, then over a thread's columns, then
// over the block in a fixed tree; one partial sum a block and tap goes to memory, and a second small kernel adds
// those in fp64. No atomics: the order is that of the indices, so results repeat to the last bit.
//
// Predicted: 1.05 to 1.1 x floor forward, 1.1 to 1.2 x backward on an H200. Not yet measured on a GPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <tuple>

#include "common/clip.h"
#include "common/columns.h"
#include "common/dispatch.h"
#include "common/namespace.h"
#include "common/pack.h"
#include "common/temporal_taps.h"

namespace vidops {
namespace {

constexpr int kMaxTaps = 7;         // taps in registers, and tap gradients a pass over the columns sums
constexpr int kSlots = kMaxTaps + 1;  // and the bias's gradient
constexpr int kMaxGroups = 16;      // of one launch
constexpr int64_t kFillBlocks = 4096;  // about eight rounds of an H200's 132 x 4 resident blocks
constexpr int kWarps = kColumnThreads / 32;

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

constexpr int kBatch = 8;  // frames of a column asked for at once

// A batch of frames is made element by element: raw frames give way to results as it goes, and only one element of
// the window is ever unpacked.
template <int K, class T, int V, int L>
__device__ __forceinline__ void forward_plain(const ConvArgs& a, const Walk& w, const ColumnStrides& sx,
                                              const ColumnStrides& sy, const T* x, const T* weight,
                                              const device_acc_t<T> (&bias)[L], T* y) {
  constexpr int P = kTogether<T, V>;
  using A = device_acc_t<T>;
  A taps[K][L];
  load_taps<K, L>(weight, taps);
  const int32_t first = a.offset - (K - 1) / 2;
  for (uint32_t at = w.first; at < w.end; at += w.step) {
    const T* column = x + column_offset(a.columns, w, at, sx);
    T* result = y + column_offset(a.columns, w, at, sy);
    Pack<T, V> window[K - 1 + kBatch];
#pragma unroll
    for (int s = 0; s < K - 1; ++s) window[s] = frame_of<V>(column, sx.frame, first + s, a.frames_in, a.replicate);
    for (int32_t t0 = 0; t0 < a.frames_out; t0 += kBatch) {
#pragma unroll
      for (int s = 0; s < kBatch; ++s) {
        const int32_t f = t0 + s < a.frames_out ? t0 + s + first + K - 1 : -1;
        window[K - 1 + s] = frame_of<V>(column, sx.frame, f, a.frames_in, a.replicate);
      }
      Pack<T, V> made[kBatch];
#pragma unroll
      for (int v = 0; v < V; v += P) {
        A sum[kBatch][P];
#pragma unroll
        for (int i = 0; i < P; ++i) {
#pragma unroll
          for (int s = 0; s < kBatch; ++s) {
            sum[s][i] = bias[(v + i) % L];
#pragma unroll
            for (int j = 0; j < K; ++j) sum[s][i] += taps[j][(v + i) % L] * value(window[s + j], v + i);
          }
        }
#pragma unroll
        for (int s = 0; s < kBatch; ++s) set_values(made[s], v, sum[s]);
      }
#pragma unroll
      for (int s = 0; s < kBatch; ++s) {
        if (t0 + s < a.frames_out) store_pack(result + (t0 + s) * sy.frame, made[s]);
      }
#pragma unroll
      for (int s = 0; s < K - 1; ++s) window[s] = window[s + kBatch];
    }
  }
}

template <class T, int V, int L>
__device__ __forceinline__ void forward_general(const ConvArgs& a, const ConvGroup& g, const Walk& w,
                                                const ColumnStrides& sx, const ColumnStrides& sy, const T* x,
                                                const T* weight, const device_acc_t<T> (&bias)[L], T* y) {
  using A = device_acc_t<T>;
  for (uint32_t at = w.first; at < w.end; at += w.step) {
    const T* column = x + column_offset(a.columns, w, at, sx);
    T* result = y + column_offset(a.columns, w, at, sy);
    for (int32_t t = 0; t < a.frames_out; ++t) {
      A sum[V];
#pragma unroll
      for (int v = 0; v < V; ++v) sum[v] = bias[v % L];
      int32_t f = t * a.stride + a.offset - (g.taps - 1) / 2 * g.dilation;
      for (int32_t j = 0; j < g.taps; ++j, f += g.dilation) {
        const Pack<T, V> pack = frame_of<V>(column, sx.frame, f, a.frames_in, a.replicate);
#pragma unroll
        for (int v = 0; v < V; ++v) sum[v] += static_cast<A>(weight[v % L * g.taps + j]) * value(pack, v);
      }
      store_values(result + t * sy.frame, sum);
    }
  }
}

// L is V in channels last and 1 in planar layouts: how many channels a column has.
template <class T, int V, int L>
__global__ void __launch_bounds__(kColumnThreads, 4)
    forward_kernel(const __grid_constant__ ConvArgs a, const __grid_constant__ ColumnStrides sx,
                   const __grid_constant__ ColumnStrides sy, const T* __restrict__ x, const T* __restrict__ weight,
                   const T* __restrict__ bias, T* __restrict__ y) {
  const Walk w = walk_of(a.columns);
  if (!w.active) return;
  const int32_t c = a.channel0 + w.place * L;
  const ConvGroup& g = a.group_of(c);
  const T* taps = weight + g.weight + static_cast<int64_t>(c) * g.taps;
  device_acc_t<T> start[L];
#pragma unroll
  for (int l = 0; l < L; ++l) start[l] = bias ? static_cast<device_acc_t<T>>(bias[c + l]) : device_acc_t<T>(0);
  switch (g.plain) {
    case 1:
      return forward_plain<1, T, V, L>(a, w, sx, sy, x, taps, start, y);
    case 3:
      return forward_plain<3, T, V, L>(a, w, sx, sy, x, taps, start, y);
    case 5:
      return forward_plain<5, T, V, L>(a, w, sx, sy, x, taps, start, y);
    case 7:
      return forward_plain<7, T, V, L>(a, w, sx, sy, x, taps, start, y);
    default:
      return forward_general<T, V, L>(a, g, w, sx, sy, x, taps, start, y);
  }
}

struct Needs {
  bool x, weight, bias;
};

// One thread's gradients of taps (slot j) and bias (the last slot).
template <class A, int L>
using Totals = A[kSlots][L];

template <int K, class T, int V, int L>
__device__ __forceinline__ void backward_plain(const ConvArgs& a, const Needs& need, const Walk& w,
                                               const ColumnStrides& sg, const ColumnStrides& sx,
                                               const ColumnStrides& sd, const T* grad, const T* x, const T* weight,
                                               T* dx, Totals<device_acc_t<T>, L>& total) {
  constexpr int P = kTogether<T, V>, R = (K - 1) / 2;
  using A = device_acc_t<T>;
  A taps[K][L];
  load_taps<K, L>(weight, taps);
  const int32_t frames = a.frames_in, x_frames = need.weight ? frames : 0;
  for (uint32_t at = w.first; at < w.end; at += w.step) {
    const T* gradient = grad + column_offset(a.columns, w, at, sg);
    const T* column = x + column_offset(a.columns, w, at, sx);
    T* result = dx + column_offset(a.columns, w, at, sd);
    Pack<T, V> g[K - 1 + kBatch], c[K - 1 + kBatch];
#pragma unroll
    for (int s = 0; s < K - 1; ++s) {
      g[s] = s < R ? Pack<T, V>{} : frame_of<V>(gradient, sg.frame, s - R, frames, false);
      c[s] = s < R ? Pack<T, V>{} : frame_of<V>(column, sx.frame, s - R, x_frames, false);
    }
    for (int32_t t0 = 0; t0 < frames; t0 += kBatch) {
#pragma unroll
      for (int s = 0; s < kBatch; ++s) {
        g[K - 1 + s] = frame_of<V>(gradient, sg.frame, t0 + s + R, frames, false);
        c[K - 1 + s] = frame_of<V>(column, sx.frame, t0 + s + R, x_frames, false);
      }
      Pack<T, V> made[kBatch];
      A part[K + 1][L] = {};
#pragma unroll
      for (int v = 0; v < V; v += P) {
        A sum[kBatch][P] = {};
#pragma unroll
        for (int i = 0; i < P; ++i) {
          const int l = (v + i) % L;
#pragma unroll
          for (int s = 0; s < kBatch; ++s) {
            const A centre = value(g[s + R], v + i);
#pragma unroll
            for (int j = 0; j < K; ++j) {
              sum[s][i] += taps[K - 1 - j][l] * value(g[s + j], v + i);
              part[j][l] += centre * value(c[s + j], v + i);
            }
            part[K][l] += centre;
          }
        }
#pragma unroll
        for (int s = 0; s < kBatch; ++s) set_values(made[s], v, sum[s]);
      }
#pragma unroll
      for (int l = 0; l < L; ++l) {
#pragma unroll
        for (int j = 0; j < K; ++j) total[j][l] += part[j][l];
        total[kMaxTaps][l] += part[K][l];
      }
      if (need.x) {
#pragma unroll
        for (int s = 0; s < kBatch; ++s) {
          if (t0 + s < frames) store_pack(result + (t0 + s) * sd.frame, made[s]);
        }
      }
#pragma unroll
      for (int s = 0; s < K - 1; ++s) g[s] = g[s + kBatch], c[s] = c[s + kBatch];
    }
  }
}

// The compiled loops multiply taps with the zeros around a clip, which is nothing only for finite taps.
template <class T, int L>
__device__ __forceinline__ int32_t plain_backward(const ConvGroup& g, const T* weight) {
  bool finite = true;
  for (int32_t j = 0; j < g.plain * L; ++j) {
    const auto tap = static_cast<device_acc_t<T>>(weight[j]);
    finite = finite && tap - tap == 0;
  }
  return finite ? g.plain : 0;
}

// dx of one column for any stride, dilation and padding: frame f collects tap j from the frames `from` .. `to` of the
// gradient that read it, at most one except at replicated edges.
template <class T, int V, int L>
__device__ __forceinline__ void input_gradient(const ConvArgs& a, const ConvGroup& g, const ColumnStrides& sg,
                                               const ColumnStrides& sd, const T* gradient, const T* weight,
                                               T* result) {
  using A = device_acc_t<T>;
  for (int32_t f = 0; f < a.frames_in; ++f) {
    A sum[V] = {};
    int32_t ahead = f - a.offset + (g.taps - 1) / 2 * g.dilation;
    for (int32_t j = 0; j < g.taps; ++j, ahead -= g.dilation) {
      int32_t from = ahead < 0 ? 0 : (ahead + a.stride - 1) / a.stride;
      int32_t to = ahead < 0 ? 0 : min(ahead / a.stride + 1, a.frames_out);
      if (a.replicate && f == 0) from = 0;
      if (a.replicate && f == a.frames_in - 1) to = a.frames_out;
      for (int32_t t = from; t < to; ++t) {
        const Pack<T, V> pack = load_pack<V>(gradient + t * sg.frame);
#pragma unroll
        for (int v = 0; v < V; ++v) sum[v] += static_cast<A>(weight[v % L * g.taps + j]) * value(pack, v);
      }
    }
    store_values(result + f * sd.frame, sum);
  }
}

// Sums the gradients of taps [tap0, tap0 + kMaxTaps); the first pass also has dx and the bias's.
template <class T, int V, int L>
__device__ __forceinline__ void backward_general(const ConvArgs& a, const Needs& need, const ConvGroup& g,
                                                 int32_t tap0, const Walk& w, const ColumnStrides& sg,
                                                 const ColumnStrides& sx, const ColumnStrides& sd, const T* grad,
                                                 const T* x, const T* weight, T* dx,
                                                 Totals<device_acc_t<T>, L>& total) {
  using A = device_acc_t<T>;
  for (uint32_t at = w.first; at < w.end; at += w.step) {
    const T* gradient = grad + column_offset(a.columns, w, at, sg);
    const T* column = x + column_offset(a.columns, w, at, sx);
    if (need.x && tap0 == 0) {
      input_gradient<T, V, L>(a, g, sg, sd, gradient, weight, dx + column_offset(a.columns, w, at, sd));
    }
    if (!need.weight && !need.bias) continue;
    A part[kSlots][L] = {};
    for (int32_t t = 0; t < a.frames_out; ++t) {
      const Pack<T, V> pack = load_pack<V>(gradient + t * sg.frame);
      const int32_t base = t * a.stride + a.offset + (tap0 - (g.taps - 1) / 2) * g.dilation;
#pragma unroll
      for (int j = 0; j < kMaxTaps; ++j) {
        if (!need.weight || tap0 + j >= g.taps) break;
        const Pack<T, V> frame = frame_of<V>(column, sx.frame, base + j * g.dilation, a.frames_in, a.replicate);
#pragma unroll
        for (int v = 0; v < V; ++v) part[j][v % L] += value(pack, v) * value(frame, v);
      }
#pragma unroll
      for (int v = 0; v < V; ++v) part[kMaxTaps][v % L] += value(pack, v);
    }
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
#pragma unroll
      for (int l = 0; l < L; ++l) total[s][l] += part[s][l];
    }
  }
}

// Adds up what a block's threads have of each channel, in a fixed order, and writes it as one partial sum:
// partial[slot of the gradient][share]. Slots are the launch's taps, then its channels.
template <class T, int L>
__device__ __forceinline__ void write_partials(const ConvArgs& a, int32_t tap0, Totals<device_acc_t<T>, L>& total,
                                               int64_t first_weight, int64_t weights, device_acc_t<T>* partial) {
  using A = device_acc_t<T>;
  A* shared = dynamic_shared<A>();
  const uint32_t lanes = 1u << a.columns.lanes_log2, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  __syncthreads();  // the pass before has read what it needs
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
#pragma unroll
    for (int l = 0; l < L; ++l) {
      A sum = total[s][l];
      for (uint32_t step = 16; step >= lanes; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
      if (lane < lanes) shared[((warp * kSlots + s) * L + l) * lanes + lane] = sum;
    }
  }
  __syncthreads();
  const int64_t shares = static_cast<int64_t>(gridDim.y) * gridDim.z;
  const int64_t share = static_cast<int64_t>(blockIdx.z) * gridDim.y + blockIdx.y;
  for (uint32_t i = threadIdx.x; i < kSlots * L * lanes; i += kColumnThreads) {
    const uint32_t slot = i / (L * lanes), l = i / lanes % L;
    const int32_t place = static_cast<int32_t>(blockIdx.x * lanes + i % lanes);
    if (place >= a.columns.places) continue;
    const int32_t c = a.channel0 + place * L + static_cast<int32_t>(l);
    const ConvGroup& g = a.group_of(c);
    const int32_t tap = tap0 + static_cast<int32_t>(slot);
    if (slot == kMaxTaps ? tap0 != 0 : tap >= g.taps) continue;
    A sum = 0;
    for (int warps = 0; warps < kWarps; ++warps) sum += shared[warps * kSlots * L * lanes + i];
    const int64_t row = slot == kMaxTaps ? weights + c - a.channel0
                                         : g.weight + static_cast<int64_t>(c) * g.taps + tap - first_weight;
    partial[row * shares + share] = sum;
  }
}

template <class T, int V, int L>
__global__ void __launch_bounds__(kColumnThreads, sizeof(T) * V == 16 || sizeof(T) == 8 ? 3 : 4)
    backward_kernel(const __grid_constant__ ConvArgs a, Needs need, const __grid_constant__ ColumnStrides sg,
                    const __grid_constant__ ColumnStrides sx, const __grid_constant__ ColumnStrides sd,
                    const T* __restrict__ grad, const T* __restrict__ x, const T* __restrict__ weight,
                    T* __restrict__ dx, int32_t max_taps, int64_t first_weight, int64_t weights,
                    device_acc_t<T>* __restrict__ partial) {
  const Walk w = walk_of(a.columns);
  const int32_t c = a.channel0 + (w.active ? w.place * L : 0);
  const ConvGroup& g = a.group_of(c);
  const T* taps = weight + g.weight + static_cast<int64_t>(c) * g.taps;
  const int32_t plain = plain_backward<T, L>(g, taps);
  for (int32_t tap0 = 0; tap0 < max_taps; tap0 += kMaxTaps) {
    Totals<device_acc_t<T>, L> total = {};
    switch (plain) {
      case 1:
        if (tap0 == 0) backward_plain<1, T, V, L>(a, need, w, sg, sx, sd, grad, x, taps, dx, total);
        break;
      case 3:
        if (tap0 == 0) backward_plain<3, T, V, L>(a, need, w, sg, sx, sd, grad, x, taps, dx, total);
        break;
      case 5:
        if (tap0 == 0) backward_plain<5, T, V, L>(a, need, w, sg, sx, sd, grad, x, taps, dx, total);
        break;
      case 7:
        if (tap0 == 0) backward_plain<7, T, V, L>(a, need, w, sg, sx, sd, grad, x, taps, dx, total);
        break;
      default:
        if (tap0 < g.taps) backward_general<T, V, L>(a, need, g, tap0, w, sg, sx, sd, grad, x, taps, dx, total);
    }
    if (!partial) return;
    write_partials<T, L>(a, tap0, total, first_weight, weights, partial);
  }
}

// One warp a row: adds its shares, lane by lane and then in a tree, in fp64.
template <class T>
__global__ void __launch_bounds__(kColumnThreads)
    sum_partials_kernel(const device_acc_t<T>* __restrict__ partial, int64_t rows, int64_t weights, int64_t shares,
                        T* __restrict__ dweight, T* __restrict__ dbias) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= rows) return;
  T* result = row < weights ? dweight + row : dbias + row - weights;
  if (row < weights ? !dweight : !dbias) return;
  double sum = 0;
  for (int64_t i = threadIdx.x % 32; i < shares; i += 32) sum += static_cast<double>(partial[row * shares + i]);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  if (threadIdx.x % 32 == 0) *result = static_cast<T>(static_cast<device_acc_t<T>>(sum));
}

// ---- host: which kernel, over what

struct Side {  // one tensor of a launch
  Clip clip;
  void* data;
};

// V elements from every column's start on are one aligned access in this tensor.
bool fits(const Side& side, int64_t size, int64_t V, bool last) {
  const Clip& c = side.clip;
  const auto even = [&](int64_t extent, int64_t stride) { return extent <= 1 || stride % V == 0; };
  const bool rows = last ? even(c.P, c.sP) : c.P % V == 0 && even(c.C, c.sC);
  return rows && even(c.N, c.sN) && even(c.T, c.sT) && reinterpret_cast<uintptr_t>(side.data) % (size * V) == 0;
}

ColumnStrides strides_of(const Clip& c, int V, bool last) {
  return {c.sN, last ? c.sC * V : c.sC, c.sT, last ? c.sP : V};
}

// Backward has twice as much of a column in registers: 8 bytes of 2-byte types, unpacked, are what fits.
template <class T>
constexpr int kWidestBackward = sizeof(T) == 2 ? 8 : 16;

struct Call {
  Groups groups;
  Padding padding;
  int64_t stride;
  int64_t frames_in, frames_out;
};

// Calls f(args, first group, last group) for every run of groups that fits a launch, with args complete but columns.
template <class F>
void each_launch(const Call& call, bool backward, F&& f) {
  const auto& items = call.groups.items;
  STD_TORCH_CHECK(call.frames_in * (call.groups.max_taps + 1) < (int64_t{1} << 31), "x has too many frames: ",
                  call.frames_in);
  for (size_t from = 0; from < items.size(); from += kMaxGroups) {
    const size_t to = std::min(from + kMaxGroups, items.size());
    ConvArgs a{};
    a.channel0 = static_cast<int32_t>(items[from].channel);
    a.frames_in = static_cast<int32_t>(call.frames_in), a.frames_out = static_cast<int32_t>(call.frames_out);
    a.stride = static_cast<int32_t>(std::min(call.stride, call.frames_in));
    a.offset = call.padding == Padding::kValid ? static_cast<int32_t>(call.groups.reach) : 0;
    a.replicate = call.padding == Padding::kReplicate;
    for (size_t i = from; i < to; ++i) {
      const Group& g = items[i];
      ConvGroup& to_fill = a.groups[i - from];
      to_fill.channel_end = static_cast<int32_t>(g.channel + g.channels);
      to_fill.taps = static_cast<int32_t>(g.taps);
      to_fill.dilation = static_cast<int32_t>(std::min(g.dilation, call.frames_in));  // all past T are alike
      const bool plain = a.stride == 1 && g.taps <= kMaxTaps && (g.taps == 1 || g.dilation == 1);
      // Backward's compiled loops know zero padding alone; one tap never meets a border.
      const bool zeros = a.offset == 0 && (!a.replicate || g.taps == 1);
      to_fill.plain = plain && (!backward || zeros) ? to_fill.taps : 0;
      to_fill.weight = g.weight - g.channel * g.taps;
    }
    f(a, items[from], items[to - 1]);
  }
}

// Calls f(integral_constant<V>, integral_constant<L>) with the widest packs that all sides and groups allow.
template <class T, int kWidest, class F>
void with_width(const Groups& groups, bool last, std::initializer_list<Side> sides, F&& f) {
  const auto all = [&](int64_t V) {
    bool fit = true;
    for (const Side& side : sides) fit = fit && fits(side, sizeof(T), V, last);
    for (const Group& g : groups.items) fit = fit && (!last || g.channels % V == 0);
    return fit;
  };
  using std::integral_constant;
  constexpr int wide = kWidest / sizeof(T);
  if constexpr (wide > 2) {
    if (last && all(2)) return f(integral_constant<int, 2>{}, integral_constant<int, 2>{});
    if (!last && all(wide)) return f(integral_constant<int, wide>{}, integral_constant<int, 1>{});
    if constexpr (wide > 4) {
      if (!last && all(4)) return f(integral_constant<int, 4>{}, integral_constant<int, 1>{});
    }
  }
  f(integral_constant<int, 1>{}, integral_constant<int, 1>{});
}

Columns columns_of(const Clip& clip, const Group& from, const Group& to, bool last, int V, int64_t min_blocks,
                   int64_t trips) {
  const int64_t channels = to.channel + to.channels - from.channel;
  const int64_t places = last ? channels / V : channels;
  return make_columns(clip.N, last ? clip.P : clip.P / V, places, last ? lanes_log2(places) : 0, min_blocks, trips);
}

template <class T>
T* data_of(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

Tensor temporal_conv(Tensor x, Tensor weight, std::optional<Tensor> bias, std::vector<int64_t> groups,
                     int64_t stride, std::string padding) {
  const DeviceScope device(x);
  const Padding pad = parse_padding(padding);
  x = native_clip(x);
  const Clip cx = describe(x);
  Call call{parse_groups(groups), pad, stride, cx.T, 0};
  call.frames_out = frames_out(cx.T, stride, pad, call.groups.reach);
  Tensor y = empty_clip(x, cx, call.frames_out, cx.layout);
  if (y.numel() == 0) return y;
  const Clip cy = describe(y);
  const bool last = cx.channels_last();
  const Tensor w = torch::stable::contiguous(weight);
  std::optional<Tensor> b;
  if (bias) b = torch::stable::contiguous(*bias);
  dispatch_float(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    with_width<T, 16>(call.groups, last, {{cx, x.data_ptr()}, {cy, y.data_ptr()}}, [&](auto width, auto channels) {
      constexpr int V = decltype(width)::value, L = decltype(channels)::value;
      each_launch(call, false, [&](ConvArgs& a, const Group& from, const Group& to) {
        a.columns = columns_of(cx, from, to, last, V, kFillBlocks, 1);
        launch(forward_kernel<T, V, L>, column_grid(a.columns), dim3(kColumnThreads), 0, device, a,
               strides_of(cx, V, last), strides_of(cy, V, last), data_of<const T>(x), data_of<const T>(w),
               b ? data_of<const T>(*b) : nullptr, data_of<T>(y));
      });
    });
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> temporal_conv_backward(Tensor grad, Tensor x, Tensor weight,
                                                          std::vector<int64_t> groups, int64_t stride,
                                                          std::string padding, bool need_x, bool need_weight,
                                                          bool need_bias) {
  const DeviceScope device(x);
  x = native_clip(x);
  const Clip cx = describe(x);
  grad = native_clip_like(grad, cx);
  const Clip cg = describe(grad);
  const Call call{parse_groups(groups), parse_padding(padding), stride, cx.T, cg.T};
  const bool last = cx.channels_last();
  const Tensor w = torch::stable::contiguous(weight);
  Tensor dx = need_x ? empty_clip(x, cx, cx.T, cx.layout) : torch::stable::new_empty(x, {0});
  Tensor dw = torch::stable::new_empty(x, {need_weight ? call.groups.weights : 0});
  Tensor db = torch::stable::new_empty(x, {need_bias ? cx.C : 0});
  if (grad.numel() == 0) {
    torch::stable::zero_(dx), torch::stable::zero_(dw), torch::stable::zero_(db);
    return {dx, dw, db};
  }
  const Side sides[3] = {{cg, grad.data_ptr()}, {cx, x.data_ptr()}, {need_x ? describe(dx) : cx, dx.data_ptr()}};
  const Needs need{need_x, need_weight, need_bias};
  dispatch_float(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = device_acc_t<T>;
    with_width<T, kWidestBackward<T>>(call.groups, last, {sides[0], sides[1], sides[2]}, [&](auto width, auto channels) {
      constexpr int V = decltype(width)::value, L = decltype(channels)::value;
      each_launch(call, true, [&](ConvArgs& a, const Group& from, const Group& to) {
        a.columns = columns_of(cx, from, to, last, V, kFillBlocks, 16);
        const int64_t weights = to.weight + to.channels * to.taps - from.weight;
        const int64_t rows = weights + to.channel + to.channels - from.channel;
        const int64_t shares = static_cast<int64_t>(a.columns.shares) * a.columns.slabs;
        std::optional<Tensor> partial;
        if (need_weight || need_bias) {
          partial = torch::stable::new_empty(x, {rows * shares}, torch::headeronly::CppTypeToScalarType<A>::value);
        }
        launch(backward_kernel<T, V, L>, column_grid(a.columns), dim3(kColumnThreads),
               sizeof(A) * kWarps * kSlots * L << a.columns.lanes_log2, device, a, need, strides_of(cg, V, last),
               strides_of(cx, V, last), strides_of(sides[2].clip, V, last), data_of<const T>(grad),
               data_of<const T>(x), data_of<const T>(w), data_of<T>(dx),
               static_cast<int32_t>(call.groups.max_taps), from.weight, weights,
               partial ? data_of<A>(*partial) : nullptr);
        if (!partial) return;
        launch(sum_partials_kernel<T>, dim3((rows + kWarps - 1) / kWarps), dim3(kColumnThreads), 0, device,
               data_of<const A>(*partial), rows, weights, shares,
               need_weight ? data_of<T>(dw) + from.weight : nullptr,
               need_bias ? data_of<T>(db) + from.channel : nullptr);
      });
    });
  });
  return {dx, dw, db};
}

VIDOPS_LIBRARY_IMPL(VIDOPS_NAMESPACE, VIDOPS_CUDA_KEY, m) {
  m.impl("temporal_conv", TORCH_BOX(&temporal_conv));
  m.impl("temporal_conv_backward", TORCH_BOX(&temporal_conv_backward));
}

}  // namespace
}  // namespace vidops
