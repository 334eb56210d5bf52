"""Kernels of motion_band_pass; ``motion_band_pass.py`` states their idea.

Every program owns a tile [C_BLOCK, P_BLOCK] of channels and positions of one frame. Clips and scratch are given by
their steps of clip, channel, frame and position.
"""

# ruff: noqa: RUF005 (Triton has no unpacking)
from __future__ import annotations

import triton
import triton.language as tl

from ._device import device, narrow, sum_along, widen

__all__ = [
    "band_pass_adjoint_kernel",
    "band_pass_combine_kernel",
    "band_pass_conv_kernel",
    "band_pass_fold_kernel",
    "band_pass_frames_kernel",
    "band_pass_taps_kernel",
]

SIZES = ["C", "T", "H", "W", "frames", "blocks", "p_blocks", "stride", "first"]
_X, _Y, _Z = (
    ["x_n", "x_c", "x_t", "x_p"],
    ["y_n", "y_c", "y_t", "y_p"],
    ["z_n", "z_c", "z_t", "z_p"],
)
_G, _Q = ["g_n", "g_c", "g_t", "g_p"], ["q_n", "q_c", "q_t", "q_p"]


@device
def _place(program, frames, blocks, p_blocks, C_BLOCK: tl.constexpr, P_BLOCK: tl.constexpr):
    """Clip, frame, channels [C_BLOCK, 1] and positions [1, P_BLOCK] of a program, in the order of memory."""
    position = program % p_blocks * P_BLOCK + tl.arange(0, P_BLOCK)[None, :]
    program = program // p_blocks
    frame = program % frames
    program = program // frames
    channel = (program % blocks).to(tl.int64) * C_BLOCK + tl.arange(0, C_BLOCK)[:, None]
    return (program // blocks).to(tl.int64), frame, channel, position


@device
def _at(pointer, n, c, t, p, s_n, s_c, s_t, s_p):
    """Addresses of positions p of frame t of channels c of clip n."""
    wide = tl.full((1, 1), 1, tl.int64)
    return pointer + n * s_n + t * (wide * s_t) + c * s_c + p * (wide * s_p)


@device
def _mirrored(i, size):
    i = tl.where(i < 0, -i, i)
    return tl.where(i >= size, 2 * (size - 1) - i, i)


@device
def _frame(t, j, T, stride, first):
    """Frame j of the three that result t reads."""
    f = t * stride + first + j
    f = tl.where(f < 0, 0, f)
    return tl.where(f >= T, T - 1, f)


@triton.jit(do_not_specialize=SIZES + _X + _Z)
def band_pass_combine_kernel(
    x, temporal, z, x_n, x_c, x_t, x_p, z_n, z_c, z_t, z_p, C, T, H, W, frames, blocks, p_blocks, stride, first,
    REACH: tl.constexpr, C_BLOCK: tl.constexpr, P_BLOCK: tl.constexpr,
):  # fmt: skip
    """z: the three frames of every result combined, and padded."""
    n, t, c, p = _place(tl.program_id(0), frames, blocks, p_blocks, C_BLOCK, P_BLOCK)
    width = W + 2 * REACH
    own = (c < C) & (p < (H + 2 * REACH) * width)
    source = _mirrored(p // width - REACH, H) * W + _mirrored(p % width - REACH, W)
    total = widen(tl.full((C_BLOCK, P_BLOCK), 0, x.dtype.element_ty))
    for j in tl.static_range(3):
        frame = _frame(t, j, T, stride, first)
        tap = widen(tl.load(temporal + c * 3 + j, mask=c < C, other=0))
        total += tap * widen(tl.load(_at(x, n, c, frame, source, x_n, x_c, x_t, x_p), mask=own, other=0))
    tl.store(_at(z, n, c, t, p, z_n, z_c, z_t, z_p), total, mask=own)


@triton.jit(do_not_specialize=SIZES + _X + _Y + _Z + _Q)
def band_pass_conv_kernel(
    x, z, spatial, y, q, x_n, x_c, x_t, x_p, z_n, z_c, z_t, z_p, y_n, y_c, y_t, y_p, q_n, q_c, q_t, q_p, C, T, H, W,
    frames, blocks, p_blocks, stride, first,
    K: tl.constexpr, QUIET: tl.constexpr, C_BLOCK: tl.constexpr, P_BLOCK: tl.constexpr,
):  # fmt: skip
    """y: the spatial filter over z; q: the mean of the three frames minus y."""
    n, t, c, p = _place(tl.program_id(0), frames, blocks, p_blocks, C_BLOCK, P_BLOCK)
    width = W + K - 1
    own = (c < C) & (p < H * W)
    source = _at(z, n, c, t, p // W * width + p % W, z_n, z_c, z_t, z_p)
    total = widen(tl.full((C_BLOCK, P_BLOCK), 0, x.dtype.element_ty))
    for u in range(K):
        row = source + tl.full((1, 1), 1, tl.int64) * (u * width) * z_p
        # Nine columns at once hold more addresses than sm_80 has registers for at full occupancy.
        for v in tl.range(K, loop_unroll_factor=K if K < 9 else 3):
            tap = widen(tl.load(spatial + c * (K * K) + u * K + v, mask=c < C, other=0))
            total += tap * tl.load(row + v * z_p, mask=own, other=0)
    tl.store(_at(y, n, c, t, p, y_n, y_c, y_t, y_p), narrow(total, y.dtype.element_ty), mask=own)
    if QUIET:
        mean = widen(tl.full((C_BLOCK, P_BLOCK), 0, x.dtype.element_ty))
        for j in tl.static_range(3):
            frame = _frame(t, j, T, stride, first)
            mean += widen(tl.load(_at(x, n, c, frame, p, x_n, x_c, x_t, x_p), mask=own, other=0))
        result = narrow(mean / 3 - total, q.dtype.element_ty)
        tl.store(_at(q, n, c, t, p, q_n, q_c, q_t, q_p), result, mask=own)


@device
def _slope(
    grad, quiet, n, c, t, p, own, g_n, g_c, g_t, g_p, q_n, q_c, q_t, q_p,
    BUSY: tl.constexpr, QUIET: tl.constexpr,
):  # fmt: skip
    """The gradient of busy, less that of the quiet result."""
    if BUSY:
        value = widen(tl.load(_at(grad, n, c, t, p, g_n, g_c, g_t, g_p), mask=own, other=0))
        if QUIET:
            value -= widen(tl.load(_at(quiet, n, c, t, p, q_n, q_c, q_t, q_p), mask=own, other=0))
    else:
        value = -widen(tl.load(_at(quiet, n, c, t, p, q_n, q_c, q_t, q_p), mask=own, other=0))
    return value


@triton.jit(do_not_specialize=SIZES + _G + _Q + _Z)
def band_pass_adjoint_kernel(
    grad, quiet, spatial, d, g_n, g_c, g_t, g_p, q_n, q_c, q_t, q_p, z_n, z_c, z_t, z_p, C, H, W, frames, blocks,
    p_blocks,
    K: tl.constexpr, BUSY: tl.constexpr, QUIET: tl.constexpr, C_BLOCK: tl.constexpr, P_BLOCK: tl.constexpr,
):  # fmt: skip
    """d: the adjoint of the spatial filter, over the padded frame. Products with pixels outside are left out."""
    n, t, c, p = _place(tl.program_id(0), frames, blocks, p_blocks, C_BLOCK, P_BLOCK)
    width = W + K - 1
    own = (c < C) & (p < (H + K - 1) * width)
    i = p // width
    j = p % width
    total = widen(tl.full((C_BLOCK, P_BLOCK), 0, spatial.dtype.element_ty))
    for u in range(K):
        for v in tl.static_range(K):
            inside = own & (i >= u) & (i - u < H) & (j >= v) & (j - v < W)
            tap = widen(tl.load(spatial + c * (K * K) + u * K + v, mask=c < C, other=0))
            slope = _slope(
                grad, quiet, n, c, t, (i - u) * W + j - v, inside, g_n, g_c, g_t, g_p, q_n, q_c, q_t, q_p, BUSY, QUIET
            )  # fmt: skip
            total += tl.where(inside, tap * slope, 0)
    tl.store(_at(d, n, c, t, p, z_n, z_c, z_t, z_p), total, mask=own)


@triton.jit(do_not_specialize=SIZES + _X + _Y + _Z)
def band_pass_fold_kernel(
    x, d, folded, partial, x_n, x_c, x_t, x_p, z_n, z_c, z_t, z_p, y_n, y_c, y_t, y_p, C, T, H, W, frames, blocks,
    p_blocks, stride, first,
    REACH: tl.constexpr, DOTS: tl.constexpr, C_BLOCK: tl.constexpr, P_BLOCK: tl.constexpr,
):  # fmt: skip
    """folded: d with its border added to the pixels that it mirrors; partial: its products with the three frames."""
    n, t, c, p = _place(tl.program_id(0), frames, blocks, p_blocks, C_BLOCK, P_BLOCK)
    width = W + 2 * REACH
    own = (c < C) & (p < H * W)
    i = p // W
    j = p % W
    total = widen(tl.full((C_BLOCK, P_BLOCK), 0, x.dtype.element_ty))
    for a in tl.static_range(3):
        if a == 0:
            row, rows = i + REACH, i >= 0
        elif a == 1:
            row, rows = REACH - i, (i >= 1) & (i <= REACH)
        else:
            row, rows = 2 * (H - 1) - i + REACH, (i >= H - 1 - REACH) & (i <= H - 2)
        for b in tl.static_range(3):
            if b == 0:
                column, columns = j + REACH, j >= 0
            elif b == 1:
                column, columns = REACH - j, (j >= 1) & (j <= REACH)
            else:
                column, columns = 2 * (W - 1) - j + REACH, (j >= W - 1 - REACH) & (j <= W - 2)
            at = _at(d, n, c, t, row * width + column, z_n, z_c, z_t, z_p)
            total += tl.load(at, mask=own & rows & columns, other=0)
    tl.store(_at(folded, n, c, t, p, y_n, y_c, y_t, y_p), total, mask=own)
    if DOTS:
        columns = (tl.program_id(0) // (p_blocks * frames) % blocks).to(tl.int64) * C_BLOCK + tl.arange(
            0, C_BLOCK
        )
        line = (n * frames + t) * p_blocks + tl.program_id(0) % p_blocks
        for k in tl.static_range(3):
            frame = _frame(t, k, T, stride, first)
            value = widen(tl.load(_at(x, n, c, frame, p, x_n, x_c, x_t, x_p), mask=own, other=0))
            dots = sum_along(tl.where(own, total * value, 0), 1, False)
            tl.store(partial + line * C * 3 + columns * 3 + k, dots, mask=columns < C)


@triton.jit(do_not_specialize=SIZES + _X + _Y + _Q)
def band_pass_frames_kernel(
    folded, quiet, temporal, dx, y_n, y_c, y_t, y_p, q_n, q_c, q_t, q_p, x_n, x_c, x_t, x_p, C, T, H, W, frames,
    blocks, p_blocks, stride, first,
    QUIET: tl.constexpr, C_BLOCK: tl.constexpr, P_BLOCK: tl.constexpr,
):  # fmt: skip
    """dx of a frame: the results that read it, which are three at most."""
    n, f, c, p = _place(tl.program_id(0), T, blocks, p_blocks, C_BLOCK, P_BLOCK)
    own = (c < C) & (p < H * W)
    total = widen(tl.full((C_BLOCK, P_BLOCK), 0, dx.dtype.element_ty))
    low = f - first - 2
    low = tl.where(low < 0, 0, low) // stride
    for i in tl.static_range(3):
        t = low + i
        tap = widen(tl.full((C_BLOCK, 1), 0, dx.dtype.element_ty))
        times = 0
        for j in tl.static_range(3):
            reads = _frame(t, j, T, stride, first) == f
            weight = widen(tl.load(temporal + c * 3 + j, mask=c < C, other=0))
            tap += tl.where(reads, weight, 0)
            times += tl.where(reads, 1, 0)
        inside = own & (t < frames) & (times > 0)
        value = tl.load(_at(folded, n, c, t, p, y_n, y_c, y_t, y_p), mask=inside, other=0)
        total += tl.where(inside, tap * value, 0)
        if QUIET:
            mean = widen(tl.load(_at(quiet, n, c, t, p, q_n, q_c, q_t, q_p), mask=inside, other=0))
            total += mean * times / 3
    tl.store(_at(dx, n, c, f, p, x_n, x_c, x_t, x_p), narrow(total, dx.dtype.element_ty), mask=own)


@triton.jit(do_not_specialize=SIZES + _G + _Q + _Z + ["items", "run"])
def band_pass_taps_kernel(
    z, grad, quiet, partial, z_n, z_c, z_t, z_p, g_n, g_c, g_t, g_p, q_n, q_c, q_t, q_p, C, H, W, frames, blocks,
    p_blocks, items, run,
    K: tl.constexpr, BUSY: tl.constexpr, QUIET: tl.constexpr, C_BLOCK: tl.constexpr, P_BLOCK: tl.constexpr,
):  # fmt: skip
    """partial: products of the gradient and z for a row of taps, over a run of frames and positions."""
    u = tl.program_id(0) % K
    program = tl.program_id(0) // K
    columns = (program % blocks).to(tl.int64) * C_BLOCK + tl.arange(0, C_BLOCK)
    c = columns[:, None]
    line = (program // blocks).to(tl.int64)
    width = W + K - 1
    zero = widen(tl.full((C_BLOCK, P_BLOCK), 0, grad.dtype.element_ty))
    sums = ()
    for _ in tl.static_range(K):
        sums = sums + (zero,)
    begin = (program // blocks) * run
    end = tl.where(begin + run < items, begin + run, items)
    for item in range(begin, end):
        p = item % p_blocks * P_BLOCK + tl.arange(0, P_BLOCK)[None, :]
        t = item // p_blocks % frames
        n = (item // (p_blocks * frames)).to(tl.int64)
        own = (c < C) & (p < H * W)
        slope = _slope(
            grad, quiet, n, c, t, p, own, g_n, g_c, g_t, g_p, q_n, q_c, q_t, q_p, BUSY, QUIET
        )  # fmt: skip
        source = _at(z, n, c, t, (p // W + u) * width + p % W, z_n, z_c, z_t, z_p)
        more = ()
        for v in tl.static_range(K):
            value = tl.load(source + v * z_p, mask=own, other=0)
            more = more + (sums[v] + slope * value,)
        sums = more
    for v in tl.static_range(K):
        at = partial + (line * C + columns) * (K * K) + u * K + v
        tl.store(at, sum_along(sums[v], 1, False), mask=columns < C)
