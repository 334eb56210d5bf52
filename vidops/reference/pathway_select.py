"""Definition of pathway_select in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def pathway_select(paths: Sequence[Tensor], logits: Tensor) -> Tensor:
    """Sum pathways weighted by the softmax of their logits.

    Shapes and meaning are those of :func:`vidops.ops.pathway_select`.
    """
    weights = logits.softmax(1).to(logits.dtype)  # autocast makes it fp32
    if weights.dim() == 3:
        weights = weights.unsqueeze(-1)
    parts = [path * weight[..., None, None] for path, weight in zip(paths, weights.unbind(1), strict=True)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
