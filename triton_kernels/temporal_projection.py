"""temporal_projection in Triton: a tile of pixels takes its matrices from the grid and its frames from memory, once.

A tile has four axes, [D, T, P, C]: a thread holds all columns and frames of its pixel, up to 32 numbers a matrix; of
larger ones several threads hold a part each. The channels of a pixel share its matrix and the factors of AtA: L and the
pivots (Cholesky's method without square roots), of one column 1 / AtA. Sums over columns or frames are sums along an
axis, so one text does for every D and T. More columns than one are solved for once more with the residual, which costs
no memory traffic. Forward reads x once and writes what is wanted; the grid, 1/64 of a frame, comes from caches.

Backward makes everything again: it reads x and the gradients and writes dx, once each. The rows of a program lie
between two rows of the grid, so that what they send there are two rows of sums in registers; these go through scratch
memory, 2 rows for 8 with a grid of an eighth of the frame's size, and another kernel gathers them along the columns.
With a grid of the frame's size the gradient is written at once. Sums end in a fixed order, without atomics.

The floor is that traffic: 4 T C + 4 C bytes a pixel forward in fp32 for the mean of the residual, 8 T C + 4 C backward.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from ..ops.layouts import empty_clip, empty_images, layout_of
from ..tuning import Knob
from ._clip import far, native, native_like, power, walk
from ._compile import CompileCase, meta_clip
from ._projection_kernels import (
    temporal_projection_backward_kernel,
    temporal_projection_basis_kernel,
    temporal_projection_kernel,
)
from ._register import operator, wrap_triton
from ._temporal_kernels import temporal_conv_sum_kernel

FIELDS = ("COEFFICIENTS", "PROJECTION", "RESIDUAL", "MEAN", "ENERGY", "ERROR")
# Of a tile, times channels: one a thread. Half as many leave fewer lanes idle in rows that are no power of two wide,
# twice as many share the rows of the grid.
PIXELS = Knob("temporal_projection", "triton", "pixels", 128, (64, 128, 256))
SHARE = 32, 16  # numbers of a thread's matrices, forward and backward
LARGE = 512, 32  # numbers of a matrix beyond which they are half as many, or registers spill
KEEP = 16, 8  # numbers of a matrix up to which a program keeps the rows of the grid in registers
# Rows of a program, at most: it takes the rows of the grid about them once. Of 224 rows and a grid of 28 there are 8
# between two of the grid, so that more are of use with coarse grids alone.
RUN = Knob("temporal_projection", "triton", "run", 16, (4, 8, 16, 32))
# Pixels of a row that a tile has at least, where there are as many: 16 are half a line of fp32.
NEIGHBOURS = Knob("temporal_projection", "triton", "neighbours", 16, (8, 16, 32))
# Products of a tile of the kernel that gathers the gradient of the basis: 8 a thread; as many programs less as more.
GATHER = Knob("temporal_projection", "triton", "gather", 1024, (512, 1024, 2048))
ROWS, COLUMNS, WARPS = 64, 32, 4  # tile of the kernel that adds up the energies


class _Tile(NamedTuple):
    """Sizes of a tile, all powers of two; ``width`` of its ``pixels`` are in one row."""

    columns: int
    frames: int
    pixels: int
    width: int
    channels: int
    warps: int

    @property
    def constants(self) -> dict[str, int]:
        names = ("D_BLOCK", "T_BLOCK", "P_BLOCK", "W_BLOCK", "C_BLOCK", "num_warps")
        return dict(zip(names, self, strict=True)) | {"num_stages": 1}


@functools.lru_cache(maxsize=256)
def _tile(
    columns: int,
    frames: int,
    channels: int,
    rows: int,
    width: int,
    last: bool,
    share: int,
    elements: int,
    neighbours: int = 16,
) -> _Tile:
    """The tile of about ``elements`` pixels times channels that leaves fewest lanes idle in ``rows`` x ``width``.

    A thread has ``share`` numbers of a matrix at most. What matrices need more threads for, pixels go without.
    """
    d, t = power(columns), power(frames)
    room = max(min(elements, elements * share // (d * t)), 1)
    if room < elements // 8:  # twice as many threads
        room *= 2
    c = min(power(channels), 16, room) if last else 1
    choices = [min(power(width), room // c)]
    while choices[-1] > neighbours:
        choices.append(choices[-1] // 2)

    def down(across: int) -> int:
        return min(room // c // across, power(rows))

    across = min(choices, key=lambda w: -(-width // w) * -(-rows // down(w)))
    pixels = across * down(across)
    if not last:
        c = min(power(channels), room // pixels)
    warps = max(1, min(8, max(pixels * c // 32, d * t * pixels * c // (32 * share))))
    return _Tile(d, t, pixels, across, c, warps)


def _longest(grid: int, side: int) -> int:
    """The most rows of a frame of ``side`` that lie between two rows of the grid, or beyond its ends."""
    if grid == 1:
        return side
    starts = [0, *(-(-(side * (2 * i + 1) - grid) // (2 * grid)) for i in range(1, grid)), side]
    return max(b - a for a, b in itertools.pairwise(starts))


class _Call:
    """What the launches of one call share."""

    def __init__(self, x: Tensor, basis: Tensor, ridge: float) -> None:
        self.x, self.basis = native(x), basis.contiguous()
        self.N = x.shape[0]  # a compiled graph is for any
        self.C, self.T, self.H, self.W = (int(size) for size in x.shape[1:])
        self.D, self.h, self.w = (int(size) for size in basis.shape[2:])
        self.wide = x.dtype == torch.float64
        self.dtype = torch.float64 if self.wide else torch.float32
        self.whole = (self.h, self.w) == (self.H, self.W)
        self.last = walk(self.x).last
        self.ridge = ridge

    def rows(self) -> tuple[int, int, int]:
        """Rows of a program, programs from one row of the grid to the next, and programs of a strip."""
        most = self.H if self.whole else _longest(self.h, self.H)
        run = min(RUN.value, most)
        parts = triton.cdiv(most, run)
        return run, parts, parts if self.whole else parts * self.h

    def tile(self, rows: int, share: int, large: int) -> _Tile:
        if power(self.D) * power(self.T) > large:
            share //= 2
        if self.wide:
            share //= 2
        return _tile(self.D, self.T, self.C, rows, self.W, self.last, share, PIXELS.value, NEIGHBOURS.value)

    def settings(self, shape: _Tile, keep: int, *others: Tensor) -> dict[str, Any]:
        """Constants of a launch, which also reads or writes ``others``."""
        numbers = shape.columns * shape.frames * (2 if self.wide else 1)
        return {
            "T": self.T, "D": self.D, "RIDGE": self.ridge, "WHOLE": self.whole, "LAST": self.last,
            "WIDE": self.wide, "KEEP": not self.whole and numbers <= keep, "FAR": far(self.x, self.basis, *others),
            **shape.constants,
        }  # fmt: skip


def _images(x: Tensor, count: int) -> Tensor:
    """Images one behind the other, ``(N, count, C, H, W)``, channels last where the clip is."""
    n, c, _, h, w = x.shape
    p = h * w
    own = (c * p, 1, w * c, c) if layout_of(x) == "NTHWC" else (c * p, p, w, 1)
    return x.new_empty_strided((n, count, c, h, w), (count * c * p, *own))


@operator
def temporal_projection(
    x: Tensor, basis: Tensor, ridge: float, outputs: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Forward; see :func:`vidops.ops.temporal_projection`. Bit i of ``outputs`` is set where field i is wanted."""
    call = _Call(x, basis, ridge)
    wanted = [bool(outputs >> i & 1) for i in range(len(FIELDS))]
    coefficients = _images(call.x, call.D) if wanted[0] else x.new_empty(0)
    projection, residual = (empty_clip(call.x) if want else x.new_empty(0) for want in wanted[1:3])
    mean = empty_images(call.x, call.C) if wanted[3] else x.new_empty(0)
    energy, error = (x.new_empty(call.N if want else 0, dtype=call.dtype) for want in wanted[4:])
    results = (coefficients, projection, residual, mean, energy, error)
    if x.numel() == 0:
        return results
    run, parts, chunks = call.rows()
    shape = call.tile(run, SHARE[0], LARGE[0])
    strips = triton.cdiv(call.W, shape.width)
    sums = wanted[4] + wanted[5]
    partial = x.new_empty((strips * chunks, sums * call.N), dtype=torch.float64)
    nothing = (0, 0, 0, 0)
    wrap_triton(temporal_projection_kernel)[(call.N * chunks * strips,)](
        call.x, call.basis, coefficients, projection, residual, mean, partial, *walk(call.x).each,
        *(walk(projection if wanted[1] else residual).each if wanted[1] or wanted[2] else nothing),
        *(walk(coefficients.transpose(1, 2)).each if wanted[0] else nothing),
        *(walk(mean.unsqueeze(2)).each if wanted[3] else nothing),
        call.N, call.C, call.H, call.W, call.h, call.w, strips, chunks, run, parts,
        **dict(zip(FIELDS, wanted, strict=True)), **call.settings(shape, KEEP[0], *(r for r in results if r.dim() > 1)),
    )  # fmt: skip
    if sums:
        width = sums * call.N
        wrap_triton(temporal_conv_sum_kernel)[(triton.cdiv(width, COLUMNS),)](
            partial, energy if wanted[4] else error, error, strips * chunks, width, call.N,
            ROWS=ROWS, COLUMNS=COLUMNS, num_warps=WARPS,
        )  # fmt: skip
    return results


