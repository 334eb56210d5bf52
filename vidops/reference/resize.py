"""Definition of resize in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample every frame bilinearly.

    Shapes and meaning are those of :func:`vidops.ops.resize`. On CUDA the gradient is the same bits every time
    under ``torch.use_deterministic_algorithms(True)``, as that of any indexing.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    for dim, out in enumerate(size, start=3):
        low, high, share = _taps(x.shape[dim], out, x.device)
        weight = torch.stack([1 - share, share]).to(wide.dtype)
        weight = weight.view(2, *(-1 if d == dim else 1 for d in range(5)))
        wide = wide.index_select(dim, low) * weight[0] + wide.index_select(dim, high) * weight[1]
    return wide.to(x.dtype)


def _taps(size: int, out: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The two elements of an axis that each result reads, and the second one's share.

    A result reads at ``(d + 1/2) * size / out - 1/2``, here in units of ``1 / (2 * out)``, where it is a whole
    number. At an element, and past the ends, both are the same one, so that no other is read.
    """
    d = torch.arange(out, device=device)
    place = ((2 * d + 1) * size - out).clamp(0, 2 * out * (size - 1))
    low = torch.div(place, 2 * out, rounding_mode="floor")
    rest = place - 2 * out * low
    share = torch.where(rest == 0, 0.5, rest.double() / (2 * out))
    return low, low + (rest != 0).long(), share
