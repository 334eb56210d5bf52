"""How kernels walk a clip (N, C, T, H, W): the host side of what ``csrc/common/clip.h`` does for C++.

Positions P = H*W are one axis with one step. Planar layouts (NCTHW, NTCHW, any strides of N, C and T) have
adjacent positions, channels last has adjacent channels. Everything else is copied into the layout that its
results get.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from torch import Tensor

from ..ops.layouts import empty_clip, layout_of

__all__ = ["Tile", "Walk", "alignment", "far", "native", "native_like", "power", "tile", "walk"]

LINE = 128  # bytes of neighbouring channels in a channels-last tile


class Walk(NamedTuple):
    """Sizes of a clip, and elements from one clip, channel, frame, position to the next."""

    N: int
    C: int
    T: int
    P: int
    sN: int
    sC: int
    sT: int
    sP: int
    last: bool

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps between elements, without those of the fast axis and of axes of size one."""
        every = ((self.N, self.sN), (self.T, self.sT), (self.P, self.sP) if self.last else (self.C, self.sC))
        return tuple(step for size, step in every if size > 1)

    @property
    def each(self) -> tuple[int, int, int, int]:
        """Elements from one clip, channel, frame and position to the next."""
        return self.sN, self.sC, self.sT, self.sP

    def scaled(self, align: int) -> tuple[int, int, int]:
        """Steps of N, T and the slow one of the axes channel and position, in units of ``align`` elements."""
        return self.sN // align, self.sT // align, (self.sP if self.last else self.sC) // align


def walk(x: Tensor) -> Walk:
    """Describe a clip that :func:`native` has returned, or a dense one.

    Kernels are compiled for what these numbers are, so a traced graph is too, but for the number of clips.
    """
    n = x.shape[0]
    c, t, h, w = (int(size) for size in x.shape[1:])
    sn, sc, st, sh, sw = (int(step) for step in x.stride())
    p = h * w
    sp = 1 if p <= 1 else sw if w > 1 else sh
    last = c > 1 and sc == 1 and (p > 1 or layout_of(x) == "NTCHW")
    return Walk(n, c, t, p, sn, sc, st, sp, last)


def _walkable(x: Tensor) -> bool:
    _, _, _, h, w = x.shape
    _, _, _, sh, sw = x.stride()
    uniform = h <= 1 or w <= 1 or sh == w * sw
    at = walk(x)
    return uniform and (at.last or at.sP == 1)


def native(x: Tensor) -> Tensor:
    """The clip itself where a kernel can walk it as it lies, otherwise a dense copy."""
    return x if _walkable(x) else empty_clip(x).copy_(x)


def native_like(grad: Tensor, x: Tensor) -> Tensor:
    """The same for a gradient that is walked with the clip ``x``: planar or channels last as ``x`` is."""
    if _walkable(grad) and walk(grad).last == walk(x).last:
        return grad
    return empty_clip(grad, layout=layout_of(x)).copy_(grad)


def far(*clips: Tensor) -> bool:
    """Whether offsets within a clip may pass 32 bits, half of which are left to what tiles have beyond its ends."""
    return any(
        sum((size - 1) * step for size, step in zip(clip.shape[1:], clip.stride()[1:], strict=True)) >= 2**30
        for clip in clips
    )


def alignment(x: Tensor, *steps: int) -> int:
    """Elements, a power of two of at most 16 bytes, that divide every step: how wide a load may be.

    The address itself is not looked at (a traced tensor has none): Triton does that at every launch.
    """
    return math.gcd(16 // x.element_size(), *steps)


def power(n: int) -> int:
    """The power of two that holds n elements."""
    return 1 << max(n - 1, 0).bit_length()


class Tile(NamedTuple):
    """What a program owns: so many channels and positions, with so many warps."""

    c_block: int
    p_block: int
    warps: int


@functools.lru_cache(maxsize=256)
def tile(share: int, channels: int, positions: int, last: bool, element_size: int) -> Tile:
    """The tile of ``share`` elements a thread.

    Channels last: a line of channels, and as many positions as four warps fit. Planar: one channel (its taps
    are then scalars) and, of four, two or one warp's run of positions, that which leaves fewest lanes idle;
    where half a warp's run holds all positions, one warp has several channels.
    """
    warp = 32 * share
    if last:
        c_block = min(power(channels), LINE // element_size)
        return Tile(c_block, 4 * warp // c_block, 4)
    if 2 * positions <= warp:
        p_block = power(positions)
        return Tile(min(power(channels), warp // p_block), p_block, 1)
    warps = min((4, 2, 1), key=lambda n: -(-positions // (n * warp)) * n)
    return Tile(1, warps * warp, warps)
