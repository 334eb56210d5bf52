from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from vidops.cli import main
from vidops.data import (
    ActorDataset,
    ActorList,
    KeyFrame,
    VideoError,
    check_videos,
    collate_actors,
    read_actors,
)
from vidops.data import actors as actors_module
from vidops.data.transforms import Compose, Normalize, ResizeFrames, TrainCrops
from vidops.data.views import SpatialCrops, Views

from ._lists import write
from ._videos import write_video


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
