"""One report from any number of processes; these start real ones."""

from __future__ import annotations

import datetime
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed import distributed_c10d

pytest.importorskip("lightning", reason="training needs lightning")
pytest.importorskip("skimage", reason="the motion dataset needs scikit-image")
pytest.importorskip("av", reason="video files need av")

from tests import processes
from vidops.cli import main
from vidops.data import AnnotationList
from vidops.evaluation import Predictor, ResultFile, evaluate, predict, read_scores
from vidops.evaluation.evaluator import _join, _measure_part, measure
from vidops.evaluation.ranks import _sendable, interleaved, on_all_ranks, rank_and_size
from vidops.training import load_config, read_checkpoint, restore
from vidops.training.loading import read_list

SAMPLES = 101


@pytest.fixture
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where ranks leave what they say."""
    return tmp_path_factory.mktemp("log")


def launch(ranks: int, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [*command, "-m", "vidops", "evaluate", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def listed(run: Path, motion: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 101 names for the clips of the motion dataset, and a list of them in no order."""
    folder = tmp_path_factory.mktemp("ranks")
    clips = sorted((motion / "videos").glob("*/*.mp4"))
    classes = (motion / "classes.txt").read_text().split()
    lines = []
    for i in np.random.default_rng(0).permutation(SAMPLES):
        clip = clips[i % len(clips)]
        (folder / f"{i:03d}.mp4").symlink_to(clip)
        lines.append(f"{i:03d}.mp4,{classes.index(clip.parent.name)}\n")
    (folder / "list.csv").write_text("".join(lines))
    (folder / "classes.txt").write_text("\n".join(classes))
    overrides = [f"data.root={folder}", "data.val=list.csv", "data.train=list.csv", "data.eval_batch_size=7"]
    from vidops.training.config import dump

    (folder / "config.yaml").write_text(dump(load_config(run / "config.yaml", overrides)))
    return folder


