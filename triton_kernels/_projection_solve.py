"""Least squares of a tile of pixels, as temporal_projection's kernels share it.

Tiles have four axes, [D, T, P, C]: columns of the basis, frames, pixels and channels; an axis of which a quantity does
not depend has one element. What is beyond D, T, the frame or the channels is zero in ``a`` and ``x``.
"""

from __future__ import annotations

import triton.language as tl

from ._bilinear import between, divide
from ._device import INTERPRETED, device, narrow, sum_along, widen

__all__ = [
    "along",
    "blend",
    "factor",
    "grid_rows",
    "image",
    "invert",
    "mix",
    "pixels",
    "read",
    "root",
    "solve",
    "write",
]


@device
def along(SIZE: tl.constexpr, AXIS: tl.constexpr):
    """Indices along one of the four axes."""
    i = tl.arange(0, SIZE)
    if AXIS == 0:
        i = i[:, None, None, None]
    elif AXIS == 1:
        i = i[None, :, None, None]
    elif AXIS == 2:
        i = i[None, None, :, None]
    else:
        i = i[None, None, None, :]
    return i


@device
def pixels(first, end, strip, W, P_BLOCK: tl.constexpr, W_BLOCK: tl.constexpr):
    """Rows and columns of a tile's pixels from row ``first`` on, and which of them there are before row ``end``."""
    p = along(P_BLOCK, 2)
    row = first + p // W_BLOCK
    column = strip * W_BLOCK + p % W_BLOCK
    return row, column, (row < end) & (column < W)


@device
def image(pointer, steps, n, c, t, p, LAST: tl.constexpr, FAR: tl.constexpr):
    """Addresses of positions p in frames t of channels c of clip n; channels or positions are adjacent.

    With FAR, offsets within a clip pass 32 bits.
    """
    if FAR:
        c, t, p = c.to(tl.int64), t.to(tl.int64), p.to(tl.int64)
    offset = c + t * steps[2] + p * steps[3] if LAST else c * steps[1] + t * steps[2] + p
    return pointer + n * steps[0] + offset


@device
def read(pointer, steps, n, c, t, p, own, LAST: tl.constexpr, FAR: tl.constexpr):
    """What is at ``image``'s addresses, in accumulation type; zero where it is not ``own``."""
    return widen(tl.load(image(pointer, steps, n, c, t, p, LAST, FAR), mask=own, other=0))


@device
def write(pointer, steps, n, c, t, p, value, own, LAST: tl.constexpr, FAR: tl.constexpr):
    """Round a value and store it at ``image``'s addresses."""
    value = narrow(value, pointer.dtype.element_ty)
    tl.store(image(pointer, steps, n, c, t, p, LAST, FAR), value, mask=own)


@device
def grid_rows(
    basis, n, low, column, W, h, w,
    T: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr, FAR: tl.constexpr, D_BLOCK: tl.constexpr,
    T_BLOCK: tl.constexpr,
):  # fmt: skip
    """Rows ``low`` of the grid and the next one at columns of the frame, [D, T, P, 1] each."""
    d = along(D_BLOCK, 0)
    t = along(T_BLOCK, 1)
    inside = (column < W) & (d < D) & (t < T)
    left, right, across = between(column, w, W, WIDE)
    entry = t * D + d
    if FAR:
        entry = entry.to(tl.int64)
    at = basis + n * (T * D) * (h * w) + (entry * (h * w) + low * w)
    upper = widen(tl.load(at + left, mask=inside, other=0)) * (1 - across)
    upper += widen(tl.load(at + right, mask=inside, other=0)) * across
    at += tl.where(low + 1 < h, w, 0)
    under = widen(tl.load(at + left, mask=inside, other=0)) * (1 - across)
    under += widen(tl.load(at + right, mask=inside, other=0)) * across
    return upper, under


@device
def blend(upper, under, share, level, inside):
    """The matrices of pixels between two rows of the grid; on a level with the upper one the lower does not count."""
    return tl.where(inside, tl.where(level, upper, upper * (1 - share) + under * share), 0)


