"""Forward kernels of keypoint_shifts; ``keypoint_shifts.py`` states their idea.

Tables of splits have a row an axis of a frame, [N, G, T, (x, y)]: ``border``, where its R bands begin and, last, where
they end; ``first``, the pixel that each begins with; ``source``, which separator the gradient of a line goes to. A
point is y * 65536 + x: coordinates of 16 bits, as they lie in memory.
"""

# ruff: noqa: RUF005 (Triton has no unpacking)
from __future__ import annotations

import triton
import triton.language as tl

from ._attention_tiles import max_along
from ._bilinear import divide
from ._device import device, sum_along, widen

__all__ = [
    "cover",
    "exponential",
    "inverse",
    "keypoint_pairs_kernel",
    "keypoint_regions_kernel",
    "keypoint_split_kernel",
    "nearness",
    "row_of",
    "softmax",
]


@device
def _with(values, place: tl.constexpr, value, COUNT: tl.constexpr):
    """The tuple with another value in one place."""
    result = ()
    for j in tl.static_range(COUNT):
        result = result + ((value if j == place else values[j]),)
    return result


@device
def _sorted(lines, sources, COUNT: tl.constexpr):
    """Bubble sort, which leaves equal ones in their order."""
    for done in tl.static_range(COUNT - 1):
        for k in tl.static_range(COUNT - 1 - done):
            a, b, a_from, b_from = lines[k], lines[k + 1], sources[k], sources[k + 1]
            swap = a > b
            lines = _with(_with(lines, k, tl.where(swap, b, a), COUNT), k + 1, tl.where(swap, a, b), COUNT)
            sources = _with(sources, k, tl.where(swap, b_from, a_from), COUNT)
            sources = _with(sources, k + 1, tl.where(swap, a_from, b_from), COUNT)
    return lines, sources


@device
def _placed(lines, sources, side, COUNT: tl.constexpr):
    """Moves sorted lines the least that gives every band a width of at least 1."""
    low = 0 * side + 1
    origin = tl.full(side.shape, -1, tl.int32)
    for k in tl.static_range(COUNT):
        stays = lines[k] >= low
        origin = tl.where(stays, sources[k], origin)
        low = tl.where(stays, lines[k], low)
        lines, sources = _with(lines, k, low, COUNT), _with(sources, k, origin, COUNT)
        low = low + 1
    high = side - 1
    origin = tl.full(side.shape, -1, tl.int32)
    for back in tl.static_range(COUNT):
        stays = lines[COUNT - 1 - back] <= high
        origin = tl.where(stays, sources[COUNT - 1 - back], origin)
        high = tl.where(stays, lines[COUNT - 1 - back], high)
        lines = _with(lines, COUNT - 1 - back, high, COUNT)
        sources = _with(sources, COUNT - 1 - back, origin, COUNT)
        high = high - 1
    return lines, sources


