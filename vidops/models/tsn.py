"""TSN: a 2-D network on every segment, its logits averaged.

| model | blocks | input | published |
|---|---|---|---|
| tsn_resnet50 | 3, 4, 6, 3 | 8x224x224 | 33 G, 24.3 M |
| tsn_resnet101 | 3, 4, 23, 3 | 8x224x224 | - |
| tiny_tsn | 1, 1, 1, 1, basic, width 16 | 8x64x64 | ours, for tests and demos |
"""

from __future__ import annotations

from functools import partial
from typing import Any

from .backbone import SegmentConsensus
from .cards import Figure, Score
from .registry import register_model
from .resnet import BasicBlock, ResNet

RESNET50: dict[str, Any] = {"blocks": (3, 4, 6, 3)}
RESNET101: dict[str, Any] = {"blocks": (3, 4, 23, 3)}
TINY: dict[str, Any] = {
    "blocks": (1, 1, 1, 1),
    "width": 16,
    "block": BasicBlock,
    "small": True,
    "dropout": 0.0,
}

PAPER = "Temporal Segment Networks for Action Recognition in Videos (Wang et al., TPAMI 2018)"
SOURCE = "MixTConv slides' TSN baseline (Shan et al., 2020); segment consensus before softmax"


class TSN(SegmentConsensus, ResNet):
    """Temporal segment network on a ResNet: frames are classified one by one and a clip's logits averaged.

    Args:
        num_classes: classes of the head.
        num_segments: T, frames a clip.
        dropout: probability before the classifier.
        in_channels: C of a clip; other than 3 for stacked flow and RGB differences.
        backbone: further arguments of `ResNet`; ResNet-50's blocks by default.

    Returns:
        Calling it on normalised clips ``(N, C, T, H, W)`` returns logits ``(N, num_classes)``.

    Raises:
        ValueError: the clip's shape is not ``(N, C, num_segments, H, W)``.
        TypeError: the clip is not of a floating dtype.

    Source: Wang et al., Temporal Segment Networks, eq. 1 with average consensus.

    Example:
        >>> import torch
        >>> net = TSN(5, blocks=(1, 1), width=8)
        >>> net(torch.rand(2, 3, 8, 32, 32)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        num_classes: int,
        num_segments: int = 8,
        *,
        dropout: float = 0.5,
        in_channels: int = 3,
        **backbone: Any,
    ) -> None:
        arguments = {**RESNET50, **backbone}
        super().__init__(
            num_classes=num_classes,
            num_segments=num_segments,
            dropout=dropout,
            in_channels=in_channels,
            **arguments,
        )
        self.over_segments(num_segments, in_channels)


register = partial(register_model, TSN, paper=PAPER)


@register(
    source=SOURCE,
    input_size=(3, 8, 224, 224),
    scores=(
        Score("Kinetics-400", None, 68.8, 88.3),
        Score("UCF101", None, 91.5, 99.2),
        Score("Something-Something v1", 8, 19.7, 46.6),
        Score("Something-Something v2", 8, 27.8, 57.6),
        Score("Jester", None, 83.9, 99.6),
    ),
    figures=(Figure("MixTConv slides, comparison table", gmacs=33, params=24.3),),
)
def tsn_resnet50(
    num_classes: int = 400, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> TSN:
    """TSN on ResNet-50; it holds no operator, so ``backend`` changes nothing."""
    return TSN(num_classes, num_segments, **{**RESNET50, **options})


@register(source=SOURCE, input_size=(3, 8, 224, 224))
def tsn_resnet101(
    num_classes: int = 400, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> TSN:
    """TSN on ResNet-101; it holds no operator, so ``backend`` changes nothing."""
    return TSN(num_classes, num_segments, **{**RESNET101, **options})


@register(source="TSN with channels and depth cut", input_size=(3, 8, 64, 64))
def tiny_tsn(
    num_classes: int = 8, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> TSN:
    """TSN cut down for tests and demos; it holds no operator, so ``backend`` changes nothing."""
    return TSN(num_classes, num_segments, **{**TINY, **options})
