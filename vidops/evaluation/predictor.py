"""Classes of single video files."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from vidops.data import AnnotationList, FrameFolder, Sample
from vidops.training.checkpoint import read_checkpoint, restore
from vidops.training.config import validate
from vidops.training.loading import EvaluationSet, build_dataset, collate, on_gpu, worker_processes
from vidops.training.lost_workers import naming_lost_workers

from .evaluator import autocast, fp32_of_gpus
from .ranks import gpu_of_rank, interleaved, rank_and_size
from .recipe import clips_at_a_time, describe_views, with_data, with_views
from .views import video_scores

_TOGETHER = 64  # videos of a rank between two meetings of all


@dataclass(frozen=True)
class Prediction:
    """What a network says of one video.

    Args:
        path: the video.
        scores: (class name, probability) of the likeliest classes, the likeliest first; empty after an error.
        error: why there are none, in one line that names the file; None where all went well.
    """

    path: str
    scores: list[tuple[str, float]] = field(default_factory=list)
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Give the prediction as plain values for a line of JSON.

        Returns:
            ``path`` and either ``predictions``, a list of ``class`` and ``probability``, or ``error``.

        Example:
            >>> Prediction("a.mp4", [("left", 0.9)]).as_dict()
            {'path': 'a.mp4', 'predictions': [{'class': 'left', 'probability': 0.9}]}
        """
        if self.error is not None:
            return {"path": self.path, "error": self.error}
        return {"path": self.path, "predictions": [{"class": c, "probability": p} for c, p in self.scores]}


class Predictor:
    """A checkpoint's network, ready to name the likeliest classes of any number of videos.

    Args:
        weights: a checkpoint of ``vidops train``; it carries recipe and class names.
        top: classes a video, at most.
        batch_size: clips that run through the network at a time.
        workers: processes that decode; 0 decodes in this one.
        views: spatial crops x temporal clips of each video, such as ``"3x10"``; None takes the recipe's.
        average: what is averaged over the views, ``"logits"`` or ``"softmax"``; None takes the recipe's.
        accelerator: ``"auto"``, ``"cpu"`` or ``"cuda"``; None takes the recipe's.
        backend: backend of the operators; None takes the recipe's.

    Raises:
        FileNotFoundError: the weights are missing.
        ValueError: an argument is out of range, or the weights are no checkpoint.

    Example:
        >>> Predictor("no/such/best.ckpt")
        Traceback (most recent call last):
        FileNotFoundError: no/such/best.ckpt: no such file
    """

    def __init__(
        self,
        weights: str | Path,
        *,
        top: int = 5,
        batch_size: int = 8,
        workers: int = 0,
        views: str | None = None,
        average: str | None = None,
        accelerator: str | None = None,
        backend: str | None = None,
    ) -> None:
        for name, value, least in (("top", top, 1), ("batch_size", batch_size, 1), ("workers", workers, 0)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        checkpoint = read_checkpoint(weights)
        config = with_views(checkpoint.config, views=views, average=average, batch_size=batch_size)
        if accelerator is not None:
            config = validate({**config.model_dump(), "accelerator": accelerator}, f"{weights}: its recipe")
        self.weights, self.top, self.workers = Path(weights), top, workers
        self.classes = checkpoint.classes
        self.config = with_data(config, cache=None)
        self.device = gpu_of_rank() if on_gpu(config) else torch.device("cpu")
        self._net = restore(checkpoint, backend=backend).to(self.device)

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits that change with the weights, the number of classes named or the views."""
        return run_key(self.weights, self.top, describe_views(self.config.data))

    def run(self, paths: Sequence[str | Path], *, out: TextIO | None = None) -> Iterator[Prediction]:
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

    def _run(self, paths: list[str], out: TextIO | None) -> Iterator[Prediction]:
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

    def _share(self, paths: list[str]) -> Iterator[Prediction]:
        """Predict the videos of one rank, of which there may be none."""
        if not paths:
            return
        data = self.config.data
        clips, videos = clips_at_a_time(data)
        folder = FrameFolder(data.template, data.first_frame)
        samples = [Sample(path, 0, folder if os.path.isdir(path) else None) for path in paths]
        loader = DataLoader(
            EvaluationSet(build_dataset(self.config, AnnotationList(samples, self.classes), training=False)),
            batch_size=videos,
            collate_fn=collate,
            **worker_processes(self.workers),
        )
        batches = iter(loader)
        for start in range(0, len(paths), videos):
            done = start // videos
            with naming_lost_workers(lambda: ("predict", loader, done)):  # noqa: B023 - asked at once
                batch = next(batches)
            with torch.inference_mode(), autocast(self.config, self.device):
                found = self._predict(batch, paths, clips)
            for index in range(start, min(start + videos, len(paths))):
                yield found[index]

    def _predict(self, batch: dict[str, Any], paths: list[str], clips: int) -> dict[int, Prediction]:
        """Predict the videos of a batch; by index."""
        found = {index: Prediction(paths[index], error=error) for index, error in batch["broken"]}
        if not batch["path"]:
            return found
        clip = batch["clip"].to(self.device)
        with fp32_of_gpus(tf32=self.config.tf32):
            logits = video_scores(self._net, clip, average=self.config.data.average, chunk=clips)
        finite = torch.isfinite(logits).all(1).tolist()
        best = logits.softmax(1).topk(min(self.top, len(self.classes)))
        for index, fine, shares, classes in zip(
            batch["index"].tolist(), finite, *(b.tolist() for b in best), strict=True
        ):
            path = paths[index]
            if fine:
                scores = [(self.classes[i], share) for i, share in zip(classes, shares, strict=True)]
                found[index] = Prediction(path, scores)
            else:
                found[index] = Prediction(path, error=f"{path}: the network's output is not finite")
        return found


def predict(
    paths: Sequence[str | Path],
    weights: str | Path,
    *,
    top: int = 5,
    batch_size: int = 8,
    workers: int = 0,
    accelerator: str | None = None,
    backend: str | None = None,
    out: TextIO | None = None,
) -> Iterator[Prediction]:
    """Name the likeliest classes of video files; one that is missing, broken or not finite stops no other.

    Args:
        paths: video files, or folders of pictures, see :meth:`Predictor.run`.
        weights: a checkpoint of ``vidops train``; it carries recipe and class names.
        top: classes a video, at most.
        batch_size: clips that run through the network at a time.
        workers: processes that decode; 0 decodes in this one.
        accelerator: ``"auto"``, ``"cpu"`` or ``"cuda"``; None takes the recipe's.
        backend: backend of the operators; None takes the recipe's.
        out: where a progress bar may be shown; it is, if that is a terminal.

    Yields:
        One prediction a path, in the order of the paths.

    Raises:
        FileNotFoundError: the weights are missing.
        ValueError: there is no path, an argument is out of range, or the weights are no checkpoint.

    Example:
        >>> predict(["clip.mp4"], "no/such/best.ckpt")
        Traceback (most recent call last):
        FileNotFoundError: no/such/best.ckpt: no such file
    """
    if not paths:
        raise ValueError("paths: no video is given")
    predictor = Predictor(
        weights, top=top, batch_size=batch_size, workers=workers, accelerator=accelerator, backend=backend
    )
    return predictor.run(paths, out=out)


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
