// nonlocal_attention on the CPU: blocks of queries against blocks of keys, as products of matrices in the cache.
//
// Floor: L L' (D + E) multiply-adds forward, 5/2 of that backward at D = E; at L = 6272 every byte is used thousands of
// times. A library's matrix product runs at half of what a core with AVX-512 can do where it stays with AVX2, so the
// products are our own (block_product.h).
//
// A tile of products has keys as rows and queries as columns: for that the queries alone are transposed, once for all
// keys, and a softmax goes down the lanes. Forward, a block of queries meets one block of keys after the other; a
// thread has whole blocks of queries. Backward, the tiles of a block of queries and all keys are kept: the threads
// share the blocks of keys, whose gradients grow by one block of queries at a time, then the block's queries. So no
// product is done twice, and no sum depends on who did it: 5 L L' D multiply-adds, and 2 x 192 L' numbers of scratch.
//
// Weights of softmax are found again from lse; as that is rounded, they are divided by their sum once more.
// Concatenation's a_i + b_j is the product of (a_i, 1) and (1, b_j), and then cosine's.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cmath>
#include <vector>

#include "common/attention.h"
#include "common/namespace.h"
#include "cpu/attention_weights.h"
#include "cpu/block_product.h"
#include "cpu/channel_vectors.h"

namespace vidops {
namespace {

constexpr int64_t kQueries = 192, kKeys = 256;    // of a tile, at most
constexpr int64_t kTiles = int64_t{1} << 22;      // numbers in the tiles of a block of queries, backward
constexpr int64_t kSmallWork = int64_t{1} << 17;  // multiply-adds that are not worth a thread

template <class A>
struct Tokens {
  const A *query, *key, *value;
  AttentionSizes n;
  bool softmax, paired;  // paired: the channels are (a, 1) and (1, b)
  A scale;               // of products with softmax, of weights otherwise

