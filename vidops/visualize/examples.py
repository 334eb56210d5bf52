"""Clips with what networks take them for."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .clips import ShownFrames, as_picture, fill
from .figures import COLORS, new_figure
from .networks import Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Example", "example_rows", "likeliest"]

# bars of the true class, of a wrong one that is the likeliest, of others, and where the truth is not known
RIGHT, WRONG, OTHER, PLAIN = COLORS[2], COLORS[1], "0.65", COLORS[0]
# inches: a frame's width, that of the classes of a network, and the height of one of them
CELL, WIDE, CLASS = 1.35, 2.8, 0.45


@dataclass(frozen=True)
class Example:
    """One row of :func:`example_rows`.

    Args:
        shown: the frames, (T, H, W, 3).
        scores: classes and their probabilities by network, the likeliest first.
        truth: the true class; None where it is not known.
        label: of the clip.
    """

    shown: ShownFrames
    scores: Mapping[str, Sequence[tuple[str, float]]]
    truth: str | None = None
    label: str = ""


def likeliest(subject: Subject, clip: Tensor, top: int = 3) -> list[tuple[str, float]]:
    """Name the likeliest classes of one clip.

    Args:
        subject: the network.
        clip: (1, C, T, H, W), as ``subject.read`` gives it.
        top: classes, at most.

    Returns:
        Names and probabilities, the likeliest first.

    Raises:
        ValueError: ``top`` is below 1, or the clip is not one.

    Example:
        >>> from vidops.visualize import load_subject
        >>> len(likeliest(load_subject(model="tiny_tsn"), torch.rand(1, 3, 8, 64, 64)))
        3
    """
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    if clip.dim() != 5 or clip.shape[0] != 1:
        raise ValueError(f"clip must be one, (1, C, T, H, W), got {tuple(clip.shape)}")
    with torch.inference_mode():
        shares = subject.net(clip)[0].double().softmax(0)
    values, numbers = shares.sort(descending=True, stable=True)
    found = zip(numbers[:top].tolist(), values[:top].tolist(), strict=True)
    return [(subject.classes[number], value) for number, value in found]


def example_rows(examples: Sequence[Example], *, frames: int = 4, title: str = "") -> Figure:
    """Draw clips with the classes that networks give them, a clip a row.

    Args:
        examples: from the top; all with scores of the same networks.
        frames: how many of a clip are shown, equally spaced in time, at most.
        title: above all.

    Returns:
        The figure: the axes of each row are its frames and then, for each network, a bar a class as long as its
        probability: green for the true one, red for the likeliest if it is another.

    Raises:
        ValueError: there are no examples or no networks, examples have different ones, or ``frames`` is below 1.

    Source: Cao et al., KPSEM, figure 8.

    Example:
        >>> import numpy as np
        >>> shown = ShownFrames(torch.zeros(8, 8, 8, 3), np.arange(8))
        >>> figure = example_rows([Example(shown, {"TSN": [("left", 0.9), ("up", 0.1)]}, "up")], frames=2)
        >>> [float(bar.get_width()) for bar in figure.axes[2].patches]
        [0.9, 0.1]
    """
    if not examples or not examples[0].scores:
        raise ValueError("examples must be at least one, with scores of at least one network")
    names = list(examples[0].scores)
    for example in examples:
        if list(example.scores) != names:
            raise ValueError(f"examples must have scores of the same networks, got {list(example.scores)}")
        if not all(example.scores.values()):
            raise ValueError("examples must have scores of at least one class a network")
    if frames < 1:
        raise ValueError(f"frames must be at least 1, got {frames}")
    columns = min(frames, max(len(example.shown.frames) for example in examples))
    across = columns * (CELL + 0.06) + len(names) * WIDE
    most = max(len(scores) for example in examples for scores in example.scores.values())
    headers = [fill(_header(example), across) for example in examples]
    inner = [max(CELL * height / width, CLASS * most) for height, width in map(_size, examples)]
    lines = max(_wrap(name, WIDE).count("\n") + 1 for name in names)
    heights = [
        high + 0.17 * (lines + text.count("\n") + 1) + 0.08 for high, text in zip(inner, headers, strict=True)
    ]
    figure = new_figure(across, sum(heights) + 0.3 * bool(title))
    if title:
        figure.suptitle(title, fontsize=9, x=0.005, ha="left")
    parts = figure.subfigures(len(examples), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, header, high, example in zip(parts, headers, inner, examples, strict=True):
        part.suptitle(header, fontsize=9, x=0.005, ha="left")
        widths = [CELL] * columns + [WIDE] * len(names)
        line = part.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0]
        _draw_frames(line[:columns], example.shown.frames)
        for axes, (name, scores) in zip(line[columns:], example.scores.items(), strict=True):
            _draw_scores(axes, name, scores, example.truth)
            axes.set_ylim(high / CLASS - 0.8, -0.8)
    return figure


def _header(example: Example) -> str:
    parts = [example.label, "" if example.truth is None else f"true class: {example.truth}"]
    return ", ".join(filter(None, parts))


def _size(example: Example) -> tuple[int, int]:
    height, width = example.shown.frames.shape[1:3]
    return height, width


def _wrap(text: str, width: float) -> str:
    """Break a name into two lines of so many inches, before anything is cut."""
    return "\n".join(textwrap.wrap(text, int(width * 11.5), max_lines=2, placeholder=" ..."))


def _draw_frames(line: Any, frames: Tensor) -> None:
    count = len(frames)
    for i, axes in enumerate(line):
        axes.set(xticks=[], yticks=[], anchor="N")
        if i >= count:
            axes.set_axis_off()
            continue
        axes.imshow(as_picture(frames[int((i + 0.5) * count / min(count, len(line)))]))


def _draw_scores(axes: Any, name: str, scores: Sequence[tuple[str, float]], truth: str | None) -> None:
    """Draw a bar a class, its name and probability above it."""
    right = truth is not None and scores[0][0] == truth
    for place, (label, value) in enumerate(scores):
        of_truth, first = label == truth, place == 0
        color = PLAIN if truth is None else RIGHT if of_truth else WRONG if first else OTHER
        axes.broken_barh([(0, 1)], (place - 0.14, 0.28), color="0.94")  # the length of a probability of 1
        axes.barh(place, value, 0.28, color=color)
        look = {"fontsize": 7.5, "va": "bottom", "weight": "bold" if of_truth else "normal"}
        axes.text(0, place - 0.2, _wrap(label, WIDE), linespacing=1, **look)
        axes.text(1, place - 0.2, f"{value:.1%}", ha="right", **look)
    axes.set(xlim=(-0.06, 1.02), xticks=[], yticks=[], frame_on=False)
    look = {} if truth is None else {"color": RIGHT if right else WRONG}
    mark = "" if truth is None else " \N{CHECK MARK}" if right else " \N{BALLOT X}"
    axes.set_title(_wrap(name, WIDE) + mark, fontsize=8.5, loc="left", x=0.055, pad=4, **look)
