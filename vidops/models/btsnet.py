"""BTSNet: 3-D ResNeXts whose 3x3x3 convolutions are temporal-spatial pathway blocks.

| model | blocks | input | published (101 classes) |
|---|---|---|---|
| btsnet26 | 2, 2, 2, 2 | 30x112x112 | 18.83 G, 16.66 M |
| btsnet50 | 3, 4, 6, 3 | 30x112x112 | 22.94 G, 29.93 M |
| btsnet101 | 3, 4, 23, 3 | 30x112x112 | - |
| tiny_btsnet | 1, 1, 1, 1, width 16, 4 groups | 8x64x64 | ours, for tests and demos |
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..layers import TemporalSpatialPathway, pathway_contributions
from .backbone import ClipResNet, start_convolutions
from .cards import Figure, Score
from .registry import register_model

PAPER = "Blockwise Temporal-Spatial Pathway Network (Hong and Choi, arXiv 2208.03040)"
SOURCE = "BTSNet's poster; sizes as its released code counts them"

BTSNET26: dict[str, Any] = {"blocks": (2, 2, 2, 2)}
BTSNET50: dict[str, Any] = {"blocks": (3, 4, 6, 3)}
BTSNET101: dict[str, Any] = {"blocks": (3, 4, 23, 3)}
TINY: dict[str, Any] = {"blocks": (1, 1, 1, 1), "width": 16, "groups": 4}


class BTSNet(ClipResNet):
    """A 3-D ResNeXt of bottleneck blocks whose 3x3x3 convolutions, but for the last stage's, are pathway blocks.

    The stem is a 7x7x7 convolution with a spatial stride of 2 and a 3x3x3 max pool with stride 2 along time too; the
    first block of every later stage has stride 2 along all three. Of T frames T/16 are left, at least one, and pooling
    is global: any number of frames and any size of them.

    What the poster leaves open is read so that both published rows come out, to all their digits: the stem is as wide
    as the first stage's 3x3x3 kernels, 128 channels (one of 64 would have 6.5 G less), shortcuts that change shape are
    1x1x1 convolutions with batch norm, no convolution has a bias, the fuse's last included, and nothing stands behind a
    pathway block, whose pathways have their batch norm and ReLU. Parameter names are those of torchvision's ResNet.

    Args:
        num_classes: classes of the head.
        num_segments: T, frames a clip.
        num_pathways: M of every pathway block; None for 3; see `vidops.layers.TemporalSpatialPathway`, as for the
            following.
        receptive_fields: ``"O1"`` or ``"O2"``.
        attention: ``"TC"`` or ``"C"``.
        dilations: in the place of the sets of O1 and O2.
        dropout: probability before the classifier.
        in_channels: C of a clip.
        backend: backend of the selection.
        shape: ``blocks``: of each stage, as many as there are stages; ``width``: channels of the stem and of the first
            stage's 3x3x3 kernels, doubling with each stage; ``groups``: of these kernels. Those of BTSNet-50 where not
            given.

    Returns:
        Calling it on normalised clips ``(N, C, T, H, W)`` returns logits ``(N, num_classes)``.

    Raises:
        ValueError: an argument is out of range; the clip's shape is not ``(N, C, num_segments, H, W)``.
        TypeError: the clip is not of a floating dtype.

    Source: Hong and Choi, BTSNet's poster; Hara et al., Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and
        ImageNet?, table 1, for the 3-D ResNeXt.

    Example:
        >>> import torch
        >>> net = BTSNet(5, 4, blocks=(1, 1), width=16, groups=4).eval()
        >>> net(torch.rand(2, 3, 4, 32, 32)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        num_classes: int,
        num_segments: int = 30,
        *,
        num_pathways: int | None = None,
        receptive_fields: str = "O1",
        attention: str = "TC",
        dilations: Sequence[int | Sequence[int]] | None = None,
        dropout: float = 0.0,
        in_channels: int = 3,
        backend: str | None = None,
        **shape: Any,
    ) -> None:
        super().__init__(num_segments, in_channels)
        pathways = {
            "num_pathways": num_pathways,
            "receptive_fields": receptive_fields,
            "attention": attention,
            "dilations": dilations,
            "backend": backend,
        }
        self.build(num_classes, dropout, pathways, **{**BTSNET50, **shape})
        start_convolutions(self, nn.Conv3d)

    def build(
        self,
        num_classes: int,
        dropout: float,
        pathways: dict[str, Any],
        *,
        blocks: Sequence[int],
        width: int = 128,
        groups: int = 32,
    ) -> None:
        """Make the modules: the stem, the stages, the head."""
        self.conv1 = nn.Conv3d(self.in_channels, width, 7, (1, 2, 2), 3, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d(3, 2, 1)
        self.stages = [f"layer{stage}" for stage in range(1, len(blocks) + 1)]
        channels = width
        for stage, (name, count) in enumerate(zip(self.stages, blocks, strict=True), 1):
            inner = width * 2 ** (stage - 1)
            made = []
            for index in range(count):
                stride = 2 if index == 0 and stage > 1 else 1
                options = pathways if stage < len(blocks) else None
                made.append(PathwayBottleneck(channels, inner, groups, stride, options))
                channels = inner * PathwayBottleneck.expansion
            setattr(self, name, nn.Sequential(*made))
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)

    def pathway_contributions(self, clip: Tensor) -> dict[str, Tensor]:
        """Compute how much each pathway counts at each time step of each block with pathways.

        Args:
            clip: ``(N, C, T, H, W)``; the network is taken as it is, evaluation mode is the caller's.

        Returns:
            By the name that a block has in `residual_blocks`, in their order: the attention, averaged over channels,
            ``(N, M, T')`` with T' the block's time steps, T/2, T/4 and T/8 in stages 1 to 3, rounded up. Over the M
            pathways it sums to 1; with attention ``"C"`` it is the same at all time steps.

        Source: Hong and Choi, BTSNet's poster, the plots of its results.

        Example:
            >>> import torch
            >>> net = BTSNet(5, 4, blocks=(1, 1), width=16, groups=4).eval()
            >>> {name: found.shape for name, found in net.pathway_contributions(torch.rand(2, 3, 4, 32, 32)).items()}
            {'layer1.0': torch.Size([2, 3, 2])}
        """
        found = pathway_contributions(self, clip)
        return {name.removesuffix(".conv2"): weights for name, weights in found.items()}


