"""Every kernel of a report under the machine's roof: what it moves and computes against what could be."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from .figures import COLORS, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["roofline", "roofline_points"]

Point = dict[str, Any]
# More operators than the palette has colours: four more, which stand apart from those and from the grey of copies.
_COLORS = (*COLORS, "#222222", "#8C510A", "#6A3D9A", "#A6A600")
_MARKERS = {"forward": "o", "backward": "s"}


def roofline_points(report: dict[str, Any]) -> list[Point]:
    """The kernels of a report that a roofline shows: of every size and direction the fastest, on most threads.

    Args:
        report: what :func:`vidops.bench.run` returned, or ``vidops.bench.report.read_report`` read.

    Returns:
        A dictionary a point: ``operator``, ``workload``, ``dtype``, ``device``, ``direction``, ``intensity``
        (multiply-adds a byte), ``rate`` (multiply-adds a second), ``bandwidth``, ``copy`` (bytes a second) and
        ``ceiling`` (multiply-adds a second).

    Example:
        >>> roofline_points({"results": []})
        []
    """
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for r in report["results"]:
        if r["kind"] != "kernel" or r["status"] != "ok" or not r.get("bytes"):
            continue
        key = (r["operator"], r["workload"], r["device"], r["dtype"], r["direction"])
        best = found.get(key)
        if best is None or (-(r["threads"] or 0), r["seconds"]) < (-(best["threads"] or 0), best["seconds"]):
            found[key] = r
    return [
        {
            **{name: r[name] for name in ("operator", "workload", "dtype", "device", "direction")},
            "intensity": r["products"] / r["bytes"],
            "rate": r["products_per_second"],
            "bandwidth": r["bytes_per_second"],
            "copy": r["copy_bytes_per_second"],
            "ceiling": r["products_ceiling"],
        }
        for r in found.values()
    ]


def roofline(report: dict[str, Any]) -> Figure:
    """Draw the kernels of a report under the rates of a copy and of multiply-adds.

    Kernels that compute stand at their multiply-adds a byte, those whose floor is bytes alone beside them, in a panel
    of their own; a panel without kernels is left out. An operator has one colour throughout. The roof is that of the
    median copy, its shade that of the slowest and the fastest.

    Args:
        report: what :func:`vidops.bench.run` returned, or ``vidops.bench.report.read_report`` read.

    Returns:
        The figure: a point a size, dtype and direction, of the fastest kernel on most threads.

    Raises:
        ValueError: the report holds no kernel that was measured against a floor.

    Example:
        >>> roofline({"results": []})
        Traceback (most recent call last):
        ValueError: the report holds no kernel with a floor to draw
    """
    points = roofline_points(report)
    if not points:
        raise ValueError("the report holds no kernel with a floor to draw")
    computing = [p for p in points if p["intensity"] > 0]
    moving = [p for p in points if not p["intensity"]]
    names = sorted({p["operator"] for p in points})
    colors = {name: _COLORS[place % len(_COLORS)] for place, name in enumerate(names)}
    panels = [
        (draw, own, width) for draw, own, width in ((_moving, moving, 1), (_computing, computing, 2.4)) if own
    ]
    figure = new_figure(10, 5.6)
    widths = [width for *_, width in panels]
    grid = figure.subplots(1, len(panels), squeeze=False, width_ratios=widths)[0]
    for axes, (draw, own, _) in zip(grid, panels, strict=True):
        draw(axes, own, colors)
        plain(axes)
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.set_axisbelow(True)
    _legend(figure, colors)
    figure.suptitle(_title(report), fontsize=8, color="0.3")
    return figure


def _legend(figure: Figure, colors: dict[str, str]) -> None:
    """One for all panels: an operator's colour, a direction's mark."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=color, marker="o", linestyle="", markersize=5, label=name)
        for name, color in colors.items()
    ]
    for direction, marker in _MARKERS.items():
        fill = "0.4" if direction == "forward" else "none"
        mark: dict[str, Any] = {
            "color": "0.4",
            "markerfacecolor": fill,
            "marker": marker,
            "linestyle": "",
            "markersize": 5,
        }
        handles.append(Line2D([], [], label=direction, **mark))
    figure.legend(handles=handles, frameon=False, fontsize=8, loc="outside lower center", ncols=6)


def _moving(axes: Any, points: list[Point], colors: dict[str, str]) -> None:
    """Rates of moving bytes, operator by operator; a dash is the copy's of the same size."""
    axes.set_title("kernels without multiply-adds", fontsize=9)
    names = list(dict.fromkeys(p["operator"] for p in points))
    for place, name in enumerate(names):
        own = [p for p in points if p["operator"] == name]
        for i, p in enumerate(own):
            x = place + (i - (len(own) - 1) / 2) * min(0.09, 0.7 / len(own))
            axes.plot(x, p["copy"] / 1e9, "_", color="0.35", markersize=7, zorder=2)
            _point(axes, x, p["bandwidth"] / 1e9, p, colors[name])
    axes.set_xticks(range(len(names)), [n.replace("_", "\n") for n in names], fontsize=8)
    axes.set_xlim(-0.6, max(len(names) - 0.4, 0.6))
    axes.set_ylim(bottom=0)
    axes.set_ylabel("GB/s moved; dash: a copy of as many bytes", fontsize=8)


def _computing(axes: Any, points: list[Point], colors: dict[str, str]) -> None:
    """The roofline proper."""
    axes.set_title("kernels that compute", fontsize=9)
    axes.set_xlabel("multiply-adds a byte moved", fontsize=8)
    axes.set_ylabel("G multiply-adds/s", fontsize=8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    copies = sorted(p["copy"] for p in points)
    ceiling = max(p["ceiling"] for p in points)
    low = min(p["intensity"] for p in points) / 2
    high = max(*(p["intensity"] for p in points), 2 * ceiling / copies[0]) * 2
    xs = [low * (high / low) ** (i / 200) for i in range(201)]

    def roof(copy: float) -> list[float]:
        return [min(ceiling, x * copy) / 1e9 for x in xs]

    axes.fill_between(xs, roof(copies[0]), roof(copies[-1]), color="0.9", linewidth=0, zorder=0)
    axes.plot(xs, roof(statistics.median(copies)), color="0.35", linewidth=1, zorder=1)
    axes.text(high, ceiling / 1e9 * 1.06, f"{ceiling / 1e9:.0f} G multiply-adds/s", ha="right", fontsize=7)
    copied = f"grey: copies of these sizes,\n{copies[0] / 1e9:.0f} to {copies[-1] / 1e9:.0f} GB/s"
    axes.text(0.015, 0.94, copied, transform=axes.transAxes, va="top", fontsize=7)
    for p in points:
        _point(axes, p["intensity"], p["rate"] / 1e9, p, colors[p["operator"]])
    axes.set_xlim(low, high)


def _point(axes: Any, x: float, y: float, point: Point, color: str) -> None:
    forward = point["direction"] == "forward"
    axes.plot(
        x, y, _MARKERS[point["direction"]], color=color, markerfacecolor=color if forward else "white",
        markersize=5 if forward else 4.5, markeredgewidth=1, zorder=3,
    )  # fmt: skip


def _title(report: dict[str, Any]) -> str:
    machine = report["machine"]
    name = machine["gpu"]["name"] if machine["gpu"] else f"{machine['cpu']}, {machine['cores']} cores"
    return f"{name}, torch {machine['versions']['torch']}, {report['date'][:10]}; the fastest kernel of each size"
