"""temporal_descriptor: products of a position's features in every pair of frames."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import reference
from .backends import Operator
from .checks import check_clip
from .layouts import empty_clip, empty_images

__all__ = ["temporal_descriptor"]


def temporal_descriptor(features: Tensor, *, backend: str | None = None) -> Tensor:
    """Describe every position by how alike its features are in every two frames.

    ``u[n, k, h, w] = (1/C) sum_c features[n,c,t1,h,w] * features[n,c,t2,h,w]`` for the k-th pair of frames
    ``t1 < t2``: (0, 1), (0, 2), ..., (0, T-1), (1, 2), ...

    Args:
        features: clip ``(N, C, T, h, w)``, float32, float16, bfloat16 or float64. NCTHW, NTCHW and channels-last
            memory are native; of a channels-last clip the result is channels last too.
        backend: ``"reference"``, ``"cpu"``, ``"cuda"``, ``"triton"``, or ``None`` for the automatic choice.

    Returns:
        ``(N, T(T-1)/2, h, w)``, of the dtype of ``features``; without channels if T is 1; zero if C is 0.

    Raises:
        TypeError: ``features`` has an unsupported dtype.
        ValueError: ``features`` is not a clip.
        RuntimeError: ``backend`` was asked for and cannot run this call.

    Source: eq. 3.9 of Huang's thesis (Pixel-Wise Temporal Projection). Sums are in fp32 for fp32, fp16 and bf16, in
    fp64 for fp64. Under autocast it runs in fp32.

    Example:
        >>> import torch, vidops
        >>> u = vidops.ops.temporal_descriptor(torch.randn(1, 24, 8, 28, 28))  # (1, 28, 28, 28)
    """
    check_clip(features, "features")
    device = features.device.type
    (features,) = _operator.cast(device, features)  # type: ignore[assignment]
    name = _operator.choose(backend, device, features)
    if name == "reference" or features.shape[1] == 0:  # nothing to sum: no kernel either
        return _operator.reference(features)
    return _operator.kernels[name](features)


def _pairs(frames: int) -> int:
    return frames * (frames - 1) // 2


def _fake(features: Tensor) -> Tensor:
    return empty_images(features, _pairs(features.shape[2]))


def _fake_backward(grad: Tensor, features: Tensor) -> Tensor:
    return empty_clip(features)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, kernel: Any, grad: Tensor) -> Tensor:
    return kernel(grad, *ctx.saved_tensors)


def _flops(features: Any, *_: Any, **__: Any) -> int:
    n, c, t, h, w = features
    return 2 * n * c * _pairs(t) * h * w


def _flops_backward(grad: Any, features: Any, *_: Any, **__: Any) -> int:
    return 2 * _flops(features)


_operator = Operator(
    "temporal_descriptor",
    reference=reference.temporal_descriptor,
    fake=_fake,
    fake_backward=_fake_backward,
    setup_context=_setup_context,
    backward=_backward,
    flops=_flops,
    flops_backward=_flops_backward,
    autocast="float32",
)
