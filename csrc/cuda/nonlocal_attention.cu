// nonlocal_attention on CUDA devices: attention over tokens on tensor cores, nothing of size L x L' in memory.
//
// Floor: B L L' (D + E) multiply-adds at the matrix rate; the tokens read and written once are a twentieth of that
// time. Backward 3 D + 2 E instead of D + E: the products and their gradients anew, and three sums weighted by them.
//
// One scheme serves everything (nonlocal_attention_common.cuh): a block owns rows of a result and up to 512 of its
// columns in registers, makes a tile of weights from one product (forward; the value's gradient) or from two (those of
// query and key), puts it into shared memory in the tokens' dtype, and adds it times the values that belong to it.
// Wider results are parted over blocks, each of which makes the weights again: D = E = 1024 costs 1.5 x. Forward keeps
// a running maximum and sum of every row, and leaves log of the sum of exponentials for the backward pass.
//
// Backward is four passes, each result with an owner, so nothing is added atomically and every run gives the same bits:
// what rounding took from lse and delta (D + E), query (2 D + E), key (2 D + E), value (D + E): 6 D + 4 E. One pass
// with atomics would need 3 D + 2 E, and could not have exact deltas.
//
// Matrix rate. mma.sync reaches 63 % of a Hopper's peak (an H100's, Luo et al., arXiv 2402.13499), that is about 79 %
// of the 790 TFLOP/s which are assumed for a large product on an H200. Fragments from shared memory take 2 cycles a
// product in scores and 1.25 in sums, where the tensor core takes 1.6. A block of 8 warps with up to 248 registers a
// thread has a multiprocessor to itself, so a tile's exponentials and conversions, some 1,400 cycles of 4,800 at D = E
// = 256, hide behind nothing. Copies run two stages ahead (cp.async). Predicted for bf16 on an H200: 45 % of the 790 at
// N 8, D 256, L 6272 (0.9 ms) and 28 % at D 512, L 1568 (0.18 ms; 200 blocks are one and a half rounds of 132);
// backward 5.5 x forward. The stretch of 60 and 45 % needs wgmma and warps that do nothing but exponentials. Flash
// attention in PyTorch (D = E up to 256) should be as fast forward and twice as fast backward. fp32 without tf32: half
// of the plain units' rate. Attention over eight frames fills a thirtieth of its tiles. Not yet measured on a GPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <tuple>
#include <type_traits>

#include "common/attention.h"
#include "common/dispatch.h"
#include "common/namespace.h"
#include "cuda/nonlocal_attention_kernels.cuh"
#include "cuda/tuning.cuh"

namespace vidops {
namespace {

namespace tuned {
// Warps of a block at most, and stages of its ring: with 4 and 2, two blocks may share a multiprocessor, and one's
// exponentials hide behind the other's products.
Tunable warps("nonlocal_attention", "warps", 8, {4, 8});
Tunable stages("nonlocal_attention", "stages", 3, {2, 3});
Tunable backward_warps("nonlocal_attention", "backward_warps", 8, {4, 8});
Tunable backward_stages("nonlocal_attention", "backward_stages", 3, {2, 3});
Tunable chunk_bytes("nonlocal_attention", "chunk_bytes", 16 << 10, {8 << 10, 16 << 10, 32 << 10});  // of values a stage
Tunable few_blocks("nonlocal_attention", "few_blocks", 128, {64, 128, 256});  // with fewer, blocks have fewer rows
}  // namespace tuned

struct Choices {
  int64_t warps, stages, chunk_bytes, few_blocks;
  static Choices now(bool backward) {
    return {(backward ? tuned::backward_warps : tuned::warps).get(),
            (backward ? tuned::backward_stages : tuned::stages).get(), tuned::chunk_bytes.get(),
            tuned::few_blocks.get()};
  }
};

// The tokens (B, L, D) of a call.
struct Tokens {
  const Tensor& tensor;
  int32_t one = -1;  // where a column of ones is thought to be

  template <class T>
  Operand<T> operand() const {
    const T* data = static_cast<const T*>(tensor.data_ptr());
    const int32_t width = static_cast<int32_t>(tensor.size(2));
    const bool wide = width * sizeof(T) % 16 == 0 && reinterpret_cast<uintptr_t>(data) % 16 == 0 && one < 0;
    return {data, tensor.size(1), width + (one >= 0), width, one, wide};
  }
  // The same rows, of which only the column of ones is left if there is one.
  template <class T>
  Operand<T> values() const {
    Operand<T> all = operand<T>();
    if (one >= 0) all.width = 1, all.one = 0;
    return all;
  }
};

// What a block does and how much shared memory it needs, for arguments that hold the operands.
template <class M>
struct Plan {
  using S = Shape<M>;
  using T = typename S::T;
  AttentionArgs<T> args;
  dim3 grid, block;
  int64_t bytes;

