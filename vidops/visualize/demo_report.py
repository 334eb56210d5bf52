"""The report folder of ``vidops demo``: one page, its pictures, and the figures as JSON."""

from __future__ import annotations

import html
import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .benchmarks import benchmark_bars
from .clips import frame_grid
from .figures import save
from .training import accuracy_bars, training_curves

__all__ = ["Facts", "Run", "write_report"]


@dataclass(frozen=True)
class Run:
    """What was measured of one network.

    Attributes:
        weights: its checkpoint.
        log: its ``metrics.csv``.
        epochs: trained.
        samples: validation clips.
        top1: share of them that got their class.
        within_pairs: share whose class is likelier than its mirrored one.
        classes: names.
        class_accuracies: top-1 of each class; None for one without clips.
        seconds: of training and validation, over all starts of the run.
    """

    weights: Path
    log: Path
    epochs: int
    samples: int
    top1: float
    within_pairs: float
    classes: list[str]
    class_accuracies: list[float | None]
    seconds: float


@dataclass
class Facts:
    """All that the page shows.

    Attributes:
        info: what is installed, as ``vidops info`` prints it.
        data: folder of the motion dataset.
        runs: by network, the one without temporal modelling first.
        predictions: one entry a network and file, as ``Prediction.as_dict`` gives it, with ``network``.
        bench: the report of ``vidops bench``, or why there is none.
    """

    info: str
    data: Path = Path()
    runs: dict[str, Run] = field(default_factory=dict)
    predictions: list[dict[str, Any]] = field(default_factory=list)
    bench: dict[str, Any] | str = ""


def write_report(folder: str | Path, facts: Facts) -> Path:
    """Write the page, its pictures and ``results.json`` to a folder; an older one is replaced at the end.

    Args:
        folder: the report's folder.
        facts: what was measured.

    Returns:
        The page.

    Raises:
        OSError: the folder cannot be written.
        ImportError: matplotlib or PyAV is not installed.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
    try:
        pictures = _pictures(partial, facts)
        (partial / "results.json").write_text(json.dumps(_figures(facts), indent=1) + "\n", encoding="utf-8")
        (partial / "index.html").write_text(_page(facts, pictures), encoding="utf-8")
        partial.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return folder / "index.html"


def _pictures(folder: Path, facts: Facts) -> list[str]:
    """Draw everything; return the names of the frame grids."""
    first = next(iter(facts.runs.values()))
    grids = []
    for one, two in zip(first.classes[::2], first.classes[1::2], strict=True):
        name = f"frames_{one}_{two}.png"
        files = [facts.data / "videos" / label / "val_00000.mp4" for label in (one, two)]
        save(frame_grid([_frames(file) for file in files], [one, two], average=True), folder / name)
        grids.append(name)
    chance = 1 / len(first.classes)
    save(training_curves({n: r.log for n, r in facts.runs.items()}, chance=chance), folder / "training.png")
    bars = {
        n: {"all classes": r.top1, "within mirrored pairs": r.within_pairs} for n, r in facts.runs.items()
    }
    save(
        accuracy_bars(bars, chance={"all classes": chance, "within mirrored pairs": 0.5}),
        folder / "accuracy.png",
    )
    if isinstance(facts.bench, dict):
        save(benchmark_bars(facts.bench), folder / "bench.png")
    return grids


def _frames(path: Path) -> torch.Tensor:
    from vidops.data import num_frames, read_frames

    return torch.from_numpy(read_frames(path, range(num_frames(path))))


def _figures(facts: Facts) -> dict[str, Any]:
    runs = {
        name: {
            "epochs": run.epochs,
            "samples": run.samples,
            "top1": run.top1,
            "within_pairs": run.within_pairs,
            "classes": dict(zip(run.classes, run.class_accuracies, strict=True)),
        }
        for name, run in facts.runs.items()
    }
    bench = facts.bench if isinstance(facts.bench, dict) else {"not_measured": facts.bench}
    return {"runs": runs, "predictions": facts.predictions, "bench": bench}


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222 }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.7rem; margin-bottom: 0 } h2 { font-size: 1.2rem; margin-top: 2.4rem }
img { max-width: 100%; display: block; margin: .6rem 0 }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; font-size: .76rem; line-height: 1.35 }
table { border-collapse: collapse }
th, td { padding: .25rem .9rem; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child, td.text, th.text { text-align: left }
.pairs { display: grid; grid-template-columns: repeat(auto-fit, minmax(28rem, 1fr)); gap: 0 1.5rem }
"""


