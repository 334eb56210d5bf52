"""Several processes under torchrun: they train as one, each counts its share, all stop together."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lightning", reason="training needs lightning")
pytest.importorskip("skimage", reason="the motion dataset needs scikit-image")
pytest.importorskip("av", reason="video files need av")

from tests import processes
from tests.training import ranks_worker
from tests.training.actor_runs import actor_recipe, small_set
from tests.training.fixtures import recipe
from tests.training.runs import rows
from tests.training.test_loading import damage
from vidops.training import FitResult, fit, load_config, read_checkpoint
from vidops.training.config import dump, validate
from vidops.training.loading import EpochSampler, RankSampler

pytestmark = pytest.mark.filterwarnings("ignore:freeze_norms. 3 of the frozen batch norms have weight zero")

STEPS = 12
PLAIN: dict[str, Any] = {
    "freeze_norms": "all",
    "model__options": {"dropout": 0.0},
    "optimizer": {"name": "sgd", "lr": 0.05, "weight_decay": 1e-3},
    "clip_norm": 5.0,
}
WHOLE = {**PLAIN, "epochs": 4}
AVERAGED = {**WHOLE, "data__batch_size": 4, "accumulate": 2, "ema": 0.9}
JOINT: dict[str, Any] = {
    **WHOLE,
    "model": {"name": "tiny_dan", "num_segments": 2, "options": {"dropout": 0.0}},
    "data__frames_per_segment": 3,
    "joint": {"name": "mgda"},
}
RESUMED = {
    "data__batch_size": 6,
    "accumulate": 2,
    "ema": 0.9,
    "checkpoint_every": 1,
    "optimizer": {"name": "sgd", "lr": 0.05},
}
SPLIT = {
    "split_output": r"output: rank 0 starts after epoch 1 and 0 batches \(file \w+\), rank 1 at the beginning;",
    "split_lists": r"data.train: rank 0 reads 24 videos, \w+, rank 1 24 videos, \w+$",
    "split_recipe": r"seed: is 0 on rank 0, 1 on rank 1; the ranks share a recipe",
}
# Small crops keep few boxes: ranks have unequal numbers of them, and now and then none.
ACTORS: dict[str, Any] = {
    "freeze_norms": "all",
    "model__options": {"attention_dim": 16, "dropout": 0.0},
    "optimizer": {"name": "sgd", "lr": 0.05},
    "data__actors": {"labels": "labels.pbtxt", "scored": "scored.pbtxt", "min_visible": 1.0},
    "data__scales": [0.6],
    "data__batch_size": 2,
    "epochs": 2,
}
COUNTED = {**PLAIN, "epochs": 1, "data__batch_size": 6}


def write_recipe(motion: Path, folder: Path, name: str, **changes: Any) -> None:
    content = recipe(motion, folder / name, **changes)
    (folder / f"{name}.yaml").write_text(dump(validate(content, name)))


def write_actor_recipe(folder: Path) -> None:
    actors = folder / "actor_set"
    small_set(actors)
    content = actor_recipe(actors, folder / "actors", **ACTORS)
    (folder / "actors.yaml").write_text(dump(validate(content, "actors")))


def list_of_101(motion: Path, folder: Path) -> str:
    """A validation list of 101 lines."""
    lines = (motion / "val.csv").read_text().splitlines()
    (folder / "classes.txt").write_text((motion / "classes.txt").read_text())
    target = folder / "val101.csv"
    target.write_text("\n".join([lines[0], *(lines[1 + i % 12] for i in range(101))]) + "\n")
    return str(target)


def torchrun(folder: Path, ranks: int, *names: str) -> None:
    worker = Path(__file__).with_name("ranks_worker.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    done = subprocess.run(
        [*command, str(worker), str(folder), *names],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,  # a rank that waits for ever is a failure
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (folder / "errors.txt").write_text(done.stderr)


@pytest.fixture(scope="module")
def two(motion: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of what two ranks did."""
    folder = tmp_path_factory.mktemp("two")
    write_recipe(motion, folder, "whole", **WHOLE)
    write_recipe(motion, folder, "averaged", **AVERAGED)
    write_recipe(motion, folder, "joint", **JOINT)
    write_recipe(motion, folder, "counted", **COUNTED, data__val=list_of_101(motion, folder))
    write_recipe(motion, folder, "bad_loss", **PLAIN)
    write_recipe(motion, folder, "bad_validation", **PLAIN)
    write_recipe(motion, folder, "missing_list", **PLAIN)
    damaged = damage(motion, folder, "right/train_00001", "up/train_00003")
    write_recipe(motion, folder, "broken", **COUNTED, data__train=damaged, data__max_broken=2 / 24)
    damaged_too = folder / "more"
    damaged_too.mkdir()
    damaged = damage(motion, damaged_too, "right/train_00001", "up/train_00003", "left/train_00000")
    write_recipe(motion, folder, "too_broken", **COUNTED, data__train=damaged, data__max_broken=2 / 24)
    names = ["whole", "averaged", "joint", "counted", "bad_loss", "bad_validation", "missing_list"]
    for name in SPLIT:
        write_recipe(motion, folder, name, **PLAIN)
    write_actor_recipe(folder)
    torchrun(folder, 2, *names, "broken", "too_broken", "actors", *SPLIT)
    return folder


