// Products of small matrices by a warp: C (16 x 8) += A (16 x K) B (K x 8), with A and B loaded from shared memory.
//
// Mma<T> is the product for elements of type T: tensor cores for fp16 and bf16 (K 16, sums in fp32) and for Tf32, which
// is fp32 rounded to 11 significant bits on the way in (K 8); multiply-adds of the ordinary units for fp32 (K 4) and
// fp64 (K 2). All of them lay out C the same way, that of mma.sync: with g = lane / 4 and t = lane % 4 a lane has
//     c[0], c[1] = C[g][2t], C[g][2t + 1]        c[2], c[3] = C[g + 8][2t], C[g + 8][2t + 1]
// so that what a kernel does with its results is written once. The lanes of a warp call every function together.
// Rows of tiles in shared memory start at multiples of 16 bytes. An odd multiple keeps the loads free of bank
// conflicts; load_rows of Tf32, whose lanes read four rows of eight numbers, wants an odd multiple of 32 bytes instead.
#pragma once

#include <cmath>

#include "common/cuda.h"
#include "common/pack.h"

#ifndef __CUDACC__
#include "mma_host.h"

using std::fma;
#endif

namespace vidops {

#ifdef __CUDACC__
// Four 8 x 8 matrices of 2-byte elements: lane l names row l % 8 of matrix l / 8, and gets elements 2t and 2t + 1 of
// row g of each, or, transposed, of column g.
template <bool kTransposed>
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const void* row) {
  const uint32_t from = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
  }
}

__device__ __forceinline__ uint32_t tf32_bits(float value) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
}

#define VIDOPS_MMA(shape)                                                                          \
  asm("mma.sync.aligned." shape " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                             \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
template <class T>
__device__ __forceinline__ void mma_sync(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (std::is_same_v<T, c10::Half>) {
    VIDOPS_MMA("m16n8k16.row.col.f32.f16.f16.f32");
  } else if constexpr (std::is_same_v<T, c10::BFloat16>) {
    VIDOPS_MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
  } else {
    VIDOPS_MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
  }
}
#undef VIDOPS_MMA
#endif

struct Tf32 {};  // fp32 in memory, tf32 in products

// a * b rounded, which no compiler makes part of a multiply-add with what follows.
#ifdef __CUDACC__
__device__ __forceinline__ float rounded_product(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ double rounded_product(double a, double b) { return __dmul_rn(a, b); }
#endif

__device__ __forceinline__ int32_t lane_of_warp() { return static_cast<int32_t>(threadIdx.x % 32); }

// fp16 and bf16.
template <class T>
struct Mma {
  using Element = T;
  using Sum = float;
  static constexpr int kK = 16, kUnroll = 4;  // kUnroll: how often loops over K are worth unrolling
  struct A {
    uint32_t at[4];
  };
  struct B {
    uint32_t at[2];
  };

  // A 16 x K tile, a row of A after the other.
  static __device__ __forceinline__ void load(A& a, const T* tile, int32_t pitch) {
    const int32_t lane = lane_of_warp();
    load_matrices<false>(a.at, tile + lane % 16 * pitch + lane / 16 * 8);
  }
  // Two B side by side, from a 16 x K tile whose rows are columns of B.
  static __device__ __forceinline__ void load_columns(B (&b)[2], const T* tile, int32_t pitch) {
    const int32_t lane = lane_of_warp();
    uint32_t at[4];
    load_matrices<false>(at, tile + (lane % 8 + lane / 16 * 8) * pitch + lane / 8 % 2 * 8);
    b[0] = {{at[0], at[1]}}, b[1] = {{at[2], at[3]}};
  }
  // Two B side by side, from a K x 16 tile whose rows are rows of B.
  static __device__ __forceinline__ void load_rows(B (&b)[2], const T* tile, int32_t pitch) {
    const int32_t lane = lane_of_warp();
    uint32_t at[4];
    load_matrices<true>(at, tile + lane % 16 * pitch + lane / 16 * 8);
    b[0] = {{at[0], at[1]}}, b[1] = {{at[2], at[3]}};
  }
  static __device__ __forceinline__ void multiply(float (&c)[4], const A& a, const B& b) { mma_sync<T>(c, a.at, b.at); }
};

template <>
struct Mma<Tf32> {
  using Element = float;
  using Sum = float;
  static constexpr int kK = 8, kUnroll = 4;
  using A = Mma<c10::Half>::A;
  using B = Mma<c10::Half>::B;

  static __device__ __forceinline__ void load(A& a, const float* tile, int32_t pitch) {
    const float* from = tile + lane_of_warp() / 4 * pitch + lane_of_warp() % 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) a.at[i] = tf32_bits(from[i % 2 * 8 * pitch + i / 2 * 4]);
  }
  static __device__ __forceinline__ void load_columns(B (&b)[2], const float* tile, int32_t pitch) {
    const float* from = tile + lane_of_warp() / 4 * pitch + lane_of_warp() % 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) b[i / 2].at[i % 2] = tf32_bits(from[i / 2 * 8 * pitch + i % 2 * 4]);
  }
  static __device__ __forceinline__ void load_rows(B (&b)[2], const float* tile, int32_t pitch) {
    const float* from = tile + lane_of_warp() % 4 * pitch + lane_of_warp() / 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) b[i / 2].at[i % 2] = tf32_bits(from[i % 2 * 4 * pitch + i / 2 * 8]);
  }
  static __device__ __forceinline__ void multiply(float (&c)[4], const A& a, const B& b) {
    mma_sync<Tf32>(c, a.at, b.at);
  }
};

