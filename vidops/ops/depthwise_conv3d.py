"""depthwise_conv3d: every channel convolved by itself along time, height and width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import reference
from .backends import Operator
from .checks import Triple, check_clip, check_like, check_triple
from .layouts import clip_strides, layout_of
from .temporal_conv import temporal_conv

__all__ = ["depthwise_conv3d"]

MAX_KERNEL = 9  # on each axis
_AXES = ("T", "H", "W")


def _check_kernel(weight: Any, x: Tensor) -> Triple:
    if not isinstance(weight, Tensor):
        raise TypeError(f"weight must be a Tensor, got {type(weight).__name__}")
    if weight.dim() != 5 or weight.shape[0] != x.shape[1] or weight.shape[1] != 1:
        raise ValueError(
            f"weight must have shape (C, 1, kt, kh, kw) with the C of x, {x.shape[1]}, got {tuple(weight.shape)}"
        )
    t, h, w = weight.shape[2:]
    if not t % 2 or not h % 2 or not w % 2 or t > MAX_KERNEL or h > MAX_KERNEL or w > MAX_KERNEL:
        raise ValueError(f"weight must have odd kernel sizes of at most {MAX_KERNEL}, got {(t, h, w)}")
    check_like(weight, "weight", x, weight.shape)
    return t, h, w


def _size_out(size: int, k: int, stride: int, padding: int, dilation: int) -> int:
    """How many results an axis has; an axis without elements stays without."""
    return (size + 2 * padding - dilation * (k - 1) - 1) // stride + 1 if size else 0


def _sizes_out(
    size: Sequence[int], kernel: Sequence[int], stride: Triple, padding: Triple, dilation: Triple
) -> Triple:
    t, h, w = map(_size_out, size, kernel, stride, padding, dilation)
    return t, h, w


def _smallest(
    size: Sequence[int], kernel: Triple, stride: Triple, padding: Triple, dilation: Triple
) -> tuple[Triple, Triple]:
    """Stride and dilation in numbers that no kernel overflows on: what lies past the clip is one past it."""
    reach = tuple(s + 2 * p for s, p in zip(size, padding, strict=True))
    strides = tuple(min(s, max(r, 1)) for s, r in zip(stride, reach, strict=True))
    dilations = tuple(d if k > 1 else 1 for d, k in zip(dilation, kernel, strict=True))
    return strides, dilations  # type: ignore[return-value]


def depthwise_conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = "same",
    dilation: int | Sequence[int] = 1,
    backend: str | None = None,
) -> Tensor:
    """Convolve every channel of a clip by itself along time, height and width.

    ``y[n,c,t,h,w] = b_c + sum_ijk W[c,0,i,j,k] * x[n, c, t*s - p + i*d, h*s' - p' + j*d', w*s" - p" + k*d"]`` with
    the axes' strides s, paddings p and dilations d, what lies outside the clip being zero: PyTorch's ``conv3d`` with
    ``groups=C``.

    Args:
        x: clip ``(N, C, T, H, W)``, float32, float16, bfloat16 or float64. NCTHW, NTCHW and channels-last memory
            are native, and the result has the memory layout of ``x``.
        weight: ``(C, 1, kt, kh, kw)``, each size odd and at most 9.
        bias: ``(C,)`` or ``None``.
        stride: step of the results in frames, rows and columns: one int for all, or three.
        padding: zeros on each side of time, height and width, one int for all or three; ``"same"`` stands for
            ``dilation * (k - 1) / 2``, which keeps every size, or with a stride gives ceil(size / stride).
        dilation: step of the taps in frames, rows and columns: one int for all, or three.
        backend: ``"reference"``, ``"cpu"``, ``"cuda"``, ``"triton"``, or ``None`` for the automatic choice.

    Returns:
        Clip ``(N, C, T_out, H_out, W_out)``, each size (size + 2*padding - dilation*(k-1) - 1) // stride + 1; an axis
        without elements stays without.

    Raises:
        TypeError: a tensor has an unsupported or another dtype, or an argument is of the wrong kind.
        ValueError: a rank, shape, device, kernel size or padding is not allowed, or a size would be 0 or less.
        RuntimeError: ``backend`` was asked for and cannot run this call.

    Kernels (k, 1, 1) with ``"same"`` or no padding in time and none in space run as :func:`temporal_conv`.

    Source: thesis of Huang, eq. 4.3 (region aggregation); X3D (Feichtenhofer, 2020), its channel-wise 3x3x3 and
    5x1x1. Sums are in fp32 for fp32, fp16 and bf16, in fp64 for fp64, and results do not depend on the number of
    threads. Under autocast it runs in autocast's dtype.

    Example:
        >>> import torch, vidops
        >>> y = vidops.ops.depthwise_conv3d(torch.randn(1, 4, 8, 7, 7), torch.randn(4, 1, 3, 3, 3), stride=(1, 2, 2))
    """
    check_clip(x)
    device = x.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        x, weight, bias = _operator.cast(device, x, weight, bias)  # type: ignore[assignment]
    kernel = _check_kernel(weight, x)
    if bias is not None:
        check_like(bias, "bias", x, (x.shape[1],))
    strides, dilations = check_triple(stride, "stride", 1), check_triple(dilation, "dilation", 1)
    size = x.shape[2:]
    if isinstance(padding, str):
        if padding != "same":
            raise ValueError(f"padding must be 'same', an int or three ints, got {padding!r}")
        # A tap that lies past the clip wherever it is centred may as well lie one past it.
        a, b, c = (min(d, max(s, 1)) for d, s in zip(dilations, size, strict=True))
        dilations = (a, b, c)
        a, b, c = (d * (k - 1) // 2 for d, k in zip(dilations, kernel, strict=True))
        paddings = (a, b, c)
    else:
        paddings = check_triple(padding, "padding", 0)
    sizes = _sizes_out(size, kernel, strides, paddings, dilations)
    for axis, whole, out in zip(_AXES, size, sizes, strict=True):
        if whole and out < 1:
            raise ValueError(
                f"x is too small for weight: {axis} = {whole} with padding {paddings} holds no kernel of sizes"
                f" {kernel} and dilation {dilations}"
            )
    strides, dilations = _smallest(size, kernel, strides, paddings, dilations)
    name = _operator.choose(backend, device, x, weight, bias, strides, paddings, dilations)
    if name == "reference":
        return _operator.reference(x, weight, bias, stride=strides, padding=paddings, dilation=dilations)
    if kernel[1:] == (1, 1) and strides[1:] == (1, 1) and paddings[1:] == (0, 0) and x.numel():
        reach = dilations[0] * (kernel[0] - 1) // 2
        if paddings[0] in (0, reach):
            return temporal_conv(
                x, weight.reshape(-1), bias, groups=((x.shape[1], kernel[0], dilations[0]),),
                stride=strides[0], padding="zeros" if paddings[0] == reach else "valid", backend=name,
            )  # fmt: skip
    return _operator.kernels[name](x, weight, bias, strides, paddings, dilations)


def _fake(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Triple, padding: Triple, dilation: Triple
) -> Tensor:
    shape = (*x.shape[:2], *_sizes_out(x.shape[2:], weight.shape[2:], stride, padding, dilation))
    return x.new_empty_strided(shape, clip_strides(shape, layout_of(x)))


def _fake_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Triple,
    padding: Triple,
    dilation: Triple,
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = x.shape
    dx = x.new_empty_strided(shape, clip_strides(shape, layout_of(x))) if need_x else x.new_empty(0)  # type: ignore[arg-type]
    return (
        dx,
        weight.new_empty(weight.shape if need_weight else 0),
        x.new_empty(x.shape[1] if need_bias else 0),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, ctx.stride, ctx.padding, ctx.dilation = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, kernel: Any, grad: Tensor) -> tuple[Any, ...]:
    x, weight = ctx.saved_tensors
    needs = ctx.needs_input_grad[:3]
    dx, dweight, dbias = kernel(grad, x, weight, ctx.stride, ctx.padding, ctx.dilation, *needs)
    found = [d if needed else None for d, needed in zip((dx, dweight, dbias), needs, strict=True)]
    return (*found, None, None, None)


def _products(shape: Sequence[int], kernel: Sequence[int], geometry: tuple[Triple, Triple, Triple]) -> int:
    """Multiply-adds as the plain convolution has them: every tap of every result."""
    t, h, w = _sizes_out(shape[2:], kernel[2:], *geometry)
    return shape[0] * shape[1] * t * h * w * kernel[2] * kernel[3] * kernel[4]


def _flops(x: Any, weight: Any, bias: Any, *geometry: Any, **_: Any) -> int:
    return 2 * _products(x, weight, geometry)


def _flops_backward(
    grad: Any,
    x: Any,
    weight: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    need_x: bool,
    need_weight: bool,
    *_: Any,
    **__: Any,
) -> int:
    return 2 * _products(x, weight, (stride, padding, dilation)) * (int(need_x) + int(need_weight))


_operator = Operator(
    "depthwise_conv3d",
    reference=reference.depthwise_conv3d,
    fake=_fake,
    fake_backward=_fake_backward,
    setup_context=_setup_context,
    backward=_backward,
    flops=_flops,
    flops_backward=_flops_backward,
)
