"""How training went: curves of several runs, and what accuracies they came to."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .figures import new_figure, plain, series_colors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["accuracy_bars", "read_curves", "read_epochs", "run_curves", "training_curves"]

Segment = tuple[tuple[float, float], tuple[float, float]]
Curves = dict[str, list[tuple[float, float]]]
# Columns that only a row at an epoch's end holds.
CLOSING = ("train_top1", "val_loss", "val_top1", "val_top5", "val_map")
ACCURACIES = {"top1": "top-1 accuracy, %", "top5": "top-5 accuracy, %", "map": "frame mAP, %"}


def read_curves(path: str | Path) -> Curves:
    """Read a run's ``metrics.csv``: every column but ``step`` and ``epoch`` as (step, value) pairs.

    Args:
        path: a csv file with a ``step`` column; empty cells are left out.

    Returns:
        Pairs by column, in the order of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no ``step`` column, or a cell is no number.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "metrics.csv"
        >>> _ = file.write_text("step,train_loss,val_top1\\n10,2.0,\\n20,,0.5\\n")
        >>> read_curves(file)
        {'train_loss': [(10.0, 2.0)], 'val_top1': [(20.0, 0.5)]}
    """
    curves: Curves = {}
    for row in read_rows(path):
        for name, value in row.items():
            pairs = curves.setdefault(name, []) if name not in ("step", "epoch") else None
            if pairs is not None and value is not None:
                pairs.append((row["step"] or 0.0, value))
    return curves


def read_epochs(path: str | Path) -> Curves:
    """Read the rows of a run's ``metrics.csv`` that close an epoch, as (epoch, value) pairs.

    Args:
        path: a csv file with the columns ``step`` and ``epoch``.

    Returns:
        Pairs by column; ``train_loss`` is the epoch's mean.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no such columns, no epoch is closed, or a cell is no number.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "metrics.csv"
        >>> _ = file.write_text("epoch,step,train_loss,val_top1\\n1,10,2.0,\\n1,20,1.8,0.5\\n")
        >>> read_epochs(file)
        {'train_loss': [(1.0, 1.8)], 'val_top1': [(1.0, 0.5)]}
    """
    curves: Curves = {}
    for row in read_rows(path):
        epoch = row.get("epoch")
        if epoch is None or all(row.get(name) is None for name in CLOSING):
            continue
        for name, value in row.items():
            if name not in ("step", "epoch") and value is not None:
                curves.setdefault(name, []).append((epoch, value))
    if not curves:
        raise ValueError(f"log {path}: holds no finished epoch")
    return curves


def read_rows(path: str | Path) -> list[dict[str, float | None]]:
    """Read the rows of a log, None for an empty cell; a last line that is cut short has its last cells empty."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"log {path}: no such file")
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if "step" not in (rows.fieldnames or []):
            raise ValueError(f"log {path}: has no column named step")
        found: list[dict[str, float | None]] = []
        for row in rows:
            try:
                found.append({name: float(cell) if cell else None for name, cell in row.items()})
            except (TypeError, ValueError):
                raise ValueError(
                    f"log {path}, line {rows.line_num}: holds no number in a column of numbers"
                ) from None
    return found


