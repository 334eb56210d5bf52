"""I3D: a ResNet whose kernels are inflated along time, 3x1x1 where there was 1x1, in every second block.

| model | blocks | input | published |
|---|---|---|---|
| i3d_resnet50 | 3, 4, 6, 3 | 8x224x224 | 28.04 M, 37.53 G at 8x256x256 (400 classes) |
| tiny_i3d | 1, 1, 1, width 16 | 8x64x64 | ours, for tests and demos |
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from ..layers.clips import ClipNorm
from .backbone import Block, ClipBackbone, start_convolutions, start_linear
from .cards import Figure, Score
from .registry import register_model

PAPER = "Quo Vadis, Action Recognition? (Carreira and Zisserman, CVPR 2017); as a ResNet: Non-local Neural Networks"
SOURCE = "PyTorchVideo's i3d_r50, whose parameter names these are"
# What PyTorchVideo normalises with.
MEAN, STD = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)

# Of each stage, the frames that its blocks' first convolutions see, in turn.
INFLATED = ((3,), (3, 1), (3, 1), (1, 3))
I3D50: dict[str, Any] = {"blocks": (3, 4, 6, 3)}
TINY: dict[str, Any] = {"blocks": (1, 1, 1), "width": 16, "dropout": 0.0}


class I3D(ClipBackbone):
    """A ResNet of bottleneck blocks over clips, some of whose first convolutions see three frames.

    The stem sees 5x7x7 and a max pool of 1x3x3; behind the first stage a max pool takes the larger of every two
    frames, the last one alone where T is odd (PyTorchVideo drops it; no published network has an odd T). Along time
    there is no other stride: of T frames, ceil(T/2) leave the network. Pooling is global, also for frames larger than
    the published ones.

    Args:
        num_classes: classes of the head.
        num_segments: T, frames a clip; the weights are the same for every T.
        dropout: probability before the classifier.
        in_channels: C of a clip.
        last_stride: spatial stride of the last stage: 2, or 1 with its 3x3 kernels dilated by 2, which see the same
            and keep a map of 1/16 of the frame, as actor detectors have it. The weights are the same.
        shape: ``blocks``: of each stage; ``width``: channels of the stem and of the first stage's 3x3 kernels, doubling
            with each stage; ``stem_frames``: that the stem sees; ``temporal``: of each stage, the frames that its
            blocks' first kernels see, in turn; ``pool``: whether frames are pooled behind the first stage. Those of
            I3D ResNet-50 where not given.

    Returns:
        Calling it on normalised clips ``(N, C, T, H, W)`` returns logits ``(N, num_classes)``.

    Raises:
        ValueError: the clip's shape is not ``(N, C, num_segments, H, W)``; ``in_channels`` or ``last_stride`` is out of
            range.
        TypeError: the clip is not of a floating dtype.

    Source: Wang et al., Non-local Neural Networks, section 4 (inflation 3x1x1 in every second block); initial weights
        as in PyTorchVideo: the last batch norm of every block starts at zero.

    Example:
        >>> import torch
        >>> I3D(5, 8, blocks=(1, 1), width=8)(torch.rand(2, 3, 8, 32, 32)).shape
        torch.Size([2, 5])
    """

    classifier_name: str
    stem_name = "blocks.0.conv"

    def __init__(
        self,
        num_classes: int,
        num_segments: int = 8,
        *,
        dropout: float = 0.5,
        in_channels: int = 3,
        last_stride: int = 2,
        **shape: Any,
    ) -> None:
        super().__init__(num_segments, in_channels)
        if last_stride not in (1, 2) or isinstance(last_stride, bool):
            raise ValueError(f"last_stride must be 1 or 2, got {last_stride!r}")
        self.build(num_classes, dropout, last_stride, **{**I3D50, **shape})
        start_convolutions(self, nn.Conv3d)
        start_linear(self.head.proj, 0.01)
        for module in self.modules():
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.norm_c.weight)

    def build(
        self,
        num_classes: int,
        dropout: float,
        last_stride: int,
        *,
        blocks: Sequence[int],
        width: int = 64,
        stem_frames: int = 5,
        temporal: Sequence[Sequence[int]] = INFLATED,
        pool: bool = True,
    ) -> None:
        """Make the modules: the stem, the stages with a pool behind the first, the head."""
        channels, self.stride = width, 4
        parts: list[nn.Module] = [Stem(self.in_channels, width, stem_frames)]
        for stage, (count, frames) in enumerate(zip(blocks, temporal, strict=False)):
            stride = 1 if stage == 0 else last_stride if stage == len(blocks) - 1 else 2
            dilation = 2 if stage and stride == 1 else 1
            inner = width * 2**stage
            parts.append(Stage(channels, inner, count, frames, stride, dilation))
            channels, self.stride = 4 * inner, self.stride * stride
            if stage == 0:
                pairs = nn.MaxPool3d((2, 1, 1), (2, 1, 1), ceil_mode=True)
                parts.append(pairs if pool else nn.Identity())
        parts.append(Head(channels, num_classes, dropout))
        self.blocks = nn.ModuleList(parts)
        self.classifier_name = f"blocks.{len(parts) - 1}.proj"

    def forward_stem(self, x: Tensor) -> Tensor:
        """Compute what the first block takes, ``(N, width, T, H/4, W/4)``, from a clip."""
        return self.blocks[0](x)

    def residual_blocks(self) -> list[Block]:
        """List the residual blocks in the order they run in, the pool among them behind the first stage."""
        found: list[Block] = []
        stage = 0
        for number, part in enumerate(self.blocks):
            if isinstance(part, Stage):
                stage += 1
                found += [
                    Block(f"blocks.{number}.res_blocks.{index}", block, part.width, stage)
                    for index, block in enumerate(part.res_blocks)
                ]
            elif found and number < len(self.blocks) - 1:
                found.append(Block(f"blocks.{number}", part, found[-1].width, stage))
        return found

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last feature map ``(N, C', ceil(T/2), H', W')`` of a clip."""
        for part in self.blocks[:-1]:
            x = part(x)
        return x

    def forward_pool(self, x: Tensor) -> Tensor:
        """Average a feature map ``(N, C', T', H', W')`` to rows ``(N, C')``."""
        return x.mean((2, 3, 4))

    def classify(self, rows: Tensor) -> Tensor:
        """Compute logits ``(N, num_classes)`` of rows ``(N, C')``."""
        return self.head.proj(self.head.dropout(rows))

    @property
    def head(self) -> Head:
        """The last of ``blocks``."""
        return cast(Head, self.blocks[-1])

    @property
    def features(self) -> int:
        """C' of the last feature map."""
        return self.head.proj.in_features


