"""keypoint_shifts in Triton: a thread walks over a map for one channel and one set, so that nothing is reduced.

Forward, a first kernel places all lines. Then a lane is a channel and a set of a frame: it goes over the map row by
row with the r maxima, their places and the r sums of its current rows in registers, and stores a band's regions when
its last row is done. Sets of a channel are neighbouring lanes and read the same pixel at once, or, channels last,
channels are neighbours and other warps' sets find the pixel in the cache: features come from memory once for all sets.
All is taken to be finite, which saves a third of the comparisons; where a sum turns out not to be, the program walks
again with care. Regions go through scratch memory with lanes side by side; a last kernel pairs frames and puts
everything where it belongs. 1 / (d + epsilon) is not subtracted from another one but d from d, which keeps the weights
within a unit or two in fp32.

Backward, a kernel makes the gradients of a pair's regions, of maxima of either frame and of means, in fp64; another
one gathers them in every pixel from all sets and writes dx once; a third one walks along each line, channels side by
side, sums over them in a fixed order, and reads features only there. No sum is atomic.

Bytes: forward features, 2 (T-1) numbers a set, region and channel written, and 2 T numbers and 2 T coordinates that
are kept for backward; scratch moves the latter twice more. At 64x384x8x14x14, 8 sets of 4 regions, fp32: 154 MB of
features, 120 MB of results, 64 us of an H200's 4.3 TB/s; scratch is 151 MB, 35 us. Arithmetic is more: 308 million
pixels times sets, of 13 instructions, 8 of them at half rate (comparisons and selections), are 170 us.

Predicted, not yet measured on a GPU: forward 220 us for regions, 50 for pairs, 5 for splits and launches, 4.3 x the
floor in fp32 and 6 x in bf16, whose floor is 46 us; 2 x is wanted. Backward 100 us for pairs, half of it fp64, 250 for
dx, whose every pixel asks all regions, 40 for lines.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from ..ops.layouts import empty_clip
from ._clip import far, native, power, tile, walk
from ._compile import CompileCase, meta_clip
from ._keypoint_backward import (
    keypoint_lines_kernel,
    keypoint_pairs_backward_kernel,
    keypoint_spread_kernel,
)
from ._keypoint_kernels import keypoint_pairs_kernel, keypoint_regions_kernel, keypoint_split_kernel
from ._register import INTERPRETED, operator, wrap_triton

LANES = 128  # of the kernels that walk
CHUNK = 32  # pixels of a row that are summed in fp32
MANY = (
    2**30
)  # lanes of a clip from which their numbers may pass 32 bits, half of which are left to lanes beyond them
PAIRS = 1024, 512  # of a tile of pairs of frames, times regions, forward and backward: 8 and 4 a thread
# Elements of a tile of dx a thread; the interpreter's operations take as long on few numbers as on many.
SHARE = 64 if INTERPRETED else 8


class _Call:
    """What the launches of one call share: sizes, and where lines split the frames."""

    def __init__(self, features: Tensor, separators: Tensor, epsilon: float) -> None:
        self.x = native(features)
        self.N = features.shape[0]  # a compiled graph is for any
        self.C, self.T, self.H, self.W = (int(size) for size in features.shape[1:])
        self.G, self.R = int(separators.shape[1]), int(separators.shape[4]) + 1
        self.K = self.R * self.R
        self.wide = features.dtype == torch.float64
        self.dtype = torch.float64 if self.wide else torch.float32
        self.last = walk(self.x).last
        # Not a number of a launch: those are fp32, and constants of a traced graph.
        self.epsilon = self.x.new_full((1,), epsilon, dtype=torch.float64)

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return self.x.new_empty((self.N, *shape), dtype=dtype or self.dtype)

    def split(self, separators: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The tables of borders, first pixels and sources."""
        border = self.empty(self.G, self.T, 2, self.R + 1)
        first = self.empty(self.G, self.T, 2, self.R + 1, dtype=torch.int32)
        source = self.empty(self.G, self.T, 2, self.R - 1, dtype=torch.int32)
        axes = self.N * self.G * self.T * 2
        wrap_triton(keypoint_split_kernel)[(triton.cdiv(axes, LANES),)](
            separators.contiguous(), border, first, source, self.H, self.W, axes,
            R=self.R, BLOCK=LANES, num_warps=LANES // 32,
        )  # fmt: skip
        return border, first, source

    def pairs(self, backward: bool = False) -> dict[str, Any]:
        """Constants of a launch over pairs of frames."""
        regions = power(self.K)
        rows = PAIRS[self.wide or backward] // regions
        return {
            "K": self.K, "WIDE": self.wide, "L_BLOCK": rows, "K_BLOCK": regions, "num_warps": 4, "num_stages": 1,
        }  # fmt: skip


