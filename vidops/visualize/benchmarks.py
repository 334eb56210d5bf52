"""A report of ``vidops bench`` as bars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .figures import COLORS, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["benchmark_bars"]


def benchmark_bars(report: dict[str, Any]) -> Figure:
    """Draw, for every kernel, its multiple of the least possible time and its speed-up over eager PyTorch.

    Args:
        report: what :func:`vidops.bench.run` returned, or ``vidops.bench.report.read_report`` read.

    Returns:
        The figure: a bar a kernel, size, dtype, layout, direction and number of threads.

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
    records = records[::-1]  # the first one on top
    places = range(len(records))
    colors = {name: COLORS[i] for i, name in enumerate(("cpu", "cuda", "triton", "reference", "fused"))}
    fill = [colors[r["variant"]] for r in records]
    figure = new_figure(11, 1.6 + 0.3 * len(records))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1))

    floors = [r["floor_multiple"] for r in records]
    left.barh(places, floors, color=fill, height=0.7)
    left.axvline(1, color="0.2", linewidth=1)
    limits = [
        (p, t["limit"])
        for p, r in zip(places, records, strict=True)
        for t in r["targets"]
        if t["metric"] == "floor"
    ]
    # The figures stand in a column of their own: neither the line of the floor nor a target strikes through them.
    edge = 1.2 * max(*floors, *(limit for _, limit in limits), 1.5)
    left.set_xlim(0, edge)
    left.set_title("time, in multiples of the least possible (1 = floor)", fontsize=10)
    for place, value in zip(places, floors, strict=True):
        left.text(edge, place, f"{value:.2f}", va="center", ha="right", fontsize=8)
    if limits:
        left.plot(
            [x for _, x in limits], [p for p, _ in limits], "|", color="black", markersize=11, label="target"
        )
        figure.legend(frameon=False, fontsize=8, loc="outside lower left")

    right.set_title("speed-up over the fastest eager PyTorch", fontsize=10)
    right.axvline(1, color="0.2", linewidth=1)
    bests = [r["best"].get("eager") for r in records]
    ratios = [b["ratio"] if b else 0.0 for b in bests]
    right.barh(places, ratios, color=fill, height=0.7)
    texts = [_ratios(record) for record in records]
    # Room for the texts, a letter of which takes about this share of the axes.
    needed = [
        ratio / max(0.2, 1 - 0.018 * max(map(len, text.split("\n"))))
        for ratio, text in zip(ratios, texts, strict=True)
    ]
    right.set_xlim(0, max(*needed, 3))
    for place, text, ratio in zip(places, texts, ratios, strict=True):
        right.text(max(ratio, 1), place, text, va="center", fontsize=7)

    left.set_yticks(list(places), [_label(r) for r in records], fontsize=8)
    left.set_ylim(-0.6, len(records) - 0.4)
    for axes in (left, right):
        plain(axes)
        axes.grid(axis="x", alpha=0.25)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
    figure.suptitle(_title(report), fontsize=8, color="0.3")
    return figure


def _label(record: dict[str, Any]) -> str:
    threads = "" if record["threads"] is None else f", {record['threads']} thr."
    dtype = record["dtype"].replace("bfloat", "bf").replace("float", "fp")
    return (
        f"{record['operator']} {record['workload']} {dtype} {record['layout']}\n"
        f"{record['direction']}, {record['variant']}{threads}"
    )


def _ratios(record: dict[str, Any]) -> str:
    """The speed-ups over the two fastest baselines, the fastest first, one a line."""
    nearest = sorted((ratio, name) for name, ratio in record["ratios"].items())[:2]
    return "\n".join(f" {ratio:.1f} x {name}" for ratio, name in nearest) or " no baseline ran"


def _title(report: dict[str, Any]) -> str:
    machine = report["machine"]
    name = machine["gpu"]["name"] if machine["gpu"] else f"{machine['cpu']}, {machine['cores']} cores"
    load = report.get("foreign_load")
    busy = "" if load is None or machine["gpu"] else f"; {load:.2f} cores busy with other work"
    return f"{name}, torch {machine['versions']['torch']}, {report['date']}{busy}"
