"""Backward kernels of keypoint_shifts; ``keypoint_shifts.py`` states their idea, ``_keypoint_kernels.py`` the tables.

Gradients of a pair of frames, [N, G, K, C, T-1]: ``now``, of the maxima of its first frame, ``then``, of those of its
second one, and ``half``, of the means of either.
"""

# ruff: noqa: RUF005 (Triton has no unpacking)
from __future__ import annotations

import triton
import triton.language as tl

from ._device import device, narrow, sum_along
from ._keypoint_kernels import cover, inverse, nearness, row_of, softmax
from ._projection_solve import write

__all__ = ["keypoint_lines_kernel", "keypoint_pairs_backward_kernel", "keypoint_spread_kernel"]


@device
def _wide(pointer, inside):
    return tl.load(pointer, mask=inside, other=0).to(tl.float64)


@triton.jit(do_not_specialize=["C", "T", "blocks"])
def keypoint_pairs_backward_kernel(
    grad, keypoints, values, means, epsilon, now, then, half, C, T, blocks,
    K: tl.constexpr, WIDE: tl.constexpr, L_BLOCK: tl.constexpr, K_BLOCK: tl.constexpr,
):  # fmt: skip
    """Pairs of frames and channels, axis 0, and regions of the second frame, axis 1.

    In double: 1 / (d + epsilon) and its square magnify what is rounded a hundredfold. The order of the operations is
    autograd's: close values cancel, and another order would round them another way.
    """
    program = tl.program_id(0).to(tl.int64)
    i = (program % blocks) * L_BLOCK + tl.arange(0, L_BLOCK)[:, None]
    b = tl.arange(0, K_BLOCK)[None, :]
    own = i < C * (T - 1).to(tl.int64)
    there = own & (b < K)
    frames, pairs = C * T.to(tl.int64), C * (T - 1).to(tl.int64)  # from a region to the next
    at = program // blocks * K * frames + i // (T - 1) * T + i % (T - 1)
    to = program // blocks * K * pairs + i
    others = _wide(values + at + b * frames + 1, there)
    x = _wide(keypoints + (at + b * frames + 1) * 2, there)
    y = _wide(keypoints + (at + b * frames + 1) * 2 + 1, there)
    middle = (_wide(means + at + b * frames, there) + _wide(means + at + b * frames + 1, there)) / 2
    regions = softmax(middle, b < K, WIDE)
    e = tl.load(epsilon)
    slopes = tl.full((L_BLOCK, K_BLOCK), 0, tl.float64)
    arrives = slopes
    for a in range(K):
        v = _wide(values + at + a * frames, own)
        g_x, g_y = _wide(grad + (to + a * pairs) * 2, own), _wide(grad + (to + a * pairs) * 2 + 1, own)
        region = sum_along(tl.where(b == a, regions, 0), 1)
        near, weights = nearness(v, others, b < K, e, WIDE)
        away_x = x - _wide(keypoints + (at + a * frames) * 2, own)
        away_y = y - _wide(keypoints + (at + a * frames) * 2 + 1, own)
        slope = g_x * sum_along(weights * away_x, 1) + g_y * sum_along(weights * away_y, 1)
        slopes = tl.where(b == a, slope, slopes)
        products = (g_x * region) * away_x + (g_y * region) * away_y
        mean = sum_along(tl.where(b < K, products * weights, 0), 1)
        slope = (products * weights - weights * mean) * (near * near)
        d = v - others
        slope = tl.where(d > 0, -slope, tl.where(d < 0, slope, tl.where(d == 0, 0, slope * d)))
        slope = tl.where(b < K, slope, 0)
        tl.store(now + to + a * pairs, sum_along(slope, 1).to(now.dtype.element_ty), mask=own)
        arrives -= slope
    expected = sum_along(tl.where(b < K, slopes * regions, 0), 1)
    tl.store(then + to + b * pairs, arrives.to(then.dtype.element_ty), mask=there)
    tl.store(
        half + to + b * pairs,
        ((slopes * regions - regions * expected) / 2).to(half.dtype.element_ty),
        mask=there,
    )


