"""Runs killed in the middle of an epoch: the same batches, weights and logs as in an unbroken run."""

from __future__ import annotations

import io
import random
import shutil
import signal
import time
import warnings
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning", reason="training needs lightning")
pytest.importorskip("skimage", reason="the motion dataset needs scikit-image")
pytest.importorskip("av", reason="video files need av")

from tests import processes
from tests.training.fixtures import recipe
from tests.training.runs import Killed, kill_at, rows
from vidops.data import VideoDataset
from vidops.training import NonFiniteLossError, fit, read_checkpoint
from vidops.training.callbacks import MetricsLog
from vidops.training.config import dump, validate
from vidops.training.loading import EpochSampler, build_dataset, read_list, training_loader
from vidops.training.module import Recognizer

RICH = {
    "data__batch_size": 4,
    "accumulate": 2,
    "ema": 0.9,
    "clip_norm": 1.0,
    "optimizer": {"name": "sgd", "lr": 0.05, "nesterov": True, "groups": {"norm": {"decay": 0.0}}},
}


def events(output: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shown = EventAccumulator(str(output / "tensorboard")).Reload()
    tags = set(shown.Tags()["scalars"]) - {"seconds"}
    return {tag: [(event.step, event.value) for event in shown.Scalars(tag)] for tag in tags}


def assert_same_values(first: Any, second: Any, where: str = "") -> None:
    """Compare nested states bit for bit."""
    assert type(first) is type(second), where
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key, value in first.items():
            assert_same_values(value, second[key], f"{where}.{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), where
        for i, value in enumerate(first):
            assert_same_values(value, second[i], f"{where}.{i}")
    else:
        assert first == second, where


def assert_same_run(whole: Path, broken: Path) -> None:
    for name in ("last.ckpt", "best.ckpt"):
        ours, theirs = (torch.load(folder / name, weights_only=True) for folder in (whole, broken))
        for state in (ours, theirs):
            del state["vidops"]["config"]
            del state["callbacks"]["Terminal"]  # the time it took
        for key in ours.keys() - {"loops"}:
            assert_same_values(ours[key], theirs[key], f"{name}: {key}")
    assert rows(whole) == rows(broken)
    assert events(whole) == events(broken)


@pytest.fixture(scope="module")
def unbroken(motion: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run that writes checkpoints at the ends of its epochs alone."""
    return fit(validate(recipe(motion, tmp_path_factory.mktemp("runs") / "whole", **RICH), "test recipe"))


def test_tensorboard_shows_what_the_log_holds(unbroken: Any) -> None:
    shown, logged = events(unbroken.output), rows(unbroken.output)
    own = {"train_loss", "train_top1", "lr", "val_loss", "val_top1"}
    assert own <= shown.keys()
    for tag, values in shown.items():
        expected = [(int(row["step"]), float(row[tag])) for row in logged if row[tag]]
        assert [step for step, _ in values] == [step for step, _ in expected]
        assert [v for _, v in values] == pytest.approx([v for _, v in expected], rel=1e-5), tag


@pytest.mark.parametrize(
    ("kills", "every"),
    [
        ([(0, 1)], 1),
        ([(0, 5)], 2),
        ([(2, 4)], 2),
        ([(0, 3), (0, 5), (1, 1), (2, 3), (2, 5)], 1),
    ],
    ids=["before-the-first", "first-epoch", "last-epoch", "five-times"],
)
def test_resumed_within_an_epoch(
    make_config: Any,
    unbroken: Any,
    monkeypatch: pytest.MonkeyPatch,
    kills: list[tuple[int, int]],
    every: int,
) -> None:
    config = make_config(checkpoint_every=every, **RICH)
    for i, (epoch, batch) in enumerate(kills):
        with monkeypatch.context() as patch:
            kill_at(patch, epoch, batch)
            with pytest.raises(Killed):
                fit(config, resume=i > 0)
        last = Path(config.output) / "last.ckpt"
        done = (batch // 2 // every if epoch == 0 else (3 * epoch + batch // 2) // every) * every
        if done:
            found = read_checkpoint(last)
            steps = found.epochs * 3 + found.batches // 2
            assert steps in (done, 3 * epoch), "the last checkpoint is at most `every` steps old"
        random.seed(1)
        torch.manual_seed(1)  # a new process has another global generator
    resumed = fit(config, resume=True)
    assert resumed.metrics == unbroken.metrics
    assert_same_run(unbroken.output, resumed.output)


@pytest.mark.parametrize("every", [1, 2])
def test_resumed_after_a_kill_in_the_validation(
    make_config: Any, unbroken: Any, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    config = make_config(checkpoint_every=every, **RICH)
    with monkeypatch.context() as patch:
        kill_at(patch, 1, 1, "validation_step")
        with pytest.raises(Killed):
            fit(config)
    last = read_checkpoint(Path(config.output) / "last.ckpt")
    assert (last.epochs, last.batches) == (1, 4 if every == 1 else 2)
    assert last.metrics, "those of the epoch before"
    fit(config, resume=True)
    assert_same_run(unbroken.output, Path(config.output))


def test_done_batches_are_not_decoded_again(
    make_config: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = make_config(checkpoint_every=1, epochs=1)
    with monkeypatch.context() as patch:
        kill_at(patch, 0, 2)
        with pytest.raises(Killed):
            fit(config)
    read: list[int] = []
    get = VideoDataset.__getitem__

    def getitem(self: VideoDataset, item: Any) -> dict[str, Any]:
        if isinstance(item, tuple):
            read.append(item[1])
        return get(self, item)

    monkeypatch.setattr(VideoDataset, "__getitem__", getitem)
    fit(config, resume=True)
    assert read == [index for _, index in EpochSampler(24, seed=0)][16:]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")
def test_batches_do_not_depend_on_workers_or_on_where_reading_begins(make_config: Any) -> None:
    def batches(workers: int, epoch: int = 0, skip: int = 0) -> list[tuple[list[int], torch.Tensor]]:
        config = make_config(data__workers=workers, data__batch_size=4)
        dataset = build_dataset(config, read_list(config, "train"), training=True)
        loader = training_loader(config, dataset, epoch=epoch, skip=skip)
        found = []
        for e in range(epoch, 2):
            loader.sampler.set_epoch(e)  # type: ignore[attr-defined]
            found += [(batch["index"].tolist(), batch["clip"]) for batch in loader]
        return found

    whole = batches(0)
    assert len(whole) == 12
    for workers, epoch, skip in [(1, 0, 0), (4, 0, 0), (0, 0, 4), (1, 1, 3), (4, 0, 5)]:
        part = batches(workers, epoch, skip)
        expected = whole[6 * epoch + skip :]
        assert [i for i, _ in part] == [i for i, _ in expected]
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(part, expected, strict=True))


def test_weights_that_turn_non_finite_are_not_written_within_an_epoch(
    make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(checkpoint_every=1, epochs=1)
    step = Recognizer.optimizer_step

    def optimizer_step(self: Recognizer, epoch: int, batch_idx: int, *args: Any) -> None:
        step(self, epoch, batch_idx, *args)
        if batch_idx == 1:
            next(self.model.parameters()).data.fill_(float("nan"))

    monkeypatch.setattr(Recognizer, "optimizer_step", optimizer_step)
    with pytest.raises(
        NonFiniteLossError, match=r"weights are not finite after epoch 1, batch 2: .*last good step"
    ):
        fit(config)
    last = read_checkpoint(Path(config.output) / "last.ckpt")
    assert (last.epochs, last.batches) == (0, 1)
    assert all(torch.isfinite(t).all() for t in last.weights.values())


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_bad_gradient_under_a_good_loss_names_the_files_of_its_step(
    make_config: Any, monkeypatch: pytest.MonkeyPatch, clip: float | None
) -> None:
    config = make_config(epochs=1, data__batch_size=4, accumulate=2, clip_norm=clip)
    end = Recognizer.training_step
    paths: list[str] = []

    def training_step(self: Recognizer, data: Any, batch_idx: int) -> torch.Tensor:
        loss = end(self, data, batch_idx)
        if batch_idx in (2, 3):
            paths.extend(data["path"])
        return loss * float("nan") if batch_idx == 2 else loss  # seen by the gradient alone

    monkeypatch.setattr(Recognizer, "training_step", training_step)
    with pytest.raises(
        NonFiniteLossError, match=r"^the gradients' norm is nan in epoch 1, step 2, of: "
    ) as e:
        fit(config)
    assert len(paths) == 8, "no batch after the bad step"
    assert f"of: {', '.join(paths)}; no epoch was finished" in str(e.value)


def test_progress_of_a_resumed_epoch(make_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(checkpoint_every=1, epochs=2)
    with monkeypatch.context() as patch:
        kill_at(patch, 1, 2)
        with pytest.raises(Killed):
            fit(config)
    out = io.StringIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(config, resume=True, out=out)
    assert [str(w.message) for w in caught] == []
    lines = out.getvalue().splitlines()
    assert lines[1] == f"resuming {config.output} after epoch 1 and 2 of 3 batches"
    assert [line.split()[0] for line in lines[2:]] == ["epoch", "2/2"]


def test_the_log_is_on_the_disk_before_a_checkpoint(
    make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    save, flush = torch.save, MetricsLog.flush

    def noted_save(*args: Any) -> None:
        calls.append("save")
        save(*args)

    def noted_flush(self: MetricsLog) -> None:
        calls.append("flush")
        flush(self)

    monkeypatch.setattr(torch, "save", noted_save)
    monkeypatch.setattr(MetricsLog, "flush", noted_flush)
    fit(make_config(checkpoint_every=1, epochs=1))
    assert calls[:4] == ["flush", "save"] * 2
    assert calls == ["flush", "save"] * (len(calls) // 2)


SLURM = {
    **{"SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "42"},
    **{"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SRUN_DEBUG": "1"},
}


def test_nothing_but_last_ckpt_is_resumed_in_a_slurm_job(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning would write an hpc_ckpt_1.ckpt at SIGUSR1, and go on from it with batches of another place."""
    whole = fit(make_config(output=str(tmp_path / "whole")))
    for key, value in SLURM.items():
        monkeypatch.setenv(key, value)
    killed, config = make_config(output=str(tmp_path / "killed"), checkpoint_every=1), make_config()
    with monkeypatch.context() as patch:
        kill_at(patch, 0, 2)
        with pytest.raises(Killed):
            fit(killed)
    Path(config.output).mkdir()
    shutil.copy(Path(killed.output) / "last.ckpt", Path(config.output) / "hpc_ckpt_1.ckpt")
    handlers = set()
    step = Recognizer.training_step

    def training_step(self: Recognizer, data: Any, batch_idx: int) -> torch.Tensor:
        handlers.add(signal.getsignal(signal.SIGUSR1))
        return step(self, data, batch_idx)

    monkeypatch.setattr(Recognizer, "training_step", training_step)
    assert_same_run(whole.output, fit(config).output)
    assert handlers == {signal.SIG_DFL}


def lines_of(path: Path) -> int:
    return path.read_text().count("\n") if path.is_file() else 0


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_sigkill_at_five_moments(make_config: Callable[..., Any], tmp_path: Path, workers: int) -> None:
    path, log = tmp_path / "recipe.yaml", tmp_path / "log"
    path.write_text(dump(make_config(**RICH, epochs=6, checkpoint_every=1, data__workers=workers)))
    whole, broken = tmp_path / "whole", tmp_path / "broken"

    def start(output: Path) -> BaseProcess:
        arguments = ("train", "--config", str(path), "--resume", f"output={output}")
        return processes.start(processes.command, *arguments, output=log)

    assert processes.finish([start(whole)]) == [0], processes.said(log)
    total = lines_of(whole / "metrics.csv")
    assert total == 1 + 6 * (3 + 1)
    draw = random.Random(2026 + workers)
    moments = sorted(draw.sample(range(2, total - 1), 5))
    for lines in moments:
        process = start(broken)
        while lines_of(broken / "metrics.csv") < lines:
            assert process.is_alive(), processes.said(log)
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.05))  # a step and the writing of a checkpoint take about as long
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it was over before it could be killed"
    assert processes.finish([start(broken)]) == [0], processes.said(log)
    assert_same_run(whole, broken)
