"""What one network gains over another, class by class."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._titles import tell_apart
from .figures import COLORS, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["class_gains", "gains_plot", "read_report"]


def read_report(path: str | Path) -> dict[str, Any]:
    """Read the JSON file of ``vidops evaluate --json``.

    Args:
        path: the file.

    Returns:
        What ``Report.as_dict`` gave, or of a network that classifies actors ``ActorReport.as_dict``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON, or has no figures of classes.

    Example:
        >>> read_report("no/such/report.json")
        Traceback (most recent call last):
        FileNotFoundError: report no/such/report.json: no such file
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"report {path}: no such file")
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"report {path}: is no JSON ({error})") from error
    try:
        measure = _measure(report)
        for entry in report["classes"]:
            str(entry["name"]), int(entry["samples"]), float(entry[measure] or 0)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"report {path}: holds no figures of classes, as vidops evaluate writes them"
        ) from error
    found: dict[str, Any] = report
    return found


def class_gains(baseline: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, float, float, int]]:
    """List the classes of two reports by what the second has over the first, the greatest gain first.

    Args:
        baseline: what ``Report.as_dict`` or ``ActorReport.as_dict`` gave of one network.
        other: of another network, on the same videos.

    Returns:
        Name, both accuracies (shares of one) and the number of videos of every class that has some; equal
        gains stay in the order of the classes. Of actors average precisions, and ground-truth boxes.

    Raises:
        ValueError: the reports are not of one kind and of the same classes with as many videos each, or have no
            videos.

    Example:
        >>> def report(*right):
        ...     return {"classes": [{"name": n, "samples": 4, "accuracy": r} for n, r in zip("ab", right)]}
        >>> class_gains(report(0.5, 0.5), report(0.25, 1.0))
        [('b', 0.5, 1.0, 4), ('a', 0.5, 0.25, 4)]
    """
    measure = _measure(baseline)
    if _measure(other) != measure:
        raise ValueError("reports: one is of clips, the other of actors")
    first, second = ({e["name"]: e for e in report["classes"]} for report in (baseline, other))
    if set(first) != set(second):
        name = sorted(set(first) ^ set(second))[0]
        raise ValueError(f"reports: are of different classes, only one has {name!r}")
    rows = []
    for name, entry in first.items():
        counts = entry["samples"], second[name]["samples"]
        if counts[0] != counts[1]:
            raise ValueError(
                f"reports: are of different videos, class {name!r} has {counts[0]} in one and {counts[1]} in the other"
            )
        if counts[0]:
            rows.append((name, float(entry[measure]), float(second[name][measure]), int(counts[0])))
    if not rows:
        raise ValueError("reports: no class has videos")
    return sorted(rows, key=lambda row: row[1] - row[2])


