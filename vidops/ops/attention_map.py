"""attention_map: what one position of a clip takes from every other, for pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .. import reference
from .attention_checks import check_pairs
from .backends import OPERATORS
from .checks import check_clip
from .nonlocal_attention import without_autocast

__all__ = ["attention_map"]


def attention_map(
    query: Tensor,
    key: Tensor,
    point: Sequence[int],
    *,
    kind: str = "gaussian",
    over: str = "all",
    scale: float | None = None,
    query_weight: Tensor | None = None,
    key_weight: Tensor | None = None,
) -> Tensor:
    """Tell how much one position of a clip takes from every other, for pictures.

    Args:
        query: clip ``(N, D, T, H, W)``, as for :func:`nonlocal_attention`, and so are the others.
        key: clip ``(N, D, T', H', W')``.
        point: ``(t, y, x)``, frame, row and column of the position in ``query``, from 0; `vidops visualize attention
            --point` takes the same order, of a frame of the video and shares of its height and width.
        kind: ``"gaussian"``, ``"dot"``, ``"cosine"`` or ``"concatenation"``.
        over: ``"all"``, ``"space"`` or ``"time"``.
        scale: factor of ``"gaussian"``'s products; None for 1.
        query_weight: ``(D,)``, for ``"concatenation"`` alone.
        key_weight: ``(D,)``, likewise.

    Returns:
        ``(N, T', H', W')`` of the dtype of ``query``: the weights of the values at those positions, zero at those
        that ``over`` leaves out.

    Raises:
        TypeError: a tensor has an unsupported or another dtype, or an argument is of the wrong kind.
        ValueError: a shape, number or word is not allowed, or ``point`` is outside ``query``.

    Source: thesis of Huang, fig. 4.1 and 4.8-4.10. Plain PyTorch on every device, in memory of O(L' D). Under autocast
    it runs in autocast's dtype.

    Example:
        >>> import torch, vidops
        >>> x = torch.randn(1, 16, 4, 7, 7)
        >>> weights = vidops.ops.attention_map(x, x, (2, 3, 3))  # (1, 4, 7, 7), sum 1
    """
    for name, clip in (("query", query), ("key", key)):
        check_clip(clip, name)
    device, same = query.device.type, key is query
    query, key, query_weight, key_weight = OPERATORS["nonlocal_attention"].cast(  # type: ignore[assignment]
        device, query, key, query_weight, key_weight
    )
    key = query if same else key
    check_pairs(query, key, kind, over, scale, query_weight, key_weight)
    place = _check_point(point, query)
    with without_autocast(device):
        return reference.attention_map(
            query, key, place,
            kind=kind, over=over, scale=scale, query_weight=query_weight, key_weight=key_weight,
        )  # fmt: skip


def _check_point(point: Any, query: Tensor) -> tuple[int, int, int]:
    if not isinstance(point, (tuple, list)) or not all(
        isinstance(i, int) and not isinstance(i, bool) for i in point
    ):
        raise TypeError(f"point must be three ints (t, y, x), got {point!r}")
    if len(point) != 3:
        raise ValueError(f"point must be three ints (t, y, x), got {len(point)}")
    if not all(0 <= i < size for i, size in zip(point, query.shape[2:], strict=True)):
        raise ValueError(f"point must lie in query's {tuple(query.shape[2:])} positions, got {tuple(point)}")
    return point[0], point[1], point[2]
