"""What layers over clips share: checks of what they are given and made of, batch norm."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from ..ops.checks import Triple as Triple
from ..ops.depthwise_conv3d import MAX_KERNEL


def check_channels(x: Tensor, channels: int | None) -> None:
    """Raise unless a layer was given a clip of the channels that it was made for; None takes any number.

    Example:
        >>> import torch
        >>> check_channels(torch.rand(1, 3, 8, 7, 7), 3)
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a Tensor, got {type(x).__name__}")
    if x.dim() != 5 or channels not in (None, x.shape[1]):
        wanted = f"(N, {'C' if channels is None else channels}, T, H, W)"
        raise ValueError(f"x must be a clip {wanted}, got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"x must be of a floating dtype, got {x.dtype}")


def check_width(value: int, name: str) -> int:
    """Return a number of channels, or what they are divided by; raise unless it is a whole one of at least 1.

    Example:
        >>> check_width(64, "channels")
        64
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    return value


def check_one_of(value: str, name: str, known: tuple[str, ...]) -> str:
    """Return the name of a choice; raise unless it is a known one.

    Example:
        >>> check_one_of("max", "aggregate", ("avg", "max"))
        'max'
    """
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    return value


def check_flag(value: bool, name: str) -> bool:
    """Return a switch; raise unless it is True or False.

    Example:
        >>> check_flag(True, "pool")
        True
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")
    return value


def check_factor(value: float | None, name: str) -> float | None:
    """Return a finite number, or None; raise unless it is one.

    Example:
        >>> check_factor(0.5, "scale")
        0.5
    """
    if value is not None and (
        isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value)
    ):
        raise ValueError(f"{name} must be a finite number or None, got {value!r}")
    return value


def kernel_triple(value: Any) -> Triple | None:
    """Return odd sizes of at most 9 along time, height and width, given as one int or three; None for aught else.

    Example:
        >>> kernel_triple(3), kernel_triple((3, 4, 3))
        ((3, 3, 3), None)
    """
    sizes = (value,) * 3 if isinstance(value, int) else value
    if not isinstance(sizes, (tuple, list)) or len(sizes) != 3:
        return None
    if any(isinstance(k, bool) or not isinstance(k, int) for k in sizes):
        return None
    kt, kh, kw = sizes
    return (kt, kh, kw) if all(1 <= k <= MAX_KERNEL and k % 2 for k in sizes) else None


def check_kernel(value: Any, name: str = "kernel_size") -> Triple:
    """Return what `kernel_triple` does; raise where that is None.

    Example:
        >>> check_kernel([3, 7, 7])
        (3, 7, 7)
    """
    sizes = kernel_triple(value)
    if sizes is None:
        raise ValueError(f"{name} must be odd and at most {MAX_KERNEL}, one int or three, got {value!r}")
    return sizes


def hidden_units(channels: int, reduction: int) -> int:
    """Count the units between two layers that reduce channels and restore them: at least 4, so that some are awake.

    Example:
        >>> hidden_units(512, 16), hidden_units(16, 16)
        (32, 4)
    """
    return max(check_width(channels, "channels") // check_width(reduction, "reduction"), 4)


def zeroed(layer: nn.Linear) -> nn.Linear:
    """Return a layer whose weights and biases are zero, the last one of a branch that starts as nothing.

    Example:
        >>> zeroed(nn.Linear(2, 3)).weight.abs().max().item()
        0.0
    """
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class ClipNorm(nn.BatchNorm3d):
    """Batch norm of clips, also of one pixel a frame, where PyTorch 2.13's gradient can be wrong on the CPU.

    A clip of one pixel may lie in memory so that it is contiguous and channels last at once; given a gradient that lies
    another way, PyTorch then reads one of the two in the wrong order. Without the two axes there is one way to read it.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() not in (3, 5):
            raise ValueError(f"x must be a clip (N, C, T, H, W), got {x.dim()} dimensions: {tuple(x.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        """Normalise a clip ``(N, C, T, H, W)``."""
        if x.dim() == 5 and x.shape[3] == 1 and x.shape[4] == 1:
            return super().forward(x.flatten(2)).unflatten(2, (-1, 1, 1))
        return super().forward(x)
