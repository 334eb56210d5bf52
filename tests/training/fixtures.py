"""A motion dataset of a few clips and recipes that train on it in a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from vidops.data import make_motion

if TYPE_CHECKING:
    from vidops.training.config import Config


@pytest.fixture(scope="session")
def motion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two mirrored pairs: 24 training and 12 validation clips of 8 frames of 32 x 32."""
    folder = tmp_path_factory.mktemp("data") / "motion"
    return make_motion(folder, pairs=2, train=24, val=12, frames=8, size=32, progress=False)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def recipe(motion: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """Recipe of a run of three epochs of three batches; dotted keys, written with ``__``, change it."""
    content: dict[str, Any] = {
        "model": {"name": "tiny_tsm", "options": {"dropout": 0.5}},
        "data": {
            "root": str(motion),
            "train": "train.csv",
            "val": "val.csv",
            "symmetric": True,
            "size": 24,
            "short_side": 32,
            "flip": False,
            "batch_size": 8,
            "eval_batch_size": 5,
        },
        "optimizer": {"name": "adamw", "lr": 3e-3},
        "schedule": {"name": "one_cycle"},
        "epochs": 3,
        "accelerator": "cpu",
        "log_every": 1,
        "output": str(output),
    }
    return change(content, **changes)


def change(content: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Set keys of a recipe, dotted ones written with ``__``."""
    for key, value in changes.items():
        section = content
        *parents, last = key.split("__")
        for parent in parents:
            section = section[parent]
        section[last] = value
    return content


@pytest.fixture
def make_config(motion: Path, tmp_path: Path) -> Callable[..., Config]:
    """Recipe above, checked, with ``tmp_path / "run"`` as its output unless told otherwise."""
    from vidops.training.config import validate

    def make(*, output: str | None = None, **changes: Any) -> Config:
        return validate(recipe(motion, Path(output or tmp_path / "run"), **changes), "test recipe")

    return make
