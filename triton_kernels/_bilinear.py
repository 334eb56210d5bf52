"""Which pixels a bilinear resampling reads, exactly, as ``resize`` defines it; several operators' kernels share it."""

from __future__ import annotations

import triton.language as tl

from ._device import INTERPRETED, device

__all__ = ["between", "divide", "first_reader", "share_of"]


@device
def divide(a, b, WIDE: tl.constexpr):
    """a / b, correctly rounded."""
    if WIDE:
        quotient = a.to(tl.float64) / b
    elif INTERPRETED:
        quotient = a.to(tl.float32) / b
    else:
        quotient = tl.math.div_rn(a.to(tl.float32), b.to(tl.float32))
    return quotient


@device
def _place(d, IN, OUT):
    """Where result ``d`` reads, in units of 1 / (2 * OUT)."""
    return tl.minimum(tl.maximum((2 * d + 1) * IN - OUT, 0), 2 * OUT * (IN - 1))


@device
def between(d, IN, OUT, WIDE: tl.constexpr):
    """The two elements that result ``d`` reads, and the second one's share.

    At an element both are the same one, halved, so that the next one is not read.
    """
    position = _place(d, IN, OUT)
    low = position // (2 * OUT)
    rest = position - low * (2 * OUT)
    share = tl.where(rest == 0, divide(1 + 0 * low, 2 + 0 * low, WIDE), divide(rest, 2 * OUT + 0 * low, WIDE))
    return low, low + (rest != 0).to(tl.int32), share


@device
def first_reader(i, IN, OUT):
    """The first result that reads at element ``i`` or after it, were the axis longer at both ends."""
    return (tl.maximum(OUT * (2 * i + 1) - IN, 0) + 2 * IN - 1) // (2 * IN)


@device
def share_of(d, i, IN, OUT, WIDE: tl.constexpr):
    """What result ``d`` takes of element ``i``."""
    away = tl.abs(_place(d, IN, OUT) - 2 * OUT * i)
    return divide(tl.maximum(2 * OUT - away, 0), 2 * OUT + 0 * away, WIDE)