def _page(facts: Facts, grids: list[str]) -> str:
    runs = facts.runs
    first, *_, last = runs
    classes = len(runs[first].classes)
    gap = 100 * (runs[last].top1 - runs[first].top1)
    side = "above" if gap >= 0 else "below"
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>vidops demo</title>",
        f"<style>{_STYLE}</style>",
        "<h1>vidops demo</h1>",
        "<p>Everything here was measured in this folder. Started again on it, the demo keeps the dataset and the"
        " trained networks.</p>",
        "<h2>Classes that only the order of frames tells apart</h2>",
        "<p>Each lower clip is the upper one played backwards. The last picture of each is the average of its"
        " frames: the same for both.</p>",
        f"<div class='pairs'>{''.join(_image(name) for name in grids)}</div>",
        "<h2>Two networks, alike but for MixTConv</h2>",
        f"<p>{first} averages over frames; {last} is the same network with MixTConv, the fused"
        f" temporal_conv, before each block. After {runs[last].epochs} epochs it is {abs(gap):.1f} points"
        f" {side}.</p>",
        _table(
            ["network", "all classes", "within mirrored pairs", "validation clips", "trained in"],
            [
                [n, f"{r.top1:.1%}", f"{r.within_pairs:.1%}", str(r.samples), f"{r.seconds:.0f} s"]
                for n, r in runs.items()
            ]
            + [["guessing", f"{1 / classes:.1%}", "50.0%", "", ""]],
        ),
        "<p>Within mirrored pairs: how often a clip's class gets more than the class that is it played"
        " backwards, the other classes left aside; a network that sees no order is right half the time.</p>",
        _image("accuracy.png"),
        _image("training.png"),
        "<h2>Accuracy by class</h2>",
        _table(
            ["class", *runs],
            [
                [name, *("" if a is None else f"{a:.1%}" for a in accuracies)]
                for name, *accuracies in zip(
                    runs[first].classes, *(r.class_accuracies for r in runs.values()), strict=True
                )
            ],
        ),
        "<h2>Predictions</h2>",
        "<p>The first validation clip of each class, and your own videos if any: of these the networks can only"
        f" say which of the {classes} made motions above they look like most.</p>",
        _table(
            ["file", "network", "answer", "likeliest classes"],
            [_prediction(p) for p in facts.predictions],
            text=True,
        ),
        "<h2>Speed of the operators</h2>",
        *_bench(facts.bench),
        "<h2>Installation</h2>",
        f"<pre>{html.escape(facts.info)}</pre>",
        "</html>\n",
    ]
    return "\n".join(parts)


def _image(name: str) -> str:
    return f"<img src='{html.escape(name, quote=True)}' alt='{html.escape(Path(name).stem, quote=True)}'>"


def _table(head: list[str], rows: list[list[str]], *, text: bool = False) -> str:
    kind = " class='text'" if text else ""
    lines = ["".join(f"<th{kind}>{html.escape(cell)}</th>" for cell in head)]
    lines += ["".join(f"<td{kind}>{html.escape(cell)}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _prediction(entry: dict[str, Any]) -> list[str]:
    name = "/".join(Path(entry["path"]).parts[-2:])
    if "error" in entry:
        return [name, entry["network"], "", f"error: {entry['error']}"]
    scores = ", ".join(f"{p['class']} {p['probability']:.1%}" for p in entry["predictions"])
    right = entry.get("right")
    return [name, entry["network"], "" if right is None else "right" if right else "wrong", scores]


def _bench(bench: dict[str, Any] | str) -> list[str]:
    if isinstance(bench, str):
        return [f"<p>Not measured: {html.escape(bench)}</p>"]
    from vidops.bench import report

    tables = ["\n".join(report.group_lines(records, targets=False)) for records in report.grouped(bench)]
    text = "\n\n".join(["\n".join(report.head_lines(bench)), *tables, report.LEGEND])
    return [_image("bench.png"), f"<pre>{html.escape(text)}</pre>"]