def run_curves(logs: Mapping[str, str | Path], *, accuracy: str | None = None) -> Figure:
    """Draw loss and accuracy of several runs over their epochs, in training and in validation.

    Training's figures are an epoch's means, measured while the weights changed; validation's are those after
    the epoch.

    Args:
        logs: ``metrics.csv`` of each run, by the name in the legend; their numbers of epochs may differ.
        accuracy: ``"top1"``, ``"top5"``, or of networks that classify actors ``"map"``; of training only the top-1 is
            logged. None: the frame mAP where all runs have one, else the top-1.

    Returns:
        The figure: losses at the left, accuracies in percent at the right; a run has one colour, training
        is dashed and its points are rings. Where a run's line covers
        another's, that one is a band around it.

    Raises:
        FileNotFoundError: a log does not exist.
        ValueError: there are no runs or more than six, a log has no finished epoch or lacks a loss or the
            accuracy, or the accuracy has another name.

    Source: Huang's thesis, figure 4.7.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "metrics.csv"
        >>> _ = file.write_text("epoch,step,train_loss,val_loss,val_top1\\n1,9,1.8,1.9,0.5\\n")
        >>> figure = run_curves({"tiny_tsn": file})
        >>> [line.get_label() for line in figure.axes[0].lines]
        ['tiny_tsn, training', 'tiny_tsn, validation']
    """
    if accuracy not in (None, *ACCURACIES):
        raise ValueError(f"accuracy must be top1, top5 or map, got {accuracy!r}")
    colors = series_colors(len(logs), "runs")
    runs = {name: read_epochs(path) for name, path in logs.items()}
    if accuracy is None:
        accuracy = "map" if all("val_map" in epochs for epochs in runs.values()) else "top1"
    figure = new_figure(9.4, 3.9 + 0.17 * len(logs))
    left, right = figure.subplots(1, 2)
    for color, (name, path) in zip(colors, logs.items(), strict=True):
        epochs = runs[name]
        for axes, kind, scale in ((left, "loss", 1.0), (right, accuracy, 100.0)):
            if not any(f"{split}_{kind}" in epochs for split in ("train", "val")):
                raise ValueError(f"log {path}: has no values of train_{kind} or val_{kind}")
            for split, text, style in (("train", "training", "--"), ("val", "validation", "-")):
                pairs = epochs.get(f"{split}_{kind}", [])
                if pairs:
                    x, y = zip(*pairs, strict=True)
                    # Few epochs are points that lines join; of a single one the point is all there is.
                    axes.plot(
                        x,
                        [scale * v for v in y],
                        style,
                        color=color,
                        linewidth=1.4,
                        marker="o" if len(x) <= 30 else None,
                        markersize=6 if split == "train" else 3,  # a ring is seen around a point
                        markerfacecolor="white" if split == "train" else color,
                        label=f"{name}, {text}",
                    )
    left.set_title(f"{'binary ' if accuracy == 'map' else ''}cross-entropy loss", fontsize=10)
    right.set_title(ACCURACIES[accuracy], fontsize=10)
    for axes in (left, right):
        axes.set_xlabel("epoch", fontsize=9)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.tick_params(labelsize=8)
        axes.set_xlim(0, None)
        plain(axes)
        axes.grid(alpha=0.25)
        uncover(axes)
    # Column by column: training's lines in one, validation's in the other.
    lines = sorted(left.lines, key=lambda line: line.get_linestyle() != "--")
    figure.legend(handles=lines, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure


def training_curves(
    logs: Mapping[str, str | Path],
    *,
    loss: str = "train_loss",
    accuracy: str = "val_top1",
    chance: float | None = None,
) -> Figure:
    """Draw the training loss and the validation accuracy of several runs over their steps.

    Args:
        logs: csv file of each run, by the name in the legend.
        loss: column of the loss.
        accuracy: column of the accuracy, a share of one.
        chance: accuracy of guessing, drawn as a line.

    Returns:
        The figure.

    Raises:
        FileNotFoundError: a log does not exist.
        ValueError: there are no logs or more than six, or a log has no such column.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "metrics.csv"
        >>> _ = file.write_text("step,train_loss,val_top1\\n10,2.0,\\n20,1.5,0.5\\n")
        >>> figure = training_curves({"tiny_tsn": file}, chance=0.125)
    """
    colors = series_colors(len(logs), "logs")
    figure = new_figure(9, 3.4)
    left, right = figure.subplots(1, 2)
    for color, (name, path) in zip(colors, logs.items(), strict=True):
        curves = read_curves(path)
        # A row with the accuracy closes an epoch: its loss is the epoch's mean, not the step's.
        closing = {step for step, _ in curves.get(accuracy, ())}
        every = curves.get(loss, [])
        curves[loss] = [pair for pair in every if pair[0] not in closing] or every
        for axes, column, scale, marker in ((left, loss, 1.0, None), (right, accuracy, 100.0, "o")):
            if not curves.get(column):
                raise ValueError(f"log {path}: has no values of {column}")
            steps, values = zip(*curves[column], strict=True)
            axes.plot(
                steps, [scale * v for v in values], color=color, label=name, marker=marker, markersize=4
            )
    for axes in (left, right):
        uncover(axes)
    if chance is not None:
        right.axhline(100 * chance, color="0.5", linestyle=":", linewidth=1, label="guessing")
    left.set(title="training loss", xlabel="step", ylim=(0, None))
    right.set(title="validation accuracy", xlabel="step", ylabel="%", ylim=(0, 102))
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=8)
        plain(axes)
        axes.grid(alpha=0.25)
        axes.set_xlim(0, None)
    return figure


