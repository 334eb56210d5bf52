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
from ..tuning import Knob

__all__ = [
    "Runs", "Tile", "Tiles", "Walk", "alignment", "elements", "far", "native", "native_like", "power", "tile", "walk",
]  # fmt: skip


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
def tile(
    share: int, channels: int, positions: int, last: bool, element_size: int, most: int = 4, line: int = 128
) -> Tile:
    """The tile of ``share`` elements a thread.

    Channels last: a ``line`` of channels, in bytes, and as many positions as ``most`` warps fit. Planar: one channel
    (its taps are then scalars) and, of ``most`` warps' runs of positions, of half as many and so on, that which leaves
    fewest lanes idle; where half a warp's run holds all positions, one warp has several channels.
    """
    warp = 32 * share
    if last:
        c_block = min(power(channels), line // element_size, most * warp)
        return Tile(c_block, most * warp // c_block, most)
    if 2 * positions <= warp:
        p_block = power(positions)
        return Tile(min(power(channels), warp // p_block), p_block, 1)
    counts = [most >> i for i in range(most.bit_length())]
    warps = min(counts, key=lambda n: -(-positions // (n * warp)) * n)
    return Tile(1, warps * warp, warps)


class Tiles:
    """An operator's tiles, with what a measurement may change of them.

    ``warps`` of a program, at most: fewer leave no lanes idle in small frames and more programs to an SM, more share
    what a program sets up; 16 are more than any of these kernels has work for. ``line``: a warp reads bytes of memory
    in sectors of 32 and caches hold lines of 128, so 64 is half a line and 256 two.
    """

    def __init__(self, operator: str) -> None:
        self.warps = Knob(operator, "triton", "warps", 4, (2, 4, 8))
        self.line = Knob(operator, "triton", "line", 128, (64, 128, 256))

    def __call__(self, share: int, channels: int, positions: int, last: bool, element_size: int) -> Tile:
        """The tile of ``share`` elements a thread."""
        return tile(share, channels, positions, last, element_size, self.warps.value, self.line.value)


class Runs:
    """Runs of tiles of kernels that keep something over a run: taps, weights, or sums that each run writes once.

    ``programs`` fill a large GPU several times over (132 SMs of 8 to 16 programs each); with more to do each gets a
    run of tiles, ``run`` of them at most: the longer, the less is set up and written, and the fewer programs end
    together. They are arguments of a launch: nothing is compiled anew.
    """

    def __init__(self, operator: str) -> None:
        self.programs = Knob(operator, "triton", "programs", 4096, (1024, 2048, 4096, 8192))
        self.run = Knob(operator, "triton", "run", 16, (4, 16, 64))

    def __call__(self, tiles: int, crowd: int = 1) -> int:
        """Tiles of a program, of so many; ``crowd`` times fewer programs are wanted."""
        return max(1, min(self.run.value, tiles // (self.programs.value // crowd)))


def elements(knob: Knob[int], element_size: int) -> int:
    """Elements a thread, of a knob in bytes."""
    return max(knob.value // element_size, 1)
