"""Means over the splits of a dataset, as UCF101 and HMDB51 are reported."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIGURES = ("top1", "top5", "mean_class_accuracy")
SAME = ("model", "views")  # a mean over splits is of one network, looked at in one way


@dataclass(frozen=True)
class Splits:
    """Accuracies on several splits.

    Args:
        names: of the reports.
        samples: videos of each split.
        figures: ``top1``, ``top5`` and ``mean_class_accuracy``, each with one value a split.

    Example:
        >>> splits = Splits(["a.json", "b.json"], [10, 30], {key: [0.5, 0.75] for key in FIGURES})
        >>> splits.means["top1"]
        0.625
    """

    names: list[str]
    samples: list[int]
    figures: dict[str, list[float]]

    @property
    def means(self) -> dict[str, float]:
        """Mean of each figure over the splits; every split weighs the same, whatever its size."""
        return {key: math.fsum(values) / len(values) for key, values in self.figures.items()}

    def as_dict(self) -> dict[str, Any]:
        """Give the means, and the splits behind them, as plain values for JSON.

        Returns:
            The three means, and ``splits`` with name, samples and figures of each.
        """
        rows = [
            {"name": name, "samples": count, **{key: self.figures[key][i] for key in FIGURES}}
            for i, (name, count) in enumerate(zip(self.names, self.samples, strict=True))
        ]
        return {**self.means, "splits": rows}


def average_splits(paths: Sequence[str | Path]) -> Splits:
    """Read the reports of a dataset's splits and average their accuracies.

    Args:
        paths: JSON reports of ``vidops evaluate``, one a split.

    Returns:
        The accuracies and their means.

    Raises:
        FileNotFoundError: a report is missing.
        ValueError: a file is no report, or two cannot be splits of one dataset: the same file or list of
            videos twice, other classes, another network or other views. The text names the file.

    Source: Soomro et al., UCF101, 2012; Kuehne et al., HMDB51, ICCV 2011 (the mean over three splits).

    Example:
        >>> average_splits(["no/such/split1.json"])
        Traceback (most recent call last):
        FileNotFoundError: no/such/split1.json: no such file
    """
    if not paths:
        raise ValueError("splits: no report is given")
    files = [Path(path) for path in paths]
    reports = [_read(path) for path in files]
    for i, (path, report) in enumerate(zip(files, reports, strict=True)):
        if report["classes"] != reports[0]["classes"]:
            raise ValueError(f"{path}: has other classes than {files[0]}")
        for key in SAME:
            if report[key] != reports[0][key]:
                mine, first = report[key] or "unknown", reports[0][key] or "unknown"
                raise ValueError(f"{path}: {key} {mine}, but that of {files[0]} is {first}")
        for other, earlier in zip(files[:i], reports[:i], strict=True):
            if path.samefile(other):
                raise ValueError(f"splits: {path} is given twice")
            if report["list"] is not None and report["list"] == earlier["list"]:
                raise ValueError(f"{path}: measures the same list as {other}, {report['list']}")
    return Splits(
        [str(path) for path in files],
        [report["samples"] for report in reports],
        {key: [report[key] for report in reports] for key in FIGURES},
    )


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file" if not path.exists() else f"{path}: is not a file")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = {key: float(content[key]) for key in FIGURES}
        samples, classes = int(content["samples"]), [str(entry["name"]) for entry in content["classes"]]
        origin = {key: content.get(key) for key in ("list", *SAME)}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: is no report of vidops evaluate ({type(error).__name__}: {error})"
        ) from error
    if not all(0 <= value <= 1 for value in found.values()):
        raise ValueError(f"{path}: holds an accuracy that is not between 0 and 1")
    return {**found, "samples": samples, "classes": classes, **origin}
