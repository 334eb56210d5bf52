"""Boxes for frame mAP from key frames and logits."""

from __future__ import annotations

import warnings

import numpy as np

from vidops.data import KeyFrame
from vidops.evaluation.actor_boxes import annotated_boxes, classified_boxes
from vidops.evaluation.frame_map import frame_map


def key(video: str, boxes: list[list[float]], labels: tuple[tuple[int, ...], ...]) -> KeyFrame:
    return KeyFrame(f"{video}.mp4", video, 902.0, 2.0, np.array(boxes, np.float32).reshape(-1, 4), labels)


def test_a_row_a_label_in_the_numbers_of_the_file() -> None:
    truth = annotated_boxes(
        [key("a", [[0.077, 0.151, 0.283, 0.811], [0, 0, 1, 1]], ((3, 1, 1), ())), key("b", [], ())]
    )
    assert truth.frames == [("a", 902.0)]
    assert truth.boxes.tolist() == [[0.077, 0.151, 0.283, 0.811]] * 3
    assert truth.classes.tolist() == [3, 1, 1]
    assert truth.scores.tolist() == [1.0, 1.0, 1.0]


def test_a_row_a_box_and_scored_class() -> None:
    shares = np.array([[0, 0, 0.5, 1], [0.5, 0, 1, 1], [0, 0, 1, 1]], np.float32)
    logits = np.array([[0.0, 7.0, -1000.0], [1000.0, 7.0, 0.0], [-2.0, 7.0, 3.0]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = classified_boxes(
            [("a", 902.0), ("b", 902.0)], np.array([0, 0, 1]), shares, logits, scored=[2, 0]
        )
    assert found.frame.tolist() == [0, 0, 0, 0, 1, 1]
    assert found.classes.tolist() == [2, 0] * 3
    assert np.array_equal(found.boxes, np.repeat(shares, 2, axis=0))
    assert np.allclose(found.scores, [0.0, 0.5, 0.5, 1.0, 1 / (1 + np.exp(-3)), 1 / (1 + np.exp(2))])
    assert found.scores[0] == 0


def test_detections_have_the_numbers_of_the_file() -> None:
    listed = [[0.077, 0.151, 0.283, 0.811]]
    found = classified_boxes(
        [("a", 902.0)], np.array([0]), np.array(listed, np.float32), np.zeros((1, 1)), [0]
    )
    assert found.boxes.tolist() == listed


def test_frames_without_boxes_are_missed() -> None:
    truth = annotated_boxes([key("a", [[0, 0, 0.5, 1]], ((0,),)), key("b", [[0, 0, 0.5, 1]], ((0,),))])
    right = np.array([[0, 0, 0.5, 1]], np.float32)
    found = classified_boxes([("a", 902.0)], np.array([0]), right, np.ones((1, 2)), scored=[0])
    assert frame_map(truth, found, scored=[0]).mean == 0.5
    nothing = classified_boxes([], np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros((0, 2)), scored=[0])
    assert len(nothing) == 0
    assert frame_map(truth, nothing, scored=[0]).mean == 0