@device
def factor(
    a, inside, RIDGE: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr, D_BLOCK: tl.constexpr, P_BLOCK: tl.constexpr
):  # fmt: skip
    """L below its diagonal, [D, D, P, 1], and 1 / pivots, [D, 1, P, 1], of AtA + RIDGE I = L diag(pivots) Lt.

    No pivot is truly less than the ridge; one that is, by rounding, is set to it. Where there is no pixel, it is 1.
    """
    lower = tl.full((D_BLOCK, D_BLOCK, P_BLOCK, 1), 0, a.dtype)
    inverse = tl.full((D_BLOCK, 1, P_BLOCK, 1), 0, a.dtype)
    one = tl.full((1, 1, P_BLOCK, 1), 1, a.dtype)
    ridge = tl.where(inside, one * RIDGE, one)
    if D_BLOCK == 1:
        inverse = divide(one, sum_along(a * a, 1) + ridge, WIDE)
    else:
        i = along(D_BLOCK, 0)
        j = along(D_BLOCK, 1)
        pivots = tl.full((1, D_BLOCK, P_BLOCK, 1), 0, a.dtype)
        for k in range(D):
            own = sum_along(tl.where(i == k, a, 0), 0)
            row = sum_along(tl.where(i == k, lower, 0), 0)
            entries = sum_along(a * own, 1) - sum_along(lower * (row * pivots), 1)
            pivot = sum_along(tl.where(i == k, entries, 0), 0) + ridge
            pivot = tl.where(pivot < ridge, ridge, pivot)
            reciprocal = divide(one, pivot, WIDE)
            lower = tl.where((j == k) & (i > k), entries * reciprocal, lower)
            pivots = tl.where(j == k, pivot, pivots)
            inverse = tl.where(i == k, reciprocal, inverse)
    return lower, inverse


@device
def substitute(lower, inverse, y, D: tl.constexpr, D_BLOCK: tl.constexpr):
    """(AtA + RIDGE I)^-1 y for the factors of the matrix; y is [D, 1, P, C].

    What infinities and NaN turn into is as in the reference: a product is left out where the factor has no entry.
    """
    if D_BLOCK > 1:
        i = along(D_BLOCK, 0)
        j = along(D_BLOCK, 1)
        y = tl.where(i < D, y, 0)
        for k in range(D - 1):
            entries = sum_along(tl.where(j == k, lower, 0), 1)
            own = sum_along(tl.where(i == k, y, 0), 0)
            y = tl.where((i > k) & (i < D), y - entries * own, y)
    y = y * inverse
    if D_BLOCK > 1:
        for back in range(D - 1):
            k = D - 2 - back
            entries = sum_along(tl.where(j == k, lower, 0), 1)
            rest = sum_along(tl.where((i > k) & (i < D), entries * y, 0), 0)
            y = tl.where(i == k, y - rest, y)
    return y


@device
def mix(a, y, D_BLOCK: tl.constexpr):
    """A y, [1, T, P, C]."""
    mixed = a * y
    if D_BLOCK > 1:
        mixed = sum_along(mixed, 0)
    return mixed


@device
def improve(y, missing):
    """The sum; where that which is missing is not finite, the first answer stands."""
    return tl.where(tl.abs(missing) < float("inf"), y + missing, y)


@device
def invert(a, lower, inverse, g, RIDGE: tl.constexpr, D: tl.constexpr, D_BLOCK: tl.constexpr):
    """v = (AtA + RIDGE I)^-1 g, [D, 1, P, C], as exactly as :func:`solve` does it."""
    v = substitute(lower, inverse, g, D, D_BLOCK)
    if D_BLOCK > 1:
        missing = g - sum_along(a * mix(a, v, D_BLOCK), 1) - RIDGE * v
        v = improve(v, substitute(lower, inverse, missing, D, D_BLOCK))
    return v


@device
def solve(
    a, lower, inverse, x,
    RIDGE: tl.constexpr, T: tl.constexpr, D: tl.constexpr, D_BLOCK: tl.constexpr, T_BLOCK: tl.constexpr,
):  # fmt: skip
    """y = (AtA + RIDGE I)^-1 At x, [D, 1, P, C], and x - A y, [1, T, P, C].

    More columns than one are solved for once again with what the residual says is still missing, for AtA has the square
    of A's condition.
    """
    y = substitute(lower, inverse, sum_along(a * x, 1), D, D_BLOCK)
    p = x - mix(a, y, D_BLOCK)
    if D_BLOCK > 1:
        missing = sum_along(a * p, 1) - RIDGE * y
        y = improve(y, substitute(lower, inverse, missing, D, D_BLOCK))
        p = x - mix(a, y, D_BLOCK)
    if T < T_BLOCK:
        p = tl.where(along(T_BLOCK, 1) < T, p, 0)
    return y, p


@device
def root(squares, WIDE: tl.constexpr):
    """The square root, correctly rounded."""
    return tl.sqrt(squares) if WIDE or INTERPRETED else tl.math.sqrt_rn(squares)
