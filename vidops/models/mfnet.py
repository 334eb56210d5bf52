"""MFNet: thin grouped 3-D convolutions side by side, "fibers", between which a narrow bottleneck carries channels.

| model | units | input | published |
|---|---|---|---|
| mfnet | 3, 4, 6, 3 | 16x224x224 | 11.1 G, 8.00 M (400 classes), 7.84 M (200) |
| tiny_mfnet | 1, 1, 2, 1, widths 16 to 128, 4 groups | 8x64x64 | ours, for tests and demos |
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any

from torch import Tensor, nn

from .backbone import ClipBackbone, StagedBackbone
from .cards import Figure, Score
from .registry import register_model

PAPER = "Multi-Fiber Networks for Video Recognition (Chen et al., ECCV 2018)"
SOURCE = "the paper's MF-Net 3D as PyTorch-MFNet has it, whose parameter names these are"

Triple = tuple[int, int, int]

MFNET: dict[str, Any] = {"blocks": (3, 4, 6, 3)}
TINY: dict[str, Any] = {"blocks": (1, 1, 2, 1), "width": 16, "stem_width": 8, "groups": 4}


class MFNet(ClipBackbone, StagedBackbone):
    """Multi-fiber network: pre-activated residual units of grouped convolutions over clips.

    The stem, 3x5x5 with a spatial stride of 2, is followed by a spatial max pool. The first unit halves the frames
    (of T frames, ``ceil(T/2)`` are left), the first unit of every later stage the pixels' rows and columns. Pooling
    is global, also for frames larger than the published ones.

    Args:
        num_classes: classes of the head.
        num_segments: T, frames a clip.
        dropout: probability before the classifier.
        in_channels: C of a clip.
        shape: ``blocks``: units of each stage, as many as there are stages; ``width``: channels of the first, which
            double with each stage; ``stem_width``: channels of the stem; ``groups``: fibers of a unit. Those of the
            paper where not given.

    Returns:
        Calling it on normalised clips ``(N, C, T, H, W)`` returns logits ``(N, num_classes)``.

    Raises:
        ValueError: the clip's shape is not ``(N, C, num_segments, H, W)``; ``in_channels`` is below 1.
        TypeError: the clip is not of a floating dtype.

    Source: Chen et al., Multi-Fiber Networks, figure 2e and table 1 (3-D); initial weights as released, by Glorot's
        rule.

    Example:
        >>> import torch
        >>> net = MFNet(5, 4, blocks=(1, 1), width=16, stem_width=8, groups=4)
        >>> net(torch.rand(2, 3, 4, 32, 32)).shape
        torch.Size([2, 5])
    """

    classifier_name = "classifier"
    stem_name = "conv1.conv"

    def __init__(
        self,
        num_classes: int,
        num_segments: int = 16,
        *,
        dropout: float = 0.0,
        in_channels: int = 3,
        **shape: Any,
    ) -> None:
        super().__init__(num_segments, in_channels)
        self.build(num_classes, dropout, **{**MFNET, **shape})
        for module in self.modules():
            if isinstance(module, (nn.Conv3d, nn.Linear)):
                nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(self.classifier.bias)

    def build(
        self,
        num_classes: int,
        dropout: float,
        *,
        blocks: tuple[int, ...],
        width: int = 96,
        stem_width: int = 16,
        groups: int = 16,
    ) -> None:
        """Make the modules: the stem, the stages, the head."""
        conv = nn.Conv3d(self.in_channels, stem_width, (3, 5, 5), (1, 2, 2), (1, 2, 2), bias=False)
        self.conv1 = nn.Sequential(OrderedDict(conv=conv, **activation(stem_width)))
        self.maxpool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        self.stages = [f"conv{stage}" for stage in range(2, len(blocks) + 2)]
        channels = stem_width
        for stage, (name, count) in enumerate(zip(self.stages, blocks, strict=True)):
            out_channels = width * 2**stage
            units: OrderedDict[str, nn.Module] = OrderedDict()
            for index in range(count):
                stride = None if index else (1, 2, 2) if stage else (2, 1, 1)
                units[f"B{index + 1:02d}"] = MultiFiberUnit(channels, out_channels, groups, stride)
                channels = out_channels
            setattr(self, name, nn.Sequential(units))
        self.tail = nn.Sequential(OrderedDict(**activation(channels)))
        self.globalpool = nn.AdaptiveAvgPool3d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, num_classes)

    def forward_stem(self, x: Tensor) -> Tensor:
        """Compute what the first unit takes, ``(N, stem_width, T, H/4, W/4)``, from a clip."""
        return self.maxpool(self.conv1(x))

    def forward_pool(self, x: Tensor) -> Tensor:
        """Activate a feature map ``(N, C', T', H', W')`` and average it to rows ``(N, C')``."""
        return self.globalpool(self.tail(x)).flatten(1)

    def classify(self, rows: Tensor) -> Tensor:
        """Compute logits ``(N, num_classes)`` of rows ``(N, C')``."""
        return self.classifier(self.dropout(rows))


def activation(channels: int) -> dict[str, nn.Module]:
    """Make a batch norm and a ReLU by the names that they have everywhere in the network."""
    return {"bn": nn.BatchNorm3d(channels), "relu": nn.ReLU(inplace=True)}


class ActivatedConv(nn.Module):
    """Batch norm, ReLU, then a convolution without a bias."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Triple = (1, 1, 1),
        stride: Triple = (1, 1, 1),
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.bn = nn.BatchNorm3d(in_channels)
        self.relu = nn.ReLU(inplace=True)
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute it."""
        return self.conv(self.relu(self.bn(x)))


class MultiFiberUnit(nn.Module):
    """A residual unit of ``groups`` fibers: the multiplexer, two convolutions, and a shortcut of the unit's input.

    The multiplexer, 1x1x1 convolutions to a quarter of the unit's channels and back, adds to each fiber what it needs
    of the others. A stage's first unit, which has a stride, mixes the fibers once more in its second convolution and
    projects its shortcut.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the unit and of its output.
        groups: fibers.
        stride: of a stage's first unit; None for the others.

    Returns:
        Calling it on ``(N, in_channels, T, H, W)`` returns ``(N, out_channels, T', H', W')``.

    Source: Chen et al., Multi-Fiber Networks, section 3.2 and figure 2e.

    Example:
        >>> import torch
        >>> MultiFiberUnit(16, 32, 4, (1, 2, 2))(torch.rand(1, 16, 4, 8, 8)).shape
        torch.Size([1, 32, 4, 4, 4])
    """

    def __init__(self, in_channels: int, out_channels: int, groups: int, stride: Triple | None) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.conv_i1 = ActivatedConv(in_channels, out_channels // 4)
        self.conv_i2 = ActivatedConv(out_channels // 4, in_channels)
        self.conv_m1 = ActivatedConv(in_channels, out_channels, (3, 3, 3), stride or (1, 1, 1), groups)
        if stride is None:
            self.conv_m2 = ActivatedConv(out_channels, out_channels, (1, 3, 3), groups=groups)
            self.conv_w1 = None
        else:
            self.conv_m2 = ActivatedConv(out_channels, out_channels)
            self.conv_w1 = ActivatedConv(in_channels, out_channels, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the unit."""
        short = x if self.conv_w1 is None else self.conv_w1(x)
        x = x + self.conv_i2(self.conv_i1(x))
        return self.conv_m2(self.conv_m1(x)) + short


register = partial(register_model, MFNet, paper=PAPER)

_TABLE = "KPSEM, table 1"


@register(
    source=SOURCE,
    input_size=(3, 16, 224, 224),
    scores=(
        Score("Mini-Kinetics", 16, 78.35, source=_TABLE),
        Score("UCF101", 16, 96.0, source=_TABLE),
        Score("Something-Something v1", 16, 43.0, source=_TABLE),
        Score("HMDB51", 16, 74.6, source=_TABLE),
    ),
    figures=(
        Figure(_TABLE, (3, 16, 224, 224), gmacs=11.1, params=8.0),
        Figure("PyTorch-MFNet", (3, 16, 224, 224), gmacs=11.05, params=8.0),
        Figure("PyTorch-MFNet, Mini-Kinetics' classes", (3, 16, 224, 224), 200, params=7.84),
    ),
)
def mfnet(
    num_classes: int = 400, num_segments: int = 16, *, backend: str | None = None, **options: Any
) -> MFNet:
    """MFNet on 16 frames, see `MFNet`; it holds no operator, so ``backend`` changes nothing."""
    return MFNet(num_classes, num_segments, **{**MFNET, **options})


@register(source="MFNet with channels and depth cut", input_size=(3, 8, 64, 64))
def tiny_mfnet(
    num_classes: int = 8, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> MFNet:
    """MFNet cut down for tests and demos, see `MFNet`."""
    return MFNet(num_classes, num_segments, **{**TINY, **options})