  Tokens of(int64_t b) const {
    return {query + b * n.queries * n.channels,
            key + b * n.keys * n.channels,
            value + b * n.keys * n.values,
            n,
            softmax,
            paired,
            scale};
  }
};

// `total` in so many parts of equal size, a multiple of `unit`, that none is larger than `most`: that size.
int64_t part_of(int64_t total, int64_t most, int64_t parts, int64_t unit) {
  parts = std::max((total + most - 1) / most, parts);
  return std::min(round_up((total + parts - 1) / parts, unit), round_up(total, unit));
}

// Rows become columns, `step` apart; columns up to a whole vector are zero.
template <class A>
void transpose_rows(const A* from, int64_t rows, int64_t columns, A* to, int64_t step) {
  constexpr int lanes = kLanes<A>;
  for (int64_t r = 0; r < rows; r += lanes) {
    for (int64_t c = 0; c < columns; c += lanes) {
      Vec<A> block[lanes];
#pragma GCC unroll 16
      for (int l = 0; l < lanes; ++l) {
        block[l] = r + l < rows ? load_part(from + (r + l) * columns + c, columns - c) : Vec<A>{};
      }
      transpose<A>(block);
#pragma GCC unroll 16
      for (int l = 0; l < lanes; ++l) {
        if (c + l < columns) store(to + (c + l) * step + r, block[l]);
      }
    }
  }
}

template <class A>
void scale_rows(A* rows, int64_t count, int64_t columns, const A* factors) {
  for (int64_t i = 0; i < count; ++i, rows += columns) {
    if (factors[i] == 1) continue;
    for (int64_t e = 0; e < columns; e += kLanes<A>) {
      store_part(rows + e, load_part(rows + e, columns - e) * factors[i], columns - e);
    }
  }
}

// What a thread keeps of one block of queries.
template <class A>
struct Rows {
  Rows(int64_t channels, int64_t most)
      : step(most), turned(channels * step), tile(kKeys * step), top(step), total(step), factor(step) {}
  int64_t step;
  Scratch<A> turned, tile, top, total, factor;
};

template <class A>
void forward_rows(const Tokens<A>& t, int64_t first, int64_t count, const Rows<A>& rows, A* out, A* lse) {
  const int64_t width = round_up(count, kLanes<A>), step = rows.step, d = t.n.channels, e = t.n.values;
  A* const tile = rows.tile.get();
  out += first * e;
  transpose_rows(t.query + first * d, count, d, rows.turned.get(), step);
  std::fill_n(rows.top.get(), step, -std::numeric_limits<A>::infinity());
  std::fill_n(rows.total.get(), step, A(0));
  for (int64_t j = 0; j < t.n.keys; j += kKeys) {
    const int64_t keys = std::min(kKeys, t.n.keys - j);
    const Tile<A> block{tile, step, keys, width / kLanes<A>};
    multiply(Block<A>{t.key + j * d, d}, Block<A>{rows.turned.get(), step}, tile, step, keys, d, width, false);
    if (t.softmax) {
      softmax_tile(block, t.scale, rows.top.get(), rows.total.get(), rows.factor.get());
      if (j > 0) scale_rows(out, count, e, rows.factor.get());
    } else {
      relu_tile(block, t.scale);
    }
    multiply(Block<A, true>{tile, step}, Block<A>{t.value + j * e, e}, out, e, count, keys, e, j > 0);
  }
  if (!t.softmax) return;
  for (int64_t i = 0; i < count; ++i) {
    lse[first + i] = rows.top.get()[i] + std::log(rows.total.get()[i]);
    rows.factor.get()[i] = 1 / rows.total.get()[i];
  }
  scale_rows(out, count, e, rows.factor.get());
}

template <class A>
void forward(const Tokens<A>& tokens, A* out, A* lse) {
  const AttentionSizes& n = tokens.n;
  // More blocks than tiles ask for where one clip would leave threads idle; no result depends on their number.
  const int64_t few = std::min<int64_t>(n.queries / 32, 8 / n.batch);
  const int64_t size = part_of(n.queries, kQueries, few, kLanes<A>), blocks = (n.queries + size - 1) / size;
  const int64_t work = size * n.keys * (n.channels + n.values);
  torch::stable::parallel_for(0, n.batch * blocks, kSmallWork / work + 1, [&](int64_t begin, int64_t end) {
    const Rows<A> rows(n.channels, size);
    for (int64_t k = begin; k < end; ++k) {
      const int64_t b = k / blocks, first = k % blocks * size;
      forward_rows(tokens.of(b), first, std::min(size, n.queries - first), rows, out + b * n.queries * n.values,
                   lse + (tokens.softmax ? b * n.queries : 0));
    }
  });
}

// Gradients of one batch entry, from that of its result.
template <class A>
class Backward {
 public:
  Backward(const Tokens<A>& tokens, const A* grad, const A* out, const A* lse, A* dq, A* dk, A* dv)
      : t_(tokens),
        d_(t_.n.channels),
        e_(t_.n.values),
        grad_(grad),
        out_(out),
        lse_(lse),
        dq_(dq),
        dk_(dk),
        dv_(dv),
        rows_(part_of(t_.n.queries, std::clamp(kTiles / t_.n.keys / 32 * 32, int64_t{32}, kQueries), 1, kLanes<A>)),
        keys_(part_of(t_.n.keys, kKeys, std::min<int64_t>(t_.n.keys / 32, 4), 1)),
        blocks_((t_.n.keys + keys_ - 1) / keys_),
        turned_(d_ * rows_),
        turned_grad_(e_ * rows_),
        weights_(t_.n.keys * rows_),
        slopes_(t_.n.keys * rows_),
        totals_(2 * blocks_ * rows_),
        from_(2 * rows_),
        sums_(t_.paired ? t_.n.keys : 0, 0.0) {}

  void run() {
    for (first_ = 0; first_ < t_.n.queries; first_ += rows_) {
      count_ = std::min(rows_, t_.n.queries - first_);
      width_ = round_up(count_, kLanes<A>);
      transpose_rows(t_.query + first_ * d_, count_, d_, turned_.get(), rows_);
      transpose_rows(grad_ + first_ * e_, count_, e_, turned_grad_.get(), rows_);
      if (t_.softmax) {
        set_bases();
        each_block([&](const Tile<A>& tile, int64_t j, int64_t block) {
          multiply_pairs(tile, j);
          weigh_again(tile, slopes(j), t_.scale, from_.get(), from_.get() + rows_, totals_.get() + 2 * block * rows_);
        });
        sum_totals();
      }
      each_block([&](const Tile<A>& tile, int64_t j, int64_t) {
        if (t_.softmax) {
          softmax_slopes(tile, slopes(j), t_.scale, totals_.get(), totals_.get() + rows_);
        } else {
          multiply_pairs(tile, j);
          relu_slopes(tile, slopes(j), t_.scale);
        }
        const bool add = first_ > 0;
        multiply(Block<A>{tile.data, rows_}, Block<A>{grad_ + first_ * e_, e_}, dv_ + j * e_, e_, tile.keys, count_, e_,
                 add);
        if (t_.paired) return add_over_queries(Tile<A>{slopes(j), rows_, tile.keys, tile.vectors}, &sums_[j]);
        multiply(Block<A>{slopes(j), rows_}, Block<A>{t_.query + first_ * d_, d_}, dk_ + j * d_, d_, tile.keys, count_,
                 d_, add);
      });
      find_query_gradients();
    }
    std::copy(sums_.begin(), sums_.end(), dk_);
  }

