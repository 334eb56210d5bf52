"""Definition of nonlocal_attention and attention_map in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def tokens_of(clip: Tensor, over: str) -> Tensor:
    """The positions ``(B, L, C)`` of a clip ``(N, C, T, H, W)`` that attend to each other."""
    n, c, t, h, w = clip.shape
    if over == "all":
        return clip.permute(0, 2, 3, 4, 1).reshape(n, t * h * w, c)
    if over == "space":
        return clip.permute(0, 2, 3, 4, 1).reshape(n * t, h * w, c)
    return clip.permute(0, 3, 4, 2, 1).reshape(n * h * w, t, c)


def clip_of(tokens: Tensor, shape: tuple[int, ...], over: str) -> Tensor:
    """The way back: ``(B, L, C)`` as a clip of the batch, frames, height and width of ``shape``, channels last."""
    n, _, t, h, w = shape
    c = tokens.shape[2]
    if over == "time":
        return tokens.reshape(n, h, w, t, c).permute(0, 4, 3, 1, 2)
    return tokens.reshape(n, t, h, w, c).permute(0, 4, 1, 2, 3)


def unit_vectors(x: Tensor) -> Tensor:
    """Vectors along the last axis over their lengths; zero vectors stay zero and have no gradient.

    They are brought near one first, lest their squares leave the range of the dtype. The factor is a constant to
    autograd: it changes no direction.
    """
    size = torch.linalg.vector_norm(x.detach(), torch.inf, -1, keepdim=True)
    x = x / torch.where(size == 0, 1, size)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / torch.where(length == 0, torch.inf, length)


def _weights(
    query: Tensor,
    key: Tensor,
    kind: str,
    scale: float | None,
    query_weight: Tensor | None,
    key_weight: Tensor | None,
) -> Tensor:
    """What every query ``(B, L, D)`` gives to every key ``(B, L', D)``: ``(B, L, L')``."""
    if kind == "gaussian":
        return torch.softmax(torch.bmm(query, key.mT) * (1.0 if scale is None else scale), -1)
    if kind == "dot":
        pairs = torch.bmm(query, key.mT)
    elif kind == "cosine":
        pairs = torch.bmm(unit_vectors(query), unit_vectors(key).mT).relu()
    else:
        assert query_weight is not None
        assert key_weight is not None
        pairs = ((query @ query_weight).unsqueeze(2) + (key @ key_weight).unsqueeze(1)).relu()
    return pairs / max(key.shape[1], 1)


def _wide(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if x is None else x.to(torch.float64 if dtype == torch.float64 else torch.float32)


def nonlocal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    kind: str = "gaussian",
    over: str = "all",
    scale: float | None = None,
    query_weight: Tensor | None = None,
    key_weight: Tensor | None = None,
) -> Tensor:
    """All pairs at once, eq. 4.1 and 4.4-4.9: every query's weights, then the sum of the values they weigh.

    Shapes and meaning are those of :func:`vidops.ops.nonlocal_attention`.
    """
    dtype = query.dtype
    q, k, v = (_wide(tokens_of(x, over), dtype) for x in (query, key, value))
    assert q is not None
    assert k is not None
    assert v is not None
    weights = _weights(q, k, kind, scale, _wide(query_weight, dtype), _wide(key_weight, dtype))
    return clip_of(torch.bmm(weights, v), query.shape, over).to(dtype).contiguous()


def attention_map(
    query: Tensor,
    key: Tensor,
    point: tuple[int, int, int],
    *,
    kind: str = "gaussian",
    over: str = "all",
    scale: float | None = None,
    query_weight: Tensor | None = None,
    key_weight: Tensor | None = None,
) -> Tensor:
    """One row of the matrix of weights, as a picture.

    Shapes and meaning are those of :func:`vidops.ops.attention_map`.
    """
    t, y, x = point
    row, frames = query[:, :, t : t + 1, y : y + 1, x : x + 1], key
    if over == "space":
        frames = key[:, :, t : t + 1]
    elif over == "time":
        frames = key[:, :, :, y : y + 1, x : x + 1]
    dtype = query.dtype
    q, k = _wide(tokens_of(row, "all"), dtype), _wide(tokens_of(frames, "all"), dtype)
    assert q is not None
    assert k is not None
    weights = _weights(q, k, kind, scale, _wide(query_weight, dtype), _wide(key_weight, dtype)).to(dtype)
    seen = weights.reshape(len(query), *frames.shape[2:])
    if over == "all":
        return seen
    whole = seen.new_zeros((len(query), *key.shape[2:]))
    if over == "space":
        whole[:, t] = seen[:, 0]
    else:
        whole[:, :, y, x] = seen[:, :, 0, 0]
    return whole
