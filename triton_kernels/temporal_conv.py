"""temporal_conv in Triton: one pass over the clip, whatever the groups.

Floor: x read once, y written once; backward reads the gradient and x once and writes dx once. A program owns
a tile of channels of one group and of positions, [C_BLOCK, P_BLOCK], and walks its frames with the last TAPS
- 1 of them in registers, so that one instruction loads an element, once. Dilation d makes d interleaved walks
of the frames. Stride and padding only decide which frames there are on which side:

    forward   reads x, every frame                            writes y, every STRIDE-th frame from OFFSET on
    backward  reads grad, every STRIDE-th from OFFSET on      writes dx, every frame, with mirrored taps

Up to 16 frames their number is a constant of the kernel: the walk unrolls, all loads are issued before the
first sum, and backward drops the products with padding. Longer clips are walked 4 frames at a time.

In backward a tile of x meets the same window of gradients: one product a tap for dx, one for dW. A program
keeps its sums of every tap in registers over a run of (clip, position block) items and writes them once as a
row; a second kernel adds the rows in a fixed order. The split depends on shapes and knobs
alone: results are the same on every device that has the same values.

Groups with more taps than a window holds read their frames again for every tap, from the caches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from ..ops.layouts import empty_clip
from ..tuning import Knob
from . import _groups
from ._clip import Runs, Tile, Tiles, Walk, alignment, elements, native, native_like, walk
from ._compile import CompileCase, meta_clip
from ._register import operator, wrap_triton
from ._temporal_kernels import temporal_conv_backward_kernel, temporal_conv_kernel, temporal_conv_sum_kernel

# Bytes of a tile a thread where channels are planar: 16 are the widest load, twice as many two.
BYTES = Knob("temporal_conv", "triton", "bytes", 16, (8, 16, 32))
# Elements, half as many of fp64: channels last keeps taps of every channel in registers, and backward sums of every
# tap. 8 take up to 243 registers in bf16, so that few programs run at once.
SHARE_LAST = Knob("temporal_conv", "triton", "share_last", 4, (2, 4, 8))
SHARE_BACKWARD = Knob("temporal_conv", "triton", "share_backward", 4, (2, 4, 8))
STATIC_FRAMES = 16  # up to here the number of frames is a constant of the kernel
# Most frames that are loaded side by side, forward and backward, when there are no more, and how many when there are.
WHOLE = 16, 8
CHUNK = Knob("temporal_conv", "triton", "chunk", 4, (2, 4, 8))
# Forward keeps its taps over a run, backward writes fewer rows. Channels last has half as many programs, since each
# writes the sums of a whole line of channels.
TILES, RUNS = Tiles("temporal_conv"), Runs("temporal_conv")
WARPS, ROWS, COLUMNS = 4, 64, 32  # tile of the kernel that adds the rows of partial sums


def _settings(
    parsed: _groups.Groups, stride: int, padding: str, at: Walk, align: int, shape: Tile
) -> dict[str, int]:
    """Constants and options that the kernels of both directions take."""
    return {
        "FRAMES": at.T if at.T <= STATIC_FRAMES else 0,
        "STRIDE": int(stride),
        "OFFSET": parsed.reach if padding == "valid" else 0,
        "LAST": at.last,
        "ALIGN": align,
        "C_BLOCK": shape.c_block,
        "P_BLOCK": shape.p_block,
        "num_warps": shape.warps,
        "num_stages": 1,
    }


def _align(x: Tensor, parsed: _groups.Groups, *walks: Walk) -> int:
    """Elements that divide every step, and the length of the fast axis, of clips that are walked together."""
    lengths = [c for bundle in parsed.bundles for c in bundle.channels] if walks[0].last else [walks[0].P]
    return alignment(x, *lengths, *[step for at in walks for step in at.steps])


def _run(parsed: _groups.Groups, shape: Tile, items: int, last: bool) -> int:
    """Items of a program."""
    tiles = items * sum(_groups.blocks(bundle, shape.c_block) for bundle in parsed.bundles)
    return RUNS(tiles, 2 if last else 1)


def _share(knob: Knob[int], x: Tensor) -> int:
    """Elements of a tile a thread."""
    return max(knob.value // 2, 1) if x.element_size() == 8 else knob.value


def _groups_of(bundle: _groups.Bundle, unit: int) -> tuple[tuple[int, ...], dict[str, int]]:
    """A bundle as the kernels take it: arguments, with channels in units of so many, and constants."""
    arguments = (bundle.channel // unit, bundle.tap, *[c // unit for c in bundle.channels])
    constants = {f"TAPS{i}": taps for i, taps in enumerate(bundle.taps)}
    return arguments, constants | {f"DILATION{i}": dilation for i, dilation in enumerate(bundle.dilations)}


@operator
def temporal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, groups: Sequence[int], stride: int, padding: str
) -> Tensor:
    """Forward; see :func:`vidops.ops.temporal_conv`. ``groups`` is flat: C_0, k_0, d_0, C_1, ..."""
    parsed = _groups.parse(groups)
    x = native(x)
    reach = parsed.reach if padding == "valid" else 0
    y = empty_clip(x, (x.shape[2] - 2 * reach + stride - 1) // stride)
    if y.numel() == 0:
        return y
    weight = weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    at, out = walk(x), walk(y)
    align = _align(x, parsed, at, out)
    share = _share(SHARE_LAST, x) if at.last else elements(BYTES, x.element_size())
    shape = TILES(share, parsed.widest, at.P, at.last, x.element_size())
    p_blocks = triton.cdiv(at.P, shape.p_block)
    items = at.N * p_blocks
    # A single channel's taps are scalars, not worth leaving the order of memory for.
    run = _run(parsed, shape, items, at.last) if shape.c_block > 1 else 1
    for bundle in parsed.bundles:
        blocks = _groups.blocks(bundle, shape.c_block)
        arguments, constants = _groups_of(bundle, align if at.last else 1)
        wrap_triton(temporal_conv_kernel)[(blocks * triton.cdiv(items, run),)](
            x, weight, x if bias is None else bias, y, *at.scaled(align), *out.scaled(align),
            at.T, at.P if at.last else at.P // align, blocks, items, run, p_blocks, *arguments, WHOLE=WHOLE[0],
            CHUNK=CHUNK.value, CLAMP=padding == "replicate", BIAS=bias is not None,
            **constants, **_settings(parsed, stride, padding, at, align, shape),
        )  # fmt: skip
    return y


@operator
def temporal_conv_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    groups: Sequence[int],
    stride: int,
    padding: str,
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; those not needed have shape (0,)."""
    parsed = _groups.parse(groups)
    x = native(x)
    dx = empty_clip(x) if need_x else x.new_empty(0)
    dweight = x.new_empty(parsed.weights if need_weight else 0)
    dbias = x.new_empty(x.shape[1] if need_bias else 0)
    if grad.numel() == 0:
        return dx.zero_(), dweight.zero_(), dbias.zero_()
    grad = native_like(grad, x)
    weight = weight.contiguous()
    at, source = walk(x), walk(grad)
    result = walk(dx) if need_x else at
    align = _align(x, parsed, at, source, result)
    # Unaligned elements have an address each, and replicate has two more sums: fewer at a time fit the registers.
    share = min(_share(SHARE_BACKWARD, x), 2 * align)
    chunk = 1 if padding == "replicate" else CHUNK.value if align > 1 else CHUNK.value // 2
    shape = TILES(share, parsed.widest, at.P, at.last, x.element_size())
    p_blocks = triton.cdiv(at.P, shape.p_block)
    items = at.N * p_blocks
    run = _run(parsed, shape, items, at.last)
    rows = triton.cdiv(items, run)
    width = dweight.shape[0] + dbias.shape[0]
    partial = x.new_empty((rows, width), dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
    for bundle in parsed.bundles:
        blocks = _groups.blocks(bundle, shape.c_block)
        arguments, constants = _groups_of(bundle, align if at.last else 1)
        wrap_triton(temporal_conv_backward_kernel)[(blocks * rows,)](
            grad, x, weight, dx, partial, *source.scaled(align), *at.scaled(align), *result.scaled(align),
            at.T, at.P if at.last else at.P // align, blocks, items, run, p_blocks, width, dweight.shape[0],
            *arguments, WHOLE=WHOLE[1], CHUNK=chunk, FOLD=padding == "replicate",
            NEED_X=need_x, NEED_WEIGHT=need_weight, NEED_BIAS=need_bias,
            **constants, **_settings(parsed, stride, padding, at, align, shape),
        )  # fmt: skip
    if width:
        wrap_triton(temporal_conv_sum_kernel)[(triton.cdiv(width, COLUMNS),)](
            partial,
            dweight,
            dbias,
            rows,
            width,
            dweight.shape[0],
            ROWS=ROWS,
            COLUMNS=COLUMNS,
            num_warps=WARPS,
        )
    return dx, dweight, dbias


def _case(
    name: str,
    registers: int,
    shape: tuple[int, int, int, int, int],
    dtype: torch.dtype = torch.bfloat16,
    layout: str = "NCTHW",
    groups: tuple[tuple[int, int, int], ...] = ((64, 1, 1), (64, 3, 1), (64, 5, 1), (64, 7, 1)),
    stride: int = 1,
    padding: str = "zeros",
    backward: bool = False,
    quick: bool = False,
) -> CompileCase:
    flat = [value for triple in groups for value in triple]

    def call() -> None:
        x = meta_clip(shape, dtype, layout)
        weight = x.new_empty(sum(c * k for c, k, _ in groups))
        if backward:
            reach = _groups.parse(flat).reach if padding == "valid" else 0
            grad = empty_clip(x, (shape[2] - 2 * reach + stride - 1) // stride)
            temporal_conv_backward(grad, x, weight, flat, stride, padding, True, True, True)
        else:
            temporal_conv(x, weight, x.new_empty(shape[1]), flat, stride, padding)

    return CompileCase(name, call, registers, quick)


_WIDE, _DEEP = (16, 256, 8, 56, 56), (64, 1024, 8, 14, 14)
_QUARTERS = ((256, 1, 1), (256, 3, 1), (256, 5, 1), (256, 7, 1))
_MIXED = ((4, 3, 2), (4, 7, 3), (4, 9, 1))
COMPILE_CASES = [
    _case("forward, bf16, 56x56", 96, _WIDE, quick=True),
    _case("backward, bf16, 56x56", 136, _WIDE, backward=True, quick=True),
    _case("forward, fp32, 56x56", 80, _WIDE, torch.float32),
    _case("backward, fp32, 56x56", 128, _WIDE, torch.float32, backward=True),
    _case("forward, bf16, NTCHW, 14x14", 96, _DEEP, layout="NTCHW", groups=_QUARTERS),
    _case("backward, bf16, NTCHW, 14x14", 128, _DEEP, layout="NTCHW", groups=_QUARTERS, backward=True),
    _case("forward, bf16, channels last", 128, _WIDE, layout="NTHWC"),
    _case("backward, bf16, channels last", 168, _WIDE, layout="NTHWC", backward=True),
    _case("forward, fp64, 7x7", 80, (2, 256, 8, 7, 7), torch.float64),
    _case("backward, fp64, 7x7", 128, (2, 256, 8, 7, 7), torch.float64, backward=True),
    _case("forward, bf16, 16 frames", 168, (8, 256, 16, 28, 28)),
    _case("backward, bf16, 16 frames", 168, (8, 256, 16, 28, 28), backward=True),
    _case("forward, 32 frames, replicate", 112, (4, 256, 32, 28, 28), torch.float16, padding="replicate"),
    _case("backward, 32 frames, replicate", 168, (4, 256, 32, 28, 28), padding="replicate", backward=True),
    _case("backward, 32 frames", 168, (4, 256, 32, 28, 28), torch.float16, backward=True),
    _case("forward, mixed", 208, (2, 12, 32, 9, 9), groups=_MIXED, stride=2, padding="valid"),
    _case("backward, mixed", 136, (2, 12, 32, 9, 9), groups=_MIXED, stride=2, padding="valid", backward=True),
]
