"""Scores of actors over views, and reports of their average precisions."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from vidops.evaluation import ActorReport, FrameMap
from vidops.evaluation.actor_report import actor_markdown, actor_table, write_actor_report
from vidops.evaluation.views import actor_scores


class Sums(nn.Module):
    """Logits that say which clip and which box they are of: the clip's value plus x1, and y1."""

    def forward(self, clip, boxes):
        self.calls = [*getattr(self, "calls", []), (len(clip), len(boxes))]
        values = clip.mean((1, 2, 3, 4))
        assert ((boxes[:, 0] >= 0) & (boxes[:, 0] < len(clip))).all()
        return torch.stack([values[boxes[:, 0].long()] + boxes[:, 1], boxes[:, 2]], 1)


@pytest.mark.parametrize("chunk", [None, 1, 2, 5])
def test_every_box_is_classified_in_its_own_clip(chunk):
    clip = torch.arange(4.0).reshape(4, 1, 1, 1, 1).expand(4, 3, 2, 2, 2)
    boxes = torch.tensor([[0.0, 10, 1, 0, 0], [2.0, 20, 2, 0, 0], [2.0, 30, 3, 0, 0], [3.0, 40, 4, 0, 0]])
    net = Sums()
    scores = actor_scores(net, clip, boxes, 2, chunk=chunk)
    assert scores.tolist() == [[10, 1], [22, 2], [32, 3], [43, 4]]
    if chunk == 1:  # a clip without boxes is not run
        assert net.calls == [(1, 1), (1, 2), (1, 1)]


def test_views_are_averaged():
    clip = torch.arange(4.0).reshape(2, 2, 1, 1, 1, 1).expand(2, 2, 3, 2, 2, 2)
    boxes = torch.tensor([[[0.0, 0, 1, 0, 0], [1.0, 0, 3, 0, 0]], [[2.0, 5, -2, 0, 0], [3.0, 7, 2, 0, 0]]])
    assert actor_scores(Sums(), clip, boxes, 2).tolist() == [[0.5, 2], [8.5, 0]]
    shares = actor_scores(Sums(), clip, boxes, 2, average="softmax", chunk=3).sigmoid()
    expected = [[torch.tensor(pair).sigmoid().mean() for pair in row] for row in _pairs()]
    assert torch.allclose(shares, torch.tensor(expected), rtol=1e-6)


def _pairs():
    return [[[0.0, 1.0], [1.0, 3.0]], [[7.0, 10.0], [-2.0, 2.0]]]


def test_no_boxes_have_no_scores():
    net = Sums()
    assert actor_scores(net, torch.zeros(2, 3, 2, 2, 2), torch.zeros(0, 5), 7).shape == (0, 7)
    assert actor_scores(net, torch.zeros(2, 2, 3, 2, 2, 2), torch.zeros(0, 2, 5), 7).shape == (0, 7)
    assert not hasattr(net, "calls")


@pytest.mark.parametrize(("options", "reason"), [({"average": "max"}, "average"), ({"chunk": 0}, "chunk")])
def test_bad_arguments(options, reason):
    with pytest.raises(ValueError, match=reason):
        actor_scores(Sums(), torch.zeros(1, 3, 2, 2, 2), torch.zeros(0, 5), 2, **options)


def report(**precisions):
    values = {c: math.nan if p is None else p for c, p in enumerate(precisions.values())}
    known = [p for p in values.values() if not math.isnan(p)]
    counts = {c: 0 if math.isnan(p) else 10 for c, p in values.items()}
    measured = FrameMap(sum(known) / len(known) if known else math.nan, values, counts, counts)
    origin = {"model": "tiny_st_slowfast", "list": "val.csv", "boxes": "annotated"}
    return ActorReport(list(precisions), measured, 30, 90, origin)


def test_a_report_counts_the_classes_it_is_the_mean_of():
    found = report(sit=0.5, none=None, run=0.25)
    assert actor_table(found).splitlines()[1:] == [
        "sit        10   50.00%",
        "none        0        -",
        "run        10   25.00%",
        "tiny_st_slowfast: frame mAP 37.50% at IoU 0.5 (over 2 of 3 classes), 90 boxes (annotated) at 30 key frames of"
        " val.csv",
    ]
    values = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert values["frame_map"] == 0.375
    assert values["classes"][1] == {"name": "none", "samples": 0, "average_precision": None}
    assert "| run | 10 | 25.00% |" in actor_markdown(found)


def test_a_report_of_nothing_is_still_one():
    found = report(sit=None)
    assert found.as_dict()["frame_map"] is None
    assert "frame mAP - at IoU 0.5 (over 0 of 1 classes)" in actor_table(found)


def test_a_folder_of_files(tmp_path: Path):
    pytest.importorskip("matplotlib")
    write_actor_report(report(sit=0.5, none=None, run=0.25), tmp_path / "report")
    assert sorted(p.name for p in (tmp_path / "report").iterdir()) == [
        "classes.png",
        "report.json",
        "report.md",
    ]
    write_actor_report(report(sit=None), tmp_path / "nothing")
    assert sorted(p.name for p in (tmp_path / "nothing").iterdir()) == ["report.json", "report.md"]
    assert "classes.png" not in (tmp_path / "nothing" / "report.md").read_text()
