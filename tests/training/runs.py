"""Runs that are killed, and what they have logged."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from vidops.training.module import Recognizer


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the run may catch it and tidy up."""


def kill_at(monkeypatch: pytest.MonkeyPatch, epoch: int, batch: int, name: str = "training_step") -> None:
    """Let a run end as if killed when it comes to a step of a batch."""
    step = getattr(Recognizer, name)

    def changed(self: Recognizer, data: Any, batch_idx: int) -> Any:
        if (self.current_epoch, batch_idx) == (epoch, batch):
            raise Killed
        return step(self, data, batch_idx)

    monkeypatch.setattr(Recognizer, name, changed)


def rows(output: Path) -> list[dict[str, str]]:
    """Read the rows of metrics.csv, but for the times, which differ from run to run."""
    with (output / "metrics.csv").open() as file:
        found = list(csv.DictReader(file))
    for row in found:
        del row["seconds"]
    return found
