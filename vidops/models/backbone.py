"""What networks of residual blocks share: their pieces by name, so that others can run them block by block."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from ..layers.fold_time import as_frames
from ..layers.memory_format import AnyRank


class Block(NamedTuple):
    """One residual block of a backbone.

    Args:
        name: its path in the network, as in ``named_modules``.
        module: from the activations before it to those after it.
        width: channels of what it puts out.
        stage: of the network, from 1.
    """

    name: str
    module: nn.Module
    width: int
    stage: int


def refuse_losses(net: nn.Module, wanted: bool) -> None:
    """Raise TypeError if losses are wanted of a network that has none of its own.

    Example:
        >>> refuse_losses(nn.Identity(), False)
    """
    if wanted:
        raise TypeError(f"return_losses: {type(net).__name__} has no losses of its own; it returns logits")


class Backbone(AnyRank):
    """A network from clips to logits in pieces that can be run one at a time.

    ``net(clip)`` is the same as::

        x = net.forward_stem(net.enter(clip))
        for block in net.residual_blocks():
            x = block.module(x)
        logits = net.leave(net.classify(net.forward_pool(x)))

    The activations x between blocks are clips ``(N, C, T, H, W)``, or, where ``folded`` is true, the frames
    of these clips one after another, ``(N*T, C, H, W)``; `FoldTime` puts a clip layer between such blocks.

    Attributes:
        classifier_name: path of the last layer, for `load_weights` and the recipes' parameter groups.
        stem_name: path of the first convolution, whose input channels are the clip's.
        folded: whether the activations are frames.
        own_losses: names of the losses that ``net(clip, return_losses=True)`` gives beside the logits.

    Example:
        >>> from vidops.models import create_model
        >>> [(block.name, block.width) for block in create_model("tiny_tsn").residual_blocks()][-2:]
        [('layer3.0', 64), ('layer4.0', 128)]
    """

    classifier_name: str
    stem_name: str
    folded = False
    own_losses: tuple[str, ...] = ()

    def enter(self, clip: Tensor) -> Tensor:
        """Check the input and make of it what the stem takes."""
        return clip

    def forward_stem(self, x: Tensor) -> Tensor:
        """Compute what the first residual block takes."""
        raise NotImplementedError

    def residual_blocks(self) -> list[Block]:
        """List the residual blocks in the order they run in."""
        raise NotImplementedError

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute what the last residual block puts out, from what the stem takes."""
        raise NotImplementedError

    def forward_pool(self, x: Tensor) -> Tensor:
        """Compute what the classifier takes, rows ``(B, D)``, from what the last residual block puts out."""
        raise NotImplementedError

    def classify(self, rows: Tensor) -> Tensor:
        """Compute logits ``(B, num_classes)`` of rows ``(B, D)``, with dropout in training."""
        raise NotImplementedError

    def leave(self, logits: Tensor) -> Tensor:
        """Make a clip's logits of what `classify` returned."""
        return logits

    def forward_head(self, x: Tensor) -> Tensor:
        """Compute logits from what the last residual block puts out, one row for each of the batch."""
        return self.classify(self.forward_pool(x))

    def forward(self, clip: Tensor, return_losses: bool = False) -> Tensor:
        """Compute logits ``(N, num_classes)``."""
        refuse_losses(self, return_losses)
        return self.leave(self.forward_head(self.forward_features(self.enter(clip))))


