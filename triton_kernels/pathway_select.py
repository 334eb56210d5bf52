"""pathway_select in Triton: every pathway is read once, and the softmax over them happens where it is used.

A program owns a tile of channels and positions, [C_BLOCK, P_BLOCK], of one clip (of one frame, where logits differ
by frame), takes the weights of its channels once, and walks a run of tiles: a tile of every pathway is asked for
before the first is used. Backward writes the pathways' gradients on the same walk and keeps, of every pathway, a
tile of sums of gradient times pathway in registers: the floor is M + 1 clips forward and 2M + 1 backward. Where a
program has all tiles of its channels it writes their logits' gradients; otherwise it leaves its sums, and a second
kernel adds those of the programs in a fixed order. The split depends on shapes and knobs alone.

Pathways may lie differently: each is read by its own steps, one element at a time where one has positions next to
each other and another channels.
"""

# ruff: noqa: RUF005 (Triton has no unpacking)
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..ops.layouts import empty_clip
from ..tuning import Knob
from ._bilinear import divide
from ._clip import Runs, Tiles, Walk, alignment, elements, native, walk
from ._compile import CompileCase, meta_clip
from ._device import device, narrow, steps, sum_along, tile_at, tile_of, widen
from ._keypoint_kernels import exponential
from ._register import operator, wrap_triton

MOST = 8  # pathways
# Of a tile, a thread: 16 are the widest load; twice as much of every pathway leaves few registers.
BYTES = Knob("pathway_select", "triton", "bytes", 16, (8, 16, 32))
TILES, RUNS = (
    Tiles("pathway_select"),
    Runs("pathway_select"),
)  # weights are taken, and sums written, once a run
PARTS, COLUMNS = 32, 32  # tile of the kernel that adds the programs' sums

_STEPS = [f"s{m}_{axis}" for m in range(MOST) for axis in "nto"]
_SIZES = ["C", "T", "P", "blocks", "p_blocks", "items", "run", "parts"]


@device
def _softmax(logits, PATHS: tl.constexpr, WIDE: tl.constexpr):
    """Weights from a tuple of logits."""
    top = logits[0]
    for m in tl.static_range(1, PATHS):
        top = tl.maximum(top, logits[m])
    powers = ()
    total = top * 0
    for m in tl.static_range(PATHS):
        powers = powers + (exponential(logits[m] - top, WIDE),)
        total += powers[m]
    weights = ()
    for m in tl.static_range(PATHS):
        weights = weights + (divide(powers[m], total, WIDE),)
    return weights


@device
def _weights(logits, at, step, own, PATHS: tl.constexpr):
    """Weights of the channels whose first logits are ``at``; one pathway's are ``step`` from the next one's."""
    seen = ()
    for m in tl.static_range(PATHS):
        seen = seen + (widen(tl.load(logits + at + m * step, mask=own, other=0)),)
    return _softmax(seen, PATHS, logits.dtype.element_ty == tl.float64)


@device
def _slopes(weights, sums, PATHS: tl.constexpr, PRECISE: tl.constexpr):
    """Gradients of logits: ``w_m (s_m - sum_k w_k s_k)``, PRECISE in fp64, for the sums cancel."""
    if PRECISE:
        mean, total = weights[0].to(tl.float64) * 0, weights[0].to(tl.float64) * 0
    else:
        mean, total = weights[0] * 0, weights[0] * 0
    for m in tl.static_range(PATHS):
        mean += weights[m] * sums[m]
        total += weights[m]
    mean = mean / total
    slopes = ()
    for m in tl.static_range(PATHS):
        slopes = slopes + (weights[m] * (sums[m] - mean),)
    return slopes


@device
def _program(blocks, T, parts, LAST: tl.constexpr):
    """Which block of channels, part of its tiles, frame and clip this program has; planar in the order of memory."""
    program = tl.program_id(0)
    if LAST:
        block = program % blocks
        program = program // blocks
    part = program % parts
    program = program // parts
    frame = program % T
    program = program // T
    if not LAST:
        block = program % blocks
        program = program // blocks
    return block, part, frame, program.to(tl.int64)


