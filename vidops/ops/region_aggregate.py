"""region_aggregate: every position gathers its neighbourhood in space and time."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from .checks import check_clip, check_triple
from .depthwise_conv3d import _operator, depthwise_conv3d
from .explain import REMARKS

__all__ = ["region_aggregate"]

KINDS = ("conv", "avg", "max")


def region_aggregate(
    x: Tensor,
    kind: str = "conv",
    weight: Tensor | None = None,
    *,
    kernel_size: int | Sequence[int] | None = None,
    backend: str | None = None,
) -> Tensor:
    """Replace every position by a summary of the region of ``kernel_size`` around it, channel by channel.

    The stride is 1 and the padding k/2, so the size stays. ``"conv"`` weighs the region, :func:`depthwise_conv3d`;
    ``"avg"`` averages it, what lies outside the clip counting as zeros; ``"max"`` takes its largest value inside.

    Args:
        x: clip ``(N, C, T, H, W)``, float32, float16, bfloat16 or float64, in any native layout.
        kind: ``"conv"``, ``"avg"`` or ``"max"``.
        weight: ``(C, 1, kt, kh, kw)``, for ``"conv"`` alone.
        kernel_size: odd sizes kt, kh, kw of at most 9 each, one int for all or three; with ``"conv"`` that of
            ``weight``, and need not be given.
        backend: ``"reference"``, ``"cpu"``, ``"cuda"``, ``"triton"``, or ``None`` for the automatic choice; ``"max"``
            is PyTorch's on each.

    Returns:
        Clip of the shape and dtype of ``x``.

    Raises:
        TypeError: an argument is of the wrong kind or dtype.
        ValueError: ``kind`` is unknown, ``weight`` or ``kernel_size`` does not go with it or is not allowed.
        RuntimeError: ``backend`` was asked for and cannot run this call.

    To `vidops bench` it is ``depthwise_conv3d``. An average is a convolution with equal taps: one pass in
    every layout, and unlike PyTorch's pooling its gradient repeats to the last bit on a GPU too. The gradient of
    ``"max"`` there does not, where regions overlap, and raises under ``torch.use_deterministic_algorithms``.

    Source: thesis of Huang, eq. 4.3 and the kinds of table 4.6.

    Example:
        >>> import torch, vidops
        >>> y = vidops.ops.region_aggregate(torch.randn(1, 4, 8, 14, 14), "avg", kernel_size=(3, 7, 7))
    """
    check_clip(x)
    if not isinstance(kind, str):
        raise TypeError(f"kind must be a str, got {type(kind).__name__}")
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if kind == "conv":
        if weight is None:
            raise ValueError("weight is required with kind 'conv': (C, 1, kt, kh, kw)")
        if kernel_size is not None:
            sizes = check_triple(kernel_size, "kernel_size", 1)
            if tuple(weight.shape[2:]) != sizes:
                raise ValueError(
                    f"kernel_size must be that of weight, {tuple(weight.shape[2:])}, or None, got {kernel_size!r}"
                )
        return depthwise_conv3d(x, weight, backend=backend)
    if weight is not None:
        raise ValueError(f"weight must be None with kind {kind!r}")
    if kernel_size is None:
        raise ValueError(f"kernel_size is required with kind {kind!r}")
    t, h, w = check_triple(kernel_size, "kernel_size", 1)
    if not t % 2 or not h % 2 or not w % 2 or max(t, h, w) > 9:
        raise ValueError(f"kernel_size must be odd and at most 9 on each axis, got {kernel_size!r}")
    if kind == "avg":
        return depthwise_conv3d(x, x.new_full((x.shape[1], 1, t, h, w), 1 / (t * h * w)), backend=backend)
    # PyTorch's on every backend, but a backend that cannot run is refused as with the other kinds.
    padding, ones = (t // 2, h // 2, w // 2), (1, 1, 1)
    _operator.choose(
        backend, x.device.type, x, x.new_empty(x.shape[1], 1, t, h, w), None, ones, padding, ones
    )
    if x.numel() == 0:
        return x.clone()
    if any(size < k for size, k in zip(x.shape[2:], (t, h, w), strict=True)):  # PyTorch refuses these
        x = F.pad(x, [p for p in reversed(padding) for _ in range(2)], value=float("-inf"))
        padding = (0, 0, 0)
    return F.max_pool3d(x, (t, h, w), 1, padding)


REMARKS["region_aggregate"] = lambda chosen, automatic, given: (
    "'max' is PyTorch's pooling on every backend" if given["kind"] == "max" else ""
)
