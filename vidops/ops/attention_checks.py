"""Checks of the arguments that nonlocal_attention, region_attention and attention_map share."""

from __future__ import annotations

import math
import numbers
from typing import Any

from torch import Tensor

__all__ = ["KINDS", "OVER", "check_pairs", "check_value"]

# The first three are numbered so in the schema; "dot" needs no kernel.
KINDS = ("gaussian", "cosine", "concatenation", "dot")
OVER = ("all", "space", "time")


def check_pairs(
    query: Tensor, key: Tensor, kind: Any, over: Any, scale: Any, query_weight: Any, key_weight: Any
) -> None:
    """Raise unless queries, keys and how they are compared fit each other; the text names the argument.

    Example:
        >>> import torch
        >>> clip = torch.rand(1, 8, 2, 4, 4)
        >>> check_pairs(clip, clip, "dot", "all", None, None, None)
    """
    for word, allowed, name in ((kind, KINDS, "kind"), (over, OVER, "over")):
        if not isinstance(word, str):
            raise TypeError(f"{name} must be a str, got {type(word).__name__}")
        if word not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {word!r}")
    _check_with_query(key, "key", query)
    if query.shape[1] < 1:
        raise ValueError(f"query must have channels, got shape {tuple(query.shape)}")
    if key.shape[:2] != query.shape[:2]:
        raise ValueError(
            f"key must have the clips and channels of query, {tuple(query.shape[:2])}, got {tuple(key.shape[:2])}"
        )
    if over == "space" and key.shape[2] != query.shape[2]:
        raise ValueError(
            f"key must have the frames of query, {query.shape[2]}, over space, got {key.shape[2]}"
        )
    if over == "time" and key.shape[3:] != query.shape[3:]:
        height, width = query.shape[3:]
        raise ValueError(
            f"key must have frames of the size of query's, {height} x {width}, over time, got "
            f"{key.shape[3]} x {key.shape[4]}"
        )
    _check_scale(scale, kind)
    for weight, name in ((query_weight, "query_weight"), (key_weight, "key_weight")):
        _check_weight(weight, name, kind, query)


def check_value(key: Tensor, value: Tensor, query: Tensor) -> None:
    """Raise unless there is a value for each key.

    Example:
        >>> import torch
        >>> check_value(torch.rand(1, 8, 2, 4, 4), torch.rand(1, 3, 2, 4, 4), torch.rand(1, 8, 2, 7, 7))
    """
    _check_with_query(value, "value", query)
    if value.shape[0] != key.shape[0] or value.shape[2:] != key.shape[2:]:
        n, _, t, h, w = key.shape
        raise ValueError(
            f"value must have the clips, frames and pixels of the keys, ({n}, E, {t}, {h}, {w}), got "
            f"{tuple(value.shape)}"
        )


def _check_with_query(clip: Tensor, name: str, query: Tensor) -> None:
    if clip.dtype != query.dtype:
        raise TypeError(f"{name} must have the dtype of query, {query.dtype}, got {clip.dtype}")
    if clip.device != query.device:
        raise ValueError(f"{name} must be on the device of query, {query.device}, got {clip.device}")


def _check_scale(scale: Any, kind: str) -> None:
    if scale is None:
        return
    if isinstance(scale, bool) or not isinstance(scale, numbers.Real):
        raise TypeError(f"scale must be a number or None, got {type(scale).__name__}")
    if kind != "gaussian":
        raise ValueError(f"scale must be None with kind {kind!r}, got {scale}")
    number: Any = scale  # math.isfinite takes none that is symbolic in a compiled graph
    if not -math.inf < number < math.inf:
        raise ValueError(f"scale must be finite, got {scale}")


def _check_weight(weight: Any, name: str, kind: str, query: Tensor) -> None:
    channels = query.shape[1]
    if kind != "concatenation":
        if weight is not None:
            raise ValueError(f"{name} must be None with kind {kind!r}")
        return
    if weight is None:
        raise ValueError(f"{name} is required with kind 'concatenation': ({channels},)")
    if not isinstance(weight, Tensor):
        raise TypeError(f"{name} must be a Tensor, got {type(weight).__name__}")
    _check_with_query(weight, name, query)
    if weight.shape != (channels,):
        raise ValueError(f"{name} must have shape ({channels},), got {tuple(weight.shape)}")