class StagedBackbone(Backbone):
    """A backbone whose blocks stand in stages, each a sequence of them.

    Attributes:
        stages: names of the stages' modules, in the order they run in.

    Example:
        >>> from vidops.models import create_model
        >>> create_model("tiny_mfnet").stages
        ['conv2', 'conv3', 'conv4', 'conv5']
    """

    stages: list[str]

    def residual_blocks(self) -> list[Block]:
        """List the residual blocks in the order they run in."""
        return [
            Block(f"{name}.{key}", block, cast(Any, block).out_channels, stage)
            for stage, name in enumerate(self.stages, 1)
            for key, block in self.get_submodule(name).named_children()
        ]

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute what the last stage puts out, from what the stem takes."""
        x = self.forward_stem(x)
        for name in self.stages:
            x = getattr(self, name)(x)
        return x


class ClipBackbone(Backbone):
    """A backbone whose stem takes clips ``(N, in_channels, num_segments, H, W)``.

    Args:
        num_segments: T, frames a clip.
        in_channels: C of a clip.

    Raises:
        ValueError: ``in_channels`` is below 1.

    Example:
        >>> from vidops.models import create_model
        >>> create_model("tiny_mfnet").num_segments
        8
    """

    def __init__(self, num_segments: int, in_channels: int) -> None:
        super().__init__()
        check_in_channels(in_channels)
        self.num_segments = num_segments
        self.in_channels = in_channels

    def enter(self, clip: Tensor) -> Tensor:
        """Check a clip ``(N, C, T, H, W)``."""
        check_clip(clip, self.num_segments, self.in_channels)
        return clip


class ClipResNet(ClipBackbone, StagedBackbone):
    """A ResNet over clips by torchvision's names: ``conv1, bn1, relu, maxpool``, stages, ``avgpool, dropout, fc``.

    A network inherits it and makes those modules.

    Example:
        >>> from vidops.models import create_model
        >>> isinstance(create_model("tiny_r3d"), ClipResNet)
        True
    """

    classifier_name = "fc"
    stem_name = "conv1"

    conv1: nn.Module
    bn1: nn.Module
    relu: nn.Module
    maxpool: nn.Module
    avgpool: nn.Module
    dropout: nn.Module
    fc: nn.Module

    def forward_stem(self, x: Tensor) -> Tensor:
        """Compute what the first block takes, ``(N, width, T/2, H/4, W/4)``, from a clip."""
        return self.maxpool(self.relu(self.bn1(self.conv1(x))))

    def forward_pool(self, x: Tensor) -> Tensor:
        """Average a feature map ``(N, C', T', H', W')`` to rows ``(N, C')``."""
        return self.avgpool(x).flatten(1)

    def classify(self, rows: Tensor) -> Tensor:
        """Compute logits ``(N, num_classes)`` of rows ``(N, C')``."""
        return self.fc(self.dropout(rows))


class SegmentConsensus(Backbone):
    """Turns a backbone over frames into one over clips: frames are classified one by one, logits averaged.

    A network inherits it before its 2-D backbone, and calls `over_segments` when that is made.

    Source: Wang et al., Temporal Segment Networks, eq. 1 with average consensus, before softmax.
    """

    num_segments: int
    in_channels: int
    folded = True

    def over_segments(self, num_segments: int, in_channels: int) -> None:
        """Take the shape of clips, and start the classifier as TSN does: close to zero.

        Args:
            num_segments: T, frames a clip.
            in_channels: C of a clip.
        """
        self.num_segments = num_segments
        self.in_channels = in_channels
        last = self.get_submodule(self.classifier_name)
        assert isinstance(last, nn.Linear)
        start_linear(last, 0.001)

    def enter(self, clip: Tensor) -> Tensor:
        """Check a clip ``(N, C, T, H, W)`` and return its frames ``(N*T, C, H, W)``."""
        check_clip(clip, self.num_segments, self.in_channels)
        return as_frames(clip)

    def leave(self, logits: Tensor) -> Tensor:
        """Average the logits ``(N*T, num_classes)`` of a clip's frames."""
        return logits.unflatten(0, (-1, self.num_segments)).mean(1)


def check_clip(clip: Tensor, frames: int, channels: int = 3) -> None:
    """Raise unless a clip is a floating tensor ``(N, channels, frames, H, W)``.

    Args:
        clip: what a network was called with.
        frames: T that the network was built for.
        channels: C that the network was built for.

    Raises:
        ValueError: the shape is another.
        TypeError: the dtype is not floating.

    Example:
        >>> import torch
        >>> check_clip(torch.rand(2, 3, 8, 32, 32), 8)
    """
    shape = tuple(clip.shape)
    if len(shape) != 5:
        raise ValueError(f"clip must be (N, {channels}, T, H, W), got {len(shape)} dimensions: {shape}")
    if shape[1] != channels:
        raise ValueError(
            f"clip must have {channels} channels, (N, {channels}, T, H, W), got {shape[1]}: {shape}"
        )
    if shape[2] != frames:
        raise ValueError(
            f"clip must have T = {frames} frames as the network was built for, got {shape[2]}: {shape}"
            "; create_model's num_segments builds it for another number"
        )
    if not clip.is_floating_point():
        raise TypeError(f"clip must be of a floating dtype, normalised, got {clip.dtype}")


def check_in_channels(in_channels: int) -> None:
    """Raise unless a network can have so many input channels.

    Example:
        >>> check_in_channels(3)
    """
    if isinstance(in_channels, bool) or not isinstance(in_channels, int) or in_channels < 1:
        raise ValueError(f"in_channels must be a whole number of at least 1, got {in_channels!r}")


def start_convolutions(net: nn.Module, kind: type[nn.Conv2d] | type[nn.Conv3d]) -> None:
    """Draw the weights of a network's convolutions of one kind after He et al.; their biases start at zero.

    Others keep their weights: a temporal convolution within a 2-D backbone starts as its own layer says.

    Source: He et al., Delving Deep into Rectifiers, eq. 14, as all of ResNet, MobileNetV2 and X3D have it.

    Example:
        >>> conv = nn.Conv2d(1, 1000, 1)
        >>> start_convolutions(conv, nn.Conv2d)
        >>> 0.9 < float(conv.weight.detach().std()) / (2 / 1000) ** 0.5 < 1.1
        True
    """
    for module in net.modules():
        if isinstance(module, kind):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def start_linear(linear: nn.Linear, std: float) -> None:
    """Draw the weights of a classifier, its bias zero.

    Example:
        >>> start_linear(nn.Linear(2, 2), 0.01)
    """
    nn.init.normal_(linear.weight, std=std)
    nn.init.zeros_(linear.bias)
