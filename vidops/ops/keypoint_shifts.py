"""keypoint_shifts: where each channel is largest in every region of a frame, and how these points move."""

from __future__ import annotations

import math
import numbers
from typing import Any

import torch
from torch import Tensor

from .. import reference
from .backends import Operator
from .checks import check_clip
from .layouts import empty_clip

__all__ = ["keypoint_shifts"]

MOST_BANDS = 4
# Coordinates are int16.
MOST_PIXELS = 2**15


def keypoint_shifts(
    features: Tensor,
    separators: Tensor,
    *,
    epsilon: float = 0.1,
    return_keypoints: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """Find the key point of every region, channel and frame, and weigh its way to those of the next frame.

    Each of G sets of lines splits every frame into K = r * r regions, in row-major order. Pixel j covers [j, j+1]. The
    r-1 lines of an axis are sorted, then moved the least that gives every band a width of at least 1: left to right
    ``l[i] = max(l[i], l[i-1] + 1)`` from border 0, right to left ``l[i] = min(l[i], l[i+1] - 1)`` from border W or H.
    A line that is NaN becomes its place in the equal grid. In every region R, channel and frame:

    - V is the largest value among pixels whose centre is in R (a centre on a line is behind it), NaN where there is
      one; I is its (x, y) in pixels, the first in row-major order of several.
    - P is the mean of the piecewise constant map over R with its exact borders.

    Between frames i and i+1::

        W[a, b] = softmax over b of 1 / (|V[i, a] - V[i+1, b]| + epsilon)
        S[a]    = sum over b of W[a, b] * (I[i+1, b] - I[i, a])
        result  = softmax over regions of (P[i] + P[i+1]) / 2, times S

    Gradients reach ``features`` through V, at its pixel, and through P; ``separators`` through P alone: plus or minus
    (mean along the line - P) * length / area, plus where the line ends the region. |.| has gradient 0 at 0. A line on
    an edge of pixels takes its mean along the pixels behind it. Gradients pass through the sort, and to whichever side
    a max or min picked: to the line on ties, nothing to a border or from a NaN. A value that is not finite counts in
    no region in which it has no area.

    Args:
        features: clip ``(N, C, T, H, W)``, H and W up to 32,768; float32, float16, bfloat16 or float64. NCTHW, NTCHW
            and channels-last memory are native.
        separators: ``(N, G, T, 2, r-1)`` of the dtype of ``features``, r from 1 to 4, at most H and W: lines of each
            set and frame in pixels, [0] the x positions of vertical ones, [1] the y positions of horizontal ones.
        epsilon: what is added to differences of values; above 0.
        return_keypoints: whether to return I and V as well.
        backend: ``"reference"``, ``"cpu"``, ``"cuda"``, ``"triton"``, or ``None`` for the automatic choice.

    Returns:
        ``(N, G, K, C, T-1, 2)``, (x, y) last, in pixels, contiguous; fp32, for fp64 features fp64. With
        ``return_keypoints`` a tuple of this, I ``(N, G, K, C, T, 2)``, int16, and V ``(N, G, K, C, T)`` of the dtype of
        the result; these two carry no gradients.

    Raises:
        TypeError: a tensor has an unsupported or another dtype, or an argument is of the wrong kind.
        ValueError: a rank, shape, device or number is not allowed.
        RuntimeError: ``backend`` was asked for and cannot run this call.

    Source: KPSEM (Cao et al., Effective Action Recognition with Embedded Key Point Shifts), eq. 5-12. The paper leaves
    open how its separators learn; the way through P is ours. It tells nothing of what the result jumps by where a line
    passes a key point, so lines may be drawn to where the loss is not least. Under autocast it runs in fp32.

    Example:
        >>> import torch, vidops
        >>> shifts = vidops.ops.keypoint_shifts(torch.rand(1, 8, 4, 14, 14), torch.full((1, 2, 4, 2, 1), 7.0))
        >>> shifts.shape
        torch.Size([1, 2, 4, 8, 3, 2])
    """
    check_clip(features, "features")
    _check_rank(separators)
    device = features.device.type
    features, separators = _operator.cast(device, features, separators)  # type: ignore[assignment]
    _check(features, separators)
    epsilon = _check_epsilon(epsilon)
    if not isinstance(return_keypoints, bool):
        raise TypeError(f"return_keypoints must be a bool, got {type(return_keypoints).__name__}")
    name = _operator.choose(backend, device, features, separators, epsilon)
    if name == "reference":
        return _operator.reference(features, separators, epsilon=epsilon, return_keypoints=return_keypoints)
    shifts, keypoints, values, _ = _operator.kernels[name](features, separators, epsilon)
    return (shifts, keypoints, values) if return_keypoints else shifts


def _check_rank(separators: Any) -> None:
    if not isinstance(separators, Tensor):
        raise TypeError(f"separators must be a Tensor, got {type(separators).__name__}")
    if separators.dim() != 5:
        raise ValueError(
            f"separators must be (N, G, T, 2, r-1), got {separators.dim()} dimensions: {tuple(separators.shape)}"
        )


def _check(features: Tensor, separators: Tensor) -> None:
    n, _, t, height, width = features.shape
    if separators.dtype != features.dtype:
        raise TypeError(
            f"separators must have the dtype of features, {features.dtype}, got {separators.dtype}"
        )
    if separators.device != features.device:
        raise ValueError(
            f"separators must be on the device of features, {features.device}, got {separators.device}"
        )
    clips, _, frames, axes, count = separators.shape
    if clips != n or frames != t or axes != 2:
        raise ValueError(
            f"separators must be (N, G, T, 2, r-1) with N = {n}, T = {t}, got {tuple(separators.shape)}"
        )
    if height > MOST_PIXELS or width > MOST_PIXELS:
        raise ValueError(f"features must have at most {MOST_PIXELS} rows and columns, got {height} x {width}")
    most = min(MOST_BANDS, height, width)
    if most < 1:
        raise ValueError(f"features must have pixels, got shape {tuple(features.shape)}")
    if count >= most:
        raise ValueError(
            f"separators must have at most {most - 1} lines an axis for {height} x {width} pixels, got {count}"
        )


def _check_epsilon(epsilon: Any) -> float:
    if isinstance(epsilon, bool) or not isinstance(epsilon, numbers.Real):
        raise TypeError(f"epsilon must be a number, got {type(epsilon).__name__}")
    number = float(epsilon)
    if not 0 < number < math.inf:
        raise ValueError(f"epsilon must be finite and above 0, got {epsilon}")
    return number


def _fake(features: Tensor, separators: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, c, t, _, _ = features.shape
    shape = (n, separators.shape[1], (separators.shape[4] + 1) ** 2, c)
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    return (
        features.new_empty((*shape, t - 1 if t > 0 else 0, 2), dtype=dtype),
        features.new_empty((*shape, t, 2), dtype=torch.int16),
        features.new_empty((*shape, t), dtype=dtype),
        features.new_empty((*shape, t), dtype=dtype),
    )


def _fake_backward(
    grad: Tensor,
    features: Tensor,
    separators: Tensor,
    keypoints: Tensor,
    values: Tensor,
    means: Tensor,
    epsilon: float,
    need_features: bool,
    need_separators: bool,
) -> tuple[Tensor, Tensor]:
    return (
        empty_clip(features) if need_features else features.new_empty(0),
        features.new_empty(separators.shape if need_separators else (0,)),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    features, separators, ctx.epsilon = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(features, separators, *output[1:])


def _backward(ctx: Any, kernel: Any, grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if grad is None:
        return None, None, None
    needs = ctx.needs_input_grad[:2]
    found = kernel(grad, *ctx.saved_tensors, ctx.epsilon, *needs)
    return (*(g if need else None for g, need in zip(found, needs, strict=True)), None)


def _no_flops(*_: Any, **__: Any) -> int:
    """Counted as the sources count: comparisons, sums and softmaxes are free."""
    return 0


_operator = Operator(
    "keypoint_shifts",
    reference=reference.keypoint_shifts,
    fake=_fake,
    fake_backward=_fake_backward,
    setup_context=_setup_context,
    backward=_backward,
    flops=_no_flops,
    flops_backward=_no_flops,
    autocast="float32",
)