@pytest.mark.parametrize("ranks", [2, 3])
def test_each_of_101_samples_is_counted_once(
    run: Path, listed: Path, tmp_path: Path, log: Path, ranks: int
) -> None:
    report, scores = tmp_path / "report.json", tmp_path / "scores.npz"
    arguments = ["--weights", str(run / "best.ckpt"), "--config", str(listed / "config.yaml")]
    arguments += ["--json", str(report), "--scores", str(scores)]
    if ranks == 2:
        done = launch(ranks, *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        shown = done.stdout
    else:
        ended = processes.run_ranks(ranks, processes.command, "evaluate", *arguments, folder=log)
        assert [status for status, _, _ in ended] == [0] * ranks, ended
        shown = "".join(out for _, out, _ in ended)
    alone = evaluate(run / "best.ckpt", load_config(listed / "config.yaml"))
    assert alone.samples == SAMPLES
    found: dict[str, Any] = json.loads(report.read_text())
    expected = alone.as_dict()
    assert found.pop("loss") == pytest.approx(expected.pop("loss"), abs=1e-6)
    assert found == expected
    kept = read_scores(scores)
    lines = [line.split(",") for line in (listed / "list.csv").read_text().splitlines()]
    assert list(kept.paths) == [path for path, _ in lines]
    assert kept.labels.tolist() == [int(label) for _, label in lines]
    assert alone.logits is not None
    np.testing.assert_allclose(kept.logits, alone.logits, atol=1e-5)
    # rank 0 alone speaks: one table, one line a file
    assert len(re.findall("^class ", shown, re.M)) == 1
    assert shown.count(str(report)) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.json", "scores.npz"]


def test_a_broken_video_on_one_rank_ends_all_with_one_line(
    run: Path, listed: Path, tmp_path: Path, log: Path
) -> None:
    lines = (listed / "list.csv").read_text().splitlines()[:6]
    (listed / "broken.mp4").write_bytes(b"no video")
    lines[3] = "broken.mp4,0"  # the second rank's
    (listed / "broken.csv").write_text("\n".join(lines))
    report = tmp_path / "report.json"
    arguments = ["--weights", str(run / "best.ckpt"), "--config", str(listed / "config.yaml")]
    arguments += ["--json", str(report), "data.val=broken.csv"]
    ended = processes.run_ranks(2, processes.command, "evaluate", *arguments, folder=log)
    assert ended[0][0] == 2
    assert [out for _, out, _ in ended] == ["", ""]
    errors = "".join(text for _, _, text in ended).splitlines()
    said = [line for line in errors if line.startswith("vidops evaluate: error:")]
    assert len(said) == 1
    assert said[0].startswith(f"vidops evaluate: error: {listed / 'broken.mp4'}: ")
    assert not report.exists()


@pytest.mark.parametrize("lacking", [0, 1])
def test_a_recipe_that_one_machine_lacks(run: Path, listed: Path, tmp_path: Path, lacking: int) -> None:
    arguments = ("evaluate", "--weights", str(run / "best.ckpt"), "--config", "recipe.yaml")
    ranks = []
    for rank, env in enumerate(processes.rank_environments(2)):
        folder = tmp_path / str(rank)
        folder.mkdir()
        if rank != lacking:
            (folder / "recipe.yaml").symlink_to(listed / "config.yaml")
        log = tmp_path / f"log{rank}"
        ranks.append(processes.start(processes.command, *arguments, output=log, env=env, cwd=folder))
    assert processes.finish(ranks)[0] == 2
    (out, errors), other = (processes.said(tmp_path / f"log{rank}") for rank in range(2))
    assert out == ""
    assert "vidops evaluate: error: config recipe.yaml: no such file" in errors.splitlines()
    assert "vidops evaluate" not in "".join(other)


@pytest.fixture
def shown(motion: Path, tmp_path: Path) -> list[str]:
    """Seven videos, of which the second rank's first is broken."""
    clips = sorted((motion / "videos").glob("*/val_*.mp4"))[:7]
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    return [str(clip) for clip in [clips[0], tmp_path / "broken.mp4", *clips[2:]]]


def test_ranks_predict_each_video_once(run: Path, shown: list[str], tmp_path: Path, log: Path) -> None:
    alone = [prediction.as_dict() for prediction in predict(shown, run / "best.ckpt")]
    (tmp_path / "list.txt").write_text("\n".join(shown))
    arguments = [
        "predict",
        "--list",
        str(tmp_path / "list.txt"),
        "--weights",
        str(run / "best.ckpt"),
        "--json",
    ]
    ended = processes.run_ranks(2, processes.command, *arguments, folder=log)
    assert [status for status, _, _ in ended] == [1, 0]  # as one video is broken
    assert ended[1][1] == ""
    found = [json.loads(line) for line in ended[0][1].splitlines()]
    assert [entry["path"] for entry in found] == shown
    for entry, expected in zip(found, alone, strict=True):
        assert entry.get("error") == expected.get("error")
        for one, other in zip(entry.get("predictions", []), expected.get("predictions", []), strict=True):
            assert one["class"] == other["class"]
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-6)
    errors = "".join(err for _, _, err in ended).splitlines()
    assert sum(line.startswith("vidops predict: error: ") for line in errors) == 1


def test_ranks_fill_one_file_and_go_on_with_it(
    run: Path, shown: list[str], tmp_path: Path, log: Path
) -> None:
    target = tmp_path / "p.jsonl"
    arguments = ["predict", *shown, "--weights", str(run / "best.ckpt"), "--out", str(target)]
    assert main([*arguments[:3], *arguments[-4:]]) == 1  # two of the seven, alone
    ended = processes.run_ranks(2, processes.command, *arguments, folder=log)
    assert [(status, out) for status, out, _ in ended] == [
        (1, f"{target}: 7 videos, 2 of them earlier, 1 could not be read\n"),
        (0, ""),
    ]
    assert [json.loads(line)["path"] for line in target.read_text().splitlines()] == shown
    with ResultFile(target, Predictor(run / "best.ckpt").key):
        ended = processes.run_ranks(2, processes.command, *arguments, folder=log)
    assert [status for status, _, _ in ended] == [2, 0]
    errors = [line for _, _, err in ended for line in err.splitlines() if line.startswith("vidops predict")]
    assert errors == [f"vidops predict: error: {target}: another process is writing to it"]


def meet(every: int, count: int, fails: bool) -> None:
    """Show what rank 0 is given of ``count`` items; the last one of rank 1 may fail."""

    def own(rank: int, size: int) -> Iterator[int]:
        yield from range(rank, count, size)
        if fails and rank == 1:
            raise ValueError("a.mp4: is no video")

    print(list(interleaved(own(*rank_and_size()), every)))


