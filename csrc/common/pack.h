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
// 2-byte types stay in pairs as they were loaded: taken apart they would need a register each.
template <class T, int V>
  requires(sizeof(T) == 2 && V % 2 == 0)
struct alignas(2 * V) Pack<T, V> {
  uint32_t pairs[V / 2];
};
// How many elements of a pack are set together.
template <class T, int V>
constexpr int kTogether = sizeof(T) == 2 && V % 2 == 0 ? 2 : 1;

// CUDA's own type of so many bytes, which __ldg and store_whole move in one access.
template <int kBytes>
struct Access;
template <>
struct Access<2> {
  using type = unsigned short;
};
template <>
struct Access<4> {
  using type = unsigned int;
};
template <>
struct Access<8> {
  using type = uint2;
};
template <>
struct Access<16> {
  using type = uint4;
};

template <int V, class T>
__device__ __forceinline__ Pack<T, V> load_pack(const T* p) {
  const auto bits = __ldg(reinterpret_cast<const typename Access<sizeof(T) * V>::type*>(p));
  Pack<T, V> pack;
  memcpy(&pack, &bits, sizeof(pack));
  return pack;
}
template <class T, int V>
__device__ __forceinline__ void store_pack(T* p, const Pack<T, V>& pack) {
  typename Access<sizeof(T) * V>::type bits;
  memcpy(&bits, &pack, sizeof(pack));
  store_whole(reinterpret_cast<decltype(bits)*>(p), bits);
}

// Two elements in 32 bits, the first in the lower half; rounding is to nearest even.
template <class T>
struct PairOf;
template <>
struct PairOf<c10::BFloat16> {
  static __device__ __forceinline__ float value(uint32_t pair, bool upper) {
    return __uint_as_float(upper ? pair & 0xffff0000u : pair << 16);
  }
  static __device__ __forceinline__ uint32_t round(float first, float second) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
};
template <>
struct PairOf<c10::Half> {
  static __device__ __forceinline__ float value(uint32_t pair, bool upper) {
    const __half2 both = *reinterpret_cast<const __half2*>(&pair);
    return upper ? __high2float(both) : __low2float(both);
  }
  static __device__ __forceinline__ uint32_t round(float first, float second) {
    const __half2 pair = __floats2half2_rn(first, second);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
};

template <class T, int V>
__device__ __forceinline__ device_acc_t<T> value(const Pack<T, V>& pack, int v) {
  if constexpr (kTogether<T, V> == 2) {
    return PairOf<T>::value(pack.pairs[v / 2], v % 2 != 0);
  } else {
    return static_cast<device_acc_t<T>>(pack.at[v]);
  }
}

// Sets elements v, v + 1, ... of a pack.
template <class T, int V, int P>
__device__ __forceinline__ void set_values(Pack<T, V>& pack, int v, const device_acc_t<T> (&values)[P]) {
  if constexpr (P == 2) {
    pack.pairs[v / 2] = PairOf<T>::round(values[0], values[1]);
  } else {
    pack.at[v] = static_cast<T>(values[0]);
  }
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
