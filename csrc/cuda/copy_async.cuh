// Copies from global to shared memory that a thread starts and waits for later: cp.async.
//
// A thread's copies since its last copies_commit are a group; copies_wait<N> returns when all its groups but the last N
// have arrived. What other threads copied is seen after a barrier behind their own waits.
#pragma once

#include "common/cuda.h"

#ifndef __CUDACC__
#include "copy_async_host.h"
#endif

namespace vidops {

#ifdef __CUDACC__
// kBytes (4, 8 or 16), aligned to as many; zeros where not `valid`, and then nothing is read.
template <int kBytes>
__device__ __forceinline__ void copy_async(void* to, const void* from, bool valid) {
  const uint32_t shared = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  const int read = valid ? kBytes : 0;
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" : : "r"(shared), "l"(from), "r"(read) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
                 :
                 : "r"(shared), "l"(from), "n"(kBytes), "r"(read)
                 : "memory");
  }
}
__device__ __forceinline__ void copies_commit() { asm volatile("cp.async.commit_group;" : : : "memory"); }
template <int N>
__device__ __forceinline__ void copies_wait() {
  asm volatile("cp.async.wait_group %0;" : : "n"(N) : "memory");
}
#endif

}  // namespace vidops
