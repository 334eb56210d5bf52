"""A process of a loader that dies: what was being read is named."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

pytest.importorskip("lightning", reason="training needs lightning")
pytest.importorskip("skimage", reason="the motion dataset needs scikit-image")
pytest.importorskip("av", reason="video files need av")

from torch.utils.data import DataLoader, Subset
from torch.utils.data._utils import signal_handling

from vidops.data import VideoDataset
from vidops.evaluation import evaluate, predict
from vidops.training import Config, fit, lost_workers
from vidops.training.loading import read_list
from vidops.training.lost_workers import naming_lost_workers

END = "; memory was short, or a video crashes the decoder, which `vidops dataset check` names"


def crash_on(monkeypatch: pytest.MonkeyPatch, path: str, epoch: int | None = None) -> None:
    """Let the process that reads this video die as one whose memory was wanted elsewhere."""
    read = VideoDataset.__getitem__

    def deadly(self: VideoDataset, key: Any) -> dict[str, Any]:
        index = key[1] if isinstance(key, tuple) else key
        if self.samples[index].path == path and (epoch is None or key[0] == epoch):
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, key)

    monkeypatch.setattr(VideoDataset, "__getitem__", deadly)


def named(text: str, where: str) -> list[str]:
    """Give the files that an error names."""
    match = re.fullmatch(
        rf"{where}, reading (.*?)( and \d+ more)?: DataLoader worker .*{re.escape(END)}", text
    )
    assert match is not None, text
    return match[1].split(", ")


def loader() -> DataLoader[Any]:
    """Give a loader of one video."""
    samples = SimpleNamespace(samples=[SimpleNamespace(path="a.mp4")])
    return DataLoader(Subset(cast("Any", samples), [0]))


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Torch's handler is there: a Lightning trainer takes away what was set while it ran, and torch sets it once."""
    before = signal.getsignal(signal.SIGCHLD)
    monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", False)
    signal_handling._set_SIGCHLD_handler()
    yield
    signal.signal(signal.SIGCHLD, before)


def test_without_a_report_nothing_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    monkeypatch.setattr(lost_workers, "_REPORT", 3600.0)
    try:
        with pytest.raises(RuntimeError) as caught, naming_lost_workers(lambda: ("epoch 1", loader(), 0)):
            exec("raise EOFError", {"__name__": "torch.multiprocessing.reductions"})
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert "DataLoader worker exited unexpectedly" in str(caught.value)


@pytest.mark.usefixtures("reports")
def test_a_death_that_is_reported_late_is_awaited() -> None:
    """The pipes of a process close before its end is told, and the second error would fall on whoever runs then."""
    slow = subprocess.Popen(["sh", "-c", "sleep 0.3; kill -KILL $$"])
    signal_handling._set_worker_pids(id(slow), (slow.pid,))
    taken_over = {"__name__": "torch.multiprocessing.reductions"}
    try:
        with pytest.raises(RuntimeError) as caught, naming_lost_workers(lambda: ("epoch 1", loader(), 0)):
            exec("raise EOFError", taken_over)
    finally:
        signal_handling._remove_worker_pids(id(slow))
    assert slow.wait(10) == -signal.SIGKILL  # an error that was still to come would be raised here
    assert "killed by signal: Killed" in str(caught.value)
    assert named(str(caught.value), "epoch 1") == ["a.mp4"]


@pytest.fixture
def config(make_config: Any) -> Config:
    made: Config = make_config(epochs=2, data__workers=1, data__batch_size=2, data__eval_batch_size=2)
    return made


def test_of_a_training(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    video = read_list(config, "train").samples[3].path
    crash_on(monkeypatch, video, epoch=1)
    with pytest.raises(RuntimeError) as caught:
        fit(config)
    assert video in named(str(caught.value), r"epoch 2, batch \d+")
    assert (Path(config.output) / "last.ckpt").exists()


def test_of_a_validation(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    video = read_list(config, "val").samples[-1].path
    crash_on(monkeypatch, video)
    with pytest.raises(RuntimeError) as caught:
        fit(config)
    assert video in named(str(caught.value), r"validation after epoch 1, batch \d+")


def test_of_an_evaluation_and_of_predictions(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(config.model_copy(update={"epochs": 1}))
    weights = Path(config.output) / "best.ckpt"
    paths = [sample.path for sample in read_list(config, "val").samples]
    crash_on(monkeypatch, paths[-2])
    with pytest.raises(RuntimeError) as caught:
        evaluate(weights)
    assert paths[-2] in named(str(caught.value), "evaluate")
    done: list[str] = []
    with pytest.raises(RuntimeError) as caught:
        done.extend(prediction.path for prediction in predict(paths, weights, workers=1, batch_size=1))
    assert paths[-2] in named(str(caught.value), "predict")
    assert done == paths[: len(done)]
    assert len(done) >= len(paths) - 5
