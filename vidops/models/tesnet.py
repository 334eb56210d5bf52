"""TeSNet: a 2-D network on a clip squeezed to a few images, at its input or between its layers.

| model | backbone | input | published |
|---|---|---|---|
| tesnet_inception_resnet_v2 | Inception-ResNet-v2 | 10x299x299 | setting 5 about 70 % of setting 1 |
| tiny_tesnet | with channels and depth cut, setting 5 | 8x64x64 | ours, for tests and demos |
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import FoldTime, TemporalSqueezePool
from ..layers.fold_time import as_clips, as_frames
from ..layers.temporal_squeeze_pool import check_projection_sizes
from .backbone import Block, check_clip, start_linear
from .cards import Score
from .inception_resnet_v2 import BODY, MEAN, STD, STEM, TINY, InceptionResNetV2
from .registry import register_model

PAPER = "Learning Spatio-Temporal Representations with Temporal Squeeze Pooling (Huang and Bors, ICASSP 2020)"
SOURCE = "Huang's thesis, sections 3.2 and 3.3"

# Where clips are squeezed, and to how many images: table 3.2. "repeat" are blocks A, "repeat_1" blocks B.
SETTINGS: dict[int, dict[str, int]] = {
    1: {"input": 3},
    2: {"input": 1},
    3: {"conv2d_1a": 3, "conv2d_4a": 1},
    4: {"conv2d_1a": 3, "repeat": 1},
    5: {"conv2d_1a": 3, "repeat_1": 1},
}
LONG, OF_LONG = 16, (16, 4)  # sizes of two layers for clips of more frames than that: section 3.3.2


class TeSNet(InceptionResNetV2):
    """Temporal squeeze network: `TemporalSqueezePool` layers in an Inception-ResNet-v2 over frames.

    Runs of consecutive frames are squeezed to a few images at the network's input, or first to a few after its
    first convolution and then to fewer further on; the logits of the last images are averaged. With
    ``return_losses=True`` the loss ``"error"`` is the sum of the layers' errors (eq. 3.6 without beta).

    State-dict keys are timm's, and ``squeeze.PLACE.layer.*``.

    Args:
        num_classes: classes of the head.
        num_segments: runs of a clip; the thesis has one.
        setting: 1 to 5: where clips are squeezed, a row of table 3.2.
        num_frames: K, frames of a run.
        basis_sizes: images that each layer makes, in the order they stand in; None for table 3.2's, and for 16 and 4
            where two layers squeeze more than 16 frames.
        activations: of the layers, see `TemporalSqueezePool`.
        dropout: probability before the classifier.
        in_channels: C of a clip; 2 for optical flow.
        backend: backend of the projections.
        backbone: further arguments of `InceptionResNetV2`.

    Returns:
        Calling it on normalised clips ``(N, C, num_segments * num_frames, H, W)`` returns logits
        ``(N, num_classes)``; with ``return_losses=True`` these and ``{"error": scalar}``.

    Raises:
        ValueError: an argument, or the clip's shape, is out of range; the text names it.
        TypeError: the clip is not of a floating dtype.

    Source: sections 3.2.3 and 3.3 of Huang's thesis. "Location" is read as after that convolution, and for a kind of
        block as after the first half of its blocks: so setting 5 has 73 % of the multiply-adds of setting 1, where the
        thesis has "around 70 %"; after all of block B it would have 90 %, before them 57 %.

    Example:
        >>> TeSNet(5, setting=3, **TINY)(torch.rand(2, 3, 10, 32, 32)).shape
        torch.Size([2, 5])
    """

    beside = ("squeeze",)  # for `load_weights`: what is not the backbone's
    folded = True

    def __init__(
        self,
        num_classes: int,
        num_segments: int = 1,
        *,
        setting: int = 1,
        num_frames: int = 10,
        basis_sizes: Sequence[int] | None = None,
        activations: Sequence[str] = ("sigmoid", "leaky_relu"),
        dropout: float = 0.5,
        in_channels: int = 3,
        backend: str | None = None,
        **backbone: Any,
    ) -> None:
        super().__init__(num_classes, dropout=dropout, in_channels=in_channels, **backbone)
        self.num_segments = num_segments
        self.num_frames = num_frames
        self.in_channels = in_channels
        self.squeeze = nn.ModuleDict()
        self.num_images = num_frames  # of a run, at the end
        for place, size in sizes_of(setting, num_frames, basis_sizes).items():
            check_projection_sizes(self.num_images, size, ("num_frames", "basis_sizes"))
            layer = TemporalSqueezePool(self.num_images, size, activations=activations, backend=backend)
            self.squeeze[place] = FoldTime(layer, self.num_images)
            self.num_images = size
        start_linear(self.classif, 0.001)

    def enter(self, clip: Tensor, errors: list[Tensor] | None = None) -> Tensor:
        """Check a clip ``(N, C, num_segments * num_frames, H, W)`` and return its frames or squeezed images."""
        check_clip(clip, self.num_segments * self.num_frames, self.in_channels)
        return self._squeeze("input", as_frames(clip), errors)

    def forward_stem(self, x: Tensor) -> Tensor:
        """Compute what the first block takes, from what `enter` returns."""
        return self._run(STEM, x)

    def residual_blocks(self) -> list[Block]:
        """List the residual blocks in the order they run in, what stands between them too."""
        blocks = []
        for block in super().residual_blocks():
            blocks.append(block)
            part, _, index = block.name.partition(".")
            if part in self.squeeze and int(index) == middle_of(getattr(self, part)):
                blocks.append(Block(f"squeeze.{part}", self.squeeze[part], block.width, block.stage))
        return blocks

    def forward_features(self, x: Tensor, errors: list[Tensor] | None = None) -> Tensor:
        """Compute the last block's feature map ``(B, C', H', W')`` from what `enter` returns."""
        return self._run(STEM + BODY, x, errors)

    def leave(self, logits: Tensor) -> Tensor:
        """Average the logits of a clip's images."""
        return logits.unflatten(0, (-1, self.num_segments * self.num_images)).mean(1)

    own_losses = ("error",)

    def forward(  # type: ignore[override]
        self, clip: Tensor, return_losses: bool = False
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Compute logits ``(N, num_classes)``, and the layers' loss if it is asked for."""
        errors: list[Tensor] | None = [] if return_losses else None
        logits = self.leave(self.forward_head(self.forward_features(self.enter(clip, errors), errors)))
        return logits if errors is None else (logits, {"error": torch.stack(errors).sum()})

    def _run(self, names: Sequence[str], x: Tensor, errors: list[Tensor] | None = None) -> Tensor:
        for name in names:
            part = getattr(self, name)
            blocks = part if isinstance(part, nn.Sequential) else (part,)
            for index, block in enumerate(blocks):
                x = block(x)
                if index == middle_of(blocks):
                    x = self._squeeze(name, x, errors)
        return x

    def _squeeze(self, place: str, x: Tensor, errors: list[Tensor] | None) -> Tensor:
        """Squeeze activations where a layer stands at this place; keep its error."""
        if place not in self.squeeze:
            return x
        fold = self.squeeze[place]
        assert isinstance(fold, FoldTime)
        if errors is None:
            return fold(x)
        clips, losses = fold.layer(as_clips(x, fold.num_segments), return_losses=True)
        errors.append(losses["error"].mean())
        return as_frames(clips)


def middle_of(blocks: nn.Sequential | tuple[nn.Module, ...]) -> int:
    """Find the block that the first half of some blocks ends with.

    Example:
        >>> middle_of(nn.Sequential(*(nn.ReLU() for _ in range(20))))
        9
    """
    return (len(blocks) - 1) // 2


def sizes_of(setting: int, num_frames: int, basis_sizes: Sequence[int] | None) -> dict[str, int]:
    """Find where clips are squeezed and to how many images, in the order of the network.

    Args:
        setting: row of table 3.2.
        num_frames: of a run.
        basis_sizes: one for each layer; None for the thesis'.

    Returns:
        Numbers of images by the part of the network that a layer stands after or in, or ``"input"``.

    Raises:
        ValueError: there is no such setting, or there are not as many sizes as layers.

    Example:
        >>> sizes_of(5, 64, None)
        {'conv2d_1a': 16, 'repeat_1': 4}
    """
    if setting not in SETTINGS or isinstance(setting, bool):
        raise ValueError(f"setting must be one of {', '.join(map(str, SETTINGS))}, got {setting!r}")
    sizes = SETTINGS[setting]
    if basis_sizes is None:
        long = isinstance(num_frames, int) and num_frames > LONG and len(sizes) == 2
        return dict(zip(sizes, OF_LONG, strict=True)) if long else dict(sizes)
    if isinstance(basis_sizes, (int, str)) or len(basis_sizes) != len(sizes):
        raise ValueError(
            f"basis_sizes must be {len(sizes)} numbers, one for each layer of setting {setting}, got {basis_sizes!r}"
        )
    return dict(zip(sizes, basis_sizes, strict=True))


register = partial(register_model, TeSNet, paper=PAPER, mean=MEAN, std=STD, frames_option="num_frames")


@register(
    source=SOURCE,
    input_size=(3, 10, 299, 299),
    frames_per_segment=10,
    scores=(
        Score("UCF101", 10, 85.3),
        Score("UCF101", 16, 86.2),
        Score("UCF101", 64, 87.8),
    ),
)
def tesnet_inception_resnet_v2(
    num_classes: int = 101, num_segments: int = 1, *, backend: str | None = None, **options: Any
) -> TeSNet:
    """TeSNet on Inception-ResNet-v2; see `TeSNet`."""
    return TeSNet(num_classes, num_segments, backend=backend, **options)


@register(source="TeSNet with channels and depth cut", input_size=(3, 8, 64, 64), frames_per_segment=8)
def tiny_tesnet(
    num_classes: int = 8, num_segments: int = 1, *, backend: str | None = None, **options: Any
) -> TeSNet:
    """TeSNet cut down for tests and demos; see `TeSNet`."""
    network = {**TINY, "setting": 5, "num_frames": 8, **options}
    return TeSNet(num_classes, num_segments, backend=backend, **network)
