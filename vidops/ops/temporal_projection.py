"""temporal_projection: least squares along time, pixel by pixel, with a basis on a coarse grid."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..reference import Projection
from .backends import Operator
from .checks import check_clip
from .layouts import empty_clip, empty_images, layout_of

__all__ = ["Projection", "temporal_projection"]

MOST_FRAMES, MOST_COLUMNS = 64, 16


def temporal_projection(
    x: Tensor,
    basis: Tensor,
    *,
    ridge: float = 1e-6,
    outputs: Sequence[str] = ("residual_mean", "energy"),
    backend: str | None = None,
) -> Projection:
    """Project the course of every pixel over time onto the columns of its own matrix A.

    A ``(T, D)`` of a pixel is ``basis`` up-sampled bilinearly (``align_corners=False``) to the size of a frame, which
    never exists in memory. With x the T values of a pixel in one channel and G = AtA + ridge I:

    ======================  =====================================  ===================
    ``coefficients``        y = G^-1 At x                          ``(N, D, C, H, W)``
    ``projection``          A y                                    ``(N, C, T, H, W)``
    ``residual``            p = x - A y                            ``(N, C, T, H, W)``
    ``residual_mean``       (1/T) sum_t p_t                        ``(N, C, H, W)``
    ``energy``              sum over pixels, channels of |p|^2     ``(N,)``
                            / (H W C)
    ``error``               sum over pixels, channels of |p|       ``(N,)``
                            / (H W C)
    ======================  =====================================  ===================

    Args:
        x: clip ``(N, C, T, H, W)``, T from 2 to 64; float32, float16, bfloat16 or float64. NCTHW, NTCHW and
            channels-last memory are native.
        basis: ``(N, T, D, h, w)`` of the dtype of ``x``: columns of A on a grid, 1 <= D <= 16, D < T, h <= H, w <= W.
            With h = w = 1 all pixels of a clip have the same A; one cell is allowed where there is no pixel.
        ridge: what is added to the diagonal of AtA; at least 0. It keeps results finite where columns depend on
            each other, and draws the coefficients towards zero.
        outputs: names of the fields wanted; the others are neither computed nor written.
        backend: ``"reference"``, ``"cpu"``, ``"cuda"``, ``"triton"``, or ``None`` for the automatic choice.

    Returns:
        A :class:`Projection`, fields not wanted None. ``energy`` and ``error`` are fp32 (fp64 for fp64), the others
        of the dtype of ``x``. ``projection`` and ``residual`` have the memory layout of ``x``; ``coefficients`` and
        ``residual_mean`` are images one behind the other: contiguous, or channels last where ``x`` is.

    Raises:
        TypeError: a tensor has an unsupported or another dtype, or an argument is of the wrong kind.
        ValueError: a rank, shape, device, number or name is not allowed.
        RuntimeError: ``backend`` was asked for and cannot run this call.

    Source: PWTP, eq. 3.7 and 3.10-3.14, and TSP, eq. 3.3-3.5, of Huang's thesis. Where p is zero, the gradient of
    |p| is zero. Of clips without channels or pixels, ``energy`` and ``error`` are zero. Nothing is kept for the
    gradients but ``x`` and ``basis``. It is computed in fp32, in fp64 for fp64; under autocast it runs in fp32. With a
    ridge of 0, fp32 is good for bases of condition up to 100.

    Example:
        >>> import torch, vidops
        >>> x, basis = torch.randn(1, 3, 8, 32, 32), torch.randn(1, 8, 1, 4, 4)
        >>> dynamic = vidops.ops.temporal_projection(x, basis).residual_mean  # (1, 3, 32, 32)
    """
    check_clip(x)
    _check_rank(basis)
    device = x.device.type
    x, basis = _operator.cast(device, x, basis)  # type: ignore[assignment]
    _check(x, basis)
    ridge, wanted = check_ridge(ridge), _check_outputs(outputs)
    name = _operator.choose(backend, device, x, basis, ridge, wanted)
    if name == "reference" or 0 in x.shape[1:]:  # no number to project: no kernel either
        return _operator.reference(x, basis, ridge=ridge, outputs=outputs)
    results = _operator.kernels[name](x, basis, ridge, wanted)
    return Projection(*(r if wanted >> i & 1 else None for i, r in enumerate(results)))


def _check_rank(basis: Any) -> None:
    if not isinstance(basis, Tensor):
        raise TypeError(f"basis must be a Tensor, got {type(basis).__name__}")
    if basis.dim() != 5:
        raise ValueError(f"basis must be (N, T, D, h, w), got {basis.dim()} dimensions: {tuple(basis.shape)}")


def _check(x: Tensor, basis: Tensor) -> None:
    n, _, t, height, width = x.shape
    if t < 2 or t > MOST_FRAMES:
        raise ValueError(f"x must have 2 to {MOST_FRAMES} frames, got {t}")
    if basis.dtype != x.dtype:
        raise TypeError(f"basis must have the dtype of x, {x.dtype}, got {basis.dtype}")
    if basis.device != x.device:
        raise ValueError(f"basis must be on the device of x, {x.device}, got {basis.device}")
    clips, frames, columns, h, w = basis.shape
    if clips != n or frames != t:
        raise ValueError(f"basis must be (N, T, D, h, w) with N = {n}, T = {t}, got {tuple(basis.shape)}")
    if columns < 1 or columns >= t or columns > MOST_COLUMNS:
        raise ValueError(
            f"basis must have 1 to {min(t - 1, MOST_COLUMNS)} columns for {t} frames, got {columns}"
        )
    low, high = (min(height, 1), min(width, 1)), (max(height, 1), max(width, 1))
    if not (low[0] <= h <= high[0] and low[1] <= w <= high[1]):
        raise ValueError(
            f"basis must have a grid of {low[0]} x {low[1]} to {high[0]} x {high[1]} cells, got {h} x {w}"
        )


def check_ridge(ridge: Any) -> float:
    """Return ``ridge`` as a float; raise TypeError unless it is a number, ValueError unless finite and at least 0.

    Example:
        >>> check_ridge(0)
        0.0
    """
    if isinstance(ridge, bool) or not isinstance(ridge, numbers.Real):
        raise TypeError(f"ridge must be a number, got {type(ridge).__name__}")
    number = float(ridge)
    if not 0 <= number < math.inf:
        raise ValueError(f"ridge must be finite and at least 0, got {ridge}")
    return number


def _check_outputs(outputs: Any) -> int:
    """Bit i is set where field i is wanted."""
    if not isinstance(outputs, (tuple, list)):
        raise TypeError(f"outputs must be a tuple or list of names, got {type(outputs).__name__}")
    wanted = 0
    for name in outputs:
        if name not in Projection._fields:
            raise ValueError(f"outputs must be names among {', '.join(Projection._fields)}, got {name!r}")
        wanted |= 1 << Projection._fields.index(name)
    if wanted == 0:
        raise ValueError("outputs must name at least one result")
    return wanted


def _fake(x: Tensor, basis: Tensor, ridge: float, outputs: int) -> tuple[Tensor, ...]:
    """The coefficients are D images a clip, one behind the other."""
    n, c, _, h, w = x.shape
    d = basis.shape[2]
    results = [x.new_empty(0) for _ in Projection._fields]
    if outputs & 1:
        p = h * w
        strides = (d * c * p, c * p, 1, w * c, c) if layout_of(x) == "NTHWC" else (d * c * p, c * p, p, w, 1)
        results[0] = x.new_empty_strided((n, d, c, h, w), strides)
    for i in (1, 2):
        if outputs >> i & 1:
            results[i] = empty_clip(x)
    if outputs & 8:
        results[3] = empty_images(x, c)
    for i in (4, 5):
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        results[i] = x.new_empty((n if outputs >> i & 1 else 0,), dtype=dtype)
    return tuple(results)


def _fake_backward(
    grad_coefficients: Tensor | None,
    grad_projection: Tensor | None,
    grad_residual: Tensor | None,
    grad_residual_mean: Tensor | None,
    grad_energy: Tensor | None,
    grad_error: Tensor | None,
    x: Tensor,
    basis: Tensor,
    ridge: float,
    need_x: bool,
    need_basis: bool,
) -> tuple[Tensor, Tensor]:
    return (
        empty_clip(x) if need_x else x.new_empty(0),
        x.new_empty(basis.shape if need_basis else (0,)),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, basis, ctx.ridge, ctx.outputs = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, basis)


def _backward(ctx: Any, kernel: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    # Not the gradients of the empty tensors that stand for what is not wanted.
    given = [g if ctx.outputs >> i & 1 else None for i, g in enumerate(grads)]
    if all(g is None for g in given):
        return (None,) * 4
    needs = ctx.needs_input_grad[:2]
    found = kernel(*given, *ctx.saved_tensors, ctx.ridge, *needs)
    return (*(g if need else None for g, need in zip(found, needs, strict=True)), None, None)


def _flops(x: Any, basis: Any, ridge: float, outputs: int, *_: Any, **__: Any) -> int:
    """The products AtA, At x and, for all results but the coefficients, A y."""
    n, c, t, h, w = x
    d = basis[2]
    return 2 * n * h * w * t * d * (d + c + (c if outputs & ~1 else 0))


def _flops_backward(
    grad_coefficients: Any,
    grad_projection: Any,
    grad_residual: Any,
    grad_residual_mean: Any,
    grad_energy: Any,
    grad_error: Any,
    x: Any,
    basis: Any,
    ridge: float,
    need_x: bool,
    need_basis: bool,
    **_: Any,
) -> int:
    """The forward ones again, At gp and A z, and for the basis r yt and p zt."""
    n, c, t, h, w = x
    d = basis[2]
    return 2 * n * h * w * t * d * (d + c * (4 + 2 * need_basis))


_operator = Operator(
    "temporal_projection",
    reference=reference.temporal_projection,
    fake=_fake,
    fake_backward=_fake_backward,
    setup_context=_setup_context,
    backward=_backward,
    flops=_flops,
    flops_backward=_flops_backward,
    autocast="float32",
)