// fp32 and fp64: a lane has whatever its four results need, and no other lane helps.
template <class T>
struct PlainMma {
  using Element = T;
  using Sum = T;
  static constexpr int kK = 16 / sizeof(T), kUnroll = 2;
  struct A {
    Pack<T, kK> rows[2];  // g and g + 8
  };
  struct B {
    T at[kK][2];  // columns 2t and 2t + 1
  };

  static __device__ __forceinline__ void load(A& a, const T* tile, int32_t pitch) {
#pragma unroll
    for (int h = 0; h < 2; ++h) a.rows[h] = whole(tile + (lane_of_warp() / 4 + 8 * h) * pitch);
  }
  static __device__ __forceinline__ void load_columns(B (&b)[2], const T* tile, int32_t pitch) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const Pack<T, kK> column = whole(tile + (i / 2 * 8 + lane_of_warp() % 4 * 2 + i % 2) * pitch);
#pragma unroll
      for (int k = 0; k < kK; ++k) b[i / 2].at[k][i % 2] = column.at[k];
    }
  }
  static __device__ __forceinline__ void load_rows(B (&b)[2], const T* tile, int32_t pitch) {
#pragma unroll
    for (int i = 0; i < 2 * kK; ++i) {
      const T* from = tile + i / 2 * pitch + i % 2 * 8 + lane_of_warp() % 4 * 2;
      const auto two = *reinterpret_cast<const Pack<T, 2>*>(from);
      b[i % 2].at[i / 2][0] = two.at[0], b[i % 2].at[i / 2][1] = two.at[1];
    }
  }
  // In fp32 the K products are added up before they join the sum: one instruction in five more, and a quarter of the
  // roundings of a long sum.
  static __device__ __forceinline__ void multiply(T (&c)[4], const A& a, const B& b) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      constexpr bool kApart = sizeof(T) == 4;
      T sum = kApart ? T(0) : c[i];
#pragma unroll
      for (int k = 0; k < kK; ++k) sum = fma(a.rows[i / 2].at[k], b.at[k][i % 2], sum);
      c[i] = kApart ? c[i] + sum : sum;
    }
  }

 private:
  static __device__ __forceinline__ Pack<T, kK> whole(const T* p) { return *reinterpret_cast<const Pack<T, kK>*>(p); }
};
template <>
struct Mma<float> : PlainMma<float> {};
template <>
struct Mma<double> : PlainMma<double> {};

}  // namespace vidops