@pytest.fixture(scope="module")
def three(motion: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of what three ranks did."""
    folder = tmp_path_factory.mktemp("three")
    write_recipe(motion, folder, "counted", **COUNTED, data__val=list_of_101(motion, folder))
    write_recipe(motion, folder, "uneven", **PLAIN, data__batch_size=8)
    write_recipe(motion, folder, "unbroken", **RESUMED)
    write_recipe(motion, folder, "resumed", **RESUMED)
    names = ["counted", "uneven", "unbroken", "resumed"]
    ended = processes.run_ranks(3, ranks_worker.main, folder, names, folder=folder)
    assert [status for status, _, _ in ended] == [0] * 3, ended
    return folder


@pytest.fixture(scope="module")
def one(motion: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of what one process did."""
    folder = tmp_path_factory.mktemp("one")
    write_recipe(motion, folder, "whole", **WHOLE)
    write_recipe(motion, folder, "averaged", **AVERAGED)
    write_recipe(motion, folder, "joint", **JOINT)
    write_recipe(motion, folder, "counted", **COUNTED, data__val=list_of_101(motion, folder))
    write_actor_recipe(folder)
    for name in ("whole", "averaged", "joint", "counted", "actors"):
        result: FitResult = fit(load_config(folder / f"{name}.yaml"))
        (folder / f"{name}.0.json").write_text(json.dumps({"metrics": result.metrics}))
    return folder


def results(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"{name}.*.json"))]


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("length", [0, 1, 101])
def test_shares_of_an_evaluation_hold_every_index_once(length: int, world_size: int) -> None:
    samplers = [RankSampler(length, rank, world_size) for rank in range(world_size)]
    assert sorted(i for sampler in samplers for i in sampler) == list(range(length))
    assert [len(list(s)) for s in samplers] == [len(s) for s in samplers]
    assert max(map(len, samplers)) - min(map(len, samplers)) <= 1


def test_there_is_no_such_rank() -> None:
    for rank, size in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match=r"^rank must be at least 0 and below world_size"):
            RankSampler(10, rank, size)


@pytest.mark.parametrize(("size", "skip"), [(1, 0), (2, 0), (3, 2), (6, 3)])
def test_ranks_share_the_batches_of_one_process(size: int, skip: int) -> None:
    whole = list(EpochSampler(50, seed=1, batch=6, group=2, epoch=3))
    assert len(whole) == len(set(whole)) == 48
    parts = [
        EpochSampler(50, seed=1, batch=6, group=2, epoch=3, skip=skip, rank=rank, world_size=size)
        for rank in range(size)
    ]
    read = [list(part) for part in parts]
    share = 6 // size
    joined = [
        item for batch in range(8 - skip) for r in read for item in r[batch * share : (batch + 1) * share]
    ]
    assert joined == whole[6 * skip :]
    for part in parts:
        assert len(part) == 48 // size, "the length is that of a whole epoch"
        part.set_epoch(4)
        assert len(list(part)) == 48 // size, "only the first epoch has been begun"


@pytest.mark.parametrize("name", ["whole", "averaged", "joint"])
def test_two_ranks_on_half_the_batch_are_one_on_the_whole(one: Path, two: Path, name: str) -> None:
    states = [torch.load(folder / name / "last.ckpt", weights_only=True) for folder in (one, two)]
    assert [state["vidops"]["ranks"] for state in states] == [1, 2]
    for key in ("state_dict", "trained_state_dict") if name == "averaged" else ("state_dict",):
        ours, theirs = (state[key] for state in states)
        assert ours.keys() == theirs.keys()
        for tensor, found in ours.items():
            assert (found - theirs[tensor]).abs().max() <= 1e-5, (key, tensor)
    if name == "averaged":
        averaged, trained = (states[1][key].values() for key in ("state_dict", "trained_state_dict"))
        assert max((a - b).abs().max() for a, b in zip(averaged, trained, strict=True)) > 1e-3
    first, second = rows(one / name), rows(two / name)
    assert [r["step"] for r in first] == [r["step"] for r in second]
    assert int(first[-1]["step"]) == STEPS
    own = ("l1", "alpha", "val_l1") if name == "joint" else ()
    for key in ("train_loss", "train_top1", "val_loss", "val_top1", "lr", *own):
        assert [float(r[key]) for r in first if r[key]] == pytest.approx(
            [float(r[key]) for r in second if r[key]], abs=1e-5, rel=1e-5
        ), key  # as logged, to six digits
    losses = [float(r["train_loss"]) for r in first]
    assert max(losses) - min(losses) > 0.02, "the comparison must be of a run that moves"


