"""resize: bilinear resampling of every frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import reference
from .backends import Operator
from .checks import check_clip, check_int
from .layouts import clip_strides, layout_of

__all__ = ["resize"]

# Places between pixels are counted in 32 bits, in units of 1 / (2 * out).
MOST = 2**29


def resize(x: Tensor, size: int | Sequence[int], *, backend: str | None = None) -> Tensor:
    """Resample every frame bilinearly to another size, up or down.

    Pixel d of a side of ``out`` pixels is read at ``(d + 1/2) * in / out - 1/2`` (``align_corners=False``), between
    its two nearest pixels; past the ends the last pixel counts. There is no antialiasing: reduced by more than two,
    some pixels are not read. A pixel of weight zero is never read, so what is not finite stays where it is. Every
    gradient is gathered from the results that read its pixel: the same bits every time.

    Args:
        x: clip ``(N, C, T, H, W)``, float32, float16, bfloat16 or float64; NCTHW, NTCHW and channels-last memory are
            native, and the result has the memory layout of ``x``.
        size: height and width of the result, or one number for both.
        backend: ``"reference"``, ``"cpu"``, ``"cuda"``, ``"triton"``, or ``None`` for the automatic choice.

    Returns:
        Clip ``(N, C, T, *size)`` of the dtype of ``x``; ``x`` itself where it has that size.

    Raises:
        TypeError: ``x`` has an unsupported dtype or ``size`` is neither an int nor two of them.
        ValueError: ``x`` is not a clip or has no pixels, or ``size`` is below 1 or too large (2^29 over the side).
        RuntimeError: ``backend`` was asked for and cannot run this call.

    Source: ``torch.nn.functional.interpolate(mode="bilinear")``, frame by frame, which it equals to rounding.

    Example:
        >>> import torch, vidops
        >>> y = vidops.ops.resize(torch.randn(1, 3, 8, 56, 56), 35)
    """
    check_clip(x)
    height, width = _check_size(size, x)
    name = _operator.choose(backend, x.device.type, x, height, width)
    if height == x.shape[3] and width == x.shape[4]:
        return x
    if name == "reference":
        return _operator.reference(x, (height, width))
    return _operator.kernels[name](x, height, width)


def _check_size(size: Any, x: Tensor) -> tuple[int, int]:
    if isinstance(size, (list, tuple)):
        if len(size) != 2:
            raise ValueError(f"size must be height and width, or one number, got {len(size)} numbers")
        height, width = size
    elif type(size) is int or isinstance(size, torch.SymInt):
        height = width = size
    else:
        raise TypeError(f"size must be an int or two of them, got {type(size).__name__}")
    for side, given in ((height, x.shape[3]), (width, x.shape[4])):
        check_int(side, "size", 1)
        if given < 1:
            raise ValueError(f"x must have pixels to resize, got shape {tuple(x.shape)}")
        if side * given >= MOST:
            raise ValueError(f"size must be less than 2^29 over the side of x, {given}, got {side}")
    return height, width


def _fake(x: Tensor, height: int, width: int) -> Tensor:
    shape = (*x.shape[:3], height, width)
    return x.new_empty_strided(shape, clip_strides(shape, layout_of(x)))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.size = inputs[0].shape[3:]


def _backward(ctx: Any, kernel: Any, grad: Tensor) -> tuple[Any, ...]:
    height, width = ctx.size
    return kernel(grad, height, width), None, None


def _no_flops(*_: Any, **__: Any) -> int:
    """Counted as the sources count: interpolation is free."""
    return 0


_operator = Operator(
    "resize",
    reference=reference.resize,
    fake=_fake,
    fake_backward=_fake,
    setup_context=_setup_context,
    backward=_backward,
    flops=_no_flops,
    flops_backward=_no_flops,
    autocast="keep",
)
