"""The global context block on clips."""

from __future__ import annotations

from torch import Tensor, nn

from .. import ops
from .clips import check_channels, hidden_units, zeroed


class GlobalContext(nn.Module):
    """Global context block: one weighted mean of all positions, transformed, is added to each of them.

    ``out = x + W_2 ReLU(LN(W_1 c))`` with ``c = sum_j softmax_j(w x_j) x_j``: a non-local block whose attention is the
    same for every query. W_2 and its bias start at zero, as in the authors' code: a new block changes nothing. w has no
    bias, which the softmax would take away.

    Args:
        channels: C of the clips.
        reduction: the hidden layer has C // reduction units, at least 4.
        backend: taken as by every layer, and not kept: there is no operator of vidops inside.

    Returns:
        Calling it on a clip ``(N, C, T, H, W)`` returns a clip of the same shape.

    Raises:
        ValueError: an argument, or the clip's shape, is out of range; the text names it.

    Source: Cao et al., GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond, eq. 5; Huang's thesis,
        table 4.6.

    Example:
        >>> import torch
        >>> GlobalContext(64)(torch.rand(1, 64, 4, 7, 7)).shape
        torch.Size([1, 64, 4, 7, 7])
    """

    def __init__(self, channels: int, reduction: int = 16, *, backend: str | None = None) -> None:
        super().__init__()
        hidden = hidden_units(channels, reduction)
        self.channels = channels
        self.reduction = reduction
        ops.backends.check_backend(backend)
        self.mask = nn.Conv3d(channels, 1, 1, bias=False)
        self.fc1 = nn.Linear(channels, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.fc2 = zeroed(nn.Linear(hidden, channels))

    def context(self, x: Tensor) -> Tensor:
        """Compute the weighted mean of a clip's positions, ``(N, C)``."""
        shares = self.mask(x).flatten(1).softmax(1)
        return (x.flatten(2) @ shares[:, :, None]).squeeze(2)

    def forward(self, x: Tensor) -> Tensor:
        """Add the context of a clip ``(N, C, T, H, W)`` to all its positions."""
        check_channels(x, self.channels)
        added = self.fc2(self.norm(self.fc1(self.context(x))).relu())
        return x + added[:, :, None, None, None]

    def extra_repr(self) -> str:
        """Show the arguments."""
        return f"{self.channels}, reduction={self.reduction}"
