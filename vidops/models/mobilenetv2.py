"""MobileNetV2 under torchvision's parameter names, with room for temporal layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from ..layers import FoldTime
from .backbone import Backbone, Block, check_in_channels, start_convolutions, start_linear

# Expansion, channels, blocks and stride of each stage: table 2 of the paper.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def conv_norm(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Make a convolution with batch norm and ReLU6."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """An inverted bottleneck: 1x1 to more channels, depthwise 3x3 with the stride, 1x1 to few; no ReLU at the end.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: spatial stride.
        expansion: channels inside over ``in_channels``; with 1 there is no first convolution.
        temporal: module over 2-D activations to put before the first convolution, or None.

    Returns:
        Calling it on ``(B, in_channels, H, W)`` returns ``(B, out_channels, H', W')``; where both have one shape,
        the input is added.

    Source: Sandler et al., MobileNetV2, section 3 and table 1.

    Example:
        >>> import torch
        >>> InvertedResidual(8, 16, 2)(torch.rand(2, 8, 8, 8)).shape
        torch.Size([2, 16, 4, 4])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        expansion: int = 6,
        temporal: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.residual = stride == 1 and in_channels == out_channels
        self.temporal = temporal
        inner = in_channels * expansion
        widen = [conv_norm(in_channels, inner, 1)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *widen,
            conv_norm(inner, inner, 3, stride, groups=inner),
            nn.Conv2d(inner, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to ``(B, C, H, W)``."""
        y = self.conv(x if self.temporal is None else self.temporal(x))
        return x + y if self.residual else y


class MobileNetV2(Backbone):
    """A MobileNetV2 over frames, optionally with a temporal layer in its residual blocks.

    Parameter names are torchvision's; a temporal layer with parameters adds ``features.B.temporal.layer.*``.

    Args:
        num_classes: classes of the head.
        stages: expansion, channels, blocks and stride of each stage.
        stem_width: channels of the first convolution.
        pooled: channels of the last convolution, which the classifier sees.
        dropout: probability before the classifier.
        in_channels: C of the input.
        temporal: makes a clip layer for a number of channels; None for a plain MobileNetV2.
        num_segments: frames a clip, for the temporal layers.

    Returns:
        Calling it on frames ``(B, in_channels, H, W)`` returns logits ``(B, num_classes)``.

    Raises:
        ValueError: ``in_channels`` is below 1.

    Source: Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, table 2.

    Example:
        >>> import torch
        >>> MobileNetV2(5, stages=((1, 8, 1, 1), (4, 16, 2, 2)))(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 5])
    """

    classifier_name = "classifier.1"
    stem_name = "features.0.0"

    def __init__(
        self,
        num_classes: int,
        *,
        stages: Sequence[tuple[int, int, int, int]] = STAGES,
        stem_width: int = 32,
        pooled: int = 1280,
        dropout: float = 0.2,
        in_channels: int = 3,
        temporal: Callable[[int], nn.Module] | None = None,
        num_segments: int = 1,
    ) -> None:
        super().__init__()
        check_in_channels(in_channels)
        features: list[nn.Module] = [conv_norm(in_channels, stem_width, 3, 2)]
        channels, self.stage_of = stem_width, [0]  # of each of the features; the stem is before the first
        for stage, (expansion, width, count, first_stride) in enumerate(stages, 1):
            for index in range(count):
                stride = 1 if index else first_stride
                layer = None
                if temporal is not None and stride == 1 and channels == width:
                    layer = FoldTime(temporal(channels), num_segments)
                features.append(InvertedResidual(channels, width, stride, expansion, layer))
                self.stage_of.append(stage)
                channels = width
        features.append(conv_norm(channels, pooled, 1))
        self.features = nn.Sequential(*features)
        last = nn.Linear(pooled, num_classes)
        self.classifier = nn.Sequential(nn.Dropout(dropout), last)
        start_convolutions(self, nn.Conv2d)
        start_linear(last, 0.01)

    def forward_stem(self, x: Tensor) -> Tensor:
        """Compute what the first block takes, from frames ``(B, in_channels, H, W)``."""
        return self.features[0](x)

    def residual_blocks(self) -> list[Block]:
        """List the inverted bottlenecks in the order they run in, those without a shortcut too."""
        return [
            Block(f"features.{index}", block, block.out_channels, self.stage_of[index])
            for index, block in enumerate(self.features)
            if isinstance(block, InvertedResidual)
        ]

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last block's feature map ``(B, C, H', W')`` of frames ``(B, in_channels, H, W)``."""
        return self.features[:-1](x)

    def forward_pool(self, x: Tensor) -> Tensor:
        """Compute rows ``(B, pooled)`` of a feature map ``(B, C, H', W')``: the last convolution, averaged."""
        return self.features[-1](x).mean((2, 3))

    def classify(self, rows: Tensor) -> Tensor:
        """Compute logits ``(B, num_classes)`` of rows ``(B, pooled)``."""
        return self.classifier(rows)
