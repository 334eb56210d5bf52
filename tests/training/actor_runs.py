"""A detection set of a few clips, and a recipe that trains on it in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.training.fixtures import change, recipe
from vidops.data import make_actors

# Its attention sees time, here that of 4 frames.
TINY = {"attention_dim": 16, "dropout": 0.5}


def small_set(folder: Path) -> Path:
    """Write 24 training and 12 validation clips of 4 frames of 32 x 32."""
    return make_actors(folder, train=24, val=12, excluded=2, frames=4, size=32, progress=False)


def actor_recipe(actors: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """Recipe of a run of three epochs of three batches; dotted keys, written with ``__``, change it."""
    content = recipe(actors, output)
    content["model"] = {"name": "tiny_st_slowfast", "num_segments": 4, "options": dict(TINY)}
    content["data"] = {
        "root": str(actors),
        "train": "train.csv",
        "val": "val.csv",
        "format": "ava",
        "actors": {
            "labels": "labels.pbtxt",
            "scored": "scored.pbtxt",
            "val_excluded": "excluded.csv",
            "squash": True,
        },
        "size": 32,
        "flip": False,
        "batch_size": 8,
        "eval_batch_size": 5,
    }
    return change(content, **changes)
