"""How training went: curves of several runs, and what accuracies they came to."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .figures import COLORS, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["accuracy_bars", "read_curves", "training_curves"]

Curves = dict[str, list[tuple[float, float]]]


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
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"log {path}: no such file")
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        names = rows.fieldnames or []
        if "step" not in names:
            raise ValueError(f"log {path}: has no column named step")
        curves: Curves = {name: [] for name in names if name not in ("step", "epoch")}
        for row in rows:
            try:
                for name, pairs in curves.items():
                    if row[name]:
                        pairs.append((float(row["step"]), float(row[name])))
            except (TypeError, ValueError):
                raise ValueError(
                    f"log {path}, line {rows.line_num}: holds no number in a column of numbers"
                ) from None
    return curves


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
        ValueError: a log has no such column.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "metrics.csv"
        >>> _ = file.write_text("step,train_loss,val_top1\\n10,2.0,\\n20,1.5,0.5\\n")
        >>> figure = training_curves({"tiny_tsn": file}, chance=0.125)
    """
    figure = new_figure(9, 3.4)
    left, right = figure.subplots(1, 2)
    for color, (name, path) in zip(COLORS, logs.items(), strict=False):
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
    if chance is not None:
        right.axhline(100 * chance, color="0.5", linestyle=":", linewidth=1, label="guessing")
    left.set(title="training loss", xlabel="step", ylim=(0, None))
    right.set(title="validation accuracy", xlabel="step", ylabel="%", ylim=(0, 102))
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        plain(axes)
        axes.grid(alpha=0.25)
        axes.set_xlim(0, None)
    return figure


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
        ValueError: there are no accuracies, or networks have different kinds.

    Example:
        >>> figure = accuracy_bars({"tiny_tsn": {"all": 0.12}, "tiny_tsm": {"all": 0.9}}, chance={"all": 0.1})
    """
    kinds = list(next(iter(accuracies.values()), {}))
    if not kinds or any(list(values) != kinds for values in accuracies.values()):
        raise ValueError(f"accuracies must hold the same kinds for every network, got {dict(accuracies)}")
    figure = new_figure(1.5 + 1.1 * len(kinds) * len(accuracies), 3.2)
    axes = figure.subplots()
    width = 0.8 / len(accuracies)
    for i, (color, (name, values)) in enumerate(zip(COLORS, accuracies.items(), strict=False)):
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