@triton.jit(do_not_specialize=["H", "W", "axes"])
def keypoint_split_kernel(
    separators, border, first, source, H, W, axes,
    R: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The splits of all axes of all frames, one a lane."""
    COUNT: tl.constexpr = R - 1
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    own = i < axes
    pixels = tl.where(i % 2 == 0, 0 * i + W, H).to(tl.int32)
    side = pixels.to(border.dtype.element_ty)
    equal = (pixels.to(tl.float64) / R).to(border.dtype.element_ty)
    lines, sources = (), ()
    for k in tl.static_range(COUNT):
        line = widen(tl.load(separators + i * COUNT + k, mask=own, other=0))
        none = line != line
        lines = lines + (tl.where(none, equal * (k + 1), line),)
        sources = sources + (tl.where(none, -1, 0 * pixels + k),)
    lines, sources = _sorted(lines, sources, COUNT)
    lines, sources = _placed(lines, sources, side, COUNT)
    tl.store(border + i * (R + 1), 0 * side, mask=own)
    tl.store(first + i * (R + 1), 0 * pixels, mask=own)
    tl.store(border + i * (R + 1) + R, side, mask=own)
    tl.store(first + i * (R + 1) + R, pixels, mask=own)
    for k in tl.static_range(COUNT):
        # Every band has a centre: none is less than 1 wide, since from a line of 1 or more 1 is subtracted exactly.
        tl.store(first + i * (R + 1) + (k + 1), tl.ceil(lines[k] - 0.5).to(tl.int32), mask=own)
        tl.store(border + i * (R + 1) + (k + 1), lines[k], mask=own)
        tl.store(source + i * COUNT + k, sources[k], mask=own)


@device
def cover(border, next_border, pixel):
    """How much of a pixel lies between two borders."""
    until = tl.minimum(tl.maximum(next_border - pixel, 0), 1)
    return until - tl.minimum(tl.maximum(border - pixel, 0), 1)


@device
def inverse(area):
    """1 / area in fp64, by Newton's method from that in fp32: no call of a division, which takes a stack."""
    area = area.to(tl.float64)
    guess = (1 / area.to(tl.float32)).to(tl.float64)
    guess = guess * (2 - area * guess)
    return guess * (2 - area * guess)


@device
def row_of(table, R: tl.constexpr):
    """A row of a table, for every lane, as a tuple."""
    values = ()
    for b in tl.static_range(R + 1):
        values = values + (tl.load(table + b),)
    return values


@device
def _pixel(v, x, code, bests, points, sums, lines, firsts, R: tl.constexpr, CAREFUL: tl.constexpr):
    """What a pixel of column x makes of the maxima, their places and the sums of a row's bands."""
    more, places, totals = (), (), ()
    covered = 0  # of the pixel by bands to the left
    for b in tl.static_range(R):
        # Not less or equal, and not behind a NaN, is larger or the first NaN.
        take = ~(v <= bests[b]) & (bests[b] == bests[b]) if CAREFUL else v > bests[b]
        if b > 0:
            take = take & (x >= firsts[b])
        until = 1
        if b < R - 1:
            take = take & (x < firsts[b + 1])
            until = tl.minimum(tl.maximum(lines[b + 1] - x, 0), 1)
        more = more + (tl.where(take, v, bests[b]),)
        places = places + (tl.where(take, code + x, points[b]),)
        part = until - covered
        covered = until
        # What is not finite counts only where it has an area.
        totals = totals + (sums[b] + (tl.where(part > 0, v * part, 0) if CAREFUL else v * part),)
    return more, places, totals


@device
def _walk(
    pixel, step, border, first, value, mean, point, own, region_step, H, W,
    R: tl.constexpr, CAREFUL: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Every lane walks over its map in the order of rows and stores its regions; whether all sums are finite."""
    across, down = row_of(border, R), row_of(border + (R + 1), R)
    columns, rows = row_of(first, R), row_of(first + (R + 1), R)
    zero = widen(tl.full(rows[0].shape, 0, pixel.dtype.element_ty))
    bests, points, sums = (), (), ()
    for b in tl.static_range(R):
        bests = bests + (zero + float("-inf"),)
        points = points + (columns[b],)
    for _ in tl.static_range(R * R):
        sums = sums + (zero.to(tl.float64),)
    band = 0 * rows[0]
    end = rows[1]
    for y in range(H):
        for begin in range(0, W, CHUNK):  # so that sums in fp32 are short
            parts = ()
            for _ in tl.static_range(R):
                parts = parts + (zero,)
            for x in tl.range(begin, tl.minimum(begin + CHUNK, W), loop_unroll_factor=2):
                v = widen(tl.load(pixel))
                bests, points, parts = _pixel(
                    v, x, y * 65536, bests, points, parts, across, columns, R, CAREFUL
                )  # fmt: skip
                pixel += step
            more = ()
            for k in tl.static_range(R * R):
                part = cover(down[k // R], down[k // R + 1], y).to(tl.float64)
                term = parts[k % R].to(tl.float64) * part
                more = more + (sums[k] + (tl.where(part > 0, term, 0) if CAREFUL else term),)
            sums = more
        # The last row of a lane's band.
        last = own & (y + 1 == end)
        fresh, places = (), ()
        for b in tl.static_range(R):
            at = (band * R + b).to(tl.int64) * region_step
            tl.store(value + at, bests[b], mask=last)
            tl.store(point + at, points[b], mask=last)
            fresh = fresh + (tl.where(last, float("-inf"), bests[b]),)
            places = places + (tl.where(last, (y + 1) * 65536 + columns[b], points[b]),)
        bests, points = fresh, places
        band += last.to(tl.int32)
        for b in tl.static_range(R):
            end = tl.where(band == b, rows[b + 1], end)
    finite = own
    for k in tl.static_range(R * R):
        area = (down[k // R + 1] - down[k // R]).to(tl.float64) * (across[k % R + 1] - across[k % R])
        average = (sums[k] * inverse(area)).to(mean.dtype.element_ty)
        tl.store(mean + k * region_step, average, mask=own)
        finite = finite & (tl.abs(sums[k]) < float("inf"))
    return sum_along((own & ~finite).to(tl.int32), 0, False) == 0


@triton.jit(do_not_specialize=["x_n", "x_c", "x_t", "x_p", "C", "T", "H", "W", "G", "blocks"])
def keypoint_regions_kernel(
    x, border, first, value, mean, point, x_n, x_c, x_t, x_p, C, T, H, W, G, blocks,
    R: tl.constexpr, LAST: tl.constexpr, FAR: tl.constexpr, LANES: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Maxima, their points and means, [N, T, K, lanes]; a lane is a channel and a set of a frame.

    What lies side by side in memory is walked side by side: channels, where they are last, else sets of one channel.
    """
    n = (tl.program_id(0) // blocks).to(tl.int64)
    lane = tl.arange(0, LANES)
    if FAR:
        lane = lane.to(tl.int64)
    lane = (tl.program_id(0) % blocks) * LANES + lane
    own = lane < T * C * G
    lane = tl.where(own, lane, 0)  # others read what is there, and store nothing
    t = lane // (C * G)
    rest = lane % (C * G)
    if LAST:
        c, g = rest % C, rest // C
    else:
        c, g = rest // G, rest % G
    t = t.to(tl.int64)
    axis = ((n * G + g) * T + t) * 2 * (R + 1)
    region_step = C.to(tl.int64) * G
    at = (n * T + t) * (R * R) * region_step + rest
    pixel = x + n * x_n + t * x_t + c.to(tl.int64) * x_c
    step = tl.full((1,), 1, tl.int64) * x_p if LAST else 1
    # Almost always all is finite; where it is not, nothing that was stored counts.
    finite = _walk(
        pixel, step, border + axis, first + axis, value + at, mean + at, point + at, own, region_step, H, W,
        R, False, CHUNK,
    )  # fmt: skip
    if not finite:
        _walk(
            pixel, step, border + axis, first + axis, value + at, mean + at, point + at, own, region_step, H, W,
            R, True, CHUNK,
        )  # fmt: skip


@device
def exponential(value, WIDE: tl.constexpr):
    """exp, in fp32 unless WIDE, whatever the value is in."""
    return tl.exp(value) if WIDE else tl.exp(value.to(tl.float32)).to(value.dtype)


@device
def softmax(logits, inside, WIDE: tl.constexpr):
    """Over axis 1."""
    top = max_along(tl.where(inside, logits, float("-inf")), 1)
    powers = tl.where(inside, exponential(logits - top, WIDE), 0)
    return divide(powers, sum_along(powers, 1), logits.dtype == tl.float64)


@device
def nearness(value, others, inside, epsilon, WIDE: tl.constexpr):
    """1 / (|value - others| + epsilon), and its softmax over axis 1.

    1 / (a + e) - 1 / (b + e) is (b - a) / (a + e) / (b + e): without the difference of two large numbers.
    """
    distance = tl.abs(value - others)
    least = -max_along(tl.where(inside, -distance, float("-inf")), 1)
    one = 0 * epsilon + 1
    nearest = divide(one, least + epsilon, value.dtype == tl.float64)
    near = divide(one, distance + epsilon, value.dtype == tl.float64)
    less = tl.where(distance == float("inf"), 1, (distance - least) * near) * nearest
    powers = tl.where(inside, exponential(-less, WIDE), 0)
    return near, divide(powers, sum_along(powers, 1), value.dtype == tl.float64)


@triton.jit(do_not_specialize=["C", "T", "G", "blocks"])
def keypoint_pairs_kernel(
    value, mean, point, epsilon, shifts, keypoints, values, means, C, T, G, blocks,
    K: tl.constexpr, LAST: tl.constexpr, FAR: tl.constexpr, WIDE: tl.constexpr, L_BLOCK: tl.constexpr,
    K_BLOCK: tl.constexpr,
):  # fmt: skip
    """Frames of lanes, axis 0, and regions, axis 1, to where they belong; and eq. 8-12 with the regions they go to."""
    n = (tl.program_id(0) // blocks).to(tl.int64)
    i = tl.arange(0, L_BLOCK)[:, None]
    if FAR:
        i = i.to(tl.int64)
    i = (tl.program_id(0) % blocks) * L_BLOCK + i
    b = tl.arange(0, K_BLOCK)[None, :]
    there = (i < C * G * T) & (b < K)
    t = (i % T).to(tl.int64)
    lane = i // T
    if LAST:
        c, g = lane % C, lane // C
    else:
        c, g = lane // G, lane % G
    step = C.to(tl.int64) * G
    at = (n * T + t) * K * step + lane
    v = tl.load(value + at + b * step, mask=there, other=0)
    m = tl.load(mean + at + b * step, mask=there, other=0)
    p = tl.load(point + at + b * step, mask=there, other=0)
    channel = (n * G + g) * K * C + c
    to = (channel + b * C.to(tl.int64)) * T + t
    tl.store(values + to, v, mask=there)
    tl.store(means + to, m, mask=there)
    tl.store(keypoints + to, p, mask=there)
    if T > 1:
        there = there & (t + 1 < T)
        follows = at + K * step
        others = tl.load(value + follows + b * step, mask=there, other=0)
        m += tl.load(mean + follows + b * step, mask=there, other=0)
        p = tl.load(point + follows + b * step, mask=there, other=0)
        x, y = (p & 65535).to(v.dtype), (p >> 16).to(v.dtype)
        regions = softmax(m / 2, b < K, WIDE)
        e = tl.load(epsilon).to(v.dtype)
        own = (i < C * G * T) & (t + 1 < T)
        for a in range(K):
            v_a = tl.load(value + at + a * step, mask=own, other=0)
            p_a = tl.load(point + at + a * step, mask=own, other=0)
            _, weights = nearness(v_a, others, b < K, e, WIDE)
            weight = sum_along(tl.where(b == a, regions, 0), 1)
            dx = sum_along(weights * (x - (p_a & 65535).to(v.dtype)), 1)
            dy = sum_along(weights * (y - (p_a >> 16).to(v.dtype)), 1)
            shift = shifts + ((channel + a * C.to(tl.int64)) * (T - 1) + t) * 2
            tl.store(shift, weight * dx, mask=own)
            tl.store(shift + 1, weight * dy, mask=own)
