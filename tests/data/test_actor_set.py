from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("skimage", reason="scikit-image is not installed")

from vidops.cli import main
from vidops.data import (
    ACTOR_LOOKS,
    ACTOR_PAIRS,
    ActorDataset,
    collate_actors,
    make_actors,
    read_actors,
    read_frames,
)
from vidops.data import actor_set as actor_set_module
from vidops.data.transforms import Compose, Normalize, ResizeFrames

PAIRS = [*ACTOR_PAIRS.values()]
PARTNER = {a: b for first, second in PAIRS for a, b in ((first, second), (second, first))}


def read(folder: Path, split: str, **kwargs):
    return read_actors(
        folder / f"{split}.csv", labels=folder / "labels.pbtxt", scored=folder / "scored.pbtxt", **kwargs
    )


def named(labels: tuple[int, ...], classes: list[str]) -> set[str]:
    return {classes[i] for i in labels}


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_clip_played_backwards_is_the_clip_with_the_partners_labels(actors_set, split):
    found = read(actors_set, split)
    for first, second in zip(found.samples[::2], found.samples[1::2], strict=True):
        forward, backward = (read_frames(record.path, range(8)) for record in (first, second))
        np.testing.assert_array_equal(forward, backward[::-1])
        assert not np.array_equal(forward, backward)
        np.testing.assert_array_equal(first.boxes, second.boxes)
        for one, other in zip(first.labels, second.labels, strict=True):
            names = named(one, found.classes)
            assert {PARTNER.get(name, name) for name in names} == named(other, found.classes)
            assert names & PARTNER.keys()


def test_the_two_frames_in_the_middle_show_the_same(actors_set):
    for record in read(actors_set, "val").samples[:10]:
        before, after = read_frames(record.path, [3, 4])
        np.testing.assert_array_equal(before, after)


def test_every_actor_stands_in_its_box_at_the_key_frame_and_goes_where_its_labels_say(actors_set):
    """What changes in the clip is the actors: the mean of |frame - background| lies in the box, and moves."""
    moved = defaultdict(list)
    found = read(actors_set, "train")
    for record in found.samples:
        frames = read_frames(record.path, range(8)).astype(float)
        size = frames.shape[1]
        for box, labels in zip(record.boxes, record.labels, strict=True):
            names = named(labels, found.classes)
            x1, y1, x2, y2 = (round(float(edge) * size) for edge in box)
            inside = frames[:, y1:y2, x1:x2].mean((1, 2, 3))
            ring = frames[4, max(0, y1 - 3) : y2 + 3, max(0, x1 - 3) : x2 + 3].mean()
            if "bright" in names:
                assert inside[4] > 130
                assert inside[4] > ring
            else:
                assert inside[4] < 100
                assert inside[4] < ring
            if names & {"grow", "shrink"} and not names & {"move left", "move right", "move up", "move down"}:
                # As far as it reaches past the box, at the side to the left
                beside = frames[:, y1 + 3 : y2 - 3, max(0, x1 - 3) : max(1, x1 - 1)].mean((1, 2, 3))
                sign = 1 if "bright" in names else -1
                moved["grow" if "grow" in names else "shrink"].append(sign * (beside[7] - beside[0]))
    assert np.mean(moved["grow"]) > 30
    assert np.mean(moved["shrink"]) < -30
    assert np.mean(np.array(moved["grow"]) > 0) > 0.8


