"""Reports as text for the terminal, and as a folder of files to keep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from vidops._files import write_text

from .metrics import Report
from .splits import FIGURES, Splits

REPORT, SUMMARY, CONFUSION, CLASSES = "report.json", "report.md", "confusion.png", "classes.png"


def text_table(report: Report) -> str:
    """Lay a report out for the terminal.

    Args:
        report: accuracies on a list.

    Returns:
        Lines: one a class, with the class that its videos were most often taken for, and the accuracies last.

    Example:
        >>> import numpy as np
        >>> print(text_table(Report(["up", "down"], np.array([[3, 1], [0, 0]]), 1.0, 0.5, {"list": "a.csv"})))
        class   videos    right   accuracy   most often taken for
        up           4        3     75.00%   down (1)
        down         0        0          -
        network: top-1 75.00%, mean class 75.00% (over 1 of 2 classes), loss 0.5000 on 4 videos of a.csv
    """
    width = max(len(name) for name in [*report.classes, "class"])
    lines = [f"{'class':{width}}   videos    right   accuracy   most often taken for"]
    for name, count, right, accuracy, taken in _rows(report):
        lines.append(f"{name:{width}}   {count:6d}   {right:6d}   {accuracy:>8}   {taken}".rstrip())
    lines.append(
        f"{report.origin.get('model', 'network')}: top-1 {report.top1:.2%},{_top5(report)} mean class"
        f" {report.mean_class_accuracy:.2%}{_unseen(report)}, loss {report.loss:.4f} on"
        f" {report.samples:,} videos of {report.origin.get('list', 'the list')}{_views(report)}"
    )
    return "\n".join(lines)


def _views(report: Report) -> str:
    """Name the views where they are more than the plain one."""
    views = report.origin.get("views", "1x1")
    return "" if views == "1x1" else f", views {views}"


def _top5(report: Report) -> str:
    """Of five classes or fewer top-5 is always whole, and says nothing."""
    return f" top-5 {report.top5:.2%}," if len(report.classes) > 5 else ""


def markdown(report: Report) -> str:
    """Write a report as Markdown, with the pictures that :func:`write_report` puts beside it.

    Args:
        report: accuracies on a list.

    Returns:
        A table of the accuracies, the pictures, and a table with a line a class.

    Example:
        >>> import numpy as np
        >>> print(markdown(Report(["up", "down"], np.array([[3, 1], [0, 2]]), 1.0, 0.5)).splitlines()[0])
        # network: top-1 83.33 % of 6 videos
    """
    origin = report.origin
    head = f"# {cell(origin.get('model', 'network'))}: top-1 {100 * report.top1:.2f} % of {report.samples:,} videos"
    facts = [(key, f"`{value}`") for key, value in origin.items() if key != "model"]
    facts += [
        ("videos", f"{report.samples:,}"),
        ("top-1", f"{report.top1:.2%}"),
        *([("top-5", f"{report.top5:.2%}")] if len(report.classes) > 5 else []),
        ("mean class accuracy", f"{report.mean_class_accuracy:.2%}{_unseen(report)}"),
        ("loss", f"{report.loss:.4f}"),
    ]
    lines = [head, "", "| | |", "|---|---|", *(f"| {key} | {cell(value)} |" for key, value in facts), ""]
    lines += [f"![confusion matrix]({CONFUSION})", "", f"![accuracy of each class]({CLASSES})", ""]
    lines += ["| class | videos | right | accuracy | most often taken for |", "|---|---:|---:|---:|---|"]
    lines += [
        f"| {cell(name)} | {count:,} | {right:,} | {accuracy} | {cell(taken)} |"
        for name, count, right, accuracy, taken in _rows(report)
    ]
    return "\n".join(lines) + "\n"


def write_report(report: Report, folder: str | Path) -> None:
    """Write a report to a folder, the summary last, so that a folder with one is whole.

    Args:
        report: accuracies on a list.
        folder: gets ``confusion.png``, ``classes.png``, ``report.json`` and ``report.md``; made if need be.
            Files of those names are replaced.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the folder cannot be written.
    """
    from vidops.visualize.evaluation import class_accuracy_bars
    from vidops.visualize.figures import save

    folder = Path(folder)
    (folder / SUMMARY).unlink(missing_ok=True)
    save_confusion(report, folder / CONFUSION)
    bars = class_accuracy_bars(report.class_accuracies, report.classes, title=report.origin.get("model"))
    save(bars, folder / CLASSES)
    write_json(report, folder / REPORT)
    write_text(folder / SUMMARY, markdown(report))


class Reports(Protocol):
    """What gives plain values for JSON."""

    def as_dict(self) -> dict[str, Any]:
        """Give plain values."""
        ...


def write_json(report: Reports, path: str | Path) -> None:
    """Write a report, or the mean of several, as JSON, whole or not at all.

    Args:
        report: what to write.
        path: the file.

    Raises:
        OSError: the file cannot be written.
    """
    write_text(path, json.dumps(report.as_dict(), indent=1) + "\n")


def save_confusion(report: Report, path: str | Path) -> None:
    """Draw a report's confusion matrix to a file.

    Args:
        report: accuracies on a list.
        path: file name ending in .png, .svg or .pdf.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the name ends otherwise.
    """
    from vidops.visualize.evaluation import confusion_matrix
    from vidops.visualize.figures import save

    title = f"{report.origin.get('model', 'network')}: top-1 {report.top1:.2%} of {report.samples:,} videos"
    save(confusion_matrix(report.confusion, report.classes, title=title), path)


def splits_table(splits: Splits) -> str:
    """Lay the mean over splits out for the terminal.

    Args:
        splits: accuracies on each split.

    Returns:
        Lines: one a split and the mean last.

    Example:
        >>> print(splits_table(Splits(["a.json", "b.json"], [10, 30], {key: [0.5, 0.75] for key in FIGURES})))
        split         videos     top-1     top-5   mean class
        a.json            10    50.00%    50.00%       50.00%
        b.json            30    75.00%    75.00%       75.00%
        mean of 2         40    62.50%    62.50%       62.50%
    """
    count = len(splits.names)
    rows = [*zip(splits.names, splits.samples, *(splits.figures[key] for key in FIGURES), strict=True)]
    rows.append((f"mean of {count}", sum(splits.samples), *(splits.means[key] for key in FIGURES)))
    width = max(11, *(len(row[0]) for row in rows))
    lines = [f"{'split':{width}}   videos     top-1     top-5   mean class"]
    for name, videos, top1, top5, mean in rows:
        lines.append(f"{name:{width}}   {videos:6d}   {top1:7.2%}   {top5:7.2%}   {mean:10.2%}")
    return "\n".join(lines)


def _rows(report: Report) -> list[tuple[str, int, int, str, str]]:
    """Class, videos, right ones, accuracy and most frequent confusion, as they are shown."""
    rows = []
    for i, (name, row, accuracy, worst) in enumerate(
        zip(report.classes, report.confusion, report.class_accuracies, report.confusions, strict=True)
    ):
        taken = f"{report.classes[worst[0]]} ({worst[1]:,})" if worst else ""
        rows.append(
            (name, int(row.sum()), int(row[i]), "-" if accuracy is None else f"{accuracy:.2%}", taken)
        )
    return rows


def _unseen(report: Report) -> str:
    """Say over how many classes the mean is taken, where it is not all of them."""
    seen, count = report.classes_seen, len(report.classes)
    return "" if seen == count else f" (over {seen} of {count} classes)"


def cell(text: str) -> str:
    """Write a text such that it does not end a cell of a Markdown table."""
    return text.replace("|", r"\|")
