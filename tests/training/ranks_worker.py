"""What each rank of tests/training/test_ranks.py does: named scenarios, one after the other, results as JSON.

    torchrun ... ranks_worker.py FOLDER SCENARIO ...

FOLDER holds ``<scenario>.yaml``; each rank writes ``<scenario>.<rank>.json`` there.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from vidops.training import fit, load_config
from vidops.training.clips import ClipTask
from vidops.training.config import Config
from vidops.training.module import Recognizer

FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT
opened: list[str] = []


class Killed(BaseException):
    """Stands for SIGKILL, on all ranks at one batch."""


def note(event: str, args: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(args[0], (str, os.PathLike)) and args[2] & FLAGS:
        opened.append(os.fspath(args[0]))


def outcome(run: Callable[[], Any]) -> dict[str, Any]:
    """Run, and tell what came of it; files of the run that this rank opened to write are listed too."""
    opened.clear()
    try:
        result = run()
    except Exception as error:
        return {"error": type(error).__name__, "text": str(error)}
    written = sorted({Path(path).name for path in opened if str(result.output) in path})
    return {"metrics": result.metrics, "broken": result.broken, "written": written}


def patched(name: str, before: Callable[[Recognizer, dict[str, Any], int], None]) -> Any:
    """Replace a step of the module by one that does something first."""
    step = getattr(Recognizer, name)

    def changed(self: Recognizer, batch: dict[str, Any], batch_idx: int) -> Any:
        before(self, batch, batch_idx)
        return step(self, batch, batch_idx)

    return mock.patch.object(Recognizer, name, changed)


def plain(config: Config, rank: int) -> dict[str, Any]:
    """Train; tell which samples this rank measured in the first validation."""
    seen: list[int] = []

    def remember(module: Recognizer, batch: dict[str, Any], batch_idx: int) -> None:
        if module.current_epoch == 0:
            seen.extend(batch["index"].tolist())

    with patched("validation_step", remember):
        return {**outcome(lambda: fit(config)), "validated": seen}


def train_until(config: Config, epoch: int, batch: int) -> None:
    """Train, killed at a batch."""

    def kill(module: Recognizer, data: dict[str, Any], batch_idx: int) -> None:
        if (module.current_epoch, batch_idx) == (epoch, batch):
            raise Killed

    with patched("training_step", kill), contextlib.suppress(Killed):
        fit(config)


def resumed(config: Config, rank: int) -> dict[str, Any]:
    """Train, killed in the middle of the second epoch, and go on."""
    train_until(config, 1, 2)
    return outcome(lambda: fit(config, resume=True))


def split_output(config: Config, rank: int) -> dict[str, Any]:
    """Train, killed in the second epoch, and go on where rank 1 sees another folder."""
    train_until(config, 1, 1)
    if rank:
        config = config.model_copy(update={"output": f"{config.output}-of-rank-{rank}"})
    return outcome(lambda: fit(config, resume=True))


def split_lists(config: Config, rank: int) -> dict[str, Any]:
    """Train; the list of rank 1 has two videos changed over."""
    read = ClipTask.read

    def other(self: ClipTask, split: str, *args: Any) -> Any:
        found = read(self, split, *args)
        if rank == 1 and split == "train":
            found.samples[:2] = found.samples[1::-1]
        return found

    with mock.patch.object(ClipTask, "read", other):
        return outcome(lambda: fit(config))


def split_recipe(config: Config, rank: int) -> dict[str, Any]:
    """Train; rank 1 has another seed."""
    return outcome(lambda: fit(config.model_copy(update={"seed": rank})))


def bad_loss(config: Config, rank: int) -> dict[str, Any]:
    """Train; the last rank meets a clip that is no number."""
    paths: list[str] = []

    def poison(module: Recognizer, batch: dict[str, Any], batch_idx: int) -> None:
        if rank == module.ranks.size - 1 and (module.current_epoch, batch_idx) == (1, 1):
            batch["clip"][0] = float("nan")
            paths.extend(batch["path"])

    with patched("training_step", poison):
        return {**outcome(lambda: fit(config)), "paths": paths}


def bad_validation(config: Config, rank: int) -> dict[str, Any]:
    """Train; the last rank meets a validation clip that is no number."""

    def poison(module: Recognizer, batch: dict[str, Any], batch_idx: int) -> None:
        if rank == module.ranks.size - 1 and batch_idx == 0:
            batch["clip"][0] = float("nan")

    with patched("validation_step", poison):
        return outcome(lambda: fit(config))


def missing_list(config: Config, rank: int) -> dict[str, Any]:
    """Train; rank 1 alone cannot read the list."""
    read = ClipTask.read

    def fail(*args: Any) -> Any:
        if rank == 1:
            raise FileNotFoundError("list.csv: is not on this machine")
        return read(*args)

    with mock.patch.object(ClipTask, "read", fail):
        return outcome(lambda: fit(config))


def actors(config: Config, rank: int) -> dict[str, Any]:
    """Train on actors; tell how many boxes this rank had in each batch."""
    boxes: list[int] = []
    with patched("training_step", lambda module, batch, batch_idx: boxes.append(len(batch["boxes"]))):
        return {**outcome(lambda: fit(config)), "boxes": boxes}


SCENARIOS: dict[str, Callable[[Config, int], dict[str, Any]]] = {
    "actors": actors,
    "resumed": resumed,
    "split_output": split_output,
    "split_lists": split_lists,
    "split_recipe": split_recipe,
    "bad_loss": bad_loss,
    "bad_validation": bad_validation,
    "missing_list": missing_list,
}


def main(folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    sys.addaudithook(note)
    for name in names:
        result = SCENARIOS.get(name, plain)(load_config(folder / f"{name}.yaml"), rank)
        (folder / f"{name}.{rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
