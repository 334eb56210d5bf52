"""X3D: a small network expanded along time, space, width and depth, with depthwise 3x3x3 convolutions.

| model | blocks | input | published |
|---|---|---|---|
| x3d_xs | 3, 5, 11, 7 | 4x160x160 | 0.605 G, 3.79 M (400 classes), 3.33 M (174) |
| x3d_s | 3, 5, 11, 7 | 13x160x160 | 3.79 M (400 classes), 3.33 M (174) |
| x3d_m | 3, 5, 11, 7 | 16x224x224 | 4.73 G, 3.79 M (400 classes), 3.33 M (174) |
| x3d_l | 5, 10, 25, 15 | 16x312x312 | 18.4 G, 6.15 M (400 classes) |
| tiny_x3d | 1, 2, 1, 1, widths 16 to 64 | 8x64x64 | ours, for tests and demos |
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from ..layers import DepthwiseConv3d
from .backbone import Block, ClipBackbone, start_convolutions, start_linear
from .cards import Figure, Score
from .registry import register_model

PAPER = "X3D: Expanding Architectures for Efficient Video Recognition (Feichtenhofer, CVPR 2020)"
SOURCE = "the paper's networks as PyTorchVideo has them, whose parameter names these are"
# What X3D's authors normalise with.
MEAN, STD = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)

X3D_M: dict[str, Any] = {"blocks": (3, 5, 11, 7)}
X3D_L: dict[str, Any] = {"blocks": (5, 10, 25, 15)}
TINY: dict[str, Any] = {"blocks": (1, 2, 1, 1), "widths": (16, 24, 32, 64), "pooled": 128, "dropout": 0.0}


class X3D(ClipBackbone):
    """Expanded 3-D network: inverted bottlenecks over clips that never stride along time.

    The stem is a spatial 3x3 convolution with stride 2 and a depthwise temporal one of 5 taps. Each stage
    begins with a spatial stride of 2. A block widens its input by 2.25, convolves each channel by itself in
    3x3x3, and narrows it again; every other block weighs its channels by squeeze and excitation. Pooling is
    global, also for frames larger than the published ones.

    Args:
        num_classes: classes of the head.
        num_segments: T, frames a clip.
        dropout: probability before the classifier.
        in_channels: C of a clip.
        backend: backend of the depthwise convolutions.
        shape: ``blocks``, ``widths`` and ``pooled``: blocks and channels of each stage, and the channels that the
            classifier sees; those of X3D-M where not given.

    Returns:
        Calling it on normalised clips ``(N, C, T, H, W)`` returns logits ``(N, num_classes)``.

    Raises:
        ValueError: the clip's shape is not ``(N, C, num_segments, H, W)``; ``in_channels`` is below 1.
        TypeError: the clip is not of a floating dtype.

    Source: Feichtenhofer, X3D, table 1 and section 3; initial weights as in PyTorchVideo: the last batch norm of
        every block starts at zero.

    Example:
        >>> import torch
        >>> net = X3D(5, 4, blocks=(1, 1), widths=(8, 16))
        >>> net(torch.rand(2, 3, 4, 32, 32)).shape
        torch.Size([2, 5])
    """

    classifier_name: str
    stem_name = "blocks.0.conv.conv_t"

    def __init__(
        self,
        num_classes: int,
        num_segments: int = 16,
        *,
        dropout: float = 0.5,
        in_channels: int = 3,
        backend: str | None = None,
        **shape: Any,
    ) -> None:
        super().__init__(num_segments, in_channels)
        self.build(num_classes, dropout, backend, **{**X3D_M, **shape})
        start_convolutions(self, nn.Conv3d)
        start_linear(self.head.proj, 0.01)
        for module in self.modules():
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.norm_c.weight)

    def build(
        self,
        num_classes: int,
        dropout: float,
        backend: str | None,
        *,
        blocks: tuple[int, ...],
        widths: tuple[int, ...] = (24, 48, 96, 192),
        pooled: int = 2048,
    ) -> None:
        """Make the modules: the stem, the stages, the head."""
        channels = widths[0]
        parts: list[nn.Module] = [Stem(self.in_channels, channels, backend)]
        for count, width in zip(blocks, widths, strict=True):
            parts.append(Stage(channels, width, count, backend))
            channels = width
        parts.append(Head(channels, inner_width(channels), pooled, num_classes, dropout))
        self.blocks = nn.ModuleList(parts)
        self.classifier_name = f"blocks.{len(blocks) + 1}.proj"

    def forward_stem(self, x: Tensor) -> Tensor:
        """Compute what the first block takes, from a clip ``(N, C, T, H, W)``."""
        return self.blocks[0](x)

    def residual_blocks(self) -> list[Block]:
        """List the residual blocks in the order they run in."""
        return [
            Block(f"blocks.{stage}.res_blocks.{index}", block, part.width, stage)
            for stage, part in enumerate(self.blocks)
            if isinstance(part, Stage)
            for index, block in enumerate(part.res_blocks)
        ]

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last feature map ``(N, C', T, H/32, W/32)`` of a clip ``(N, C, T, H, W)``."""
        for part in self.blocks[:-1]:
            x = part(x)
        return x

    def forward_pool(self, x: Tensor) -> Tensor:
        """Pool a feature map ``(N, C', T, H', W')`` to rows ``(N, pooled)``."""
        return self.head.pool(x).flatten(1)

    def classify(self, rows: Tensor) -> Tensor:
        """Compute logits ``(N, num_classes)`` of rows ``(N, pooled)``."""
        return self.head.proj(self.head.dropout(rows))

    @property
    def head(self) -> Head:
        """The last of ``blocks``."""
        return cast(Head, self.blocks[-1])