@device
def _bases(paths, between, clip, PATHS: tl.constexpr, APART: tl.constexpr, ALIGN: tl.constexpr):
    """Of every pathway its clip's first element, and its steps from a frame and of its slow axis to the next.

    APART is 3 where each has steps of its own, and 0 where all have the first one's, which saves registers.
    """
    n, t, other = steps(between[0], between[1], between[2], ALIGN)
    bases = ((paths[0] + clip * n, t, other),)
    for m in tl.static_range(1, PATHS):
        if APART > 0:
            n, t, other = steps(between[3 * m], between[3 * m + 1], between[3 * m + 2], ALIGN)
        bases = bases + ((paths[m] + clip * n, t, other),)
    return bases


@device
def _tiles(
    bases, t, position, channel, inside,
    PATHS: tl.constexpr, APART: tl.constexpr, LASTS: tl.constexpr, C_BLOCK: tl.constexpr, P_BLOCK: tl.constexpr,
):  # fmt: skip
    """A tile of every pathway in frame t, as it is stored; bit m of LASTS tells that the m-th is channels last."""
    base, x_t, x_o = bases[0]
    at = tile_at(t * x_t, position, channel, x_o, C_BLOCK, P_BLOCK, LASTS & 1)
    seen = (tl.load(base + at, mask=inside, other=0),)
    for m in tl.static_range(1, PATHS):
        base, x_t, x_o = bases[m]
        if APART > 0:
            at = tile_at(t * x_t, position, channel, x_o, C_BLOCK, P_BLOCK, (LASTS >> m) & 1)
        seen = seen + (tl.load(base + at, mask=inside, other=0),)
    return seen


