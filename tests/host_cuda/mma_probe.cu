// Products by csrc/cuda/mma.cuh in isolation, and the copies of csrc/cuda/copy_async.cuh.
#include "cuda/copy_async.cuh"
#include "cuda/mma.cuh"

namespace vidops {
namespace {

#define VIDOPS_PROBE extern "C" __attribute__((visibility("default")))

// C (16 x 16) = A (16 x k) B: of B the columns (16 x k) or the rows (k x 16).
template <class M>
__global__ void product_kernel(const typename M::Element* a, const typename M::Element* b, int k, bool by_rows,
                               typename M::Sum* c) {
  using T = typename M::Element;
  constexpr int kPad = 16 / sizeof(T);
  const int pitch_a = k + kPad, rows_b = by_rows ? k : 16, columns_b = by_rows ? 16 : k, pitch_b = columns_b + kPad;
  T* const tile_a = dynamic_shared<T>();
  T* const tile_b = tile_a + 16 * pitch_a;
  for (int i = static_cast<int>(threadIdx.x); i < 16 * k; i += 32) tile_a[i / k * pitch_a + i % k] = a[i];
  for (int i = static_cast<int>(threadIdx.x); i < rows_b * columns_b; i += 32) {
    tile_b[i / columns_b * pitch_b + i % columns_b] = b[i];
  }
  __syncthreads();
  typename M::Sum sums[2][4] = {};
  for (int step = 0; step < k; step += M::kK) {
    typename M::A x;
    typename M::B y[2];
    M::load(x, tile_a + step, pitch_a);
    by_rows ? M::load_rows(y, tile_b + step * pitch_b, pitch_b) : M::load_columns(y, tile_b + step, pitch_b);
    for (int n = 0; n < 2; ++n) M::multiply(sums[n], x, y[n]);
  }
  const int g = lane_of_warp() / 4, t = lane_of_warp() % 4;
  for (int n = 0; n < 2; ++n) {
    for (int i = 0; i < 4; ++i) c[(g + i / 2 * 8) * 16 + 8 * n + 2 * t + i % 2] = sums[n][i];
  }
}

template <class T>
__global__ void registers_kernel(const uint32_t (*a)[4], const uint32_t (*b)[2], float (*c)[4]) {
  mma_sync<T>(c[threadIdx.x], a[threadIdx.x], b[threadIdx.x]);
}

template <bool kTransposed>
__global__ void matrices_kernel(const uint16_t* rows, uint32_t (*to)[4]) {
  load_matrices<kTransposed>(to[threadIdx.x], rows + 8 * threadIdx.x);
}

// Every thread copies twice, waits for all but the last `left` groups, and takes what its neighbour copied.
__global__ void copies_kernel(const float* from, int left, bool barrier, float* to) {
  float* shared = dynamic_shared<float>();
  const int count = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  for (int i = 0; i < 2; ++i) {
    copy_async<4>(shared + i * count + thread, from + i * count + thread, thread % 3 != 0);
    copies_commit();
  }
  if (left == 0) copies_wait<0>();
  if (left == 1) copies_wait<1>();
  if (barrier) __syncthreads();
  for (int i = 0; i < 2; ++i) to[i * count + thread] = shared[i * count + (thread + 33) % count];
  __syncthreads();
  copies_wait<0>();
}

template <class M>
void run_product(const void* a, const void* b, int k, bool by_rows, void* c) {
  using T = typename M::Element;
  host::launch(product_kernel<M>, dim3(1), dim3(32), (16 + 32) * (k + 64) * sizeof(T), static_cast<const T*>(a),
               static_cast<const T*>(b), k, by_rows, static_cast<typename M::Sum*>(c));
}

}  // namespace

VIDOPS_PROBE void probe_product(int type, const void* a, const void* b, int k, int by_rows, void* c) {
  if (type == 0) run_product<Mma<c10::Half>>(a, b, k, by_rows != 0, c);
  if (type == 1) run_product<Mma<c10::BFloat16>>(a, b, k, by_rows != 0, c);
  if (type == 2) run_product<Mma<Tf32>>(a, b, k, by_rows != 0, c);
  if (type == 3) run_product<Mma<float>>(a, b, k, by_rows != 0, c);
  if (type == 4) run_product<Mma<double>>(a, b, k, by_rows != 0, c);
}

VIDOPS_PROBE void probe_registers(int type, const uint32_t (*a)[4], const uint32_t (*b)[2], float (*c)[4]) {
  const auto kernel = type == 0   ? registers_kernel<c10::Half>
                      : type == 1 ? registers_kernel<c10::BFloat16>
                                  : registers_kernel<Tf32>;
  host::launch(kernel, dim3(1), dim3(32), 0, a, b, c);
}

VIDOPS_PROBE void probe_matrices(int transposed, const uint16_t* rows, uint32_t (*to)[4]) {
  host::launch(transposed ? matrices_kernel<true> : matrices_kernel<false>, dim3(1), dim3(32), 0, rows, to);
}

VIDOPS_PROBE void probe_copies(const float* from, int left, int barrier, float* to) {
  host::launch(copies_kernel, dim3(1), dim3(96), 2 * 96 * sizeof(float), from, left, barrier != 0, to);
}

VIDOPS_PROBE uint32_t probe_tf32(float value) { return tf32_bits(value); }

}  // namespace vidops
