"""motion_band_pass in Triton: the temporal filter first, so that the k x k one has T/stride frames to do.

A tile of registers has no neighbours, so the combined frames go through scratch memory once, padded and in fp32: a
program of the k x k filter then reads them k*k times at fixed offsets, from the caches. Scratch holds a frame for
each of the result, which the stem's stride of 3 makes a third of the clip.

Backward has the adjoint of the spatial filter over the padded frame, whose border a second kernel folds onto the
pixels that it mirrors, with the products that d temporal is made of; dx gathers what the results that read a frame
send it. d spatial multiplies the gradient with the combined frames, made again: a program keeps the sums of a row of
taps over a run of tiles, and another kernel adds the programs' sums in a fixed order.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from ..ops.layouts import clip_strides, empty_clip
from ..tuning import Knob
from ._band_pass_kernels import (
    band_pass_adjoint_kernel,
    band_pass_combine_kernel,
    band_pass_conv_kernel,
    band_pass_fold_kernel,
    band_pass_frames_kernel,
    band_pass_taps_kernel,
)
from ._clip import Runs, Tile, Tiles, native, native_like, walk
from ._compile import CompileCase, meta_clip
from ._register import operator, wrap_triton
from ._temporal_kernels import temporal_conv_sum_kernel

# Elements of a tile a thread; the sums of a row of taps are that many times k, and with 8 times 9 of them few programs
# run at once.
SHARE = Knob("motion_band_pass", "triton", "share", 4, (2, 4, 8))
TILES, RUNS = Tiles("motion_band_pass"), Runs("motion_band_pass")
ROWS, COLUMNS, WARPS = 64, 32, 4  # tile of the kernel that adds them

_Steps = tuple[int, int, int, int]


class _Call:
    """What one call's launches share."""

    def __init__(self, x: Tensor, spatial: Tensor, stride: int, temporal_padding: str) -> None:
        self.x = native(x)
        self.at = walk(self.x)
        self.N, self.C, self.T, self.H, self.W = (int(size) for size in x.shape)
        self.K = int(spatial.shape[-1])
        self.stride = stride
        self.first = 0 if temporal_padding == "valid" else -1
        span = self.T - 2 if temporal_padding == "valid" else self.T
        self.frames = (span + stride - 1) // stride
        self.dtype = torch.float64 if x.dtype == torch.float64 else torch.float32

    def scratch(self, border: int) -> Tensor:
        """Results in accumulation type, channels last as x is, with so many pixels more along each axis."""
        shape = (self.N, self.C, self.frames, self.H + border, self.W + border)
        layout = "NTHWC" if self.at.last else "NCTHW"
        return self.x.new_empty_strided(shape, clip_strides(shape, layout), dtype=self.dtype)

    def steps(self, clip: Tensor) -> _Steps:
        """From one clip, channel, frame, position to the next."""
        at = walk(clip)
        return (at.sN, 1, at.sT, at.sP) if self.at.last else (at.sN, at.sC, at.sT, 1)

    def tile(self, border: int = 0) -> tuple[Tile, int, int]:
        """A program's tile, and the number of tiles along channels and positions."""
        positions = (self.H + border) * (self.W + border)
        shape = TILES(SHARE.value, self.C, positions, self.at.last, 4)
        return shape, triton.cdiv(self.C, shape.c_block), triton.cdiv(positions, shape.p_block)

    def combine(self, temporal: Tensor) -> Tensor:
        """The three frames of every result, combined and padded."""
        z = self.scratch(self.K - 1)
        shape, blocks, p_blocks = self.tile(self.K - 1)
        wrap_triton(band_pass_combine_kernel)[(self.N * self.frames * blocks * p_blocks,)](
            self.x, temporal, z, *self.steps(self.x), *self.steps(z), self.C, self.T, self.H, self.W, self.frames,
            blocks, p_blocks, self.stride, self.first, REACH=self.K // 2, **_settings(shape),
        )  # fmt: skip
        return z


