"""Forward kernel of attention over tokens; ``nonlocal_attention.py`` states the idea."""

from __future__ import annotations

import triton
import triton.language as tl

from ._attention_tiles import (
    GAUSSIAN,
    LOG2E,
    each,
    factor_of,
    max_along,
    mm,
    nothing,
    own,
    pairs,
    place,
    rectified,
    store,
    tile,
)
from ._bilinear import divide
from ._device import device, narrow, sum_along

__all__ = ["nonlocal_attention_kernel"]


@device
def _soften(
    s, inside, top, mass, total, scale,
    RISING: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Weights of a tile's pairs relative to the largest logit so far; what was summed before is brought down to it.

    Logits are products still where RISING; scale is positive then. The difference comes before the factor, see
    :func:`gaussian`.
    """
    if not RISING:
        s = s * scale
    if not EVEN:
        s = tl.where(inside, s, float("-inf"))
    high = tl.maximum(top, max_along(s, 1))
    level = tl.where(high == float("-inf"), 0, high)  # no weights so far, and no NaN of them
    p = tl.exp2((s - level) * (scale * LOG2E if RISING else LOG2E))
    fade = tl.exp2((top - level) * (scale * LOG2E if RISING else LOG2E))
    return p, high, mass * fade + sum_along(p, 1), total * fade


@triton.jit(do_not_specialize=["L", "K", "tiles", "parts"])
def nonlocal_attention_kernel(
    query, key, value, out, lse, scale, L, K, tiles, parts,
    D: tl.constexpr, E: tl.constexpr, KIND: tl.constexpr, SCALE: tl.constexpr, RISING: tl.constexpr,
    EVEN: tl.constexpr, PRECISION: tl.constexpr, WHOLE: tl.constexpr, M_BLOCK: tl.constexpr, N_BLOCK: tl.constexpr,
    D_SLICE: tl.constexpr, E_BLOCK: tl.constexpr,
):  # fmt: skip
    """Results of M_BLOCK queries, E_BLOCK of their elements; logits of D_SLICE at a time, all where WHOLE."""
    WIDE: tl.constexpr = query.dtype.element_ty == tl.float64
    factor = factor_of(query, scale, SCALE)
    item, first, token, left = place(L, tiles, parts, M_BLOCK, E_BLOCK)
    query += token * D
    q = own(query, left, KIND, WHOLE, D, M_BLOCK, D_SLICE)
    total = nothing(query, M_BLOCK, E_BLOCK)
    mass = nothing(query, M_BLOCK, 1)
    top = mass - float("inf")
    for begin in range(0, K, N_BLOCK):
        rest = K - begin
        inside = tl.arange(0, N_BLOCK)[None, :] < rest
        there = item * K + begin
        s, _ = pairs(
            q, query, key + there * D, left, rest, KIND, WHOLE, D, D_SLICE, M_BLOCK, N_BLOCK, EVEN, PRECISION
        )  # fmt: skip
        if KIND == GAUSSIAN:
            p, top, mass, total = _soften(s, inside, top, mass, total, factor, RISING, EVEN)
        else:
            p = rectified(s)
            if not EVEN:
                p = tl.where(inside, p, 0)
        v = tile(value + there * E, rest, first, E, N_BLOCK, E_BLOCK, EVEN)
        total = mm(narrow(p, v.dtype), v, total, PRECISION)
    if KIND == GAUSSIAN:
        total = divide(total, mass, WIDE)
        if first == 0:
            if RISING:
                top = top * factor
            sums = tl.log2(mass) * (1 / LOG2E) + top
            store(lse + token, sums, left, 0, 1, M_BLOCK, 1)
    else:
        total = total * each(query, K, 2)
    store(out + token * E, narrow(total, out.dtype.element_ty), left, first, E, M_BLOCK, E_BLOCK)
