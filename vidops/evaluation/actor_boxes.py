"""From actors at key frames, annotated or classified by a network, to the boxes that frame mAP is measured on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vidops.data import KeyFrame

from .detections import LabelledBoxes

Key = tuple[str, float]


def annotated_boxes(truth: Sequence[KeyFrame]) -> LabelledBoxes:
    """Give the ground truth of key frames, a row a label.

    Args:
        truth: annotated key frames, such as ``ActorList.truth``.

    Returns:
        Boxes with score 1, in the order of the key frames.

    Example:
        >>> boxes = np.array([[0, 0, 0.5, 1]], np.float32)
        >>> annotated_boxes([KeyFrame("a.mp4", "a", 902.0, 2.0, boxes, ((3, 5),))]).classes.tolist()
        [3, 5]
    """
    return LabelledBoxes.of(
        (key.video, key.timestamp, box, label, 1.0)
        for key in truth
        for box, labels in zip(_as_listed(key.boxes).tolist(), key.labels, strict=True)
        for label in labels
    )


def classified_boxes(
    keys: Sequence[Key],
    frame: npt.NDArray[np.integer],
    shares: npt.NDArray[np.floating],
    logits: npt.NDArray[np.floating],
    scored: Sequence[int],
) -> LabelledBoxes:
    """Give what a network makes of boxes, a row a box and scored class.

    The score of a row is the sigmoid of its logit alone, as in the releases of Long-Term Feature Banks and SlowFast:
    a detector's score says which boxes are classified, and no more.

    Args:
        keys: (video, timestamp) of the key frames, each once.
        frame: index in ``keys`` of each box (R,).
        shares: the boxes as shares of width and height (R, 4).
        logits: (R, K).
        scored: indices of the classes that are measured.

    Returns:
        R rows a scored class, box by box.

    Example:
        >>> box, logits = np.array([[0, 0, 0.5, 1]], np.float32), np.array([[0.0, 9.0, 0.0]])
        >>> classified_boxes([("a", 902.0)], np.array([0]), box, logits, scored=[0, 2]).scores.tolist()
        [0.5, 0.5]
    """
    columns = np.asarray(scored, np.int64)
    values = np.asarray(logits, np.float64)[:, columns]
    scores = np.exp(-np.logaddexp(0.0, -values))  # no overflow, however low a logit
    count = len(columns)
    return LabelledBoxes(
        list(keys),
        np.repeat(np.asarray(frame, np.int64), count),
        np.repeat(_as_listed(shares), count, axis=0),
        np.tile(columns, len(values)),
        scores.reshape(-1),
    )


def _as_listed(shares: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Turn fp32 shares into the decimal numbers that they were read from: an overlap of exactly 0.5 stays one.

    AVA's files have three decimals; six are what fp32 holds of any number up to 1.
    """
    return np.asarray(shares, np.float64).reshape(-1, 4).round(6)