def gains_plot(
    baseline: Mapping[str, Any],
    other: Mapping[str, Any],
    *,
    number: int = 10,
    names: tuple[str, str] | None = None,
) -> Figure:
    """Draw the classes that gain most and those that lose most from one network to another.

    Args:
        baseline: what ``Report.as_dict`` or ``ActorReport.as_dict`` gave of one network.
        other: of another network, on the same videos.
        number: classes from each end; all where there are no more than twice as many.
        names: of the networks; by default the reports' models.

    Returns:
        The figure: bars of the gain in points, sorted, and both accuracies beside them; its title says how many
        classes gain.

    Raises:
        ValueError: ``number`` is below 1, or as :func:`class_gains` says.

    Source: Cao et al., KPSEM, figure 7; Kim et al., spatio-temporal SlowFast self-attention, figure 4.2 (average
    precisions of 60 classes); the order and the losing end are ours.

    Example:
        >>> def report(*right):
        ...     return {"classes": [{"name": n, "samples": 4, "accuracy": r} for n, r in zip("ab", right)]}
        >>> figure = gains_plot(report(0.5, 0.5), report(0.25, 1.0), names=("TSN", "MSTNet"))
        >>> [float(bar.get_width()) for bar in figure.axes[0].patches]
        [50.0, -25.0]
    """
    if number < 1:
        raise ValueError(f"number must be at least 1, got {number}")
    names = names or _names(baseline, other)
    rows = class_gains(baseline, other)
    every = len(rows)
    cut = number if every > 2 * number else every
    shown = rows if cut == every else [*rows[:number], *rows[-number:]]
    # A gap between the two ends says that classes are left out there.
    places = [-float(i) - (0.6 if i >= cut else 0.0) for i in range(len(shown))]

    label = 0.07 * min(46, max(len(name) for name, *_ in shown))
    figure = new_figure(label + 7.2, 1.5 + 0.27 * len(shown))
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_gains(left, places, [100 * (b - a) for _, a, b, _ in shown])
    left.set_title(f"gain of {names[1]} over {names[0]}, points", fontsize=9)
    _draw_both(right, places, [100 * a for _, a, _, _ in shown], [100 * b for _, _, b, _ in shown], names)
    actors = _measure(baseline) == "average_precision"
    right.set_title(f"{'average precision' if actors else 'accuracy'} of the class, %", fontsize=9)
    legend = right.get_legend_handles_labels()
    figure.legend(*legend, loc="outside lower right", ncols=2, frameon=False, fontsize=8)

    ticks = [f"{_wrap(name)} ({count})" for name, _, _, count in shown]
    left.set_yticks(places, ticks, fontsize=8, linespacing=1)
    left.set_ylim(places[-1] - 0.7, 0.7)
    for axes in (left, right):
        plain(axes)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelsize=8)
        axes.grid(axis="x", alpha=0.25)
        axes.set_axisbelow(True)
        if cut < every:
            axes.axhline((places[cut - 1] + places[cut]) / 2, color="0.6", linewidth=0.8, linestyle=":")
    gained = sum(after > before for _, before, after, _ in rows)
    text = f"{gained} of {every} classes gain"
    text += f"; {len(shown)} are shown" if cut < every else ""
    figure.suptitle(
        f"{text}; number of {'boxes' if actors else 'videos'} in brackets", fontsize=8, color="0.3"
    )
    return figure


def _measure(report: Mapping[str, Any]) -> str:
    """Tell what a report says of each class."""
    first: Mapping[str, Any] = next(iter(report["classes"]), {})
    return "average_precision" if "average_precision" in first else "accuracy"


def _draw_gains(axes: Any, places: list[float], gains: list[float]) -> None:
    """Draw bars with their numbers at their ends."""
    axes.barh(places, gains, 0.72, color=[COLORS[0] if gain >= 0 else COLORS[1] for gain in gains])
    for place, gain in zip(places, gains, strict=True):
        axes.annotate(
            f"{gain:+.1f}",
            (gain, place),
            (3 if gain >= 0 else -3, 0),
            textcoords="offset points",
            ha="left" if gain >= 0 else "right",
            va="center",
            fontsize=7,
        )
    low, high = min(0.0, *gains), max(0.0, *gains)
    room = 0.22 * max(high - low, 1.0)  # for the numbers
    if low == high:  # nothing gained anywhere
        low, high, room = -1.0, 1.0, 0.0
    axes.set_xlim(low - room * (low < 0), high + room * (high > 0))
    axes.axvline(0, color="0.2", linewidth=0.8)


def _draw_both(
    axes: Any, places: list[float], firsts: list[float], seconds: list[float], names: tuple[str, str]
) -> None:
    """Draw two accuracies a class, joined; the first one's ring is seen where both lie at the same place."""
    axes.hlines(places, firsts, seconds, color="0.75", linewidth=1.5, zorder=1)
    axes.plot(firsts, places, "o", color="0.35", markerfacecolor="white", markersize=7, label=names[0])
    axes.plot(seconds, places, "D", color=COLORS[2], markersize=4, label=names[1])
    axes.set_xlim(-3, 103)


def _names(baseline: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, str]:
    models = [str(baseline.get("model", "first")), str(other.get("model", "second"))]
    first, second = tell_apart(models, [str(report.get("weights", "")) for report in (baseline, other)])
    return first, second


def _wrap(name: str) -> str:
    """Names of actions often differ in their last words: two lines before anything is cut."""
    return "\n".join(textwrap.wrap(name, 46, max_lines=2, placeholder=" ..."))
