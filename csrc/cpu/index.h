// Places along three axes, in the order of memory.
#pragma once

#include <cstdint>

namespace vidops {

// The item-th of all (outer, middle, inner), inner fastest: walked without a division a step.
struct Index {
  int64_t inner_size, middle_size, outer, middle, inner;

  Index(int64_t item, int64_t middle_size, int64_t inner_size)
      : inner_size(inner_size),
        middle_size(middle_size),
        outer(item / (middle_size * inner_size)),
        middle(item / inner_size % middle_size),
        inner(item % inner_size) {}
  void next() {
    if (++inner < inner_size) return;
    inner = 0;
    if (++middle < middle_size) return;
    middle = 0, ++outer;
  }
};

}  // namespace vidops
