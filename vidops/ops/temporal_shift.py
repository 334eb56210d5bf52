"""temporal_shift: TSM's shift of channels along time."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import reference
from .backends import Operator
from .checks import check_clip, check_int
from .layouts import empty_clip

__all__ = ["temporal_shift"]


def temporal_shift(x: Tensor, fold_div: int = 8, *, backend: str | None = None) -> Tensor:
    """Move one fold of channels a frame back and the next fold a frame forward, leaving the rest.

    With ``fold = C // fold_div``: channels ``[0, fold)`` of frame t come from frame t+1, channels ``[fold, 2*fold)``
    from frame t-1, and frames outside the clip are zero. Never in place.

    Args:
        x: clip ``(N, C, T, H, W)``, float32, float16, bfloat16 or float64; NCTHW, NTCHW and channels-last memory are
            native, and the result has the memory layout of ``x``.
        fold_div: the share of channels moved each way is one in ``fold_div``, at least 2.
        backend: ``"reference"``, ``"cpu"``, ``"cuda"``, ``"triton"``, or ``None`` for the automatic choice.

    Returns:
        Clip of the shape and dtype of ``x``.

    Raises:
        TypeError: ``x`` has an unsupported dtype or ``fold_div`` is no int.
        ValueError: ``x`` is not a clip or ``fold_div`` is below 2.
        RuntimeError: ``backend`` was asked for and cannot run this call.

    Source: TSM (Lin et al., 2019), the residual shift with zero padding.

    Example:
        >>> import torch, vidops
        >>> y = vidops.ops.temporal_shift(torch.randn(1, 16, 8, 7, 7), fold_div=8)
    """
    check_clip(x)
    check_int(fold_div, "fold_div", 2)
    fold = x.shape[1] // fold_div
    name = _operator.choose(backend, x.device.type, x, fold)
    if name == "reference":
        return _operator.reference(x, fold_div)
    return _operator.kernels[name](x, fold)


def _fake(x: Tensor, fold: int) -> Tensor:
    return empty_clip(x)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.fold = inputs[1]


def _backward(ctx: Any, kernel: Any, grad: Tensor) -> tuple[Any, ...]:
    return kernel(grad, ctx.fold), None


def _no_flops(*_: Any, **__: Any) -> int:
    return 0


_operator = Operator(
    "temporal_shift",
    reference=reference.temporal_shift,
    fake=_fake,
    fake_backward=_fake,
    setup_context=_setup_context,
    backward=_backward,
    flops=_no_flops,
    flops_backward=_no_flops,
    autocast="keep",
)
