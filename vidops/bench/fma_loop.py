"""fp32 multiply-adds and nothing else: eight independent chains a thread, held in registers."""

from __future__ import annotations

import triton
import triton.language as tl

ELEMENTS = 1024  # a program: 4 warps of 32 threads with 8 elements each
UNROLL = 64


@triton.jit  # type: ignore[untyped-decorator]
def fma_loop(out, scale, offset, turns, elements: tl.constexpr, unroll: tl.constexpr):  # type: ignore
    """Run ``turns * unroll`` multiply-adds on each of ``elements`` values a program, and store them."""
    index = tl.program_id(0) * elements + tl.arange(0, elements)
    value = index.to(tl.float32)
    for _ in range(turns):
        for _ in tl.static_range(unroll):
            value = value * scale + offset
    tl.store(out + index, value)