@device
def _sum(first, at_first, begins, second, at_second, ends):
    """What a frame gets from the pair that it begins and from the one that it ends."""
    return tl.load(first + at_first, mask=begins, other=0) + tl.load(second + at_second, mask=ends, other=0)


@device
def _spread(
    border, keypoints, now, then, half, n, t, c, p, own, C, T, W, G,
    R: tl.constexpr, CAREFUL: tl.constexpr, C_BLOCK: tl.constexpr, P_BLOCK: tl.constexpr,
):  # fmt: skip
    """What positions p of channels c of frames t get from the regions of all sets."""
    x, y = p % W, p // W
    total = tl.full((C_BLOCK, P_BLOCK), 0, half.dtype.element_ty)
    begins, ends = own & (t < T - 1), own & (t > 0)
    for g in range(G):
        table = border + ((n * G + g) * T + t) * 2 * (R + 1)
        columns = ()
        for j in tl.static_range(R):
            columns = columns + (cover(tl.load(table + j), tl.load(table + j + 1), x),)
        channel = (n * G + g) * (R * R) * C + c
        for i in range(R):
            top, bottom = tl.load(table + (R + 1) + i), tl.load(table + (R + 2) + i)
            rows = cover(top, bottom, y)
            for j in tl.static_range(R):
                width = tl.load(table + j + 1) - tl.load(table + j)
                at = channel * (T - 1) + t
                mean = _sum(half, at, begins, half, at - 1, ends) * inverse((bottom - top) * width).to(
                    width.dtype
                )
                share = rows * columns[j]
                if CAREFUL:  # what is not finite reaches only what has an area
                    total += tl.where(share > 0, share * mean, 0)
                else:
                    total += share * mean
                point = keypoints + (channel * T + t) * 2
                column = tl.load(point, mask=own, other=0).to(tl.int32)
                row = tl.load(point + 1, mask=own, other=0).to(tl.int32)
                total += tl.where(p == row * W + column, _sum(now, at, begins, then, at - 1, ends), 0)
                channel += C
    return total


