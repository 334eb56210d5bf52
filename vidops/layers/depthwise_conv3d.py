"""Depthwise 3-D convolution as a module."""

from __future__ import annotations

from typing import Any

import torch.fx
from torch import Tensor, nn

from .. import ops
from .clips import Triple, check_kernel


@torch.fx.wrap  # one call of the graph: the number of axes is not known there
def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    backend: str | None,
) -> Tensor:
    """Convolve a clip ``(N, C, T, H, W)`` or ``(C, T, H, W)``, see `vidops.ops.depthwise_conv3d`."""
    channels = weight.shape[0]
    if x.dim() not in (4, 5) or x.shape[x.dim() - 4] != channels:
        raise ValueError(
            f"clip must be (N, {channels}, T, H, W) or ({channels}, T, H, W), got {tuple(x.shape)}"
        )
    clip = x if x.dim() == 5 else x[None]
    y = ops.depthwise_conv3d(
        clip, weight, bias, stride=stride, padding=padding, dilation=dilation, backend=backend
    )
    return y if x.dim() == 5 else y[0]


class DepthwiseConv3d(nn.Conv3d):
    """PyTorch's ``nn.Conv3d`` with one group a channel, run by `vidops.ops.depthwise_conv3d`.

    It is an ``nn.Conv3d``: the same arguments, parameters, initial values and state-dict keys, so weights move
    between the two, and code that looks for convolutions finds it.

    Args:
        in_channels: C, channels of the clips.
        out_channels: the same C.
        kernel_size: odd sizes of at most 9 along time, height and width: one int for all, or three.
        stride: steps of the results in frames, rows and columns.
        padding: zeros on each side, one int for all or three; ``"same"``, with stride 1 as in PyTorch; or
            ``"valid"``.
        dilation: steps of the taps in frames, rows and columns.
        groups: C, or None for it.
        bias: whether to add a bias a channel.
        padding_mode: ``"zeros"``.
        device: of the parameters.
        dtype: of the parameters.
        backend: backend of the operator; None leaves the choice to vidops. State-dict keys do not depend on
            it.

    Returns:
        Calling it on a clip ``(N, C, T, H, W)``, or on one ``(C, T, H, W)`` without the axis of clips, returns
        what ``nn.Conv3d`` does.

    Raises:
        ValueError: an argument is out of range; the text names it.

    Source: the channel-wise convolutions of X3D (Feichtenhofer, 2020).

    Example:
        >>> import torch
        >>> DepthwiseConv3d(54, 54, 3, stride=(1, 2, 2), padding=1, bias=False)(torch.rand(1, 54, 4, 8, 8)).shape
        torch.Size([1, 54, 4, 4, 4])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Triple,
        stride: int | Triple = 1,
        padding: int | Triple | str = 0,
        dilation: int | Triple = 1,
        groups: int | None = None,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        backend: str | None = None,
    ) -> None:
        if in_channels < 1:
            raise ValueError(f"in_channels must be at least 1, got {in_channels}")
        if out_channels != in_channels:
            raise ValueError(f"out_channels must be in_channels, {in_channels}, got {out_channels}")
        if groups is not None and groups != in_channels:
            raise ValueError(f"groups must be in_channels, {in_channels}, or None, got {groups}")
        if padding_mode != "zeros":
            raise ValueError(f"padding_mode must be 'zeros', got {padding_mode!r}")
        sizes = check_kernel(kernel_size)
        super().__init__(
            in_channels, out_channels, sizes, stride, padding, dilation, in_channels, bias, "zeros",
            device, dtype,
        )  # fmt: skip
        self.backend = ops.backends.check_backend(backend)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding = 0 if self.padding == "valid" else self.padding
        return convolve(input, weight, bias, self.stride, padding, self.dilation, self.backend)

    def extra_repr(self) -> str:
        """Show the arguments."""
        return f"{super().extra_repr()}, backend={self.backend!r}"