class PathwayBottleneck(nn.Module):
    """A bottleneck block over clips: 1x1x1, a pathway block or a grouped 3x3x3 convolution, 1x1x1, and a shortcut.

    Args:
        in_channels: channels of the input.
        width: channels of the 3x3x3 kernels.
        groups: of these.
        stride: of these, along time, height and width.
        pathways: further arguments of `vidops.layers.TemporalSpatialPathway`; None for a plain grouped convolution.

    Returns:
        Calling it on ``(N, in_channels, T, H, W)`` returns ``(N, 2 * width, T', H', W')``.

    Source: Xie et al., Aggregated Residual Transformations, in 3-D with expansion 2 as Hara et al. have it; the pathway
        block is BTSNet's.

    Example:
        >>> import torch
        >>> PathwayBottleneck(32, 16, 4, 2, {"num_pathways": 2}).eval()(torch.rand(1, 32, 4, 8, 8)).shape
        torch.Size([1, 32, 2, 4, 4])
    """

    expansion = 2

    def __init__(
        self,
        in_channels: int,
        width: int,
        groups: int = 32,
        stride: int = 1,
        pathways: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels = width * self.expansion
        self.conv1 = nn.Conv3d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2: nn.Module
        if pathways is not None:
            self.conv2 = TemporalSpatialPathway(width, groups=groups, stride=stride, **pathways)
            self.bn2 = None
        else:
            self.conv2 = nn.Conv3d(width, width, 3, stride, 1, groups=groups, bias=False)
            self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = nn.Conv3d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or in_channels != out_channels:
            project = nn.Conv3d(in_channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(project, nn.BatchNorm3d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block."""
        short = x if self.downsample is None else self.downsample(x)
        x = self.conv2(self.relu(self.bn1(self.conv1(x))))
        if self.bn2 is not None:
            x = self.relu(self.bn2(x))
        return self.relu(self.bn3(self.conv3(x)) + short)


def ablation(*rows: tuple[int, str, str, float]) -> tuple[Score, ...]:
    """Make the scores of one network's rows: M, receptive fields, attention, top-1.

    The poster has 30 frames and names no data set; the 101 classes that its code counts are UCF101's.
    """
    usual = {"num_pathways": 3, "receptive_fields": "O1", "attention": "TC"}
    scores = []
    for *values, top1 in rows:
        options = {key: value for key, value in zip(usual, values, strict=True) if value != usual[key]}
        scores.append(Score("UCF101", 30, top1, options=options, source="BTSNet's poster, ablation study"))
    return tuple(scores)


register = partial(register_model, BTSNet, paper=PAPER)
published = partial(register, source=SOURCE, input_size=(3, 30, 112, 112))
_RELEASE, _CLIP = "BTSNet's release", (3, 30, 112, 112)


@published(
    scores=ablation(
        (3, "O1", "TC", 61.829),
        (2, "O1", "TC", 60.019),
        (3, "O2", "TC", 60.283),
        (4, "O2", "TC", 60.058),
        (3, "O1", "C", 58.974),
        (4, "O1", "C", 59.252),
        (3, "O2", "C", 57.507),
        (4, "O2", "C", 59.913),
    ),
    figures=(Figure(_RELEASE, _CLIP, 101, gmacs=18.83, params=16.66),),
)
def btsnet26(
    num_classes: int = 101, num_segments: int = 30, *, backend: str | None = None, **options: Any
) -> BTSNet:
    """BTSNet-26, two blocks a stage; see `BTSNet`."""
    return BTSNet(num_classes, num_segments, backend=backend, **{**BTSNET26, **options})


@published(
    scores=ablation(
        (3, "O1", "TC", 59.120),
        (2, "O1", "TC", 58.842),
        (4, "O1", "TC", 58.961),
        (2, "O2", "TC", 55.855),
        (3, "O2", "TC", 58.895),
        (4, "O2", "TC", 58.274),
        (7, "O2", "TC", 58.551),
        (3, "O1", "C", 58.459),
        (4, "O1", "C", 48.678),
        (3, "O2", "C", 57.454),
        (4, "O2", "C", 58.261),
    ),
    figures=(Figure(_RELEASE, _CLIP, 101, gmacs=22.94, params=29.93),),
)
def btsnet50(
    num_classes: int = 101, num_segments: int = 30, *, backend: str | None = None, **options: Any
) -> BTSNet:
    """BTSNet-50; see `BTSNet`."""
    return BTSNet(num_classes, num_segments, backend=backend, **{**BTSNET50, **options})


@published(
    scores=ablation(
        (3, "O1", "TC", 60.005),
        (2, "O1", "TC", 56.133),
        (3, "O1", "C", 58.565),
    ),
)
def btsnet101(
    num_classes: int = 101, num_segments: int = 30, *, backend: str | None = None, **options: Any
) -> BTSNet:
    """BTSNet-101, deeper in the third stage; see `BTSNet`."""
    return BTSNet(num_classes, num_segments, backend=backend, **{**BTSNET101, **options})


@register(source="BTSNet with channels and depth cut", input_size=(3, 8, 64, 64))
def tiny_btsnet(
    num_classes: int = 8, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> BTSNet:
    """BTSNet cut down for tests and demos; see `BTSNet`."""
    return BTSNet(num_classes, num_segments, backend=backend, **{**TINY, **options})
