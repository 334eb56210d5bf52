"""Definition of temporal_conv in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def temporal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    groups: Sequence[tuple[int, int, int]],
    stride: int = 1,
    padding: str = "zeros",
) -> Tensor:
    """Mixed depthwise temporal convolution, one plain ``conv3d`` a group.

    Shapes and meaning are those of :func:`vidops.ops.temporal_conv`; ``weight`` is the flat tensor.
    """
    reach = max([0, *[(k - 1) // 2 * d for c, k, d in groups if c]])
    if x.numel() == 0:
        span = x.shape[2] - 2 * reach if padding == "valid" else x.shape[2]
        frames = (span + stride - 1) // stride
        nothing = weight.sum() if bias is None else weight.sum() + bias.sum()
        return x[:, :, :1].sum(2, keepdim=True).expand(-1, -1, frames, -1, -1) + nothing
    if padding == "zeros":
        x = F.pad(x, (0, 0, 0, 0, reach, reach))
    elif padding == "replicate":
        # Not F.pad(mode="replicate"): its gradient uses atomics on CUDA.
        ends = [x[:, :, t : t + 1].expand(-1, -1, reach, -1, -1) for t in (0, x.shape[2] - 1)]
        x = torch.cat([ends[0], x, ends[1]], 2)
    outputs = []
    channel = tap = 0
    for c, k, d in groups:
        if c == 0:
            continue
        trim = reach - (k - 1) // 2 * d
        part = x[:, channel : channel + c, trim : x.shape[2] - trim]
        taps = weight[tap : tap + c * k].view(c, 1, k, 1, 1)
        b = None if bias is None else bias[channel : channel + c]
        outputs.append(F.conv3d(part, taps, b, stride=(stride, 1, 1), dilation=(d, 1, 1), groups=c))
        channel += c
        tap += c * k
    return torch.cat(outputs, 1)
