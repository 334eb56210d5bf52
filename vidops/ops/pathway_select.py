"""pathway_select: the sum of several pathways, weighted by a softmax over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .. import reference
from .backends import Operator
from .checks import check_clip, check_like
from .layouts import empty_clip

__all__ = ["pathway_select"]

MOST_PATHWAYS = 8


def pathway_select(paths: Sequence[Tensor], logits: Tensor, *, backend: str | None = None) -> Tensor:
    """Weigh the pathways of every channel by the softmax of its logits, and add them up in one pass.

    ``y[n,c,t,h,w] = sum_m softmax_m(logits[n,m,c,t]) * paths[m][n,c,t,h,w]``; without an axis of frames, a channel's
    logits are those of all its frames.

    Args:
        paths: list or tuple of 1 to 8 clips ``(N, C, T, H, W)`` of one shape, dtype and device: float32, float16,
            bfloat16 or float64. NCTHW, NTCHW and channels-last memory are native; the result has the layout of the
            first clip, and so have the gradients of all of them.
        logits: ``(N, M, C)`` or ``(N, M, C, T)`` for M pathways, of the dtype of ``paths``.
        backend: ``"reference"``, ``"cpu"``, ``"cuda"``, ``"triton"``, or ``None`` for the automatic choice.

    Returns:
        Clip of the shape and dtype of each path.

    Raises:
        TypeError: a tensor has an unsupported or another dtype, or ``paths`` is no list or tuple of tensors.
        ValueError: there are no paths or too many, or a rank, shape or device is not allowed.
        RuntimeError: ``backend`` was asked for and cannot run this call.

    Source: BTSNet (Hong and Choi, poster), V = sum Attn_m * U_m, its C and TC attention; Selective Kernel Networks (Li
    et al., 2019). The softmax and sums are in fp32 for fp32, fp16 and bf16, in fp64 for fp64. Under autocast it runs in
    autocast's dtype.

    Example:
        >>> import torch, vidops
        >>> near, far = torch.randn(2, 1, 16, 8, 7, 7)
        >>> y = vidops.ops.pathway_select([near, far], torch.randn(1, 2, 16))  # (1, 16, 8, 7, 7)
    """
    _check_sequence(paths)
    device = paths[0].device.type
    cast: Any = _operator.cast(device, *paths, logits)
    clips, logits = list(cast[:-1]), cast[-1]
    _check(clips, logits)
    name = _operator.choose(backend, device, clips, logits)
    if name == "reference":
        return _operator.reference(clips, logits)
    return _operator.kernels[name](clips, logits)


def _check_sequence(paths: Any) -> None:
    if not isinstance(paths, (list, tuple)):
        raise TypeError(f"paths must be a list or tuple of clips, got {type(paths).__name__}")
    if not 1 <= len(paths) <= MOST_PATHWAYS:
        raise ValueError(f"paths must hold 1 to {MOST_PATHWAYS} clips, got {len(paths)}")
    for i, path in enumerate(paths):
        check_clip(path, f"paths[{i}]")


def _check(paths: list[Tensor], logits: Tensor) -> None:
    first = paths[0]
    for i, path in enumerate(paths):
        check_like(path, f"paths[{i}]", first, first.shape, "paths[0]")
    check_like(logits, "logits", first, None, "paths")
    n, c, t = first.shape[:3]
    wanted = (n, len(paths), c)
    if logits.shape != wanted and logits.shape != (*wanted, t):
        raise ValueError(
            f"logits must have shape {wanted} or {(*wanted, t)}, (N, M, C) or (N, M, C, T), got {tuple(logits.shape)}"
        )


def _fake(paths: list[Tensor], logits: Tensor) -> Tensor:
    return empty_clip(paths[0])


def _fake_backward(grad: Tensor, paths: list[Tensor], logits: Tensor) -> tuple[list[Tensor], Tensor]:
    return [empty_clip(paths[0]) for _ in paths], logits.new_empty(logits.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    paths, logits = inputs
    ctx.save_for_backward(*paths, logits)


def _backward(ctx: Any, kernel: Any, grad: Tensor) -> tuple[list[Tensor], Tensor]:
    *paths, logits = ctx.saved_tensors
    return kernel(grad, paths, logits)


def _no_flops(*_: Any, **__: Any) -> int:
    """Counted as the sources count: products of single elements are free."""
    return 0


_operator = Operator(
    "pathway_select",
    reference=reference.pathway_select,
    fake=_fake,
    fake_backward=_fake_backward,
    setup_context=_setup_context,
    backward=_backward,
    flops=_no_flops,
    flops_backward=_no_flops,
)
