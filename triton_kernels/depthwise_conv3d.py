"""depthwise_conv3d in Triton: a tile of channels and positions of one frame, tap after tap, in whatever layout x has.

Floor: x read once and the result written once, a multiply-add a tap and element. A program owns a tile
[C_BLOCK, P_BLOCK] of one frame of the result: a channel's run of positions in planar layouts, a line of channels in
channels last. It asks for its input once a tap, shifted by a position or a row, from the first-level cache after the
first; kt frames come from the second level. The rows of the kernel are a loop, the taps of a row are unrolled.

The gradient of x is the same with the taps turned round: an element collects, of every tap, the gradient that it has
made, which under a stride not every tap has. The taps' gradient is KW sums a program for one row of the kernel, over a
run of tiles; a second kernel adds the runs in a fixed order. The split depends on shapes and knobs alone.

Not yet measured on a GPU.
"""

# ruff: noqa: RUF005, SIM108 (Triton has no unpacking, and constants choose what is compiled)
from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..ops.layouts import clip_strides, empty_clip, layout_of
from ..tuning import Knob
from ._clip import Runs, Tiles, Walk, elements, native, native_like, walk
from ._compile import CompileCase, meta_clip
from ._device import device, narrow, sum_along, widen
from ._register import operator, wrap_triton
from ._temporal_kernels import temporal_conv_sum_kernel

# Elements of a tile a thread, half as many of fp64: each is asked for once a tap, so that they are few.
SHARE = Knob("depthwise_conv3d", "triton", "share", 4, (2, 4, 8))
# Bytes of a tile a thread of the taps' gradient, which has as many sums as a row of the kernel for each of them.
BYTES_WEIGHT = Knob("depthwise_conv3d", "triton", "bytes_weight", 8, (4, 8, 16))
TILES, RUNS = Tiles("depthwise_conv3d"), Runs("depthwise_conv3d")
ROWS, COLUMNS, WARPS = 64, 32, 4

STEPS = ["x_n", "x_c", "x_t", "x_p", "y_n", "y_c", "y_t", "y_p"]
SIZES = ["C", "T", "H", "W", "out_T", "out_H", "out_W", "blocks", "p_blocks"]


@device
def _first(o, STRIDE: tl.constexpr, PADDING: tl.constexpr, TRANSPOSED: tl.constexpr):
    """Where the first tap of result o reads; transposed, times the stride."""
    if TRANSPOSED:
        first = o + PADDING
    else:
        first = o * STRIDE - PADDING
    return first


@device
def _read(first, k, size, STRIDE: tl.constexpr, DILATION: tl.constexpr, TRANSPOSED: tl.constexpr):
    """Where tap k reads, and whether there is such an input; transposed, whether it made one of the gradients."""
    if TRANSPOSED:
        found = first - k * DILATION
        there = found >= 0
        if STRIDE > 1:
            there = there & (found % STRIDE == 0)
            found = found // STRIDE
    else:
        found = first + k * DILATION
        there = found >= 0
    return found, there & (found < size)


@device
def _tile(block, p_block, C, P, W, C_BLOCK: tl.constexpr, P_BLOCK: tl.constexpr):
    """A tile's channels, positions, rows and columns, and which of its elements there are."""
    c = block.to(tl.int64) * C_BLOCK + tl.arange(0, C_BLOCK)[:, None]
    p = p_block * P_BLOCK + tl.arange(0, P_BLOCK)[None, :]
    return c, p, p // W, p % W, (c < C) & (p < P)


