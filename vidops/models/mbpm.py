"""Networks fed with what moves: a Motion Band-Pass Module before their input.

| model | backbone | input |
|---|---|---|
| mbpm_tsm_resnet50 | TSM ResNet-50 | 24x224x224, of which 8 frames are made |
| mbpm_tsm_mobilenetv2 | TSM MobileNetV2 | 24x224x224, 8 frames |
| mbpm_x3d_m | X3D-M | 48x224x224, 16 frames |
| tiny_mbpm | TSM, blocks 1, 1, 1, 1, basic, width 16 | 24x64x64, for tests and demos |
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from ..layers import MotionBandPass
from .backbone import Backbone, check_clip
from .cards import Figure, Score
from .registry import register_model
from .tsm import TSM, TSMMobileNetV2
from .tsn import RESNET50, TINY
from .x3d import MEAN, STD, X3D, X3D_M

PAPER = "Busy-Quiet Video Disentangling for Video Classification (Huang and Bors, WACV 2022)"
SOURCE = "Huang's thesis, section 5.5.2 and table 5.2"
FRAMES = 3  # of a clip, that make one of each pathway
COMPONENTS = ("busy", "quiet")


class MotionInput(Backbone):
    """Puts a Motion Band-Pass Module before a network's input; a network inherits it before its backbone.

    Of every three frames of a clip the network sees one. State-dict keys are the backbone's, and ``band_pass.*``.

    Args:
        num_classes: classes of the head.
        num_segments: frames that the backbone sees; a clip has three times as many.
        component: ``"busy"``: what moves; ``"quiet"``: the mean of the three frames without it (eq. 5.4).
        sigma: initial scale of the spatial filter in pixels.
        kernel_size: of the spatial filter.
        norm: scale of the initial filter, ``"l1"`` or ``"sum"``, see `MotionBandPass`.
        trainable: whether the filters are trained.
        backend: backend of the operators.
        network: further arguments of the network.

    Source: Huang's thesis, section 5.3, and figure 5.2 for the two components.
    """

    num_segments: int
    in_channels: int
    beside = ("band_pass",)  # for `load_weights`: what is not the backbone's

    def __init__(
        self,
        num_classes: int,
        num_segments: int = 8,
        *,
        component: str = "busy",
        sigma: float = 1.1,
        kernel_size: int = 9,
        norm: str = "l1",
        trainable: bool = True,
        backend: str | None = None,
        **network: Any,
    ) -> None:
        if component not in COMPONENTS:
            raise ValueError(f"component must be one of {', '.join(COMPONENTS)}, got {component!r}")
        super().__init__(num_classes, num_segments, backend=backend, **network)
        self.component = component
        self.band_pass = MotionBandPass.stem(
            self.in_channels,
            sigma=sigma,
            kernel_size=kernel_size,
            norm=norm,
            trainable=trainable,
            quiet=component == "quiet",
            backend=backend,
        )

    def enter(self, clip: Tensor) -> Tensor:
        """Check a clip ``(N, C, 3*T, H, W)`` and make of it what the backbone's stem takes."""
        check_clip(clip, FRAMES * self.num_segments, self.in_channels)
        made = self.band_pass(clip)
        return super().enter(made[1] if self.component == "quiet" else made)


class MBPMTSM(MotionInput, TSM):
    """TSM on a ResNet, fed with what moves; see `MotionInput`.

    Example:
        >>> import torch
        >>> MBPMTSM(5, blocks=(1, 1), width=8)(torch.rand(2, 3, 24, 32, 32)).shape
        torch.Size([2, 5])
    """


class MBPMTSMMobileNetV2(MotionInput, TSMMobileNetV2):
    """TSM on MobileNetV2, fed with what moves; see `MotionInput`."""


class MBPMX3D(MotionInput, X3D):
    """X3D, fed with what moves; see `MotionInput`."""


register = partial(register_model, paper=PAPER, frames_per_segment=FRAMES)


@register(
    MBPMTSM,
    source=SOURCE,
    input_size=(3, 24, 224, 224),
    scores=(
        Score("Something-Something v1", 24, 48.0),
        Score("Kinetics-400", 24, 72.3),
        Score("UCF101", 24, 90.3),
    ),
    figures=(
        Figure(
            "thesis, table 5.1: the module alone, 0.2 K parameters",
            clip=(3, 24, 224, 224),
            num_classes=174,
            gmacs=0.3,
            over="tsm_resnet50",
        ),
    ),
)
def mbpm_tsm_resnet50(
    num_classes: int = 174, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> MBPMTSM:
    """TSM ResNet-50 on what moves; see `MotionInput`."""
    return MBPMTSM(num_classes, num_segments, backend=backend, **{**RESNET50, **options})


@register(
    MBPMTSMMobileNetV2,
    source=SOURCE,
    input_size=(3, 24, 224, 224),
    scores=(Score("Something-Something v1", 24, 39.8),),
)
def mbpm_tsm_mobilenetv2(
    num_classes: int = 174, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> MBPMTSMMobileNetV2:
    """TSM MobileNetV2 on what moves; see `MotionInput`."""
    return MBPMTSMMobileNetV2(num_classes, num_segments, backend=backend, **options)


@register(
    MBPMX3D,
    source=SOURCE,
    input_size=(3, 48, 224, 224),
    mean=MEAN,
    std=STD,
    scores=(Score("Something-Something v1", 48, 46.9),),
)
def mbpm_x3d_m(
    num_classes: int = 174, num_segments: int = 16, *, backend: str | None = None, **options: Any
) -> MBPMX3D:
    """X3D-M on what moves; see `MotionInput`."""
    return MBPMX3D(num_classes, num_segments, backend=backend, **{**X3D_M, **options})


@register(MBPMTSM, source="MBPM and TSM with channels and depth cut", input_size=(3, 24, 64, 64))
def tiny_mbpm(
    num_classes: int = 8, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> MBPMTSM:
    """TSM cut down on what moves, for tests and demos; see `MotionInput`."""
    return MBPMTSM(num_classes, num_segments, backend=backend, **{**TINY, "fold_div": 4, **options})
