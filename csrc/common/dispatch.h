// From a tensor's dtype to a template argument: the four floating dtypes every operator takes.
#pragma once

#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

namespace vidops {

template <class T>
struct TypeTag {
  using type = T;
};

// Calls f(TypeTag<T>{}) with the C++ type of `dtype`.
template <class F>
inline auto dispatch_float(torch::headeronly::ScalarType dtype, F&& f) {
  using torch::headeronly::ScalarType;
  switch (dtype) {
    case ScalarType::Float:
      return f(TypeTag<float>{});
    case ScalarType::Double:
      return f(TypeTag<double>{});
    case ScalarType::Half:
      return f(TypeTag<c10::Half>{});
    case ScalarType::BFloat16:
      return f(TypeTag<c10::BFloat16>{});
    default:
      STD_TORCH_CHECK(false, "dtype must be float32, float64, float16 or bfloat16");
  }
}

}  // namespace vidops
