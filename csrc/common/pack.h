// Packs: V neighbouring elements that a thread loads and stores at once, and computes with in accumulation type.
//
// A pack of 16 bytes is one LDG.E.128 or STG.E.128. Conversions from fp16 and bf16 are one instruction an element,
// back they are one for two.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "common/cuda.h"

namespace vidops {

// fp16, bf16 and fp32 accumulate in fp32, fp64 in fp64.
template <class T>
struct DeviceAccumulate {
  using type = float;
};
template <>
struct DeviceAccumulate<double> {
  using type = double;
};
template <class T>
using device_acc_t = typename DeviceAccumulate<T>::type;

template <class T, int V>
struct alignas(sizeof(T) * V) Pack {
  T at[V];
};

template <int V, class T>
__device__ __forceinline__ Pack<T, V> load_pack(const T* p) {
  return *reinterpret_cast<const Pack<T, V>*>(p);
}

template <class T, int V>
__device__ __forceinline__ device_acc_t<T> value(const Pack<T, V>& pack, int v) {
  return static_cast<device_acc_t<T>>(pack.at[v]);
}

template <class T>
struct alignas(sizeof(T) * 2) Pair {
  T at[2];
};
__device__ __forceinline__ void round_pair(c10::Half* to, float a, float b) {
  const __half2 pair = __floats2half2_rn(a, b);
  *reinterpret_cast<Pair<c10::Half>*>(to) = *reinterpret_cast<const Pair<c10::Half>*>(&pair);
}
__device__ __forceinline__ void round_pair(c10::BFloat16* to, float a, float b) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
  *reinterpret_cast<Pair<c10::BFloat16>*>(to) = *reinterpret_cast<const Pair<c10::BFloat16>*>(&pair);
}

// How many elements of a pack are best made together: 2-byte types round in pairs.
template <class T, int V>
constexpr int kTogether = sizeof(T) == 2 && V % 2 == 0 ? 2 : 1;

// Rounds to nearest even into elements v, v + 1, ... of a pack.
template <class T, int V, int P>
__device__ __forceinline__ void set_values(Pack<T, V>& pack, int v, const device_acc_t<T> (&values)[P]) {
  if constexpr (P == 2) {
    round_pair(pack.at + v, values[0], values[1]);
  } else {
    pack.at[v] = static_cast<T>(values[0]);
  }
}

template <class T, int V>
__device__ __forceinline__ void store_pack(T* p, const Pack<T, V>& pack) {
  *reinterpret_cast<Pack<T, V>*>(p) = pack;
}

// The same from values of a whole pack.
template <class T, int V>
__device__ __forceinline__ void store_values(T* p, const device_acc_t<T> (&values)[V]) {
  Pack<T, V> pack;
#pragma unroll
  for (int v = 0; v < V; v += kTogether<T, V>) {
    device_acc_t<T> together[kTogether<T, V>];
#pragma unroll
    for (int i = 0; i < kTogether<T, V>; ++i) together[i] = values[v + i];
    set_values(pack, v, together);
  }
  store_pack(p, pack);
}

}  // namespace vidops
