"""Device functions that several operators' kernels share."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from ._register import INTERPRETED as _INTERPRETED

__all__ = ["device", "narrow", "steps", "sum_along", "tile_at", "tile_of", "widen"]

INTERPRETED = tl.constexpr(_INTERPRETED)


def device(function: Any) -> Any:
    """``triton.jit`` for functions that kernels call; plain Python in the interpreter.

    There a call from one ``jit`` function to another patches the whole language anew, for milliseconds, and a
    plain function called by a kernel runs just the same.
    """
    return function if _INTERPRETED else triton.jit(function)


@device
def widen(value):
    """The value in accumulation type: fp64 for fp64, otherwise fp32."""
    return value if value.dtype == tl.float64 else value.to(tl.float32)


@device
def narrow(value, dtype: tl.constexpr):
    """The value rounded to ``dtype``, to nearest even; the interpreter's own rounding to bf16 truncates."""
    if INTERPRETED:
        if dtype == tl.bfloat16:
            bits = value.to(tl.uint32, bitcast=True)
            bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
            bits = tl.where(value == value, bits, 0x7FC0)
            result = bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)
        else:
            result = value.to(dtype)
    else:
        result = value.to(dtype)
    return result


@device
def sum_along(value, AXIS: tl.constexpr, KEEP: tl.constexpr = True):
    """The sum over an axis, which stays, with one element, or goes."""
    if INTERPRETED:  # tl.sum is itself a ``jit`` function there
        total = tl.reduce(value, AXIS, tl.standard._sum_combine, keep_dims=KEEP)
    else:
        total = tl.sum(value, AXIS, keep_dims=KEEP)
    return total


@device
def steps(n, t, other, ALIGN: tl.constexpr):
    """Steps in elements, 64 bits wide and known to be multiples of ALIGN."""
    return n.to(tl.int64) * ALIGN, t.to(tl.int64) * ALIGN, other.to(tl.int64) * ALIGN


@device
def tile_of(item, p_blocks, own, P, P_BLOCK: tl.constexpr):
    """Clip and first position of an item, and which elements of its tile there are."""
    position = (item % p_blocks).to(tl.int64) * P_BLOCK
    inside = own & (position + tl.arange(0, P_BLOCK)[None, :] < P)
    return (item // p_blocks).to(tl.int64), position, inside


@device
def tile_at(
    pointer, position, channel, step,
    C_BLOCK: tl.constexpr, P_BLOCK: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """Addresses of a tile [C_BLOCK, P_BLOCK]; ``step`` is that of the axis that is not adjacent."""
    c = tl.arange(0, C_BLOCK)[:, None]
    p = tl.arange(0, P_BLOCK)[None, :]
    if LAST:
        pointers = pointer + (position * step + channel) + (c + p * step)
    else:
        pointers = pointer + (channel * step + position) + (c * step + p)
    return pointers
