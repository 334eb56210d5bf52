// Vectors for CPU kernels: loads and stores of any floating dtype as vectors of its accumulation type.
//
// Written with the compiler's own vector types, so one source serves every instruction set; a library is built
// once per level and exactly one is loaded. Only conversions the compiler does badly use intrinsics.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <cstring>
#include <utility>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace vidops {

using c10::BFloat16;
using c10::Half;

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

// fp16, bf16 and fp32 accumulate in fp32, fp64 in fp64.
template <class T>
struct Accumulate {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};
template <class T>
using acc_t = typename Accumulate<T>::type;

template <class A>
struct VecOf;
template <>
struct VecOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
  typedef float unaligned __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
};
template <>
struct VecOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
  typedef double unaligned __attribute__((vector_size(kVectorBytes), aligned(8), may_alias));
};
template <class T>
using Vec = typename VecOf<acc_t<T>>::type;
template <class T>
constexpr int kLanes = kVectorBytes / sizeof(acc_t<T>);

template <class V, class A>
inline V broadcast(A value) {
  return V{} + value;
}

// Loads kLanes<T> elements.
template <class T>
inline Vec<T> load(const T* p) {
  if constexpr (std::is_same_v<T, float> || std::is_same_v<T, double>) {
    return *reinterpret_cast<const typename VecOf<T>::unaligned*>(p);
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    typedef uint16_t U16 __attribute__((vector_size(kVectorBytes / 2), aligned(2), may_alias));
    typedef uint32_t U32 __attribute__((vector_size(kVectorBytes)));
    return (Vec<T>)(__builtin_convertvector(*reinterpret_cast<const U16*>(p), U32) << 16);
  } else {
#if defined(__AVX512F__)
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__)
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
    Vec<T> v;
    for (int i = 0; i < kLanes<T>; ++i) v[i] = static_cast<float>(p[i]);
    return v;
#endif
  }
}

// Rounds to nearest even, as PyTorch does; NaN stays NaN.
template <class T>
inline void store(T* p, Vec<T> v) {
  if constexpr (std::is_same_v<T, float> || std::is_same_v<T, double>) {
    *reinterpret_cast<typename VecOf<T>::unaligned*>(p) = v;
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    typedef uint16_t U16 __attribute__((vector_size(kVectorBytes / 2), aligned(2), may_alias));
    typedef uint32_t U32 __attribute__((vector_size(kVectorBytes)));
    const U32 bits = (U32)v;
    const U32 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const U32 nan = (U32)(v != v);
    *reinterpret_cast<U16*>(p) = __builtin_convertvector((rounded & ~nan) | (0x7fc0u & nan), U16);
  } else {
#if defined(__AVX512F__)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
#else
    for (int i = 0; i < kLanes<T>; ++i) p[i] = static_cast<T>(v[i]);
#endif
  }
}

// A loaded vector kept in its register. GCC folds a load into each instruction that uses it, so that one vector for
// nine multiply-adds is loaded nine times, and the cache is the limit; from addresses that cross lines, twice so.
template <class V>
inline __attribute__((always_inline)) V held(V v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#endif
  return v;
}

template <class T>
inline acc_t<T> load1(const T* p) {
  return static_cast<acc_t<T>>(*p);
}
template <class T>
inline void store1(T* p, acc_t<T> value) {
  *p = static_cast<T>(value);
}

template <class T>
bool all_finite(const T* values, int64_t count) {
  acc_t<T> sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += load1(values + i) * 0;
  return sum == 0;
}

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// The first `count` lanes only, others zero or untouched; a count of lanes or more is a plain load or store.
template <class T>
inline Vec<T> load_part(const T* p, int64_t count) {
  if (count >= kLanes<T>) return load(p);
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float>) return _mm512_maskz_loadu_ps((1u << count) - 1, p);
  if constexpr (std::is_same_v<T, double>) return _mm512_maskz_loadu_pd((1u << count) - 1, p);
#endif
  Vec<T> v{};
  for (int64_t i = 0; i < count; ++i) v[i] = load1(p + i);
  return v;
}
template <class T>
inline void store_part(T* p, Vec<T> v, int64_t count) {
  if (count >= kLanes<T>) return store(p, v);
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float>) return _mm512_mask_storeu_ps(p, (1u << count) - 1, v);
  if constexpr (std::is_same_v<T, double>) return _mm512_mask_storeu_pd(p, (1u << count) - 1, v);
#endif
  for (int64_t i = 0; i < count; ++i) store1(p + i, v[i]);
}

constexpr int64_t kStreamBytes = 4 << 20;  // results from here on are streamed

// Bytes from a load to what is fetched for later. The loads of one vector go through all frames, in a loop: hardware
// prefetchers follow a loop's load from one address to the next and see steps of a frame, not the streams.
constexpr int64_t kAhead = 1024;

// A store past the caches, for results too large to stay in them: it saves reading the line first. Pointers must
// be aligned to kVectorBytes; fp32 and fp64 only, elsewhere an ordinary store.
template <class T>
inline void stream(T* p, Vec<T> v) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float>) return _mm512_stream_ps(p, v);
  if constexpr (std::is_same_v<T, double>) return _mm512_stream_pd(p, v);
#elif defined(__AVX2__)
  if constexpr (std::is_same_v<T, float>) return _mm256_stream_ps(p, v);
  if constexpr (std::is_same_v<T, double>) return _mm256_stream_pd(p, v);
#elif defined(__SSE2__)
  if constexpr (std::is_same_v<T, float>) return _mm_stream_ps(p, v);
  if constexpr (std::is_same_v<T, double>) return _mm_stream_pd(p, v);
#endif
  store(p, v);
}
inline void stream_fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// A vector's lanes in double.
template <class T>
struct WideOf {
  typedef double type __attribute__((vector_size(kLanes<T> * 8)));
};
template <class T>
using Wide = typename WideOf<T>::type;
// Half by half where a total fills two registers: compilers take both through the stack.
template <class T>
inline __attribute__((always_inline)) void add_wide(Wide<T>& total, const Vec<T>& v) {
  if constexpr (sizeof(Wide<T>) == sizeof(Vec<T>)) {
    total += v;
  } else {
    typedef double Half __attribute__((vector_size(kVectorBytes), may_alias));
    Half* const halves = reinterpret_cast<Half*>(&total);
    [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
      constexpr int n = sizeof...(I);
      halves[0] += __builtin_convertvector(__builtin_shufflevector(v, v, I...), Half);
      halves[1] += __builtin_convertvector(__builtin_shufflevector(v, v, (n + I)...), Half);
    }(std::make_integer_sequence<int, kLanes<T> / 2>{});
  }
}

// The lanes of a vector summed in double, lowest first.
template <class V>
inline double sum_lanes(const V& v) {
  double total = 0;
  constexpr int lanes = sizeof(V) / sizeof(v[0]);
  for (int i = 0; i < lanes; ++i) total += v[i];
  return total;
}

}  // namespace vidops