@triton.jit(do_not_specialize=[*_STEPS, "y_n", "y_t", "y_o", *_SIZES])
def pathway_select_kernel(
    p0, p1, p2, p3, p4, p5, p6, p7, logits, y,
    s0_n, s0_t, s0_o, s1_n, s1_t, s1_o, s2_n, s2_t, s2_o, s3_n, s3_t, s3_o,
    s4_n, s4_t, s4_o, s5_n, s5_t, s5_o, s6_n, s6_t, s6_o, s7_n, s7_t, s7_o,
    y_n, y_t, y_o, C, T, P, blocks, p_blocks, items, run, parts,
    PATHS: tl.constexpr, APART: tl.constexpr, LASTS: tl.constexpr, LAST: tl.constexpr, ALIGN: tl.constexpr,
    C_BLOCK: tl.constexpr, P_BLOCK: tl.constexpr,
):  # fmt: skip
    """Steps and the fast axis are in units of ALIGN elements; T counts the frames that logits have."""
    UNIT: tl.constexpr = ALIGN if LAST else 1
    block, part, frame, clip = _program(blocks, T, parts, LAST)
    begin = part * run
    end = tl.minimum(begin + run, items)
    channel = block.to(tl.int64) * C_BLOCK
    c = channel + tl.arange(0, C_BLOCK)[:, None]
    own = c < C * UNIT
    step = (C * UNIT).to(tl.int64) * T
    weights = _weights(logits, clip * step * PATHS + c * T + frame, step, own, PATHS)
    paths = (p0, p1, p2, p3, p4, p5, p6, p7)
    between = (
        s0_n, s0_t, s0_o, s1_n, s1_t, s1_o, s2_n, s2_t, s2_o, s3_n, s3_t, s3_o,
        s4_n, s4_t, s4_o, s5_n, s5_t, s5_o, s6_n, s6_t, s6_o, s7_n, s7_t, s7_o,
    )  # fmt: skip
    bases = _bases(paths, between, clip, PATHS, APART, ALIGN)
    y_n, y_t, y_o = steps(y_n, y_t, y_o, ALIGN)
    for item in range(begin, end):
        t, position, inside = tile_of(item, p_blocks, own, P * (ALIGN // UNIT), P_BLOCK)
        t += frame
        seen = _tiles(bases, t, position, channel, inside, PATHS, APART, LASTS, C_BLOCK, P_BLOCK)
        total = weights[0] * widen(seen[0])
        for m in tl.static_range(1, PATHS):
            total += weights[m] * widen(seen[m])
        at = tile_at(y + clip * y_n + t * y_t, position, channel, y_o, C_BLOCK, P_BLOCK, LAST)
        tl.store(at, narrow(total, y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=[*_STEPS, "g_n", "g_t", "g_o", "d_n", "d_t", "d_o", *_SIZES])
def pathway_select_backward_kernel(
    p0, p1, p2, p3, p4, p5, p6, p7, d0, d1, d2, d3, d4, d5, d6, d7, grad, logits, sums,
    s0_n, s0_t, s0_o, s1_n, s1_t, s1_o, s2_n, s2_t, s2_o, s3_n, s3_t, s3_o,
    s4_n, s4_t, s4_o, s5_n, s5_t, s5_o, s6_n, s6_t, s6_o, s7_n, s7_t, s7_o,
    g_n, g_t, g_o, d_n, d_t, d_o, C, T, P, blocks, p_blocks, items, run, parts,
    PATHS: tl.constexpr, APART: tl.constexpr, LASTS: tl.constexpr, LAST: tl.constexpr, GRAD_LAST: tl.constexpr,
    ALIGN: tl.constexpr, WHOLE: tl.constexpr, C_BLOCK: tl.constexpr, P_BLOCK: tl.constexpr,
):  # fmt: skip
    """As forward. ``sums`` are the gradients of logits if WHOLE: a program has all tiles of its channels; otherwise
    every part's sums of gradient times pathway, shaped as logits."""
    UNIT: tl.constexpr = ALIGN if LAST else 1
    block, part, frame, clip = _program(blocks, T, parts, LAST)
    begin = part * run
    end = tl.minimum(begin + run, items)
    channel = block.to(tl.int64) * C_BLOCK
    c = channel + tl.arange(0, C_BLOCK)[:, None]
    own = c < C * UNIT
    step = (C * UNIT).to(tl.int64) * T
    weights = _weights(logits, clip * step * PATHS + c * T + frame, step, own, PATHS)
    paths = (p0, p1, p2, p3, p4, p5, p6, p7)
    slopes = (d0, d1, d2, d3, d4, d5, d6, d7)
    between = (
        s0_n, s0_t, s0_o, s1_n, s1_t, s1_o, s2_n, s2_t, s2_o, s3_n, s3_t, s3_o,
        s4_n, s4_t, s4_o, s5_n, s5_t, s5_o, s6_n, s6_t, s6_o, s7_n, s7_t, s7_o,
    )  # fmt: skip
    bases = _bases(paths, between, clip, PATHS, APART, ALIGN)
    g_n, g_t, g_o = steps(g_n, g_t, g_o, ALIGN)
    d_n, d_t, d_o = steps(d_n, d_t, d_o, ALIGN)
    totals = ()
    for _ in tl.static_range(PATHS):
        totals = totals + (widen(tl.full((C_BLOCK, P_BLOCK), 0, grad.dtype.element_ty)),)
    for item in range(begin, end):
        t, position, inside = tile_of(item, p_blocks, own, P * (ALIGN // UNIT), P_BLOCK)
        t += frame
        at = tile_at(grad + clip * g_n + t * g_t, position, channel, g_o, C_BLOCK, P_BLOCK, GRAD_LAST)
        slope = tl.load(at, mask=inside, other=0)
        seen = _tiles(bases, t, position, channel, inside, PATHS, APART, LASTS, C_BLOCK, P_BLOCK)
        slope = widen(slope)
        added = ()
        at = tile_at(clip * d_n + t * d_t, position, channel, d_o, C_BLOCK, P_BLOCK, LAST)
        for m in tl.static_range(PATHS):
            added = added + (totals[m] + slope * widen(seen[m]),)
            tl.store(slopes[m] + at, narrow(weights[m] * slope, grad.dtype.element_ty), mask=inside)
        totals = added
    rows = ()
    for m in tl.static_range(PATHS):
        rows = rows + (sum_along(totals[m], 1),)
    if WHOLE:
        rows = _slopes(weights, rows, PATHS, grad.dtype.element_ty.primitive_bitwidth >= 32)
    clips = tl.num_programs(0) // (blocks * parts * T)
    first = (part * clips + clip) * step * PATHS + c * T + frame
    for m in tl.static_range(PATHS):
        tl.store(sums + first + m * step, narrow(rows[m], sums.dtype.element_ty), mask=own)


@triton.jit(do_not_specialize=["parts", "rows", "clip_rows"])
def pathway_select_sum_kernel(
    partial, logits, dlogits, parts, rows, clip_rows,
    PATHS: tl.constexpr, PARTS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Adds the parts' sums, always in the same order; ``clip_rows`` of the ``rows`` are one clip's."""
    row = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    own = row < rows
    first = row // clip_rows * clip_rows * PATHS + row % clip_rows
    sums = ()
    for m in tl.static_range(PATHS):
        total = tl.full((PARTS, COLUMNS), 0, tl.float64)
        for begin in range(0, parts, PARTS):
            part = begin + tl.arange(0, PARTS)[:, None]
            at = partial + part.to(tl.int64) * rows * PATHS + first + m * clip_rows
            total += tl.load(at, mask=own & (part < parts), other=0).to(tl.float64)
        sums = sums + (sum_along(total, 0),)
    slopes = _slopes(_weights(logits, first, clip_rows, own, PATHS), sums, PATHS, True)
    for m in tl.static_range(PATHS):
        value = slopes[m] if dlogits.dtype.element_ty == tl.float64 else slopes[m].to(tl.float32)
        tl.store(dlogits + first + m * clip_rows, narrow(value, dlogits.dtype.element_ty), mask=own)


class _Plan(NamedTuple):
    """How the kernels walk the clips of a call, and what all launches of it share."""

    walks: list[Walk]
    align: int
    sizes: tuple[int, ...]
    programs: int
    parts: int
    constants: dict[str, Any]

    def steps(self, i: int) -> tuple[int, int, int]:
        """The steps of the i-th clip, as kernels take them."""
        return self.walks[i].scaled(self.align)

    def path_steps(self, paths: int) -> list[int]:
        """Those of every pathway, for all that there may be."""
        return [step for steps in _padded([self.steps(m) for m in range(paths)]) for step in steps]


def _plan(clips: Sequence[Tensor], paths: int, each_frame: bool, sums: bool) -> _Plan:
    """``clips`` are the pathways and whatever is walked with them; ``sums`` of tiles are kept or not."""
    walks = [walk(clip) for clip in clips]
    size = clips[0].element_size()
    # Frames without a gap between them are one, where they have the same weights.
    if not each_frame and all(at.sT == at.P * at.sP for at in walks):
        walks = [at._replace(T=1, P=at.T * at.P) for at in walks]
    at = walks[0]
    align = 1
    if all(other.last == at.last for other in walks):
        align = alignment(
            clips[0], at.C if at.last else at.P, *[step for other in walks for step in other.steps]
        )
    unit = align if at.last else 1
    # Unaligned elements have an address each, and weights and sums of many channels fill the registers.
    crowded = align == 1 or (at.last and sums and paths > 4)
    share = max(elements(BYTES, size) // 2, 1) if crowded else elements(BYTES, size)
    shape = TILES(share, at.C, at.P, at.last, size)
    blocks, p_blocks = triton.cdiv(at.C, shape.c_block), triton.cdiv(at.P, shape.p_block)
    frames = at.T if each_frame else 1
    items = p_blocks if each_frame else p_blocks * at.T
    run = RUNS(at.N * frames * blocks * items)
    parts = triton.cdiv(items, run)
    alike = len({other.scaled(1) for other in walks[:paths]}) == 1
    constants = {
        "PATHS": paths, "APART": 0 if alike else 3, "LAST": at.last, "ALIGN": align,
        "LASTS": sum(int(other.last) << m for m, other in enumerate(walks[:paths])),
        "C_BLOCK": shape.c_block, "P_BLOCK": shape.p_block, "num_warps": shape.warps, "num_stages": 1,
    }  # fmt: skip
    sizes = (at.C // unit, frames, at.P * unit // align, blocks, p_blocks, items, run, parts)
    return _Plan(walks, align, sizes, at.N * frames * blocks * parts, parts, constants)


def _padded(each: Sequence[Any], rest: Any = None) -> list[Any]:
    """One for every pathway that there may be; kernels do not look at ``rest``, or the first one again."""
    return [*each, *[each[0] if rest is None else rest] * (MOST - len(each))]


@operator
def pathway_select(paths: Sequence[Tensor], logits: Tensor) -> Tensor:
    """Forward; see :func:`vidops.ops.pathway_select`."""
    paths = [native(path) for path in paths]
    y = empty_clip(paths[0])
    if y.numel() == 0:
        return y
    plan = _plan([*paths, y], len(paths), logits.dim() == 4, sums=False)
    wrap_triton(pathway_select_kernel)[(plan.programs,)](
        *_padded(paths), logits.contiguous(), y, *plan.path_steps(len(paths)), *plan.steps(-1), *plan.sizes,
        **plan.constants,
    )  # fmt: skip
    return y


@operator
def pathway_select_backward(
    grad: Tensor, paths: Sequence[Tensor], logits: Tensor
) -> tuple[list[Tensor], Tensor]:
    """Gradients of the pathways and of logits."""
    paths, grad, logits = [native(path) for path in paths], native(grad), logits.contiguous()
    count = len(paths)
    dpaths = [empty_clip(paths[0]) for _ in paths]
    dlogits = torch.empty_like(logits)
    if grad.numel() == 0:
        return dpaths, dlogits.zero_()
    plan = _plan([*paths, grad, dpaths[0]], count, logits.dim() == 4, sums=True)
    whole = plan.parts == 1
    dtype = torch.float64 if grad.dtype == torch.float64 else torch.float32
    sums = dlogits if whole else logits.new_empty((plan.parts, *logits.shape), dtype=dtype)
    wrap_triton(pathway_select_backward_kernel)[(plan.programs,)](
        *_padded(paths), *_padded(dpaths, grad), grad, logits, sums, *plan.path_steps(count), *plan.steps(-2),
        *plan.steps(-1), *plan.sizes, GRAD_LAST=plan.walks[-2].last, WHOLE=whole,
        **plan.constants,
    )  # fmt: skip
    if not whole:
        clip_rows = math.prod(logits.shape[2:])
        rows = logits.shape[0] * clip_rows
        wrap_triton(pathway_select_sum_kernel)[(triton.cdiv(rows, COLUMNS),)](
            sums, logits, dlogits, plan.parts, rows, clip_rows,
            PATHS=count, PARTS=PARTS, COLUMNS=COLUMNS, num_warps=4,
        )  # fmt: skip
    return dpaths, dlogits


def _case(
    name: str,
    registers: int,
    shape: tuple[int, int, int, int, int],
    paths: int,
    dtype: torch.dtype = torch.bfloat16,
    layout: str = "NCTHW",
    each_frame: bool = False,
    backward: bool = False,
    quick: bool = False,
) -> CompileCase:
    def call() -> None:
        clips = [meta_clip(shape, dtype, layout) for _ in range(paths)]
        n, c, t, _, _ = shape
        logits = clips[0].new_empty((n, paths, c, t) if each_frame else (n, paths, c))
        if backward:
            pathway_select_backward(clips[0], clips, logits)
        else:
            pathway_select(clips, logits)

    return CompileCase(name, call, registers, quick)


# BTSNet-50's stages at batch 32, and wider ones.
_FIRST, _SECOND, _THIRD = (32, 128, 15, 28, 28), (32, 256, 8, 14, 14), (32, 512, 4, 7, 7)
COMPILE_CASES = [
    _case("forward, bf16, 28x28", 56, _FIRST, 3, each_frame=True, quick=True),
    _case("backward, bf16, 28x28", 96, _FIRST, 3, each_frame=True, backward=True, quick=True),
    _case("backward, bf16, channels last, 7 pathways", 168, _FIRST, 7, layout="NTHWC", backward=True),
    _case("forward, bf16, channels last, 8 pathways", 136, _FIRST, 8, layout="NTHWC"),
    _case("backward, fp32, 14x14, 4 pathways", 104, _SECOND, 4, torch.float32, backward=True),
    _case("forward, bf16, 7x7, 7 pathways", 128, _THIRD, 7, each_frame=True),
    _case("backward, bf16, 7x7, 7 pathways", 168, _THIRD, 7, each_frame=True, backward=True),
    _case("backward, fp64, 7x7", 104, (2, 24, 8, 7, 7), 2, torch.float64, backward=True),
]
