"""Busy-Quiet Net: two pathways, one for what moves and one for the rest, that exchange features.

| model | pathways | input | published |
|---|---|---|---|
| bqn_tsm_resnet50 | TSM ResNet-50 | 24x256x256 | 60.7 G, 47.4 M (174 classes) |
| bqn_tsm_resnet101 | TSM ResNet-101 | 48x256x256 | 231 G, 85.4 M |
| bqn_tsm_mobilenetv2 | TSM MobileNetV2 | 24x256x256 | - |
| bqn_x3d_m | X3D-M | 48x256x256 | 9.7 G, 6.6 M |
| tiny_bqn | TSM, blocks 1, 1, 1, 1, basic, width 16 | 24x64x64 | ours, for tests and demos |
"""

from __future__ import annotations

from functools import partial
from typing import Any

from .busy_quiet import BusyQuietNet
from .cards import Figure, Score
from .mbpm import FRAMES, PAPER
from .registry import register_model
from .tsm import TSM, TSMMobileNetV2
from .tsn import RESNET50, RESNET101, TINY
from .x3d import MEAN, STD, X3D, X3D_M

SOURCE = "Huang's thesis, section 5.4 and 5.5.3"

register = partial(register_model, BusyQuietNet, paper=PAPER, frames_per_segment=FRAMES)
MINIATURE = {"busy_size": 64, "quiet_size": 40, "lateral_kernel_sizes": (3, 3, 3, 1)}


def sizes(gmacs: float, quiet: int, busy: int, **options: Any) -> Figure:
    """Make a row of the thesis' table 5.8."""
    return Figure(
        "thesis, table 5.8",
        clip=(3, 24, busy, busy),
        num_classes=174,
        gmacs=gmacs,
        options={"busy_size": busy, "quiet_size": quiet, **options},
    )


def connections(gmacs: float, count: int) -> Figure:
    """Make a row of the thesis' table 5.6."""
    return Figure(
        "thesis, table 5.6",
        clip=(3, 24, 224, 224),
        num_classes=174,
        gmacs=gmacs,
        options={"busy_size": 224, "quiet_size": 224, "num_lateral": count},
    )


def comparison(
    frames: int, *, gmacs: float | None = None, params: float | None = None, **options: Any
) -> Figure:
    """Make a row of the thesis' table 5.9; its parameters leave the lateral connections out."""
    return Figure(
        "thesis, table 5.9", (3, frames, 256, 256), 174, gmacs=gmacs, params=params, options=options
    )


@register(
    source=SOURCE,
    input_size=(3, 24, 256, 256),
    scores=(
        Score("Something-Something v1", 24, 51.7, 80.5),
        Score("Something-Something v1", 48, 54.3, 82.0),
        Score("Kinetics-400", 48, 76.8, 92.4),
        Score("Kinetics-400", 72, 77.3, 93.2),
        Score("UCF101", None, 97.6),
        Score("HMDB51", None, 77.6),
    ),
    figures=(
        sizes(65.9, 224, 224),
        sizes(58.0, 192, 224),
        sizes(50.5, 160, 224),
        sizes(44.4, 128, 224),
        sizes(77.1, 224, 256),
        sizes(68.3, 192, 256),
        sizes(60.7, 160, 256),
        sizes(54.6, 128, 256),
        sizes(55.5, 160, 256, quiet_frames=6),
        sizes(49.4, 224, 224, quiet_frames=4),
        connections(65.7, 0),
        connections(65.8, 4),
        connections(65.8, 8),
        connections(65.9, 16),
        comparison(24, gmacs=60),
        comparison(48, gmacs=121),
        comparison(24, params=47.4, num_lateral=0),
    ),
)
def bqn_tsm_resnet50(
    num_classes: int = 174, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> BusyQuietNet:
    """Busy-Quiet Net on TSM ResNet-50; see `BusyQuietNet`."""
    return BusyQuietNet(partial(TSM, **RESNET50), num_classes, num_segments, backend=backend, **options)


@register(
    source=SOURCE,
    input_size=(3, 48, 256, 256),
    scores=(Score("Something-Something v1", 48, 54.9, 81.7),),
    figures=(comparison(48, gmacs=231), comparison(48, params=85.4, num_lateral=0)),
)
def bqn_tsm_resnet101(
    num_classes: int = 174, num_segments: int = 16, *, backend: str | None = None, **options: Any
) -> BusyQuietNet:
    """Busy-Quiet Net on TSM ResNet-101; see `BusyQuietNet`."""
    return BusyQuietNet(partial(TSM, **RESNET101), num_classes, num_segments, backend=backend, **options)


@register(source=SOURCE, input_size=(3, 24, 256, 256))
def bqn_tsm_mobilenetv2(
    num_classes: int = 174, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> BusyQuietNet:
    """Busy-Quiet Net on TSM MobileNetV2; see `BusyQuietNet`. Its last two stages have the same resolution."""
    options = {"lateral_kernel_sizes": (7, 7, 7, 7, 7, 3, 3), **options}
    return BusyQuietNet(TSMMobileNetV2, num_classes, num_segments, backend=backend, **options)


@register(
    source=SOURCE,
    input_size=(3, 48, 256, 256),
    mean=MEAN,
    std=STD,
    scores=(
        Score("Something-Something v1", 48, 50.6, 79.2),
        Score("Kinetics-400", 48, 77.1, 92.5),
    ),
    figures=(comparison(48, gmacs=9.7), comparison(48, params=6.6, num_lateral=0)),
)
def bqn_x3d_m(
    num_classes: int = 174, num_segments: int = 16, *, backend: str | None = None, **options: Any
) -> BusyQuietNet:
    """Busy-Quiet Net on X3D-M, whose pathways have a classifier each; see `BusyQuietNet`."""
    options = {"share_classifier": False, **options}
    return BusyQuietNet(partial(X3D, **X3D_M), num_classes, num_segments, backend=backend, **options)


@register(source="BQN with channels and depth cut", input_size=(3, 24, 64, 64))
def tiny_bqn(
    num_classes: int = 8, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> BusyQuietNet:
    """Busy-Quiet Net cut down for tests and demos; see `BusyQuietNet`."""
    make = partial(TSM, **TINY, fold_div=4)
    return BusyQuietNet(make, num_classes, num_segments, backend=backend, **{**MINIATURE, **options})
