from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from vidops.cli import main
from vidops.data import (
    ActorDataset,
    ActorList,
    FrameFolder,
    KeyFrame,
    VideoError,
    check_videos,
    collate_actors,
    read_actors,
)
from vidops.data import actors as actors_module
from vidops.data.transforms import Compose, Normalize, ResizeFrames, TrainCrops
from vidops.data.views import SpatialCrops, Views

from ._lists import touch, write
from ._videos import write_video
from .test_formats_ava import OF_2018

ROWS = """a,0902,0.1,0.2,0.3,0.4,12,0
a,0902,0.1,0.2,0.3,0.4,80,0
a,0902,0.1,0.2,0.3,0.4,80,1
a,0902,0.5,0.2,0.9,1.000,1,2
a,0903,,,,,,
b,1798,0,0,1,1,,7
a,0902,0.1,0.2,0.3,0.4,3,0
"""


@pytest.fixture
def ava(tmp_path) -> Path:
    touch(tmp_path, "a.mp4", "b.mkv")
    write(tmp_path / "val.csv", ROWS)
    return tmp_path


def told(found: ActorList) -> list[tuple]:
    return [
        (
            s.video,
            s.timestamp,
            s.boxes.round(3).tolist(),
            [tuple(i + 1 for i in labels) for labels in s.labels],
        )
        for s in found.samples
    ]


def test_lines_are_joined_that_have_key_frame_box_and_person_in_common(ava):
    found = read_actors(ava / "val.csv")
    small, large = [0.1, 0.2, 0.3, 0.4], [0.5, 0.2, 0.9, 1.0]
    assert [(v, t, labels) for v, t, _, labels in told(found)] == [
        ("a", 902, [(3, 12, 80), (80,), (1,)]),
        ("a", 903, []),
        ("b", 1798, [()]),
    ]
    first = found.samples[0]
    np.testing.assert_allclose(first.boxes, [small, small, large], rtol=1e-6)
    assert first.boxes.dtype == np.float32
    assert found.samples[1].boxes.shape == (0, 4)
    assert [s.time for s in found.samples] == [2, 3, 898]
    assert [Path(s.path).name for s in found.samples] == ["a.mp4", "a.mp4", "b.mkv"]
    assert all(s.scores is None and s.frames is None for s in found.samples)
    assert found.truth is found.samples
    assert found.num_classes == 80
    assert found.classes[79] == "action 80"
    assert found.scored == tuple(range(80))
    assert len(found) == 3
    assert len(found.occupied()) == 2


def test_a_line_that_is_there_twice_counts_twice(ava):
    """As in the official evaluation; what a network learns of the actor is the same."""
    write(ava / "val.csv", "a,0902,0.1,0.2,0.3,0.4,12,0\n" * 2)
    found = read_actors(ava / "val.csv")
    assert found.samples[0].labels == ((11, 11),)
    labels = dataset(ava, NORMALIZE, actors=found)._labels(found.samples[0])
    assert labels.sum() == labels[0, 11] == 1


def test_names_and_scored_actions(ava):
    labels, scored = write(ava / "all.pbtxt", OF_2018), ava / "scored.pbtxt"
    write(ava / "val.csv", "a,0902,0.1,0.2,0.3,0.4,79,0\n")
    found = read_actors(ava / "val.csv", labels=labels)
    assert found.num_classes == 79
    assert found.classes[:2] == ["bend/bow (at the waist)", "action 2"]
    assert found.scored == (0, 78)
    write(scored, 'item { name: "talk to (e.g., self, a person, a group)" id: 79 }')
    assert read_actors(ava / "val.csv", labels=labels, scored=scored).scored == (78,)
    alone = read_actors(ava / "val.csv", scored=scored)
    assert alone.scored == (78,)
    assert alone.num_classes == 80
    assert alone.classes[78] == "talk to (e.g., self, a person, a group)"
    write(scored, 'item { name: "sing" id: 79 }')
    with pytest.raises(ValueError, match=r"scored.pbtxt: action 79 is 'sing', in .*all.pbtxt it is 'talk to"):
        read_actors(ava / "val.csv", labels=labels, scored=scored)
    write(scored, 'item { name: "sing" id: 81 }')
    with pytest.raises(ValueError, match="action 81 is past the last of 80"):
        read_actors(ava / "val.csv", scored=scored)


