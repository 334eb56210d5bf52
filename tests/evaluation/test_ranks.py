"""One report from any number of processes; these start real ones."""

from __future__ import annotations

import json
import os
import re
import socket
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

from vidops.data import AnnotationList
from vidops.evaluation import evaluate, read_scores
from vidops.evaluation.evaluator import _join, _measure_part, measure
from vidops.evaluation.ranks import _sendable, on_all_ranks, rank_and_size
from vidops.training import load_config, read_checkpoint, restore
from vidops.training.loading import read_list

SAMPLES = 101


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
def test_each_of_101_samples_is_counted_once(run: Path, listed: Path, tmp_path: Path, ranks: int) -> None:
    report, scores = tmp_path / "report.json", tmp_path / "scores.npz"
    arguments = ["--weights", str(run / "best.ckpt"), "--config", str(listed / "config.yaml")]
    done = launch(ranks, *arguments, "--json", str(report), "--scores", str(scores), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
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
    assert len(re.findall("^class ", done.stdout, re.M)) == 1
    assert done.stdout.count(str(report)) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.json", "scores.npz"]


def test_a_broken_video_on_one_rank_ends_all_with_one_line(run: Path, listed: Path, tmp_path: Path) -> None:
    lines = (listed / "list.csv").read_text().splitlines()[:6]
    (listed / "broken.mp4").write_bytes(b"no video")
    lines[3] = "broken.mp4,0"  # the second rank's
    (listed / "broken.csv").write_text("\n".join(lines))
    report = tmp_path / "report.json"
    arguments = ["--weights", str(run / "best.ckpt"), "--config", str(listed / "config.yaml")]
    done = launch(2, *arguments, "--json", str(report), "data.val=broken.csv", cwd=tmp_path)
    assert done.returncode != 0
    assert done.stdout == ""
    said = [line for line in done.stderr.splitlines() if line.startswith("vidops evaluate: error:")]
    assert len(said) == 1
    assert said[0].startswith(f"vidops evaluate: error: {listed / 'broken.mp4'}: ")
    assert not report.exists()


def start(rank: int, port: int, *command: str, cwd: Path) -> subprocess.Popen[str]:
    """Start one of two ranks as another machine's torchrun would."""
    ranks = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | ranks,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ends(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Wait for processes: exit status, output and errors of each."""
    try:
        return [(process.wait(60), *process.communicate()) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize("lacking", [0, 1])
def test_a_recipe_that_one_machine_lacks(
    run: Path, listed: Path, tmp_path: Path, port: int, lacking: int
) -> None:
    processes = []
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
        if rank != lacking:
            (tmp_path / str(rank) / "recipe.yaml").symlink_to(listed / "config.yaml")
        command = ["-m", "vidops", "evaluate", "--weights", str(run / "best.ckpt"), "--config", "recipe.yaml"]
        processes.append(start(rank, port, *command, cwd=tmp_path / str(rank)))
    (status, out, errors), (_, *other) = ends(processes)
    assert status == 2
    assert out == ""
    assert "vidops evaluate: error: config recipe.yaml: no such file" in errors.splitlines()
    assert "vidops evaluate" not in "".join(other)


UNEVEN = """
import datetime, sys, time
from torch.distributed import distributed_c10d
from vidops.evaluation.ranks import on_all_ranks

assert distributed_c10d.default_pg_timeout.total_seconds() > 60
distributed_c10d.default_pg_timeout = datetime.timedelta(seconds=2)

def work(rank, size):
    time.sleep(6 * rank)
    if sys.argv[1] == "fail" and rank == 0:
        raise ValueError("a.mp4: is no video")
    return rank

print(on_all_ranks(work))
"""


@pytest.mark.parametrize("how", ["fail", "end"])
def test_ranks_that_end_long_before_others(tmp_path: Path, port: int, how: str) -> None:
    found = ends([start(rank, port, "-c", UNEVEN, how, cwd=tmp_path) for rank in range(2)])
    if how == "end":
        assert [(status, out) for status, out, _ in found] == [(0, "[0, 1]\n")] * 2
    else:
        assert [status for status, _, _ in found] == [1, 1]
        assert [errors.splitlines()[-1] for _, _, errors in found] == [
            f"[rank{rank}]: ValueError: a.mp4: is no video" for rank in range(2)
        ]


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


def test_any_error_can_be_sent() -> None:
    class Odd(ValueError):
        def __init__(self, file: str, line: int) -> None:
            super().__init__(f"{file}, line {line}")

    missing = FileNotFoundError("a.ckpt: no such file")
    assert _sendable(missing) is missing
    odd = _sendable(Odd("a.csv", 3))
    assert type(odd) is RuntimeError
    assert str(odd) == "Odd: a.csv, line 3"
