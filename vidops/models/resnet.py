"""ResNet with bottleneck blocks, under torchvision's parameter names, with room for temporal layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from ..layers import FoldTime
from .backbone import StagedBackbone, check_in_channels, start_convolutions

POSITIONS = ("head", "inner")


def shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """Make the projection of a block's shortcut; None where the identity fits."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class BasicBlock(nn.Module):
    """A basic block: two 3x3 convolutions with batch norm, the stride in the first, and a shortcut.

    Args:
        in_channels: channels of the input.
        width: channels of the convolutions and of the output.
        stride: spatial stride.
        temporal: module over 2-D activations to put into the block, or None.
        position: ``"head"``: before conv1, on the input's channels; ``"inner"``: before conv2, on ``width``
            channels.

    Returns:
        Calling it on ``(B, in_channels, H, W)`` returns ``(B, width, H', W')``.

    Source: He et al., Deep Residual Learning, figure 5, left.

    Example:
        >>> import torch
        >>> BasicBlock(64, 32, 2)(torch.rand(2, 64, 8, 8)).shape
        torch.Size([2, 32, 4, 4])
    """

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int = 1,
        temporal: nn.Module | None = None,
        position: str = "head",
    ) -> None:
        super().__init__()
        self.out_channels = width
        self.position = position
        self.temporal = temporal
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to ``(B, C, H, W)``."""
        short = x if self.downsample is None else self.downsample(x)
        if self.temporal is not None and self.position == "head":
            x = self.temporal(x)
        x = self.relu(self.bn1(self.conv1(x)))
        if self.temporal is not None and self.position == "inner":
            x = self.temporal(x)
        return self.relu(self.bn2(self.conv2(x)) + short)


class Bottleneck(nn.Module):
    """A bottleneck block: 1x1, 3x3 with the stride, 1x1, each with batch norm, and a shortcut.

    Args:
        in_channels: channels of the input.
        width: channels of the 3x3 convolution.
        stride: spatial stride.
        temporal: module over 2-D activations to put into the block, or None.
        position: ``"head"``: before conv1, on the input's channels; ``"inner"``: before conv2, on ``width``
            channels.

    Returns:
        Calling it on ``(B, in_channels, H, W)`` returns ``(B, 4 * width, H', W')``.

    Source: He et al., Deep Residual Learning; the stride stands in conv2 as in torchvision.

    Example:
        >>> import torch
        >>> Bottleneck(64, 16)(torch.rand(2, 64, 8, 8)).shape
        torch.Size([2, 64, 8, 8])
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int = 1,
        temporal: nn.Module | None = None,
        position: str = "head",
    ) -> None:
        super().__init__()
        self.out_channels = out_channels = width * self.expansion
        self.position = position
        self.temporal = temporal
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to ``(B, C, H, W)``."""
        short = x if self.downsample is None else self.downsample(x)
        if self.temporal is not None and self.position == "head":
            x = self.temporal(x)
        x = self.relu(self.bn1(self.conv1(x)))
        if self.temporal is not None and self.position == "inner":
            x = self.temporal(x)
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + short)


class ResNet(StagedBackbone):
    """A ResNet of bottleneck blocks over frames, optionally with a temporal layer in its blocks.

    Parameter names are torchvision's; a temporal layer adds ``layerS.B.temporal.layer.*``.

    Args:
        blocks: blocks of each stage: (3, 4, 6, 3) is ResNet-50, (3, 4, 23, 3) ResNet-101.
        num_classes: classes of the head.
        width: channels of the stem and of the first stage's 3x3 convolutions; doubles with each stage.
        block: `Bottleneck` or `BasicBlock`.
        small: for small frames: the stem's kernel is 3x3, not 7x7, and the first stage has stride 2 in place
            of the max pool.
        dropout: probability before the classifier.
        in_channels: C of the input; other than 3 for stacked flow and RGB differences.
        temporal: makes a clip layer for a number of channels; None for a plain ResNet.
        num_segments: frames a clip, for the temporal layers.
        position: of the temporal layer in its block, see `Bottleneck`.
        every: the temporal layer stands in every block (1), every second (2), ... of each stage, from the
            first.

    Returns:
        Calling it on frames ``(B, in_channels, H, W)`` returns logits ``(B, num_classes)``.

    Raises:
        ValueError: ``position`` is unknown, or ``in_channels`` is below 1.

    Source: He et al., Deep Residual Learning for Image Recognition, table 1.

    Example:
        >>> import torch
        >>> ResNet((1, 1), 5, width=8)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 5])
    """

    classifier_name = "fc"
    stem_name = "conv1"

    def __init__(
        self,
        blocks: Sequence[int],
        num_classes: int,
        *,
        width: int = 64,
        block: type[Bottleneck] | type[BasicBlock] = Bottleneck,
        small: bool = False,
        dropout: float = 0.0,
        in_channels: int = 3,
        temporal: Callable[[int], nn.Module] | None = None,
        num_segments: int = 1,
        position: str = "head",
        every: int = 1,
    ) -> None:
        super().__init__()
        if position not in POSITIONS:
            raise ValueError(f"position must be one of {', '.join(POSITIONS)}, got {position!r}")
        check_in_channels(in_channels)
        kernel = 3 if small else 7
        self.conv1 = nn.Conv2d(in_channels, width, kernel, 2, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        self.stages = [f"layer{stage}" for stage in range(1, len(blocks) + 1)]
        channels = width
        for stage, count in enumerate(blocks):
            inner = width * 2**stage
            made = []
            for index in range(count):
                layer = None
                if temporal is not None and index % every == 0:
                    layer = FoldTime(temporal(channels if position == "head" else inner), num_segments)
                stride = 2 if index == 0 and (stage or small) else 1
                made.append(block(channels, inner, stride, layer, position))
                channels = inner * block.expansion
            setattr(self, self.stages[stage], nn.Sequential(*made))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        start_convolutions(self, nn.Conv2d)

    def forward_stem(self, x: Tensor) -> Tensor:
        """Compute what the first block takes, from frames ``(B, in_channels, H, W)``."""
        return self.maxpool(self.relu(self.bn1(self.conv1(x))))

    def forward_pool(self, x: Tensor) -> Tensor:
        """Average a feature map ``(B, C, H', W')`` to rows ``(B, C)``."""
        return self.avgpool(x).flatten(1)

    def classify(self, rows: Tensor) -> Tensor:
        """Compute logits ``(B, num_classes)`` of rows ``(B, C)``."""
        return self.fc(self.dropout(rows))
