"""Checkpoints that carry their recipe and class names, so that a file of weights is enough to predict."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vidops.models import create_model
from vidops.models.weights import load_state

from .config import Config, validate

KEY = "vidops"
FORMAT = 2  # raised whenever the order of the samples, their random numbers or what a checkpoint holds change
PREFIX = "model."  # one that vidops.load_weights takes off
TRAINED = "trained_state_dict"  # beside averaged weights, those that training goes on with


@dataclass(frozen=True)
class Checkpoint:
    """What a training run left behind.

    Args:
        path: the file.
        config: the recipe it was trained with.
        classes: class names in the order of the labels.
        epochs: epochs finished.
        batches: batches done of the epoch after them.
        ranks: processes that trained it together.
        metrics: validation figures after the last finished epoch.
        lists: what `fingerprint` gave of the training and the validation list, by their keys in the recipe.
        weights: the network's state dict; with ``ema`` in the recipe the averaged weights.
        format: number of what is stored and how samples are drawn; a run goes on from the present one alone.
    """

    path: Path
    config: Config
    classes: list[str]
    epochs: int
    batches: int
    ranks: int
    metrics: dict[str, float]
    lists: dict[str, str]
    weights: dict[str, torch.Tensor]
    format: int = FORMAT


def describe(
    config: Config,
    classes: list[str],
    position: tuple[int, int],
    metrics: dict[str, float],
    lists: dict[str, str],
    *,
    ranks: int = 1,
    sums: list[float] | None = None,
) -> dict[str, Any]:
    """Make the part of a checkpoint that is vidops' own.

    Args:
        config: the recipe.
        classes: class names.
        position: epochs finished, and batches done of the next one.
        metrics: validation figures.
        lists: fingerprints of the lists.
        ranks: processes that train together.
        sums: what the unfinished epoch's training figures are made of.

    Returns:
        Plain Python values, to be stored under `KEY`.
    """
    return {
        "format": FORMAT,
        "config": config.model_dump(mode="json"),
        "classes": classes,
        "epochs": position[0],
        "batches": position[1],
        "ranks": ranks,
        "metrics": metrics,
        "lists": lists,
        "sums": sums or [],
    }


def is_checkpoint(path: str | Path) -> bool:
    """Tell a checkpoint of a training run from a file of bare weights, without loading tensors.

    Args:
        path: an existing file.

    Returns:
        True if the file holds a recipe.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file looks like one that torch wrote, but cannot be read.
    """
    _check_exists(Path(path))
    return zipfile.is_zipfile(path) and KEY in _load(Path(path), mmap=True)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of ``vidops train``; nothing in it is executed.

    Args:
        path: ``best.ckpt`` or ``last.ckpt`` of a run.

    Returns:
        Recipe, classes, figures and weights, tensors on the CPU. Of a run with ``ema`` the weights are the
        averaged ones, those that its figures were measured with.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no checkpoint, or holds no recipe, or a damaged one; the text names the file.
    """
    path = Path(path)
    content = _load(path)
    if KEY not in content:
        raise ValueError(f"{path}: holds no recipe, so it is no checkpoint of vidops train")
    try:
        own, state = content[KEY], content["state_dict"]
        config = validate(own["config"], f"{path}: its recipe")
        weights = {k.removeprefix(PREFIX): v for k, v in state.items() if k.startswith(PREFIX)}
        return Checkpoint(
            path,
            config,
            list(own["classes"]),
            int(own["epochs"]),
            int(own["batches"]),
            int(own["ranks"]),
            dict(own["metrics"]),
            dict(own.get("lists", {})),
            weights,
            int(own.get("format", 1)),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: is a damaged checkpoint ({type(error).__name__}: {error})") from error


def restore(checkpoint: Checkpoint, *, backend: str | None = None) -> nn.Module:
    """Build a checkpoint's network and load its weights.

    Args:
        checkpoint: what :func:`read_checkpoint` gave.
        backend: backend of the operators; None takes the recipe's.

    Returns:
        The network, in evaluation mode, on the CPU.

    Raises:
        ValueError: weights and recipe do not belong together; the text names the file.
    """
    model = checkpoint.config.model
    try:
        net = create_model(
            model.name,
            num_classes=len(checkpoint.classes),
            num_segments=model.num_segments,
            backend=backend or checkpoint.config.backend,
            **model.options,
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{checkpoint.path}: its recipe builds no network: {error}") from error
    load_state(net, checkpoint.weights, checkpoint.path, advise=False)
    return net.eval()


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file" if not path.exists() else f"{path}: is not a file")


def _load(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    _check_exists(path)
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: is no checkpoint (or only a part of one)")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # torch.load answers a foreign file with any kind of exception
        raise ValueError(f"{path}: is no checkpoint ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: is no checkpoint (it holds a {type(content).__name__})")
    return content
