"""Average precisions of a network that classifies actors, as text and as a folder of files to keep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidops._files import write_text

from .detections import LabelledBoxes
from .frame_map import FrameMap
from .report import CLASSES, REPORT, SUMMARY, cell, write_json


@dataclass(frozen=True)
class ActorReport:
    """Frame mAP at IoU 0.5 of a network on key frames.

    Args:
        classes: class names.
        measured: average precision of each scored class.
        key_frames: number of key frames that were seen.
        boxes: number of boxes that were classified.
        origin: what was measured: model, weights, list, views, and whether boxes were annotated or given.
        detections: what was measured, a row a box and scored class; or None.

    Example:
        >>> measured = FrameMap(0.5, {0: 0.5, 2: math.nan}, {0: 4, 2: 0}, {0: 5, 2: 5})
        >>> ActorReport(["sit", "stand", "run"], measured, 3, 5).precisions
        [('sit', 4, 0.5), ('run', 0, None)]
    """

    classes: Sequence[str]
    measured: FrameMap
    key_frames: int
    boxes: int
    origin: dict[str, str] = field(default_factory=dict)
    detections: LabelledBoxes | None = None

    @property
    def frame_map(self) -> float:
        """Mean over the scored classes that have ground truth; nan if none has."""
        return self.measured.mean

    @property
    def precisions(self) -> list[tuple[str, int, float | None]]:
        """Name, ground-truth boxes and average precision of each scored class; None where there is no ground truth."""
        found = self.measured
        return [
            (self.classes[c], found.truths[c], None if math.isnan(p) else p)
            for c, p in found.per_class.items()
        ]

    @property
    def classes_seen(self) -> int:
        """Number of scored classes that have ground truth."""
        return sum(p is not None for _, _, p in self.precisions)

    def as_dict(self) -> dict[str, Any]:
        """Give the report as plain values for JSON.

        Returns:
            Counts, the mean (None if no class has ground truth) and one entry a scored class.
        """
        return {
            **self.origin,
            "key_frames": self.key_frames,
            "boxes_classified": self.boxes,
            "frame_map": None if math.isnan(self.frame_map) else self.frame_map,
            "iou": 0.5,
            "classes_seen": self.classes_seen,
            "classes": [
                {"name": name, "samples": count, "average_precision": precision}
                for name, count, precision in self.precisions
            ],
        }


def actor_table(report: ActorReport) -> str:
    """Lay a report of actors out for the terminal.

    Args:
        report: average precisions.

    Returns:
        Lines: one a scored class, and the mean last.

    Example:
        >>> measured = FrameMap(0.5, {0: 0.5, 1: math.nan}, {0: 4, 1: 0}, {0: 5, 1: 5})
        >>> print(actor_table(ActorReport(["sit", "stand"], measured, 3, 5, {"list": "val.csv"})))
        class   boxes       AP
        sit         4   50.00%
        stand       0        -
        network: frame mAP 50.00% at IoU 0.5 (over 1 of 2 classes), 5 boxes at 3 key frames of val.csv
    """
    width = max(len(name) for name in [*(name for name, _, _ in report.precisions), "class"])
    lines = [f"{'class':{width}}   boxes       AP"]
    for name, count, precision in report.precisions:
        lines.append(f"{name:{width}}   {count:5d}   {_percent(precision):>6}")
    given = f" ({report.origin['boxes']})" if "boxes" in report.origin else ""
    views = report.origin.get("views", "1x1")
    lines.append(
        f"{report.origin.get('model', 'network')}: frame mAP {_mean(report)} at IoU 0.5{_unseen(report)},"
        f" {report.boxes:,} boxes{given} at {report.key_frames:,} key frames of"
        f" {report.origin.get('list', 'the list')}{'' if views == '1x1' else f', views {views}'}"
    )
    return "\n".join(lines)


def actor_markdown(report: ActorReport) -> str:
    """Write a report of actors as Markdown, with the picture that :func:`write_actor_report` puts beside it.

    Args:
        report: average precisions.

    Returns:
        A table of what was measured, the picture, and a table with a line a class.

    Example:
        >>> measured = FrameMap(0.5, {0: 0.5}, {0: 4}, {0: 5})
        >>> print(actor_markdown(ActorReport(["sit"], measured, 3, 5)).splitlines()[0])
        # network: frame mAP 50.00 % at 3 key frames
    """
    origin = report.origin
    head = f"# {cell(origin.get('model', 'network'))}: frame mAP {_mean(report).replace('%', ' %')}"
    facts = [(key, f"`{value}`") for key, value in origin.items() if key != "model"]
    facts += [
        ("key frames", f"{report.key_frames:,}"),
        ("boxes classified", f"{report.boxes:,}"),
        ("frame mAP at IoU 0.5", f"{_mean(report)}{_unseen(report)}"),
    ]
    lines = [f"{head} at {report.key_frames:,} key frames", "", "| | |", "|---|---|"]
    lines += [f"| {key} | {cell(value)} |" for key, value in facts]
    lines += ["", *([f"![average precision of each class]({CLASSES})", ""] if report.classes_seen else [])]
    lines += ["| class | ground-truth boxes | AP |", "|---|---:|---:|"]
    lines += [f"| {cell(name)} | {count:,} | {_percent(p)} |" for name, count, p in report.precisions]
    return "\n".join(lines) + "\n"


def write_actor_report(report: ActorReport, folder: str | Path) -> None:
    """Write a report of actors to a folder, the summary last, so that a folder with one is whole.

    Args:
        report: average precisions.
        folder: gets ``classes.png`` (if a class has ground truth), ``report.json`` and ``report.md``; made if need be.
            Files of those names are replaced.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the folder cannot be written.
    """
    from vidops.visualize.evaluation import class_accuracy_bars
    from vidops.visualize.figures import save

    folder = Path(folder)
    (folder / SUMMARY).unlink(missing_ok=True)
    (folder / CLASSES).unlink(missing_ok=True)
    if report.classes_seen:
        names, _, precisions = zip(*report.precisions, strict=True)
        title = report.origin.get("model")
        bars = class_accuracy_bars(precisions, names, title=title, label="average precision")
        save(bars, folder / CLASSES)
    write_json(report, folder / REPORT)
    write_text(folder / SUMMARY, actor_markdown(report))


def _percent(precision: float | None) -> str:
    return "-" if precision is None else f"{precision:.2%}"


def _mean(report: ActorReport) -> str:
    return _percent(None if math.isnan(report.frame_map) else report.frame_map)


def _unseen(report: ActorReport) -> str:
    """Say over how many classes the mean is taken, where it is not all of them."""
    seen, count = report.classes_seen, len(report.precisions)
    return "" if seen == count else f" (over {seen} of {count} classes)"
