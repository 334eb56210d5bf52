"""What is known of a model: where it comes from, what was published about it, what ours measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Score:
    """A published accuracy in percent.

    Args:
        dataset: name of the data set.
        frames: of a clip.
        top1: share of videos whose class comes first.
        top5: share of videos whose class is among the first five; None where it is not given.
        options: options of `create_model` that make the row's configuration.
        source: where it stands, where one data set and number of frames has several.
        metric: what ``top1`` is, where it is no accuracy.
    """

    dataset: str
    frames: int | None
    top1: float
    top5: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    metric: str = "top-1"


@dataclass(frozen=True)
class Figure:
    """One published row of parameters or multiply-adds.

    Args:
        source: where the row stands.
        clip: (C, T, H, W) of the input.
        num_classes: classes of the head.
        gmacs: published multiply-adds of one clip in 10^9; a range is two numbers.
        params: published parameters in 10^6.
        options: options of `create_model` that make the row's configuration.
        over: the model that ``gmacs`` and ``params`` are more than: compare the difference between the two, as
            printed beside each other, not the absolute value.
        over_gmacs: what the same source prints for ``over``.
        contradiction: why the row cannot be reproduced, where it cannot.
        unaccounted: multiply-adds for each pixel of each input frame that the row holds more than the network
            that its source describes; they are added to ours before the two are compared.
        left_out: multiply-adds in 10^9 of the network that its source does not count; they are taken from ours
            before the two are compared.
    """

    source: str
    clip: tuple[int, int, int, int] = (3, 8, 224, 224)
    num_classes: int = 400
    gmacs: float | tuple[float, float] | None = None
    params: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    over: str | None = None
    over_gmacs: float = 0.0
    contradiction: str | None = None
    unaccounted: int = 0
    left_out: float = 0.0


@dataclass(frozen=True)
class Comparison:
    """Ours beside a published row: params in 10^6, gmacs in 10^9 (both over `Figure.over` where the row says so).

    ``published_gmacs`` is the row's range; ``*_off`` is the relative distance to it, None where nothing is
    published.
    """

    params: float
    gmacs: float
    published_gmacs: tuple[float, float] | None
    params_off: float | None
    gmacs_off: float | None


@dataclass(frozen=True)
class ModelCard:
    """A model's name, origin, input and figures; `num_params` and `gmacs` are counted, not stored.

    Args:
        name: registry name.
        build: the function behind the name.
        paper: title of the paper that proposes the network.
        source: what our version follows.
        input_size: (C, T, H, W) of a clip at the published input; T is the default ``num_segments`` times
            ``frames_per_segment``.
        num_classes: classes of the head by default.
        options: names of the options that `create_model` takes.
        mean: of each input channel, for pixels in 0..1.
        std: likewise.
        scores: published accuracies.
        figures: published parameters and multiply-adds.
        frames_per_segment: consecutive frames of a clip that make one of the network's segments, by default.
        frames_option: the option that sets this number, where one does.
        detects: whether it classifies actors: ``net(clip, boxes)`` returns logits of each box, of which several classes
            may hold.
    """

    name: str
    build: Callable[..., nn.Module]
    paper: str
    source: str
    input_size: tuple[int, int, int, int]
    num_classes: int
    options: tuple[str, ...]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    scores: tuple[Score, ...] = ()
    figures: tuple[Figure, ...] = ()
    frames_per_segment: int = 1
    frames_option: str | None = None
    detects: bool = False

    def frames_of(self, options: Mapping[str, Any]) -> int:
        """Look up how many consecutive frames make a segment of the model with some options.

        Args:
            options: of `create_model`.

        Returns:
            The number that ``options`` name, or else `frames_per_segment`.

        Example:
            >>> from vidops.models import model_card
            >>> model_card("dan_x3d_xs").frames_of({}), model_card("dan_x3d_xs").frames_of({"frames_per_segment": 4})
            (8, 4)
        """
        return (
            options.get(self.frames_option, self.frames_per_segment)
            if self.frames_option
            else self.frames_per_segment
        )

    @property
    def num_segments(self) -> int:
        """Segments a clip by default."""
        return self.input_size[1] // self.frames_per_segment

    @cached_property
    def num_params(self) -> int:
        """Parameters of the model with its default options."""
        return self.measure()[0]

    @cached_property
    def gmacs(self) -> float:
        """Multiply-adds (10^9) of one clip of ``input_size`` with default options."""
        return self.measure()[1]

    def measure(self, figure: Figure | None = None) -> tuple[int, float]:
        """Count parameters and multiply-adds in the configuration of a published row.

        Nothing is computed: the model is built on the meta device, with ``backend="reference"``.

        Args:
            figure: the row; None for the model's defaults.

        Returns:
            Parameters, and multiply-adds of one clip in 10^9.

        Example:
            >>> from vidops.models import model_card
            >>> model_card("tsn_resnet50").measure()[0]
            24327632
        """
        clip = self.input_size if figure is None else figure.clip
        classes = self.num_classes if figure is None else figure.num_classes
        options = {} if figure is None else figure.options
        segments = clip[1] // self.frames_of(options)
        return _measured(self.build, clip, segments, classes, tuple(options.items()))

    def compare(self, figure: Figure) -> Comparison:
        """Measure a published row's configuration and set it beside what is published.

        Args:
            figure: one of the card's rows.

        Returns:
            Both sides and the distance between them.

        Example:
            >>> from vidops.models import model_card
            >>> card = model_card("tsn_resnet50")
            >>> round(card.compare(card.figures[0]).gmacs_off, 3)
            -0.009
        """
        from .registry import model_card

        count, gmacs = self.measure(figure)
        gmacs += figure.unaccounted * math.prod(figure.clip[1:]) / 1e9 - figure.left_out
        published = None
        if figure.gmacs is not None:
            low, high = figure.gmacs if isinstance(figure.gmacs, tuple) else (figure.gmacs, figure.gmacs)
            published = (round(low - figure.over_gmacs, 6), round(high - figure.over_gmacs, 6))
        if figure.over is not None:
            over = model_card(figure.over)
            c, frames, h, w = figure.clip
            frames = frames // self.frames_of(figure.options) * over.frames_per_segment
            less, less_gmacs = over.measure(replace(figure, clip=(c, frames, h, w), options={}))
            count, gmacs = count - less, gmacs - less_gmacs
        off = None
        if published is not None:
            nearest = min(max(gmacs, published[0]), published[1])
            off = gmacs / nearest - 1
        params = count / 1e6
        return Comparison(
            params, gmacs, published, None if figure.params is None else params / figure.params - 1, off
        )


@cache
def _measured(
    build: Callable[..., nn.Module],
    clip: tuple[int, ...],
    num_segments: int,
    num_classes: int,
    options: tuple[tuple[str, Any], ...],
) -> tuple[int, float]:
    with torch.device("meta"):
        model = build(
            num_classes=num_classes, num_segments=num_segments, backend="reference", **dict(options)
        )
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            # It counts nothing, and takes a third of the time on the meta device.
            module.forward = nn.Identity()  # type: ignore[method-assign]
    return count_params(model), count_gmacs(model, clip)


def count_params(model: nn.Module) -> int:
    """Count the parameters of a model.

    Args:
        model: any module.

    Returns:
        The number of elements of all its parameters.

    Example:
        >>> count_params(nn.Linear(3, 2))
        8
    """
    return sum(p.numel() for p in model.parameters())


def count_gmacs(model: nn.Module, clip: Sequence[int]) -> float:
    """Count the multiply-adds of one clip, as `FlopCounterMode` counts them, halved.

    Only convolutions and matrix products count. Build the model with ``backend="reference"`` for figures as
    the sources count them, and on ``torch.device("meta")`` for speed.

    Args:
        model: a network over clips.
        clip: (C, T, H, W).

    Returns:
        Multiply-adds in 10^9.

    Example:
        >>> count_gmacs(nn.Conv3d(3, 4, 1), (3, 1, 1000, 1000))
        0.012
    """
    parameter = next(model.parameters())
    counter = FlopCounterMode(display=False)
    training = model.training
    model.eval()
    with counter, torch.no_grad():
        model(torch.empty(1, *clip, device=parameter.device, dtype=parameter.dtype))
    model.train(training)
    return counter.get_total_flops() / 2e9
