"""Mixed temporal convolution as a module."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import ops

INITS = ("shift", "kaiming")
PADDINGS = ("zeros", "replicate", "valid")


class MixTConv(nn.Module):
    """Depthwise temporal convolution with another kernel size for each group of channels.

    The channels fall into ``len(kernel_sizes)`` contiguous groups, as `torch.tensor_split` cuts them (where
    the number does not divide, the first groups get one channel more). ``weight`` is one flat parameter:
    group by group, channel by channel, tap by tap, the earliest frame's tap first.

    ``init="shift"`` sets, in a group of c channels and k > 1 taps, with f = c // 8:

    - channels 0 .. f-1: the (k-1)/2 taps before the centre are 1, the others 0: they see the past only, and
      sum it;
    - channels f .. 2f-1: the (k-1)/2 taps after the centre are 1: they see the future only;
    - the rest: the centre tap is 1: the identity. So is every channel of a group with k = 1.

    With k = 3 that is TSM's shift on the group's channels with the two directions exchanged: TSM's first fold
    takes the following frame, this one's the preceding. ``init="kaiming"`` draws U(-1/sqrt(k), 1/sqrt(k)),
    what PyTorch gives a depthwise convolution. A bias starts at zero.

    Args:
        channels: C, channels of the clips.
        kernel_sizes: odd taps of each group.
        dilations: frames between taps, one for all groups or one a group.
        stride: temporal stride.
        bias: whether to add a bias a channel.
        padding: ``"zeros"``, ``"replicate"`` or ``"valid"``, as in `vidops.ops.temporal_conv`.
        init: ``"shift"`` or ``"kaiming"``.
        backend: backend of the operator; None leaves the choice to vidops. State-dict keys do not depend on
            it.

    Returns:
        Calling it on a clip ``(N, C, T, H, W)`` returns ``(N, C, T_out, H, W)``; T_out = T at the defaults.

    Raises:
        ValueError: an argument is out of range; the text names it.

    Source: Shan et al., MixTConv, eq. 1-2; initial weights as in the authors' released code.

    Example:
        >>> import torch
        >>> MixTConv(64)(torch.rand(1, 64, 8, 7, 7)).shape
        torch.Size([1, 64, 8, 7, 7])
    """

    def __init__(
        self,
        channels: int,
        kernel_sizes: Sequence[int] = (1, 3, 5, 7),
        dilations: int | Sequence[int] = 1,
        *,
        stride: int = 1,
        bias: bool = False,
        padding: str = "zeros",
        init: str = "shift",
        backend: str | None = None,
    ) -> None:
        super().__init__()
        if isinstance(kernel_sizes, int):
            raise TypeError(f"kernel_sizes must be a sequence, one number for each group, got {kernel_sizes}")
        kernel_sizes = tuple(kernel_sizes)
        each = (dilations,) * len(kernel_sizes) if isinstance(dilations, int) else tuple(dilations)
        if channels < 1:
            raise ValueError(f"channels must be at least 1, got {channels}")
        if not kernel_sizes or any(k < 1 or k % 2 == 0 for k in kernel_sizes):
            raise ValueError(
                f"kernel_sizes must be odd and at least 1, one or more of them, got {kernel_sizes}"
            )
        if len(each) != len(kernel_sizes) or any(d < 1 for d in each):
            raise ValueError(
                f"dilations must be at least 1, one for all or one for each of the {len(kernel_sizes)}"
                f" kernel_sizes, got {dilations}"
            )
        if stride < 1:
            raise ValueError(f"stride must be at least 1, got {stride}")
        if padding not in PADDINGS:
            raise ValueError(f"padding must be one of {', '.join(PADDINGS)}, got {padding!r}")
        if init not in INITS:
            raise ValueError(f"init must be one of {', '.join(INITS)}, got {init!r}")
        self.channels = channels
        self.kernel_sizes = kernel_sizes
        self.dilations = each
        self.stride = stride
        self.padding = padding
        self.init = init
        self.backend = ops.backends.check_backend(backend)
        share, more = divmod(channels, len(kernel_sizes))
        self.groups = tuple(
            (share + (m < more), k, d) for m, (k, d) in enumerate(zip(kernel_sizes, each, strict=True))
        )
        self.weight = nn.Parameter(torch.empty(sum(c * k for c, k, _ in self.groups)))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the parameters to their initial values."""
        if self.bias is not None:
            self.bias.zero_()
        parts = self.weight.split([c * k for c, k, _ in self.groups])
        for part, (c, k, _) in zip(parts, self.groups, strict=True):
            taps = part.view(c, k)
            if self.init == "kaiming":
                taps.uniform_(-1 / math.sqrt(k), 1 / math.sqrt(k))
                continue
            fold = c // 8 if k > 1 else 0
            centre = (k - 1) // 2
            taps.zero_()
            taps[:fold, :centre] = 1
            taps[fold : 2 * fold, centre + 1 :] = 1
            taps[2 * fold :, centre] = 1

    def forward(self, x: Tensor) -> Tensor:
        """Convolve a clip ``(N, C, T, H, W)`` along time."""
        return ops.temporal_conv(
            x,
            self.weight,
            self.bias,
            groups=self.groups,
            stride=self.stride,
            padding=self.padding,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        """Show the arguments."""
        return (
            f"{self.channels}, kernel_sizes={self.kernel_sizes}, dilations={self.dilations},"
            f" stride={self.stride}, bias={self.bias is not None}, padding={self.padding!r},"
            f" init={self.init!r}, backend={self.backend!r}"
        )
