"""The vision attention chain."""

from __future__ import annotations

from torch import Tensor, nn

from .clips import check_width
from .squeeze_excite3d import SqueezeExcite3d


class AttentionChain(nn.Module):
    """Vision attention chain: squeeze and excitation, then attention over space and time.

    Args:
        channels: C of the clips.
        attention: layer from clips to clips of the same shape: a `RegionNonLocal` or a `ConvPyramidAttention` in the
            thesis. `insert_after` wants both in a lambda, ``lambda c: AttentionChain(c, RegionNonLocal(c))``.
        reduction: of the `SqueezeExcite3d`.
        backend: of the same.

    Returns:
        Calling it on a clip ``(N, C, T, H, W)`` returns a clip of the same shape.

    Raises:
        TypeError: ``attention`` is no module.
        ValueError: another argument, or the clip's shape, is out of range.

    Source: Huang's thesis, section 4.4, figure 4.6.

    Example:
        >>> import torch
        >>> from vidops.layers import ConvPyramidAttention
        >>> AttentionChain(64, ConvPyramidAttention())(torch.rand(2, 64, 4, 7, 7)).shape
        torch.Size([2, 64, 4, 7, 7])
    """

    def __init__(
        self, channels: int, attention: nn.Module, *, reduction: int = 16, backend: str | None = None
    ) -> None:
        super().__init__()
        check_width(channels, "channels")
        if not isinstance(attention, nn.Module):
            what = (
                f"the class {attention.__name__}: make one"
                if isinstance(attention, type)
                else repr(attention)
            )
            raise TypeError(f"attention must be a module, such as RegionNonLocal({channels}), got {what}")
        self.squeeze_excite = SqueezeExcite3d(channels, reduction, backend=backend)
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        """Recalibrate channels, then positions, of a clip ``(N, C, T, H, W)``."""
        return self.attention(self.squeeze_excite(x))
