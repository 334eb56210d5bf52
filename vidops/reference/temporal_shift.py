"""Definition of temporal_shift in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def temporal_shift(x: Tensor, fold_div: int = 8) -> Tensor:
    """Shift one fold of channels a frame back and one a frame forward, as TSM does.

    Shapes and meaning are those of :func:`vidops.ops.temporal_shift`.
    """
    device = x.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        # Nothing is computed, so the dtype stays that of x; autocast's rule for cat refuses some.
        with torch.autocast(device, enabled=False):
            return temporal_shift(x, fold_div)
    fold = x.shape[1] // fold_div
    past, future, rest = x.split([fold, fold, x.shape[1] - 2 * fold], 1)
    zero = past.new_zeros(past[:, :, :1].shape)
    return torch.cat(
        [
            torch.cat([past[:, :, 1:], zero], 2),
            torch.cat([zero, future[:, :, :-1]], 2),
            rest,
        ],
        1,
    )
