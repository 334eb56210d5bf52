"""motion_band_pass: a spatial k x k filter and a temporal one of 3 taps, depthwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor

from .. import reference
from .backends import Operator
from .checks import check_clip, check_int, check_like
from .layouts import empty_clip

__all__ = ["motion_band_pass"]

_PADDINGS = ("valid", "replicate")


def _frames_out(frames: int, stride: int, padding: str) -> int:
    span = max(frames - 2, 0) if padding == "valid" else frames
    return (span + stride - 1) // stride


def _check(x: Tensor, spatial: Any, temporal: Any, stride: Any, spatial_padding: Any, padding: Any) -> None:
    channels, frames = x.shape[1], x.shape[2]
    size = spatial.shape[-1] if isinstance(spatial, Tensor) and spatial.dim() == 3 else 1
    check_like(spatial, "spatial", x, (channels, size, size))
    if size % 2 == 0:
        raise ValueError(f"spatial must have an odd kernel size, got {size}")
    check_like(temporal, "temporal", x, (channels, 3))
    check_int(stride, "stride", 1)
    if spatial_padding != "reflect":
        raise ValueError(f"spatial_padding must be 'reflect', got {spatial_padding!r}")
    if padding not in _PADDINGS:
        raise ValueError(f"temporal_padding must be one of {', '.join(_PADDINGS)}, got {padding!r}")
    if padding == "valid" and frames < 3:
        raise ValueError(f"temporal_padding 'valid' needs at least 3 frames, x has {frames}")
    height, width = x.shape[3:]
    if 0 < height <= size // 2 or 0 < width <= size // 2:
        raise ValueError(
            f"spatial_padding 'reflect' needs frames of more than {size // 2} x {size // 2} pixels for a"
            f" {size} x {size} kernel, x has {height} x {width}"
        )


@overload
def motion_band_pass(
    x: Tensor,
    spatial: Tensor,
    temporal: Tensor,
    *,
    stride: int = ...,
    spatial_padding: str = ...,
    temporal_padding: str = ...,
    quiet: Literal[False] = ...,
    backend: str | None = ...,
) -> Tensor: ...


@overload
def motion_band_pass(
    x: Tensor,
    spatial: Tensor,
    temporal: Tensor,
    *,
    stride: int = ...,
    spatial_padding: str = ...,
    temporal_padding: str = ...,
    quiet: bool,
    backend: str | None = ...,
) -> Tensor | tuple[Tensor, Tensor]: ...


def motion_band_pass(
    x: Tensor,
    spatial: Tensor,
    temporal: Tensor,
    *,
    stride: int = 3,
    spatial_padding: str = "reflect",
    temporal_padding: str = "valid",
    quiet: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Filter every channel over space with k x k taps and along time with 3, in one pass over the clip.

    ``busy[n,c,t,h,w] = sum_j temporal[c,j] * sum_(u,v) spatial[c,u,v] * x[n, c, f_j, h+u-k//2, w+v-k//2]``. The
    frames f_j are ``t*stride + j`` with ``temporal_padding="valid"``, and ``t*stride + j - 1``, held at the clip's
    ends, with ``"replicate"``. Pixels beyond a frame's edge are mirrored at the edge pixel.

    Args:
        x: clip ``(N, C, T, H, W)``, float32, float16, bfloat16 or float64. NCTHW, NTCHW and channels-last memory are
            native, and the results have the memory layout of ``x``.
        spatial: ``(C, k, k)``, k odd and k//2 less than H and W.
        temporal: ``(C, 3)``, the earliest frame's tap first.
        stride: temporal stride in frames.
        spatial_padding: ``"reflect"``.
        temporal_padding: ``"valid"`` or ``"replicate"``.
        quiet: return ``(busy, quiet)`` with ``quiet`` = the mean of the same three frames - busy (eq. 5.4 before
            down-sampling).
        backend: ``"reference"``, ``"cpu"``, ``"cuda"``, ``"triton"``, or ``None`` for the automatic choice.

    Returns:
        Clip ``(N, C, T_out, H, W)``, or two of them with ``quiet=True``; T_out = ceil((T-2)/stride) for ``"valid"``,
        ceil(T/stride) for ``"replicate"``.

    Raises:
        TypeError: a tensor has an unsupported or another dtype, or an argument is of the wrong kind.
        ValueError: a rank, shape, device, kernel size or padding is not allowed, or T_out would be 0.
        RuntimeError: ``backend`` was asked for and cannot run this call.

    Source: the Motion Band-Pass Module, eq. 5.1, 5.3 and 5.4 of Huang's thesis. The filters act on different axes, so
    they commute; kernels take the temporal one first, the reference the spatial one. A value near the dtype's limit may
    overflow in one of them alone, and an infinite tap or gradient may give NaN in one and infinity in the other. Sums
    are in fp32 for fp32, fp16 and bf16, in fp64 for fp64, and results do not depend on the number of threads. Under
    autocast it runs in autocast's dtype.

    Example:
        >>> import torch, vidops
        >>> x, log = torch.randn(1, 3, 24, 16, 16), torch.randn(3, 9, 9)
        >>> y = vidops.ops.motion_band_pass(x, log, torch.tensor([[-1.0, 2.0, -1.0]] * 3) / 3)  # 8 frames
    """
    check_clip(x)
    device = x.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        x, spatial, temporal = _operator.cast(device, x, spatial, temporal)  # type: ignore[assignment]
    _check(x, spatial, temporal, stride, spatial_padding, temporal_padding)
    if not isinstance(quiet, bool):
        raise TypeError(f"quiet must be a bool, got {type(quiet).__name__}")
    if 0 < x.shape[2] < stride:
        stride = x.shape[2]  # the same result, in numbers that no kernel overflows on
    name = _operator.choose(backend, device, x, spatial, temporal, stride, temporal_padding, quiet)
    if name == "reference":
        return _operator.reference(
            x, spatial, temporal, stride=stride, temporal_padding=temporal_padding, quiet=quiet
        )
    results = _operator.kernels[name](x, spatial, temporal, stride, temporal_padding, quiet)
    return results if quiet else results[0]


