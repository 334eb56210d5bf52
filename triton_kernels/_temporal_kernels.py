"""Kernels of temporal_conv: which program walks which tiles. ``temporal_conv.py`` states their idea."""

# ruff: noqa: RUF005 (Triton has no unpacking)
from __future__ import annotations

import triton
import triton.language as tl

from ._device import device, narrow, steps, sum_along, tile_at, tile_of, widen
from ._temporal_walk import (
    WINDOW,
    backward_window,
    forward_reread,
    forward_window,
    load_taps,
    own_channels,
    pick,
    reread_weight,
    reread_x,
    spread,
    unroll,
)

__all__ = ["temporal_conv_backward_kernel", "temporal_conv_kernel", "temporal_conv_sum_kernel"]

# Numbers that kernels are not compiled anew for; ALIGN states what of them matters.
X_Y = ["x_n", "x_t", "x_o", "y_n", "y_t", "y_o"]
GRADS = ["g_n", "g_t", "g_o", "x_n", "x_t", "x_o", "dx_n", "dx_t", "dx_o"]
SIZES = ["T", "P", "blocks", "items", "run", "p_blocks"]
GROUPS = ["channel", "tap", "channels0", "channels1", "channels2", "channels3"]


@device
def _forward_group(
    x, weight, bias, y, block, begin, end, p_blocks, channel, channels, tap, T, P, x_n, x_t, x_o, y_n, y_t,
    y_o,
    TAPS: tl.constexpr, DILATION: tl.constexpr, FRAMES: tl.constexpr, WHOLE: tl.constexpr,
    CHUNK: tl.constexpr, STRIDE: tl.constexpr, OFFSET: tl.constexpr, CLAMP: tl.constexpr, BIAS: tl.constexpr,
    LAST: tl.constexpr, C_BLOCK: tl.constexpr, P_BLOCK: tl.constexpr,
):  # fmt: skip
    """A run of tiles of a group: ``channel`` and ``tap`` are its first ones, ``block`` counts its tiles."""
    c, own = own_channels(block, channels, C_BLOCK)
    weight += tap + c * TAPS
    start = widen(tl.full((C_BLOCK, P_BLOCK), 0, y.dtype.element_ty))
    if BIAS:
        start += widen(tl.load(bias + channel + c, mask=own, other=0))
    SPREAD: tl.constexpr = spread(TAPS, DILATION, STRIDE)
    UNROLL: tl.constexpr = unroll(FRAMES, -2 * OFFSET, SPREAD, WHOLE, CHUNK)
    frames = FRAMES if FRAMES > 0 else T
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


