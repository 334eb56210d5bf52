// What every CUDA operator needs of its surroundings: the device and stream of a call, and the one way to launch.
//
// The tests build the same sources with a host compiler, whose "cuda_host.h" (tests/host_cuda) brings the few CUDA
// names that kernels use and runs a launch on the CPU.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#else
#include "cuda_host.h"
#endif

namespace vidops {

#ifdef __CUDACC__
// Makes a tensor's device the current one while it lives; `stream` is PyTorch's current stream there.
class DeviceScope {
 public:
  explicit DeviceScope(const torch::stable::Tensor& x) : guard_(x.get_device_index()) {
    void* current = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &current));
    stream = static_cast<cudaStream_t>(current);
  }
  cudaStream_t stream = nullptr;

 private:
  torch::stable::accelerator::DeviceGuard guard_;
};

// The most shared memory that a block can ask for on this device.
inline int64_t most_shared(const DeviceScope&) {
  int device = 0, bytes = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  }
  STD_TORCH_CHECK(error == cudaSuccess, "no word of the device's shared memory: ", cudaGetErrorString(error));
  return bytes;
}

// kernel<<<grid, block, shared_bytes, stream>>>(args...); raises what a launch reports.
template <class... Parameters, class... Args>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, const DeviceScope& scope,
            Args... args) {
  const auto check = [](cudaError_t error) {
    if (error != cudaSuccess) cudaGetLastError();  // which another call's launch would report again
    STD_TORCH_CHECK(error == cudaSuccess, "CUDA kernel launch failed: ", cudaGetErrorString(error));
  };
  if (shared_bytes > 48 << 10) {  // has to be asked for, of every kernel; all, lest another thread's call asks for less
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(most_shared(scope))));
  }
  kernel<<<grid, block, shared_bytes, scope.stream>>>(args...);
  check(cudaGetLastError());
}

// *p = value as one store. nvcc has been seen to store an aligned uint4 member by member, four times the requests, and
// __stwb to mark its store as a strong one; this is neither.
template <class T>
__device__ __forceinline__ void store_whole(T* p, T value) {
  *p = value;
}
__device__ __forceinline__ void store_whole(uint2* p, uint2 value) {
  asm volatile("st.global.v2.u32 [%0], {%1, %2};" : : "l"(p), "r"(value.x), "r"(value.y) : "memory");
}
__device__ __forceinline__ void store_whole(uint4* p, uint4 value) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};"
               :
               : "l"(p), "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w)
               : "memory");
}

// The block's dynamic shared memory, aligned as the widest copies into it need it.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(16) double vidops_dynamic_shared[];
  return reinterpret_cast<T*>(vidops_dynamic_shared);
}
#endif

}  // namespace vidops
