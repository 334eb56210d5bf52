"""Argument checks shared by operators: the same errors on every backend, before any kernel runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["FLOATS", "Triple", "check_clip", "check_int", "check_like", "check_triple"]

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
Triple = tuple[int, int, int]  # for time, height and width


def check_clip(x: Any, name: str = "x") -> None:
    """Require a floating clip ``(N, C, T, H, W)``.

    Example:
        >>> check_clip(torch.zeros(1, 2, 3, 4, 5))
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a Tensor, got {type(x).__name__}")
    if x.dtype not in FLOATS:
        raise TypeError(f"{name} must be float32, float16, bfloat16 or float64, got {x.dtype}")
    if x.dim() != 5:
        raise ValueError(f"{name} must be a clip (N, C, T, H, W), got {x.dim()} dimensions: {tuple(x.shape)}")


def check_like(tensor: Any, name: str, x: Tensor, shape: tuple[int, ...] | None, of: str = "x") -> None:
    """Require a tensor of ``shape``, unless None, with the dtype and device of the clip ``x``, which is called ``of``.

    Example:
        >>> check_like(torch.zeros(2), "bias", torch.zeros(1, 2, 3, 4, 5), (2,))
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a Tensor, got {type(tensor).__name__}")
    if tensor.dtype != x.dtype:
        raise TypeError(f"{name} must have the dtype of {of}, {x.dtype}, got {tensor.dtype}")
    if tensor.device != x.device:
        raise ValueError(f"{name} must be on the device of {of}, {x.device}, got {tensor.device}")
    if shape is not None and tensor.shape != shape:
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(tensor.shape)}")


def check_int(value: Any, name: str, low: int) -> None:
    """Require an integer of at least ``low``; booleans are none.

    Example:
        >>> check_int(2, "stride", 1)
    """
    if type(value) is not int and (isinstance(value, bool) or not isinstance(value, (int, torch.SymInt))):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < low:
        raise ValueError(f"{name} must be at least {low}, got {value}")


def check_triple(value: Any, name: str, low: int) -> Triple:
    """Return the three numbers that an int or a sequence of three ints means, for time, height and width.

    Example:
        >>> check_triple(2, "stride", 1), check_triple((1, 2, 2), "stride", 1)
        ((2, 2, 2), (1, 2, 2))
    """
    if isinstance(value, (list, tuple)):
        if len(value) != 3:
            raise ValueError(f"{name} must be an int or three ints (time, height, width), got {value!r}")
        t, h, w = value
    else:
        t = h = w = value
    check_int(t, name, low)
    check_int(h, name, low)
    check_int(w, name, low)
    return t, h, w
