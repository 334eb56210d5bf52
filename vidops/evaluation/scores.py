"""Scores of a run, kept in a file, and the scores of several runs averaged."""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vidops._files import replacing
from vidops._titles import tell_apart
from vidops.data.samples import VIDEO_SUFFIXES

from .metrics import Report
from .views import AVERAGES

_KEYS = ("logits", "labels", "paths", "classes")


@dataclass(frozen=True)
class Scores:
    """What a network said of every video of a list.

    Args:
        logits: float (N, K).
        labels: class of each video, int64 (N,).
        paths: of the N videos, relative to the root of the data.
        classes: K class names.
        origin: what was measured: model, weights, list, views.
    """

    logits: npt.NDArray[np.floating[Any]]
    labels: npt.NDArray[np.int64]
    paths: Sequence[str]
    classes: Sequence[str]
    origin: dict[str, str] = field(default_factory=dict)


def check_scores_name(path: str | Path) -> None:
    """Check, before anything long runs, that scores may have this file name.

    Args:
        path: file name.

    Raises:
        ValueError: it does not end in .npz.

    Example:
        >>> check_scores_name("scores.csv")
        Traceback (most recent call last):
        ValueError: scores scores.csv: the name must end in .npz
    """
    if Path(path).suffix != ".npz":
        raise ValueError(f"scores {path}: the name must end in .npz")


def save_scores(report: Report, path: str | Path) -> None:
    """Write the scores behind a report, whole or not at all.

    Args:
        report: with logits, labels and paths, as :func:`vidops.evaluation.evaluate` gives it.
        path: file name ending in .npz; it gets the arrays ``logits`` (N, K), ``labels`` (N,), ``paths`` (N,)
            and ``classes`` (K,), and ``origin``, pairs of texts. NumPy alone reads it.

    Raises:
        ValueError: the name ends otherwise, or the report carries no scores.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "scores.npz"
        >>> logits, labels = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
        >>> save_scores(Report.of(["up", "down"], logits, labels, paths=["a.mp4"]), file)
        >>> read_scores(file).paths
        ['a.mp4']
    """
    check_scores_name(path)
    if report.logits is None or report.labels is None or report.paths is None:
        raise ValueError("report: carries no scores")
    origin = np.array(list(report.origin.items()), dtype=np.str_).reshape(-1, 2)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file,
            logits=report.logits,
            labels=report.labels,
            paths=np.array(list(report.paths), dtype=np.str_),
            classes=np.array(list(report.classes), dtype=np.str_),
            origin=origin,
        )