def inner_width(width: int) -> int:
    """Compute the channels inside the blocks of a stage of so many."""
    return int(2.25 * width)


def squeezed_width(channels: int) -> int:
    """Compute a 16th of some channels as X3D rounds it: to a multiple of 8, to no less than 0.9 of it."""
    exact = channels / 16
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded


def pointwise(in_channels: int, out_channels: int, stride: int = 1, bias: bool = False) -> nn.Conv3d:
    """Make a 1x1x1 convolution with a spatial stride."""
    return nn.Conv3d(in_channels, out_channels, 1, (1, stride, stride), bias=bias)


def depthwise(
    channels: int, kernel: tuple[int, int, int], stride: int, backend: str | None
) -> DepthwiseConv3d:
    """Make a convolution within each channel with a spatial stride."""
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return DepthwiseConv3d(
        channels, channels, kernel, (1, stride, stride), padding, bias=False, backend=backend
    )


class Stem(nn.Module):
    """The first convolutions: 1x3x3 with stride 2, then 5x1x1 within each channel."""

    def __init__(self, in_channels: int, width: int, backend: str | None) -> None:
        super().__init__()
        # PyTorchVideo's names, which say t of the spatial convolution and xy of the temporal one.
        spatial = nn.Conv3d(in_channels, width, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False)
        temporal = depthwise(width, (5, 1, 1), 1, backend)
        self.conv = nn.Sequential(OrderedDict(conv_t=spatial, conv_xy=temporal))
        self.norm = nn.BatchNorm3d(width)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Compute ``(N, width, T, H/2, W/2)`` from a clip."""
        return self.activation(self.norm(self.conv(x)))


class SqueezeExcitation(nn.Module):
    """Weighs channels by what they are on average over the clip.

    Source: Hu et al., Squeeze-and-Excitation Networks, section 3.
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            pointwise(channels, squeezed, bias=True),
            nn.ReLU(inplace=True),
            pointwise(squeezed, channels, bias=True),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the channels of a clip."""
        return x * self.block(x.mean((2, 3, 4), keepdim=True))


class Bottleneck(nn.Module):
    """The residual branch: 1x1x1 to ``inner`` channels, depthwise 3x3x3 with the stride, 1x1x1 back."""

    def __init__(
        self, in_channels: int, inner: int, out_channels: int, stride: int, squeeze: bool, backend: str | None
    ) -> None:
        super().__init__()
        self.conv_a = pointwise(in_channels, inner)
        self.norm_a = nn.BatchNorm3d(inner)
        self.act_a = nn.ReLU(inplace=True)
        self.conv_b = depthwise(inner, (3, 3, 3), stride, backend)
        excite = SqueezeExcitation(inner, squeezed_width(inner)) if squeeze else nn.Identity()
        self.norm_b = nn.Sequential(nn.BatchNorm3d(inner), excite)
        self.act_b = nn.SiLU(inplace=True)
        self.conv_c = pointwise(inner, out_channels)
        self.norm_c = nn.BatchNorm3d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the branch."""
        x = self.act_a(self.norm_a(self.conv_a(x)))
        x = self.act_b(self.norm_b(self.conv_b(x)))
        return self.norm_c(self.conv_c(x))


class ResBlock(nn.Module):
    """A bottleneck and its shortcut: a convolution where the shape changes, with batch norm where the width does."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, squeeze: bool, backend: str | None
    ) -> None:
        super().__init__()
        wider, reshaped = in_channels != out_channels, in_channels != out_channels or stride > 1
        self.branch1_conv = pointwise(in_channels, out_channels, stride) if reshaped else None
        self.branch1_norm = nn.BatchNorm3d(out_channels) if wider else None
        inner = inner_width(out_channels)
        self.branch2 = Bottleneck(in_channels, inner, out_channels, stride, squeeze, backend)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block."""
        short = x if self.branch1_conv is None else self.branch1_conv(x)
        short = short if self.branch1_norm is None else self.branch1_norm(short)
        return self.activation(short + self.branch2(x))


