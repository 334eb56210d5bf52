"""region_attention: non-local attention by regions, whose keys are the queries."""

from __future__ import annotations

from torch import Tensor

from .nonlocal_attention import nonlocal_attention

__all__ = ["region_attention"]


def region_attention(
    query: Tensor,
    value: Tensor,
    *,
    kind: str = "gaussian",
    scale: float | None = None,
    query_weight: Tensor | None = None,
    key_weight: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Give every position the values of all positions, weighted by how alike the regions around both are.

    It is :func:`nonlocal_attention` over the whole clip with ``query`` for ``key``; to `vidops bench` it goes by that
    name.

    Args:
        query: clip ``(N, D, T, H, W)`` of aggregated regions (:func:`region_aggregate`), float32, float16, bfloat16
            or float64, in any native layout.
        value: clip ``(N, E, T, H, W)`` of the dtype of ``query``.
        kind: ``"gaussian"``, ``"dot"``, ``"cosine"`` or ``"concatenation"``.
        scale: factor of ``"gaussian"``'s products; None for 1, as the source has it.
        query_weight: ``(D,)``, for ``"concatenation"`` alone.
        key_weight: ``(D,)``, likewise.
        backend: ``"reference"``, ``"cpu"``, ``"cuda"``, ``"triton"``, or ``None`` for the automatic choice.

    Returns:
        Clip ``(N, E, T, H, W)`` of the dtype and memory layout of ``query``.

    Raises:
        TypeError: a tensor has an unsupported or another dtype, or an argument is of the wrong kind.
        ValueError: a shape, device, number or word is not allowed, or an argument does not go with ``kind``.
        RuntimeError: ``backend`` was asked for and cannot run this call.

    Source: thesis of Huang, eq. 4.2-4.9, Region-based Non-local.

    Example:
        >>> import torch, vidops
        >>> theta = torch.randn(1, 16, 4, 7, 7)
        >>> regions = vidops.ops.region_aggregate(theta, "avg", kernel_size=3)
        >>> y = vidops.ops.region_attention(regions, theta)  # (1, 16, 4, 7, 7)
    """
    return nonlocal_attention(
        query, query, value,
        kind=kind, scale=scale, query_weight=query_weight, key_weight=key_weight, backend=backend,
    )  # fmt: skip
