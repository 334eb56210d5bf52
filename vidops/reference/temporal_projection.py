"""Definition of temporal_projection in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .resize import resize


class Projection(NamedTuple):
    """What :func:`vidops.ops.temporal_projection` returns; a field that was not asked for is None.

    Attributes:
        coefficients: of the basis' columns, ``(N, D, C, H, W)``.
        projection: of the clip onto their span, ``(N, C, T, H, W)``.
        residual: the clip minus its projection, ``(N, C, T, H, W)``.
        residual_mean: mean of the residual over time, ``(N, C, H, W)``: the dynamic appearance.
        energy: mean over pixels and channels of the residual's squared length in time, ``(N,)``.
        error: the same of its length, ``(N,)``.

    Example:
        >>> Projection(None, None, None, None, torch.zeros(2), None).energy.shape
        torch.Size([2])
    """

    coefficients: Tensor | None
    projection: Tensor | None
    residual: Tensor | None
    residual_mean: Tensor | None
    energy: Tensor | None
    error: Tensor | None


def temporal_projection(
    x: Tensor,
    basis: Tensor,
    *,
    ridge: float = 1e-6,
    outputs: Sequence[str] = ("residual_mean", "energy"),
) -> Projection:
    """Least squares pixel by pixel, eq. 3.7 and 3.11-3.13, with the basis up-sampled to full size beforehand.

    Shapes and meaning are those of :func:`vidops.ops.temporal_projection`.
    """
    n, c, _, h, w = x.shape
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if 0 in (c, h, w):
        return _of_nothing(x, basis, dtype, outputs)
    a = resize(basis.to(dtype), (h, w)).permute(0, 3, 4, 1, 2).flatten(0, 2)  # (pixels, T, D)
    pixels = x.to(dtype).permute(0, 3, 4, 2, 1).flatten(0, 2)  # (pixels, T, C)
    y = _solve(torch.bmm(a.mT, a), torch.bmm(a.mT, pixels), ridge)
    found: dict[str, Tensor] = {}
    if "coefficients" in outputs:
        found["coefficients"] = y.unflatten(0, (n, h, w)).permute(0, 3, 4, 1, 2)
    if set(outputs) - {"coefficients"}:
        projection = torch.bmm(a, y)
        residual = pixels - projection
        found["projection"] = projection.unflatten(0, (n, h, w)).permute(0, 4, 3, 1, 2)
        found["residual"] = residual.unflatten(0, (n, h, w)).permute(0, 4, 3, 1, 2)
        found["residual_mean"] = residual.mean(1).unflatten(0, (n, h, w)).permute(0, 3, 1, 2)
        squares, values = residual.square().sum(1), h * w * c
        found["energy"] = squares.view(n, values).sum(1) / values
        found["error"] = _root(squares).view(n, values).sum(1) / values
    for name in ("coefficients", "projection", "residual", "residual_mean"):
        if name in found:
            found[name] = found[name].to(x.dtype).contiguous()
    return Projection(*(found[name] if name in outputs else None for name in Projection._fields))


def _of_nothing(x: Tensor, basis: Tensor, dtype: torch.dtype, outputs: Sequence[str]) -> Projection:
    """Results without elements and sums that are zero, of a clip without channels or pixels."""
    n, c, _, h, w = x.shape
    zero = x.sum() + basis.flatten()[:0].sum()  # keeps both in the graph; what the basis holds plays no part
    shapes = ((n, basis.shape[2], c, h, w), x.shape, x.shape, (n, c, h, w), (n,), (n,))
    return Projection(
        *(
            zero.to(dtype if len(shape) == 1 else x.dtype).expand(shape).clone() if name in outputs else None
            for name, shape in zip(Projection._fields, shapes, strict=True)
        )
    )


def _solve(gram: Tensor, right: Tensor, ridge: float) -> Tensor:
    """``(gram + ridge I)^-1 right`` by Cholesky's method without square roots, ``gram = L diag(pivots) Lt``.

    Written out, because what infinities and NaN turn into depends on the order of the operations. No pivot is
    truly less than the ridge; one that is, by rounding, is set to it, or a basis of dependent columns would be
    divided by zero. The gradient passes as if it were not.
    """
    size = gram.shape[-1]
    columns: list[Tensor] = []  # of L, from the diagonal down
    pivots: list[Tensor] = []
    for j in range(size):
        column = gram[:, j:, j]
        for k in range(j):
            entries = columns[k][:, j - k :]
            column = column - entries * (entries[:, :1] * pivots[k])
        pivot = column[:, :1] + ridge
        low = pivot.detach() < ridge
        pivots.append(torch.where(low, pivot + (ridge - pivot).detach(), pivot))
        columns.append(torch.cat([torch.ones_like(pivot), column[:, 1:] / pivots[j]], 1))
    rows = list(right.unbind(1))
    for j in range(size):
        for k in range(j):
            rows[j] = rows[j] - columns[k][:, j - k, None] * rows[k]
    for j in reversed(range(size)):
        rows[j] = rows[j] / pivots[j]
        for k in range(j + 1, size):
            rows[j] = rows[j] - columns[j][:, k - j, None] * rows[k]
    return torch.stack(rows, 1)


def _root(squares: Tensor) -> Tensor:
    """Square root whose gradient at zero is zero."""
    zero = squares == 0
    return torch.where(zero, 0, torch.where(zero, 1, squares).sqrt())
