"""TSM: TSN with channels shifted in time at the head of its blocks.

| model | blocks | input | published |
|---|---|---|---|
| tsm_resnet50 | 3, 4, 6, 3 | 8x224x224 | 32.7-32.9 G, 24.33 M (400 classes), 23.86 M (174) |
| tsm_resnet101 | 3, 4, 23, 3, every second block | 8x224x224 | - |
| tsm_mobilenetv2 | 1, 2, 3, 4, 3, 3, 1, in residual ones | 8x224x224 | - |
| tiny_tsm | 1, 1, 1, 1, basic, width 16 | 8x64x64 | ours, for tests and demos |
| tiny_tsm_mobilenetv2 | 1, 2, 2, 2 | 8x64x64 | ours, for tests and demos |
"""

from __future__ import annotations

from functools import partial
from typing import Any

from ..layers import TemporalShift
from .backbone import SegmentConsensus
from .cards import Figure, Score
from .mobilenetv2 import MobileNetV2
from .registry import register_model
from .tsn import RESNET50, RESNET101, TINY, TSN

PAPER = "TSM: Temporal Shift Module for Efficient Video Understanding (Lin et al., ICCV 2019)"
SOURCE = "the authors' release: residual shift, every second block of ResNet-101"
SLIDES = "MixTConv slides, comparison table"
TINY_MOBILENETV2: dict[str, Any] = {
    "stages": ((1, 16, 1, 2), (4, 16, 2, 1), (4, 32, 2, 2), (4, 64, 2, 2)),
    "stem_width": 16,
    "pooled": 128,
    "dropout": 0.0,
}


class TSM(TSN):
    """Temporal shift network: an eighth of a block's input is the next frame's, an eighth the last one's.

    The shift stands before conv1 of every bottleneck, on the residual branch; where the third stage has 23
    blocks or more, in every second block of each stage.

    Args:
        num_classes: classes of the head.
        num_segments: T, frames a clip.
        fold_div: C // fold_div channels are shifted each way.
        backend: backend of the shift.
        network: further arguments of `TSN` and `ResNet`.

    Returns:
        Calling it on normalised clips ``(N, 3, T, H, W)`` returns logits ``(N, num_classes)``.

    Raises:
        ValueError: an argument, or the clip's shape, is out of range.

    Source: Lin et al., TSM, section 3.2 ("residual shift") and 4.1.

    Example:
        >>> import torch
        >>> TSM(5, blocks=(1, 1), width=8)(torch.rand(2, 3, 8, 32, 32)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        num_classes: int,
        num_segments: int = 8,
        *,
        fold_div: int = 8,
        backend: str | None = None,
        **network: Any,
    ) -> None:
        network = {**RESNET50, **network}
        blocks = network["blocks"]
        super().__init__(
            num_classes,
            num_segments,
            temporal=lambda channels: TemporalShift(fold_div, backend),
            every=2 if len(blocks) > 2 and blocks[2] >= 23 else 1,
            **network,
        )


class TSMMobileNetV2(SegmentConsensus, MobileNetV2):
    """Temporal shift network on MobileNetV2: the shift stands in every block that adds its input.

    Parameter names are torchvision's, whose ImageNet weights load with ``part="features"``.

    Args:
        num_classes: classes of the head.
        num_segments: T, frames a clip.
        fold_div: C // fold_div channels are shifted each way.
        dropout: probability before the classifier.
        in_channels: C of a clip.
        backend: backend of the shift.
        network: further arguments of `MobileNetV2`.

    Returns:
        Calling it on normalised clips ``(N, C, T, H, W)`` returns logits ``(N, num_classes)``.

    Raises:
        ValueError: an argument, or the clip's shape, is out of range.

    Source: Lin et al., TSM; the places of the shift are those of the authors' release.

    Example:
        >>> import torch
        >>> TSMMobileNetV2(5, stages=((1, 8, 1, 1), (4, 16, 2, 2)))(torch.rand(2, 3, 8, 32, 32)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        num_classes: int,
        num_segments: int = 8,
        *,
        fold_div: int = 8,
        dropout: float = 0.5,
        in_channels: int = 3,
        backend: str | None = None,
        **network: Any,
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            num_segments=num_segments,
            dropout=dropout,
            in_channels=in_channels,
            temporal=lambda channels: TemporalShift(fold_div, backend),
            **network,
        )
        self.over_segments(num_segments, in_channels)


register = partial(register_model, TSM, paper=PAPER)
register_mobile = partial(register_model, TSMMobileNetV2, paper=PAPER)


@register(
    source=SOURCE,
    input_size=(3, 8, 224, 224),
    scores=(
        Score("Something-Something v1", 8, 45.6, 74.2),
        Score("Something-Something v1", 16, 47.2, 77.1),
        Score("Something-Something v2", 8, 58.7, 85.4),
        Score("Something-Something v2", 16, 61.0, 86.8),
    ),
    figures=(
        Figure("thesis, table 4.6, baseline", gmacs=(32.7, 32.9), params=24.33),
        Figure("TSM, Something-Something", num_classes=174, gmacs=(32.7, 32.9), params=23.86),
        Figure("thesis, table 3.6", clip=(3, 8, 256, 256), num_classes=174, gmacs=42.9, params=23.8),
        Figure(SLIDES, gmacs=33, params=24.3),
        Figure(SLIDES, clip=(3, 16, 224, 224), gmacs=65, params=24.3),
    ),
)
def tsm_resnet50(
    num_classes: int = 400, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> TSM:
    """TSM on ResNet-50; see `TSM`."""
    return TSM(num_classes, num_segments, backend=backend, **{**RESNET50, **options})


@register(source=SOURCE, input_size=(3, 8, 224, 224))
def tsm_resnet101(
    num_classes: int = 400, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> TSM:
    """TSM on ResNet-101, shifting in every second block; see `TSM`."""
    return TSM(num_classes, num_segments, backend=backend, **{**RESNET101, **options})


@register(source="TSM with channels and depth cut", input_size=(3, 8, 64, 64))
def tiny_tsm(
    num_classes: int = 8, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> TSM:
    """TSM cut down for tests and demos, see `TSM`; a quarter of its few channels is shifted each way."""
    return TSM(num_classes, num_segments, backend=backend, **{**TINY, "fold_div": 4, **options})


@register_mobile(
    source="the authors' release: residual shift in every block with a shortcut",
    input_size=(3, 8, 224, 224),
    scores=(Score("Kinetics-400", 8, 69.5), Score("Something-Something v1", 8, 38.7)),
)
def tsm_mobilenetv2(
    num_classes: int = 400, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> TSMMobileNetV2:
    """TSM on MobileNetV2; see `TSMMobileNetV2`."""
    return TSMMobileNetV2(num_classes, num_segments, backend=backend, **options)


@register_mobile(source="TSM on MobileNetV2 with channels and depth cut", input_size=(3, 8, 64, 64))
def tiny_tsm_mobilenetv2(
    num_classes: int = 8, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> TSMMobileNetV2:
    """TSM on MobileNetV2 cut down for tests and demos; a quarter of its few channels is shifted each way."""
    network = {**TINY_MOBILENETV2, "fold_div": 4, **options}
    return TSMMobileNetV2(num_classes, num_segments, backend=backend, **network)