def test_excluded_key_frames_are_left_out_of_samples_and_truth(ava):
    write(ava / "excluded.csv", "a,902\nother,0902\n")
    found = read_actors(ava / "val.csv", excluded=ava / "excluded.csv")
    assert [(s.video, s.timestamp) for s in found.samples] == [("a", 903), ("b", 1798)]
    assert ("a", 902.0) in found.excluded
    assert len(found.truth) == 2


PROPOSALS = """a,0902,0.11,0.21,0.3,0.4,,0.9
a,0902,0.5,0.7,0.9,1,,0.8
a,0902,0.5,0.25,0.9,1,7,0.75
a,0902,0.5,0.25,0.9,1,9,0.7
a,0903,0.2,0.2,0.3,0.3,,0.6
a,0904,0.2,0.2,0.3,0.3,,0.99
a,0900,0.2,0.2,0.3,0.3,,0.99
c,0902,0.2,0.2,0.3,0.3,,0.99
b,1798,0,0,1,1,,0.2
"""


def test_proposals_take_the_place_of_the_boxes_and_the_actions_of_those_they_overlap(ava):
    write(ava / "proposals.csv", PROPOSALS)
    found = read_actors(ava / "val.csv", proposals=ava / "proposals.csv", min_score=0.6)
    assert [(v, t, labels) for v, t, _, labels in told(found)] == [
        ("a", 902, [(3, 12, 80), (), (7, 9)]),  # overlaps of two persons, of 0.375, actions of its own
        ("a", 903, [()]),
        ("b", 1798, []),  # its proposal is too uncertain
        ("a", 904, [()]),  # not in the list: whatever is found there is wrong
    ]
    scores = [score for s in found.samples for score in s.scores.tolist()]
    assert scores == pytest.approx([0.9, 0.8, 0.75, 0.6, 0.99])
    assert [(s.video, s.timestamp, len(s.boxes)) for s in found.truth] == [
        ("a", 902, 3),
        ("a", 903, 0),
        ("b", 1798, 1),
    ]
    assert read_actors(ava / "val.csv", proposals=ava / "proposals.csv", match_iou=0.3).samples[0].labels[
        1
    ] == (0,)


def test_a_proposal_that_overlaps_by_just_as_much_has_the_actions(ava):
    write(ava / "val.csv", "a,0902,0,0,1,1,5,0\na,0902,0,0,1,0.9,6,1\n")
    write(ava / "proposals.csv", "a,0902,0,0,1,0.5,,0.9\na,0902,0,0,1,0.499,,0.9\na,0902,0,0,1,0.4,,0.9\n")
    found = read_actors(ava / "val.csv", proposals=ava / "proposals.csv")
    assert found.samples[0].labels == ((4, 5), (5,), ())


def test_annotated_boxes_may_stay_beside_the_proposals(ava):
    write(ava / "proposals.csv", PROPOSALS)
    found = read_actors(ava / "val.csv", proposals=ava / "proposals.csv", min_score=0.5, keep_truth=True)
    first = found.samples[0]
    assert [tuple(i + 1 for i in labels) for labels in first.labels] == [
        (3, 12, 80), (80,), (1,), (3, 12, 80), (), (7, 9),
    ]  # fmt: skip
    assert first.boxes.shape == (6, 4)
    np.testing.assert_array_equal(first.boxes[:3], found.truth[0].boxes)
    assert first.scores.tolist() == pytest.approx([1, 1, 1, 0.9, 0.8, 0.75])