def _fake(
    x: Tensor, spatial: Tensor, temporal: Tensor, stride: int, temporal_padding: str, quiet: bool
) -> tuple[Tensor, Tensor]:
    frames = _frames_out(x.shape[2], stride, temporal_padding)
    return empty_clip(x, frames), empty_clip(x, frames) if quiet else x.new_empty(0)


def _fake_backward(
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
    return (
        empty_clip(x) if need_x else x.new_empty(0),
        x.new_empty(spatial.shape if need_spatial else (0,)),
        x.new_empty(temporal.shape if need_temporal else (0,)),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, spatial, temporal, ctx.stride, ctx.padding, ctx.quiet = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, spatial, temporal)


def _backward(ctx: Any, kernel: Any, grad: Tensor | None, grad_quiet: Tensor | None) -> tuple[Any, ...]:
    needs = ctx.needs_input_grad[:3]
    if not ctx.quiet:
        grad_quiet = None  # of the empty tensor that stands for it
    if grad is None and grad_quiet is None:
        return (None,) * 6
    grads = kernel(grad, grad_quiet, *ctx.saved_tensors, ctx.stride, ctx.padding, *needs)
    return (*(g if need else None for g, need in zip(grads, needs, strict=True)), None, None, None)


def _products(
    x: Sequence[int], spatial: Sequence[int], stride: int, temporal_padding: str
) -> tuple[int, int]:
    """Multiply-adds of the spatial filter over every frame, and of the temporal one after it, as the definition is."""
    n, c, t, h, w = x
    frame = n * c * h * w
    return frame * t * spatial[1] * spatial[2], frame * _frames_out(t, stride, temporal_padding) * 3


def _flops(
    x: Any, spatial: Any, temporal: Any, stride: int, temporal_padding: str, *_: Any, **__: Any
) -> int:
    return 2 * sum(_products(x, spatial, stride, temporal_padding))


def _flops_backward(
    grad: Any,
    grad_quiet: Any,
    x: Any,
    spatial: Any,
    temporal: Any,
    stride: int,
    temporal_padding: str,
    need_x: bool,
    need_spatial: bool,
    need_temporal: bool,
    **_: Any,
) -> int:
    over_space, over_time = _products(x, spatial, stride, temporal_padding)
    return 2 * (over_space * (need_x + need_spatial) + over_time * (need_x + need_temporal))


def _cuda_limit(x: Tensor, spatial: Tensor, *_: Any) -> str:
    """A tile with its border has to fit the shared memory of a block."""
    k = spatial.shape[-1]
    return f"spatial has {k} x {k} taps; it takes 49 x 49 and fewer" if k > 49 else ""


_operator = Operator(
    "motion_band_pass",
    reference=reference.motion_band_pass,
    fake=_fake,
    fake_backward=_fake_backward,
    setup_context=_setup_context,
    backward=_backward,
    flops=_flops,
    flops_backward=_flops_backward,
    limits={"cuda": _cuda_limit},
)
