"""Definition of depthwise_conv3d in plain PyTorch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

Triple = tuple[int, int, int]


def depthwise_conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Triple = (1, 1, 1),
    padding: Triple = (0, 0, 0),
    dilation: Triple = (1, 1, 1),
) -> Tensor:
    """Depthwise convolution along time, height and width: ``conv3d`` with one group a channel.

    Shapes and meaning are those of :func:`vidops.ops.depthwise_conv3d`; ``padding`` is in numbers.
    """
    if x.numel() == 0:
        shape = [
            size and (size + 2 * p - d * (k - 1) - 1) // s + 1
            for size, k, s, p, d in zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
        ]
        nothing = x.sum() + weight.sum() + (0 if bias is None else bias.sum())
        return nothing.expand(*x.shape[:2], *shape)
    return F.conv3d(x, weight, bias, stride, padding, dilation, groups=x.shape[1])
