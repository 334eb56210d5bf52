"""temporal_conv in Triton: one pass over the clip, whatever the groups.

Floor: x read once, y written once; backward reads the gradient and x once and writes dx once. A program owns a tile
of channels of one group and of positions, [C_BLOCK, P_BLOCK], and walks its frames with the last TAPS - 1 of them in
registers, so that one instruction loads an element, once. Dilation d makes d interleaved walks of the frames. Stride
and padding only decide which frames there are on which side:

    forward   reads x, every frame                            writes y, every STRIDE-th frame from OFFSET on
    backward  reads grad, every STRIDE-th from OFFSET on      writes dx, every frame, with mirrored taps

Up to 16 frames their number is a constant of the kernel: the walk unrolls, all loads are issued before the first
sum, and backward drops the products with padding. Longer clips are walked 4 frames at a time.

In backward a tile of x meets the same window of gradients: one product a tap for dx, one for dW. A program keeps its
sums of every tap in registers over a run of (clip, position block) items and writes them once as a row; a second
kernel adds the rows in a fixed order. The split depends on shapes alone: results are the same on every device.

Groups with more taps than a window holds read their frames again for every tap, from the caches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..ops.layouts import empty_clip
from . import _groups
from ._clip import Walk, alignment, native, native_like, tile, walk
from ._device import device, narrow, steps, tile_at, tile_of, widen
from ._register import operator, wrap_triton
from ._temporal_walk import (
    STATIC_FRAMES, WINDOW, backward_window, forward_reread, forward_window, load_taps, own_channels, pick,
    reread_weight, reread_x, spread, unroll,
)  # fmt: skip

# Elements of a tile a thread, by bytes an element: 16 bytes where registers allow. Channels last keeps taps of every
# channel in registers, and backward sums of every tap.
PLANAR, LAST, BACKWARD = {2: 8, 4: 4, 8: 2}, {2: 4, 4: 4, 8: 2}, {2: 4, 4: 4, 8: 2}
# Forward: items that a program walks where its taps are worth keeping, that is where it owns several channels.
RUN = 8
# Backward: programs, planar and channels last, that fill a large GPU several times over, and the most items of one.
# Channels last has fewer programs, since each writes the sums of a whole line of channels.
PROGRAMS = {False: 4096, True: 2048}
LONGEST_RUN = 16
WARPS, ROWS, COLUMNS = 4, 64, 32  # tile of the kernel that adds the rows of partial sums


@device
def _forward_group(
    x, weight, bias, y, block, begin, end, p_blocks, channel, channels, tap, T, P, x_n, x_t, x_o, y_n, y_t, y_o,
    TAPS: tl.constexpr, DILATION: tl.constexpr, FRAMES: tl.constexpr, STRIDE: tl.constexpr, OFFSET: tl.constexpr,
    CLAMP: tl.constexpr, BIAS: tl.constexpr, LAST: tl.constexpr, C_BLOCK: tl.constexpr, P_BLOCK: tl.constexpr,
):  # fmt: skip
    """One run of tiles of a group. ``channel`` and ``tap`` are the group's first ones, ``block`` counts its tiles."""
    c, own = own_channels(block, channels, C_BLOCK)
    weight += tap + c * TAPS
    start = widen(tl.zeros((C_BLOCK, P_BLOCK), y.dtype.element_ty))
    if BIAS:
        start += widen(tl.load(bias + channel + c, mask=own, other=0))
    SPREAD: tl.constexpr = spread(TAPS, DILATION, STRIDE)
    UNROLL: tl.constexpr = unroll(FRAMES, -2 * OFFSET, SPREAD)
    if FRAMES > 0:
        frames = FRAMES
    else:
        frames = T
    out_frames = (frames - 2 * OFFSET + STRIDE - 1) // STRIDE
    if TAPS <= WINDOW:
        taps = load_taps(weight, own, TAPS)
    for item in range(begin, end):
        clip, position, inside = tile_of(item, p_blocks, own, P, P_BLOCK)
        source = tile_at(x + clip * x_n, position, channel + block * C_BLOCK, x_o, C_BLOCK, P_BLOCK, LAST)
        result = tile_at(y + clip * y_n, position, channel + block * C_BLOCK, y_o, C_BLOCK, P_BLOCK, LAST)
        if TAPS <= WINDOW:
            forward_window(
                source, taps, start, result, inside, frames, out_frames, x_t, y_t,
                TAPS, SPREAD, UNROLL, STRIDE, OFFSET, CLAMP,
            )  # fmt: skip
        else:
            forward_reread(
                source, weight, start, result, own, inside, frames, out_frames, x_t, y_t,
                TAPS, DILATION, STRIDE, OFFSET, CLAMP,
            )  # fmt: skip


