"""DAN: networks fed with dynamic appearances, what a pixel-wise temporal projection leaves over of a clip.

| model | backbone | input | published |
|---|---|---|---|
| dan_tsm_resnet50 | TSM ResNet-50 | 8 segments of 4x256x256 | 43.1 G, 23.8 M (174 classes) |
| dan_x3d_xs | X3D-XS | 4 segments of 8x160x160 | 0.82 G, 3.34 M |
| dan_x3d_m | X3D-M | 16 segments of 3x256x256 | 7.0 G, 3.34 M |
| tiny_dan | TSM, blocks 1, 1, 1, 1, basic, width 16 | 8 segments of 3x64x64 | ours, for tests and demos |
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from ..layers import PixelwiseTemporalProjection
from ..layers.temporal_squeeze_pool import check_projection_sizes
from .backbone import Backbone, check_clip
from .cards import Figure, Score
from .registry import register_model
from .tsm import TSM
from .tsn import RESNET50
from .tsn import TINY as TINY_RESNET
from .x3d import MEAN, STD, X3D, X3D_M

PAPER = "Dynamic Appearance: A Video Representation for Action Recognition with Joint Training (Huang and Bors, 2022)"
SOURCE = "Huang's thesis, sections 3.5 and 3.6"
UNACCOUNTED = 156  # of all rows of X3D in tables 3.6, 3.10 and 3.11
TINY: dict[str, Any] = {
    **TINY_RESNET,
    "fold_div": 4,
    "frames_per_segment": 3,
    "descriptor_kernel_size": 5,
    "descriptor_stride": 4,
    "descriptor_channels": 8,
}


class ProjectedInput(Backbone):
    """Puts a pixel-wise temporal projection before a network's input; a network inherits it before its backbone.

    Of every segment of T frames the network sees one, its dynamic appearance. With ``return_losses=True`` the loss
    ``"energy"`` is the mean energy of what the projection leaves over (eq. 3.14); `vidops.training` trains the
    projection by it and by the network's own loss together. State-dict keys are the backbone's, and ``projection.*``.

    Args:
        num_classes: classes of the head.
        num_segments: S, dynamic appearances that the backbone sees.
        frames_per_segment: T, consecutive frames that make one; a clip has S*T.
        basis_size: D, of the projection.
        descriptor_kernel_size: of the projection, as are the following; see `PixelwiseTemporalProjection`.
        descriptor_stride: likewise.
        descriptor_channels: likewise.
        bottleneck_ratio: likewise.
        num_bottlenecks: likewise.
        expansion_ratio: likewise.
        backend: backend of the operators.
        network: further arguments of the network.

    Source: sections 3.5.3 and 3.5.4 of Huang's thesis, figure 3.11.
    """

    num_segments: int
    in_channels: int
    beside = ("projection",)  # for `load_weights`: what is not the backbone's
    projection_name = "projection"

    def __init__(
        self,
        num_classes: int,
        num_segments: int = 8,
        *,
        frames_per_segment: int = 8,
        basis_size: int = 1,
        descriptor_kernel_size: int = 9,
        descriptor_stride: int = 8,
        descriptor_channels: int = 24,
        bottleneck_ratio: float = 0.25,
        num_bottlenecks: int = 1,
        expansion_ratio: int = 2,
        backend: str | None = None,
        **network: Any,
    ) -> None:
        check_projection_sizes(frames_per_segment, basis_size, ("frames_per_segment", "basis_size"))
        super().__init__(num_classes, num_segments, backend=backend, **network)
        self.frames_per_segment = frames_per_segment
        self.projection = PixelwiseTemporalProjection(
            frames_per_segment,
            basis_size,
            in_channels=self.in_channels,
            descriptor_kernel_size=descriptor_kernel_size,
            descriptor_stride=descriptor_stride,
            descriptor_channels=descriptor_channels,
            bottleneck_ratio=bottleneck_ratio,
            num_bottlenecks=num_bottlenecks,
            expansion_ratio=expansion_ratio,
            backend=backend,
        )

    def enter(self, clip: Tensor) -> Tensor:
        """Check a clip ``(N, C, S*T, H, W)`` and make of it what the backbone's stem takes."""
        check_clip(clip, self.num_segments * self.frames_per_segment, self.in_channels)
        return super().enter(self.projection(clip))

    own_losses = ("energy",)

    def forward(  # type: ignore[override]
        self, clip: Tensor, return_losses: bool = False
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Compute logits ``(N, num_classes)``, and the projection's loss if it is asked for."""
        if not return_losses:
            return super().forward(clip)
        check_clip(clip, self.num_segments * self.frames_per_segment, self.in_channels)
        appearance, losses = self.projection(clip, return_losses=True)
        logits = self.leave(self.forward_head(self.forward_features(super().enter(appearance))))
        return logits, {name: loss.mean() for name, loss in losses.items()}


class DANTSM(ProjectedInput, TSM):
    """TSM on a ResNet, fed with dynamic appearances; see `ProjectedInput`.

    Example:
        >>> import torch
        >>> DANTSM(5, 4, blocks=(1, 1), width=8)(torch.rand(2, 3, 32, 32, 32)).shape
        torch.Size([2, 5])
    """


class DANX3D(ProjectedInput, X3D):
    """X3D, fed with dynamic appearances; see `ProjectedInput`."""


register = partial(register_model, paper=PAPER, frames_option="frames_per_segment")


def ablation(table: str, gmacs: float, frames: int = 8, **options: Any) -> Figure:
    """Make a row of the thesis' ablations on X3D-XS."""
    return Figure(
        f"thesis, table {table}",
        clip=(3, 4 * frames, 160, 160),
        num_classes=174,
        gmacs=gmacs,
        options={"frames_per_segment": frames, **options},
        unaccounted=UNACCOUNTED,
    )


def convolution(gmacs: float, stride: int, kernel: int, channels: int = 24) -> Figure:
    """Make a row of table 3.11."""
    return ablation(
        "3.11",
        gmacs,
        descriptor_stride=stride,
        descriptor_kernel_size=kernel,
        descriptor_channels=channels,
    )


def kinetics(gmacs: float) -> Figure:
    """Make a row of table 3.7, whose multiply-adds are those of 30 views."""
    return Figure(
        "thesis, table 3.7",
        clip=(3, 128, 256, 256),
        gmacs=gmacs / 30,
        options={"frames_per_segment": 8},
    )


@register(
    DANTSM,
    source=SOURCE,
    input_size=(3, 32, 256, 256),
    frames_per_segment=4,
    scores=(
        Score("Something-Something v1", 32, 50.1, 78.6),
        Score("Kinetics-400", 128, 75.9, 92.2),
        Score("UCF101", None, 96.5),
        Score("HMDB51", None, 75.3),
    ),
    figures=(
        Figure("thesis, table 3.6", clip=(3, 32, 256, 256), num_classes=174, gmacs=43.1, params=23.8),
        kinetics(2602),
    ),
)
def dan_tsm_resnet50(
    num_classes: int = 174, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> DANTSM:
    """TSM ResNet-50 on dynamic appearances; see `ProjectedInput`."""
    return DANTSM(
        num_classes, num_segments, backend=backend, **{**RESNET50, "frames_per_segment": 4, **options}
    )


@register(
    DANX3D,
    source=SOURCE,
    input_size=(3, 32, 160, 160),
    mean=MEAN,
    std=STD,
    frames_per_segment=8,
    scores=(Score("Something-Something v1", 32, 43.1, 73.4),),
    figures=(
        Figure("thesis, table 3.6", clip=(3, 32, 160, 160), num_classes=174, params=3.34),
        ablation("3.10", 0.71, 4),
        ablation("3.10", 0.71, 4, basis_size=2),
        ablation("3.10", 0.82),
        ablation("3.10", 0.83, basis_size=3),
        ablation("3.10", 1.12, 16),
        convolution(2.60, 1, 7, 12),
        convolution(4.06, 1, 7),
        convolution(0.95, 4, 7),
        convolution(0.82, 8, 9),
        convolution(0.86, 8, 11),
    ),
)
def dan_x3d_xs(
    num_classes: int = 174, num_segments: int = 4, *, backend: str | None = None, **options: Any
) -> DANX3D:
    """X3D-XS on dynamic appearances; see `ProjectedInput`."""
    return DANX3D(num_classes, num_segments, backend=backend, **{**X3D_M, **options})


@register(
    DANX3D,
    source=SOURCE,
    input_size=(3, 48, 256, 256),
    mean=MEAN,
    std=STD,
    frames_per_segment=3,
    scores=(
        Score("Something-Something v1", 48, 53.7, 82.1),
        Score("Kinetics-400", 128, 77.3, 92.8),
    ),
    figures=(
        Figure(
            "thesis, table 3.6",
            clip=(3, 48, 256, 256),
            num_classes=174,
            gmacs=7.0,
            params=3.34,
            unaccounted=UNACCOUNTED,
        ),
        kinetics(216),
    ),
)
def dan_x3d_m(
    num_classes: int = 174, num_segments: int = 16, *, backend: str | None = None, **options: Any
) -> DANX3D:
    """X3D-M on dynamic appearances; see `ProjectedInput`."""
    return DANX3D(num_classes, num_segments, backend=backend, **{**X3D_M, "frames_per_segment": 3, **options})


@register(
    DANTSM,
    source="DAN and TSM with channels and depth cut",
    input_size=(3, 24, 64, 64),
    frames_per_segment=3,
)
def tiny_dan(
    num_classes: int = 8, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> DANTSM:
    """TSM cut down on dynamic appearances, for tests and demos; see `ProjectedInput`."""
    return DANTSM(num_classes, num_segments, backend=backend, **{**TINY, **options})