 private:
  A* slopes(int64_t j) const { return slopes_.get() + j * rows_; }

  // f(tile, its first key, its number), by several threads unless a thread has this batch entry for itself.
  template <class F>
  void each_block(F&& f) const {
    const int64_t work = keys_ * rows_ * (d_ + e_);
    torch::stable::parallel_for(0, blocks_, kSmallWork / work + 1, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        const int64_t j = k * keys_;
        const Tile<A> tile{weights_.get() + j * rows_, rows_, std::min(keys_, t_.n.keys - j), width_ / kLanes<A>};
        f(tile, j, k);
      }
    });
  }

  // The products of a tile, and the gradients of its weights.
  void multiply_pairs(const Tile<A>& tile, int64_t j) const {
    multiply(Block<A>{t_.key + j * d_, d_}, Block<A>{turned_.get(), rows_}, tile.data, rows_, tile.keys, d_, width_,
             false);
    multiply(Block<A>{t_.value + j * e_, e_}, Block<A>{turned_grad_.get(), rows_}, slopes(j), rows_, tile.keys, e_,
             width_, false);
  }

  void find_query_gradients() const {
    constexpr int64_t unit = 3 * kLanes<A>;
    static_assert(unit % kTileRows == 0);
    torch::stable::parallel_for(0, (count_ + unit - 1) / unit, 1, [&](int64_t begin, int64_t end) {
      const int64_t i = begin * unit, some = std::min(end * unit, count_) - i;
      A* const from = slopes_.get() + i;
      if (t_.paired) {
        sum_over_keys(Tile<A>{from, rows_, t_.n.keys, (some + kLanes<A> - 1) / kLanes<A>}, some, dq_ + first_ + i);
      } else {
        multiply(Block<A, true>{from, rows_}, Block<A>{t_.key, d_}, dq_ + (first_ + i) * d_, d_, some, t_.n.keys, d_,
                 false);
      }
    });
  }

  // What is subtracted: lse from products, and about the mean of their gradients from the weights' gradients.
  void set_bases() const {
    A *const lse = from_.get(), *const mean = lse + rows_;
    std::fill_n(lse, 2 * rows_, A(0));
    std::copy_n(lse_ + first_, count_, lse);
    for (int64_t i = 0; i < count_; ++i) {
      const A *const g = grad_ + (first_ + i) * e_, *const y = out_ + (first_ + i) * e_;
      Vec<A> sum{};
      for (int64_t e = 0; e < e_; e += kLanes<A>) sum += load_part(g + e, e_ - e) * load_part(y + e, e_ - e);
      const A base = static_cast<A>(sum_lanes(sum));
      mean[i] = std::isfinite(base) ? base : 0;
    }
  }

  // From the sums of all blocks to one over the sum of weights, and the mean of their gradients.
  void sum_totals() const {
    A *const share = totals_.get(), *const mean = share + rows_;
    for (int64_t i = 0; i < width_; ++i) {
      for (int64_t k = 1; k < blocks_; ++k) {
        share[i] += share[2 * k * rows_ + i];
        mean[i] += mean[2 * k * rows_ + i];
      }
      share[i] = 1 / share[i];
      mean[i] *= share[i];
    }
  }

  const Tokens<A> t_;
  const int64_t d_, e_;
  const A *const grad_, *const out_, *const lse_;
  A *const dq_, *const dk_, *const dv_;
  const int64_t rows_, keys_, blocks_;
  const Scratch<A> turned_, turned_grad_, weights_, slopes_, totals_, from_;
  std::vector<double> sums_;  // of slopes over queries, for paired ones
  int64_t first_ = 0, count_ = 0, width_ = 0;
};

template <class A>
void backward(const Tokens<A>& tokens, const A* grad, const A* out, const A* lse, A* dq, A* dk, A* dv) {
  const AttentionSizes& n = tokens.n;
  const int64_t channels = tokens.paired ? 1 : n.channels;
  const auto run = [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t at = b * n.queries * n.values;
      Backward<A>(tokens.of(b), grad + at, out + at, lse + (tokens.softmax ? b * n.queries : 0),
                  dq + b * n.queries * channels, dk + b * n.keys * channels, dv + b * n.keys * n.values)
          .run();
    }
  };
  const int64_t work = n.queries * n.keys * (n.channels + n.values);
  if (n.batch < 2 * static_cast<int64_t>(torch::stable::get_num_threads())) {
    run(0, n.batch);
  } else {
    torch::stable::parallel_for(0, n.batch, kSmallWork / work + 1, run);
  }
}

