"""Networks that classify actors: measured on lists, and on single videos."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lightning", reason="training needs lightning")
pytest.importorskip("skimage", reason="the detection set needs scikit-image")
pytest.importorskip("av", reason="video files need av")

from tests.training.actor_runs import actor_recipe, small_set
from vidops.cli import main
from vidops.data import num_frames
from vidops.evaluation import (
    ActorPredictor,
    LabelledBoxes,
    Predictor,
    actor_evaluator,
    evaluate,
    evaluate_actors,
    file_predictor,
    frame_map,
    read_detections,
)
from vidops.evaluation.evaluator import prepare
from vidops.models import create_model
from vidops.training import checkpoint, read_checkpoint, restore
from vidops.training.config import dump, override, validate
from vidops.training.task import task_of


@pytest.fixture(scope="module")
def actors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_set(tmp_path_factory.mktemp("data") / "actors")


@pytest.fixture(scope="module")
def weights(actors: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a network whose weights are random, all of them: none is 0 as at the start of a training."""
    config = validate(actor_recipe(actors, actors / "run"), "test recipe")
    classes = task_of(config).read("val").classes
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = config.model
        net = create_model(model.name, num_classes=10, num_segments=4, **model.options)
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    path = tmp_path_factory.mktemp("run") / "best.ckpt"
    state = {checkpoint.PREFIX + key: value for key, value in net.state_dict().items()}
    own = checkpoint.describe(config, classes, (1, 0), {}, {})
    torch.save({checkpoint.KEY: own, "state_dict": state}, path)
    return path


def with_keys(weights: Path, *keys: str) -> Any:
    return override(read_checkpoint(weights).config, keys, "test recipe")


def by_hand(weights: Path, config: Any) -> tuple[LabelledBoxes, LabelledBoxes, Any]:
    """Ground truth and detections, a key frame and a box at a time."""
    net = restore(read_checkpoint(weights))
    task = task_of(config)
    found = task.read("val")
    truth, rows = [], []
    for key in found.truth:
        for box, labels in zip(key.boxes.tolist(), key.labels, strict=True):
            truth += [(key.video, key.timestamp, np.round(box, 6), label, 1.0) for label in labels]
    for item in task.dataset(found, training=False):
        for box, share in zip(item["boxes"], item["shares"].tolist(), strict=True):
            with torch.no_grad():
                logits = net(item["clip"][None], torch.cat([torch.zeros(1), box])[None])[0]
            place = item["video"], item["timestamp"], np.round(share, 6)
            rows += [(*place, c, float(logits[c].double().sigmoid())) for c in found.scored]
    return LabelledBoxes.of(truth), LabelledBoxes.of(rows), found


