"""temporal_descriptor in Triton: frames against frames, all of a position in the registers of one thread.

A tile [T, T, P, C] multiplies a block of frames with another; a thread holds all products of its position and sums
them over the channels. Up to 8 frames are one block and features are read once, for the second load of a block comes
from the cache; of more frames, blocks on and above the diagonal are taken. Backward is the same with the gradient as a
symmetric matrix of frames, kept in registers where it is one block: a program owns a block of frames of dx and goes
over all.

The floor is the features read and the pairs written, once each (backward: pairs and features read, dx written): at
T = 8 a position's 28 products a channel are less than one for every byte of its 8 features.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..ops.layouts import empty_clip, empty_images
from ..tuning import Knob
from ._bilinear import divide
from ._clip import far, native, native_like, power, walk
from ._compile import CompileCase, meta_clip
from ._device import device, sum_along, widen
from ._projection_solve import along, read, write
from ._register import operator, wrap_triton

FRAMES = 8  # of a block
# Of a program, which has as many positions times channels as threads, or half as many in fp64: the products of 8 frames
# are 64 numbers a thread, and more do not fit its registers.
WARPS = Knob("temporal_descriptor", "triton", "warps", 2, (1, 2, 4))
# Of a tile, at most: channels last, what is read at once; planar, where there are fewer positions than threads.
CHANNELS = Knob("temporal_descriptor", "triton", "channels", 16, (4, 8, 16, 32))

SIZES = ["C", "T", "P", "blocks", "p_blocks"]
_X = ["x_n", "x_c", "x_t", "x_p"]


@device
def _pair(i, j, T):
    """The place of the pair of frames i and j, in either order."""
    low = tl.minimum(i, j)
    return low * (2 * T - low - 1) // 2 + (tl.maximum(i, j) - low - 1)


@triton.jit(do_not_specialize=[*SIZES, *_X, "y_n", "y_c", "y_p"])
def temporal_descriptor_kernel(
    x, y, x_n, x_c, x_t, x_p, y_n, y_c, y_p, C, T, P, blocks, p_blocks,
    LAST: tl.constexpr, FAR: tl.constexpr, WIDE: tl.constexpr, T_BLOCK: tl.constexpr, P_BLOCK: tl.constexpr,
    C_BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of frames, axis 0, against itself or a later one, axis 1."""
    program = tl.program_id(0)
    p = program % p_blocks * P_BLOCK + along(P_BLOCK, 2)
    program = program // p_blocks
    later, earlier = program % blocks, program // blocks % blocks
    n = (program // (blocks * blocks)).to(tl.int64)
    xs = (x_n, x_c, x_t, x_p)
    if later >= earlier:
        i = earlier * T_BLOCK + along(T_BLOCK, 0)
        j = later * T_BLOCK + along(T_BLOCK, 1)
        total = widen(tl.full((T_BLOCK, T_BLOCK, P_BLOCK, C_BLOCK), 0, x.dtype.element_ty))
        for channel in range(0, C, C_BLOCK):
            c = channel + along(C_BLOCK, 3)
            own = (p < P) & (c < C)
            total += read(x, xs, n, c, i, p, own & (i < T), LAST, FAR) * read(
                x, xs, n, c, j, p, own & (j < T), LAST, FAR
            )
        mean = divide(sum_along(total, 3), C, WIDE)
        pairs = (i < j) & (j < T) & (p < P)
        write(y, (y_n, y_c, 0, y_p), n, _pair(i, j, T), 0 * p, p, mean, pairs, LAST, FAR)


@device
def _slopes(
    grad, gs, n, i, block, p, T, P,
    LAST: tl.constexpr, FAR: tl.constexpr, T_BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of the gradient as a symmetric matrix of frames, and where it has entries."""
    j = block * T_BLOCK + along(T_BLOCK, 1)
    pairs = (i != j) & (i < T) & (j < T) & (p < P)
    return read(grad, gs, n, _pair(i, j, T), 0 * p, p, pairs, LAST, FAR), pairs


@triton.jit(do_not_specialize=[*SIZES, "g_n", "g_c", "g_p", *_X, "d_n", "d_c", "d_t", "d_p"])
def temporal_descriptor_backward_kernel(
    grad, x, dx, g_n, g_c, g_p, x_n, x_c, x_t, x_p, d_n, d_c, d_t, d_p, C, T, P, blocks, p_blocks,
    LAST: tl.constexpr, FAR: tl.constexpr, WIDE: tl.constexpr, ONE: tl.constexpr, T_BLOCK: tl.constexpr,
    P_BLOCK: tl.constexpr, C_BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of frames of dx, axis 0, from all other frames, axis 1; ONE block is kept in registers."""
    program = tl.program_id(0)
    p = program % p_blocks * P_BLOCK + along(P_BLOCK, 2)
    i = program // p_blocks % blocks * T_BLOCK + along(T_BLOCK, 0)
    n = (program // (p_blocks * blocks)).to(tl.int64)
    xs, ds, gs = (x_n, x_c, x_t, x_p), (d_n, d_c, d_t, d_p), (g_n, g_c, 0, g_p)
    if ONE:
        slope, pairs = _slopes(grad, gs, n, i, 0, p, T, P, LAST, FAR, T_BLOCK)
    for channel in range(0, C, C_BLOCK):
        c = channel + along(C_BLOCK, 3)
        own = (p < P) & (c < C)
        total = widen(tl.full((T_BLOCK, 1, P_BLOCK, C_BLOCK), 0, x.dtype.element_ty))
        for block in range(blocks):
            if not ONE:
                slope, pairs = _slopes(grad, gs, n, i, block, p, T, P, LAST, FAR, T_BLOCK)
            j = block * T_BLOCK + along(T_BLOCK, 1)
            other = read(x, xs, n, c, j, p, own & (j < T), LAST, FAR)
            total += sum_along(tl.where(pairs, slope * other, 0), 1)
        write(dx, ds, n, c, i, p, divide(total, C, WIDE), own & (i < T), LAST, FAR)


def _settings(x: Tensor, images: Tensor) -> tuple[tuple[int, int, int, int, int], dict[str, Any]]:
    """Sizes and constants of both kernels' launches: C, T, P, blocks of frames and of positions."""
    at = walk(x)
    frames = min(power(at.T), FRAMES)
    most, lanes = CHANNELS.value, 32 * WARPS.value
    channels = min(power(at.C), most) if at.last else 1
    positions = min(power(at.P), lanes // channels)
    if not at.last:
        channels = min(power(at.C), most, lanes // positions)
    constants = {
        "LAST": at.last, "FAR": far(x, images), "WIDE": x.dtype == torch.float64, "T_BLOCK": frames,
        "P_BLOCK": positions, "C_BLOCK": channels,
        "num_warps": WARPS.value * (2 if x.element_size() == 8 else 1), "num_stages": 1,
    }  # fmt: skip
    return (at.C, at.T, at.P, triton.cdiv(at.T, frames), triton.cdiv(at.P, positions)), constants


def _image_steps(images: Tensor) -> tuple[int, int, int]:
    n, c, _, p = walk(images.unsqueeze(2)).each
    return n, c, p


@operator
def temporal_descriptor(features: Tensor) -> Tensor:
    """Forward; see :func:`vidops.ops.temporal_descriptor`."""
    x = native(features)
    frames = int(x.shape[2])
    y = empty_images(x, frames * (frames - 1) // 2)
    if y.numel() == 0:
        return y
    sizes, constants = _settings(x, y)
    *_, blocks, p_blocks = sizes
    wrap_triton(temporal_descriptor_kernel)[(x.shape[0] * blocks * blocks * p_blocks,)](
        x, y, *walk(x).each, *_image_steps(y), *sizes, **constants
    )
    return y


@operator
def temporal_descriptor_backward(grad: Tensor, features: Tensor) -> Tensor:
    """Gradient of the features."""
    x = native(features)
    dx = empty_clip(x)
    if grad.numel() == 0:
        return dx.zero_()
    grad = native_like(grad.unsqueeze(2), x).squeeze(2)
    sizes, constants = _settings(x, grad)
    *_, blocks, p_blocks = sizes
    wrap_triton(temporal_descriptor_backward_kernel)[(x.shape[0] * blocks * p_blocks,)](
        grad, x, dx, *_image_steps(grad), *walk(x).each, *walk(dx).each, *sizes, ONE=blocks == 1, **constants
    )
    return dx


def _case(
    name: str,
    registers: int,
    frames: int,
    dtype: torch.dtype = torch.float32,
    layout: str = "NCTHW",
    backward: bool = False,
    quick: bool = False,
) -> CompileCase:
    def call() -> None:
        x = meta_clip((64, 24, frames, 28, 28), dtype, layout)
        if backward:
            temporal_descriptor_backward(empty_images(x, frames * (frames - 1) // 2), x)
        else:
            temporal_descriptor(x)

    return CompileCase(name, call, registers, quick)


COMPILE_CASES = [
    _case("forward, fp32", 184, 8, quick=True),
    _case("backward, fp32", 208, 8, backward=True, quick=True),
    _case("backward, fp32, 16 frames", 208, 16, backward=True),
    _case("forward, bf16, 16 frames, channels last", 128, 16, torch.bfloat16, "NTHWC"),
    _case("backward, bf16, 16 frames, channels last", 128, 16, torch.bfloat16, "NTHWC", backward=True),
    _case("forward, fp64", 152, 8, torch.float64),
    _case("backward, fp64", 184, 8, torch.float64, backward=True),
]