@triton.jit(do_not_specialize=["d_n", "d_c", "d_t", "d_p", "C", "T", "P", "W", "G", "blocks", "p_blocks"])
def keypoint_spread_kernel(
    border, keypoints, now, then, half, dx, d_n, d_c, d_t, d_p, C, T, P, W, G, blocks, p_blocks,
    R: tl.constexpr, LAST: tl.constexpr, FAR: tl.constexpr, C_BLOCK: tl.constexpr, P_BLOCK: tl.constexpr,
):  # fmt: skip
    """dx: a tile of channels, of frames one behind the other, and positions gathers means by their areas and maxima at
    their places."""
    program = tl.program_id(0)
    p = program % p_blocks * P_BLOCK + tl.arange(0, P_BLOCK)[None, :]
    program = program // p_blocks
    channel = program % blocks * C_BLOCK + tl.arange(0, C_BLOCK)[:, None]
    t, c = channel // C, channel % C
    own = t < T
    t = tl.where(own, t, 0)
    n = (program // blocks).to(tl.int64)
    inside = own & (p < P)
    total = _spread(
        border, keypoints, now, then, half, n, t, c, p, own, C, T, W, G, R, False, C_BLOCK, P_BLOCK
    )  # fmt: skip
    bad = (inside & ~(tl.abs(total) < float("inf"))).to(tl.int32)
    if sum_along(sum_along(bad, 1, False), 0, False) > 0:
        total = _spread(
            border, keypoints, now, then, half, n, t, c, p, own, C, T, W, G, R, True, C_BLOCK, P_BLOCK
        )  # fmt: skip
    write(dx, (d_n, d_c, d_t, d_p), n, c, t, p, total, inside, LAST, FAR)


@device
def _walk(pixel, step, along, own, side, R: tl.constexpr):
    """Every band's sum of the pixels behind a line.

    On an edge, what is not finite has no part in the region that ends there, but the one that begins makes the line's
    gradient NaN anyway.
    """
    sums = ()
    for _ in tl.static_range(R):
        sums = sums + (tl.full(own.shape, 0, tl.float64),)
    for p in range(side):
        v = tl.load(pixel, mask=own, other=0).to(tl.float64)
        more = ()
        for b in tl.static_range(R):
            part = cover(along[b], along[b + 1], p)
            more = more + (sums[b] + tl.where(part > 0, v * part, 0),)
        sums = more
        pixel += step
    return sums


@triton.jit(do_not_specialize=["x_n", "x_c", "x_t", "x_p", "C", "T", "H", "W", "G", "blocks"])
def keypoint_lines_kernel(
    x, border, source, means, half, dlines, x_n, x_c, x_t, x_p, C, T, H, W, G, blocks,
    R: tl.constexpr, ITEMS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Gradients of the lines of ITEMS sets and frames, summed over channels, which are lanes.

    Of the regions that a line ends and begins: (mean along the line - mean of the region) * length / area.
    """
    n = (tl.program_id(0) // blocks).to(tl.int64)
    item = (tl.program_id(0) % blocks) * ITEMS + tl.arange(0, ITEMS)[:, None]
    there = item < G * T
    item = tl.where(there, item, 0)
    t = (item % T).to(tl.int64)
    g = item // T
    axis = (n * (G * T) + item) * 2
    begins, ends = t < T - 1, t > 0
    step_x = tl.full((1, 1), 1, tl.int64) * x_p
    for direction in tl.static_range(2):
        line = border + (axis + direction) * (R + 1)
        along = row_of(border + (axis + 1 - direction) * (R + 1), R)
        side = W if direction == 1 else H
        step = step_x if direction == 1 else step_x * W
        across = step_x * W if direction == 1 else step_x
        totals = ()
        for _ in tl.static_range(R - 1):
            totals = totals + (tl.full((ITEMS, 1), 0, tl.float64),)
        for i in range(R - 1):
            start, at, stop = tl.load(line + i), tl.load(line + i + 1), tl.load(line + i + 2)
            pixel = tl.floor(at)
            total = tl.full((ITEMS, LANES), 0, tl.float64)
            for first in range(0, C, LANES):
                c = (first + tl.arange(0, LANES)[None, :]).to(tl.int64)
                own = there & (c < C)
                behind = x + n * x_n + t * x_t + c * x_c + pixel.to(tl.int64) * across
                sums = _walk(behind, step, along, own, side, R)
                for b in tl.static_range(R):
                    k = (i * R + b) if direction == 1 else (b * R + i)
                    channel = ((n * G + g) * (R * R) + k) * C + c
                    length = (along[b + 1] - along[b]).to(tl.float64)
                    mean = tl.load(means + channel * T + t, mask=own, other=0).to(tl.float64)
                    to = channel * (T - 1) + t
                    slope = _sum(half, to, own & begins, half, to - 1, own & ends).to(tl.float64)
                    part = slope * (sums[b] - mean * length) * inverse(length * (at - start))
                    channel += C.to(tl.int64) * (R if direction == 1 else 1)
                    mean = tl.load(means + channel * T + t, mask=own, other=0).to(tl.float64)
                    to = channel * (T - 1) + t
                    slope = _sum(half, to, own & begins, half, to - 1, own & ends).to(tl.float64)
                    part -= slope * (sums[b] - mean * length) * inverse(length * (stop - at))
                    total += tl.where(own, part, 0)
            owner = tl.load(source + (axis + direction) * (R - 1) + i)
            more = ()
            for s in tl.static_range(R - 1):
                more = more + (totals[s] + tl.where(owner == s, sum_along(total, 1), 0),)
            totals = more
        for s in tl.static_range(R - 1):
            place = dlines + (axis + direction) * (R - 1) + s
            tl.store(place, narrow(totals[s].to(means.dtype.element_ty), dlines.dtype.element_ty), mask=there)
