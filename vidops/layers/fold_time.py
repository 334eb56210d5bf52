"""Puts a clip layer into a 2-D backbone."""

from __future__ import annotations

from torch import Tensor, nn


def as_clips(x: Tensor, num_segments: int) -> Tensor:
    """View 2-D activations ``(N*T, C, H, W)`` as clips ``(N, C, T, H, W)``.

    Example:
        >>> import torch
        >>> as_clips(torch.rand(16, 32, 7, 7), 8).shape
        torch.Size([2, 32, 8, 7, 7])
    """
    return x.unflatten(0, (-1, num_segments)).transpose(1, 2)


def as_frames(clips: Tensor) -> Tensor:
    """Turn clips ``(N, C, T, H, W)`` into 2-D activations ``(N*T, C, H, W)``: a view, if they are NTCHW or NTHWC.

    Example:
        >>> import torch
        >>> as_frames(torch.rand(2, 32, 8, 7, 7)).shape
        torch.Size([16, 32, 7, 7])
    """
    return clips.transpose(1, 2).flatten(0, 1)


class FoldTime(nn.Module):
    """Show a clip layer the 2-D activations of a backbone as clips.

    A 2-D backbone sees ``(N*T, C, H, W)``, the frames of a clip following each other. Seen as a clip
    ``(N, C, T, H, W)`` that is a native layout, and so is its channels-last form: the activations are
    viewed, not copied, on the way in, and on the way out too when the layer keeps the layout (all layers
    of vidops on a compiled backend do).

    Args:
        layer: module from clips ``(N, C, T, H, W)`` to clips ``(N, C', T', H', W')``.
        num_segments: T, the frames of a clip that the backbone sees. Nothing tells another number that divides the
            batch: with 4 for 8, halves of clips are taken for clips.

    Returns:
        Calling it on ``(N*T, C, H, W)`` returns ``(N*T', C', H', W')``.

    Raises:
        ValueError: ``num_segments`` is below 1; the input is not 4-D or its batch is no multiple of it.

    Example:
        >>> import torch, vidops
        >>> FoldTime(vidops.layers.TemporalShift(), num_segments=8)(torch.rand(16, 32, 7, 7)).shape
        torch.Size([16, 32, 7, 7])
    """

    def __init__(self, layer: nn.Module, num_segments: int) -> None:
        super().__init__()
        if num_segments < 1:
            raise ValueError(f"num_segments must be at least 1, got {num_segments}")
        self.layer = layer
        self.num_segments = num_segments

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to 2-D activations ``(N*T, C, H, W)``."""
        if x.ndim != 4:
            raise ValueError(f"x must be 2-D activations (N*T, C, H, W), got shape {tuple(x.shape)}")
        if x.shape[0] % self.num_segments:
            raise ValueError(
                f"x must hold whole clips of num_segments={self.num_segments} frames,"
                f" got a batch of {x.shape[0]}"
            )
        return as_frames(self.layer(as_clips(x, self.num_segments)))

    def extra_repr(self) -> str:
        """Show the number of segments."""
        return f"num_segments={self.num_segments}"