@pytest.mark.parametrize(
    "line, kwargs, match",
    [
        ("a,0902,0,0,1,1,81,0", {}, "val.csv, line 2: action 81 is past the last of 80"),
        ("a,0901,0,0,1,1,1,0", {}, r"val.csv, line 2: timestamp 901 is not in 902 to 1798 \(timestamps="),
        ("a,1799,0,0,1,1,1,0", {}, r"val.csv, line 2: timestamp 1799 is not in 902 to 1798"),
        ("a,30,0,0,1,1,1,0", {"timestamps": None}, "line 2: timestamp 30 is before start_time=900"),
        ("a,0902,0,0,1,1,1", {"root": "no"}, "root: no is not a folder"),
        ("a,0902,0,0,1,1,1", {"labels": "no"}, "labels: no is not a file"),
        ("a,0902,0,0,1,1,1", {"proposals": "no"}, "proposals: no is not a file"),
        ("a,0902,0,0,1,1,1", {"missing": "maybe"}, "missing must be one of error, skip, keep, got 'maybe'"),
        ("a,0902,0,0,1,1,1", {"min_score": 2}, "min_score must be in 0 to 1, got 2"),
        ("a,0902,0,0,1,1,1", {"match_iou": -1}, "match_iou must be in 0 to 1, got -1"),
    ],
)
def test_what_is_wrong_is_named(ava, line, kwargs, match):
    write(ava / "val.csv", f"a,0902,0,0,1,1,1,0\n{line}\n")
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        read_actors(ava / "val.csv", **kwargs)


def test_proposals_with_persons_in_place_of_scores(ava):
    write(ava / "proposals.csv", "a,0902,0,0,1,1,,0.5\na,0902,0,0,1,1,,17\n")
    with pytest.raises(ValueError, match=r"proposals\.csv, line 2: score 17 is not in 0 to 1"):
        read_actors(ava / "val.csv", proposals=ava / "proposals.csv")


def test_own_lists_may_have_other_times(ava):
    write(ava / "val.csv", "a,1.5,0,0,1,1,1,0\n")
    found = read_actors(ava / "val.csv", start_time=0, timestamps=None)
    assert (found.samples[0].timestamp, found.samples[0].time) == (1.5, 1.5)


def test_missing_videos(ava, caplog):
    write(ava / "val.csv", ROWS + "c,0902,0,0,1,1,1,0\nc,0903,0,0,1,1,1,0\n")
    with pytest.raises(FileNotFoundError, match=r"val.csv, line 8: no video c in "):
        read_actors(ava / "val.csv")
    with caplog.at_level(logging.WARNING, "vidops.data"):
        found = read_actors(ava / "val.csv", missing="skip")
    assert {s.video for s in found.samples} == {s.video for s in found.truth} == {"a", "b"}
    assert "1 of 3 videos are missing" in caplog.text
    assert len(read_actors(ava / "val.csv", missing="keep")) == 5
    write(ava / "val.csv", "")
    with pytest.raises(ValueError, match=r"val\.csv: the list is empty"):
        read_actors(ava / "val.csv")


def test_where_videos_are_found(tmp_path):
    root = touch(
        tmp_path / "videos", "part/a.mp4", "b/b_000001.jpg", "b/b_000002.jpg", "c/00001.jpg", "c.txt"
    )
    write(tmp_path / "val.csv", "".join(f"{v},0902,0,0,1,1,1,0\n" for v in "abc"))
    found = read_actors(tmp_path / "val.csv", root, frames=FrameFolder("{:06d}.jpg"))
    assert [s.path for s in found.samples] == [str(root / "part" / "a.mp4"), str(root / "b"), str(root / "c")]
    assert [s.frames and s.frames.template for s in found.samples] == [None, "b_{:06d}.jpg", "{:06d}.jpg"]
    write(tmp_path / "files.csv", "part/a.mp4,0902,0,0,1,1,1,0\n")
    assert read_actors(tmp_path / "files.csv", root).samples[0].path == str(root / "part" / "a.mp4")
    touch(root, "other/a.webm")
    with pytest.raises(ValueError, match=r"line 1: both .*a.webm and .*a.mp4 have the video's name"):
        read_actors(tmp_path / "val.csv", root)
    touch(root, "a.mov", "a.mkv")
    with pytest.raises(ValueError, match=r"line 1: both .*a.mkv and .*a.mov have the video's name"):
        read_actors(tmp_path / "val.csv", root)