def _settings(shape: Tile) -> dict[str, int]:
    return {
        "C_BLOCK": shape.c_block,
        "P_BLOCK": shape.p_block,
        "num_warps": shape.warps,
        "num_stages": 1,
    }


@operator
def motion_band_pass(
    x: Tensor, spatial: Tensor, temporal: Tensor, stride: int, temporal_padding: str, quiet: bool
) -> tuple[Tensor, Tensor]:
    """Forward; see :func:`vidops.ops.motion_band_pass`. Without ``quiet`` the second result has shape (0,)."""
    call = _Call(x, spatial, stride, temporal_padding)
    y = empty_clip(call.x, call.frames)
    q = empty_clip(call.x, call.frames) if quiet else x.new_empty(0)
    if y.numel() == 0:
        return y, q
    z = call.combine(temporal.contiguous())
    shape, blocks, p_blocks = call.tile()
    second = q if quiet else y
    wrap_triton(band_pass_conv_kernel)[(call.N * call.frames * blocks * p_blocks,)](
        call.x, z, spatial.contiguous(), y, second, *call.steps(call.x), *call.steps(z), *call.steps(y),
        *call.steps(second), call.C, call.T, call.H, call.W, call.frames, blocks, p_blocks, stride, call.first,
        K=call.K, QUIET=quiet, **_settings(shape),
    )  # fmt: skip
    return y, q


def _add_rows(partial: Tensor, to: Tensor) -> None:
    rows, width = partial.shape
    wrap_triton(temporal_conv_sum_kernel)[(triton.cdiv(width, COLUMNS),)](
        partial, to, to, rows, width, width, ROWS=ROWS, COLUMNS=COLUMNS, num_warps=WARPS
    )


