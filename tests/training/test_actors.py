"""Training to classify actors: lists, batches, loss, frame mAP, whole runs."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("lightning", reason="training needs lightning")
pytest.importorskip("skimage", reason="the detection set needs scikit-image")
pytest.importorskip("av", reason="video files need av")

from tests.training.actor_runs import actor_recipe, small_set
from tests.training.runs import Killed, kill_at, rows
from vidops.data import ActorList, KeyFrame
from vidops.evaluation import LabelledBoxes, frame_map
from vidops.training import NonFiniteLossError, fit, read_checkpoint, restore
from vidops.training.config import Config, validate
from vidops.training.learn import loss_curve
from vidops.training.loading import evaluation_loader, fingerprint, training_loader
from vidops.training.module import Recognizer
from vidops.training.ranks import Ranks
from vidops.training.start import build_network
from vidops.training.task import task_of

Make = Callable[..., Config]


@pytest.fixture(scope="module")
def actors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_set(tmp_path_factory.mktemp("data") / "actors")


@pytest.fixture
def make(actors: Path, tmp_path: Path) -> Make:
    def of(*, output: str = "run", **changes: Any) -> Config:
        return validate(actor_recipe(actors, tmp_path / output, **changes), "test recipe")

    return of


def test_a_run_is_measured_by_its_frame_map(make: Make) -> None:
    out = io.StringIO()
    result = fit(make(epochs=2), out=out)
    lines = out.getvalue().splitlines()
    assert lines[0].endswith("10 classes, 24 training and 12 validation key frames")
    assert lines[1].split() == ["epoch", "train", "loss", "val", "loss", "val", "map", "time"]
    assert [line.split()[0] for line in lines[2:]] == ["1/2", "2/2"]
    assert lines[3].split()[3].endswith("%")
    log = rows(result.output)
    assert list(log[0]) == ["epoch", "step", "lr", "train_loss", "val_loss", "val_map"]
    assert [row["val_map"] != "" for row in log] == [False, False, False, True] * 2
    last, best = read_checkpoint(result.last), read_checkpoint(result.best)
    assert last.classes[:2] == ["move right", "move left"]
    assert last.metrics == result.metrics
    assert result.score == "val_map"
    assert result.best_score == best.metrics["val_map"] >= last.metrics["val_map"]
    assert 0 < result.metrics["val_map"] < 1


def test_the_figures_are_those_of_the_checkpoint_by_hand(make: Make) -> None:
    """Each key frame alone, its boxes from the list, every label and detection written out."""
    config = make(epochs=1, data__actors__val_proposals="val_proposals.csv", data__actors__val_min_score=0.3)
    result = fit(config)
    checkpoint = read_checkpoint(result.last)
    net, task = restore(checkpoint), task_of(config)
    val = task.read("val", checkpoint.classes)
    assert any(len(s.boxes) != len(t.boxes) for s, t in zip(val.samples, val.truth, strict=True))
    dataset = task.dataset(val, training=False)
    found, total, count = [], 0.0, 0
    for i, sample in enumerate(val.samples):
        boxes = torch.from_numpy(sample.boxes) * 32
        with torch.inference_mode():
            logits = net(dataset[i]["clip"][None], torch.cat([torch.zeros(len(boxes), 1), boxes], 1)).double()
        wanted = torch.zeros_like(logits)
        for row, labels in zip(wanted, sample.labels, strict=True):
            row[list(labels)] = 1
        total += float(F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum"))
        count += logits.numel()
        for box, scores in zip(sample.boxes.astype(float).round(6), logits.sigmoid().tolist(), strict=True):
            found += [(sample.video, 902.0, box, label, score) for label, score in enumerate(scores)]
    lines = [line.split(",") for line in (Path(config.data.root) / "val.csv").read_text().split()]
    truth = [(v, float(t), [float(edge) for edge in box], int(a) - 1, 1.0) for v, t, *box, a, _ in lines]
    measured = frame_map(LabelledBoxes.of(truth), LabelledBoxes.of(found), scored=range(8))
    assert result.metrics["val_map"] == pytest.approx(measured.mean, abs=1e-9)
    assert result.metrics["val_loss"] == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("killed", [(0, 1), (2, 0)])
def test_killed_and_resumed_ends_with_the_same_weights(
    make: Make, monkeypatch: pytest.MonkeyPatch, killed: tuple[int, int]
) -> None:
    crops = {
        "data__actors": {"labels": "labels.pbtxt", "min_visible": 0.5},
        "data__size": 24,
        "data__short_side": 32,
    }
    whole = fit(make(output="whole", **crops))
    with monkeypatch.context() as patch:
        kill_at(patch, *killed)
        with pytest.raises(Killed):
            fit(make(**crops))
    random.seed(1)
    torch.manual_seed(1)
    resumed = fit(make(**crops), resume=True)
    ours, theirs = read_checkpoint(whole.last).weights, read_checkpoint(resumed.last).weights
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())
    assert (whole.metrics, whole.best_score) == (resumed.metrics, resumed.best_score)
    assert rows(whole.output) == rows(resumed.output)


def test_best_has_the_highest_frame_map(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = iter([(0.5, 0.1), (0.75, 0.8), (0.6, 0.05)])
    end = Recognizer.on_validation_epoch_end

    def on_validation_epoch_end(self: Recognizer) -> None:
        end(self)
        self.metrics["val_map"], self.metrics["val_loss"] = next(measured)

    monkeypatch.setattr(Recognizer, "on_validation_epoch_end", on_validation_epoch_end)
    result = fit(make())
    assert result.best_score == 0.75
    assert read_checkpoint(result.best).epochs == 2


def batch_of(config: Config, count: int) -> dict[str, Any]:
    task = task_of(config)
    dataset = task.dataset(task.read("train"), training=True)
    return task.collate([dataset[(0, i)] | {"broken": []} for i in range(count)])


def test_the_loss_is_the_mean_over_all_labels_of_all_ranks(make: Make) -> None:
    """Two ranks, of three clips and of one: the mean of their gradients is that of all four together."""
    config = make(model__options__dropout=0.0)
    net = build_network(config, 10).eval()
    task, batch = task_of(config), batch_of(config, 4)
    logits = net(*task.inputs(batch)).detach()
    whole, weight = task.loss(logits, batch, Ranks())
    assert float(whole) == pytest.approx(float(F.binary_cross_entropy_with_logits(logits, batch["labels"])))
    assert weight == len(logits) == len(batch["labels"])

    class Two(Ranks):
        def sum(self, values: torch.Tensor) -> torch.Tensor:
            return torch.tensor(len(logits))

    own = batch["boxes"][:, 0] < 3
    shares = [(logits[rows], {"labels": batch["labels"][rows]}) for rows in (own, ~own)]
    parts = [task.loss(*share, Two(rank, 2)) for rank, share in enumerate(shares)]
    assert float(sum(loss for loss, _ in parts) / 2) == pytest.approx(float(whole))
    assert sum(weight for _, weight in parts) == len(logits)


def test_a_batch_without_a_box_moves_nothing(make: Make) -> None:
    config = make()
    net = build_network(config, 10)
    task, batch = task_of(config), batch_of(config, 3)
    for key in ("boxes", "labels", "shares", "scores"):
        batch[key] = batch[key][:0]
    loss, weight = task.loss(net(*task.inputs(batch)), batch, Ranks())
    assert (loss.item(), weight) == (0.0, 0.0)
    loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in net.parameters())


def test_a_run_with_batches_without_a_box(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small crops leave few boxes whole."""
    boxes: list[int] = []
    step = Recognizer.training_step

    def training_step(self: Recognizer, batch: Any, batch_idx: int) -> torch.Tensor:
        boxes.append(len(batch["boxes"]))
        assert len(batch["clip"]) == 2
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Recognizer, "training_step", training_step)
    config = make(
        epochs=1,
        data__actors={"labels": "labels.pbtxt", "min_visible": 1.0},
        data__scales=[0.4],
        data__batch_size=2,
        data__eval_batch_size=1,
    )
    result = fit(config)
    assert 0 in boxes
    assert max(boxes) > 0
    epoch = rows(result.output)[-1]
    assert 0 < float(epoch["train_loss"]) < 2


