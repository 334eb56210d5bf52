"""Backward kernels of attention over tokens; ``nonlocal_attention.py`` states the idea.

Of B items, M_BLOCK of so many tokens are a program's own, at ``token``; it walks those that they are paired with,
N_BLOCK at a time. Products are made of slices of D_SLICE and E_SLICE elements; where WHOLE these are all there are.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ._attention_tiles import (
    GAUSSIAN,
    LIFT,
    SUM,
    column,
    each,
    factor_of,
    fit,
    gaussian,
    lowest,
    mm,
    nothing,
    own,
    pairs,
    place,
    power_of_two,
    rectified,
    row,
    store,
    tile,
)
from ._bilinear import divide
from ._device import narrow, sum_along

__all__ = [
    "nonlocal_attention_sums_kernel",
    "nonlocal_attention_tokens_kernel",
    "nonlocal_attention_values_kernel",
]


@triton.jit(do_not_specialize=["L", "K", "tiles"])
def nonlocal_attention_sums_kernel(
    query, key, grad, value, out, lse, delta, mean, part, scale, L, K, tiles,
    D: tl.constexpr, E: tl.constexpr, KIND: tl.constexpr, SCALE: tl.constexpr, EXACT: tl.constexpr,
    EVEN: tl.constexpr, PRECISION: tl.constexpr, WHOLE: tl.constexpr, M_BLOCK: tl.constexpr, N_BLOCK: tl.constexpr,
    D_SLICE: tl.constexpr, E_SLICE: tl.constexpr,
):  # fmt: skip
    """What softmax' gradient takes from all keys: the mean of the weights' gradients, and what weights lack to one.

    The weights are of M_BLOCK queries. lse is rounded, and one unit of it is a unit of weights times lse: all of them
    at logits of 1e8. Where EXACT the mean is that of the differences from ``delta``, the product of the result with
    its gradient, which is near it: what is left of sums of one sign is not rounded as they are.
    """
    WIDE: tl.constexpr = query.dtype.element_ty == tl.float64
    factor = factor_of(query, scale, SCALE)
    item, _first, token, left = place(L, tiles, 1, M_BLOCK, 0)
    query += token * D
    grad += token * E
    q = own(query, left, KIND, WHOLE, D, M_BLOCK, D_SLICE)
    g = own(grad, left, GAUSSIAN, WHOLE, E, M_BLOCK, E_SLICE)
    sums = column(lse + token, left, M_BLOCK)
    mass = nothing(query, M_BLOCK, 1)
    total, base = mass, mass
    if EXACT:
        for first in range(0, E, E_SLICE):
            y = tile(out + token * E, left, first, E, M_BLOCK, E_SLICE, False)
            base += sum_along(y * tile(grad, left, first, E, M_BLOCK, E_SLICE, False), 1)
        base = tl.where(tl.abs(base) < float("inf"), base, 0)
        store(delta + token, base, left, 0, 1, M_BLOCK, 1)
    for begin in range(0, K, N_BLOCK):
        rest = K - begin
        there = item * K + begin
        s, _ = pairs(
            q, query, key + there * D, left, rest, KIND, WHOLE, D, D_SLICE, M_BLOCK, N_BLOCK, EVEN, PRECISION
        )  # fmt: skip
        dp, _ = pairs(
            g, grad, value + there * E, left, rest, GAUSSIAN, WHOLE, E, E_SLICE, M_BLOCK, N_BLOCK, EVEN, PRECISION
        )  # fmt: skip
        p = gaussian(s, sums, factor)
        if not EVEN:
            p = tl.where(tl.arange(0, N_BLOCK)[None, :] < rest, p, 0)
        mass += sum_along(p, 1)
        total += sum_along(p * (dp - base if EXACT else dp), 1)
    store(mean + token, divide(total, mass, WIDE), left, 0, 1, M_BLOCK, 1)
    store(part + token, divide(nothing(query, M_BLOCK, 1) + 1, mass, WIDE), left, 0, 1, M_BLOCK, 1)


@triton.jit(do_not_specialize=["L", "K", "count", "tiles", "parts"])
def nonlocal_attention_tokens_kernel(
    x, others, gx, gothers, lse, delta, mean, part, dx, scale, L, K, count, tiles, parts,
    D: tl.constexpr, E: tl.constexpr, KIND: tl.constexpr, SCALE: tl.constexpr, EXACT: tl.constexpr,
    EVEN: tl.constexpr, PRECISION: tl.constexpr, WHOLE: tl.constexpr, KEYS: tl.constexpr, M_BLOCK: tl.constexpr,
    N_BLOCK: tl.constexpr, D_SLICE: tl.constexpr, E_SLICE: tl.constexpr, D_BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient of M_BLOCK of the L tokens ``x``, D_BLOCK of their elements, from the K ``others``.

    The products of ``gx`` and ``gothers`` are the gradients of weights: of queries these are the gradients of results,
    and values; where KEYS they are exchanged, as everything is, and lse, delta, mean and part are the others'.
    """
    item, first, token, left = place(L, tiles, parts, M_BLOCK, D_BLOCK)
    x += token * D
    gx += token * E
    factor = factor_of(x, scale, SCALE)
    SHORT: tl.constexpr = x.dtype.element_ty == tl.float16 and KIND != SUM
    if KIND == GAUSSIAN and not KEYS:
        sums, middle = column(lse + token, left, M_BLOCK), column(mean + token, left, M_BLOCK)
        if EXACT:
            base = column(delta + token, left, M_BLOCK)
    a = own(x, left, KIND, WHOLE, D, M_BLOCK, D_SLICE)
    ga = own(gx, left, GAUSSIAN, WHOLE, E, M_BLOCK, E_SLICE)
    total = nothing(x, M_BLOCK, 1 if KIND == SUM else D_BLOCK)
    level = lowest(M_BLOCK)
    for begin in range(0, K, N_BLOCK):
        rest = K - begin
        there = item * K + begin
        s, b = pairs(
            a, x, others + there * D, left, rest, KIND, WHOLE, D, D_SLICE, M_BLOCK, N_BLOCK, EVEN, PRECISION
        )  # fmt: skip
        ds, _ = pairs(
            ga, gx, gothers + there * E, left, rest, GAUSSIAN, WHOLE, E, E_SLICE, M_BLOCK, N_BLOCK, EVEN, PRECISION
        )  # fmt: skip
        if KIND == GAUSSIAN and KEYS:
            if EXACT:
                ds = ds - row(delta + there, rest, N_BLOCK)
            ds = (ds - row(mean + there, rest, N_BLOCK)) * row(part + there, rest, N_BLOCK)
            ds = gaussian(s, row(lse + there, rest, N_BLOCK), factor) * ds
        elif KIND == GAUSSIAN:
            if EXACT:
                ds = ds - base
            ds = gaussian(s, sums, factor) * (ds - middle)
        else:
            ds = tl.where(s <= 0, 0, ds)
        if not EVEN:
            ds = tl.where(tl.arange(0, N_BLOCK)[None, :] < rest, ds, 0)
        if KIND == SUM:
            total += sum_along(ds, 1)
        else:
            if not WHOLE:
                b = tile(others + there * D, rest, first, D, N_BLOCK, D_BLOCK, EVEN)
            if SHORT:
                ds, total, level = fit(ds, total, level)
            total = mm(narrow(ds, x.dtype.element_ty), b, total, PRECISION)
    if SHORT:
        total = total * power_of_two(level - LIFT)
    total = total * (factor if KIND == GAUSSIAN else each(x, count, 1))
    if KIND == GAUSSIAN and not KEYS:
        total = total * column(part + token, left, M_BLOCK)  # here it takes no register of the loop's
    total = narrow(total, dx.dtype.element_ty)
    store(dx + token * D, total, left, first, D, M_BLOCK, 1 if KIND == SUM else D_BLOCK)


