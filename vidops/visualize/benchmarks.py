"""A benchmark report as bars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .figures import COLORS, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["benchmark_bars"]

Record = dict[str, Any]
_VARIANTS = dict(zip(("cpu", "cuda", "triton", "reference", "fused"), COLORS, strict=False))
_OTHERS = "0.5"
_TALL = 26  # inches
_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


def benchmark_bars(report: dict[str, Any]) -> Figure:
    """Draw, for every kernel, its multiple of the least possible time and its speed-up over eager PyTorch.

    Both are on logarithmic axes, from 1 on: a speed-up below 1 goes to the left.

    Args:
        report: what :func:`vidops.bench.run` returned, or ``vidops.bench.report.read_report`` read.

    Returns:
        The figure: a block an operator, in several columns where they are many; in it a bar a kernel, layout and
        number of threads, below a line a size, dtype and direction.

    Raises:
        ValueError: the report holds no kernel that was measured against a floor.

    Example:
        >>> benchmark_bars({"results": []})
        Traceback (most recent call last):
        ValueError: the report holds no kernel with a floor to draw
    """
    records = [r for r in report["results"] if r["kind"] == "kernel" and "floor_multiple" in r]
    if not records:
        raise ValueError("the report holds no kernel with a floor to draw")
    blocks: dict[str, list[Record]] = {}
    for record in records:
        blocks.setdefault(record["operator"], []).append(record)
    columns = _columns(blocks)
    tallest = max(sum(map(_height, column)) for column in columns)
    figure = new_figure(11 * len(columns), 0.8 + tallest)
    # Each column in a figure of its own: those of one grid would have blocks of one height beside each other.
    parts = figure.subfigures(1, len(columns), squeeze=False)[0]
    for part, column in zip(parts, columns, strict=True):
        heights = [*map(_height, column), tallest - sum(map(_height, column))]
        heights = [height for height in heights if height > 0]
        places = part.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
        for place, block in zip(places, column, strict=False):
            _block(place, block)
    _legend(figure, records)
    figure.suptitle(_title(report), fontsize=8, color="0.3")
    return figure


def _columns(blocks: dict[str, list[Record]]) -> list[list[list[Record]]]:
    """The operators' blocks, the tallest first, each in the first column of _TALL inches that has room for it."""
    highest = max(_TALL, *map(_height, blocks.values()))
    columns: list[list[list[Record]]] = []
    for block in sorted(blocks.values(), key=_height, reverse=True):
        for column in columns:
            if sum(map(_height, [*column, block])) <= highest:
                column.append(block)
                break
        else:
            columns.append([block])
    return columns


def _rows(records: list[Record]) -> tuple[list[tuple[float, str]], list[float], float]:
    """Where headings and bars of a block are, downwards from 0, and where it ends."""
    heads: list[tuple[float, str]] = []
    places: list[float] = []
    row = 0.0
    for record in records:  # a line of its own before each group
        if not heads or heads[-1][1] != _head(record):
            row -= 1.2
            heads.append((row, _head(record)))
        row -= 1
        places.append(row)
    return heads, places, row


def _height(records: list[Record]) -> float:
    return 0.9 - 0.19 * _rows(records)[2]


def _block(figure: Any, records: list[Record]) -> None:
    """One operator: its floors and its speed-ups, on axes of their own."""
    heads, places, row = _rows(records)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.2))
    fill = [_VARIANTS.get(r["variant"], _OTHERS) for r in records]
    _floors(left, places, records, fill)
    _speedups(right, places, records, fill)
    left.set_yticks(places, [_label(r) for r in records], fontsize=7)
    left.set_ylim(row - 0.8, -0.5)
    for place, text in heads:
        inside = {"transform": left.get_yaxis_transform(), "ha": "left", "va": "center"}
        paper = {"color": "white", "pad": 0.5}  # so that the line at 1 does not strike it through
        left.text(0.005, place, text, fontsize=8, weight="bold", bbox=paper, **inside)
        for axes in (left, right):
            axes.axhline(place + 0.6, color="0.9", linewidth=0.6, zorder=0)
    for axes in (left, right):
        plain(axes)
        axes.grid(axis="x", alpha=0.25)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)


