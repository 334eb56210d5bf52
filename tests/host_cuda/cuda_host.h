// Runs CUDA kernels on the CPU, for tests: the names that kernels use, and a launch that gives every thread of a
// block a fiber. Blocks run one after another. Between two barriers of the block each warp runs as far as it can,
// through its shuffles, before the next one starts; the order of warps and lanes turns round at every barrier and
// block.
//
// What it finds: wrong indices and arithmetic, unwritten results, threads that miss a barrier others wait at, and
// missing barriers, because dynamic shared memory starts as NaN and warps run ahead of each other as far as they may.
// What it cannot show: memory ordering inside a warp, occupancy, speed, and asynchronous copies.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <tuple>
#include <vector>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static

struct dim3 {
  uint32_t x, y, z;
  dim3(uint32_t x = 1, uint32_t y = 1, uint32_t z = 1) : x(x), y(y), z(z) {}
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

using std::max;
using std::min;
inline uint32_t __umulhi(uint32_t a, uint32_t b) { return static_cast<uint32_t>((uint64_t{a} * b) >> 32); }
template <class T>
inline T __ldg(const T* p) {
  return *p;
}

inline float __uint_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline uint32_t __float_as_uint(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
struct alignas(4) __half2 {
  c10::Half x, y;
};
struct alignas(4) __nv_bfloat162 {
  c10::BFloat16 x, y;
};
inline float __low2float(__half2 pair) { return pair.x; }
inline float __high2float(__half2 pair) { return pair.y; }
inline __half2 __floats2half2_rn(float a, float b) { return {c10::Half(a), c10::Half(b)}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b) { return {c10::BFloat16(a), c10::BFloat16(b)}; }

namespace vidops::host {

constexpr size_t kStackBytes = 64 << 10;
constexpr uint32_t kWarp = 32;
constexpr size_t kMostShared = 99 << 10;  // of sm_120, the least of our targets

#if defined(__x86_64__)
// void vidops_switch(void** from, void* to): leave on one stack, return on another.
extern "C" void vidops_switch(void** from, void* to) asm("vidops_switch");
asm(R"(
.text
.type vidops_switch, @function
vidops_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");
struct Context {
  void* sp = nullptr;
  void prepare(char* stack, void (*entry)()) {
    void** top = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(stack + kStackBytes) & ~uintptr_t{15});
    top[-1] = nullptr;  // where entry would return to
    top[-2] = reinterpret_cast<void*>(entry);
    std::fill(top - 8, top - 2, nullptr);
    sp = top - 8;
  }
  void go(Context& to) { vidops_switch(&sp, to.sp); }
};
#else
struct Context {
  ucontext_t c;
  void prepare(char* stack, void (*entry)()) {
    getcontext(&c);
    c.uc_stack.ss_sp = stack, c.uc_stack.ss_size = kStackBytes, c.uc_link = nullptr;
    makecontext(&c, entry, 0);
  }
  void go(Context& to) { swapcontext(&c, &to.c); }
};
#endif

enum class State { kReady, kBlock, kWarp, kDone };

struct Fiber {
  Context context;
  std::unique_ptr<char[]> stack;
  State state;
  uint32_t mask;         // of the shuffle it waits at
  uint32_t shuffles;     // so far
  uint64_t slots[2];     // what it gives to shuffles, alternating: nobody is two ahead
  void* fake = nullptr;  // AddressSanitizer's
};

struct Launch {
  int64_t kernel, grid[3], threads, shared_bytes;
};

struct Machine {
  std::mutex one_launch;
  Context scheduler;
  void* fake = nullptr;
  const void* stack_bottom = nullptr;
  size_t stack_size = 0;
  std::vector<Fiber> fibers;
  uint32_t current = 0, threads = 0;
  std::function<void()> kernel;
  std::vector<double> shared;
  std::set<const void*> launched;  // every kernel so far
  std::vector<Launch> recent;      // launches since they were asked for, the first of them

  void enter(uint32_t thread) {
    current = thread;
    threadIdx = dim3(thread % blockDim.x, thread / blockDim.x % blockDim.y, thread / (blockDim.x * blockDim.y));
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&fake, fibers[thread].stack.get(), kStackBytes);
#endif
    scheduler.go(fibers[thread].context);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
  }
  void leave(State state) {
    Fiber& me = fibers[current];
    me.state = state;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(state == State::kDone ? nullptr : &me.fake, stack_bottom, stack_size);
#endif
    me.context.go(scheduler);
    arrived();
  }
  void arrived() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fibers[current].fake, &stack_bottom, &stack_size);
#endif
  }
  // Lets a warp's lanes run, through shuffles, until all that are left wait at the block's barrier or for each other.
  void run_warp(uint32_t first, bool back) {
    const uint32_t count = std::min(kWarp, threads - first);
    for (bool again = true; again;) {
      for (uint32_t i = 0; i < count; ++i) {
        const uint32_t thread = first + (back ? count - 1 - i : i);
        if (fibers[thread].state == State::kReady) enter(thread);
      }
      uint32_t waiting = 0;
      for (uint32_t i = 0; i < count; ++i) waiting |= uint32_t{fibers[first + i].state == State::kWarp} << i;
      again = false;
      for (uint32_t i = 0; i < count; ++i) {
        Fiber& fiber = fibers[first + i];
        if (fiber.state != State::kWarp || (waiting & fiber.mask) != fiber.mask) continue;
        fiber.state = State::kReady, again = true;
      }
    }
  }
  bool all(State state) const {
    return std::all_of(fibers.begin(), fibers.begin() + threads, [&](const Fiber& f) { return f.state == state; });
  }
  void run_block(bool back);
};

