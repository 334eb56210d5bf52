"""Definition of motion_band_pass in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _reflect(x: Tensor, dim: int, reach: int) -> Tensor:
    # Not F.pad(mode="reflect"): its gradient uses atomics on CUDA.
    if reach == 0:
        return x
    size = x.shape[dim]
    before, after = x.narrow(dim, 1, reach), x.narrow(dim, size - 1 - reach, reach)
    return torch.cat([before.flip(dim), x, after.flip(dim)], dim)


def motion_band_pass(
    x: Tensor,
    spatial: Tensor,
    temporal: Tensor,
    *,
    stride: int = 3,
    spatial_padding: str = "reflect",
    temporal_padding: str = "valid",
    quiet: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Two depthwise convolutions as the thesis writes them, eq. 5.3: over space, then along time.

    Shapes and meaning are those of :func:`vidops.ops.motion_band_pass`.
    """
    n, c, t, _, _ = x.shape
    k = spatial.shape[-1]
    frames = (t - 2 if temporal_padding == "valid" else t) + stride - 1
    frames //= stride
    if x.numel() == 0:
        busy = x[:, :, :1].sum(2, keepdim=True).expand(-1, -1, frames, -1, -1)
        busy = busy + (spatial.sum() + temporal.sum())
        return (busy, busy.clone()) if quiet else busy
    padded = x.transpose(1, 2).flatten(0, 1)
    for dim in (2, 3):
        padded = _reflect(padded, dim, k // 2)
    log = F.conv2d(padded, spatial.unsqueeze(1), groups=c).unflatten(0, (n, t)).transpose(1, 2)
    if temporal_padding == "replicate":
        log = torch.cat([log[:, :, :1], log, log[:, :, -1:]], 2)
    busy = F.conv3d(log, temporal.view(c, 1, 3, 1, 1), stride=(stride, 1, 1), groups=c)
    if not quiet:
        return busy
    if temporal_padding == "replicate":
        x = torch.cat([x[:, :, :1], x, x[:, :, -1:]], 2)
    end = (frames - 1) * stride + 1
    average = (x[:, :, :end:stride] + x[:, :, 1 : end + 1 : stride] + x[:, :, 2 : end + 2 : stride]) / 3
    return busy, average - busy
