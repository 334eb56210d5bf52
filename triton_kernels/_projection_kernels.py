"""Kernels of temporal_projection; ``temporal_projection.py`` states their idea.

A program owns a strip of columns in a run of rows of one clip, and walks it by tiles of P_BLOCK pixels, W_BLOCK of a
row. Clips are given by their steps of clip, channel, frame and position; the coefficients are a clip of D frames, and
the mean of the residual is one of a single frame.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ._bilinear import between, divide, first_reader, share_of
from ._device import device, narrow, sum_along, widen
from ._projection_solve import along, blend, factor, grid_rows, invert, mix, pixels, read, root, solve, write

__all__ = [
    "temporal_projection_backward_kernel",
    "temporal_projection_basis_kernel",
    "temporal_projection_kernel",
]

SIZES = ["N", "C", "H", "W", "h", "w", "strips", "chunks", "run", "parts"]


def _steps(name: str) -> list[str]:
    return [f"{name}_{axis}" for axis in ("n", "c", "t", "p")]


@device
def _first_row(i, H, h):
    """The first row of a frame that lies at row i of the grid or after it."""
    return tl.where(i <= 0, 0, tl.where(i >= h, H, first_reader(i, h, H)))


@device
def _rows(chunk, parts, run, H, h, WHOLE: tl.constexpr):
    """First row of a chunk, that after its last one, and the row of the grid after which all of them lie."""
    low = chunk // parts
    if WHOLE:
        begin = chunk * run
        end = tl.minimum(begin + run, H)
    else:
        begin = _first_row(low, H, h) + chunk % parts * run
        end = tl.minimum(begin + run, _first_row(low + 1, H, h))
    return begin, end, low


@device
def _matrices(
    basis, n, d, t, row, column, inside, H, W, h, w, upper, under,
    T: tl.constexpr, D: tl.constexpr, WHOLE: tl.constexpr, WIDE: tl.constexpr, FAR: tl.constexpr, KEEP: tl.constexpr,
    D_BLOCK: tl.constexpr, T_BLOCK: tl.constexpr,
):  # fmt: skip
    """The matrix of every pixel, and where between two rows of the grid it lies."""
    if WHOLE:
        share, level = inside, inside  # of no use
        entry = t * D + d
        if FAR:
            entry = entry.to(tl.int64)
        at = basis + n * (T * D) * (H * W) + (entry * (H * W) + row * W + column)
        a = widen(tl.load(at, mask=inside & (d < D) & (t < T), other=0))
    else:
        low, high, share = between(row, h, H, WIDE)
        if not KEEP:
            upper, under = grid_rows(basis, n, low, column, W, h, w, T, D, WIDE, FAR, D_BLOCK, T_BLOCK)
        level = high == low
        a = blend(upper, under, share, level, inside)
    return a, share, level


@triton.jit(do_not_specialize=SIZES + _steps("x") + _steps("y") + _steps("k") + _steps("m"))
def temporal_projection_kernel(
    x, basis, coefficients, projection, residual, mean, partial,
    x_n, x_c, x_t, x_p, y_n, y_c, y_t, y_p, k_n, k_c, k_t, k_p, m_n, m_c, m_t, m_p,
    N, C, H, W, h, w, strips, chunks, run, parts,
    T: tl.constexpr, D: tl.constexpr, RIDGE: tl.constexpr, WHOLE: tl.constexpr, LAST: tl.constexpr,
    WIDE: tl.constexpr, FAR: tl.constexpr, KEEP: tl.constexpr, COEFFICIENTS: tl.constexpr,
    PROJECTION: tl.constexpr, RESIDUAL: tl.constexpr, MEAN: tl.constexpr, ENERGY: tl.constexpr,
    ERROR: tl.constexpr, D_BLOCK: tl.constexpr, T_BLOCK: tl.constexpr, P_BLOCK: tl.constexpr,
    W_BLOCK: tl.constexpr, C_BLOCK: tl.constexpr,
):  # fmt: skip
    """What is wanted; ``partial`` has a row of sums a program of a clip: of energies, then of errors."""
    program = tl.program_id(0)
    strip = program % strips
    chunk = program // strips % chunks
    n = (program // (strips * chunks)).to(tl.int64)
    begin, end, low = _rows(chunk, parts, run, H, h, WHOLE)
    d, t = along(D_BLOCK, 0), along(T_BLOCK, 1)
    xs, ys = (x_n, x_c, x_t, x_p), (y_n, y_c, y_t, y_p)
    ks, ms = (k_n, k_c, k_t, k_p), (m_n, m_c, m_t, m_p)
    energy = widen(tl.full((1, 1, P_BLOCK, C_BLOCK), 0, x.dtype.element_ty))
    error = energy
    upper, under = begin, end
    if KEEP:
        column = strip * W_BLOCK + along(P_BLOCK, 2) % W_BLOCK
        upper, under = grid_rows(basis, n, low, column, W, h, w, T, D, WIDE, FAR, D_BLOCK, T_BLOCK)
    for first in range(begin, end, P_BLOCK // W_BLOCK):
        row, column, inside = pixels(first, end, strip, W, P_BLOCK, W_BLOCK)
        p = row * W + column
        a, _, _ = _matrices(
            basis, n, d, t, row, column, inside, H, W, h, w, upper, under,
            T, D, WHOLE, WIDE, FAR, KEEP, D_BLOCK, T_BLOCK,
        )  # fmt: skip
        lower, inverse = factor(a, inside, RIDGE, D, WIDE, D_BLOCK, P_BLOCK)
        for channel in range(0, C, C_BLOCK):
            c = channel + along(C_BLOCK, 3)
            own = inside & (c < C)
            frames = own & (t < T)
            value = read(x, xs, n, c, t, p, frames, LAST, FAR)
            y, rest = solve(a, lower, inverse, value, RIDGE, T, D, D_BLOCK, T_BLOCK)
            if COEFFICIENTS:
                write(coefficients, ks, n, c, d, p, y, own & (d < D), LAST, FAR)
            if PROJECTION:
                write(projection, ys, n, c, t, p, mix(a, y, D_BLOCK), frames, LAST, FAR)
            if RESIDUAL:
                write(residual, ys, n, c, t, p, rest, frames, LAST, FAR)
            if MEAN:
                total = sum_along(rest, 1)
                average = divide(total, tl.full((1, 1, 1, 1), T, total.dtype), WIDE)
                write(mean, ms, n, c, 0 * p, p, average, own, LAST, FAR)
            squares = sum_along(rest * rest, 1)
            if ENERGY:
                energy += squares
            if ERROR:
                error += root(squares, WIDE)
    partial += (program % (strips * chunks)).to(tl.int64) * (N * (ENERGY + ERROR)) + n + along(1, 3)
    count = (C.to(tl.int64) * H * W).to(tl.float64)
    # An element of the tile has few terms; from here on they are those of all pixels.
    if ENERGY:
        tl.store(partial, sum_along(sum_along(energy.to(tl.float64), 3), 2) / count)
    if ERROR:
        tl.store(partial + N * ENERGY, sum_along(sum_along(error.to(tl.float64), 3), 2) / count)


@device
def _slope(
    rest, projection, residual, mean, energy, error, ys, rs, ms, n, c, t, p, own, frames, count,
    T: tl.constexpr, LAST: tl.constexpr, FAR: tl.constexpr, WIDE: tl.constexpr, PROJECTION: tl.constexpr,
    RESIDUAL: tl.constexpr, MEAN: tl.constexpr, ENERGY: tl.constexpr, ERROR: tl.constexpr,
):  # fmt: skip
    """The gradient of the residual ``rest``, from those of all that is made of it, and that of the projection."""
    slope = tl.full(rest.shape, 0, rest.dtype)
    given = slope
    if RESIDUAL:
        slope = read(residual, rs, n, c, t, p, frames, LAST, FAR)
    if MEAN:
        value = read(mean, ms, n, c, 0 * p, p, own, LAST, FAR)
        slope += tl.where(frames, divide(value, tl.full((1, 1, 1, 1), T, value.dtype), WIDE), 0)
    if PROJECTION:
        given = read(projection, ys, n, c, t, p, frames, LAST, FAR)
        slope -= given
    if ENERGY:
        slope += divide(widen(tl.load(energy + n)) * 2, count, WIDE) * rest
    if ERROR:
        length = root(sum_along(rest * rest, 1), WIDE)
        still = length == 0
        weight = divide(widen(tl.load(error + n)), count, WIDE)
        slope += tl.where(still, 0, divide(weight, tl.where(still, 1, length), WIDE)) * rest
    return slope, given


@triton.jit(
    do_not_specialize=[
        *SIZES, *_steps("k"), *_steps("y"), *_steps("r"), *_steps("m"), *_steps("x"), *_steps("d"),
    ]
)  # fmt: skip
def temporal_projection_backward_kernel(
    coefficients, projection, residual, mean, energy, error, x, basis, dx, dbasis,
    k_n, k_c, k_t, k_p, y_n, y_c, y_t, y_p, r_n, r_c, r_t, r_p, m_n, m_c, m_t, m_p, x_n, x_c, x_t, x_p,
    d_n, d_c, d_t, d_p, C, H, W, h, w, strips, chunks, run, parts,
    T: tl.constexpr, D: tl.constexpr, RIDGE: tl.constexpr, WHOLE: tl.constexpr, LAST: tl.constexpr,
    WIDE: tl.constexpr, FAR: tl.constexpr, KEEP: tl.constexpr, COEFFICIENTS: tl.constexpr,
    PROJECTION: tl.constexpr, RESIDUAL: tl.constexpr, MEAN: tl.constexpr, ENERGY: tl.constexpr,
    ERROR: tl.constexpr, NEED_X: tl.constexpr, NEED_BASIS: tl.constexpr, D_BLOCK: tl.constexpr, T_BLOCK: tl.constexpr,
    P_BLOCK: tl.constexpr, W_BLOCK: tl.constexpr, C_BLOCK: tl.constexpr,
):  # fmt: skip
    """dx, and what temporal_projection_basis_kernel makes the gradient of the basis of; with WHOLE it itself.

    A chunk lies between two rows of the grid. ``dbasis`` gets what goes to the upper and what goes to the lower one,
    [2, T, D, W] a chunk.
    """
    program = tl.program_id(0)
    strip = program % strips
    chunk = program // strips % chunks
    n = (program // (strips * chunks)).to(tl.int64)
    begin, end, low = _rows(chunk, parts, run, H, h, WHOLE)
    d, t = along(D_BLOCK, 0), along(T_BLOCK, 1)
    xs, ds, ks = (x_n, x_c, x_t, x_p), (d_n, d_c, d_t, d_p), (k_n, k_c, k_t, k_p)
    ys, rs, ms = (y_n, y_c, y_t, y_p), (r_n, r_c, r_t, r_p), (m_n, m_c, m_t, m_p)
    count = (C.to(tl.int64) * H * W).to(tl.float64 if WIDE else tl.float32)
    above = widen(tl.full((D_BLOCK, T_BLOCK, P_BLOCK, 1), 0, x.dtype.element_ty))
    below = above
    upper, under = begin, end
    if KEEP:
        column = strip * W_BLOCK + along(P_BLOCK, 2) % W_BLOCK
        upper, under = grid_rows(basis, n, low, column, W, h, w, T, D, WIDE, FAR, D_BLOCK, T_BLOCK)
    for first in range(begin, end, P_BLOCK // W_BLOCK):
        row, column, inside = pixels(first, end, strip, W, P_BLOCK, W_BLOCK)
        p = row * W + column
        a, share, level = _matrices(
            basis, n, d, t, row, column, inside, H, W, h, w, upper, under,
            T, D, WHOLE, WIDE, FAR, KEEP, D_BLOCK, T_BLOCK,
        )  # fmt: skip
        lower, inverse = factor(a, inside, RIDGE, D, WIDE, D_BLOCK, P_BLOCK)
        for channel in range(0, C, C_BLOCK):
            c = channel + along(C_BLOCK, 3)
            own = inside & (c < C)
            frames = own & (t < T)
            value = read(x, xs, n, c, t, p, frames, LAST, FAR)
            y, rest = solve(a, lower, inverse, value, RIDGE, T, D, D_BLOCK, T_BLOCK)
            slope, given = _slope(
                rest, projection, residual, mean, energy, error, ys, rs, ms, n, c, t, p, own, frames, count,
                T, LAST, FAR, WIDE, PROJECTION, RESIDUAL, MEAN, ENERGY, ERROR,
            )  # fmt: skip
            z, change = solve(a, lower, inverse, slope, RIDGE, T, D, D_BLOCK, T_BLOCK)
            z = -z
            if COEFFICIENTS:
                v = read(coefficients, ks, n, c, d, p, own & (d < D), LAST, FAR)
                v = invert(a, lower, inverse, v, RIDGE, D, D_BLOCK)
                z += v
                change += mix(a, v, D_BLOCK)
            if NEED_X:
                write(dx, ds, n, c, t, p, change + given, frames, LAST, FAR)
            if NEED_BASIS:
                part = sum_along(rest * z - change * y, 3)
                if WHOLE:
                    above += part
                else:
                    above += tl.where(level, part, part * (1 - share))
                    below += tl.where(level, 0, part * share)
        if NEED_BASIS and WHOLE:
            at = dbasis + (n * (T * D) + t * D + d) * (H * W) + p
            tl.store(at, narrow(above, dbasis.dtype.element_ty), mask=inside & (d < D) & (t < T))
            above = below
    if NEED_BASIS and not WHOLE:
        columns = along(W_BLOCK, 3)
        at = dbasis + ((n * chunks + chunk) * (2 * T * D) + t * D + d) * W + strip * W_BLOCK + columns
        own = (strip * W_BLOCK + columns < W) & (d < D) & (t < T)
        ROWS: tl.constexpr = P_BLOCK // W_BLOCK
        tl.store(at, sum_along(tl.reshape(above, (D_BLOCK, T_BLOCK, ROWS, W_BLOCK)), 2), mask=own)
        at += (T * D) * W
        tl.store(at, sum_along(tl.reshape(below, (D_BLOCK, T_BLOCK, ROWS, W_BLOCK)), 2), mask=own)


@triton.jit(do_not_specialize=["W", "h", "w", "entries", "parts", "most", "j_blocks", "e_blocks"])
def temporal_projection_basis_kernel(
    partial, dbasis, W, h, w, entries, parts, most, j_blocks, e_blocks,
    WIDE: tl.constexpr, E_BLOCK: tl.constexpr, J_BLOCK: tl.constexpr, K_BLOCK: tl.constexpr,
):  # fmt: skip
    """Gathers a row of the grid, of E_BLOCK of a matrix' ``entries``, from the chunks above and below it.

    A place of the grid is read at ``most`` columns of the frame; K_BLOCK of them are added up side by side.
    """
    program = tl.program_id(0)
    e = program % e_blocks * E_BLOCK + along(E_BLOCK, 0)
    j = program // e_blocks % j_blocks * J_BLOCK + along(J_BLOCK, 1)
    program = program // (e_blocks * j_blocks)
    i = program % h
    n = (program // h).to(tl.int64)
    total = widen(tl.full((E_BLOCK, J_BLOCK, K_BLOCK, 1), 0, partial.dtype.element_ty))
    for start in range(0, most, K_BLOCK):
        column = first_reader(j - 1, w, W) + start + along(K_BLOCK, 2)
        share = share_of(column, j, w, W, WIDE)
        inside = (e < entries) & (j < w) & (column < W) & (share > 0)
        for part in range(parts):
            chunk = (n * h + i) * parts + part
            value = tl.load(partial + (chunk * 2 * entries + e) * W + column, mask=inside, other=0)
            chunk -= parts
            at = partial + ((chunk * 2 + 1) * entries + e) * W + column
            total += share * (value + tl.load(at, mask=inside & (i > 0), other=0))
    result = narrow(sum_along(total, 2), dbasis.dtype.element_ty)
    tl.store(dbasis + ((n * entries + e) * h + i) * w + j, result, mask=(e < entries) & (j < w))
