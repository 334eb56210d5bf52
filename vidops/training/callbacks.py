"""What happens around the steps: checkpoints, broken videos, logs and the lines on the terminal."""

from __future__ import annotations

import logging
import math
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, Checkpoint
from torch.utils.data import DataLoader
from tqdm import tqdm

from vidops._files import replacing
from vidops.data import VideoError

from .checks import refuse_non_finite
from .metrics_log import MetricsLog
from .module import Recognizer

log = logging.getLogger("vidops.training")

BEST, LAST = "best.ckpt", "last.ckpt"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints are written beside their name and renamed, and read without executing anything."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint whole or not at all."""
        with replacing(path) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> Any:
        """Read a checkpoint that holds tensors and plain values only."""
        return torch.load(path, map_location=map_location, weights_only=True)


class BestAndLast(Checkpoint):
    """Writes ``last.ckpt`` after every epoch and every few steps, ``best.ckpt`` at the best validation so far.

    The best epoch has the highest score of its task and, of those with the same, the lowest loss: on a small
    validation set many epochs share a top-1.

    Lightning's ModelCheckpoint stores absolute paths, so that a run forgets its best score when its folder
    moves.

    Args:
        folder: of the run.
        every: steps between two writes within an epoch; None writes none there.
        accumulate: batches a step.
    """

    def __init__(self, folder: Path, *, every: int | None = None, accumulate: int = 1) -> None:
        self.folder, self.every, self.accumulate = folder, every, accumulate
        self.best, self.loss = -math.inf, math.inf

    def state_dict(self) -> dict[str, Any]:
        """Keep the best score and the loss beside it."""
        return {"best": self.best, "loss": self.loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best figures from a checkpoint."""
        self.best, self.loss = state_dict["best"], state_dict["loss"]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write between two steps of an epoch; after its last one comes the validation, and then the epoch's."""
        assert isinstance(pl_module, Recognizer)
        done = batch_idx + 1
        if self.every is None or done % self.accumulate or done >= trainer.num_training_batches:
            return
        if trainer.global_step % self.every == 0:
            where = f"epoch {trainer.current_epoch + 1}, batch {done}"
            refuse_non_finite(pl_module.model, where)
            pl_module.position = trainer.current_epoch, done
            trainer.save_checkpoint(self.folder / LAST)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the best one first: killed in between, the epoch is run again and finds the same best."""
        assert isinstance(pl_module, Recognizer)
        pl_module.position = trainer.current_epoch + 1, 0
        score, loss = pl_module.metrics[pl_module.task.score], pl_module.metrics["val_loss"]
        # One rank decides for all: they write together, and their sums may differ in the last bit.
        if pl_module.ranks.any(pl_module.ranks.first and (score, -loss) > (self.best, -self.loss)):
            self.best, self.loss = score, loss
            trainer.save_checkpoint(self.folder / BEST)
        trainer.save_checkpoint(self.folder / LAST)


class BrokenVideos(Callback):
    """Counts the training videos that could not be read, names each once, and stops past a share of them.

    Each rank hears of the videos that the others could not read, so that all stop at the same batch.

    Args:
        total: training videos.
        share: of them that may be broken.
    """

    def __init__(self, total: int, share: float) -> None:
        self.total, self.share = total, share
        self.broken: dict[int, str] = {}

    def state_dict(self) -> dict[str, Any]:
        """Keep what was broken."""
        return {"broken": self.broken}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what was broken from a checkpoint."""
        self.broken = dict(state_dict["broken"])

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note a batch's broken videos."""
        assert isinstance(pl_module, Recognizer)
        ranks = pl_module.ranks
        if not ranks.any(bool(batch["broken"])):
            return
        parts = ranks.gather((list(batch["broken"]), "clip" in batch))
        for index, reason in (video for videos, _ in parts for video in videos):
            if index not in self.broken:
                if ranks.first and reason not in self.broken.values():  # many samples may be of one file
                    log.warning("broken video left out: %s", reason)
                self.broken[index] = reason
        # Compared as counts: 1 % of 300 is 3 videos in spite of 0.01 * 300 = 3.0000000000000004 and the like.
        if len(self.broken) > math.floor(self.share * self.total + 1e-9):
            raise VideoError(
                f"{len(self.broken)} of {self.total} training {pl_module.task.samples} are broken, more than"
                f" data.max_broken={self.share:g} allows: {self.reasons}"
            )
        if not all(any_clip for _, any_clip in parts):
            raise VideoError(f"no training video can be read: {self.reasons}")

    @property
    def reasons(self) -> str:
        """What was wrong, of each file once."""
        return "; ".join(dict.fromkeys(self.broken.values()))


class Terminal(Callback):
    """Shows a progress bar on a terminal and one aligned line an epoch everywhere; writes the log's rows.

    Args:
        metrics: the log.
        every: steps between two rows of the training loss.
        accumulate: batches a step.
        done: batches of the first epoch that are done already.
        out: where the lines go; None shows nothing.
    """

    def __init__(
        self,
        metrics: MetricsLog,
        *,
        every: int,
        accumulate: int = 1,
        done: int = 0,
        out: TextIO | None = sys.stdout,
    ) -> None:
        self.done = done
        self.metrics, self.every, self.accumulate, self.out = metrics, every, accumulate, out
        self.bar: Any = None
        self.headed = False
        self.before = 0.0  # seconds of an unfinished epoch before this start

    def state_dict(self) -> dict[str, Any]:
        """Keep the time spent in the epoch."""
        return {"seconds": self.before + time.perf_counter() - self.started}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the time from a checkpoint."""
        self.before = state_dict["seconds"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write the log out first."""
        self.metrics.flush()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar where a resumed epoch goes on; Lightning does not start that one anew."""
        self._start(trainer, self.done)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar."""
        self.before = 0.0
        self._start(trainer, 0)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the rate of the step; after it the optimizer holds the next one's."""
        self.rate = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar; every few steps read the loss."""
        assert isinstance(pl_module, Recognizer)
        if (batch_idx + 1) % self.accumulate == 0 and trainer.global_step % self.every == 0:
            figures = {**pl_module.step_figures(), "lr": self.rate}
            self.metrics.add(trainer.current_epoch + 1, trainer.global_step, figures)
            if self.bar is not None:
                self.bar.set_postfix_str(f"loss {figures['train_loss']:.3f}", refresh=False)
        if self.bar is not None:
            self.bar.update(1)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open validation's bar in place of training's."""
        self._open("validation", int(sum(trainer.num_val_batches)))

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Move the bar."""
        if self.bar is not None:
            self.bar.update(1)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the epoch's line and row."""
        assert isinstance(pl_module, Recognizer)
        self._close()
        seconds = self.before + time.perf_counter() - self.started
        figures = {**pl_module.training_metrics(), **pl_module.metrics, "seconds": seconds}
        epoch, columns = trainer.current_epoch + 1, pl_module.task.columns
        self.metrics.add(epoch, trainer.global_step, {**figures, "lr": self.rate})
        if self.out is not None:
            if not self.headed:
                print(self._line("epoch", *columns, "time"), file=self.out)
                self.headed = True
            cells = [f"{figures[key]:.4f}" if "loss" in key else f"{figures[key]:.2%}" for key in columns]
            line = self._line(f"{epoch}/{trainer.max_epochs}", *cells, f"{seconds:.1f} s")
            print(line, file=self.out, flush=True)

    @staticmethod
    def _line(*cells: str) -> str:
        """Align an epoch's cells to the right."""
        return "  ".join(f"{cell.replace('_', ' '):>10}" for cell in cells)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Leave no bar behind."""
        self._close()

    def _start(self, trainer: pl.Trainer, done: int) -> None:
        self.started = time.perf_counter()
        text = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        self._open(text, trainer.num_training_batches, done)

    def _open(self, text: str, total: float, done: int = 0) -> None:
        self._close()
        if self.out is not None and self.out.isatty():
            self.bar = tqdm(
                total=int(total),
                initial=done,
                desc=text,
                unit="batch",
                leave=False,
                file=self.out,
                dynamic_ncols=True,
            )

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class Place(Callback):
    """Where a training was when an error ended it, kept from before Lightning forgets it.

    Args:
        train: loader of the training batches.
        val: loader of the validation batches.
    """

    def __init__(self, train: DataLoader[Any], val: DataLoader[Any]) -> None:
        self.train, self.val = train, val
        self.place: tuple[str, DataLoader[Any], int] = ("start", train, 0)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Note the epoch and the batch that was waited for."""
        epoch = f"epoch {trainer.current_epoch + 1}"
        if trainer.validating:
            done = trainer.fit_loop.epoch_loop.val_loop.batch_progress.current.completed
            self.place = f"validation after {epoch}, batch {done + 1}", self.val, done
            return
        sampler: Any = self.train.sampler
        skipped = sampler.skip if sampler.first == trainer.current_epoch else 0
        done = max(skipped, trainer.fit_loop.epoch_loop.batch_progress.current.completed)
        self.place = f"{epoch}, batch {done + 1}", self.train, done - skipped