@triton.jit(do_not_specialize=[*X_Y, *SIZES, *GROUPS])
def temporal_conv_kernel(
    x, weight, bias, y, x_n, x_t, x_o, y_n, y_t, y_o, T, P, blocks, items, run, p_blocks, channel, tap,
    channels0, channels1, channels2, channels3,
    TAPS0: tl.constexpr, TAPS1: tl.constexpr, TAPS2: tl.constexpr, TAPS3: tl.constexpr,
    DILATION0: tl.constexpr, DILATION1: tl.constexpr, DILATION2: tl.constexpr, DILATION3: tl.constexpr,
    FRAMES: tl.constexpr, WHOLE: tl.constexpr, CHUNK: tl.constexpr, STRIDE: tl.constexpr,
    OFFSET: tl.constexpr, CLAMP: tl.constexpr, BIAS: tl.constexpr, LAST: tl.constexpr, ALIGN: tl.constexpr,
    C_BLOCK: tl.constexpr, P_BLOCK: tl.constexpr,
):  # fmt: skip
    """Up to four groups from ``channel`` and ``tap`` on. Steps and the fast axis are in units of ALIGN
    elements.

    A program takes a run of ``run`` of the ``items`` (clip, position block) for one of the ``blocks`` of
    channels.
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
            tiles = (channels + C_BLOCK - 1) // C_BLOCK
            if (block >= first) & (block < first + tiles):
                _forward_group(
                    x, weight, bias, y, block - first, begin, end, p_blocks, channel, channels, tap,
                    T, P * (ALIGN // UNIT), x_n, x_t, x_o, y_n, y_t, y_o,
                    pick(g, TAPS0, TAPS1, TAPS2, TAPS3), pick(g, DILATION0, DILATION1, DILATION2, DILATION3),
                    FRAMES, WHOLE, CHUNK, STRIDE, OFFSET, CLAMP, BIAS, LAST, C_BLOCK, P_BLOCK,
                )  # fmt: skip
            first += tiles
            channel += channels
            tap += channels * pick(g, TAPS0, TAPS1, TAPS2, TAPS3)


@device
def _backward_group(
    grad, x, weight, dx, row, block, begin, end, p_blocks, channel, channels, tap, bias_column, T, P, g_n,
    g_t, g_o, x_n, x_t, x_o, dx_n, dx_t, dx_o,
    TAPS: tl.constexpr, DILATION: tl.constexpr, FRAMES: tl.constexpr, WHOLE: tl.constexpr,
    CHUNK: tl.constexpr, STRIDE: tl.constexpr, OFFSET: tl.constexpr, FOLD: tl.constexpr, NEED_X: tl.constexpr,
    NEED_WEIGHT: tl.constexpr, NEED_BIAS: tl.constexpr, LAST: tl.constexpr, C_BLOCK: tl.constexpr,
    P_BLOCK: tl.constexpr,
):  # fmt: skip
    """One run of tiles of a group; its sums go to ``row``."""
    c, own = own_channels(block, channels, C_BLOCK)
    weight += tap + c * TAPS
    frames = FRAMES if FRAMES > 0 else T
    grad_frames = (frames - 2 * OFFSET + STRIDE - 1) // STRIDE
    UNROLL: tl.constexpr = unroll(FRAMES, (TAPS - 1) * DILATION if FOLD else 0, DILATION, WHOLE, CHUNK)
    zero = widen(tl.full((C_BLOCK, P_BLOCK), 0, x.dtype.element_ty))
    taps = ()
    sums = ()
    if TAPS <= WINDOW:
        taps = load_taps(weight, own, TAPS)
        if NEED_WEIGHT:
            for _ in tl.static_range(TAPS):
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
                tl.store(
                    row + tap + columns * TAPS + j, sum_along(sums[j], 1, False), mask=columns < channels
                )
        if NEED_BIAS:
            tl.store(
                row + bias_column + channel + columns, sum_along(sums[-1], 1, False), mask=columns < channels
            )
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
            tl.store(row + column, sum_along(total, 1, False), mask=columns < channels)


@triton.jit(do_not_specialize=[*GRADS, *SIZES, *GROUPS, "width", "bias_column"])
def temporal_conv_backward_kernel(
    grad, x, weight, dx, partial, g_n, g_t, g_o, x_n, x_t, x_o, dx_n, dx_t, dx_o, T, P, blocks, items, run,
    p_blocks, width, bias_column, channel, tap, channels0, channels1, channels2, channels3,
    TAPS0: tl.constexpr, TAPS1: tl.constexpr, TAPS2: tl.constexpr, TAPS3: tl.constexpr,
    DILATION0: tl.constexpr, DILATION1: tl.constexpr, DILATION2: tl.constexpr, DILATION3: tl.constexpr,
    FRAMES: tl.constexpr, WHOLE: tl.constexpr, CHUNK: tl.constexpr, STRIDE: tl.constexpr,
    OFFSET: tl.constexpr, FOLD: tl.constexpr, NEED_X: tl.constexpr, NEED_WEIGHT: tl.constexpr,
    NEED_BIAS: tl.constexpr, LAST: tl.constexpr, ALIGN: tl.constexpr, C_BLOCK: tl.constexpr,
    P_BLOCK: tl.constexpr,
):  # fmt: skip
    """Arguments as forward; ``partial`` has a row of ``width`` sums a run: of taps, then of the gradient."""
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
            tiles = (channels + C_BLOCK - 1) // C_BLOCK
            if (block >= first) & (block < first + tiles):
                _backward_group(
                    grad, x, weight, dx, row, block - first, begin, end, p_blocks, channel, channels, tap,
                    bias_column, T, P * (ALIGN // UNIT), g_n, g_t, g_o, x_n, x_t, x_o, dx_n, dx_t, dx_o,
                    pick(g, TAPS0, TAPS1, TAPS2, TAPS3), pick(g, DILATION0, DILATION1, DILATION2, DILATION3),
                    FRAMES, WHOLE, CHUNK, STRIDE, OFFSET, FOLD, NEED_X, NEED_WEIGHT, NEED_BIAS, LAST,
                    C_BLOCK, P_BLOCK,
                )  # fmt: skip
            first += tiles
            channel += channels
            tap += channels * pick(g, TAPS0, TAPS1, TAPS2, TAPS3)


@triton.jit(do_not_specialize=["rows", "width", "bias_column"])
def temporal_conv_sum_kernel(
    partial, dweight, dbias, rows, width, bias_column,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Adds the rows of partial sums, always in the same order."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    total = tl.full((ROWS, COLUMNS), 0, partial.dtype.element_ty)
    for first in range(0, rows, ROWS):
        row = first + tl.arange(0, ROWS)[:, None]
        total += tl.load(
            partial + row.to(tl.int64) * width + column, mask=(row < rows) & (column < width), other=0
        )
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    result = narrow(sum_along(total, 0, False), dweight.dtype.element_ty)
    tl.store(dweight + column, result, mask=column < bias_column)
    tl.store(dbias + column - bias_column, result, mask=(column >= bias_column) & (column < width))