def uncover(axes: Any) -> None:
    """Draw a band of a line's colour around where later ones of its style cover it, from point to point."""
    from matplotlib.collections import LineCollection

    low, high = axes.get_ylim()
    near = 0.005 * (high - low)
    lines = list(axes.lines)
    for i, line in enumerate(lines):
        later = [other for other in lines[i + 1 :] if other.get_linestyle() == line.get_linestyle()]
        covered: dict[Segment, int] = {}  # by how many
        for other in later:
            for segment in _common(line, other, near):
                covered[segment] = covered.get(segment, 0) + 1
        widths = [line.get_linewidth() + 4.0 * times for times in covered.values()]
        if not covered:
            continue
        bands = LineCollection(
            list(covered), linewidths=widths, colors=line.get_color(), alpha=0.55, capstyle="round"
        )
        bands.set_label(f"_{line.get_label()}")
        bands.set_zorder(1.5 + 0.01 * i)  # below all lines, the widest first
        axes.add_collection(bands)


def _common(line: Any, other: Any, near: float) -> list[Segment]:
    """Segments of a line that another has too; of a single point, where both have no other, one without length."""
    own, there = (dict(each.get_xydata().tolist()) for each in (line, other))
    points = sorted(own.items())
    if len(points) == 1:
        points *= 2
    same = [x in there and abs(y - there[x]) <= near for x, y in points]
    return [(points[i], points[i + 1]) for i in range(len(points) - 1) if same[i] and same[i + 1]]


def accuracy_bars(
    accuracies: Mapping[str, Mapping[str, float]], *, chance: Mapping[str, float] | None = None
) -> Figure:
    """Draw accuracies of several networks as bars.

    Args:
        accuracies: shares of one by network, then by kind: ``{"tiny_tsn": {"all classes": 0.12}}``.
        chance: accuracy of guessing for a kind, drawn as a line across its bars.

    Returns:
        The figure.

    Raises:
        ValueError: there are no accuracies or of more than six networks, or networks have different kinds.

    Example:
        >>> figure = accuracy_bars({"tiny_tsn": {"all": 0.12}, "tiny_tsm": {"all": 0.9}}, chance={"all": 0.1})
    """
    kinds = list(next(iter(accuracies.values()), {}))
    if not kinds or any(list(values) != kinds for values in accuracies.values()):
        raise ValueError(f"accuracies must hold the same kinds for every network, got {dict(accuracies)}")
    colors = series_colors(len(accuracies), "networks")
    figure = new_figure(1.5 + 1.1 * len(kinds) * len(accuracies), 3.2)
    axes = figure.subplots()
    width = 0.8 / len(accuracies)
    for i, (color, (name, values)) in enumerate(zip(colors, accuracies.items(), strict=True)):
        places = [k - 0.4 + (i + 0.5) * width for k in range(len(kinds))]
        bars = axes.bar(places, [100 * values[kind] for kind in kinds], 0.92 * width, color=color, label=name)
        axes.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
    for k, kind in enumerate(kinds):
        if chance and kind in chance:
            label = "guessing" if k == 0 else "_"
            axes.hlines(100 * chance[kind], k - 0.45, k + 0.45, color="0.3", linestyle=":", label=label)
    axes.set(xticks=range(len(kinds)), xticklabels=kinds, ylabel="%", ylim=(0, 112), yticks=range(0, 101, 25))
    axes.set_title("validation accuracy", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3)
    plain(axes)
    return figure
