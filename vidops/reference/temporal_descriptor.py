"""Definition of temporal_descriptor in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def temporal_descriptor(features: Tensor) -> Tensor:
    """Products of every frame with the later ones, eq. 3.9.

    Shapes and meaning are those of :func:`vidops.ops.temporal_descriptor`.
    """
    n, c, t, h, w = features.shape
    if t < 2 or features.numel() == 0:
        return features.sum(1)[:, :1].expand(n, t * (t - 1) // 2, h, w).clone()
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    frames = features.to(dtype).permute(0, 3, 4, 2, 1).flatten(0, 2)  # (positions, T, C)
    pairs = [torch.bmm(frames[:, i : i + 1], frames[:, i + 1 :].mT) for i in range(t - 1)]
    descriptor = torch.cat(pairs, 2).squeeze(1) / c
    return descriptor.unflatten(0, (n, h, w)).permute(0, 3, 1, 2).to(features.dtype).contiguous()
