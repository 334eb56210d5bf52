"""The key point shifts embedding module: features of a clip from how its channels' key points move."""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import Tensor, nn

from .adaptive_regional_shift import AdaptiveRegionalShift
from .clips import check_channels, check_width

MOST_GROUPS = 16  # of the first convolution


class KeyPointShiftEmbedding(nn.Module):
    """Key point shifts embedding module (KPSEM): rows of features from shifts of key points, for a classifier.

    The shifts of every channel and pair of frames go through a linear layer, that of the sum over the sets of a layer
    for each (eq. 3), to d_e numbers. Two convolutions over (time, embedding) of kernel (1, 3), stride (1, 2) and
    padding (0, 1), the first of up to 16 groups, reduce C to C/2 and to C/4, with batch norm and ReLU after each; what
    is left of the embedding is averaged. Its weights are 4-D and 5-D ones, which PyTorch's
    ``network.to(memory_format=...)`` refuses; `channels_last` takes both.

    Args:
        channels: C of the clips, a multiple of 4.
        num_regions: K, see `AdaptiveRegionalShift`, as are the following.
        num_sets: G.
        embed_dim: d_e.
        regions: ``"adaptive"`` or ``"fixed"``.
        seed: of fixed ones.
        backend: backend of the operator; None leaves the choice to vidops. State-dict keys do not depend on it.

    Returns:
        Calling it on a clip ``(N, C, T, H, W)`` of at least 2 frames returns rows ``(N, C/4 * (T-1))``.

    Raises:
        ValueError: an argument, or the clip's shape, is out of range; the text names it.
        TypeError: the clip is of no floating dtype.

    Source: KPSEM (Cao et al., Effective Action Recognition with Embedded Key Point Shifts), sections 3.2 and 4.2,
        figure 6b; the groups are ours.

    Example:
        >>> import torch
        >>> KeyPointShiftEmbedding(32)(torch.rand(2, 32, 8, 14, 14)).shape
        torch.Size([2, 56])
    """

    def __init__(
        self,
        channels: int,
        num_regions: int = 4,
        num_sets: int = 8,
        embed_dim: int = 24,
        *,
        regions: str = "adaptive",
        seed: int = 0,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        if check_width(channels, "channels") % 4:
            raise ValueError(f"channels must be a multiple of 4, got {channels}")
        check_width(embed_dim, "embed_dim")
        self.channels = channels
        self.embed_dim = embed_dim
        self.shifts = AdaptiveRegionalShift(
            channels, num_regions, num_sets, regions=regions, seed=seed, backend=backend
        )
        self.embedding = nn.Linear(num_sets * num_regions * 2, embed_dim)
        bound = (num_regions * 2) ** -0.5  # as each set's own layer would start
        nn.init.uniform_(self.embedding.weight, -bound, bound)
        half, quarter = channels // 2, channels // 4
        kernel, stride, padding = (1, 3), (1, 2), (0, 1)
        groups = math.gcd(half, MOST_GROUPS)
        self.reduction = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(channels, half, kernel, stride, padding, groups=groups, bias=False),
                bn1=nn.BatchNorm2d(half),
                relu1=nn.ReLU(inplace=True),
                conv2=nn.Conv2d(half, quarter, kernel, stride, padding, bias=False),
                bn2=nn.BatchNorm2d(quarter),
                relu2=nn.ReLU(inplace=True),
            )
        )

    def num_features(self, frames: int) -> int:
        """Count the features that a clip of so many frames has; a classifier of them takes no other length.

        Example:
            >>> KeyPointShiftEmbedding(384).num_features(8)
            672
        """
        if check_width(frames, "frames") < 2:
            raise ValueError(f"frames must be at least 2, got {frames}")
        return self.channels // 4 * (frames - 1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the features of a clip ``(N, C, T, H, W)``."""
        check_channels(x, self.channels)
        if x.shape[2] < 2:
            raise ValueError(f"x must have at least 2 frames, got {x.shape[2]}")
        rows = self.shifts(x).permute(0, 3, 4, 1, 2, 5).flatten(3)  # (N, C, T-1, G*K*2)
        embedded = self.embedding(rows.to(self.embedding.weight.dtype))
        return self.reduction(embedded).mean(3).flatten(1)

    def extra_repr(self) -> str:
        """Show what the parts do not show."""
        return f"{self.channels}, embed_dim={self.embed_dim}"
