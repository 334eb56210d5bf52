"""resize in Triton: bilinear resampling of every frame, and its transpose, gathered.

A program owns a tile of channels and positions, [C_BLOCK, P_BLOCK], of one frame of the result. Where a position reads
is an exact whole number in units of 1 / (2 * out). Backward adds up the gradients of the results that read a pixel, row
by row in ascending order, as many as the widest pixel has: no atomics, the same bits every time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..ops.layouts import clip_strides, layout_of
from ..tuning import Knob
from ._bilinear import between, first_reader, share_of
from ._clip import Tiles, elements, native, walk
from ._compile import CompileCase, meta_clip
from ._device import device, narrow, widen
from ._register import operator, wrap_triton

# Of a tile, a thread: 16 are the widest load; half of it leaves registers, twice as much keeps two loads in flight.
BYTES = Knob("resize", "triton", "bytes", 16, (8, 16, 32))
TILES = Tiles("resize")


@device
def _owned(
    x, y, N, C, T, H, W, x_n, x_c, x_t, x_p, y_n, y_c, y_t, y_p, blocks, p_blocks,
    C_BLOCK: tl.constexpr, P_BLOCK: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """Pointers to the channels of x and to the tile of y, the tile's rows and columns, and what of it there is."""
    program = tl.program_id(0)
    p = program % p_blocks * P_BLOCK + tl.arange(0, P_BLOCK)[None, :]
    block = program // p_blocks % blocks
    frame = program // (p_blocks * blocks)
    t, n = (frame % T).to(tl.int64), (frame // T).to(tl.int64)
    c = block * C_BLOCK + tl.arange(0, C_BLOCK)[:, None]
    source = x + n * x_n + t * x_t + (c if LAST else c.to(tl.int64) * x_c)
    result = y + n * y_n + t * y_t + ((c if LAST else c.to(tl.int64) * y_c) + p.to(tl.int64) * y_p)
    return source, result, p // W, p % W, (c < C) & (p < H * W)


@triton.jit
def resize_kernel(
    x, y, N, C, T, H, W, IN_H, IN_W, x_n, x_c, x_t, x_p, y_n, y_c, y_t, y_p, blocks, p_blocks,
    C_BLOCK: tl.constexpr, P_BLOCK: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The result, H x W, of frames IN_H x IN_W."""
    source, result, row, column, inside = _owned(
        x, y, N, C, T, H, W, x_n, x_c, x_t, x_p, y_n, y_c, y_t, y_p, blocks, p_blocks, C_BLOCK, P_BLOCK, LAST
    )
    h, next_h, below = between(row, IN_H, H, WIDE)
    w, next_w, right = between(column, IN_W, W, WIDE)
    a = widen(tl.load(source + (h * IN_W + w).to(tl.int64) * x_p, mask=inside, other=0))
    b = widen(tl.load(source + (h * IN_W + next_w).to(tl.int64) * x_p, mask=inside, other=0))
    c = widen(tl.load(source + (next_h * IN_W + w).to(tl.int64) * x_p, mask=inside, other=0))
    d = widen(tl.load(source + (next_h * IN_W + next_w).to(tl.int64) * x_p, mask=inside, other=0))
    value = (a * (1 - right) + b * right) * (1 - below) + (c * (1 - right) + d * right) * below
    tl.store(result, narrow(value, y.dtype.element_ty), mask=inside)


@triton.jit
def resize_backward_kernel(
    x, y, N, C, T, H, W, OUT_H, OUT_W, x_n, x_c, x_t, x_p, y_n, y_c, y_t, y_p, blocks, p_blocks, most_h, most_w,
    C_BLOCK: tl.constexpr, P_BLOCK: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The gradient, H x W, from that of results OUT_H x OUT_W."""
    source, result, row, column, inside = _owned(
        x, y, N, C, T, H, W, x_n, x_c, x_t, x_p, y_n, y_c, y_t, y_p, blocks, p_blocks, C_BLOCK, P_BLOCK, LAST
    )
    first_h, first_w = first_reader(row - 1, H, OUT_H), first_reader(column - 1, W, OUT_W)
    total = tl.zeros([C_BLOCK, P_BLOCK], tl.float64 if WIDE else tl.float32)
    for i in range(most_h):
        h = first_h + i
        of_row = share_of(h, row, H, OUT_H, WIDE)
        across = tl.zeros([C_BLOCK, P_BLOCK], tl.float64 if WIDE else tl.float32)
        for j in range(most_w):
            w = first_w + j
            weight = share_of(w, column, W, OUT_W, WIDE)
            mask = inside & (h < OUT_H) & (w < OUT_W) & (of_row > 0) & (weight > 0)
            at = (h * OUT_W + w).to(tl.int64) * x_p
            across += weight * widen(tl.load(source + at, mask=mask, other=0))
        total += of_row * across
    tl.store(result, narrow(total, y.dtype.element_ty), mask=inside)


def _resample(x: Tensor, height: int, width: int, backward: bool) -> Tensor:
    x = native(x)
    height, width = int(height), int(width)  # a traced graph is for these
    shape = (*x.shape[:3], height, width)
    layout = layout_of(x)
    y = x.new_empty_strided(shape, clip_strides(shape, layout))
    if y.numel() == 0:
        return y
    last = layout == "NTHWC"
    at = walk(x)
    y_n, y_c, y_t, _, y_p = y.stride()
    block = TILES(elements(BYTES, x.element_size()), at.C, height * width, last, x.element_size())
    blocks, p_blocks = triton.cdiv(at.C, block.c_block), triton.cdiv(height * width, block.p_block)
    # As many results as lie between elements i - 1 and i + 1; of those beyond the ends there are fewer.
    most = tuple(
        2 * int(out) // side + 2 for side, out in zip((height, width), x.shape[3:], strict=True) if backward
    )
    wrap_triton(resize_backward_kernel if backward else resize_kernel)[(blocks * p_blocks * at.N * at.T,)](
        x, y, at.N, at.C, at.T, height, width, x.shape[3], x.shape[4], at.sN, at.sC, at.sT, at.sP if last else 1,
        y_n, y_c, y_t, y_p if last else 1, blocks, p_blocks, *most, C_BLOCK=block.c_block, P_BLOCK=block.p_block,
        LAST=last, WIDE=x.dtype == torch.float64, num_warps=block.warps, num_stages=1,
    )  # fmt: skip
    return y


@operator
def resize(x: Tensor, height: int, width: int) -> Tensor:
    """Forward; see :func:`vidops.ops.resize`."""
    return _resample(x, height, width, False)


@operator
def resize_backward(grad: Tensor, height: int, width: int) -> Tensor:
    """Gradient of x, whose frames are ``height`` x ``width``."""
    return _resample(grad, height, width, True)


_CLIP = (8, 256, 8, 64, 64)
COMPILE_CASES = [
    CompileCase("bf16, NCTHW", lambda: resize(meta_clip(_CLIP, torch.bfloat16), 40, 40), 128, True),
    CompileCase(
        "bf16, channels last", lambda: resize(meta_clip(_CLIP, torch.bfloat16, "NTHWC"), 40, 40), 200
    ),
    CompileCase("fp32, back", lambda: resize_backward(meta_clip(_CLIP, torch.float32), 40, 40), 128, True),
    CompileCase("fp64, 7x7", lambda: resize(meta_clip((2, 24, 8, 7, 7), torch.float64, "NTHWC"), 5, 5), 128),
    CompileCase(
        "fp32, last, back", lambda: resize_backward(meta_clip(_CLIP, torch.float32, "NTHWC"), 56, 56), 200
    ),
]
