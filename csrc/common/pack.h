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

struct alignas(4) HalfPair {
  c10::Half at[2];
};
struct alignas(4) BFloat16Pair {
  c10::BFloat16 at[2];
};

// Rounds to nearest even, two elements an instruction.
__device__ __forceinline__ void round_pair(c10::Half* to, float a, float b) {
  const __half2 pair = __floats2half2_rn(a, b);
  *reinterpret_cast<HalfPair*>(to) = *reinterpret_cast<const HalfPair*>(&pair);
}
__device__ __forceinline__ void round_pair(c10::BFloat16* to, float a, float b) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
  *reinterpret_cast<BFloat16Pair*>(to) = *reinterpret_cast<const BFloat16Pair*>(&pair);
}

template <int V, class T>
__device__ __forceinline__ void store_pack(T* p, const device_acc_t<T> (&values)[V]) {
  Pack<T, V> pack;
  if constexpr (sizeof(T) == 2 && V % 2 == 0) {
#pragma unroll
    for (int v = 0; v < V; v += 2) round_pair(pack.at + v, values[v], values[v + 1]);
  } else {
#pragma unroll
    for (int v = 0; v < V; ++v) pack.at[v] = static_cast<T>(values[v]);
  }
  *reinterpret_cast<Pack<T, V>*>(p) = pack;
}

}  // namespace vidops