def test_a_loss_that_is_no_number_names_the_key_frames(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[str] = []
    wheres = {"training_step": "the loss is nan in epoch 1, batch 2", "validation_step": "not finite for"}
    for name, where in wheres.items():
        step = getattr(Recognizer, name)

        def poisoned(self: Recognizer, batch: Any, batch_idx: int, step: Any = step) -> Any:
            if batch_idx == 1:
                batch["clip"][2] = float("nan")
                named[:] = [f"{path} at 902" for path in batch["path"]]
            return step(self, batch, batch_idx)

        with monkeypatch.context() as patch:
            patch.setattr(Recognizer, name, poisoned)
            with pytest.raises(NonFiniteLossError, match=where) as caught:
                fit(make(output=name))
        assert named[2] in str(caught.value)
        assert (named[0] in str(caught.value)) is (name == "training_step")


def test_a_detectors_boxes_are_trained_on_beside_the_lists(make: Make) -> None:
    plain = task_of(make()).read("train")
    task = task_of(
        make(data__actors__train_proposals="train_proposals.csv", data__actors__train_min_score=0.7)
    )
    found = task.read("train")
    for ours, theirs in zip(found.samples, plain.samples, strict=True):
        count = len(theirs.boxes)
        assert np.array_equal(ours.boxes[:count], theirs.boxes)
        assert ours.labels[:count] == theirs.labels
        assert set(ours.labels[count:]) <= set(theirs.labels)
        assert ours.scores is not None
        assert (ours.scores[count:] >= 0.7).all()
    assert sum(len(s.boxes) for s in found.samples) == 2 * sum(len(s.boxes) for s in plain.samples)
    prints = {fingerprint(actors, make().data.root, task.identify) for actors in (plain, found)}
    assert len(prints) == 2


def test_tests_keep_the_shape_of_frames_and_say_when_they_make_no_batch(make: Make) -> None:
    config = make(
        data__actors={"labels": "labels.pbtxt"}, data__test_size=24, data__size=24, data__short_side=30
    )
    task = task_of(config)
    train, val = (task.dataset(task.read(split), training=split == "train") for split in ("train", "val"))
    assert train[0]["clip"].shape == (3, 4, 24, 24)
    item = val[0]
    assert item["clip"].shape == (3, 4, 24, 24)
    assert torch.equal(item["boxes"], item["shares"] * 24)
    wide = {**item, "clip": torch.zeros(3, 4, 24, 40)}
    with pytest.raises(
        ValueError, match=r"data.eval_batch_size: frames of 24 x 24 and of 40 x 24 make no batch; 1 takes"
    ):
        task.collate([item, wide])
    assert len(list(evaluation_loader(config, val, collate_fn=task.collate))) == 3


def test_the_keys_of_a_recipe_reach_what_reads(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    keys: dict[str, Any] = {"start_time": 1.0, "timestamps": [2.0, 9.0], "match_iou": 0.4, "squash": True}
    own = {
        f"{split}_{key}": f"{split}_{key}.csv"
        for split in ("train", "val")
        for key in ("excluded", "proposals")
    }
    windows = {"frame_step": 3, "frame_rate": 12.5, "min_visible": 0.75}
    scores = {"train_min_score": 0.6, "val_min_score": 0.7}
    config = make(
        data__flip=True,
        data__actors={"labels": "labels.pbtxt", "scored": "s.pbtxt", **keys, **own, **windows, **scores},
    )
    read: list[tuple[Any, dict[str, Any]]] = []
    key_frames = [KeyFrame("a", "a", 2.0, 1.0, np.ones((1, 4), np.float32), ((0,),))]

    def read_actors(*paths: Any, **options: Any) -> ActorList:
        read.append((paths, options))
        return ActorList(key_frames, ["x"], (0,), key_frames)

    monkeypatch.setattr("vidops.data.read_actors", read_actors)
    task, root = task_of(config), Path(config.data.root)
    for split, score in (("train", 0.6), ("val", 0.7)):
        dataset = task.dataset(task.read(split), training=split == "train")
        paths, options = read.pop()
        assert paths == (root / f"{split}.csv", root)
        files = {key: root / f"{split}_{key}.csv" for key in ("excluded", "proposals")}
        told = {**files, "labels": root / "labels.pbtxt", "scored": root / "s.pbtxt", "min_score": score}
        told |= {
            "match_iou": 0.4,
            "keep_truth": split == "train",
            "start_time": 1.0,
            "timestamps": (2.0, 9.0),
        }
        assert {key: options[key] for key in told} == told
        assert {key: getattr(dataset, key) for key in windows} == windows
        assert dataset.training is dataset.transform.transforms[0].flip is (split == "train")


def test_the_same_batches_and_losses_every_time(make: Make) -> None:
    config = make(data__actors={"labels": "labels.pbtxt"}, data__size=24, data__short_side=32)
    task = task_of(config)
    dataset = task.dataset(task.read("train"), training=True)
    first, second = (list(training_loader(config, dataset, collate_fn=task.collate)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a["clip"], b["clip"])
        assert torch.equal(a["boxes"], b["boxes"])
    assert loss_curve(config, 3) == loss_curve(config, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__format": "auto"}, "data.actors: is for data.format=ava, not auto"),
        ({"data__actors": None}, "data.actors: is missing, which data.format=ava needs"),
        (
            {"data__sampling": "dense"},
            "data.sampling: is 'uniform' alone for data.format=ava, .* got 'dense'",
        ),
        ({"data__crops": 3}, "data.crops: is 1 alone for data.format=ava"),
        (
            {"data__actors__start_time": 903.0},
            "data.actors.timestamps: must rise from at least .*start_time=903",
        ),
        (
            {"data__actors__min_visible": 1.5},
            "data.actors.min_visible: must be less than or equal to 1, got 1.5",
        ),
        ({"data__actors__lables": "x"}, r"data.actors.lables: is no known key \(did you mean labels\?\)"),
        (
            {"model": {"name": "tiny_tsn"}},
            "model.name: tiny_tsn takes no boxes, .*tiny_i3d_actors, tiny_st_slowfast do",
        ),
        ({"data__flip": True}, "data.flip: a mirrored video of 'move right' shows 'move left'"),
        ({"model__num_classes": 8}, "model.num_classes: is 8, data.actors.labels has 10 classes"),
        ({"data__val": "train.csv"}, "data.val: 24 of 24 key frames are of videos in data.train too"),
        ({"data__actors__scored": "no.pbtxt"}, "no.pbtxt is not a file"),
    ],
)
def test_refusals(make: Make, changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        fit(make(**changes))


def test_another_label_map_is_refused(make: Make) -> None:
    task = task_of(make())
    with pytest.raises(ValueError, match=r"data.actors.labels: has other .*, first 'move left', not 'jump'"):
        task.read("val", ["move right", "jump"])
    with pytest.raises(ValueError, match=r"data.actors.labels: .*10 of them, not 1"):
        task.read("val", ["move right"])


def test_a_validation_without_scored_classes_is_refused(make: Make, actors: Path, tmp_path: Path) -> None:
    """Its frame mAP would be no number."""
    item = 'item {\n  name: "sleep"\n  id: 11\n}\n'
    (tmp_path / "labels.pbtxt").write_text((actors / "labels.pbtxt").read_text() + item)
    (tmp_path / "scored.pbtxt").write_text(item)
    maps = {name: str(tmp_path / f"{name}.pbtxt") for name in ("labels", "scored")}
    task = task_of(make(data__actors=maps))
    assert len(task.read("train").classes) == 11
    with pytest.raises(ValueError, match=r"data.val: no box has a class of data.actors.scored"):
        task.read("val")
