"""Self-attention in space and in time, of slow and of fast actions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..ops.nonlocal_attention import MOST_CHANNELS
from .clips import check_channels, check_flag, check_one_of, check_width

SPEEDS = {"slow": 7, "fast": 1}
AXES = {"ssfa": "space", "tsfa": "time"}


class SlowFastSelfAttention(nn.Module):
    """One attention module: what each position gathers from its frame, or from its place in all frames.

    ``gamma W attention(q(x), k(x), v(x))`` with q, k: C -> d/8 and v: C -> d, convolutions over ``frames`` frames of
    one position, and W a 1x1x1 convolution d -> C; gamma is one number, zero at first. Softmax of the bare products.

    The slides fix the kernels, d and the softmax. Our choices: queries and keys have d/8 channels, and gamma is a
    number, as in SAGAN, which they build on; only W is biased (a bias of keys cancels in the softmax, and one of values
    is W's); frames beyond the clip are zeros.

    Args:
        channels: C of the clips.
        attention_dim: d.
        over: ``"space"`` or ``"time"``.
        frames: that the convolutions see: 7 for slow actions, 1 for fast ones.
        backend: backend of the operator; None leaves the choice to vidops. State-dict keys do not depend on it.

    Returns:
        Calling it on a clip ``(N, C, T, H, W)`` returns what is to be added to it, of the same shape.

    Raises:
        ValueError: an argument, or the clip's shape, is out of range; the text names it.

    Source: Kim et al., Spatio-Temporal SlowFast Self-Attention Network, figures 3.3 and 3.4; Zhang et al., SAGAN.

    Example:
        >>> import torch
        >>> SlowFastSelfAttention(16, 32, "time", 7)(torch.rand(1, 16, 8, 4, 4)).shape
        torch.Size([1, 16, 8, 4, 4])
    """

    def __init__(
        self,
        channels: int,
        attention_dim: int = 512,
        over: str = "space",
        frames: int = 1,
        *,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        self.channels = check_width(channels, "channels")
        self.attention_dim = check_width(attention_dim, "attention_dim")
        self.over = check_one_of(over, "over", ("space", "time"))
        if check_width(frames, "frames") % 2 == 0:
            raise ValueError(f"frames must be odd, got {frames}")
        self.frames = frames
        self.backend = ops.backends.check_backend(backend)
        inner = max(attention_dim // 8, 1)
        self.query = OverFrames(channels, inner, frames)
        self.key = OverFrames(channels, inner, frames)
        self.value = OverFrames(channels, attention_dim, frames)
        self.out = nn.Conv3d(attention_dim, channels, 1)
        self.gamma = nn.Parameter(self.out.weight.new_zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Compute what is to be added to a clip ``(N, C, T, H, W)``."""
        check_channels(x, self.channels)
        values = self.value(x)
        most = MOST_CHANNELS if x.device.type == "cuda" else values.shape[1]
        return self.gamma * self.out(self.gather(self.query(x), self.key(x), values, most))

    def gather(self, query: Tensor, key: Tensor, values: Tensor, most: int) -> Tensor:
        """Give every position the values that it attends to, so many channels at a time as a kernel takes at most."""
        parts = [
            ops.nonlocal_attention(query, key, part, over=self.over, backend=self.backend)
            for part in values.split(most, 1)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def extra_repr(self) -> str:
        """Show the arguments."""
        return (
            f"{self.channels}, {self.attention_dim}, over={self.over!r}, frames={self.frames},"
            f" backend={self.backend!r}"
        )


class SlowFastAttention(nn.Module):
    """Spatio-temporal slow-fast self-attention: a clip and what four attention modules see in it.

    ``x + sum of the modules of LN(x)``: SSFA are those over space, slow and fast, TSFA those over time. All four see
    the same input, and a new layer returns what it is given. LayerNorm, where it is asked for, is over the channels of
    each position, before the modules: the slides do not say where it stands; there it keeps the bare products in the
    softmax's range, and leaves a new layer the identity.

    Which modules see time: both of TSFA gather along it, and the slow one of SSFA convolves along it before it gathers
    in space. Attention over time with 1x1x1 kernels alone (``tsfa="fast"``) sees frames as a set, without their order;
    order is seen by 7x1x1 kernels alone. A layer that sees a frame at a time is ``ssfa="fast", tsfa=False``.

    Args:
        channels: C of the clips.
        attention_dim: d of each module, 512 or 2048 in the slides.
        ssfa: whether there are modules over space: True for both, ``"slow"`` or ``"fast"`` for one, False for none.
        tsfa: likewise over time.
        layer_norm: whether the modules see the clip normalised.
        backend: backend of the operator; None leaves the choice to vidops. State-dict keys do not depend on it.

    Returns:
        Calling it on a clip ``(N, C, T, H, W)`` returns a clip of the same shape.

    Raises:
        ValueError: an argument, or the clip's shape, is out of range; the text names it.

    Source: Kim et al., Spatio-Temporal SlowFast Self-Attention Network, figure 3.2 and table 4.2.

    Example:
        >>> import torch
        >>> SlowFastAttention(16, 32, tsfa=False, layer_norm=True)(torch.rand(1, 16, 8, 4, 4)).shape
        torch.Size([1, 16, 8, 4, 4])
    """

    def __init__(
        self,
        channels: int,
        attention_dim: int = 512,
        *,
        ssfa: bool | str = True,
        tsfa: bool | str = True,
        layer_norm: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        self.channels = check_width(channels, "channels")
        chosen = {"ssfa": speeds_of(ssfa, "ssfa"), "tsfa": speeds_of(tsfa, "tsfa")}
        if not any(chosen.values()):
            raise ValueError("ssfa or tsfa must be given, got neither")
        self.norm = nn.LayerNorm(channels) if check_flag(layer_norm, "layer_norm") else None
        self.branches = nn.ModuleDict(
            {
                f"{AXES[name]}_{speed}": SlowFastSelfAttention(
                    channels, attention_dim, AXES[name], SPEEDS[speed], backend=backend
                )
                for name, speeds in chosen.items()
                for speed in speeds
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add to a clip ``(N, C, T, H, W)`` what its modules gather."""
        check_channels(x, self.channels)
        seen = x if self.norm is None else over_channels(x, self.norm)
        for branch in self.branches.values():
            x = x + branch(seen)
        return x


class OverFrames(nn.Conv3d):
    """A frames x 1 x 1 convolution without bias that keeps the number of frames, computed in two dimensions.

    PyTorch 2.13's gradient of a 3-D convolution's weight is garbage on the CPU in bf16, channels last, where the clip
    is shorter than the kernel. A clip seen as a picture of time by place has no such trouble.
    """

    def __init__(self, in_channels: int, out_channels: int, frames: int) -> None:
        super().__init__(in_channels, out_channels, (frames, 1, 1), padding=(frames // 2, 0, 0), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve a clip ``(N, C, T, H, W)``."""
        flat = F.conv2d(x.flatten(3), self.weight.flatten(3), padding=(self.kernel_size[0] // 2, 0))
        return flat.unflatten(3, x.shape[3:])


def over_channels(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Normalise the channels of each position of a clip ``(N, C, T, H, W)``."""
    rows = x.permute(0, 2, 3, 4, 1)
    return F.layer_norm(rows, norm.normalized_shape, norm.weight, norm.bias, norm.eps).permute(0, 4, 1, 2, 3)


def speeds_of(value: bool | str, name: str) -> tuple[str, ...]:
    """Name the modules that an argument asks for.

    Example:
        >>> speeds_of(True, "ssfa"), speeds_of("slow", "tsfa"), speeds_of(False, "tsfa")
        (('slow', 'fast'), ('slow',), ())
    """
    if isinstance(value, bool):
        return tuple(SPEEDS) if value else ()
    if value not in SPEEDS:
        raise ValueError(f"{name} must be True, False, 'slow' or 'fast', got {value!r}")
    return (value,)