template <class A>
A* data_of(const Tensor& tensor) {
  return static_cast<A*>(tensor.data_ptr());
}

// (x, 1) or (1, x) of every x.
template <class A>
Tensor paired(const Tensor& x, bool first) {
  Tensor pairs = torch::stable::new_empty(x, {x.size(0), x.size(1), 2});
  A* to = data_of<A>(pairs);
  const A* from = data_of<A>(x);
  for (int64_t i = 0; i < x.numel(); ++i) to[2 * i] = first ? from[i] : A(1), to[2 * i + 1] = first ? A(1) : from[i];
  return pairs;
}

// f(A{}, A's dtype) with the type sums are in.
template <class F>
auto dispatch_sums(ScalarType dtype, F&& f) {
  return dtype == ScalarType::Double ? f(double{}, ScalarType::Double) : f(float{}, ScalarType::Float);
}

// Tokens in the type sums are in, and where they are.
template <class A>
struct Given {
  Given(const Tensor& query, const Tensor& key, const Tensor& value, ScalarType wide, const AttentionSizes& n,
        int64_t kind, double scale)
      : q(torch::stable::to(query, wide)), k(torch::stable::to(key, wide)), v(torch::stable::to(value, wide)) {
    const bool softmax = kind == static_cast<int64_t>(AttentionKind::kGaussian);
    const bool pairs = kind == static_cast<int64_t>(AttentionKind::kConcatenation);
    if (pairs) q = paired<A>(q, true), k = paired<A>(k, false);
    tokens = {data_of<A>(q),
              data_of<A>(k),
              data_of<A>(v),
              n,
              softmax,
              pairs,
              static_cast<A>(softmax ? scale : 1 / static_cast<double>(n.keys))};
    tokens.n.channels = q.size(2);
  }
  Tensor q, k, v;
  Tokens<A> tokens;
};

std::tuple<Tensor, Tensor> nonlocal_attention(Tensor query, Tensor key, Tensor value, int64_t kind, double scale,
                                              bool) {
  const AttentionSizes n = check_attention(query, key, value, kind);
  const ScalarType dtype = query.scalar_type();
  return dispatch_sums(dtype, [&](auto zero, ScalarType wide) {
    using A = decltype(zero);
    const Given<A> given(query, key, value, wide, n, kind, scale);
    Tensor out = torch::stable::new_empty(given.q, {n.batch, n.queries, n.values});
    Tensor lse =
        kind == 0 ? torch::stable::new_empty(given.q, {n.batch, n.queries}) : torch::stable::new_empty(given.q, {0});
    forward(given.tokens, data_of<A>(out), data_of<A>(lse));
    return std::make_tuple(torch::stable::to(out, dtype), lse);
  });
}

std::tuple<Tensor, Tensor, Tensor> nonlocal_attention_backward(Tensor grad, Tensor query, Tensor key, Tensor value,
                                                               Tensor out, Tensor lse, int64_t kind, double scale,
                                                               bool) {
  const AttentionSizes n = check_attention_backward(grad, query, key, value, out, lse, kind);
  const ScalarType dtype = query.scalar_type();
  return dispatch_sums(dtype, [&](auto zero, ScalarType wide) {
    using A = decltype(zero);
    const Given<A> given(query, key, value, wide, n, kind, scale);
    const Tensor g = torch::stable::to(grad, wide), y = torch::stable::to(out, wide);
    const auto gradient = [&](const Tensor& of) {
      return torch::stable::new_empty(given.v, {n.batch, of.size(1), of.size(2)});
    };
    const Tensor dq = gradient(query), dk = gradient(key), dv = gradient(value);
    backward(given.tokens, data_of<A>(g), data_of<A>(y), data_of<A>(lse), data_of<A>(dq), data_of<A>(dk),
             data_of<A>(dv));
    return std::make_tuple(torch::stable::to(dq, dtype), torch::stable::to(dk, dtype), torch::stable::to(dv, dtype));
  });
}

VIDOPS_LIBRARY_IMPL(VIDOPS_NAMESPACE, CPU, m) {
  m.impl("nonlocal_attention", TORCH_BOX(&nonlocal_attention));
  m.impl("nonlocal_attention_backward", TORCH_BOX(&nonlocal_attention_backward));
}

}  // namespace
}  // namespace vidops
