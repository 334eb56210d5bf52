"""Device functions of attention's kernels: tiles of tokens, their products, weights of pairs.

Tokens are rows of WIDTH adjacent elements. A tile is ROWS of them and COLUMNS of each, from ``first`` on.
"""

from __future__ import annotations

import triton.language as tl

from ._bilinear import divide
from ._device import INTERPRETED, device, widen

__all__ = [
    "GAUSSIAN", "LIFT", "LOG2E", "SUM", "column", "each", "factor_of", "fit", "gaussian", "lowest", "max_along", "mm",
    "nothing", "own", "pairs", "place", "power_of_two", "rectified", "row", "store", "tile",
]  # fmt: skip

GAUSSIAN = tl.constexpr(0)  # softmax of the products of query and key
SUM = tl.constexpr(2)  # relu of their sums, of one number each; 1, between the two, is relu of their products
LOG2E = tl.constexpr(1.4426950408889634)
LIFT = tl.constexpr(
    14
)  # what is brought into fp16's range is below 2^15 there; it has all digits down to 2^-14
LEAST = tl.constexpr(
    27
)  # the exponent of 2^-100 as fp32 stores it, 127 more than it is; nothing is lifted by more


@device
def place(L, tiles, parts, M_BLOCK: tl.constexpr, BLOCK: tl.constexpr):
    """What a program owns: its item, its first element, its first token of all items, and how many are left from it.

    Programs are numbered by M_BLOCK tokens of ``tiles``, then by BLOCK elements of ``parts``, then by item.
    """
    program = tl.program_id(0)
    start = program % tiles * M_BLOCK
    first = program // tiles % parts * BLOCK
    item = (program // (tiles * parts)).to(tl.int64)
    return item, first, item * L + start, L - start


@device
def mm(a, b, total, PRECISION: tl.constexpr):
    """``total`` and the matrix product of a and b.

    The interpreter cannot multiply bf16. Its products are summed in fp64 and rounded then: on a GPU a product and its
    transpose have the same bits, in NumPy's fp32 they have not.
    """
    if INTERPRETED:
        result = tl.dot(a.to(tl.float64), b.to(tl.float64), total.to(tl.float64), out_dtype=tl.float64)
        result = result.to(total.dtype)
    else:
        result = tl.dot(a, b, total, input_precision=PRECISION, out_dtype=total.dtype)
    return result


@device
def nothing(pointer, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Sums to begin with, of what a pointer's numbers are added up in."""
    return widen(tl.full((ROWS, COLUMNS), 0, pointer.dtype.element_ty))


@device
def max_along(value, AXIS: tl.constexpr):
    """The largest along an axis, which stays; a NaN may or may not count."""
    if INTERPRETED:  # tl.max is a ``jit`` function there, and warns where it finds nothing but NaN
        value = tl.where(value == value, value, float("-inf"))
    return tl.reduce(value, AXIS, tl.standard._elementwise_max, keep_dims=True)


@device
def tile(
    pointer, left, first,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """A tile of which ``left`` rows exist, all of them where EVEN; zeros beyond them and beyond WIDTH."""
    r = tl.arange(0, ROWS)[:, None]
    c = first + tl.arange(0, COLUMNS)[None, :]
    at = pointer + (r * WIDTH + c)
    if WIDTH % COLUMNS == 0:
        value = tl.load(at) if EVEN else tl.load(at, mask=r < left, other=0)
    elif EVEN:
        value = tl.load(at, mask=c < WIDTH, other=0)
    else:
        value = tl.load(at, mask=(r < left) & (c < WIDTH), other=0)
    return value


@device
def store(pointer, value, left, first, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Write a tile of which ``left`` rows exist."""
    r = tl.arange(0, ROWS)[:, None]
    c = first + tl.arange(0, COLUMNS)[None, :]
    tl.store(pointer + (r * WIDTH + c), value, mask=(r < left) & (c < WIDTH))


@device
def column(pointer, left, ROWS: tl.constexpr):
    """A number of each of ROWS tokens as a column, wide; zeros beyond ``left``."""
    r = tl.arange(0, ROWS)[:, None]
    return widen(tl.load(pointer + r, mask=r < left, other=0))


@device
def row(pointer, left, COLUMNS: tl.constexpr):
    """The same as a row."""
    c = tl.arange(0, COLUMNS)[None, :]
    return widen(tl.load(pointer + c, mask=c < left, other=0))


@device
def products(
    a, b, a_left, b_left,
    WIDTH: tl.constexpr, SLICE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Products of ROWS tokens at ``a`` with COLUMNS tokens at ``b``, SLICE of their elements at a time."""
    total = nothing(a, ROWS, COLUMNS)
    for first in range(0, WIDTH, SLICE):
        left = tile(a, a_left, first, WIDTH, ROWS, SLICE, False)
        right = tile(b, b_left, first, WIDTH, COLUMNS, SLICE, EVEN)
        total = mm(left, tl.trans(right), total, PRECISION)
    return total


@device
def own(
    x,
    left,
    KIND: tl.constexpr,
    WHOLE: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    SLICE: tl.constexpr,
):
    """What stays of the tokens that a program owns: numbers, whole tokens, or nothing where they do not fit."""
    if KIND == SUM:
        a = column(x, left, ROWS)
    elif WHOLE:
        a = tile(x, left, 0, WIDTH, ROWS, SLICE, False)
    else:
        a = left
    return a


@device
def pairs(
    a, x, others, left, rest,
    KIND: tl.constexpr, WHOLE: tl.constexpr, WIDTH: tl.constexpr, SLICE: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Products, or sums, of the own tokens ``x``, of which ``a`` stayed, with others; and these, where WHOLE."""
    if KIND == SUM:
        b = row(others, rest, COLUMNS)
        s = a + b
    elif WHOLE:
        b = tile(others, rest, 0, WIDTH, COLUMNS, SLICE, EVEN)
        s = mm(a, tl.trans(b), nothing(x, ROWS, COLUMNS), PRECISION)
    else:
        b = rest
        s = products(x, others, left, rest, WIDTH, SLICE, ROWS, COLUMNS, EVEN, PRECISION)
    return s, b


@device
def gaussian(s, lse, scale):
    """Weights of logits, which ``scale`` is not yet part of, of whose exponentials ``lse`` is the sum's logarithm.

    The difference comes before the factor LOG2E: of two products only one would be rounded before they are subtracted,
    and what that leaves of large logits is as large as weights.
    """
    return tl.exp2((s * scale - lse) * LOG2E)


@device
def factor_of(pointer, scale, SCALE: tl.constexpr):
    """The factor of products: ``scale``, which is fp32, and SCALE for fp64."""
    return tl.full((1, 1), SCALE, tl.float64) if pointer.dtype.element_ty == tl.float64 else scale


@device
def rectified(s):
    """Half of the weights, but for the number of keys, as the sum of two numbers of fp16 may be none."""
    return tl.where(s < 0, 0, s) * 0.5  # and not a maximum: NaN stays


@device
def each(pointer, count, factor: tl.constexpr):
    """``factor`` over the number of keys, ``count``; the factor of :func:`rectified` weights is 2."""
    WIDE: tl.constexpr = pointer.dtype.element_ty == tl.float64
    one = nothing(pointer, 1, 1) + 1
    return divide(one * factor, one * count, WIDE)


@device
def power_of_two(exponent):
    """2 to the exponent less 127, which is from 1 to 254; zero below that."""
    return (tl.maximum(exponent, 0) << 23).to(tl.float32, bitcast=True)


@device
def lowest(ROWS: tl.constexpr):
    """Exponents for :func:`fit` to begin with."""
    return tl.full((ROWS, 1), LEAST, tl.int32)


@device
def fit(ds, total, level):
    """Bring a tile into fp16's range, by a power of two of every row, and what has been summed of others with it.

    Gradients of 1e-3 over thousands of keys would vanish in fp16, and those of 1e3 to one key leave its range. The
    largest number of a row so far becomes 2^14 to 2^15: ``level`` is its exponent, followed as softmax follows its
    maximum. Infinity stays, and NaN.
    """
    most = max_along(tl.abs(ds), 1).to(tl.int32, bitcast=True) >> 23
    high = tl.maximum(level, tl.minimum(tl.maximum(most, 0), 254))
    return ds * power_of_two(254 - high + LIFT), total * power_of_two(127 + level - high), high
