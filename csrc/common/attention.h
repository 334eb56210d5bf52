// Kinds and sizes of nonlocal_attention over tokens, and what its kernels rely on. The public Python function has
// checked a call already, with better messages; these guard calls of the registered operators themselves.
#pragma once

#include "common/clip.h"

namespace vidops {

enum class AttentionKind : int64_t { kGaussian, kCosine, kConcatenation };

struct AttentionSizes {
  int64_t batch, queries, keys, channels, values;  // B, L, L', D, E
};

inline void check_tokens(const Tensor& tokens, const char* name, const Tensor& query) {
  STD_TORCH_CHECK(tokens.dim() == 3 && tokens.is_contiguous(), name, " must be contiguous tokens (B, L, C)");
  STD_TORCH_CHECK(tokens.scalar_type() == query.scalar_type(), name, " must have the dtype of query");
  STD_TORCH_CHECK(tokens.get_device() == query.get_device(), name, " must be on the device of query");
}

inline AttentionSizes check_attention(const Tensor& query, const Tensor& key, const Tensor& value, int64_t kind) {
  STD_TORCH_CHECK(kind >= 0 && kind <= 2, "kind must be 0, 1 or 2, got ", kind);
  check_tokens(query, "query", query);
  check_tokens(key, "key", query);
  check_tokens(value, "value", query);
  const AttentionSizes s{query.size(0), query.size(1), key.size(1), query.size(2), value.size(2)};
  STD_TORCH_CHECK(key.size(0) == s.batch && key.size(2) == s.channels, "key must have shape (B, L', D)");
  STD_TORCH_CHECK(value.size(0) == s.batch && value.size(1) == s.keys, "value must have shape (B, L', E)");
  STD_TORCH_CHECK(s.batch > 0 && s.queries > 0 && s.keys > 0 && s.channels > 0 && s.values > 0,
                  "query, key and value must not be empty");
  STD_TORCH_CHECK(kind != 2 || s.channels == 1, "query must have one channel with kind 2, got ", s.channels);
  return s;
}

inline AttentionSizes check_attention_backward(const Tensor& grad, const Tensor& query, const Tensor& key,
                                               const Tensor& value, const Tensor& out, const Tensor& lse,
                                               int64_t kind) {
  const AttentionSizes s = check_attention(query, key, value, kind);
  for (const auto& [tensor, name] : {std::pair(&grad, "grad"), std::pair(&out, "out")}) {
    check_tokens(*tensor, name, query);
    STD_TORCH_CHECK(tensor->size(0) == s.batch && tensor->size(1) == s.queries && tensor->size(2) == s.values, name,
                    " must have shape (B, L, E)");
  }
  const ScalarType wide = query.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(lse.scalar_type() == wide && lse.is_contiguous(), "lse must be contiguous, float32 or float64");
  STD_TORCH_CHECK(lse.get_device() == query.get_device(), "lse must be on the device of query");
  STD_TORCH_CHECK(kind != 0 || lse.numel() == s.batch * s.queries, "lse must have shape (B, L)");
  return s;
}

}  // namespace vidops
