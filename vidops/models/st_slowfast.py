"""ST-SlowFast: actors' actions from features of their boxes on every frame, behind attention in space and time.

| model | features | boxes | input | published |
|---|---|---|---|---|
| st_slowfast_i3d_resnet50 | I3D ResNet-50, slow-fast attention | on every frame | 32x256x256 | frame mAP 23.0 on AVA |
| i3d_resnet50_actors | I3D ResNet-50 | on the mean of frames | 32x256x256 | its baseline, no figure |
| tiny_st_slowfast | cut down; only the attention sees time | on every frame | 8x64x64 | ours, for tests and demos |
| tiny_i3d_actors | cut down; nothing sees time | on the mean of frames | 8x64x64 | ours, for tests and demos |
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.clips import check_flag, check_one_of
from ..layers.roi_align import check_boxes, roi_align
from ..layers.slow_fast_attention import SlowFastAttention, speeds_of
from .backbone import Block, refuse_losses
from .cards import Score
from .i3d import I3D, I3D50, MEAN, STD
from .registry import register_model

PAPER = "Spatio-Temporal SlowFast Self-Attention Network for Action Recognition (Kim et al., ICIP 2020)"
SOURCE = "the paper's slides, I3D as PyTorchVideo has it"
POOLINGS = ("gap", "gmp")
BINS = 7
# Nothing in the backbone sees time, so that what the attention sees of it can be measured.
TINY: dict[str, Any] = {
    "blocks": (1, 1, 1),
    "width": 16,
    "stem_frames": 1,
    "temporal": ((1,), (1,), (1,)),
    "pool": False,
    "dropout": 0.0,
}


class I3DActors(I3D):
    """I3D that classifies actors in boxes: RoIAlign on the map averaged over time, the slides' baseline.

    The last stage keeps the map at 1/16 of the frame, its 3x3 kernels dilated by 2, as the detectors of the SlowFast
    line have it (the slides do not say); ``last_stride=2`` for 1/32. Each box is cut out in 7x7 bins (the slides draw a
    RoIPool over the whole time axis; bins as in the other network), pooled, and classified behind dropout; sigmoid and
    loss are not part of the network. Published I3D weights load with ``load_weights(net, path, part="backbone")``.

    Args:
        num_classes: classes of the head; several may hold of an actor.
        num_segments: T, frames a clip.
        pooling: ``"gap"``: mean of what is in the box; ``"gmp"``: largest.
        last_stride: spatial stride of the last stage.
        backend: backend of the operators; ``"reference"`` also keeps RoIAlign from torchvision's kernel.
        network: further arguments of `I3D`.

    Returns:
        Calling it on normalised clips ``(N, C, T, H, W)`` and boxes ``(R, 5)``, the clip's index in the batch and x1,
        y1, x2, y2 in pixels of the clip, in any order, returns logits ``(R, num_classes)``; without boxes the whole
        frame of each clip is one, R = N. R may be 0.

    Raises:
        ValueError: an argument, the clip's shape or a box is out of range; the text names it.
        TypeError: the clip or the boxes are not of a floating dtype.

    Source: Kim et al., figure 2.2 and section 4; Feichtenhofer et al., SlowFast Networks, section 5.

    Example:
        >>> net = I3DActors(5, 4, blocks=(1, 1), width=8)
        >>> net(torch.rand(2, 3, 4, 32, 32), torch.tensor([[1.0, 4, 4, 20, 28]])).shape
        torch.Size([1, 5])
    """

    def __init__(
        self,
        num_classes: int,
        num_segments: int = 32,
        *,
        pooling: str = "gap",
        last_stride: int = 1,
        backend: str | None = None,
        **network: Any,
    ) -> None:
        super().__init__(num_classes, num_segments, last_stride=last_stride, **network)
        self.pooling = check_one_of(pooling, "pooling", POOLINGS)
        self.by = "torch" if backend == "reference" else None

    def in_boxes(self, x: Tensor) -> Tensor:
        """Make of a feature map ``(N, C', T', H', W')`` what boxes are cut out of."""
        return x.mean(2, keepdim=True)

    def forward_pool(self, x: Tensor, boxes: Tensor | None = None) -> Tensor:
        """Pool a feature map ``(N, C', T', H', W')`` to a row of each box, ``(R, C')``; without boxes of each map."""
        if boxes is None:
            boxes = whole_frames(x, x.shape[3] * self.stride, x.shape[4] * self.stride)
        x = self.in_boxes(x)
        maps = x.flatten(1, 2)  # frames as channels: a box is the same on all of them
        cut = roi_align(maps, boxes, BINS, 1 / self.stride, backend=self.by)
        cut = cut.unflatten(1, x.shape[1:3])
        return cut.mean((2, 3, 4)) if self.pooling == "gap" else cut.amax((2, 3, 4))

    def forward(  # type: ignore[override]
        self, clip: Tensor, boxes: Tensor | None = None, return_losses: bool = False
    ) -> Tensor:
        """Compute logits ``(R, num_classes)``."""
        refuse_losses(self, return_losses)
        clip = self.enter(clip)
        if boxes is None:
            boxes = whole_frames(clip, *clip.shape[3:])
        else:
            check_boxes(boxes, clip, clip.shape[0])
        return self.leave(self.classify(self.forward_pool(self.forward_features(clip), boxes)))


class STSlowFast(I3DActors):
    """I3D, slow-fast self-attention on its last map, and actors' boxes on every frame of it.

    RoIAlign and means are linear: with ``pooling="gap"``, boxes on every frame are no other than boxes on the mean of
    frames, and without attention the network is its baseline. With ``"gmp"`` it is not. To take away what sees time and
    keep attention, ``ssfa="fast", tsfa=False``; `SlowFastAttention` says why ``tsfa=False`` alone leaves the order of
    frames to be seen.

    Args:
        num_classes: classes of the head; several may hold of an actor.
        num_segments: T, frames a clip.
        ssfa: attention over space: True, False, or ``"slow"`` or ``"fast"`` for one of its two modules.
        tsfa: attention over time, likewise. Without both, no attention is left, only boxes on every frame.
        pooling: over time, height and width of a box: ``"gap"``: mean; ``"gmp"``: largest.
        num_layers: layers of attention, 1 or 2 in the slides.
        attention_dim: d of the attention, 512 or 2048 in the slides.
        layer_norm: whether each layer normalises what its modules see.
        last_stride: spatial stride of the last stage.
        backend: backend of the operators.
        network: further arguments of `I3D`.

    Returns:
        As `I3DActors`, whose other choices these are too; `SlowFastAttention` tells those of the attention.

    Raises:
        ValueError: an argument, the clip's shape or a box is out of range; the text names it.
        TypeError: the clip or the boxes are not of a floating dtype.

    Source: Kim et al., figures 3.2 to 3.4, table 4.2, whose last row these defaults are.

    Example:
        >>> net = STSlowFast(5, 4, attention_dim=16, blocks=(1, 1), width=8)
        >>> net(torch.rand(2, 3, 4, 32, 32), torch.tensor([[1.0, 4, 4, 20, 28]])).shape
        torch.Size([1, 5])
    """

    beside = ("attention",)  # for `load_weights`: what is not the backbone's

    def __init__(
        self,
        num_classes: int,
        num_segments: int = 32,
        *,
        ssfa: bool | str = True,
        tsfa: bool | str = True,
        pooling: str = "gap",
        num_layers: int = 2,
        attention_dim: int = 2048,
        layer_norm: bool = True,
        last_stride: int = 1,
        backend: str | None = None,
        **network: Any,
    ) -> None:
        super().__init__(
            num_classes, num_segments, pooling=pooling, last_stride=last_stride, backend=backend, **network
        )
        check_flag(layer_norm, "layer_norm")
        if num_layers not in (1, 2) or isinstance(num_layers, bool):
            raise ValueError(f"num_layers must be 1 or 2, got {num_layers!r}")
        some = bool(speeds_of(ssfa, "ssfa") or speeds_of(tsfa, "tsfa"))
        self.attention = nn.ModuleList(
            SlowFastAttention(
                self.features, attention_dim, ssfa=ssfa, tsfa=tsfa, layer_norm=layer_norm, backend=backend
            )
            for _ in range(num_layers if some else 0)
        )

    def residual_blocks(self) -> list[Block]:
        """List the residual blocks in the order they run in, the layers of attention at their end."""
        found = super().residual_blocks()
        return found + [
            Block(f"attention.{index}", layer, self.features, found[-1].stage)
            for index, layer in enumerate(self.attention)
        ]

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute what the last layer of attention puts out, of a clip."""
        x = super().forward_features(x)
        for layer in self.attention:
            x = layer(x)
        return x

    def in_boxes(self, x: Tensor) -> Tensor:
        """Cut boxes out of every frame of a feature map."""
        return x


def whole_frames(x: Tensor, height: int, width: int) -> Tensor:
    """Make one box of each clip or map, its whole frame: ``(N, 5)``."""
    wide = torch.promote_types(x.dtype, torch.float32)
    index = torch.arange(x.shape[0], device=x.device, dtype=wide)
    zero = torch.zeros_like(index)
    return torch.stack([index, zero, zero, zero + width, zero + height], 1)


def on_ava(frame_map: float, where: str = "table 4.2", **options: Any) -> Score:
    """Make a row of the slides, which print frame mAP at IoU 0.5 over 60 classes."""
    return Score("AVA", 32, frame_map, options=options, source=f"slides, {where}", metric="frame mAP")


register = partial(register_model, paper=PAPER, detects=True)
_CLIP = (3, 32, 256, 256)
_SMALL: dict[str, Any] = {"num_layers": 1, "attention_dim": 512, "layer_norm": False}
_PLAIN: dict[str, Any] = {"attention_dim": 2048, "layer_norm": False}


@register(
    STSlowFast,
    source=SOURCE,
    input_size=_CLIP,
    mean=MEAN,
    std=STD,
    scores=(
        on_ava(18.5, ssfa=False, **_SMALL),
        on_ava(19.2, ssfa=False, pooling="gmp", **_SMALL),
        on_ava(20.8, tsfa=False, pooling="gmp", **_SMALL),
        on_ava(21.3, num_layers=1, **_PLAIN),
        on_ava(21.7, num_layers=2, **_PLAIN),
        on_ava(23.0, "tables 4.1 and 4.2"),
    ),
)
def st_slowfast_i3d_resnet50(
    num_classes: int = 80, num_segments: int = 32, *, backend: str | None = None, **options: Any
) -> STSlowFast:
    """ST-SlowFast on I3D ResNet-50; see `STSlowFast`."""
    return STSlowFast(num_classes, num_segments, backend=backend, **{**I3D50, **options})


@register(I3DActors, source=SOURCE, input_size=_CLIP, mean=MEAN, std=STD)
def i3d_resnet50_actors(
    num_classes: int = 80, num_segments: int = 32, *, backend: str | None = None, **options: Any
) -> I3DActors:
    """The baseline of ST-SlowFast; see `I3DActors`."""
    return I3DActors(num_classes, num_segments, backend=backend, **{**I3D50, **options})


@register(STSlowFast, source="ST-SlowFast with channels and depth cut", input_size=(3, 8, 64, 64))
def tiny_st_slowfast(
    num_classes: int = 8, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> STSlowFast:
    """ST-SlowFast cut down for tests and demos, whose attention alone sees time; see `STSlowFast`."""
    small = {"num_layers": 1, "attention_dim": 64}
    return STSlowFast(num_classes, num_segments, backend=backend, **{**TINY, **small, **options})


@register(I3DActors, source="the baseline with channels and depth cut", input_size=(3, 8, 64, 64))
def tiny_i3d_actors(
    num_classes: int = 8, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> I3DActors:
    """The baseline cut down for tests and demos, in which nothing sees time; see `I3DActors`."""
    return I3DActors(num_classes, num_segments, backend=backend, **{**TINY, **options})