def test_actors_train_alike_however_many_a_rank_has(one: Path, two: Path) -> None:
    shares = np.array([result["boxes"] for result in results(two, "actors")])
    assert (shares[0] != shares[1]).any()
    assert ((shares == 0).any(0) & (shares > 0).any(0)).any(), (
        "a rank must have none where the other has some"
    )
    ours, theirs = (
        torch.load(folder / "actors" / "last.ckpt", weights_only=True)["state_dict"] for folder in (one, two)
    )
    for name, tensor in ours.items():
        assert (theirs[name] - tensor).abs().max() <= 1e-5, name
    first, second = rows(one / "actors"), rows(two / "actors")
    for key in ("train_loss", "val_loss", "val_map"):
        assert [float(r[key]) for r in first if r[key]] == pytest.approx(
            [float(r[key]) for r in second if r[key]], abs=1e-5, rel=1e-5
        ), key
    losses = [float(r["train_loss"]) for r in first]
    assert max(losses) - min(losses) > 0.02, "the comparison must be of a run that moves"


def test_two_ranks_do_not_look_for_unused_parameters(two: Path) -> None:
    assert "find_unused_parameters" not in (two / "errors.txt").read_text()


def test_every_sample_is_counted_once(one: Path, two: Path, three: Path) -> None:
    (expected,) = results(one, "counted")
    for folder, ranks in ((two, 2), (three, 3)):
        found = results(folder, "counted")
        assert len(found) == ranks
        assert sorted(i for r in found for i in r["validated"]) == list(range(101))
        for result in found:
            assert result["metrics"] == found[0]["metrics"]
            assert result["metrics"]["val_top1"] == expected["metrics"]["val_top1"]
            assert result["metrics"]["val_loss"] == pytest.approx(expected["metrics"]["val_loss"], abs=1e-6)
        assert round(found[0]["metrics"]["val_top1"] * 101, 6).is_integer()


def test_the_first_rank_alone_writes(two: Path) -> None:
    first, second = results(two, "whole")
    assert {"metrics.csv"} <= set(first["written"])
    assert any("ckpt" in name for name in first["written"])
    assert second["written"] == []
    assert (two / "whole" / "best.ckpt").is_file()


def test_three_ranks_killed_within_an_epoch_go_on_as_if_they_had_not_been(three: Path) -> None:
    first, second = (
        torch.load(three / name / "last.ckpt", weights_only=True) for name in ("unbroken", "resumed")
    )
    assert first["vidops"]["metrics"] == second["vidops"]["metrics"]
    for key in ("state_dict", "trained_state_dict"):
        for name, tensor in first[key].items():
            assert torch.equal(tensor, second[key][name]), name
    assert rows(three / "unbroken") == rows(three / "resumed")


def test_a_run_keeps_its_number_of_ranks(two: Path) -> None:
    config = load_config(two / "bad_loss.yaml")
    with pytest.raises(ValueError, match=r"last.ckpt: is of a run on 2 ranks, not 1; a resumed run keeps"):
        fit(config, resume=True)


def test_a_loss_that_is_no_number_on_one_rank_stops_all(two: Path) -> None:
    first, second = results(two, "bad_loss")
    assert first["error"] == second["error"] == "NonFiniteLossError"
    assert first["text"] == second["text"]
    assert "the loss is nan in epoch 2, batch 2, of: " in first["text"]
    assert first["paths"] == []
    assert len(second["paths"]) == 4
    assert all(path in first["text"] for path in second["paths"])
    assert first["text"].count(".mp4") == 4
    assert read_checkpoint(two / "bad_loss" / "last.ckpt").epochs == 1


def test_an_output_that_is_no_number_in_validation_stops_all(two: Path) -> None:
    first, second = results(two, "bad_validation")
    assert first["error"] == second["error"] == "NonFiniteLossError"
    assert first["text"] == second["text"]
    assert first["text"].count(".mp4") == 1
    assert not (two / "bad_validation" / "last.ckpt").exists()


def test_what_one_rank_cannot_read_stops_all_before_anything_is_written(two: Path) -> None:
    found = results(two, "missing_list")
    assert [r["error"] for r in found] == ["FileNotFoundError"] * 2
    assert [r["text"] for r in found] == ["list.csv: is not on this machine"] * 2
    assert not (two / "missing_list").exists()


@pytest.mark.parametrize("name", SPLIT)
def test_ranks_that_prepared_unlike_runs_stop_before_a_step(two: Path, name: str) -> None:
    for result in results(two, name):
        assert result.get("error") == "ValueError", result
        assert re.match(SPLIT[name], result["text"]), result["text"]
    last = two / name / "last.ckpt"
    assert read_checkpoint(last).epochs == 1 if name == "split_output" else not last.parent.exists()


def test_broken_videos_are_counted_over_the_ranks(two: Path) -> None:
    first, second = results(two, "broken")
    assert len(first["broken"]) == 2
    assert first["broken"] == second["broken"]
    for result in results(two, "too_broken"):
        assert result["error"] == "VideoError"
        assert result["text"].startswith("3 of 24 training videos are broken, more than")


def test_a_batch_has_to_be_shared_evenly(three: Path) -> None:
    for result in results(three, "uneven"):
        assert result["error"] == "ValueError"
        assert result["text"] == "data.batch_size: 8 clips cannot be shared evenly by 3 ranks"
    assert not (three / "uneven").exists()