  Plan(const AttentionArgs<T>& operands, int64_t batch, const Choices& choices, int64_t most_shared) : args(operands) {
    const int64_t rows = args.rows[0].rows, width = args.values.width ? args.values.width : 2 * S::kWidth;
    const auto share = [](int64_t all, int64_t each) { return (all + each - 1) / each; };
    args.across = args.down = 1;
    while (args.across < 4 && args.across * S::kWidth < width) args.across *= 2;
    const int64_t slices = share(width, args.across * S::kWidth);
    while (args.down < 4 && args.down * args.across < choices.warps && args.down * S::kRows < rows) args.down *= 2;
    const auto blocks = [&] { return batch * share(rows, args.down * S::kRows) * slices; };
    while (args.down > 1 && blocks() < choices.few_blocks) args.down /= 2;
    args.row_tiles = static_cast<int32_t>(share(rows, args.down * S::kRows));
    args.tiles = static_cast<int32_t>(share(args.values.rows, args.across * S::kColumns));
    for (int i = 0; i < 2; ++i) args.parts[i] = static_cast<int32_t>(share(args.rows[i].width, S::kSlice));
    args.chunk = static_cast<int32_t>(std::clamp<int64_t>(choices.chunk_bytes / (args.across * S::kWidth * sizeof(T)),
                                                          M::kK, args.across * S::kColumns));
    STD_TORCH_CHECK(batch * args.row_tiles < (int64_t{1} << 31) && rows < (int64_t{1} << 30),
                    "query is too large for the CUDA kernels");
    grid = dim3(static_cast<uint32_t>(batch * args.row_tiles), static_cast<uint32_t>(slices));
    block = dim3(32 * args.down * args.across);
    while (!fit(choices.stages, most_shared) && args.chunk > M::kK) args.chunk /= 2;
  }

  // Takes the best that fits, if one does: rows that stay, then three stages.
  bool fit(int64_t most_stages, int64_t most_shared) {
    for (const auto& [resident, stages] : {std::pair{true, 3}, {true, 2}, {false, 3}, {false, 2}}) {
      if (stages > most_stages) continue;
      bytes = use(resident, stages);
      if (bytes <= most_shared) return true;
    }
    return false;
  }

  // Sets these and returns the bytes of shared memory.
  int64_t use(bool resident, int32_t stages) {
    const int64_t rows = args.down * S::kRows, columns = args.across * S::kColumns, width = args.across * S::kWidth;
    args.resident = resident, args.stages = stages;
    args.stage = static_cast<int32_t>(
        std::max((columns + (resident ? 0 : rows)) * S::kPitch, args.chunk * (width + S::kPadValues)));
    const int64_t kept = resident ? (args.parts[0] + args.parts[1]) * rows * S::kPitch : 0;
    return sizeof(T) * (kept + stages * args.stage + rows * (columns + S::kPad)) +
           sizeof(typename S::A) * (args.across * rows + 2 * kStatistics * columns);
  }
};

template <class M>
struct Call {
  using T = typename M::Element;
  using A = typename M::Sum;
  const DeviceScope& device;
  AttentionSizes sizes;
  AttentionKind kind;
  double scale;
  Choices choices;

  bool gaussian() const { return kind == AttentionKind::kGaussian; }
  double mean() const { return 2.0 / static_cast<double>(sizes.keys); }  // of weights that were halved

  AttentionArgs<T> arguments(Operand<T> rows, Operand<T> columns, Operand<T> values, const Tensor& out,
                             double post) const {
    AttentionArgs<T> args{};
    args.rows[0] = rows, args.columns[0] = columns, args.values = values;
    args.out = static_cast<T*>(out.data_ptr());
    args.scale = static_cast<A>(scale), args.scale2 = static_cast<A>(std::abs(scale) * M_LOG2E);
    args.flip = scale < 0, args.gaussian = gaussian(), args.post = static_cast<A>(post);
    return args;
  }

  void forward(const Tokens& query, const Tokens& key, const Tokens& value, const Tensor& out,
               const Tensor& lse) const {
    auto args = arguments(query.operand<T>(), key.operand<T>(), value.operand<T>(), out, mean());
    args.lse = static_cast<A*>(lse.data_ptr());
    const Plan<M> plan(args, sizes.batch, choices, most_shared(device));
    launch(attention_kernel<M>, plan.grid, plan.block, plan.bytes, device, plan.args);
  }

  // One gradient: weights of `of` (whose rows it has) by `by`; slopes[0] belongs to `of` and slopes[1] to `by`.
  // `statistics`: lse, delta and rest of queries, which are the columns for other gradients than theirs.
  void gradient(const Tokens& of, const Tokens& by, const Tokens* const (&slopes)[2], Operand<T> values,
                const Tensor& to, bool by_column, A* const (&statistics)[kStatistics]) const {
    auto args = arguments(of.operand<T>(), by.operand<T>(), values, to, !gaussian() ? mean() : slopes[0] ? scale : 1.0);
    if (slopes[0]) args.rows[1] = slopes[0]->operand<T>(), args.columns[1] = slopes[1]->operand<T>();
    args.lse = statistics[0], args.delta = slopes[0] ? statistics[1] : nullptr, args.rest = statistics[2];
    args.by_column = by_column;
    const Plan<M> plan(args, sizes.batch, choices, most_shared(device));
    launch(attention_backward_kernel<M>, plan.grid, plan.block, plan.bytes, device, plan.args);
  }

