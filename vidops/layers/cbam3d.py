"""The convolutional block attention module on clips."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import ops
from .clips import ClipNorm, check_channels, check_flag, check_kernel, hidden_units, zeroed


class CBAM3d(nn.Module):
    """Convolutional block attention module: a gate for each channel, then one for each position.

    Channels: ``sigmoid(mlp(mean(x)) + mlp(max(x)))`` over space and time, mlp C -> C/16 -> C. Positions:
    ``sigmoid(BN(conv(...)))`` of the mean and the maximum of the channels. The paper is of images; its 7 x 7 kernel is
    7 x 7 x 7 here, which fits what the thesis counts. The paper puts the module into residual branches; as the other
    attention layers it stands after blocks here, its gates doubled and its last weights zero, so that a new one changes
    nothing.

    Args:
        channels: C of the clips.
        reduction: the hidden layer of the channels' gate has C // reduction units, at least 4.
        kernel_size: odd sizes of the positions' convolution along time, height and width, one int or three.
        scale: double both gates; False gives the paper's, which halve what they cannot tell about.
        backend: taken as by every layer, and not kept: there is no operator of vidops inside.

    Returns:
        Calling it on a clip ``(N, C, T, H, W)`` returns a clip of the same shape.

    Raises:
        ValueError: an argument, or the clip's shape, is out of range; the text names it.

    Source: Woo et al., CBAM: Convolutional Block Attention Module, eq. 2 and 3; Huang's thesis, table 4.6.

    Example:
        >>> import torch
        >>> CBAM3d(64)(torch.rand(1, 64, 4, 7, 7)).shape
        torch.Size([1, 64, 4, 7, 7])
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        *,
        kernel_size: int | Sequence[int] = 7,
        scale: bool = True,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        hidden = hidden_units(channels, reduction)
        self.channels = channels
        self.reduction = reduction
        self.kernel_size = check_kernel(kernel_size)
        self.scale = check_flag(scale, "scale")
        ops.backends.check_backend(backend)
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = zeroed(nn.Linear(hidden, channels))
        self.conv = nn.Conv3d(2, 1, self.kernel_size, padding="same", bias=False)
        self.norm = ClipNorm(1)
        nn.init.zeros_(self.norm.weight)

    def gate(self, x: Tensor) -> Tensor:
        """Turn logits into what is multiplied by."""
        return 2 * x.sigmoid() if self.scale else x.sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Gate the channels, then the positions, of a clip ``(N, C, T, H, W)``."""
        check_channels(x, self.channels)
        pooled = torch.stack([x.mean((2, 3, 4)), x.amax((2, 3, 4))])
        channels = self.fc2(self.fc1(pooled).relu()).sum(0)
        x = x * self.gate(channels)[:, :, None, None, None]
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * self.gate(self.norm(self.conv(pooled)))

    def extra_repr(self) -> str:
        """Show the arguments."""
        return (
            f"{self.channels}, reduction={self.reduction}, kernel_size={self.kernel_size}, scale={self.scale}"
        )