# --- the dataset


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("film")
    write_video(folder / "a.mp4", frames=100, width=64, height=48)
    write(folder / "val.csv", "a,0902,0.25,0.25,0.5,0.75,3,0\na,0902,0.9,0.9,1,1,5,1\na,0903,,,,,,\n")
    return folder


NORMALIZE = Normalize([0.5] * 3, [0.25] * 3)


def dataset(folder: Path, transform, training: bool = False, **kwargs) -> ActorDataset:
    actors = kwargs.pop("actors", None) or read_actors(folder / "val.csv")
    return ActorDataset(actors, num_frames=4, transform=transform, training=training, **kwargs)


def test_a_sample(film):
    sample = dataset(film, Compose([ResizeFrames(32), NORMALIZE]))[0]
    assert sample["clip"].shape == (3, 4, 32, 32)
    assert sample["clip"].dtype == torch.float32
    torch.testing.assert_close(sample["boxes"], torch.tensor([[8.0, 8, 16, 24], [28.8, 28.8, 32, 32]]))
    torch.testing.assert_close(sample["shares"], torch.tensor([[0.25, 0.25, 0.5, 0.75], [0.9, 0.9, 1, 1]]))
    assert sample["labels"].shape == (2, 80)
    assert sample["labels"].nonzero().tolist() == [[0, 2], [1, 4]]
    assert sample["scores"].tolist() == [1, 1]
    assert (sample["video"], sample["timestamp"], sample["index"]) == ("a", 902.0, 0)


def test_crops_drop_boxes_in_training_and_never_in_evaluation(film):
    transform = Compose([TrainCrops(32, flip=False, scales=(0.66,)), NORMALIZE])
    counts = set()
    for epoch in range(20):
        trained = dataset(film, transform, training=True)[epoch, 0]
        kept = dataset(film, transform)[epoch, 0]
        torch.testing.assert_close(trained["clip"], kept["clip"])
        assert len(kept["boxes"]) == 2
        counts.add(len(trained["boxes"]))
        assert {len(trained[key]) for key in ("boxes", "labels", "shares", "scores")} == {
            len(trained["boxes"])
        }
        assert (kept["boxes"] >= 0).all()
        assert (kept["boxes"] <= 32).all()
        torch.testing.assert_close(
            trained["boxes"],
            kept["boxes"][[row in trained["shares"].tolist() for row in kept["shares"].tolist()]],
        )
    assert counts >= {0, 1} or counts >= {1, 2}


@pytest.mark.parametrize("left, count", [(0.0, 1), (0.3, 1), (0.55, 0)])
def test_how_much_of_a_box_must_be_left(film, left, count):
    """The centre crop of a frame of 64 x 48 begins 8 pixels from the left: half of this box is left."""
    box = KeyFrame(str(film / "a.mp4"), "a", 902.0, 2.0, np.array([[0, 0, 0.25, 1]], np.float32), ((1,),))
    outside = KeyFrame(
        str(film / "a.mp4"), "a", 902.0, 2.0, np.array([[0, 0, 0.125, 1]], np.float32), ((1,),)
    )
    actors = ActorList([box, outside], ["x", "y"], (0,), [])
    views = Views(SpatialCrops(48, 48), 1, NORMALIZE)
    found = dataset(film, views, training=True, actors=actors, min_visible=left)
    assert [len(found[i]["boxes"]) for i in (0, 1)] == [count, 0]


