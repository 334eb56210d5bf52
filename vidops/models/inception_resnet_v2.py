"""Inception-ResNet-v2 under timm's parameter names, on single frames and on segments.

| model | blocks | input | published |
|---|---|---|---|
| inception_resnet_v2 | 10, 20, 10 | 1x299x299 | - |
| tsn_inception_resnet_v2 | 10, 20, 10 | 3x299x299 | - |
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .backbone import Backbone, Block, SegmentConsensus, check_in_channels, start_convolutions
from .cards import Score
from .registry import register_model

PAPER = "Inception-v4, Inception-ResNet and the Impact of Residual Connections (Szegedy et al., AAAI 2017)"
SOURCE = "the paper's network as timm has it; baseline and TSN of table 3.4 of Huang's thesis"
# What the network's authors normalise with.
MEAN = STD = (0.5, 0.5, 0.5)

STEM = (
    "conv2d_1a",
    "conv2d_2a",
    "conv2d_2b",
    "maxpool_3a",
    "conv2d_3b",
    "conv2d_4a",
    "maxpool_5a",
    "mixed_5b",
)
BODY = ("repeat", "mixed_6a", "repeat_1", "mixed_7a", "repeat_2", "block8")
STAGES = (1, 2, 2, 3, 3, 3)  # of the body's parts
WIDTHS = (320, 1088, 1088, 2080, 2080, 2080)
TINY: dict[str, Any] = {"blocks": (1, 1, 1), "narrowing": 8, "small": True, "dropout": 0.0}

Kernel = int | tuple[int, int]


class ConvUnit(nn.Module):
    """A convolution with batch norm and ReLU.

    Example:
        >>> ConvUnit(3, 8, (1, 7))(torch.rand(2, 3, 9, 9)).shape
        torch.Size([2, 8, 9, 9])
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: Kernel, stride: int = 1, padded: bool = True
    ) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (sides[0] // 2, sides[1] // 2) if padded else (0, 0)
        self.conv = nn.Conv2d(in_channels, out_channels, sides, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to ``(B, C, H, W)``."""
        return self.relu(self.bn(self.conv(x)))


class Branches(nn.Module):
    """Branches side by side, their channels one after another: ``branch0``, ``branch1``, ..."""

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        for index, branch in enumerate(branches):
            self.add_module(f"branch{index}", branch)
        self.names = [f"branch{index}" for index in range(len(branches))]

    def forward(self, x: Tensor) -> Tensor:
        """Apply them to ``(B, C, H, W)``."""
        return torch.cat([getattr(self, name)(x) for name in self.names], 1)


class InceptionResidual(Branches):
    """A residual block: branches, a 1x1 convolution back to the input's channels, added at a small scale.

    Args:
        branches: from ``(B, channels, H, W)`` to the same H and W.
        inner: channels of all branches together.
        channels: in and out.
        scale: of the residual.
        activate: whether a ReLU follows.

    Source: Szegedy et al., section 3.3 (scaling of the residuals) and figures 16, 17 and 19.

    Example:
        >>> block = InceptionResidual([ConvUnit(8, 4, 1), ConvUnit(8, 4, 3)], 8, 8, 0.2)
        >>> block(torch.rand(2, 8, 5, 5)).shape
        torch.Size([2, 8, 5, 5])
    """

    def __init__(
        self,
        branches: Sequence[nn.Module],
        inner: int,
        channels: int,
        scale: float,
        activate: bool = True,
    ) -> None:
        super().__init__(branches)
        self.out_channels = channels
        self.scale = scale
        self.conv2d = nn.Conv2d(inner, channels, 1)
        self.relu = nn.ReLU(inplace=True) if activate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to ``(B, channels, H, W)``."""
        return self.relu(x + self.scale * self.conv2d(super().forward(x)))


class InceptionResNetV2(Backbone):
    """An Inception-ResNet-v2 over frames.

    Parameter names are timm's, whose ImageNet weights load with ``part="features"``. Frames are at least 75 pixels
    high and wide; with ``small`` any.

    Args:
        num_classes: classes of the head.
        blocks: residual blocks of the three kinds (A, B, C), without C's last one, which has no ReLU.
        narrowing: what every number of channels is divided by.
        small: for small frames: pad where the network has no padding.
        dropout: probability before the classifier.
        in_channels: C of the input.

    Returns:
        Calling it on frames ``(B, in_channels, H, W)`` returns logits ``(B, num_classes)``.

    Raises:
        ValueError: ``in_channels`` is below 1.

    Source: Szegedy et al., Inception-v4, Inception-ResNet and the Impact of Residual Connections, figures 3 and
        15 to 20, with the channels of the authors' released network, which are timm's.

    Example:
        >>> InceptionResNetV2(5, **TINY)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 5])
    """

    classifier_name = "classif"
    stem_name = "conv2d_1a.conv"

    def __init__(
        self,
        num_classes: int,
        *,
        blocks: Sequence[int] = (10, 20, 9),
        narrowing: int = 1,
        small: bool = False,
        dropout: float = 0.0,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        check_in_channels(in_channels)
        self.narrowing, self.small = narrowing, small
        self._build_stem(in_channels)
        self.repeat = nn.Sequential(*(self._block_a() for _ in range(blocks[0])))
        self.mixed_6a = self._reduction_a()
        self.repeat_1 = nn.Sequential(*(self._block_b() for _ in range(blocks[1])))
        self.mixed_7a = self._reduction_b()
        self.repeat_2 = nn.Sequential(*(self._block_c() for _ in range(blocks[2])))
        # The last block adds its residual unscaled, and has no ReLU.
        self.block8 = self._block_c(scale=1.0, activate=False)
        self.conv2d_7b = self._unit(2080, 1536, 1)
        self.dropout = nn.Dropout(dropout)
        self.classif = nn.Linear(1536 // narrowing, num_classes)
        start_convolutions(self, nn.Conv2d)

    def _unit(self, channels: int, width: int, kernel: Kernel, stride: int = 1) -> ConvUnit:
        """Make a convolution; one with a stride is padded in small networks alone."""
        padded = self.small or stride == 1
        return ConvUnit(channels // self.narrowing, width // self.narrowing, kernel, stride, padded)

    def _chain(self, channels: int, *units: tuple[int, Kernel] | tuple[int, Kernel, int]) -> nn.Sequential:
        """Make convolutions one after another, each of so many channels, such a kernel, such a stride."""
        widths = [channels, *(unit[0] for unit in units)]
        return nn.Sequential(*(self._unit(c, *unit) for c, unit in zip(widths[:-1], units, strict=True)))

    def _pool(self) -> nn.MaxPool2d:
        return nn.MaxPool2d(3, 2, int(self.small))

    def _build_stem(self, in_channels: int) -> None:
        n, small = self.narrowing, self.small
        self.conv2d_1a = ConvUnit(in_channels, 32 // n, 3, 2, padded=small)
        self.conv2d_2a = ConvUnit(32 // n, 32 // n, 3, padded=small)
        self.conv2d_2b = self._unit(32, 64, 3)
        self.maxpool_3a = self._pool()
        self.conv2d_3b = self._unit(64, 80, 1)
        self.conv2d_4a = ConvUnit(80 // n, 192 // n, 3, padded=small)
        self.maxpool_5a = self._pool()
        self.mixed_5b = Branches(
            [
                self._unit(192, 96, 1),
                self._chain(192, (48, 1), (64, 5)),
                self._chain(192, (64, 1), (96, 3), (96, 3)),
                nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), self._unit(192, 64, 1)),
            ]
        )

    def _block_a(self) -> InceptionResidual:
        branches = [
            self._unit(320, 32, 1),
            self._chain(320, (32, 1), (32, 3)),
            self._chain(320, (32, 1), (48, 3), (64, 3)),
        ]
        return InceptionResidual(branches, 128 // self.narrowing, 320 // self.narrowing, 0.17)

    def _reduction_a(self) -> Branches:
        branches = [
            self._unit(320, 384, 3, 2),
            self._chain(320, (256, 1), (256, 3), (384, 3, 2)),
            self._pool(),
        ]
        return Branches(branches)

    def _block_b(self) -> InceptionResidual:
        branches = [self._unit(1088, 192, 1), self._chain(1088, (128, 1), (160, (1, 7)), (192, (7, 1)))]
        return InceptionResidual(branches, 384 // self.narrowing, 1088 // self.narrowing, 0.1)

    def _reduction_b(self) -> Branches:
        branches = [
            self._chain(1088, (256, 1), (384, 3, 2)),
            self._chain(1088, (256, 1), (288, 3, 2)),
            self._chain(1088, (256, 1), (288, 3), (320, 3, 2)),
            self._pool(),
        ]
        return Branches(branches)

    def _block_c(self, scale: float = 0.2, activate: bool = True) -> InceptionResidual:
        branches = [self._unit(2080, 192, 1), self._chain(2080, (192, 1), (224, (1, 3)), (256, (3, 1)))]
        return InceptionResidual(branches, 448 // self.narrowing, 2080 // self.narrowing, scale, activate)

    def forward_stem(self, x: Tensor) -> Tensor:
        """Compute what the first block takes, from frames ``(B, in_channels, H, W)``."""
        return self.run(STEM, x)

    def run(self, names: Sequence[str], x: Tensor) -> Tensor:
        """Apply parts of the network by name, in their order."""
        for name in names:
            x = getattr(self, name)(x)
        return x

    def residual_blocks(self) -> list[Block]:
        """List the residual blocks in the order they run in, the two reductions between them too."""
        blocks = []
        for name, stage, channels in zip(BODY, STAGES, WIDTHS, strict=True):
            part, width = getattr(self, name), channels // self.narrowing
            if isinstance(part, nn.Sequential):
                blocks += [Block(f"{name}.{i}", block, width, stage) for i, block in enumerate(part)]
            else:
                blocks.append(Block(name, part, width, stage))
        return blocks

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last block's feature map ``(B, C, H', W')`` of frames ``(B, in_channels, H, W)``."""
        return self.run(STEM + BODY, x)

    def forward_pool(self, x: Tensor) -> Tensor:
        """Compute rows ``(B, D)`` of a feature map ``(B, C, H', W')``: the last convolution, averaged."""
        return self.conv2d_7b(x).mean((2, 3))

    def classify(self, rows: Tensor) -> Tensor:
        """Compute logits ``(B, num_classes)`` of rows ``(B, D)``."""
        return self.classif(self.dropout(rows))


class TSNInceptionResNetV2(SegmentConsensus, InceptionResNetV2):
    """Temporal segment network on Inception-ResNet-v2; with one segment it classifies one frame.

    Args:
        num_classes: classes of the head.
        num_segments: T, frames a clip.
        dropout: probability before the classifier.
        in_channels: C of a clip; other than 3 for stacked flow and RGB differences.
        backbone: further arguments of `InceptionResNetV2`.

    Returns:
        Calling it on normalised clips ``(N, C, T, H, W)`` returns logits ``(N, num_classes)``.

    Raises:
        ValueError: the clip's shape is not ``(N, C, num_segments, H, W)``.
        TypeError: the clip is not of a floating dtype.

    Source: Wang et al., Temporal Segment Networks, eq. 1; table 3.4 of Huang's thesis.

    Example:
        >>> TSNInceptionResNetV2(5, 3, **TINY)(torch.rand(2, 3, 3, 32, 32)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        num_classes: int,
        num_segments: int = 3,
        *,
        dropout: float = 0.5,
        in_channels: int = 3,
        **backbone: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, dropout=dropout, in_channels=in_channels, **backbone)
        self.over_segments(num_segments, in_channels)


register = partial(register_model, TSNInceptionResNetV2, paper=PAPER, source=SOURCE, mean=MEAN, std=STD)


@register(input_size=(3, 1, 299, 299), scores=(Score("UCF101", 1, 83.5),))
def inception_resnet_v2(
    num_classes: int = 101, num_segments: int = 1, *, backend: str | None = None, **options: Any
) -> TSNInceptionResNetV2:
    """Inception-ResNet-v2 on one frame; it holds no operator, so ``backend`` changes nothing."""
    return TSNInceptionResNetV2(num_classes, num_segments, **options)


@register(input_size=(3, 3, 299, 299), scores=(Score("UCF101", 3, 85.0),))
def tsn_inception_resnet_v2(
    num_classes: int = 101, num_segments: int = 3, *, backend: str | None = None, **options: Any
) -> TSNInceptionResNetV2:
    """TSN on Inception-ResNet-v2; it holds no operator, so ``backend`` changes nothing."""
    return TSNInceptionResNetV2(num_classes, num_segments, **options)