inline Machine machine;

inline void fiber_main() {
  machine.arrived();
  machine.kernel();
  machine.leave(State::kDone);
}

inline void Machine::run_block(bool back) {
  std::memset(shared.data(), 0xff, shared.size() * sizeof(double));
  for (uint32_t i = 0; i < threads; ++i) {
    fibers[i].state = State::kReady, fibers[i].shuffles = 0, fibers[i].fake = nullptr;
    fibers[i].context.prepare(fibers[i].stack.get(), fiber_main);
  }
  for (; !all(State::kDone); back = !back) {
    const uint32_t warps = (threads + kWarp - 1) / kWarp;
    for (uint32_t i = 0; i < warps; ++i) run_warp((back ? warps - 1 - i : i) * kWarp, back);
    if (all(State::kBlock)) {
      for (uint32_t i = 0; i < threads; ++i) fibers[i].state = State::kReady;
    } else {
      STD_TORCH_CHECK(all(State::kDone), "threads of a block wait for each other: a barrier or shuffle not all reach");
    }
  }
}

template <class Kernel, class... Args>
void launch(Kernel kernel, dim3 grid, dim3 block, size_t shared_bytes, Args... args) {
  const std::lock_guard<std::mutex> lock(machine.one_launch);
  STD_TORCH_CHECK(grid.x && grid.y && grid.z && grid.y <= 65535 && grid.z <= 65535 && grid.x < 0x80000000u &&
                      block.x * block.y * block.z - 1 < 1024 && shared_bytes <= kMostShared,
                  "CUDA kernel launch failed: invalid configuration argument");
  machine.launched.insert(reinterpret_cast<const void*>(kernel));
  if (machine.recent.size() < 256) {
    const Launch now{reinterpret_cast<int64_t>(kernel),
                     {grid.x, grid.y, grid.z},
                     block.x * block.y * block.z,
                     static_cast<int64_t>(shared_bytes)};
    machine.recent.push_back(now);
  }
  gridDim = grid, blockDim = block;
  machine.threads = block.x * block.y * block.z;
  if (machine.fibers.size() < machine.threads) machine.fibers.resize(machine.threads);
  for (Fiber& fiber : machine.fibers) {
    if (!fiber.stack) fiber.stack.reset(new char[kStackBytes]);
  }
  machine.shared.resize(shared_bytes / sizeof(double) + 1);
  const std::tuple<Args...> arguments(args...);
  machine.kernel = [&] { std::apply(kernel, arguments); };
  for (uint32_t z = 0; z < grid.z; ++z) {
    for (uint32_t y = 0; y < grid.y; ++y) {
      for (uint32_t x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        machine.run_block((x + y + z) % 2 != 0);
      }
    }
  }
}

// Writes the addresses of the kernels launched so far, at most `most`; returns how many there are.
extern "C" inline __attribute__((visibility("default"), used)) int vidops_host_launched(const void** to, int most) {
  std::copy_n(machine.launched.begin(), std::min<size_t>(most, machine.launched.size()), to);
  return static_cast<int>(machine.launched.size());
}

// Writes the launches since the last time it was asked, at most `most`; returns how many there were.
extern "C" inline __attribute__((visibility("default"), used)) int vidops_host_launches(Launch* to, int most) {
  const int count = static_cast<int>(machine.recent.size());
  std::copy_n(machine.recent.begin(), std::min(most, count), to);
  machine.recent.clear();
  return count;
}

// Gives `value`, waits for the warp, and takes what lane `from` gave.
template <class T>
T shuffle(uint32_t mask, T value, uint32_t from) {
  static_assert(sizeof(T) <= 8);
  Fiber& me = machine.fibers[machine.current];
  const uint32_t slot = me.shuffles++ % 2, first = machine.current / kWarp * kWarp;
  std::memcpy(&me.slots[slot], &value, sizeof(T));
  me.mask = mask;
  machine.leave(State::kWarp);
  std::memcpy(&value, &machine.fibers[first + from].slots[slot], sizeof(T));
  return value;
}
inline uint32_t lane() { return machine.current % kWarp; }

}  // namespace vidops::host

inline void __syncthreads() { vidops::host::machine.leave(vidops::host::State::kBlock); }
template <class T>
inline T __shfl_sync(uint32_t mask, T value, uint32_t from) {
  return vidops::host::shuffle(mask, value, from % 32);
}
template <class T>
inline T __shfl_xor_sync(uint32_t mask, T value, uint32_t bits) {
  return vidops::host::shuffle(mask, value, vidops::host::lane() ^ bits);
}
template <class T>
inline T __shfl_down_sync(uint32_t mask, T value, uint32_t step) {
  const uint32_t lane = vidops::host::lane();
  return vidops::host::shuffle(mask, value, lane + step < 32 ? lane + step : lane);
}
inline void __syncwarp(uint32_t mask = 0xffffffffu) { vidops::host::shuffle(mask, 0, vidops::host::lane()); }

namespace vidops {

// The host's twins of what common/cuda.h has for a device.
struct DeviceScope {
  explicit DeviceScope(const torch::stable::Tensor&) {}
};
inline int64_t most_shared(const DeviceScope&) { return host::kMostShared; }
template <class... Parameters, class... Args>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, const DeviceScope&,
            Args... args) {
  host::launch(kernel, grid, block, shared_bytes, static_cast<Parameters>(args)...);
}
template <class T>
void store_whole(T* p, T value) {
  *p = value;
}
template <class T>
T* dynamic_shared() {
  return reinterpret_cast<T*>(host::machine.shared.data());
}

}  // namespace vidops