  void backward(const Tokens& query, const Tokens& key, const Tokens& value, const Tokens& grad, const Tensor& out,
                const Tensor (&statistics)[kStatistics], const Tensor (&gradients)[3]) const {
    A* of_queries[kStatistics] = {};
    if (gaussian()) {
      for (int i = 0; i < kStatistics; ++i) of_queries[i] = static_cast<A*>(statistics[i].data_ptr());
      const int64_t rows = sizes.batch * sizes.queries;
      launch(attention_delta_kernel<T>, dim3(static_cast<uint32_t>((rows + kAttentionWarps - 1) / kAttentionWarps)),
             dim3(kAttentionThreads), 0, device, grad.operand<T>().data, static_cast<const T*>(out.data_ptr()), rows,
             static_cast<int32_t>(sizes.values), of_queries[1]);
      Operand<T> none = key.operand<T>();
      none.width = 0;
      gradient(query, key, {&grad, &value}, none, gradients[0], false, of_queries);
    }
    gradient(query, key, {&grad, &value}, key.values<T>(), gradients[0], false, of_queries);
    gradient(key, query, {&value, &grad}, query.values<T>(), gradients[1], true, of_queries);
    gradient(key, query, {nullptr, nullptr}, grad.operand<T>(), gradients[2], true, of_queries);
  }
};

// Calls f with the product that serves this dtype.
template <class F>
void with_product(const Tensor& query, AttentionKind kind, bool allow_tf32, F&& f) {
  dispatch_float(query.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (std::is_same_v<T, float>) {
      if (allow_tf32 && kind != AttentionKind::kConcatenation) return f(TypeTag<Mma<Tf32>>{});
    }
    f(TypeTag<Mma<T>>{});
  });
}

// One number a query, for softmax only.
Tensor empty_statistic(const Tensor& query, AttentionKind kind) {
  const ScalarType wide = query.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  if (kind != AttentionKind::kGaussian) return torch::stable::new_empty(query, {0}, wide);
  return torch::stable::new_empty(query, {query.size(0), query.size(1)}, wide);
}

// Query and key of a call; numbers that are to be added are vectors (a, 1) and (1, b), whose product is the sum.
std::pair<Tokens, Tokens> pairs_of(const Tensor& query, const Tensor& key, AttentionKind kind) {
  if (kind == AttentionKind::kConcatenation) return {{query, 1}, {key, 0}};
  return {{query}, {key}};
}

std::tuple<Tensor, Tensor> nonlocal_attention(Tensor query, Tensor key, Tensor value, int64_t kind, double scale,
                                              bool allow_tf32) {
  const DeviceScope device(query);
  const AttentionSizes sizes = check_attention(query, key, value, kind);
  const auto which = static_cast<AttentionKind>(kind);
  Tensor out = torch::stable::new_empty(query, {sizes.batch, sizes.queries, sizes.values});
  Tensor lse = empty_statistic(query, which);
  const auto [q, k] = pairs_of(query, key, which);
  with_product(query, which, allow_tf32, [&, &q = q, &k = k](auto tag) {
    const Call<typename decltype(tag)::type> call{device, sizes, which, scale, Choices::now(false)};
    call.forward(q, k, {value}, out, lse);
  });
  return {out, lse};
}

std::tuple<Tensor, Tensor, Tensor> nonlocal_attention_backward(Tensor grad, Tensor query, Tensor key, Tensor value,
                                                               Tensor out, Tensor lse, int64_t kind, double scale,
                                                               bool allow_tf32) {
  const DeviceScope device(query);
  const AttentionSizes sizes = check_attention_backward(grad, query, key, value, out, lse, kind);
  const auto which = static_cast<AttentionKind>(kind);
  const Tensor gradients[3] = {torch::stable::empty_like(query), torch::stable::empty_like(key),
                               torch::stable::empty_like(value)};
  const Tensor statistics[kStatistics] = {lse, empty_statistic(query, which), empty_statistic(query, which)};
  const auto [q, k] = pairs_of(query, key, which);
  with_product(query, which, allow_tf32, [&, &q = q, &k = k](auto tag) {
    const Call<typename decltype(tag)::type> call{device, sizes, which, scale, Choices::now(true)};
    call.backward(q, k, {value}, {grad}, out, statistics, gradients);
  });
  return {gradients[0], gradients[1], gradients[2]};
}

VIDOPS_LIBRARY_IMPL(VIDOPS_NAMESPACE, VIDOPS_CUDA_KEY, m) {
  m.impl("nonlocal_attention", TORCH_BOX(&nonlocal_attention));
  m.impl("nonlocal_attention_backward", TORCH_BOX(&nonlocal_attention_backward));
}

}  // namespace
}  // namespace vidops