def _given(call: _Call, grads: list[Tensor | None]) -> tuple[list[Tensor], list[tuple[int, ...]]]:
    """The gradients as the kernel takes them, with x for missing ones, and the steps of those with pixels."""
    coefficients, projection, residual, mean, *numbers = grads
    clips = [
        None if coefficients is None else coefficients.transpose(1, 2),
        projection,
        residual,
        None if mean is None else mean.unsqueeze(2),
    ]
    walked = [None if clip is None else native_like(clip, call.x) for clip in clips]
    steps = [(0, 0, 0, 0) if clip is None else walk(clip).each for clip in walked]
    dense = [None if number is None else number.contiguous() for number in numbers]
    return [call.x if grad is None else grad for grad in (*walked, *dense)], steps


@operator
def temporal_projection_backward(
    grad_coefficients: Tensor | None,
    grad_projection: Tensor | None,
    grad_residual: Tensor | None,
    grad_residual_mean: Tensor | None,
    grad_energy: Tensor | None,
    grad_error: Tensor | None,
    x: Tensor,
    basis: Tensor,
    ridge: float,
    need_x: bool,
    need_basis: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the basis; those not needed have shape (0,)."""
    call = _Call(x, basis, ridge)
    dx = empty_clip(call.x) if need_x else x.new_empty(0)
    dbasis = x.new_empty(basis.shape if need_basis else (0,))
    grads = [grad_coefficients, grad_projection, grad_residual, grad_residual_mean, grad_energy, grad_error]
    if x.numel() == 0 or all(g is None for g in grads):
        return dx.zero_(), dbasis.zero_()
    given, steps = _given(call, grads)
    run, parts, chunks = call.rows()
    shape = call.tile(run, SHARE[1], LARGE[1])
    strips = triton.cdiv(call.W, shape.width)
    partial = dbasis
    if need_basis and not call.whole:
        partial = x.new_empty((call.N, chunks, 2, call.T * call.D, call.W), dtype=call.dtype)
    wrap_triton(temporal_projection_backward_kernel)[(call.N * chunks * strips,)](
        *given, call.x, call.basis, dx, partial, *(step for each in steps for step in each), *walk(call.x).each,
        *(walk(dx).each if need_x else (0, 0, 0, 0)), call.C, call.H, call.W, call.h, call.w, strips, chunks, run,
        parts, **{name: g is not None for name, g in zip(FIELDS, grads, strict=True)}, NEED_X=need_x,
        NEED_BASIS=need_basis, **call.settings(shape, KEEP[1], dx, *(g for g in given if g.dim() > 1)),
    )  # fmt: skip
    if need_basis and not call.whole:
        _gather(call, partial, dbasis, parts)
    return dx, dbasis


def _gather(call: _Call, partial: Tensor, dbasis: Tensor, parts: int) -> None:
    entries = call.T * call.D
    most = min(2 * call.W // call.w + 2, call.W)
    products = GATHER.value
    k = min(power(most), 64, products)
    j = min(power(call.w), products // k)
    e = min(power(entries), products // (k * j))
    j_blocks, e_blocks = triton.cdiv(call.w, j), triton.cdiv(entries, e)
    wrap_triton(temporal_projection_basis_kernel)[(call.N * call.h * j_blocks * e_blocks,)](
        partial, dbasis, call.W, call.h, call.w, entries, parts, most, j_blocks, e_blocks,
        WIDE=call.wide, E_BLOCK=e, J_BLOCK=j, K_BLOCK=k, num_warps=4, num_stages=1,
    )  # fmt: skip


def _case(
    name: str,
    registers: int,
    shape: tuple[int, int, int, int, int],
    columns: int,
    dtype: torch.dtype = torch.float32,
    layout: str = "NCTHW",
    grid: tuple[int, int] = (28, 28),
    outputs: tuple[str, ...] = ("MEAN", "ENERGY"),
    backward: bool = False,
    quick: bool = False,
) -> CompileCase:
    def call() -> None:
        x = meta_clip(shape, dtype, layout)
        basis = x.new_empty((shape[0], shape[2], columns, *grid))
        wanted = sum(1 << i for i, field in enumerate(FIELDS) if field in outputs)
        if backward:
            number = x.new_empty(shape[0], dtype=torch.float64 if dtype == torch.float64 else torch.float32)
            results = (
                _images(x, columns),
                empty_clip(x),
                empty_clip(x),
                empty_images(x, shape[1]),
                number,
                number,
            )
            grads = [result if wanted >> i & 1 else None for i, result in enumerate(results)]
            temporal_projection_backward(*grads, x, basis, 1e-6, True, True)
        else:
            temporal_projection(x, basis, 1e-6, wanted)

    return CompileCase(name, call, registers, quick)


_SHORT, _LONG = (64, 3, 8, 224, 224), (64, 3, 16, 224, 224)
_SQUEEZE = (8, 192, 10, 35, 35)
COMPILE_CASES = [
    _case("forward, fp32", 80, _SHORT, 1, quick=True),
    _case("backward, fp32", 128, _SHORT, 1, backward=True, quick=True),
    _case("forward, bf16, 16 frames", 128, _LONG, 1, torch.bfloat16),
    _case("backward, bf16, 16 frames", 240, _LONG, 1, torch.bfloat16, backward=True),
    _case("forward, fp32, 3 columns, channels last", 136, _SHORT, 3, layout="NTHWC"),
    _case("backward, fp32, 3 columns, channels last", 176, _SHORT, 3, layout="NTHWC", backward=True),
    _case("forward, everything, 3 columns", 176, _SHORT, 3, outputs=FIELDS),
    _case("backward, everything, 3 columns", 255, _SHORT, 3, outputs=FIELDS, backward=True),
    _case("forward, fp64", 128, _SHORT, 1, torch.float64),
    _case("backward, fp64, matrices of every pixel", 160, (2, 3, 8, 64, 64), 2, torch.float64, grid=(64, 64),
          backward=True),
    _case("forward, squeeze", 152, _SQUEEZE, 3, grid=(1, 1), outputs=("COEFFICIENTS", "ERROR")),
    _case("backward, squeeze", 160, _SQUEEZE, 3, grid=(1, 1), outputs=("COEFFICIENTS", "ERROR"), backward=True),
    _case("forward, 16 columns of 64 frames", 224, (2, 3, 64, 56, 56), 16, grid=(7, 7)),
    _case("backward, 16 columns of 64 frames", 216, (2, 3, 64, 56, 56), 16, grid=(7, 7), backward=True),
]  # fmt: skip