@pytest.mark.parametrize("count", [0, 1, 6, 7])
def test_results_of_all_ranks_in_order(log: Path, count: int) -> None:
    for status, out, _ in processes.run_ranks(2, meet, 3, count, False, folder=log):
        assert (status, out) == (0, f"{list(range(count))}\n")


def test_a_rank_that_fails_among_results(log: Path) -> None:
    found = processes.run_ranks(2, meet, 3, 7, True, folder=log)
    assert [errors.splitlines()[-1] for _, _, errors in found] == ["ValueError: a.mp4: is no video"] * 2


def uneven(fails: bool) -> None:
    """Rank 0 is done long before rank 1, by what is left of gloo's own patience."""
    assert distributed_c10d.default_pg_timeout.total_seconds() > 60
    distributed_c10d.default_pg_timeout = datetime.timedelta(seconds=1)

    def work(rank: int, size: int) -> int:
        time.sleep(3 * rank)
        if fails and rank == 0:
            raise ValueError("a.mp4: is no video")
        return rank

    print(on_all_ranks(work))


@pytest.mark.parametrize("fails", [True, False])
def test_ranks_that_end_long_before_others(log: Path, fails: bool) -> None:
    found = processes.run_ranks(2, uneven, fails, folder=log)
    if fails:
        assert [status for status, _, _ in found] == [1, 1]
        assert [errors.splitlines()[-1] for _, _, errors in found] == ["ValueError: a.mp4: is no video"] * 2
    else:
        assert [(status, out) for status, out, _ in found] == [(0, "[0, 1]\n")] * 2


@pytest.mark.parametrize("size", [1, 4, 13, 150])
def test_shares_of_any_number_of_ranks_join_to_the_same_report(run: Path, listed: Path, size: int) -> None:
    checkpoint = read_checkpoint(run / "best.ckpt")
    net, config = restore(checkpoint), load_config(listed / "config.yaml")
    annotations = read_list(config, "val", checkpoint.classes)
    few = AnnotationList(annotations.samples[:14], annotations.classes)
    parts = [_measure_part(net, config, few, rank, size, None) for rank in range(size)]
    assert sum(len(part.paths) for part in parts) == 14  # with 150 ranks most have none
    report, alone = _join(parts, checkpoint.classes, {}), measure(net, config, few)
    assert report.confusion.tolist() == alone.confusion.tolist()
    assert report.paths == alone.paths == [sample.path for sample in few.samples]
    assert report.loss == pytest.approx(alone.loss, abs=1e-6)
    with pytest.raises(RuntimeError, match="did not measure each video once"):
        _join([parts[0], *parts], checkpoint.classes, {})
    if size > 1:
        with pytest.raises(RuntimeError, match="did not measure each video once"):
            _join(parts[1:], checkpoint.classes, {})


def test_without_torchrun_there_is_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")  # some schedulers set it without the rest
    monkeypatch.delenv("RANK", raising=False)
    assert rank_and_size() == (0, 1)
    assert on_all_ranks(lambda rank, size: [rank, size]) == [[0, 1]]
    assert not torch.distributed.is_initialized()


TORCHRUN = processes.rank_environments(2)[1]


@pytest.mark.parametrize(
    "names", [("MASTER_ADDR",), ("MASTER_ADDR", "MASTER_PORT"), ("LOCAL_WORLD_SIZE",), ("LOCAL_RANK",)]
)
def test_ranks_that_torchrun_has_not_started(monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert rank_and_size() == (1, 2)
    for name in names:
        monkeypatch.delenv(name)
    line = f"^{', '.join(names)} (is|are) not set: start several processes with torchrun$"
    with pytest.raises(ValueError, match=line):
        rank_and_size()


def test_tasks_of_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert rank_and_size() == (0, 1)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(ValueError, match="SLURM_STEP_NUM_TASKS=2: each task of srun would do all the work"):
        rank_and_size()
    for name, value in TORCHRUN.items():  # srun has started a torchrun on each of two nodes
        monkeypatch.setenv(name, value)
    assert rank_and_size() == (1, 2)


def test_any_error_can_be_sent() -> None:
    class Odd(ValueError):
        def __init__(self, file: str, line: int) -> None:
            super().__init__(f"{file}, line {line}")

    missing = FileNotFoundError("a.ckpt: no such file")
    assert _sendable(missing) is missing
    odd = _sendable(Odd("a.csv", 3))
    assert type(odd) is RuntimeError
    assert str(odd) == "Odd: a.csv, line 3"
