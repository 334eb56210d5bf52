"""Counts against hand computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vidops.evaluation import Counts, Report


def test_counts_by_hand() -> None:
    counts = Counts(6)
    logits = torch.tensor(
        [
            [9.0, 1, 2, 3, 4, 5],  # label 0: first
            [9.0, 1, 2, 3, 4, 5],  # label 1: last, not among five
            [9.0, 1, 2, 3, 4, 5],  # label 2: fifth
            [1.0, 2, 2, 0, 0, 0],  # label 1: equal to class 2, the lower index wins
            [1.0, 2, 2, 0, 0, 0],  # label 2: second for the same reason
        ]
    )
    labels = torch.tensor([0, 1, 2, 1, 2])
    counts.update(logits[:3], labels[:3])
    counts.update(logits[3:], labels[3:])
    assert counts.samples == 5
    assert counts.top1 == 2 / 5
    assert counts.top5 == 4 / 5
    expected = np.zeros((6, 6), int)
    expected[0, 0] = 1
    expected[1, 0] = 1
    expected[2, 0] = 1
    expected[1, 1] = 1
    expected[2, 1] = 1
    assert (counts.confusion == expected).all()


def test_all_equal_logits_give_one_winner() -> None:
    counts = Counts(8)
    counts.update(torch.zeros(8, 8), torch.arange(8))
    assert counts.top1 == 1 / 8
    assert counts.top5 == 5 / 8


def test_top5_with_fewer_classes_is_one() -> None:
    counts = Counts(3)
    counts.update(torch.randn(7, 3, generator=torch.Generator().manual_seed(0)), torch.arange(7) % 3)
    assert counts.top5 == 1.0


def test_report_by_hand() -> None:
    confusion = np.array([[3, 1, 0], [2, 2, 0], [0, 0, 0]])
    report = Report(["a", "b", "c"], confusion, top5=1.0, loss=0.25, origin={"model": "m"})
    assert report.samples == 8
    assert report.top1 == 5 / 8
    assert report.class_accuracies == [0.75, 0.5, None]
    assert report.mean_class_accuracy == pytest.approx(0.625, abs=1e-15)
    plain = report.as_dict()
    assert plain["model"] == "m"
    assert plain["classes"][1] == {
        "name": "b",
        "samples": 4,
        "correct": 2,
        "accuracy": 0.5,
        "taken_for": {"name": "a", "samples": 2},
    }
    assert plain["classes"][2]["accuracy"] is plain["classes"][2]["taken_for"] is None
    assert plain["classes_seen"] == 2
    assert plain["confusion"] == confusion.tolist()
