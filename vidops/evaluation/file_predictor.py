"""A checkpoint's network that goes through video files, one after the other, shared by ranks."""

from __future__ import annotations

import hashlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TextIO, TypeVar

import torch
from tqdm import tqdm

from vidops.training.checkpoint import read_checkpoint, restore
from vidops.training.config import validate
from vidops.training.loading import on_gpu

from .ranks import gpu_of_rank, interleaved, rank_and_size
from .recipe import with_data, with_views

_TOGETHER = 64  # videos of a rank between two meetings of all


class FileResult(Protocol):
    """What comes of one video: its path, and values for a line of JSON or an error."""

    @property
    def path(self) -> str:
        """The video."""
        ...

    @property
    def error(self) -> str | None:
        """Why there is nothing else, in one line that names the file; None where all went well."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """Give plain values: ``path``, and ``predictions`` or ``error``."""
        ...


R = TypeVar("R", bound=FileResult)


class FilePredictor(ABC, Generic[R]):
    """A checkpoint's network, ready to go through any number of videos.

    Args:
        weights: a checkpoint of ``vidops train``; it carries recipe and class names.
        batch_size: clips that run through the network at a time.
        workers: processes that decode; 0 decodes in this one.
        views: spatial crops x temporal clips of each sample; None takes the recipe's.
        average: what is averaged over the views; None takes the recipe's.
        accelerator: ``"auto"``, ``"cpu"`` or ``"cuda"``; None takes the recipe's.
        backend: backend of the operators; None takes the recipe's.

    Raises:
        FileNotFoundError: the weights are missing.
        ValueError: an argument is out of range, or the weights are no checkpoint.
    """

    def __init__(
        self,
        weights: str | Path,
        batch_size: int,
        workers: int,
        views: str | None,
        average: str | None,
        accelerator: str | None,
        backend: str | None,
    ) -> None:
        check_least(batch_size=(batch_size, 1), workers=(workers, 0))
        checkpoint = read_checkpoint(weights)
        config = with_views(checkpoint.config, views=views, average=average, batch_size=batch_size)
        if accelerator is not None:
            config = validate({**config.model_dump(), "accelerator": accelerator}, f"{weights}: its recipe")
        self.weights, self.workers = Path(weights), workers
        self.classes = checkpoint.classes
        self.config = with_data(config, cache=None)
        self.device = gpu_of_rank() if on_gpu(config) else torch.device("cpu")
        self._net = restore(checkpoint, backend=backend).to(self.device)

    @property
    @abstractmethod
    def key(self) -> str:
        """Twelve hexadecimal digits that change with whatever the predictions depend on besides the video."""

    @abstractmethod
    def _share(self, paths: list[str]) -> Iterator[R]:
        """Predict the videos of one rank, of which there may be none."""

    def run(self, paths: Sequence[str | Path], *, out: TextIO | None = None) -> Iterator[R]:
        """Predict videos; one that is missing, broken or not finite stops no other.

        One that crashes its decoder stops all, with an error that names the few that were being read.

        Under torchrun every rank calls this with the same videos, of which it predicts its share, and every rank
        is given all predictions; rank 0 alone shows anything.

        Args:
            paths: video files, and folders of pictures named as in the recipe; sampled and cropped as the
                recipe does in a test.
            out: where a progress bar may be shown; it is, if that is a terminal.

        Yields:
            One prediction a path, in the order of the paths.

        Raises:
            ValueError: there is no path.
            RuntimeError: a process that decodes died.
        """
        if not paths:
            raise ValueError("paths: no video is given")
        return self._run([str(path) for path in paths], out)

    def _run(self, paths: list[str], out: TextIO | None) -> Iterator[R]:
        rank, size = rank_and_size()
        shown = out is not None and out.isatty() and rank == 0
        bar = tqdm(
            total=len(paths),
            desc="predict",
            unit="video",
            leave=False,
            file=out or sys.stderr,
            disable=not shown,
        )
        with bar:
            for prediction in interleaved(self._share(paths[rank::size]), every=_TOGETHER):
                bar.update(1)
                yield prediction


def check_least(**limits: tuple[int, int]) -> None:
    """Refuse numbers that are too small.

    Args:
        limits: value and least value of each argument.

    Raises:
        ValueError: names the first argument that is below.

    Example:
        >>> check_least(top=(0, 1))
        Traceback (most recent call last):
        ValueError: top must be at least 1, got 0
    """
    for name, (value, least) in limits.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def run_key(weights: str | Path, *choices: object) -> str:
    """Sum up what predictions depend on besides the video.

    Args:
        weights: the checkpoint; its content counts, not its name.
        choices: options, such as how many classes are named.

    Returns:
        Twelve hexadecimal digits.
    """
    digest = hashlib.sha256(repr(choices).encode())
    with open(weights, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:12]
