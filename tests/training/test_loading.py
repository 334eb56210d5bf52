"""Order, substitutes for broken videos, batches."""

from __future__ import annotations

import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lightning", reason="training needs lightning")
pytest.importorskip("skimage", reason="the motion dataset needs scikit-image")
pytest.importorskip("av", reason="video files need av")

from tests import processes
from tests.data._processes import gone
from vidops._files import write_text
from vidops.data import VideoError
from vidops.training import fit
from vidops.training.config import Config
from vidops.training.loading import (
    ATTEMPTS,
    EpochSampler,
    TrainingSet,
    build_dataset,
    collate,
    derive_seed,
    evaluation_loader,
    read_list,
    training_loader,
)


class Numbers:
    """Ten samples whose clip is their (epoch, index); those in ``broken`` cannot be read."""

    def __init__(self, broken: set[int]) -> None:
        self.broken = broken

    def __len__(self) -> int:
        return 10

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        if index in self.broken:
            raise VideoError(f"{index}.mp4: cut short")
        return {
            "clip": torch.tensor([epoch, index]),
            "label": index,
            "index": index,
            "path": f"{index}.mp4",
        }


def test_keys_that_differ_give_other_seeds() -> None:
    keys = [(5,), (5, 0), (5, 0, 0), (0, 5), (7, 1, 3), (2**32 + 7, 3), (71, 3), (7, 13)]
    seeds = [derive_seed(*key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(*np.array([7, 1, 3])) == derive_seed(7, 1, 3)


def test_order_is_a_function_of_seed_and_epoch() -> None:
    sampler = EpochSampler(50, seed=3)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(1)
    second = list(sampler)
    assert [e for e, _ in second] == [1] * 50
    assert sorted(i for _, i in second) == list(range(50))
    assert [i for _, i in first] != [i for _, i in second]
    assert list(EpochSampler(50, seed=3, epoch=1)) == second
    assert list(EpochSampler(50, seed=4, epoch=1)) != second


def test_a_broken_sample_is_substituted_the_same_way_each_time() -> None:
    samples = TrainingSet(Numbers({2, 3}), seed=0)
    found = [samples[(e, 2)] for e in range(20)]
    again = [samples[(e, 2)] for e in range(20)]
    assert [f["index"] for f in found] == [a["index"] for a in again]
    assert len({f["index"] for f in found}) > 3
    assert not {f["index"] for f in found} & {2, 3}
    for epoch, item in enumerate(found):
        assert item["broken"][0] == (2, "2.mp4: cut short")
        assert item["clip"].tolist() == [epoch, item["index"]]
    assert samples[(0, 5)]["broken"] == []


def test_all_broken_ends_the_search() -> None:
    samples = TrainingSet(Numbers(set(range(10))), seed=0)
    item = samples[(0, 1)]
    assert len(item["broken"]) == ATTEMPTS
    batch = collate([item])
    assert batch == {"path": [], "broken": item["broken"]}


def damage(motion: Path, folder: Path, *names: str) -> str:
    """Write a training list in which the named videos are cut short."""
    lines = (motion / "train.csv").read_text().splitlines()
    written = []
    for line in lines[1:]:
        path, label = line.rsplit(",", 1)
        video = motion / path
        if any(name in path for name in names):
            video = folder / Path(path).name
            video.write_bytes((motion / path).read_bytes()[:400])
        written.append(f"{video},{label}")
    target = folder / "damaged.csv"
    target.write_text("\n".join(["path,label", *written]) + "\n")
    (folder / "classes.txt").write_text((motion / "classes.txt").read_text())
    return str(target)


def test_training_leaves_few_broken_videos_out(
    make_config: Any, motion: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = damage(motion, tmp_path, "right/train_00001")
    result = fit(make_config(data__train=broken, data__max_broken=0.05, epochs=2))
    assert len(result.broken) == 1
    assert result.broken[0].startswith(str(tmp_path / "train_00001.mp4"))
    named = [r.getMessage() for r in caplog.records if r.name == "vidops.training"]
    assert len(named) == 1, "a file is named once, not once an epoch"
    assert "train_00001.mp4" in named[0]


def test_broken_videos_give_the_same_batches_with_workers(
    make_config: Any, motion: Path, tmp_path: Path
) -> None:
    broken = damage(motion, tmp_path, "right/train_00001", "left/train_00003")
    runs = []
    for workers in (0, 2):
        config: Config = make_config(data__train=broken, data__workers=workers)
        dataset = build_dataset(config, read_list(config, "train"), training=True)
        runs.append([(b["index"].tolist(), b["clip"]) for b in training_loader(config, dataset, epoch=1)])
    for (indices, clips), (others, other_clips) in zip(*runs, strict=True):
        assert indices == others
        assert torch.equal(clips, other_clips)
        assert len(indices) == 8


def test_training_stops_at_too_many_with_the_list(make_config: Any, motion: Path, tmp_path: Path) -> None:
    broken = damage(motion, tmp_path, "right/train_00001", "left/train_00002", "down/train_00004")
    config = make_config(data__train=broken, data__max_broken=2 / 24, epochs=2)
    with pytest.raises(VideoError, match=r"^3 of 24 training videos are broken, more than") as caught:
        fit(config)
    text = str(caught.value)
    assert all(f"train_0000{i}.mp4" in text for i in (1, 2, 4))
    assert "\n" not in text
    assert not (Path(config.output) / "last.ckpt").exists()


def test_a_broken_validation_video_is_an_error(make_config: Any, motion: Path, tmp_path: Path) -> None:
    broken = damage(motion, tmp_path, "right/train_00001")
    for workers in (0, 1):
        config = make_config(
            data__train="val.csv",
            data__val=broken,
            data__workers=workers,
            epochs=1,
            output=str(tmp_path / f"run{workers}"),
        )
        with pytest.raises(VideoError, match=r"^data.val: a video is broken: .*train_00001.mp4: ") as caught:
            fit(config)
        assert "\n" not in str(caught.value)
        assert not Path(config.output).exists(), "it is found before anything is written"


def test_a_validation_video_that_breaks_later_is_an_error_too(
    make_config: Any, motion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = damage(motion, tmp_path, "right/train_00001", "up/train_00002")
    monkeypatch.setattr("vidops.training.start.check_videos", lambda *args, **kwargs: [])
    with pytest.raises(VideoError, match=r"^[^;]*train_0000\d.mp4: [^;]*$"):
        fit(make_config(data__train="val.csv", data__val=broken, epochs=1))


def test_lists_that_share_videos_are_refused(make_config: Any, motion: Path, tmp_path: Path) -> None:
    train, val = ((motion / f"{name}.csv").read_text().splitlines() for name in ("train", "val"))
    (tmp_path / "classes.txt").write_text((motion / "classes.txt").read_text())
    (tmp_path / "val.csv").write_text("\n".join([*val, train[3], train[7]]) + "\n")
    config = make_config(data__val=str(tmp_path / "val.csv"), epochs=1)
    first = train[3].rpartition(",")[0]
    with pytest.raises(
        ValueError, match=rf"^data.val: 2 of {len(val) + 1} videos are in data.train too, first .*{first}$"
    ):
        fit(config)
    assert not Path(config.output).exists()


def test_evaluation_batches_hold_every_sample_once_in_order(make_config: Any) -> None:
    config: Config = make_config()
    loader = evaluation_loader(config, build_dataset(config, read_list(config, "val"), training=False))
    assert [b["index"].tolist() for b in loader] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]


def test_an_evaluation_batch_is_shared_unless_the_recipe_gives_its_size(make_config: Any) -> None:
    for given, ranks, expected in ((None, 1, 8), (None, 2, 4), (None, 16, 1), (5, 2, 5)):
        config = make_config(data__eval_batch_size=given)
        assert evaluation_loader(config, range(24), world_size=ranks).batch_size == expected


def read_on(config: Config, found: Path) -> None:
    """Write down which processes load the training videos, and stay."""
    multiprocessing.set_start_method("forkserver", force=True)  # Python's default from 3.14 on
    dataset = build_dataset(config, read_list(config, "train"), training=True)
    iterator = iter(training_loader(config, dataset))
    next(iterator)
    write_text(found, " ".join(str(child.pid) for child in multiprocessing.active_children()))
    time.sleep(60)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_end_with_a_killed_run_whatever_the_start_method(make_config: Any, tmp_path: Path) -> None:
    found, log = tmp_path / "workers", tmp_path / "log"
    process = processes.start(read_on, make_config(data__workers=2), found, output=log)
    try:
        while not found.exists():
            assert process.is_alive(), processes.said(log)
            time.sleep(0.05)
    finally:
        process.kill()
        process.join()
    workers = [int(pid) for pid in found.read_text().split()]
    assert len(workers) == 2
    assert gone(workers)