@triton.jit(do_not_specialize=["x_n", "x_t", "x_o", "y_n", "y_t", "y_o", "T", "P", "blocks", "items", "run",
                               "p_blocks", "channel", "tap", "channels0", "channels1", "channels2",
                               "channels3"])  # fmt: skip
def temporal_conv_kernel(
    x, weight, bias, y, x_n, x_t, x_o, y_n, y_t, y_o, T, P, blocks, items, run, p_blocks,
    channel, tap, channels0, channels1, channels2, channels3,
    TAPS0: tl.constexpr, TAPS1: tl.constexpr, TAPS2: tl.constexpr, TAPS3: tl.constexpr,
    DILATION0: tl.constexpr, DILATION1: tl.constexpr, DILATION2: tl.constexpr, DILATION3: tl.constexpr,
    FRAMES: tl.constexpr, STRIDE: tl.constexpr, OFFSET: tl.constexpr, CLAMP: tl.constexpr, BIAS: tl.constexpr,
    LAST: tl.constexpr, ALIGN: tl.constexpr, C_BLOCK: tl.constexpr, P_BLOCK: tl.constexpr,
):  # fmt: skip
    """Up to four groups from ``channel`` and ``tap`` on. Steps and the fast axis are in units of ALIGN elements.

    A program takes a run of ``run`` of the ``items`` (clip, position block) for one of the ``blocks`` of channels.
    """
    program = tl.program_id(0)
    if LAST:
        block = program % blocks
        begin = program // blocks * run
    else:  # in the order of memory; here a run is one item, or every clip is
        block = program // p_blocks % blocks
        begin = (program % p_blocks + program // (p_blocks * blocks) * p_blocks) * run
    end = tl.minimum(begin + run, items)
    x_n, x_t, x_o = steps(x_n, x_t, x_o, ALIGN)
    y_n, y_t, y_o = steps(y_n, y_t, y_o, ALIGN)
    sizes = (channels0, channels1, channels2, channels3)
    UNIT: tl.constexpr = ALIGN if LAST else 1
    channel = channel.to(tl.int64) * UNIT
    first = 0
    for g in tl.static_range(4):
        if pick(g, TAPS0, TAPS1, TAPS2, TAPS3) > 0:
            channels = sizes[g] * UNIT
            tiles = tl.cdiv(channels, C_BLOCK)
            if (block >= first) & (block < first + tiles):
                _forward_group(
                    x, weight, bias, y, block - first, begin, end, p_blocks, channel, channels, tap,
                    T, P * (ALIGN // UNIT), x_n, x_t, x_o, y_n, y_t, y_o,
                    pick(g, TAPS0, TAPS1, TAPS2, TAPS3), pick(g, DILATION0, DILATION1, DILATION2, DILATION3),
                    FRAMES, STRIDE, OFFSET, CLAMP, BIAS, LAST, C_BLOCK, P_BLOCK,
                )  # fmt: skip
            first += tiles
            channel += channels
            tap += channels * pick(g, TAPS0, TAPS1, TAPS2, TAPS3)


@device
def _backward_group(
    grad, x, weight, dx, row, block, begin, end, p_blocks, channel, channels, tap, bias_column, T, P,
    g_n, g_t, g_o, x_n, x_t, x_o, dx_n, dx_t, dx_o,
    TAPS: tl.constexpr, DILATION: tl.constexpr, FRAMES: tl.constexpr, STRIDE: tl.constexpr, OFFSET: tl.constexpr,
    FOLD: tl.constexpr, NEED_X: tl.constexpr, NEED_WEIGHT: tl.constexpr, NEED_BIAS: tl.constexpr,
    LAST: tl.constexpr, C_BLOCK: tl.constexpr, P_BLOCK: tl.constexpr,
):  # fmt: skip
    """One run of tiles of a group; its sums go to ``row``."""
    c, own = own_channels(block, channels, C_BLOCK)
    weight += tap + c * TAPS
    if FRAMES > 0:
        frames = FRAMES
    else:
        frames = T
    grad_frames = (frames - 2 * OFFSET + STRIDE - 1) // STRIDE
    UNROLL: tl.constexpr = unroll(FRAMES, (TAPS - 1) * DILATION if FOLD else 0, DILATION)
    zero = widen(tl.zeros((C_BLOCK, P_BLOCK), x.dtype.element_ty))
    taps = ()
    sums = ()
    if TAPS <= WINDOW:
        taps = load_taps(weight, own, TAPS)
        if NEED_WEIGHT:
            for j in tl.static_range(TAPS):
                sums = sums + (zero,)
        if NEED_BIAS:
            sums = sums + (zero,)
    for item in range(begin, end):
        clip, position, inside = tile_of(item, p_blocks, own, P, P_BLOCK)
        first = channel + block * C_BLOCK
        source = tile_at(grad + clip * g_n, position, first, g_o, C_BLOCK, P_BLOCK, LAST)
        result = tile_at(dx + clip * dx_n, position, first, dx_o, C_BLOCK, P_BLOCK, LAST)
        if TAPS <= WINDOW:
            other = tile_at(x + clip * x_n, position, first, x_o, C_BLOCK, P_BLOCK, LAST)
            sums = backward_window(
                source, other, result, taps, sums, inside, frames, grad_frames, g_t, x_t, dx_t,
                TAPS, DILATION, UNROLL, STRIDE, OFFSET, FOLD, NEED_X, NEED_WEIGHT, NEED_BIAS,
            )  # fmt: skip
        elif NEED_X:
            reread_x(
                source, weight, result, own, inside, frames, grad_frames, g_t, dx_t,
                TAPS, DILATION, STRIDE, OFFSET, FOLD,
            )  # fmt: skip
    columns = block * C_BLOCK + tl.arange(0, C_BLOCK)
    if TAPS <= WINDOW:
        if NEED_WEIGHT:
            for j in tl.static_range(TAPS):
                tl.store(row + tap + columns * TAPS + j, tl.sum(sums[j], 1), mask=columns < channels)
        if NEED_BIAS:
            tl.store(row + bias_column + channel + columns, tl.sum(sums[-1], 1), mask=columns < channels)
    elif NEED_WEIGHT or NEED_BIAS:
        for j in range(0 if NEED_WEIGHT else TAPS, TAPS + 1 if NEED_BIAS else TAPS):
            total = zero
            for item in range(begin, end):
                clip, position, inside = tile_of(item, p_blocks, own, P, P_BLOCK)
                first = channel + block * C_BLOCK
                source = tile_at(grad + clip * g_n, position, first, g_o, C_BLOCK, P_BLOCK, LAST)
                other = tile_at(x + clip * x_n, position, first, x_o, C_BLOCK, P_BLOCK, LAST)
                total = reread_weight(
                    source, other, total, j, inside, frames, grad_frames, g_t, x_t,
                    TAPS, DILATION, STRIDE, OFFSET, FOLD,
                )  # fmt: skip
            column = tl.where(j < TAPS, tap + columns * TAPS + j, bias_column + channel + columns)
            tl.store(row + column, tl.sum(total, 1), mask=columns < channels)


@triton.jit(do_not_specialize=["g_n", "g_t", "g_o", "x_n", "x_t", "x_o", "dx_n", "dx_t", "dx_o", "T", "P", "blocks",
                               "items", "run", "p_blocks", "width", "bias_column", "channel", "tap", "channels0",
                               "channels1", "channels2", "channels3"])  # fmt: skip
def temporal_conv_backward_kernel(
    grad, x, weight, dx, partial, g_n, g_t, g_o, x_n, x_t, x_o, dx_n, dx_t, dx_o, T, P, blocks, items, run, p_blocks,
    width, bias_column, channel, tap, channels0, channels1, channels2, channels3,
    TAPS0: tl.constexpr, TAPS1: tl.constexpr, TAPS2: tl.constexpr, TAPS3: tl.constexpr,
    DILATION0: tl.constexpr, DILATION1: tl.constexpr, DILATION2: tl.constexpr, DILATION3: tl.constexpr,
    FRAMES: tl.constexpr, STRIDE: tl.constexpr, OFFSET: tl.constexpr, FOLD: tl.constexpr, NEED_X: tl.constexpr,
    NEED_WEIGHT: tl.constexpr, NEED_BIAS: tl.constexpr, LAST: tl.constexpr, ALIGN: tl.constexpr,
    C_BLOCK: tl.constexpr, P_BLOCK: tl.constexpr,
):  # fmt: skip
    """Arguments as forward; ``partial`` has one row of ``width`` sums a run: weights, then from bias_column biases."""
    program = tl.program_id(0)
    block = program % blocks
    row = partial + (program // blocks).to(tl.int64) * width
    begin = program // blocks * run
    end = tl.minimum(begin + run, items)
    g_n, g_t, g_o = steps(g_n, g_t, g_o, ALIGN)
    x_n, x_t, x_o = steps(x_n, x_t, x_o, ALIGN)
    dx_n, dx_t, dx_o = steps(dx_n, dx_t, dx_o, ALIGN)
    sizes = (channels0, channels1, channels2, channels3)
    UNIT: tl.constexpr = ALIGN if LAST else 1
    channel = channel.to(tl.int64) * UNIT
    first = 0
    for g in tl.static_range(4):
        if pick(g, TAPS0, TAPS1, TAPS2, TAPS3) > 0:
            channels = sizes[g] * UNIT
            tiles = tl.cdiv(channels, C_BLOCK)
            if (block >= first) & (block < first + tiles):
                _backward_group(
                    grad, x, weight, dx, row, block - first, begin, end, p_blocks, channel, channels, tap,
                    bias_column, T, P * (ALIGN // UNIT), g_n, g_t, g_o, x_n, x_t, x_o, dx_n, dx_t, dx_o,
                    pick(g, TAPS0, TAPS1, TAPS2, TAPS3), pick(g, DILATION0, DILATION1, DILATION2, DILATION3),
                    FRAMES, STRIDE, OFFSET, FOLD, NEED_X, NEED_WEIGHT, NEED_BIAS, LAST, C_BLOCK, P_BLOCK,
                )  # fmt: skip
            first += tiles
            channel += channels
            tap += channels * pick(g, TAPS0, TAPS1, TAPS2, TAPS3)


@triton.jit(do_not_specialize=["rows", "width", "bias_column"])
def temporal_conv_sum_kernel(
    partial, dweight, dbias, rows, width, bias_column, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Adds the rows of partial sums, always in the same order."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    total = tl.zeros((ROWS, COLUMNS), partial.dtype.element_ty)
    for first in range(0, rows, ROWS):
        row = first + tl.arange(0, ROWS)[:, None]
        total += tl.load(partial + row.to(tl.int64) * width + column, mask=(row < rows) & (column < width), other=0)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    result = narrow(tl.sum(total, 0), dweight.dtype.element_ty)
    tl.store(dweight + column, result, mask=column < bias_column)
    tl.store(dbias + column - bias_column, result, mask=(column >= bias_column) & (column < width))


def _settings(parsed: _groups.Groups, stride: int, padding: str, at: Walk, align: int) -> dict[str, int]:
    """Constants that the kernels of both directions take."""
    return {
        "FRAMES": int(at.T) if at.T <= STATIC_FRAMES else 0,
        "STRIDE": int(stride),
        "OFFSET": parsed.reach if padding == "valid" else 0,
        "LAST": at.last,
        "ALIGN": align,
        "num_stages": 1,
    }


def _align(x: Tensor, parsed: _groups.Groups, *walks: Walk) -> int:
    """Elements that divide every step, and the length of the fast axis, of clips that are walked together."""
    lengths = [c for bundle in parsed.bundles for c in bundle.channels] if walks[0].last else [walks[0].P]
    return alignment(x, *lengths, *[step for at in walks for step in at.steps])


def _launches(parsed: _groups.Groups, align: int, last: bool) -> Iterator[tuple[tuple[int, ...], dict[str, int]]]:
    """For every launch, its groups as the kernels take them: arguments and constants."""
    unit = align if last else 1
    for bundle in parsed.bundles:
        arguments = (bundle.channel // unit, bundle.tap, *[c // unit for c in bundle.channels])
        constants = {f"TAPS{i}": taps for i, taps in enumerate(bundle.taps)}
        yield arguments, constants | {f"DILATION{i}": dilation for i, dilation in enumerate(bundle.dilations)}


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
    share = (LAST if at.last else PLANAR)[x.element_size()]
    shape = tile(share, parsed.widest, int(at.P), at.last, x.element_size())
    p_blocks = triton.cdiv(at.P, shape.p_block)
    items = at.N * p_blocks
    run = RUN if shape.c_block > 1 and (at.last or p_blocks == 1) else 1
    for arguments, constants in _launches(parsed, align, at.last):
        blocks = _groups.blocks(arguments[2:], shape.c_block // (align if at.last else 1))
        wrap_triton(temporal_conv_kernel)[(blocks * triton.cdiv(items, run),)](
            x, weight, x if bias is None else bias, y, *at.scaled(align), *out.scaled(align),
            at.T, at.P if at.last else at.P // align, blocks, items, run, p_blocks, *arguments,
            CLAMP=padding == "replicate", BIAS=bias is not None, C_BLOCK=shape.c_block, P_BLOCK=shape.p_block,
            num_warps=shape.warps, **constants, **_settings(parsed, stride, padding, at, align),
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
    shape = tile(BACKWARD[x.element_size()], parsed.widest, int(at.P), at.last, x.element_size())
    p_blocks = triton.cdiv(at.P, shape.p_block)
    items = at.N * p_blocks
    unit = align if at.last else 1
    launches = list(_launches(parsed, align, at.last))
    counts = [_groups.blocks(arguments[2:], shape.c_block // unit) for arguments, _ in launches]
    run = max(1, min(LONGEST_RUN, items * sum(counts) // PROGRAMS[at.last]))
    rows = triton.cdiv(items, run)
    width = dweight.shape[0] + dbias.shape[0]
    partial = x.new_empty((rows, width), dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
    for blocks, (arguments, constants) in zip(counts, launches, strict=True):
        wrap_triton(temporal_conv_backward_kernel)[(blocks * rows,)](
            grad, x, weight, dx, partial, *source.scaled(align), *at.scaled(align), *result.scaled(align),
            at.T, at.P if at.last else at.P // align, blocks, items, run, p_blocks, width, dweight.shape[0], *arguments,
            FOLD=padding == "replicate", NEED_X=need_x, NEED_WEIGHT=need_weight, NEED_BIAS=need_bias,
            C_BLOCK=shape.c_block, P_BLOCK=shape.p_block, num_warps=shape.warps, **constants,
            **_settings(parsed, stride, padding, at, align),
        )  # fmt: skip
    if width:
        wrap_triton(temporal_conv_sum_kernel)[(triton.cdiv(width, COLUMNS),)](
            partial, dweight, dbias, rows, width, dweight.shape[0], ROWS=ROWS, COLUMNS=COLUMNS, num_warps=WARPS
        )
    return dx, dweight, dbias
