"""TSM's shift as a module."""

from __future__ import annotations

from torch import Tensor, nn

from .. import ops


class TemporalShift(nn.Module):
    """Shift one fold of channels a frame back and one a frame forward.

    With f = C // fold_div: ``out[:, :f, t] = x[:, :f, t+1]``, ``out[:, f:2f, t] = x[:, f:2f, t-1]``, zeros
    beyond the ends, the rest unchanged. It has no parameters.

    Args:
        fold_div: C // fold_div channels are shifted each way; at least 2.
        backend: backend of the operator; None leaves the choice to vidops.

    Returns:
        Calling it on a clip ``(N, C, T, H, W)`` returns a clip of the same shape.

    Raises:
        ValueError: ``fold_div`` is below 2.

    Source: Lin et al., TSM: Temporal Shift Module for Efficient Video Understanding, section 3 (residual,
        bidirectional).

    Example:
        >>> import torch
        >>> TemporalShift()(torch.rand(1, 16, 4, 7, 7)).shape
        torch.Size([1, 16, 4, 7, 7])
    """

    def __init__(self, fold_div: int = 8, backend: str | None = None) -> None:
        super().__init__()
        if fold_div < 2:
            raise ValueError(f"fold_div must be at least 2, got {fold_div}")
        self.fold_div = fold_div
        self.backend = ops.backends.check_backend(backend)

    def forward(self, x: Tensor) -> Tensor:
        """Shift a clip ``(N, C, T, H, W)``."""
        return ops.temporal_shift(x, self.fold_div, backend=self.backend)

    def extra_repr(self) -> str:
        """Show the arguments."""
        return f"fold_div={self.fold_div}, backend={self.backend!r}"
