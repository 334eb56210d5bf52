"""R3D: a ResNet over clips whose kernels are flat in time; frames meet in max pools alone.

| model | blocks | input | published |
|---|---|---|---|
| r3d_resnet50 | 3, 4, 6, 3 | 16x224x224 | - |
| tiny_r3d | 1, 1, 1, 1, width 8 | 8x64x64 | ours, for tests and demos |
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from .backbone import ClipResNet, start_convolutions
from .cards import Score
from .registry import register_model

PAPER = "Non-local Neural Networks (Wang et al., CVPR 2018), its C2D; named R3D in KPSEM (Cao et al., 2021)"
SOURCE = "ResNet with 1xkxk kernels (KPSEM, section 4.4); pooling along time as in C2D"

R3D50: dict[str, Any] = {"blocks": (3, 4, 6, 3)}
TINY: dict[str, Any] = {"blocks": (1, 1, 1, 1), "width": 8, "dropout": 0.0}


class R3D(ClipResNet):
    """A ResNet of bottleneck blocks over clips, all kernels 1xkxk, with the temporal pooling of C2D.

    Parameter names are torchvision's, and a ResNet's 2-D weights load as they are. The stem's max pool is 3x3x3 with
    stride 2 along time too, and a temporal max pool of 3 frames and stride 2 stands before the second stage: of T
    frames, T/4 reach it. KPSEM says no more of its R3D than that it "simply aggregates the input frames"; this pooling
    is our choice.

    Args:
        num_classes: classes of the head.
        num_segments: T, frames a clip.
        dropout: probability before the classifier.
        in_channels: C of a clip.
        shape: ``blocks``: of each stage, as many as there are stages; ``width``: channels of the stem and of the first
            stage's 3x3 kernels, doubling with each stage. Those of ResNet-50 where not given.

    Returns:
        Calling it on normalised clips ``(N, C, T, H, W)`` returns logits ``(N, num_classes)``.

    Raises:
        ValueError: the clip's shape is not ``(N, C, num_segments, H, W)``; ``in_channels`` is below 1.
        TypeError: the clip is not of a floating dtype.

    Source: Wang et al., Non-local Neural Networks, table 1; Cao et al., KPSEM, section 4.4.

    Example:
        >>> import torch
        >>> R3D(5, 8, blocks=(1, 1), width=8)(torch.rand(2, 3, 8, 32, 32)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        num_classes: int,
        num_segments: int = 16,
        *,
        dropout: float = 0.5,
        in_channels: int = 3,
        **shape: Any,
    ) -> None:
        super().__init__(num_segments, in_channels)
        self.build(num_classes, dropout, **{**R3D50, **shape})
        start_convolutions(self, nn.Conv3d)

    def build(self, num_classes: int, dropout: float, *, blocks: Sequence[int], width: int = 64) -> None:
        """Make the modules: the stem, the stages, the head."""
        self.conv1 = flat_conv(self.in_channels, width, 7, 2)
        self.bn1 = nn.BatchNorm3d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d(3, 2, 1)
        self.stages = [f"layer{stage}" for stage in range(1, len(blocks) + 1)]
        channels = width
        for stage, (name, count) in enumerate(zip(self.stages, blocks, strict=True)):
            inner = width * 2**stage
            made = []
            for index in range(count):
                stride = 2 if index == 0 and stage else 1
                made.append(FlatBottleneck(channels, inner, stride, pools=index == 0 and stage == 1))
                channels = inner * FlatBottleneck.expansion
            setattr(self, name, nn.Sequential(*made))
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)


def flat_conv(in_channels: int, out_channels: int, size: int, stride: int = 1) -> nn.Conv3d:
    """Make a 1 x size x size convolution with a spatial stride and no bias."""
    half = size // 2
    return nn.Conv3d(
        in_channels, out_channels, (1, size, size), (1, stride, stride), (0, half, half), bias=False
    )


class FlatBottleneck(nn.Module):
    """A bottleneck block over clips: 1x1x1, 1x3x3 with the stride, 1x1x1, each with batch norm, and a shortcut.

    Args:
        in_channels: channels of the input.
        width: channels of the 1x3x3 convolution.
        stride: spatial stride.
        pools: whether the block's input is first pooled along time: maxima of 3 frames, every second one.

    Returns:
        Calling it on ``(N, in_channels, T, H, W)`` returns ``(N, 4 * width, T', H', W')``.

    Source: He et al., Deep Residual Learning; the stride stands in conv2 as in torchvision.

    Example:
        >>> import torch
        >>> FlatBottleneck(64, 16, pools=True)(torch.rand(2, 64, 4, 8, 8)).shape
        torch.Size([2, 64, 2, 8, 8])
    """

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int = 1, *, pools: bool = False) -> None:
        super().__init__()
        self.out_channels = out_channels = width * self.expansion
        self.pool = nn.MaxPool3d((3, 1, 1), (2, 1, 1), (1, 0, 0)) if pools else None
        self.conv1 = flat_conv(in_channels, width, 1)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = flat_conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = flat_conv(width, out_channels, 1)
        self.bn3 = nn.BatchNorm3d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or in_channels != out_channels:
            project = flat_conv(in_channels, out_channels, 1, stride)
            self.downsample = nn.Sequential(project, nn.BatchNorm3d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block."""
        x = x if self.pool is None else self.pool(x)
        short = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + short)


register = partial(register_model, R3D, paper=PAPER)


@register(
    source=SOURCE,
    input_size=(3, 16, 224, 224),
    scores=(Score("HMDB51 split 1", 16, 62.0, source="KPSEM, table 2d, batch size 16"),),
)
def r3d_resnet50(
    num_classes: int = 400, num_segments: int = 16, *, backend: str | None = None, **options: Any
) -> R3D:
    """R3D on ResNet-50, see `R3D`; it holds no operator, so ``backend`` changes nothing."""
    return R3D(num_classes, num_segments, **{**R3D50, **options})


@register(source="R3D with channels and depth cut", input_size=(3, 8, 64, 64))
def tiny_r3d(
    num_classes: int = 8, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> R3D:
    """R3D cut down for tests and demos, see `R3D`."""
    return R3D(num_classes, num_segments, **{**TINY, **options})
