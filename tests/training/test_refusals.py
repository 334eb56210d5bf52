"""What a run refuses before it begins, and what ends it in the middle."""

from __future__ import annotations

import io
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning", reason="training needs lightning")
pytest.importorskip("skimage", reason="the motion dataset needs scikit-image")
pytest.importorskip("av", reason="video files need av")

from tests import processes
from tests.training.runs import Killed, kill_at
from vidops._files import locked
from vidops.training import NonFiniteLossError, checkpoint, fit, read_checkpoint, trainer
from vidops.training.module import Recognizer


def test_a_run_is_not_overwritten(make_config: Any) -> None:
    config = make_config(epochs=1)
    result = fit(config)
    before = {p: p.read_bytes() for p in result.output.iterdir() if p.is_file()}
    with pytest.raises(FileExistsError, match=r"holds a run already .*--resume"):
        fit(config)
    out = io.StringIO()
    again = fit(config, resume=True, out=out)
    assert out.getvalue() == f"{result.output}: finished already, 1 of 1 epochs\n"
    assert again == result
    assert {p: p.read_bytes() for p in result.output.iterdir() if p.is_file()} == before


def hold(folder: Path, held: Path) -> None:
    with locked(folder / ".lock", "it"):
        held.touch()
        time.sleep(60)


def test_two_processes_do_not_train_in_one_folder(make_config: Any, tmp_path: Path) -> None:
    config = make_config(epochs=1)
    other = processes.start(hold, Path(config.output), tmp_path / "held", output=tmp_path / "log")
    try:
        while not (tmp_path / "held").exists():
            assert other.is_alive(), processes.said(tmp_path / "log")
            time.sleep(0.05)
        with pytest.raises(ValueError, match=r"^output: .*run: another process is writing to it$"):
            fit(config)
        assert [path.name for path in Path(config.output).iterdir()] == [".lock"]
    finally:
        other.kill()
        other.join()
    assert fit(config).epochs == 1, "the lock goes with its process"