@pytest.mark.parametrize("crops", [1, 3])
def test_what_goes_with_a_box_is_dropped_with_it(film, crops):
    """The first box lies left of the centre crop, which begins at 8 of 64 pixels; the others in all three crops."""
    boxes = np.array([[0, 0, 0.125, 1], [0.25, 0, 0.5, 1], [0.5, 0, 0.75, 1]], np.float32)
    scores = np.array([0.1, 0.2, 0.3], np.float32)
    key = KeyFrame(str(film / "a.mp4"), "a", 902.0, 2.0, boxes, ((0,), (1,), (0, 1)), scores)
    views = Views(SpatialCrops(48, 48, crops=crops), 1, NORMALIZE)
    actors = ActorList([key], ["x", "y"], (0,), [])
    found = dataset(film, views, training=True, actors=actors, min_visible=1.0)[0]
    assert found["labels"].tolist() == [[0, 1], [1, 1]]
    assert found["scores"].tolist() == scores[1:].tolist()
    assert found["shares"].tolist() == boxes[1:].tolist()
    assert found["boxes"].reshape(crops, 2, 4)[crops // 2].tolist() == [[8, 0, 24, 48], [24, 0, 40, 48]]


def test_batches_of_views(film):
    views = Views(SpatialCrops(32, 36, crops=10), 1, NORMALIZE)
    found = dataset(film, views)
    batch = collate_actors([found[0], {"broken": [(7, "gone")]}, {**found[1], "broken": []}, found[0]])
    assert batch["clip"].shape == (3, 10, 3, 4, 32, 32)
    assert batch["boxes"].shape == (4, 10, 5)
    assert batch["boxes"][..., 0].tolist() == [[*range(10)], [*range(10)], [*range(20, 30)], [*range(20, 30)]]
    assert batch["broken"] == [(7, "gone")]
    assert batch["index"].tolist() == [0, 1, 0]
    torch.testing.assert_close(batch["boxes"][0, 5, [1, 3]], 32 - batch["boxes"][0, 0, [3, 1]])


def test_batches_keep_the_order_of_clips_and_boxes():
    def item(number, *rows):
        values = torch.tensor(rows, dtype=torch.float32).view(-1, 1)
        told = {"index": number, "path": f"{number}.mp4", "video": f"{number}", "timestamp": 900.0 + number}
        clip = torch.full((3, 2, 4, 4), float(number))
        return {"clip": clip, "boxes": values.expand(-1, 4), "labels": values.expand(-1, 5), **told,
                "shares": values.expand(-1, 4) / 10, "scores": values[:, 0] / 10}  # fmt: skip

    batch = collate_actors([item(7, 1, 2), item(3), item(5, 3)])
    assert batch["clip"][:, 0, 0, 0, 0].tolist() == batch["index"].tolist() == [7, 3, 5]
    assert batch["boxes"].tolist() == [[0, 1, 1, 1, 1], [0, 2, 2, 2, 2], [2, 3, 3, 3, 3]]
    for key, scale in (("labels", 1), ("shares", 10), ("scores", 10)):
        torch.testing.assert_close(batch[key].reshape(3, -1)[:, 0] * scale, torch.tensor([1.0, 2, 3]))
    assert (batch["path"], batch["timestamp"]) == (["7.mp4", "3.mp4", "5.mp4"], [907.0, 903.0, 905.0])


def test_a_window_is_read_as_the_arguments_say(film, monkeypatch):
    read = []

    def window(*args, **kwargs):
        read.append((args, kwargs))
        return np.zeros((4, 48, 64, 3), np.uint8)

    monkeypatch.setattr(actors_module, "read_window", window)
    dataset(film, NORMALIZE, frame_step=3, frame_rate=12.5, short_side=48)[0]
    told = {"frames": None, "frame_rate": 12.5, "short_side": 48}
    assert read == [((str(film / "a.mp4"), 2.0, 4, 3), told)]


def test_batches_without_actors_or_clips(film):
    found = dataset(film, Compose([ResizeFrames(32), NORMALIZE]))
    batch = collate_actors([found[1]])
    assert batch["boxes"].shape == (0, 5)
    assert batch["labels"].shape == (0, 80)
    trained = dataset(film, Compose([ResizeFrames(32), NORMALIZE]), training=True)
    assert trained[1]["boxes"].shape == (0, 4)
    views = dataset(film, Views(SpatialCrops(32, 36, crops=3), 1, NORMALIZE), training=True)
    assert views[1]["boxes"].shape == (3, 0, 4)
    assert collate_actors([{"broken": [(0, "x")]}]) == {
        "path": [], "video": [], "timestamp": [], "broken": [(0, "x")],
    }  # fmt: skip


def test_samples_are_a_function_of_seed_epoch_and_index(film):
    transform = Compose([TrainCrops(32, flip=True), NORMALIZE])
    first, second = dataset(film, transform), dataset(film, transform, cache="memory")
    for _ in range(2):
        for epoch in (0, 1):
            second.set_epoch(epoch)
            one, other = first[epoch, 0], second[0]
            assert torch.equal(one["clip"], other["clip"])
            assert torch.equal(one["boxes"], other["boxes"])
    assert len(second._cache) == 1
    other = dataset(film, transform, seed=1)
    assert any(not torch.equal(first[epoch, 0]["boxes"], other[epoch, 0]["boxes"]) for epoch in range(4))
    with pytest.raises(IndexError, match="index 2 is outside the 2 samples"):
        first[2]


def test_a_dataset_can_be_sent_to_a_worker(film):
    found = dataset(film, Compose([TrainCrops(32, flip=True), NORMALIZE]), cache="memory")
    first = found[3, 0]
    sent = pickle.loads(pickle.dumps(found))
    assert not sent._cache
    assert torch.equal(sent[3, 0]["clip"], first["clip"])
    assert torch.equal(sent[3, 0]["boxes"], first["boxes"])


def test_broken_files_are_named(film, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    write(tmp_path / "val.csv", (film / "val.csv").read_text())
    with pytest.raises(VideoError, match=r"a\.mp4: cannot be decoded"):
        dataset(tmp_path, NORMALIZE)[0]
    late = write(tmp_path / "late.csv", "a,1000,0,0,1,1,1,0\n")
    with pytest.raises(VideoError, match=r"a\.mp4: ends at 4\.00 s, before the key frame at 100 s"):
        dataset(film, NORMALIZE, actors=read_actors(late, film))[0]


@pytest.mark.parametrize(
    "kwargs, match",
    [
        ({"num_frames": 0}, "num_frames must be a whole number of at least 1, got 0"),
        ({"frame_step": 1.5}, "frame_step must be a whole number of at least 1, got 1.5"),
        ({"min_visible": 2}, "min_visible must be in 0 to 1, got 2"),
        ({"frame_rate": 0}, "frame_rate must be above 0, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"cache": "disk"}, 'cache must be None or "memory"'),
        ({"short_side": 0}, "short_side must be at least 1 or None, got 0"),
    ],
)
def test_wrong_arguments(film, kwargs, match):
    settings = {"num_frames": 4, "transform": NORMALIZE, "training": False} | kwargs
    with pytest.raises(ValueError, match=match):
        ActorDataset(read_actors(film / "val.csv"), **settings)


# --- checking


def test_key_frames_can_be_checked_like_videos(film):
    found = read_actors(film / "val.csv")
    assert check_videos(found.samples) == []
    gone = KeyFrame("no/a.mp4", "a", 902.0, 2.0, found.samples[0].boxes, found.samples[0].labels)
    assert [broken.path for broken in check_videos([*found.samples, gone, gone])] == ["no/a.mp4"]


def test_check_command(film, tmp_path, capsys):
    assert main(["dataset", "check", str(film / "val.csv"), "--workers", "0"]) == 0
    assert "0 of 1 videos are broken" in capsys.readouterr().out
    write(tmp_path / "own.csv", "a,0001,0,0,1,1,95,0\nb,0001,0,0,1,1,95,0\n")
    words = ["dataset", "check", str(tmp_path / "own.csv"), "--root", str(film), "--workers", "0", "--quick"]
    assert main(words) == 1
    out = capsys.readouterr().out
    assert "b.mp4: no such file" in out
    assert "1 of 2 videos are broken" in out


def test_check_command_with_a_recipe(actors_set, tmp_path, capsys):
    """Both lists are read as training reads them, so that a key frame's video is decoded once."""
    from tests.training.actor_runs import actor_recipe

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        json.dumps(actor_recipe(actors_set, tmp_path / "run")), encoding="utf-8"
    )  # JSON is YAML
    assert main(["dataset", "check", str(recipe), "--workers", "0", "--quick"]) == 0
    assert "0 of 80 videos are broken" in capsys.readouterr().out