def read_scores(path: str | Path) -> Scores:
    """Read a file of scores; nothing in it is executed.

    Args:
        path: what ``vidops evaluate --scores`` wrote.

    Returns:
        The scores.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no scores, or its arrays do not fit together; the text names the file.

    Example:
        >>> read_scores("no/such/scores.npz")
        Traceback (most recent call last):
        FileNotFoundError: no/such/scores.npz: no such file
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file" if not path.exists() else f"{path}: is not a file")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: is no file of scores (or only a part of one)")
    try:
        with np.load(path, allow_pickle=False) as content:
            found = {key: content[key] for key in (*_KEYS, "origin") if key in content.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: is no file of scores ({type(error).__name__})") from error
    missing = [key for key in _KEYS if key not in found]
    if missing:
        raise ValueError(f"{path}: is no file of scores (it has no {missing[0]})")
    logits, labels, paths, classes = (found[key] for key in _KEYS)
    _check_arrays(path, logits, labels, paths, classes)
    origin = {str(key): str(value) for key, value in found.get("origin", np.empty((0, 2), np.str_))}
    return Scores(logits, labels.astype(np.int64), paths.tolist(), classes.tolist(), origin)


def fuse(
    runs: Sequence[Scores],
    weights: Sequence[float] | None = None,
    *,
    average: str = "softmax",
    names: Sequence[str] | None = None,
) -> Report:
    """Average the scores of several runs on the same videos, such as RGB and flow, or 8 and 16 frames.

    Videos are matched by path, in whatever order the runs have them; where paths differ in nothing but the
    suffix (a file, and the folder of its flow), by path without it.

    Args:
        runs: scores of one run or more.
        weights: one a run, above 0; None weighs all alike. TSN takes 1 for RGB and 1.5 for flow.
        average: ``"softmax"`` averages probabilities, ``"logits"`` what comes before them.
        names: of the runs in error texts.

    Returns:
        The report of the averaged scores, in the order of the first run.

    Raises:
        ValueError: the runs have other videos, labels or classes, or the weights do not fit.

    Source: Wang et al., Temporal Segment Networks, ECCV 2016, section 4.2 (two streams, weighted).

    Example:
        >>> rgb = Scores(np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([0, 0]), ["a", "b"], ["up", "down"])
        >>> flow = Scores(np.array([[3.0, 0.0], [1.0, 0.0]]), np.array([0, 0]), ["b", "a"], ["up", "down"])
        >>> fuse([rgb, flow], [1, 1.5]).top1
        1.0
    """
    if not runs:
        raise ValueError("fuse: no scores are given")
    if average not in AVERAGES:
        raise ValueError(f'average must be "logits" or "softmax", got {average!r}')
    shares = [1.0] * len(runs) if weights is None else [float(w) for w in weights]
    if len(shares) != len(runs):
        raise ValueError(f"weights: {len(shares)} are given for {len(runs)} files of scores")
    if not all(np.isfinite(w) and w > 0 for w in shares):
        raise ValueError(f"weights: must be numbers above 0, got {', '.join(f'{w:g}' for w in shares)}")
    names = list(names) if names is not None else [f"run {i + 1}" for i in range(len(runs))]
    first = runs[0]
    terms = []
    for run, name, share in zip(runs, names, shares, strict=True):
        order = _order(run, name, first, names[0])
        logits = torch.from_numpy(run.logits[order]).double()
        weight = torch.tensor(share / sum(shares), dtype=torch.float64)
        terms.append(logits.log_softmax(1) + weight.log() if average == "softmax" else logits * weight)
    fused = torch.stack(terms)
    scores = fused.logsumexp(0) if average == "softmax" else fused.sum(0)
    models = [run.origin.get("model", name) for run, name in zip(runs, names, strict=True)]
    origin = {
        "model": " + ".join(tell_apart(models, names)),
        "weights": ", ".join(
            f"{name} x {share:g}" if weights is not None else name
            for name, share in zip(names, shares, strict=True)
        ),
        "list": first.origin.get("list", "the list"),
        "average": average,
    }
    return Report.of(first.classes, scores, torch.from_numpy(first.labels), paths=first.paths, origin=origin)


def _check_arrays(path: Path, logits: Any, labels: Any, paths: Any, classes: Any) -> None:
    if logits.ndim != 2 or logits.dtype.kind != "f" or not len(logits):
        raise ValueError(f"{path}: logits must be numbers (N, K), found {logits.dtype} {logits.shape}")
    count, width = logits.shape
    if labels.shape != (count,) or labels.dtype.kind not in "iu" or paths.shape != (count,):
        raise ValueError(f"{path}: {count} rows of logits, but labels {labels.shape}, paths {paths.shape}")
    if classes.shape != (width,) or paths.dtype.kind != "U" or classes.dtype.kind != "U":
        raise ValueError(f"{path}: {width} columns of logits, but classes {classes.shape}")
    if labels.min() < 0 or labels.max() >= width:
        raise ValueError(f"{path}: holds a label outside its {width} classes")
    if not np.isfinite(logits).all():
        raise ValueError(f"{path}: holds logits that are not finite")


def _order(run: Scores, name: str, first: Scores, first_name: str) -> npt.NDArray[np.int64]:
    """Find where each video of the first run lies in another one, and refuse what is not the same list."""
    if list(run.classes) != list(first.classes):
        raise ValueError(f"{name}: has other classes than {first_name}{_first_difference(run, first)}")
    for key in (str, _without_suffix):
        there = {key(path): i for i, path in enumerate(run.paths)}
        wanted = [key(path) for path in first.paths]
        if len(there) == len(run.paths) and len(set(wanted)) == len(wanted) and set(wanted) == set(there):
            order = np.array([there[path] for path in wanted], dtype=np.int64)
            other = np.flatnonzero(run.labels[order] != first.labels)
            if len(other):
                path = first.paths[other[0]]
                raise ValueError(f"{name}: labels {path} and {len(other) - 1} more unlike {first_name}")
            return order
    raise ValueError(f"{name}: {_why_not_the_same(run, name, first, first_name)}")


def _first_difference(run: Scores, first: Scores) -> str:
    if len(run.classes) != len(first.classes):
        return f": {len(run.classes)}, not {len(first.classes)}"
    i = next(i for i, (a, b) in enumerate(zip(run.classes, first.classes, strict=True)) if a != b)
    return f": class {i} is {run.classes[i]!r}, not {first.classes[i]!r}"


def _why_not_the_same(run: Scores, name: str, first: Scores, first_name: str) -> str:
    for scores, whose in ((first, first_name), (run, name)):
        path, times = Counter(scores.paths).most_common(1)[0]
        if times > 1:
            return f"videos cannot be matched by name: {whose} names {path} {times} times"
    ours, theirs = ({_without_suffix(p) for p in scores.paths} for scores in (run, first))
    lacking, extra = sorted(theirs - ours), sorted(ours - theirs)
    parts = []
    if lacking:
        parts.append(f"lacks {len(lacking):,} of the videos of {first_name}, such as {lacking[0]}")
    if extra:
        parts.append(f"has {len(extra):,} that {first_name} has not, such as {extra[0]}")
    return " and ".join(parts) or f"its videos differ from those of {first_name} in nothing but suffixes"


def _without_suffix(path: str) -> str:
    stem, suffix = os.path.splitext(path)
    return stem if suffix.lower() in VIDEO_SUFFIXES else path
