"""Mean average precision over key frames, by the rules of AVA's official evaluation.

What the official script does, told once: of each key frame the 50 detections with the highest scores count, over all
scored classes together. Of the excluded key frames nothing counts. A detection without area is left out; what is left
is looked at frame by frame and class by class, the highest score first. A detection is held against the one
ground-truth box of its class that it overlaps most: it is right if their IoU is at least 0.5 and no detection before it
was right about that box; it is wrong otherwise, also where a second box would have been free. Detections at a key
frame without ground truth are wrong. The average precision of a class is the area under its curve of precision over
recall, precision made not to rise with recall; a class that has ground truth and no detection has 0, one without
ground truth has none and is left out of the mean.

Equal scores: the script gathers a frame's detections in a heap of (score, class, y1, x1, y2, x2) and sorts stably what
the heap's array holds, so the heap decides which of equals are among the 50 and which comes first; a frame where that
matters goes through such a heap here too. Over the frames it reverses numpy's default sort, which leaves the order of
equals open (it differs from machine to machine); here it is the stable sort reversed, the order that numpy's sort of
short arrays has: later ones first. Ground truth passes the heap with equal scores; its order decides between two boxes
that a detection overlaps equally.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .detections import LabelledBoxes

PER_FRAME = 50  # detections of a key frame that the official script reads

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FrameMap:
    """Average precisions of detections at key frames.

    Args:
        mean: over the scored classes that have ground truth, from 0 to 1; nan if none has.
        per_class: of each scored class, by its index; nan for a class without ground truth.
        truths: ground-truth boxes of each scored class outside excluded key frames.
        detections: detections of each scored class that were counted.
    """

    mean: float
    per_class: Mapping[int, float]
    truths: Mapping[int, int]
    detections: Mapping[int, int]


def frame_map(
    truth: LabelledBoxes,
    detections: LabelledBoxes,
    scored: Sequence[int],
    *,
    excluded: Collection[tuple[str, float]] = (),
    iou: float = 0.5,
    per_frame: int | None = PER_FRAME,
) -> FrameMap:
    """Measure detections at key frames against ground truth, as AVA's official evaluation does.

    Args:
        truth: ground-truth boxes with their classes; their scores say nothing.
        detections: boxes with classes and scores.
        scored: indices of the classes that are measured, each once; boxes of others are left out.
        excluded: (video, timestamp) of key frames that are left out.
        iou: overlap from which a box is found, above 0, at most 1.
        per_frame: detections of a key frame that count, those with the highest scores; None counts all, as the
            official script did at first and its copy in SlowFast's release does.

    Returns:
        The mean and the average precision of each class.

    Raises:
        ValueError: there are no classes, or one is given twice or is below 0; ``iou`` or ``per_frame`` is out of
            range; a ground-truth box ends before it begins.

    Source: Gu et al., AVA, CVPR 2018, section 6.1 (frame-level AP at IoU 0.5); the rules are those of ActivityNet's
    get_ava_performance.py and the PASCAL evaluator of TensorFlow's object detection that it runs.

    Example:
        >>> box = [0.1, 0.1, 0.5, 0.9]
        >>> truth = LabelledBoxes.of([("a", 902, box, 0, 1.0), ("a", 903, box, 0, 1.0)])
        >>> found = LabelledBoxes.of([("a", 902, box, 0, 0.9), ("a", 902, box, 0, 0.8)])
        >>> frame_map(truth, found, scored=[0, 1]).per_class
        {0: 0.5, 1: nan}
    """
    classes = _check(scored, iou, per_frame)
    if (truth.boxes[:, 2:] < truth.boxes[:, :2]).any():
        raise ValueError("truth: holds a box that ends before it begins")
    real = _chosen(truth, np.ones(len(truth)), classes, excluded, None)
    found = _chosen(detections, detections.scores, classes, excluded, per_frame)
    found = found[np.flatnonzero((found.boxes[:, :2] < found.boxes[:, 2:]).all(1))]
    right = _right(real, found, iou)
    precisions, truths, counts = {}, {}, {}
    for c in classes:
        own = found.classes == c
        truths[c], counts[c] = int((real.classes == c).sum()), int(own.sum())
        precisions[c] = average_precision(found.scores[own], right[own], truths[c])
    known = [p for p in precisions.values() if not np.isnan(p)]
    return FrameMap(float(np.mean(known)) if known else float("nan"), precisions, truths, counts)


def average_precision(scores: Floats, right: npt.NDArray[np.bool_], truths: int) -> float:
    """Compute the area under the curve of precision over recall, precision made not to rise with recall.

    Args:
        scores: of the detections (N,).
        right: which of them are true positives (N,).
        truths: number of ground-truth boxes.

    Returns:
        From 0 to 1; nan without ground truth. Of equal scores the later one counts first.

    Source: Everingham et al., PASCAL VOC development kit 2010 (all points, no interpolation at 11).

    Example:
        >>> average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), 2)
        0.8333333333333333
    """
    if not truths:
        return float("nan")
    if not len(scores):
        return 0.0
    hits = np.cumsum(right[np.argsort(scores, kind="stable")[::-1]])
    precision = hits / np.arange(1, len(hits) + 1)
    recall = np.concatenate(([0.0], hits / truths))
    highest = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or any higher one
    steps = np.flatnonzero(recall[1:] != recall[:-1])
    return float(np.sum((recall[steps + 1] - recall[steps]) * highest[steps]))


def box_iou(first: Floats, second: Floats) -> Floats:
    """Compute the intersection over union of pairs of boxes.

    Args:
        first: x1, y1, x2, y2 of each (N, 4).
        second: of the other of each pair (N, 4).

    Returns:
        (N,) from 0 to 1; boxes that touch have 0, and nan is where both have no area.

    Example:
        >>> box_iou(np.array([[0.0, 0, 1, 1]]), np.array([[0.0, 0, 1, 0.5]]))
        array([0.5])
    """
    # Sums and products in the official order: an overlap of exactly 0.5 stays on its side.
    low, high = np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:])
    width, height = np.maximum(0.0, high - low).T
    common = height * width
    areas = [(b[:, 3] - b[:, 1]) * (b[:, 2] - b[:, 0]) for b in (first, second)]
    with np.errstate(invalid="ignore"):
        shares: Floats = common / (areas[0] + areas[1] - common)
    return shares


def _check(scored: Sequence[int], iou: float, per_frame: int | None) -> list[int]:
    classes = [int(c) for c in scored]
    if not classes:
        raise ValueError("scored: no class is given")
    if min(classes) < 0 or len(set(classes)) < len(classes):
        raise ValueError(f"scored: must be different class indices from 0, got {classes}")
    if not 0 < iou <= 1:
        raise ValueError(f"iou must be above 0 and at most 1, got {iou}")
    if per_frame is not None and per_frame < 1:
        raise ValueError(f"per_frame must be at least 1 or None, got {per_frame}")
    return classes


def _chosen(
    boxes: LabelledBoxes,
    scores: Floats,
    classes: Sequence[int],
    excluded: Collection[tuple[str, float]],
    per_frame: int | None,
) -> LabelledBoxes:
    """Give the boxes that count: frames in the order of their first one, each frame's as they are looked at."""
    away = set(excluded)
    counts = np.array([frame not in away for frame in boxes.frames], dtype=bool)
    chosen = np.flatnonzero(counts[boxes.frame] & np.isin(boxes.classes, classes))
    boxes, scores = boxes[chosen], scores[chosen]
    _, first, numbers = np.unique(boxes.frame, return_index=True, return_inverse=True)
    frame = np.argsort(np.argsort(first))[numbers]  # numbered by first appearance
    order = np.lexsort((boxes.classes, -scores, frame))
    lengths = np.bincount(frame)
    ends = lengths.cumsum()
    limit = len(boxes) if per_frame is None else per_frame
    place = np.arange(len(order)) - np.repeat(ends - lengths, lengths)
    kept, kept_ends = order[place < limit], np.minimum(lengths, limit).cumsum()

    # Equal scores matter within a class, and at the limit: there the heap decides.
    frames, values, own = frame[order], scores[order], boxes.classes[order]
    equal = (frames[1:] == frames[:-1]) & (values[1:] == values[:-1])
    open_ones = np.unique(frames[1:][equal & ((own[1:] == own[:-1]) | (place[1:] == limit))])
    for number in open_ones.tolist():
        rows = np.sort(order[ends[number] - lengths[number] : ends[number]])
        entries: Floats = np.column_stack(
            (scores[rows], boxes.classes[rows], boxes.boxes[rows][:, [1, 0, 3, 2]])
        )
        places = _through_heap(entries, limit)
        kept[kept_ends[number] - len(places) : kept_ends[number]] = rows[places]
    return boxes[kept]