@triton.jit(do_not_specialize=["L", "K", "tiles", "parts"])
def nonlocal_attention_values_kernel(
    query, key, grad, lse, part, dv, scale, L, K, tiles, parts,
    D: tl.constexpr, E: tl.constexpr, KIND: tl.constexpr, SCALE: tl.constexpr,
    EVEN: tl.constexpr, PRECISION: tl.constexpr, WHOLE: tl.constexpr, M_BLOCK: tl.constexpr, N_BLOCK: tl.constexpr,
    D_SLICE: tl.constexpr, E_BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient of M_BLOCK values, E_BLOCK of their elements; matrices of pairs have a row a key.

    Weights of softmax, at most 1 and 1 / K at the mean, are lifted by MORE into fp16's range.
    """
    MORE: tl.constexpr = 16384.0 if query.dtype.element_ty == tl.float16 else 1.0
    factor = factor_of(query, scale, SCALE)
    item, first, token, left = place(K, tiles, parts, M_BLOCK, E_BLOCK)
    key += token * D
    k = own(key, left, KIND, WHOLE, D, M_BLOCK, D_SLICE)
    total = nothing(query, M_BLOCK, E_BLOCK)
    for begin in range(0, L, N_BLOCK):
        rest = L - begin
        there = item * L + begin
        s, _ = pairs(
            k, key, query + there * D, left, rest, KIND, WHOLE, D, D_SLICE, M_BLOCK, N_BLOCK, EVEN, PRECISION
        )  # fmt: skip
        if KIND == GAUSSIAN:
            p = gaussian(s, row(lse + there, rest, N_BLOCK), factor)
            p = p * (row(part + there, rest, N_BLOCK) * MORE)
        else:
            p = rectified(s)
        if not EVEN:
            p = tl.where(tl.arange(0, N_BLOCK)[None, :] < rest, p, 0)
        g = tile(grad + there * E, rest, first, E, N_BLOCK, E_BLOCK, EVEN)
        total = mm(narrow(p, g.dtype), g, total, PRECISION)
    total = total * ((1 / MORE) if KIND == GAUSSIAN else each(query, K, 2))
    store(dv + token * E, narrow(total, dv.dtype.element_ty), left, first, E, M_BLOCK, E_BLOCK)