def _log(axes: Any, low: float, highest: float, room: float) -> None:
    """A logarithmic axis of round numbers up to the highest figure, and room for words beyond."""
    axes.set_xscale("log")
    axes.set_xlim(low, highest * (highest / low) ** room)
    ticks = [tick for tick in _TICKS if low <= tick <= 1.5 * highest]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=8)
    axes.minorticks_off()
    axes.axvline(1, color="0.2", linewidth=1)


def _bars(axes: Any, places: list[float], values: list[float], fill: list[str]) -> None:
    axes.barh(places, [value - 1 for value in values], left=1, color=fill, height=0.75)


def _floors(axes: Any, places: list[float], records: list[Record], fill: list[str]) -> None:
    """Multiples of the floor; the figures stand in a column of their own, which nothing strikes through."""
    floors = [r["floor_multiple"] for r in records]
    _bars(axes, places, floors, fill)
    limits = [
        (t["limit"], place)
        for place, r in zip(places, records, strict=True)
        for t in r["targets"]
        if t["metric"] == "floor"
    ]
    highest = max(*floors, *(limit for limit, _ in limits), 2)
    low = min(*floors, 1) / 1.1
    _log(axes, low, highest, 0.2)
    axes.set_title(f"{records[0]['operator']}: time in multiples of the floor", fontsize=9)
    for place, value in zip(places, floors, strict=True):
        beside = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "center"}
        axes.text(0.995, place, f"{value:.2f}", fontsize=7, **beside)
    if limits:
        axes.plot(*zip(*limits, strict=True), "|", color="black", markersize=8)


def _speedups(axes: Any, places: list[float], records: list[Record], fill: list[str]) -> None:
    """Speed-ups over the fastest eager form, with that and the nearest other form in words."""
    ratios = [r["best"]["eager"]["ratio"] if r["best"].get("eager") else 1.0 for r in records]
    _bars(axes, places, ratios, fill)
    low, highest = min(*ratios, 1) / 1.2, max(*ratios, 2)
    _log(axes, low, highest, 1.4)
    axes.set_title("speed-up over the fastest eager form", fontsize=9)
    for place, record in zip(places, records, strict=True):
        beside = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "center"}
        axes.text(0.995, place, _ratios(record), fontsize=7, **beside)


def _legend(figure: Figure, records: list[Record]) -> None:
    """Which colour is which kernel, where there are several, and what the ticks are."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    names = list(dict.fromkeys(r["variant"] for r in records))
    handles: list[Any] = [Patch(color=_VARIANTS.get(n, _OTHERS), label=n) for n in names] if names[1:] else []
    if any(t["metric"] == "floor" for r in records for t in r["targets"]):
        handles.append(Line2D([], [], color="black", marker="|", linestyle="", markersize=8, label="target"))
    if handles:
        figure.legend(
            handles=handles, frameon=False, fontsize=8, loc="outside lower left", ncols=len(handles)
        )


def _head(record: Record) -> str:
    dtype = record["dtype"].replace("bfloat", "bf").replace("float", "fp")
    return f"{record['workload']} {dtype} {record['direction']}"


def _label(record: Record) -> str:
    threads = "" if record["threads"] is None else f", {record['threads']} thr."
    return f"{record['variant']} {record['layout']}{threads}"


def _ratios(record: Record) -> str:
    """The speed-up that the bar shows, and the least of the others."""
    own = record["best"].get("eager")
    first = own["variant"] if own else None
    others = sorted((ratio, name) for name, ratio in record["ratios"].items() if name != first)
    shown = [(own["ratio"], first), *others[:1]] if own else others[:2]
    return ", ".join(f"{ratio:.1f} x {name}" for ratio, name in shown) or "no baseline ran"


def _title(report: dict[str, Any]) -> str:
    machine = report["machine"]
    name = machine["gpu"]["name"] if machine["gpu"] else f"{machine['cpu']}, {machine['cores']} cores"
    load = report.get("foreign_load")
    busy = "" if load is None or machine["gpu"] else f"; {load:.2f} cores busy with other work"
    return f"{name}, torch {machine['versions']['torch']}, {report['date']}{busy}"
