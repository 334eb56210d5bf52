// The host's twins of what csrc/cuda/mma.cuh has for a device: warp-wide loads and products in mma.sync's layout.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <type_traits>

#include "cuda_host.h"

namespace vidops::host {

// What the lanes of each warp show each other, alternating as in shuffles: nobody is two ahead.
inline float shown[2][1024][12];
inline const char* rows_named[2][1024];

// Waits until the whole warp has shown what it has; returns which of the two places it was in.
template <class Show>
uint32_t show(Show&& what) {
  Fiber& me = machine.fibers[machine.current];
  const uint32_t slot = me.shuffles++ % 2;
  what(slot, machine.current);
  me.mask = 0xffffffffu;
  machine.leave(State::kWarp);
  return slot;
}
inline uint32_t first_lane() { return machine.current / kWarp * kWarp; }

// Element `part` of kParts in a register of a fragment.
template <class T>
float part_of(uint32_t bits, int part) {
  if constexpr (sizeof(T) == 2) {
    T value;
    std::memcpy(&value, reinterpret_cast<const char*>(&bits) + 2 * part, 2);
    return value;
  } else {
    return __uint_as_float(bits);
  }
}

}  // namespace vidops::host

namespace vidops {

struct Tf32;

template <class A>
A rounded_product(A a, A b) {
  volatile A product = a * b;
  return product;
}

template <bool kTransposed>
void load_matrices(uint32_t (&to)[4], const void* row) {
  const uint32_t slot =
      host::show([&](uint32_t s, uint32_t i) { host::rows_named[s][i] = static_cast<const char*>(row); });
  const uint32_t g = host::lane() / 4, t = host::lane() % 4;
  for (uint32_t matrix = 0; matrix < 4; ++matrix) {
    const char* const* rows = &host::rows_named[slot][host::first_lane() + 8 * matrix];
    char* bytes = reinterpret_cast<char*>(&to[matrix]);
    for (uint32_t i = 0; i < 2; ++i) {
      std::memcpy(bytes + 2 * i, kTransposed ? rows[2 * t + i] + 2 * g : rows[g] + 2 * (2 * t + i), 2);
    }
  }
}

// Nearest, ties away from zero, 10 bits after the point.
inline uint32_t tf32_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  return finite ? (bits + 0x1000u) & ~0x1fffu : bits;
}

template <class T>
void mma_sync(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  constexpr int kParts = std::is_same_v<T, Tf32> ? 1 : 2;  // elements a register
  const uint32_t slot = host::show([&](uint32_t s, uint32_t i) {
    float* mine = host::shown[s][i];
    for (int r = 0; r < 6; ++r) {
      for (int p = 0; p < kParts; ++p) {
        using Part = std::conditional_t<kParts == 1, float, T>;
        mine[r * kParts + p] = host::part_of<Part>(r < 4 ? a[r] : b[r - 4], p);
      }
    }
  });
  const auto* lanes = &host::shown[slot][host::first_lane()];
  const int g = static_cast<int>(host::lane() / 4), t = static_cast<int>(host::lane() % 4);
  for (int k = 0; k < 8 * kParts; ++k) {
    const int from = k % (4 * kParts) / kParts, half = k / (4 * kParts), part = k % kParts;
    for (int i = 0; i < 4; ++i) {
      const float x = lanes[4 * g + from][(2 * half + i / 2) * kParts + part];
      const float y = lanes[4 * (2 * t + i % 2) + from][(4 + half) * kParts + part];
      c[i] += x * y;
    }
  }
}

}  // namespace vidops