@operator
def keypoint_shifts(
    features: Tensor, separators: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Forward; see :func:`vidops.ops.keypoint_shifts`. The last result is the means, shaped as the values."""
    call = _Call(features, separators, epsilon)
    C, T, G, K = call.C, call.T, call.G, call.K
    shifts = call.empty(G, K, C, max(T - 1, 0), 2)
    points = call.empty(G, K, C, T, dtype=torch.int32)
    values, means = call.empty(G, K, C, T), call.empty(G, K, C, T)
    keypoints = points.view(torch.int16).view(*points.shape, 2)
    if values.numel() == 0:
        return shifts, keypoints, values, means
    border, first, _ = call.split(separators)
    value, mean = call.empty(T, K, C * G), call.empty(T, K, C * G)
    point = call.empty(T, K, C * G, dtype=torch.int32)
    lanes = T * C * G
    blocks = triton.cdiv(lanes, LANES)
    wrap_triton(keypoint_regions_kernel)[(call.N * blocks,)](
        call.x, border, first, value, mean, point, *walk(call.x).each, C, T, call.H, call.W, G, blocks,
        R=call.R, LAST=call.last, FAR=lanes >= MANY, LANES=LANES, CHUNK=CHUNK, num_warps=LANES // 32,
    )  # fmt: skip
    settings = call.pairs()
    blocks = triton.cdiv(lanes, settings["L_BLOCK"])
    wrap_triton(keypoint_pairs_kernel)[(call.N * blocks,)](
        value, mean, point, call.epsilon, shifts, points, values, means, C, T, G, blocks,
        LAST=call.last, FAR=lanes >= MANY, **settings,
    )  # fmt: skip
    return shifts, keypoints, values, means


@operator
def keypoint_shifts_backward(
    grad: Tensor,
    features: Tensor,
    separators: Tensor,
    keypoints: Tensor,
    values: Tensor,
    means: Tensor,
    epsilon: float,
    need_features: bool,
    need_separators: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of features and separators; those not needed have shape (0,)."""
    call = _Call(features, separators, epsilon)
    dx = empty_clip(call.x) if need_features else features.new_empty(0)
    dlines = features.new_empty(separators.shape if need_separators else (0,))
    if values.numel() == 0:
        return dx.zero_(), dlines.zero_()
    C, T, G, K = call.C, call.T, call.G, call.K
    border, _, source = call.split(separators)
    keypoints, means = keypoints.contiguous(), means.contiguous()
    now, then, half = (call.empty(G, K, C, T - 1) for _ in range(3))
    if T > 1:  # of one frame there is no pair, but its gradients of 0 times infinity are NaN
        settings = call.pairs(backward=True)
        blocks = triton.cdiv(C * (T - 1), settings["L_BLOCK"])
        wrap_triton(keypoint_pairs_backward_kernel)[(call.N * G * blocks,)](
            grad.contiguous(), keypoints, values.contiguous(), means, call.epsilon, now, then, half, C, T, blocks,
            **settings,
        )  # fmt: skip
    if need_features:
        at = walk(dx)
        share = SHARE // (2 if at.last else 1) // (2 if call.wide else 1)  # or registers spill
        shape = tile(share, C * T, at.P, at.last, 4)
        blocks, p_blocks = triton.cdiv(C * T, shape.c_block), triton.cdiv(at.P, shape.p_block)
        wrap_triton(keypoint_spread_kernel)[(call.N * blocks * p_blocks,)](
            border, keypoints, now, then, half, dx, *at.each, C, T, at.P, call.W, G, blocks, p_blocks,
            R=call.R, LAST=at.last, FAR=far(dx), C_BLOCK=shape.c_block, P_BLOCK=shape.p_block,
            num_warps=shape.warps, num_stages=1,
        )  # fmt: skip
    if need_separators and call.R > 1:
        lanes = min(power(C), LANES)
        items = min(power(G * T), LANES // lanes)
        blocks = triton.cdiv(G * T, items)
        wrap_triton(keypoint_lines_kernel)[(call.N * blocks,)](
            call.x, border, source, means, half, dlines, *walk(call.x).each, C, T, call.H, call.W, G, blocks,
            R=call.R, ITEMS=items, LANES=lanes, num_warps=max(items * lanes // 32, 1), num_stages=1,
        )  # fmt: skip
    return dx, dlines


def _case(
    name: str,
    registers: int,
    shape: tuple[int, int, int, int, int],
    bands: int,
    dtype: torch.dtype = torch.float32,
    layout: str = "NCTHW",
    backward: bool = False,
    spilled: int = 0,
    quick: bool = False,
) -> CompileCase:
    def call() -> None:
        x = meta_clip(shape, dtype, layout)
        n, c, t, _, _ = shape
        lines = x.new_empty((n, 8, t, 2, bands - 1))
        if backward:
            wide = torch.float64 if dtype == torch.float64 else torch.float32
            values = x.new_empty((n, 8, bands * bands, c, t), dtype=wide)
            grad = x.new_empty((*values.shape[:4], t - 1, 2), dtype=wide)
            points = x.new_empty((*values.shape, 2), dtype=torch.int16)
            keypoint_shifts_backward(grad, x, lines, points, values, values, 0.1, True, True)
        else:
            keypoint_shifts(x, lines, 0.1)

    return CompileCase(name, call, registers, quick, spilled=spilled)


_MFNET, _R3D = (64, 384, 8, 14, 14), (64, 512, 4, 28, 28)
# To have more warps at once, ptxas spills a few numbers, such as those that live across a whole walk.
COMPILE_CASES = [
    _case("forward, fp32, mfnet", 144, _MFNET, 2, spilled=16, quick=True),
    _case("backward, fp32, mfnet", 176, _MFNET, 2, backward=True, spilled=24, quick=True),
    _case("forward, bf16, r3d, channels last", 144, _R3D, 2, torch.bfloat16, "NTHWC", spilled=16),
    _case("backward, bf16, r3d, channels last", 255, _R3D, 2, torch.bfloat16, "NTHWC", backward=True, spilled=24),
    _case("forward, fp32, 16 regions", 176, _MFNET, 4, spilled=24),
    _case("backward, fp32, 16 regions", 255, _MFNET, 4, backward=True, spilled=16),
    _case("forward, fp32, one region", 192, _MFNET, 1, spilled=16),
    _case("backward, fp32, one region", 112, _MFNET, 1, backward=True),
    _case("forward, fp64, 9 regions", 136, _MFNET, 3, torch.float64, spilled=8),
    _case("backward, fp64, 9 regions, channels last", 255, _MFNET, 3, torch.float64, "NTHWC", backward=True,
          spilled=40),
]  # fmt: skip