@operator
def motion_band_pass_backward(
    grad: Tensor | None,
    grad_quiet: Tensor | None,
    x: Tensor,
    spatial: Tensor,
    temporal: Tensor,
    stride: int,
    temporal_padding: str,
    need_x: bool,
    need_spatial: bool,
    need_temporal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, spatial and temporal; those not needed have shape (0,)."""
    call = _Call(x, spatial, stride, temporal_padding)
    dx = empty_clip(call.x) if need_x else x.new_empty(0)
    dspatial = x.new_empty(spatial.shape if need_spatial else (0,))
    dtemporal = x.new_empty(temporal.shape if need_temporal else (0,))
    if x.numel() == 0 or (grad is None and grad_quiet is None):
        return dx.zero_(), dspatial.zero_(), dtemporal.zero_()
    spatial, temporal = spatial.contiguous(), temporal.contiguous()
    busy = None if grad is None else native_like(grad, call.x)
    quiet = None if grad_quiet is None else native_like(grad_quiet, call.x)
    there = busy if busy is not None else quiet
    assert there is not None
    g, q = there if busy is None else busy, there if quiet is None else quiet
    slopes = {"BUSY": busy is not None, "QUIET": quiet is not None}
    if need_x or need_temporal:
        folded = _adjoint(call, spatial, g, q, slopes, dtemporal if need_temporal else None)
        if need_x:
            shape, blocks, p_blocks = call.tile()
            wrap_triton(band_pass_frames_kernel)[(call.N * call.T * blocks * p_blocks,)](
                folded, q, temporal, dx, *call.steps(folded), *call.steps(q), *call.steps(dx), call.C, call.T,
                call.H, call.W, call.frames, blocks, p_blocks, stride, call.first, QUIET=quiet is not None,
                **_settings(shape),
            )  # fmt: skip
    if need_spatial:
        z = call.combine(temporal)
        shape, blocks, p_blocks = call.tile()
        items = call.N * call.frames * p_blocks
        run = RUNS(items * blocks * call.K)
        rows = triton.cdiv(items, run)
        partial = x.new_empty((rows, dspatial.numel()), dtype=call.dtype)
        wrap_triton(band_pass_taps_kernel)[(rows * blocks * call.K,)](
            z, g, q, partial, *call.steps(z), *call.steps(g), *call.steps(q), call.C, call.H, call.W, call.frames,
            blocks, p_blocks, items, run, K=call.K, **slopes, **_settings(shape),
        )  # fmt: skip
        _add_rows(partial, dspatial)
    return dx, dspatial, dtemporal


def _adjoint(
    call: _Call, spatial: Tensor, g: Tensor, q: Tensor, slopes: dict[str, bool], dtemporal: Tensor | None
) -> Tensor:
    """What the gradients send to the combined frames, without padding; sums d temporal where it is wanted."""
    d = call.scratch(call.K - 1)
    shape, blocks, p_blocks = call.tile(call.K - 1)
    wrap_triton(band_pass_adjoint_kernel)[(call.N * call.frames * blocks * p_blocks,)](
        g, q, spatial, d, *call.steps(g), *call.steps(q), *call.steps(d), call.C, call.H, call.W, call.frames,
        blocks, p_blocks, K=call.K, **slopes, **_settings(shape),
    )  # fmt: skip
    folded = call.scratch(0)
    shape, blocks, p_blocks = call.tile()
    rows = call.N * call.frames * p_blocks
    partial = call.x.new_empty((rows, 3 * call.C) if dtemporal is not None else (0,), dtype=call.dtype)
    wrap_triton(band_pass_fold_kernel)[(rows * blocks,)](
        call.x, d, folded, partial, *call.steps(call.x), *call.steps(d), *call.steps(folded), call.C, call.T,
        call.H, call.W, call.frames, blocks, p_blocks, call.stride, call.first, REACH=call.K // 2,
        DOTS=dtemporal is not None, **_settings(shape),
    )  # fmt: skip
    if dtemporal is not None:
        _add_rows(partial, dtemporal)
    return folded


def _case(
    name: str,
    registers: int,
    shape: tuple[int, int, int, int, int],
    k: int,
    dtype: torch.dtype = torch.bfloat16,
    layout: str = "NCTHW",
    stem: bool = False,
    backward: bool = False,
    quick: bool = False,
) -> CompileCase:
    stride, padding = (3, "valid") if stem else (1, "replicate")

    def call() -> None:
        x = meta_clip(shape, dtype, layout)
        spatial, temporal = x.new_empty((shape[1], k, k)), x.new_empty((shape[1], 3))
        if backward:
            frames = shape[2] // 3 if stem else shape[2]
            grads = (empty_clip(x, frames), empty_clip(x, frames))
            motion_band_pass_backward(*grads, x, spatial, temporal, stride, padding, True, True, True)
        else:
            motion_band_pass(x, spatial, temporal, stride, padding, True)

    return CompileCase(name, call, registers, quick)


_STEM, _RES2, _RES5 = (16, 3, 24, 224, 224), (8, 256, 8, 56, 56), (8, 2048, 8, 7, 7)
COMPILE_CASES = [
    _case("forward, bf16, res2", 104, _RES2, 7, quick=True),
    _case("backward, bf16, res2", 168, _RES2, 7, backward=True, quick=True),
    _case("forward, bf16, stem", 104, _STEM, 9, stem=True),
    _case("backward, bf16, stem", 168, _STEM, 9, stem=True, backward=True),
    _case("forward, fp32, stem, channels last", 104, _STEM, 9, torch.float32, "NTHWC", stem=True),
    _case("forward, fp32, res2, channels last", 104, _RES2, 7, torch.float32, "NTHWC"),
    _case("backward, fp32, res2, channels last", 168, _RES2, 7, torch.float32, "NTHWC", backward=True),
    _case("backward, fp32, res5", 168, _RES5, 3, torch.float32, backward=True),
    _case("backward, fp64, res5, channels last", 168, _RES5, 3, torch.float64, "NTHWC", backward=True),
]
