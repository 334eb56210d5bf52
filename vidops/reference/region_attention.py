"""Definition of region_attention in plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from .nonlocal_attention import nonlocal_attention


def region_attention(
    query: Tensor,
    value: Tensor,
    *,
    kind: str = "gaussian",
    scale: float | None = None,
    query_weight: Tensor | None = None,
    key_weight: Tensor | None = None,
) -> Tensor:
    """Non-local attention whose keys are the queries, eq. 4.2.

    Shapes and meaning are those of :func:`vidops.ops.region_attention`.
    """
    return nonlocal_attention(
        query, query, value, kind=kind, scale=scale, query_weight=query_weight, key_weight=key_weight
    )