def test_lists_are_ava_files(actors_set):
    assert sorted(p.name for p in actors_set.iterdir()) == [
        "excluded.csv",
        "labels.pbtxt",
        "scored.pbtxt",
        "train.csv",
        "train_proposals.csv",
        "val.csv",
        "val_proposals.csv",
        "videos",
    ]
    with open(actors_set / "val.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert {len(row) for row in rows} == {8}
    assert {row[1] for row in rows} == {"0902"}
    found = read(actors_set, "val", excluded=actors_set / "excluded.csv")
    assert len(found) == 20
    assert found.classes == [n for pair in (*ACTOR_PAIRS.values(), *ACTOR_LOOKS.values()) for n in pair]
    assert found.scored == tuple(range(8))
    assert found.excluded == {("val_00020", 902.0), ("val_00021", 902.0)}
    assert {len(record.boxes) for record in found.samples} == {2, 3}
    assert all(len(labels) in (3, 4) for record in found.samples for labels in record.labels)
    assert len(list(actors_set.glob("videos/*.mp4"))) == 60 + 20 + 2


def test_labels_are_equally_frequent_within_pairs(actors_set):
    found = read(actors_set, "train")
    counts = np.bincount([i for r in found.samples for labels in r.labels for i in labels], minlength=10)
    assert counts[0] == counts[1]
    assert counts[2] == counts[3]
    assert counts[4] == counts[5]
    assert (counts > 20).all()


def test_batches(actors_set):
    found = read(actors_set, "val")
    transform = Compose([ResizeFrames(32), Normalize([0.5] * 3, [0.25] * 3)])
    dataset = ActorDataset(found, num_frames=8, transform=transform, training=False)
    batch = collate_actors([dataset[i] for i in range(4)])
    rows = sum(len(record.boxes) for record in found.samples[:4])
    assert batch["clip"].shape == (4, 3, 8, 32, 32)
    assert batch["boxes"].shape == (rows, 5)
    assert batch["labels"].shape == (rows, 10)
    torch.testing.assert_close(batch["boxes"][:, 1:], batch["shares"] * 32)
    assert batch["boxes"][:, 0].unique(return_counts=True)[1].tolist() == [
        len(record.boxes) for record in found.samples[:4]
    ]
    assert batch["scores"].tolist() == [1] * rows
    assert batch["timestamp"] == [902.0] * 4
    assert batch["video"] == [f"val_{i:05d}" for i in range(4)]


def test_proposals_are_a_little_off_and_have_the_labels_of_what_they_overlap(actors_set):
    truth = read(actors_set, "val")
    found = read(
        actors_set, "val", proposals=actors_set / "val_proposals.csv", excluded=actors_set / "excluded.csv"
    )
    assert len(found) == len(truth)
    wrong = 0
    for annotated, proposed in zip(truth.samples, found.samples, strict=True):
        count = len(annotated.boxes)
        assert np.abs(annotated.boxes - proposed.boxes[:count]).max() < 0.03
        assert annotated.labels == proposed.labels[:count]
        assert (proposed.scores[:count] >= 0.8).all()
        wrong += len(proposed.boxes) - count
    assert wrong > 3
    sure = read(actors_set, "val", proposals=actors_set / "val_proposals.csv", min_score=0.8)
    assert sum(len(r.boxes) for r in sure.samples[:20]) == sum(len(r.boxes) for r in truth.samples)


def test_same_seed_same_files_whatever_the_workers_and_the_counts(tmp_path):
    settings = {"size": 32, "progress": False}
    a = make_actors(tmp_path / "a", train=4, val=2, seed=3, workers=1, **settings)
    b = make_actors(tmp_path / "b", train=2, val=4, excluded=0, seed=3, workers=3, **settings)
    c = make_actors(tmp_path / "c", train=2, val=2, seed=4, workers=1, **settings)
    for name in ("train_00001", "val_00000"):
        frames = [read_frames(folder / f"videos/{name}.mp4", range(8)) for folder in (a, b, c)]
        np.testing.assert_array_equal(frames[0], frames[1])
        assert not np.array_equal(frames[0], frames[2])
    first, second = ((folder / "train.csv").read_text() for folder in (a, b))
    assert first.startswith(second)


@pytest.mark.parametrize(
    "kwargs, match",
    [
        ({"train": 5}, "train must be an even number of at least 2, got 5"),
        ({"val": 0}, "val must be an even number of at least 2, got 0"),
        ({"excluded": 1}, "excluded must be an even number of at least 0"),
        ({"frames": 7}, "frames must be an even number of at least 4"),
        ({"size": 30}, "size must be an even number of at least 32"),
        ({"size": 2000}, "size must be a whole number from 16 to 1024"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"workers": 0}, "workers must be a whole number"),
    ],
)
def test_wrong_arguments_leave_nothing_behind(tmp_path, kwargs, match):
    with pytest.raises(ValueError, match=match):
        make_actors(tmp_path / "deep" / "out", **({"train": 2, "val": 2, "progress": False} | kwargs))
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_leaves_nothing_behind(tmp_path, monkeypatch):
    def encode(path, clip, rate):
        raise OSError("disk full")

    monkeypatch.setattr(actor_set_module, "encode", encode)
    with pytest.raises(OSError, match="disk full"):
        make_actors(tmp_path / "out", train=8, val=2, size=32, workers=2, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_command(tmp_path, capsys):
    words = ["dataset", "make-actors", str(tmp_path / "set"), "--train", "4", "--val", "2", "--size", "32"]
    assert main(words) == 0
    told = capsys.readouterr()
    assert "4 training and 2 validation clips" in told.out
    assert "labels: move right, move left" in told.out
    assert main(words) == 2
    assert "exists and is not an empty folder" in capsys.readouterr().err
