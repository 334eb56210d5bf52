"""The log of a run: ``metrics.csv``, and the same figures for TensorBoard."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidops._files import write_text

from .task import Task

METRICS = "metrics.csv"
OWN_COLUMNS = ["l1", "alpha", "val_l1"]  # the last ones, where a recipe has `joint`


def log_columns(task: Task) -> list[str]:
    """List the columns of a run's ``metrics.csv``.

    Args:
        task: of its recipe.

    Returns:
        Place and rate, the task's figures of an epoch, the time, and where a recipe has `joint` the network's own
        losses.
    """
    own = OWN_COLUMNS if task.config.joint is not None else []
    return ["epoch", "step", "lr", *task.columns, "seconds", *own]


class MetricsLog:
    """``metrics.csv``: a row with the loss every few steps, a row with all figures at an epoch's end.

    A resumed run drops the rows past its checkpoint and goes on, where Lightning's CSVLogger starts anew.

    Args:
        path: the file.
        step: steps done before this start.
        tensorboard: a SummaryWriter that gets the same figures, or None.
        writes: False for a rank that leaves the files to another.
        columns: of the file.
    """

    def __init__(
        self,
        path: Path,
        *,
        step: int = 0,
        tensorboard: Any | None = None,
        writes: bool = True,
        columns: Sequence[str],
    ) -> None:
        self.path, self.tensorboard, self.writes, self.columns = path, tensorboard, writes, columns
        if not writes:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        if step and path.is_file():
            try:
                # A killed run may have left half a line at the end.
                whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
                rows = csv.DictReader(io.StringIO(whole))
                writer.writerows(row for row in rows if int(row["step"]) <= step)
            except (KeyError, TypeError, ValueError, csv.Error) as error:
                raise ValueError(
                    f"{path}: is damaged ({type(error).__name__}: {error}); move it away to resume without it"
                ) from error
        write_text(path, text.getvalue())

    def add(self, epoch: int, step: int, figures: dict[str, float]) -> None:
        """Append a row.

        Args:
            epoch: from 1.
            step: optimizer steps done.
            figures: any of the columns' values.
        """
        if not self.writes:
            return
        row = {
            "epoch": str(epoch),
            "step": str(step),
            **{key: f"{value:.6g}" for key, value in figures.items()},
        }
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns, lineterminator="\n").writerow(row)
        if self.tensorboard is not None:
            for key, value in figures.items():
                self.tensorboard.add_scalar(key, value, step)

    def flush(self) -> None:
        """Write out what TensorBoard holds back: what a checkpoint follows on has to be on the disk."""
        if self.tensorboard is not None:
            self.tensorboard.flush()

    def close(self) -> None:
        """Write out what TensorBoard holds back."""
        if self.tensorboard is not None:
            self.tensorboard.close()