def _through_heap(entries: Floats, limit: int) -> list[int]:
    """Give the places of what is left of a heap of at most ``limit`` entries, in the order in which it leaves them."""
    heap: list[tuple[float, ...]] = []
    places: dict[tuple[float, ...], list[int]] = defaultdict(list)
    for place, values in enumerate(entries.tolist()):
        entry = tuple(values)
        # The place is no part of what the heap compares: equal entries must be equal to it.
        places[entry].append(place)
        if len(heap) < limit:
            heapq.heappush(heap, entry)
        elif entry[0] > heap[0][0]:
            heapq.heapreplace(heap, entry)
    return [places[entry].pop() for entry in sorted(heap, key=lambda entry: -entry[0])]


def _right(truth: LabelledBoxes, found: LabelledBoxes, iou: float) -> npt.NDArray[np.bool_]:
    """Tell which detections are the first to find the ground-truth box that they overlap most."""
    right = np.zeros(len(found), dtype=bool)
    if not len(found) or not len(truth):
        return right
    numbers = {frame: i for i, frame in enumerate(truth.frames)}
    there = np.array([numbers.get(frame, -1) for frame in found.frames], dtype=np.int64)
    width = 1 + max(int(truth.classes.max()), int(found.classes.max()))
    groups = truth.frame * width + truth.classes
    by_group = np.argsort(groups, kind="stable")
    wanted = there[found.frame] * width + found.classes  # below 0 where the frame has no ground truth
    low, high = (np.searchsorted(groups[by_group], wanted, side) for side in ("left", "right"))

    # One row a pair of a detection and a ground-truth box of its frame and class.
    counts = high - low
    rivals = np.flatnonzero(counts)
    if not len(rivals):
        return right
    starts = counts.cumsum() - counts
    detection = np.repeat(np.arange(len(found)), counts)
    box = by_group[np.arange(len(detection)) + np.repeat(low - starts, counts)]
    shares = box_iou(found.boxes[detection], truth.boxes[box])
    most = np.maximum.reduceat(shares, starts[rivals])
    best = np.flatnonzero(shares == np.repeat(most, counts[rivals]))
    best = best[np.unique(detection[best], return_index=True)[1]]  # of equal overlaps the first
    hits = best[shares[best] >= iou]
    right[detection[hits[np.unique(box[hits], return_index=True)[1]]]] = True
    return right
