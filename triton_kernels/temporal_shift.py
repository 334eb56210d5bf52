"""temporal_shift in Triton: every element is read once and written once, in whatever layout x has.

A program owns a tile of channels and positions, [C_BLOCK, P_BLOCK], of a few frames, so that their loads are
all in flight together. Nothing is computed: frame t of the result is frame t + STEP for the first ``fold``
channels, t - STEP for the next ``fold``, t for the rest, and zero where there is no such frame. Backward
moves the other way.
"""

# ruff: noqa: RUF005 (Triton has no unpacking)
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..ops.layouts import empty_clip
from ..tuning import Knob
from ._clip import Tiles, alignment, elements, native, walk
from ._compile import CompileCase, meta_clip
from ._device import steps, tile_at, tile_of
from ._register import operator, wrap_triton

# Of a tile, a thread: 16 are the widest load; half of it leaves registers, twice as much keeps two loads in flight.
BYTES = Knob("temporal_shift", "triton", "bytes", 16, (8, 16, 32))
# Of a program: their loads are in flight together. The fewer, the more programs; clips have 8 frames and more.
FRAMES = Knob("temporal_shift", "triton", "frames", 8, (2, 4, 8))
TILES = Tiles("temporal_shift")


@triton.jit(
    do_not_specialize=["x_n", "x_t", "x_o", "y_n", "y_t", "y_o", "C", "T", "P", "fold", "blocks", "p_blocks"]
)
def temporal_shift_kernel(
    x, y, x_n, x_t, x_o, y_n, y_t, y_o, C, T, P, fold, blocks, p_blocks,
    STEP: tl.constexpr, FRAMES: tl.constexpr, LAST: tl.constexpr, ALIGN: tl.constexpr, C_BLOCK: tl.constexpr,
    P_BLOCK: tl.constexpr,
):  # fmt: skip
    """Steps and the fast axis are in units of ALIGN elements; so is ``fold`` channels last."""
    UNIT: tl.constexpr = ALIGN if LAST else 1
    program = tl.program_id(0)
    parts = (T + FRAMES - 1) // FRAMES
    begin = program % parts * FRAMES
    program = program // parts
    if LAST:
        block = program % blocks
        item = program // blocks
    else:  # in the order of memory
        block = program // p_blocks % blocks
        item = program % p_blocks + program // (p_blocks * blocks) * p_blocks
    x_n, x_t, x_o = steps(x_n, x_t, x_o, ALIGN)
    y_n, y_t, y_o = steps(y_n, y_t, y_o, ALIGN)
    channel = block.to(tl.int64) * C_BLOCK
    c = channel + tl.arange(0, C_BLOCK)[:, None]
    clip, position, inside = tile_of(item, p_blocks, c < C * UNIT, P * (ALIGN // UNIT), P_BLOCK)
    source = tile_at(x + clip * x_n, position, channel, x_o, C_BLOCK, P_BLOCK, LAST)
    result = tile_at(y + clip * y_n, position, channel, y_o, C_BLOCK, P_BLOCK, LAST)
    fold = fold * UNIT
    move = tl.where(c < fold, STEP, tl.where(c < 2 * fold, -STEP, 0))
    source += move * x_t
    seen = ()
    for u in tl.static_range(FRAMES):
        frame = begin + u + move
        mask = inside & (frame >= 0) & (frame < T) & (begin + u < T)
        seen = seen + (tl.load(source + (begin + u) * x_t, mask=mask, other=0),)
    for u in tl.static_range(FRAMES):
        tl.store(result + (begin + u) * y_t, seen[u], mask=inside & (begin + u < T))


def _shift(x: Tensor, fold: int, step: int) -> Tensor:
    x = native(x)
    y = empty_clip(x)
    if y.numel() == 0:
        return y
    at, out = walk(x), walk(y)
    align = alignment(x, *((at.C, fold) if at.last else (at.P,)), *at.steps, *out.steps)
    unit = align if at.last else 1
    frames = FRAMES.value
    shape = TILES(elements(BYTES, x.element_size()), at.C, at.P, at.last, x.element_size())
    blocks, p_blocks = triton.cdiv(at.C, shape.c_block), triton.cdiv(at.P, shape.p_block)
    wrap_triton(temporal_shift_kernel)[(blocks * p_blocks * at.N * triton.cdiv(at.T, frames),)](
        x, y, *at.scaled(align), *out.scaled(align), at.C // unit, at.T, at.P * unit // align, fold // unit,
        blocks, p_blocks, STEP=step, FRAMES=frames, LAST=at.last, ALIGN=align, C_BLOCK=shape.c_block,
        P_BLOCK=shape.p_block, num_warps=shape.warps, num_stages=1,
    )  # fmt: skip
    return y


@operator
def temporal_shift(x: Tensor, fold: int) -> Tensor:
    """Forward; see :func:`vidops.ops.temporal_shift`. ``fold`` channels move each way."""
    return _shift(x, fold, 1)


@operator
def temporal_shift_backward(grad: Tensor, fold: int) -> Tensor:
    """Gradient of x."""
    return _shift(grad, fold, -1)


_CLIP = (16, 256, 8, 56, 56)
COMPILE_CASES = [
    CompileCase(
        "bf16, NTCHW", lambda: temporal_shift(meta_clip(_CLIP, torch.bfloat16, "NTCHW"), 32), 72, True
    ),
    CompileCase(
        "bf16, channels last", lambda: temporal_shift(meta_clip(_CLIP, torch.bfloat16, "NTHWC"), 32), 72
    ),
    CompileCase("fp32, back", lambda: temporal_shift_backward(meta_clip(_CLIP, torch.float32), 32), 72),
    CompileCase("fp64, 7x7", lambda: temporal_shift(meta_clip((2, 24, 8, 7, 7), torch.float64), 3), 72),
]