class Stage(nn.Module):
    """Residual blocks of one width; the first has the stride, the first and every other one squeeze channels."""

    def __init__(self, in_channels: int, width: int, count: int, backend: str | None) -> None:
        super().__init__()
        self.width = width
        self.res_blocks = nn.ModuleList(
            ResBlock(width if index else in_channels, width, 1 if index else 2, index % 2 == 0, backend)
            for index in range(count)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Run the blocks."""
        for block in self.res_blocks:
            x = block(x)
        return x


class Head(nn.Module):
    """Widens the last features, pools them over the clip, widens what is left, and classifies it."""

    def __init__(self, channels: int, inner: int, pooled: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.pool = ProjectedPool(channels, inner, pooled)
        self.dropout = nn.Dropout(dropout)
        self.proj = nn.Linear(pooled, num_classes)


class ProjectedPool(nn.Module):
    """Pooling between two 1x1x1 convolutions, the second without batch norm."""

    def __init__(self, channels: int, inner: int, pooled: int) -> None:
        super().__init__()
        self.pre_conv = pointwise(channels, inner)
        self.pre_norm = nn.BatchNorm3d(inner)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.post_conv = pointwise(inner, pooled)

    def forward(self, x: Tensor) -> Tensor:
        """Compute ``(N, pooled, 1, 1, 1)``."""
        x = self.pool(self.act(self.pre_norm(self.pre_conv(x))))
        return self.act(self.post_conv(x))


register = partial(register_model, X3D, paper=PAPER)
published = partial(register, source=SOURCE, mean=MEAN, std=STD)


def kinetics(frames: int, top1: float, top5: float) -> Score:
    """Make the accuracy of PyTorchVideo's weights over 30 views."""
    return Score("Kinetics-400", frames, top1, top5)


@published(
    input_size=(3, 4, 160, 160),
    scores=(kinetics(4, 69.12, 88.63), Score("Something-Something v1", 4, 40.6, 70.5)),
    figures=(
        Figure("X3D's release", (3, 4, 160, 160), gmacs=0.605, params=3.79),
        Figure("thesis, table 3.6", (3, 4, 160, 160), 174, params=3.33),
    ),
)
def x3d_xs(
    num_classes: int = 400, num_segments: int = 4, *, backend: str | None = None, **options: Any
) -> X3D:
    """X3D-XS, X3D-M on 4 small frames; see `X3D`."""
    return X3D(num_classes, num_segments, backend=backend, **{**X3D_M, **options})


@published(
    input_size=(3, 13, 160, 160),
    scores=(kinetics(13, 73.33, 91.27),),
    figures=(
        Figure("X3D's release", (3, 13, 160, 160), gmacs=1.96, params=3.79),
        Figure("as X3D-XS and X3D-M", (3, 13, 160, 160), 174, params=3.33),
    ),
)
def x3d_s(
    num_classes: int = 400, num_segments: int = 13, *, backend: str | None = None, **options: Any
) -> X3D:
    """X3D-S, X3D-M on 13 small frames; see `X3D`."""
    return X3D(num_classes, num_segments, backend=backend, **{**X3D_M, **options})


@published(
    input_size=(3, 16, 224, 224),
    scores=(
        kinetics(16, 75.94, 92.72),
        Score("Something-Something v1", 16, 46.7, 75.5),
    ),
    figures=(
        Figure("X3D's release", (3, 16, 224, 224), gmacs=4.73, params=3.79),
        Figure(
            "thesis, tables 3.6, 3.7, 5.9 and 5.10", (3, 16, 256, 256), 174, gmacs=(6.2, 6.4), params=3.33
        ),
    ),
)
def x3d_m(
    num_classes: int = 400, num_segments: int = 16, *, backend: str | None = None, **options: Any
) -> X3D:
    """X3D-M; see `X3D`."""
    return X3D(num_classes, num_segments, backend=backend, **{**X3D_M, **options})


@published(
    input_size=(3, 16, 312, 312),
    scores=(kinetics(16, 77.44, 93.31),),
    figures=(Figure("X3D's release", (3, 16, 312, 312), gmacs=18.4, params=6.15),),
)
def x3d_l(
    num_classes: int = 400, num_segments: int = 16, *, backend: str | None = None, **options: Any
) -> X3D:
    """X3D-L, twice as deep; see `X3D`."""
    return X3D(num_classes, num_segments, backend=backend, **{**X3D_L, **options})


@register(source="X3D with channels and depth cut", input_size=(3, 8, 64, 64))
def tiny_x3d(
    num_classes: int = 8, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> X3D:
    """X3D cut down for tests and demos, see `X3D`."""
    return X3D(num_classes, num_segments, backend=backend, **{**TINY, **options})
