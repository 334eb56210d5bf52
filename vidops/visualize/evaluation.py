"""How well each class is known, and what it is taken for."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .figures import COLORS, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["class_accuracy_bars", "confusion_matrix"]

_NAME = 28  # characters of a class name that are shown
_SMALLEST = 5.0  # points: smaller letters cannot be read
_CELLS = 15  # classes up to which a cell's number fits into it
_BARS = 40  # classes of which each gets a bar


def confusion_matrix(
    confusion: npt.NDArray[np.int64], classes: Sequence[str], *, title: str | None = None
) -> Figure:
    """Draw a confusion matrix: of each class's videos, the share taken for each class.

    Up to 15 classes each cell says how many videos it stands for; with more, colours follow the square root of
    the share, so that rare confusions can be seen. Class names are written where they can be
    read, which they can up to 138 classes; beyond, the axes count the classes. Rows of classes without
    videos are grey.

    Args:
        confusion: videos of class i (row) taken for class j (column), (K, K).
        classes: K names; long ones are cut.
        title: what was measured.

    Returns:
        The figure.

    Raises:
        ValueError: the matrix is not square or empty, or there are not as many names as classes.

    Example:
        >>> figure = confusion_matrix(np.array([[9, 1], [2, 8]]), ["left", "right"])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['9', '1', '2', '8']
    """
    confusion = np.asarray(confusion)
    count = len(confusion)
    if confusion.shape != (count, count) or count == 0:
        raise ValueError(f"confusion: must be a square matrix, got the shape {confusion.shape}")
    if len(classes) != count:
        raise ValueError(f"classes: {len(classes)} names for {count} classes")
    totals = confusion.sum(1, keepdims=True)
    shares = np.where(totals > 0, confusion / np.maximum(totals, 1), np.nan)
    side = min(12.0, max(3.2, 1.6 + 0.42 * count))  # inches of the matrix
    letters = min(9.0, 72 * side / count * 0.8)  # points: lines of neighbouring classes must not touch
    named = letters >= _SMALLEST
    names = [_cut(name) for name in classes]
    margin = 0.075 * letters / 9 * max(map(len, names)) if named else 0.4
    figure = new_figure(side + margin + 1.3, side + margin + 0.7)
    figure.set_layout_engine(
        "compressed"
    )  # the one that knows of square cells: else the label of the left is cut off
    axes = figure.add_subplot()
    colours, norm = _blues(), _norm(root=count > _CELLS)
    picture = axes.imshow(shares, cmap=colours, norm=norm, interpolation="nearest")
    if named:
        axes.set_xticks(range(count), names, rotation=90, fontsize=letters)
        axes.set_yticks(range(count), names, fontsize=letters)
    axes.tick_params(length=0 if named else 3)
    if count <= _CELLS:
        _write_numbers(axes, confusion, shares)
    axes.set_xlabel("taken for" if named else "taken for class number")
    axes.set_ylabel("class" if named else "class number")
    if title:
        axes.set_title(textwrap.fill(title, int(12 * side)), fontsize=10, loc="left")
    figure.colorbar(picture, ax=axes, label="share of the class's videos", fraction=0.046, pad=0.02)
    return figure


def class_accuracy_bars(
    accuracies: Sequence[float | None],
    classes: Sequence[str],
    *,
    title: str | None = None,
    label: str = "accuracy",
) -> Figure:
    """Draw the accuracy of each class, the highest first.

    Of more than 40 classes the 20 highest and the 20 lowest are drawn, with a gap between them; classes
    without videos are left out.

    Args:
        accuracies: from 0 to 1, of each class; None for one without videos.
        classes: their names; long ones are cut.
        title: what was measured.
        label: what the numbers are.

    Returns:
        The figure; a dashed line shows the mean over all classes that have videos.

    Raises:
        ValueError: there are not as many names as accuracies, or no class has videos.

    Example:
        >>> figure = class_accuracy_bars([0.5, None, 1.0], ["left", "up", "right"])
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['right', 'left']
    """
    if len(classes) != len(accuracies):
        raise ValueError(f"classes: {len(classes)} names for {len(accuracies)} accuracies")
    known = [(a, name) for a, name in zip(accuracies, classes, strict=True) if a is not None]
    if not known:
        raise ValueError("accuracies: no class has videos")
    known.sort(key=lambda pair: -pair[0])  # stable: equal ones stay in the order of the classes
    mean = sum(a for a, _ in known) / len(known)
    places = [float(i) for i in range(len(known))]
    left_out = len(known) - _BARS
    if left_out > 0:
        known = known[: _BARS // 2] + known[-_BARS // 2 :]
        places = [float(i + (i >= _BARS // 2) * 1.5) for i in range(_BARS)]
    figure = new_figure(7.0, 1.2 + 0.2 * (places[-1] + 1))
    axes = figure.add_subplot()
    axes.barh(places, [a for a, _ in known], height=0.75, color=COLORS[0])
    # In a column of their own, which the line of the mean does not reach.
    for place, (accuracy, _) in zip(places, known, strict=True):
        axes.text(1.08, place, f"{accuracy:.0%}", va="center", ha="right", fontsize=7)
    if left_out > 0:
        axes.text(0.01, _BARS / 2 + 0.25, f"{left_out} classes between", va="center", fontsize=8, color="0.4")
    axes.axvline(mean, color="0.3", linewidth=1, linestyle="--", label=f"mean {mean:.1%}")
    axes.set_yticks(places, [_cut(name) for _, name in known], fontsize=8)
    axes.set_ylim(places[-1] + 0.8, -0.8)
    axes.set_xlim(0, 1.08)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axes.set_xlabel(label)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    if title:
        axes.set_title(title, fontsize=10, loc="left")
    plain(axes)
    return figure


def _blues() -> Any:
    import matplotlib

    return matplotlib.colormaps["Blues"].with_extremes(bad="0.85")


def _norm(*, root: bool) -> Any:
    from matplotlib.colors import Normalize, PowerNorm

    return PowerNorm(0.5, vmin=0, vmax=1) if root else Normalize(0, 1)


def _write_numbers(
    axes: Any, confusion: npt.NDArray[np.int64], shares: npt.NDArray[np.floating[Any]]
) -> None:
    """Write how many videos a cell stands for, white on dark."""
    for (i, j), number in np.ndenumerate(confusion):
        if number:
            color = "white" if shares[i, j] > 0.6 else "black"
            axes.text(j, i, f"{number:,}", ha="center", va="center", fontsize=8, color=color)


def _cut(name: str) -> str:
    # A dollar sign would start a formula.
    # From the middle: many classes begin alike ("Pretending to ...") and differ at the end.
    half = _NAME // 2
    short = name if len(name) <= _NAME else f"{name[:half].rstrip()}…{name[1 - half :].lstrip()}"
    return short.replace("$", r"\$")