@pytest.mark.parametrize(
    "keys", [(), ("data.actors.val_proposals=val_proposals.csv", "data.eval_batch_size=2")]
)
def test_a_list_is_measured_a_box_at_a_time(weights: Path, keys: tuple[str, ...]) -> None:
    config = with_keys(weights, *keys)
    report = evaluate_actors(weights, config)
    truth, rows, found = by_hand(weights, config)
    expected = frame_map(truth, rows, found.scored, excluded=found.excluded)
    assert report.frame_map == pytest.approx(expected.mean, abs=1e-9)
    assert 0 < report.frame_map < 1
    assert dict(report.measured.per_class) == pytest.approx(dict(expected.per_class), nan_ok=True)
    assert report.detections is not None
    assert report.detections.scores == pytest.approx(rows.scores, abs=1e-5)
    assert (report.key_frames, report.boxes) == (len(found), len(rows) // len(found.scored))
    assert report.origin["boxes"] == ("given" if keys else "annotated")
    assert report.origin["model"] == "tiny_st_slowfast"


def test_each_rank_measures_its_key_frames(weights: Path) -> None:
    net, config, found = prepare(weights, None, "val")
    whole = evaluate_actors(weights)
    parts = [actor_evaluator._measure_part(net, config, found, rank, 5, None) for rank in range(5)]
    assert [len(part.indices) for part in parts] == [3, 3, 2, 2, 2]
    joined = actor_evaluator._join(parts, found, {})
    assert joined.detections is not None
    assert whole.detections is not None
    assert np.array_equal(joined.detections.frame, whole.detections.frame)
    assert joined.detections.scores == pytest.approx(whole.detections.scores, abs=1e-5)
    with pytest.raises(RuntimeError, match="did not measure each key frame once"):
        actor_evaluator._join(parts[1:], found, {})
    more = [actor_evaluator._measure_part(net, config, found, rank, 13, None) for rank in range(13)]
    assert len(more[12].indices) == 0  # more ranks than key frames
    assert actor_evaluator._join(more, found, {}).key_frames == 12


def test_the_command_leaves_files(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, csv = tmp_path / "report", tmp_path / "found.csv"
    assert (
        main(["evaluate", "--weights", str(weights), "--report", str(report), "--detections", str(csv)]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["class", "boxes", "AP"]
    assert lines[8 + 1].startswith("tiny_st_slowfast: frame mAP ")
    values = json.loads((report / "report.json").read_text())
    assert [entry["name"] for entry in values["classes"]][:2] == ["move right", "move left"]
    found = task_of(read_checkpoint(weights).config).read("val")
    again = frame_map(
        by_hand(weights, read_checkpoint(weights).config)[0], read_detections(csv), found.scored
    )
    assert again.mean == values["frame_map"]
    assert f"{values['frame_map']:.2%}" in lines[9]
    assert (report / "classes.png").stat().st_size > 1000


def test_a_file_of_detections_is_measured_alone(
    weights: Path, actors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    csv, config = tmp_path / "found.csv", tmp_path / "recipe.yaml"
    assert main(["evaluate", "--weights", str(weights), "--detections", str(csv)]) == 0
    table = capsys.readouterr().out.splitlines()[:9]
    config.write_text(dump(read_checkpoint(weights).config))
    lists = tmp_path / "lists"  # of videos that are not there
    lists.mkdir()
    for name in ("val.csv", "labels.pbtxt", "scored.pbtxt", "excluded.csv"):
        shutil.copy(actors / name, lists)
    options = ["--config", str(config), f"data.root={lists}", "--json", str(tmp_path / "again.json")]
    assert main(["evaluate", "--detected", str(csv), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:9] == table
    found = task_of(read_checkpoint(weights).config).read("val")
    boxes = sum(len(key.boxes) for key in found.samples)
    assert f", {boxes} boxes (given) at 12 key frames of " in lines[9]
    excluded = (actors / "excluded.csv").read_text().split()
    assert excluded
    csv.write_text(csv.read_text() + "".join(f"{key},0,0,1,1,1,1.0\n" for key in excluded))
    assert main(["evaluate", "--detected", str(csv), *options]) == 0
    assert capsys.readouterr().out.splitlines()[:9] == table  # what is found there is not wrong
    assert main(["evaluate", "--detected", str(csv)]) == 2
    assert "--detected needs --config, a recipe of actors" in capsys.readouterr().err
    assert main(["evaluate", "--detected", str(csv), "--config", str(config), "--views", "1x1"]) == 2
    assert "--views needs --weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--scores", "x.npz"], "--scores needs a network that classifies clips"),
        (["--confusion", "x.png"], "--confusion needs a network that classifies clips"),
        (["--views", "3x1"], "data.crops: is 1 alone for data.format=ava"),
        (["data.actors.val_proposals=none.csv"], "none.csv is not a file"),
    ],
)
def test_the_command_refuses_what_is_of_clips(
    weights: Path, options: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--weights", str(weights), *options]) == 2
    assert reason in capsys.readouterr().err


def test_clips_and_actors_are_not_mixed_up(
    weights: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = run / "best.ckpt"
    with pytest.raises(ValueError, match="which evaluate_actors measures"):
        evaluate(weights)
    with pytest.raises(ValueError, match="which evaluate measures"):
        evaluate_actors(best)
    with pytest.raises(ValueError, match="which ActorPredictor predicts"):
        Predictor(weights)
    with pytest.raises(ValueError, match="which Predictor predicts"):
        ActorPredictor(best)
    assert main(["evaluate", "--weights", str(best), "--detections", "x.csv"]) == 2
    assert "--detections needs a network that classifies actors" in capsys.readouterr().err
    assert main(["predict", "a.mp4", "--weights", str(best), "--start-time", "900"]) == 2
    assert "--start-time: " in capsys.readouterr().err


def test_boxes_of_a_file_are_classified(weights: Path, actors: Path) -> None:
    config = read_checkpoint(weights).config
    found = task_of(config).read("val")
    data = task_of(config).dataset(found, training=False)
    net = restore(read_checkpoint(weights))
    predictor = ActorPredictor(weights, boxes=actors / "val.csv", start_time=900, top=10, batch_size=1)
    paths = [sample.path for sample in found.samples[:3]]
    for index, prediction in enumerate(predictor.run(paths)):
        assert prediction.error is None
        assert prediction.path == paths[index]
        item = data[index]
        rows = torch.cat([torch.zeros(len(item["boxes"]), 1), item["boxes"]], 1)
        with torch.no_grad():
            expected = net(item["clip"][None], rows).sigmoid()
        assert len(prediction.actors) == len(rows)
        for actor, box, shares in zip(
            prediction.actors, item["shares"].tolist(), expected.tolist(), strict=True
        ):
            assert actor.box == pytest.approx(box, abs=1e-6)
            assert (actor.timestamp, actor.time) == (902, 2)
            assert dict(actor.scores) == pytest.approx(
                dict(zip(found.classes, shares, strict=True)), abs=1e-5
            )
            assert [p for _, p in actor.scores] == sorted((p for _, p in actor.scores), reverse=True)


def test_top_and_threshold(weights: Path, actors: Path) -> None:
    path = [str(actors / "videos" / "val_00000.mp4")]
    every = next(iter(ActorPredictor(weights, top=10).run(path))).actors
    two = next(iter(ActorPredictor(weights, top=2).run(path))).actors
    assert [actor.scores for actor in two] == [actor.scores[:2] for actor in every]
    limit = every[0].scores[4][1]
    some = next(iter(ActorPredictor(weights, top=10, threshold=limit).run(path))).actors
    assert [a.scores for a in some] == [[s for s in a.scores if s[1] >= limit] for a in every]
    assert len(some[0].scores) == 5


@pytest.mark.parametrize(("every", "times"), [(1.0, [0.5, 1.5, 2.5, 3.5]), (3.0, [1.5]), (9.0, [2.0])])
def test_the_whole_frame_where_no_boxes_are_given(
    weights: Path, actors: Path, every: float, times: list[float]
) -> None:
    path = [str(actors / "videos" / "val_00000.mp4")]  # 4 s
    found = next(iter(ActorPredictor(weights, every=every).run(path))).actors
    assert [actor.time for actor in found] == times
    assert {actor.box for actor in found} == {(0, 0, 1, 1)}
    one_by_one = ActorPredictor(weights, every=every, start_time=900, batch_size=1)
    again = next(iter(one_by_one.run(path))).actors
    assert [(actor.time, actor.timestamp) for actor in again] == [(time, 900 + time) for time in times]


def test_one_bad_video_stops_no_other(weights: Path, actors: Path, tmp_path: Path) -> None:
    good, cut = actors / "videos" / "val_00000.mp4", tmp_path / "cut.mp4"
    cut.write_bytes(good.read_bytes()[:300])
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("val_00000,1,0,0,1,1\ncut,1,0,0,1,1\nmissing,1,0,0,1,1\nlate,99,0,0,1,1\n")
    shutil.copy(good, tmp_path / "late.mp4")
    shutil.copy(good, tmp_path / "unnamed.mp4")
    paths = [
        str(p) for p in (cut, good, tmp_path / "late.mp4", tmp_path / "unnamed.mp4", tmp_path / "missing.mp4")
    ]
    found = list(ActorPredictor(weights, boxes=boxes).run(paths))
    assert [p.path for p in found] == paths
    assert [p.error is None for p in found] == [False, True, False, False, False]
    assert all(p.error.startswith(f"{p.path}: ") and "\n" not in p.error for p in found if p.error)
    assert "before the key frame at 99 s" in str(found[2].error)
    assert "has no boxes for it" in str(found[3].error)
    assert "no such file" in str(found[4].error)
    early = next(iter(ActorPredictor(weights, boxes=boxes, start_time=2).run(paths[1:2])))
    assert "boxes at 1 s, before the first frame at 2 s" in str(early.error)


def test_an_output_that_is_not_finite(weights: Path, actors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def poisoned(checkpoint: Any, backend: str | None = None) -> torch.nn.Module:
        net = restore(checkpoint, backend=backend)
        net.register_forward_hook(lambda module, inputs, logits: logits * math.nan)
        return net

    monkeypatch.setattr(file_predictor, "restore", poisoned)
    path = str(actors / "videos" / "val_00000.mp4")
    found = next(iter(ActorPredictor(weights).run([path])))
    assert found.error == f"{path}: the network's output is not finite"


def test_the_command_goes_on_where_it_stopped(
    weights: Path, actors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = [str(actors / "videos" / f"val_{i:05d}.mp4") for i in range(3)]
    out = tmp_path / "found.jsonl"
    call = [
        "--weights",
        str(weights),
        "--boxes",
        str(actors / "val.csv"),
        "--start-time",
        "900",
        "--out",
        str(out),
    ]
    assert main(["predict", *videos[:2], *call]) == 0
    lines = out.read_text().splitlines()
    assert main(["predict", *videos, *call]) == 0
    assert "3 videos, 2 of them earlier" in capsys.readouterr().out
    assert out.read_text().splitlines()[:2] == lines
    entry = json.loads(lines[0])
    assert entry["path"] == videos[0]
    assert set(entry["predictions"][0]) == {"timestamp", "box", "classes"}
    assert set(entry["predictions"][0]["classes"][0]) == {"class", "probability"}
    assert main(["predict", *videos, *call, "--threshold", "0.5"]) == 2  # not the run that began
    assert "choose another file" in capsys.readouterr().err


def test_the_command_draws(
    weights: Path, actors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video, drawn = str(actors / "videos" / "val_00000.mp4"), tmp_path / "drawn.mp4"
    assert main(["predict", video, "--weights", str(weights), "--draw", str(drawn), "--top", "1"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0] == video
    assert captured.out.splitlines()[1].startswith("       0.5 s  [0.000 0.000 1.000 1.000]  ")
    assert captured.err == f"drawn: {drawn}\n"
    assert num_frames(drawn) == num_frames(video)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--every", "0"], "every must be above 0, got 0"),
        (["--threshold", "2"], "threshold must be in 0 to 1, got 2"),
        (["--top", "0"], "top must be at least 1, got 0"),
        (["--boxes", "none.csv"], "boxes: none.csv is not a file"),
        (["--min-score", "0.5"], "--min-score: needs --boxes"),
        (["--boxes", "none.csv", "--every", "1"], "--every: the moments are those of --boxes"),
        (["--draw", "x.gif"], "video x.gif: the name must end in .mp4"),
        (["--draw", "x.mp4", "--out", "y.jsonl"], "--draw: cannot be had with --out"),
        (["b.mp4", "--draw", "x.mp4"], "--draw: draws one video, 2 are given"),
    ],
)
def test_the_command_refuses(
    weights: Path, options: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "a.mp4", *options, "--weights", str(weights)]) == 2
    assert reason in capsys.readouterr().err