@triton.jit(do_not_specialize=[*STEPS, *SIZES])
def depthwise_conv3d_kernel(
    x, weight, bias, y, x_n, x_c, x_t, x_p, y_n, y_c, y_t, y_p, C, T, H, W, out_T, out_H, out_W, blocks, p_blocks,
    KT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, ST: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PT: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr, DT: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
    TRANSPOSED: tl.constexpr, BIAS: tl.constexpr, LAST: tl.constexpr, C_BLOCK: tl.constexpr, P_BLOCK: tl.constexpr,
):  # fmt: skip
    """From x to y, or with TRANSPOSED from the gradient of the result to that of the input."""
    program = tl.program_id(0)
    if LAST:
        block = program % blocks
        p_block = program // blocks % p_blocks
    else:
        p_block = program % p_blocks
        block = program // p_blocks % blocks
    item = program // (blocks * p_blocks)
    t = item % out_T
    clip = (item // out_T).to(tl.int64)
    c, p, h, w, inside = _tile(block, p_block, C, out_H * out_W, out_W, C_BLOCK, P_BLOCK)
    total = widen(tl.full((C_BLOCK, P_BLOCK), 0, y.dtype.element_ty))
    if BIAS:
        total += widen(tl.load(bias + c, mask=c < C, other=0))
    source = x + clip * x_n + c * x_c
    taps = weight + c * (KT * KH * KW)
    first_t = _first(t, ST, PT, TRANSPOSED)
    first_h = _first(h, SH, PH, TRANSPOSED)
    first_w = _first(w, SW, PW, TRANSPOSED)
    for row in range(KT * KH):
        frame, in_time = _read(first_t, row // KH, T, ST, DT, TRANSPOSED)
        line, in_height = _read(first_h, row % KH, H, SH, DH, TRANSPOSED)
        there = inside & in_height & in_time
        start = source + (frame.to(tl.int64) * x_t + line.to(tl.int64) * (W * x_p))
        for k in tl.static_range(KW):
            column, in_width = _read(first_w, k, W, SW, DW, TRANSPOSED)
            met = there & in_width
            seen = tl.load(start + column.to(tl.int64) * x_p, mask=met, other=0)
            tap = tl.load(taps + (row * KW + k), mask=c < C, other=0)
            # A tap that is not finite must not meet the zeros around the clip, as below no such gradient.
            total = tl.where(met, total + widen(tap) * widen(seen), total)
    result = y + clip * y_n + t.to(tl.int64) * y_t + c * y_c + p.to(tl.int64) * y_p
    tl.store(result, narrow(total, y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=[*STEPS, *SIZES, "items", "run", "width", "bias_column"])
def depthwise_conv3d_weight_kernel(
    x, grad, partial, x_n, x_c, x_t, x_p, y_n, y_c, y_t, y_p, C, T, H, W, out_T, out_H, out_W, blocks, p_blocks,
    items, run, width, bias_column,
    KT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, ST: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PT: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr, DT: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
    NEED_WEIGHT: tl.constexpr, NEED_BIAS: tl.constexpr, C_BLOCK: tl.constexpr, P_BLOCK: tl.constexpr,
):  # fmt: skip
    """One row of taps over a run of ``run`` of the ``items`` (clip, frame, position block); y is the gradient."""
    program = tl.program_id(0)
    KERNEL_ROWS: tl.constexpr = KT * KH if NEED_WEIGHT else 1
    row = program % KERNEL_ROWS
    block = program // KERNEL_ROWS % blocks
    share = program // (KERNEL_ROWS * blocks)
    zero = widen(tl.full((C_BLOCK, P_BLOCK), 0, x.dtype.element_ty))
    sums = (zero,) * (KW + 1)
    for item in range(share * run, tl.minimum(share * run + run, items)):
        t = item // p_blocks % out_T
        clip = (item // (p_blocks * out_T)).to(tl.int64)
        c, p, h, w, inside = _tile(block, item % p_blocks, C, out_H * out_W, out_W, C_BLOCK, P_BLOCK)
        gradient = grad + clip * y_n + t.to(tl.int64) * y_t + c * y_c + p.to(tl.int64) * y_p
        slope = widen(tl.load(gradient, mask=inside, other=0))
        made = ()
        if NEED_WEIGHT:
            frame, in_time = _read(_first(t, ST, PT, False), row // KH, T, ST, DT, False)
            line, in_height = _read(_first(h, SH, PH, False), row % KH, H, SH, DH, False)
            there = inside & in_height & in_time
            start = x + clip * x_n + c * x_c + (frame.to(tl.int64) * x_t + line.to(tl.int64) * (W * x_p))
            first_w = _first(w, SW, PW, False)
            for k in tl.static_range(KW):
                column, in_width = _read(first_w, k, W, SW, DW, False)
                met = there & in_width
                seen = tl.load(start + column.to(tl.int64) * x_p, mask=met, other=0)
                made = made + (tl.where(met, sums[k] + slope * widen(seen), sums[k]),)
        else:
            for k in tl.static_range(KW):
                made = made + (sums[k],)
        sums = made + (sums[KW] + slope,)
    columns = block * C_BLOCK + tl.arange(0, C_BLOCK)
    result = partial + share.to(tl.int64) * width
    if NEED_WEIGHT:
        for k in tl.static_range(KW):
            to = result + columns.to(tl.int64) * (KT * KH * KW) + row * KW + k
            tl.store(to, sum_along(sums[k], 1, False), mask=columns < C)
    if NEED_BIAS:
        tl.store(
            result + bias_column + columns, sum_along(sums[KW], 1, False), mask=(columns < C) & (row == 0)
        )


def _steps(at: Walk) -> tuple[int, int, int, int]:
    return at.sN, 1 if at.last else at.sC, at.sT, at.sP


def _constants(
    kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> dict[str, int]:
    """The numbers of the three axes as constants of the kernels."""
    names = (("K", kernel), ("S", stride), ("P", padding), ("D", dilation))
    return {f"{name}{axis}": int(n) for name, of in names for axis, n in zip("THW", of, strict=True)}


def _sizes(x: Tensor, y: Tensor) -> tuple[int, ...]:
    return (int(x.shape[1]), *(int(size) for size in (*x.shape[2:], *y.shape[2:])))


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor, geometry: dict[str, int], transposed: bool
) -> None:
    at, out = walk(x), walk(y)
    share = SHARE.value // 2 if x.element_size() == 8 else SHARE.value
    shape = TILES(share, out.C, out.P, at.last, x.element_size())
    blocks, p_blocks = triton.cdiv(out.C, shape.c_block), triton.cdiv(out.P, shape.p_block)
    wrap_triton(depthwise_conv3d_kernel)[(blocks * p_blocks * out.N * out.T,)](
        x, weight, x if bias is None else bias, y, *_steps(at), *_steps(out), *_sizes(x, y), blocks, p_blocks,
        **geometry, TRANSPOSED=transposed, BIAS=bias is not None, LAST=at.last, C_BLOCK=shape.c_block,
        P_BLOCK=shape.p_block, num_warps=shape.warps, num_stages=1,
    )  # fmt: skip


def _sizes_out(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> tuple[int, int, int]:
    t, h, w = (
        (size + 2 * p - d * (k - 1) - 1) // s + 1 if size else 0
        for size, k, s, p, d in zip(x.shape[2:], kernel, stride, padding, dilation, strict=True)
    )
    return t, h, w


@operator
def depthwise_conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """Forward; see :func:`vidops.ops.depthwise_conv3d`."""
    x = native(x)
    kernel = weight.shape[2:]
    shape = (x.shape[0], x.shape[1], *_sizes_out(x, kernel, stride, padding, dilation))
    y = x.new_empty_strided(shape, clip_strides(shape, layout_of(x)))
    if y.numel() == 0:
        return y
    bias = None if bias is None else bias.contiguous()
    _convolve(x, weight.contiguous(), bias, y, _constants(kernel, stride, padding, dilation), False)
    return y


@operator
def depthwise_conv3d_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; those not needed have shape (0,)."""
    x = native(x)
    dx = empty_clip(x) if need_x else x.new_empty(0)
    dweight = x.new_empty(weight.shape if need_weight else (0,))
    dbias = x.new_empty(x.shape[1] if need_bias else 0)
    if grad.numel() == 0:
        return dx.zero_(), dweight.zero_(), dbias.zero_()
    grad = native_like(grad, x)
    geometry = _constants(weight.shape[2:], stride, padding, dilation)
    if need_x:
        _convolve(grad, weight.contiguous(), None, dx, geometry, True)
    width = dweight.numel() + dbias.numel()
    if width:
        at, out = walk(x), walk(grad)
        shape = TILES(elements(BYTES_WEIGHT, x.element_size()), out.C, out.P, at.last, x.element_size())
        blocks, p_blocks = triton.cdiv(out.C, shape.c_block), triton.cdiv(out.P, shape.p_block)
        blocks_of = blocks * (geometry["KT"] * geometry["KH"] if need_weight else 1)
        items = out.N * out.T * p_blocks
        run = RUNS(items * blocks_of)
        rows = triton.cdiv(items, run)
        partial = x.new_empty(
            (rows, width), dtype=torch.float64 if x.dtype == torch.float64 else torch.float32
        )
        wrap_triton(depthwise_conv3d_weight_kernel)[(rows * blocks_of,)](
            x, grad, partial, *_steps(at), *_steps(out), *_sizes(x, grad), blocks, p_blocks, items, run, width,
            dweight.numel(), **geometry, NEED_WEIGHT=need_weight, NEED_BIAS=need_bias, C_BLOCK=shape.c_block,
            P_BLOCK=shape.p_block, num_warps=shape.warps, num_stages=1,
        )  # fmt: skip
        wrap_triton(temporal_conv_sum_kernel)[(triton.cdiv(width, COLUMNS),)](
            partial, dweight, dbias, rows, width, dweight.numel(), ROWS=ROWS, COLUMNS=COLUMNS, num_warps=WARPS,
        )  # fmt: skip
    return dx, dweight, dbias


def _case(
    name: str,
    registers: int,
    shape: tuple[int, int, int, int, int],
    kernel: tuple[int, int, int],
    dtype: torch.dtype = torch.bfloat16,
    layout: str = "NCTHW",
    stride: tuple[int, int, int] = (1, 1, 1),
    backward: bool = False,
    quick: bool = False,
) -> CompileCase:
    def call() -> None:
        x = meta_clip(shape, dtype, layout)
        weight = x.new_empty(shape[1], 1, *kernel)
        padding = [k // 2 for k in kernel]
        y = depthwise_conv3d(x, weight, x.new_empty(shape[1]), stride, padding, (1, 1, 1))
        if backward:
            depthwise_conv3d_backward(y, x, weight, stride, padding, (1, 1, 1), True, True, True)

    return CompileCase(name, call, registers, quick)


_X3D, _REGION = (16, 54, 16, 56, 56), (16, 256, 8, 28, 28)
COMPILE_CASES = [
    _case("bf16, 3x3x3", 96, _X3D, (3, 3, 3), backward=True, quick=True),
    _case("fp32, 3x3x3, halved", 96, _X3D, (3, 3, 3), torch.float32, stride=(1, 2, 2), backward=True),
    _case("bf16, 3x3x3, channels last", 128, _X3D, (3, 3, 3), layout="NTHWC", backward=True),
    _case("bf16, 3x7x7", 144, _REGION, (3, 7, 7), backward=True),
    _case("fp32, 3x7x7, channels last", 160, _REGION, (3, 7, 7), torch.float32, "NTHWC", backward=True),
    _case("fp64, 3x9x9", 160, (2, 24, 8, 7, 7), (3, 9, 9), torch.float64, backward=True),
]