def convolution(
    in_channels: int, out_channels: int, frames: int, size: int, stride: int = 1, dilation: int = 1
) -> nn.Conv3d:
    """Make a frames x size x size convolution with a spatial stride and dilation and no bias."""
    spatial = size // 2 * dilation
    return nn.Conv3d(
        in_channels,
        out_channels,
        (frames, size, size),
        (1, stride, stride),
        (frames // 2, spatial, spatial),
        (1, dilation, dilation),
        bias=False,
    )


class Stem(nn.Module):
    """The first convolution, frames x 7x7 with stride 2, and a max pool of 1x3x3 with stride 2."""

    def __init__(self, in_channels: int, width: int, frames: int) -> None:
        super().__init__()
        self.conv = convolution(in_channels, width, frames, 7, 2)
        self.norm = ClipNorm(width)
        self.activation = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Compute ``(N, width, T, H/4, W/4)`` from a clip."""
        return self.pool(self.activation(self.norm(self.conv(x))))


class Bottleneck(nn.Module):
    """The residual branch: frames x 1x1 to ``inner`` channels, 1x3x3 with the stride, 1x1x1 to four times as many."""

    def __init__(self, in_channels: int, inner: int, frames: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv_a = convolution(in_channels, inner, frames, 1)
        self.norm_a = ClipNorm(inner)
        self.act_a = nn.ReLU(inplace=True)
        self.conv_b = convolution(inner, inner, 1, 3, stride, dilation)
        self.norm_b = ClipNorm(inner)
        self.act_b = nn.ReLU(inplace=True)
        self.conv_c = convolution(inner, 4 * inner, 1, 1)
        self.norm_c = ClipNorm(4 * inner)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the branch."""
        x = self.act_a(self.norm_a(self.conv_a(x)))
        x = self.act_b(self.norm_b(self.conv_b(x)))
        return self.norm_c(self.conv_c(x))


class ResBlock(nn.Module):
    """A bottleneck and its shortcut: a convolution with batch norm where the shape changes."""

    def __init__(self, in_channels: int, inner: int, frames: int, stride: int, dilation: int) -> None:
        super().__init__()
        reshaped = stride > 1 or in_channels != 4 * inner
        self.branch1_conv = convolution(in_channels, 4 * inner, 1, 1, stride) if reshaped else None
        self.branch1_norm = ClipNorm(4 * inner) if reshaped else None
        self.branch2 = Bottleneck(in_channels, inner, frames, stride, dilation)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block."""
        short = x
        if self.branch1_conv is not None and self.branch1_norm is not None:
            short = self.branch1_norm(self.branch1_conv(x))
        return self.activation(short + self.branch2(x))


class Stage(nn.Module):
    """Residual blocks of one width; the first has the stride, all of them the dilation."""

    def __init__(
        self, in_channels: int, inner: int, count: int, frames: Sequence[int], stride: int, dilation: int
    ) -> None:
        super().__init__()
        self.width = 4 * inner
        self.res_blocks = nn.ModuleList(
            ResBlock(
                self.width if index else in_channels,
                inner,
                frames[index % len(frames)],
                1 if index else stride,
                dilation,
            )
            for index in range(count)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Run the blocks."""
        for block in self.res_blocks:
            x = block(x)
        return x


class Head(nn.Module):
    """The classifier of pooled features, behind dropout."""

    def __init__(self, channels: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.proj = nn.Linear(channels, num_classes)


register = partial(register_model, I3D, paper=PAPER)


@register(
    source=SOURCE,
    input_size=(3, 8, 224, 224),
    mean=MEAN,
    std=STD,
    scores=(Score("Kinetics-400", 8, 73.27, 90.70, source="PyTorchVideo's model zoo, 30 views"),),
    figures=(Figure("PyTorchVideo's model zoo", (3, 8, 256, 256), gmacs=37.53, params=28.04),),
)
def i3d_resnet50(
    num_classes: int = 400, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> I3D:
    """I3D on ResNet-50, see `I3D`; it holds no operator, so ``backend`` changes nothing."""
    return I3D(num_classes, num_segments, **{**I3D50, **options})


@register(source="I3D with channels and depth cut", input_size=(3, 8, 64, 64))
def tiny_i3d(
    num_classes: int = 8, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> I3D:
    """I3D cut down for tests and demos, see `I3D`."""
    return I3D(num_classes, num_segments, **{**TINY, **options})
