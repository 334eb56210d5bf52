"""Device functions of temporal_conv: one tile's walk along its frames, forward and backward.

A tile is [C_BLOCK, P_BLOCK]: channels of one group, and positions. Frames are numbered as x has them; the
other side (y, or its gradient) has every STRIDE-th of them from OFFSET on.
"""

# ruff: noqa: RUF005 (Triton has no unpacking)
from __future__ import annotations

import math

import triton
import triton.language as tl

from ._device import device, narrow, widen

__all__ = [
    "WINDOW", "backward_window", "forward_reread", "forward_window", "load_taps",
    "own_channels", "pick", "reread_weight", "reread_x", "spread", "unroll",
]  # fmt: skip

WINDOW = tl.constexpr(7)  # most taps that are held in registers


@triton.constexpr_function
def spread(taps, dilation, stride):
    """A single tap reads no neighbours: walked in steps of the stride, it reads only what it needs."""
    return stride if taps == 1 else dilation


@triton.constexpr_function
def unroll(frames, outside, dilation, whole, chunk):
    """Frames of a walk that are loaded side by side: all of them where they are known to be few."""
    count = -(-(frames + outside) // dilation)
    return count if frames > 0 and count <= whole else chunk


@triton.constexpr_function
def _common(dilation, stride):
    """Walks to skip between two that meet results."""
    return math.gcd(dilation, stride)


@triton.constexpr_function
def pick(group, *values):
    """The value of a group."""
    return values[group]


@device
def exists(frame, frames, STRIDE: tl.constexpr, OFFSET: tl.constexpr):
    """Whether ``frame`` is one of the ``frames`` that lie at every STRIDE-th place from OFFSET on."""
    found = (frame >= OFFSET) & (frame < OFFSET + frames * STRIDE)
    if STRIDE > 1:
        found = found & ((frame - OFFSET) % STRIDE == 0)
    return found


@device
def load_frame(
    tile, inside, frame, frames, step,
    STRIDE: tl.constexpr, OFFSET: tl.constexpr, CLAMP: tl.constexpr,
):  # fmt: skip
    """The tile's share of a frame; zeros, or with CLAMP the edge frame, where there is none."""
    if CLAMP:
        value = tl.load(tile + tl.minimum(tl.maximum(frame, 0), frames - 1) * step, mask=inside, other=0)
    else:
        mask = inside & exists(frame, frames, STRIDE, OFFSET)
        value = tl.load(tile + (frame - OFFSET) // STRIDE * step, mask=mask, other=0)
    return value


@device
def load_taps(weight, own, TAPS: tl.constexpr):
    """Every tap of the tile's channels, one column [C_BLOCK, 1] each."""
    taps = ()
    for j in tl.static_range(TAPS):
        taps = taps + (widen(tl.load(weight + j, mask=own, other=0)),)
    return taps


@device
def own_channels(block, channels, C_BLOCK: tl.constexpr):
    """The tile's channels [C_BLOCK, 1] within its group, and which of them there are.

    A single channel is a scalar: a [1, 1] tensor would be loaded once for every element that a thread has.
    """
    c = block if C_BLOCK == 1 else block * C_BLOCK + tl.arange(0, C_BLOCK)[:, None]
    return c, c < channels


@device
def forward_window(
    x, taps, start, y, inside, frames, out_frames, x_t, y_t,
    TAPS: tl.constexpr, DILATION: tl.constexpr, UNROLL: tl.constexpr, STRIDE: tl.constexpr,
    OFFSET: tl.constexpr, CLAMP: tl.constexpr,
):  # fmt: skip
    HALF: tl.constexpr = TAPS // 2
    SKIP: tl.constexpr = _common(DILATION, STRIDE)
    end = OFFSET + (out_frames - 1) * STRIDE + 1
    for r in range(0, tl.minimum(DILATION, end - OFFSET), SKIP):
        first = OFFSET + r
        count = (end - first + DILATION - 1) // DILATION
        window = ()
        for j in tl.static_range(TAPS - 1):
            window = window + (
                load_frame(x, inside, first + (j - HALF) * DILATION, frames, x_t, 1, 0, CLAMP),
            )
        for i in range(0, count, UNROLL):
            seen = window
            for u in tl.static_range(UNROLL):
                frame = first + (i + u + HALF) * DILATION
                seen = seen + (load_frame(x, inside & (i + u < count), frame, frames, x_t, 1, 0, CLAMP),)
            for u in tl.static_range(UNROLL):
                total = start
                for j in tl.static_range(TAPS):
                    total += taps[j] * widen(seen[u + j])
                at = r + (i + u) * DILATION
                mask = inside & (i + u < count)
                if STRIDE > 1:
                    mask = mask & (at % STRIDE == 0)
                tl.store(y + at // STRIDE * y_t, narrow(total, y.dtype.element_ty), mask=mask)
            if TAPS > 1:
                window = seen[UNROLL:]


@device
def forward_reread(
    x, weight, start, y, own, inside, frames, out_frames, x_t, y_t,
    TAPS: tl.constexpr, DILATION: tl.constexpr, STRIDE: tl.constexpr, OFFSET: tl.constexpr,
    CLAMP: tl.constexpr,
):  # fmt: skip
    for t in range(0, out_frames):
        total = start
        for j in range(0, TAPS):
            frame = OFFSET + t * STRIDE + (j - TAPS // 2) * DILATION
            value = load_frame(x, inside, frame, frames, x_t, 1, 0, CLAMP)
            total += widen(tl.load(weight + j, mask=own, other=0)) * widen(value)
        tl.store(y + t * y_t, narrow(total, y.dtype.element_ty), mask=inside)


@device
def _fold(frame, frames, total, left, right, inside):
    """What lies outside the clip goes to its edge frames, which are stored when all of it has been met."""
    left += tl.where(frame <= 0, total, 0.0)
    right += tl.where((frame > 0) & (frame >= frames - 1), total, 0.0)
    return left, right, inside & (frame > 0) & (frame < frames - 1)


@device
def _store_edges(dx, left, right, frames, step, inside):
    """The edge frames; a clip of one frame has one."""
    last = tl.where(frames > 1, right, left + right)
    tl.store(dx, narrow(left, dx.dtype.element_ty), mask=inside & (frames > 1))
    tl.store(dx + (frames - 1) * step, narrow(last, dx.dtype.element_ty), mask=inside)


@device
def backward_window(
    grad, x, dx, taps, sums, inside, frames, grad_frames, g_t, x_t, dx_t,
    TAPS: tl.constexpr, DILATION: tl.constexpr, UNROLL: tl.constexpr, STRIDE: tl.constexpr,
    OFFSET: tl.constexpr, FOLD: tl.constexpr, NEED_X: tl.constexpr, NEED_WEIGHT: tl.constexpr,
    NEED_BIAS: tl.constexpr,
):  # fmt: skip
    """Writes dx and returns ``sums``, of every tap and then of the gradient, increased.

    FOLD is replicate's: frames outside the clip are walked too, and what they would get goes to the edge
    frames.
    """
    HALF: tl.constexpr = TAPS // 2
    OUTSIDE: tl.constexpr = HALF * DILATION if FOLD else 0
    zero = widen(tl.full(inside.shape, 0, dx.dtype.element_ty))
    if NEED_X and FOLD:
        left = zero
        right = zero
    for r in range(0, tl.minimum(DILATION, frames + 2 * OUTSIDE)):
        first = r - OUTSIDE
        count = (frames + 2 * OUTSIDE - r + DILATION - 1) // DILATION
        window = ()
        for j in tl.static_range(TAPS - 1):
            seen = load_frame(
                grad, inside, first + (j - HALF) * DILATION, grad_frames, g_t, STRIDE, OFFSET, False
            )
            window = window + (seen,)
            if NEED_BIAS:
                sums = sums[:-1] + (sums[-1] + widen(seen),)
        for i in range(0, count, UNROLL):
            grads = window
            own = ()
            for u in tl.static_range(UNROLL):
                here = inside & (i + u < count)
                frame = first + (i + u) * DILATION
                seen = load_frame(
                    grad, here, frame + HALF * DILATION, grad_frames, g_t, STRIDE, OFFSET, False
                )
                grads = grads + (seen,)
                if NEED_BIAS:
                    sums = sums[:-1] + (sums[-1] + widen(seen),)
                if NEED_WEIGHT:
                    own = own + (load_frame(x, here, frame, frames, x_t, 1, 0, FOLD),)
            values = ()
            there = ()
            for m in tl.static_range(UNROLL + TAPS - 1):
                values = values + (widen(grads[m]),)
                there = there + (exists(first + (i + m - HALF) * DILATION, grad_frames, STRIDE, OFFSET),)
            for u in tl.static_range(UNROLL):
                frame = first + (i + u) * DILATION
                if NEED_WEIGHT:
                    other = widen(own[u])
                if NEED_X:
                    total = zero
                more = ()
                for j in tl.static_range(TAPS):
                    value = values[u + TAPS - 1 - j]
                    met = there[u + TAPS - 1 - j] & (i + u < count)
                    if NEED_X:
                        total += tl.where(met, taps[j] * value, 0.0)
                    if NEED_WEIGHT:
                        more = more + (sums[j] + tl.where(met, value * other, 0.0),)
                if NEED_WEIGHT:
                    sums = more + sums[TAPS:]
                if NEED_X:
                    mask = inside & (i + u < count)
                    if FOLD:
                        left, right, mask = _fold(frame, frames, total, left, right, mask)
                    tl.store(dx + frame * dx_t, narrow(total, dx.dtype.element_ty), mask=mask)
            if TAPS > 1:
                window = grads[UNROLL:]
    if NEED_X and FOLD:
        _store_edges(dx, left, right, frames, dx_t, inside)
    return sums


@device
def reread_x(
    grad, weight, dx, own, inside, frames, grad_frames, g_t, dx_t,
    TAPS: tl.constexpr, DILATION: tl.constexpr, STRIDE: tl.constexpr, OFFSET: tl.constexpr,
    FOLD: tl.constexpr,
):  # fmt: skip
    OUTSIDE: tl.constexpr = TAPS // 2 * DILATION if FOLD else 0
    zero = widen(tl.full(inside.shape, 0, dx.dtype.element_ty))
    left = zero
    right = zero
    for v in range(0, frames + 2 * OUTSIDE):
        frame = v - OUTSIDE
        total = zero
        for j in range(0, TAPS):
            place = frame - (j - TAPS // 2) * DILATION
            value = widen(load_frame(grad, inside, place, grad_frames, g_t, STRIDE, OFFSET, False))
            tap = widen(tl.load(weight + j, mask=own, other=0))
            total += tl.where(exists(place, grad_frames, STRIDE, OFFSET), tap * value, 0.0)
        mask = inside
        if FOLD:
            left, right, mask = _fold(frame, frames, total, left, right, mask)
        tl.store(dx + frame * dx_t, narrow(total, dx.dtype.element_ty), mask=mask)
    if FOLD:
        _store_edges(dx, left, right, frames, dx_t, inside)


@device
def reread_weight(
    grad, x, total, j, inside, frames, grad_frames, g_t, x_t,
    TAPS: tl.constexpr, DILATION: tl.constexpr, STRIDE: tl.constexpr, OFFSET: tl.constexpr,
    FOLD: tl.constexpr,
):  # fmt: skip
    """``total`` increased by one tap's products, or by the gradient itself where ``j`` is TAPS."""
    for t in range(0, grad_frames):
        value = widen(tl.load(grad + t * g_t, mask=inside, other=0))
        frame = OFFSET + t * STRIDE + (j - TAPS // 2) * DILATION
        other = widen(load_frame(x, inside & (j < TAPS), frame, frames, x_t, 1, 0, FOLD))
        met = ((frame >= 0) & (frame < frames)) | FOLD
        total += tl.where(j == TAPS, value, tl.where(met, value * other, 0.0))
    return total
