// Adds the partial sums that the blocks of a backward kernel left, in a fixed order.
#pragma once

#include "common/columns.h"
#include "common/pack.h"

namespace vidops {
namespace {

constexpr int kSumWarps = kColumnThreads / 32;

// One warp a row: the shares' partial sums in fp64, lane by lane, then over the lanes. The first `weights` rows go to
// dweight, the others to dbias; a null pointer is not wanted.
template <class T>
__global__ void __launch_bounds__(kColumnThreads)
    sum_partials_kernel(const device_acc_t<T>* __restrict__ partial, int64_t rows, int64_t weights, int64_t shares,
                        T* __restrict__ dweight, T* __restrict__ dbias) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kSumWarps + threadIdx.x / 32;
  if (row >= rows) return;
  T* result = row < weights ? dweight + row : dbias + row - weights;
  if (row < weights ? !dweight : !dbias) return;
  double sum = 0;
  for (int64_t i = threadIdx.x % 32; i < shares; i += 32) sum += static_cast<double>(partial[row * shares + i]);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  if (threadIdx.x % 32 == 0) *result = static_cast<T>(static_cast<device_acc_t<T>>(sum));
}

}  // namespace
}  // namespace vidops