def test_a_run_that_goes_on_elsewhere_meanwhile_is_not_resumed(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(checkpoint_every=1)
    last, early = Path(config.output) / "last.ckpt", tmp_path / "early.ckpt"
    for epoch, batch in ((0, 2), (1, 1)):
        with monkeypatch.context() as patch:
            kill_at(patch, epoch, batch)
            with pytest.raises(Killed):
                fit(config, resume=True)
        if epoch == 0:
            shutil.copy(last, early)
    late = last.read_bytes()
    shutil.copy(early, last)
    prepare = trainer.prepare

    def slow(*args: Any, **options: Any) -> Any:
        start = prepare(*args, **options)
        last.write_bytes(late)
        return start

    monkeypatch.setattr(trainer, "prepare", slow)
    with pytest.raises(ValueError, match=r"^output: .*another run has gone on there meanwhile"):
        fit(config, resume=True)
    assert last.read_bytes() == late


def test_resume_refuses_a_checkpoint_of_another_format(
    make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(epochs=2)
    with monkeypatch.context() as patch:
        kill_at(patch, 1, 0)
        patch.setattr(checkpoint, "FORMAT", 1)
        with pytest.raises(Killed):
            fit(config)
    with pytest.raises(ValueError, match=r"last.ckpt: is of another version of vidops \(format 1, not 2\)"):
        fit(config, resume=True)


def test_resume_refuses_another_recipe(make_config: Any) -> None:
    fit(make_config(epochs=1))
    with pytest.raises(ValueError, match=r"^optimizer.lr: the run in .* has 0.003, not 0.1; a resumed"):
        fit(make_config(epochs=1, optimizer__lr=0.1), resume=True)
    with pytest.raises(ValueError, match=r"^epochs: .* has 1, not 2"):
        fit(make_config(epochs=2), resume=True)


def test_resume_refuses_other_videos(
    make_config: Any, motion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (motion / "train.csv").read_text().splitlines()
    listed = tmp_path / "mine.csv"
    listed.write_text("\n".join(lines))
    config = make_config(data__train=str(listed))
    with monkeypatch.context() as patch:
        kill_at(patch, 1, 0)
        with pytest.raises(Killed):
            fit(config)
    path, label = lines[-1].rsplit(",", 1)
    listed.write_text("\n".join([*lines[:-1], f"{path},{(int(label) + 1) % 4}"]))
    with pytest.raises(
        ValueError,
        match=r"^data.train: names other videos, labels or classes, or in another order, than when .*24 videos",
    ):
        fit(config, resume=True)
    listed.write_text("\n".join(lines))
    moved = tmp_path / "moved"
    motion_copy = shutil.copytree(motion, moved)
    assert fit(make_config(data__train=str(listed), data__root=str(motion_copy)), resume=True).epochs == 3


def test_resume_refuses_a_damaged_checkpoint(make_config: Any) -> None:
    result = fit(make_config(epochs=1))
    result.last.write_bytes(result.last.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"last.ckpt: is no checkpoint"):
        fit(make_config(epochs=1), resume=True)


def test_nothing_is_written_before_all_is_checked(make_config: Any, tmp_path: Path) -> None:
    output = tmp_path / "run"
    with pytest.raises(FileNotFoundError, match=r"none.csv"):
        fit(make_config(data__train="none.csv"))
    with pytest.raises(ValueError, match=r"data.batch_size: 25 is more than the 24 training videos"):
        fit(make_config(data__batch_size=25))
    with pytest.raises(ValueError, match=r"no model is named 'tiny_tms'"):
        fit(make_config(model__name="tiny_tms"))
    with pytest.raises(ValueError, match=r"precision: fp16 needs a GPU"):
        fit(make_config(precision="fp16"))
    assert not output.exists()
    output.write_text("")
    with pytest.raises(FileExistsError, match=r"is a file, not a folder"):
        fit(make_config())


def test_label_past_num_classes_names_list_and_line(make_config: Any, motion: Path, tmp_path: Path) -> None:
    bad = tmp_path / "lists" / "bad.csv"
    bad.parent.mkdir()
    bad.write_text("videos/right/train_00000.mp4,7\n")
    with pytest.raises(ValueError, match=r"bad.csv, line 1: label 7"):
        fit(make_config(data__train=str(bad)))
    bad.write_text("")
    with pytest.raises(ValueError, match=r"bad.csv: the list is empty"):
        fit(make_config(data__train=str(bad)))


def test_non_finite_loss_names_the_files_and_keeps_the_last_epoch(
    make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned: list[str] = []
    step = Recognizer.training_step

    def training_step(self: Recognizer, data: Any, batch_idx: int) -> torch.Tensor:
        if (self.current_epoch, batch_idx) == (1, 1):
            data["clip"][3] = float("nan")
            poisoned.extend(data["path"])
        return step(self, data, batch_idx)

    monkeypatch.setattr(Recognizer, "training_step", training_step)
    config = make_config()
    with pytest.raises(NonFiniteLossError, match=r"the loss is nan in epoch 2, batch 2") as caught:
        fit(config)
    assert len(poisoned) == 8
    assert all(path in str(caught.value) for path in poisoned)
    assert str(caught.value).endswith("last.ckpt holds the last good epoch")
    last = read_checkpoint(Path(config.output) / "last.ckpt")
    assert last.epochs == 1
    assert all(torch.isfinite(t).all() for t in last.weights.values())


def test_weights_that_turn_non_finite_in_the_last_step_are_not_kept(
    make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_train_batch_end(self: Recognizer, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (self.current_epoch, batch_idx) == (1, 2):
            with torch.no_grad():
                next(self.model.parameters()).fill_(float("nan"))

    monkeypatch.setattr(Recognizer, "on_train_batch_end", on_train_batch_end)
    config = make_config()
    with pytest.raises(NonFiniteLossError, match=r"output is not finite for: .*val_00000.mp4"):
        fit(config)
    assert read_checkpoint(Path(config.output) / "last.ckpt").epochs == 1


def test_interrupt_stays_an_interrupt(make_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def training_step(self: Recognizer, data: Any, batch_idx: int) -> torch.Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(Recognizer, "training_step", training_step)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(make_config())
    assert signal.getsignal(signal.SIGINT) is handler
