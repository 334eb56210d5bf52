"""Classes of single video files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import torch
from torch.utils.data import DataLoader

from vidops.data import AnnotationList, FrameFolder, Sample
from vidops.training.loading import EvaluationSet, build_dataset, collate, worker_processes
from vidops.training.lost_workers import naming_lost_workers

from .evaluator import autocast, fp32_of_gpus
from .file_predictor import FilePredictor, check_least, run_key
from .recipe import classifies_actors, clips_at_a_time, describe_views
from .views import video_scores


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


class Predictor(FilePredictor[Prediction]):
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
        ValueError: an argument is out of range, the weights are no checkpoint, or one that classifies actors.

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
        check_least(top=(top, 1))
        super().__init__(weights, batch_size, workers, views, average, accelerator, backend)
        if classifies_actors(self.config):
            raise ValueError(f"{weights}: classifies actors at key frames, which ActorPredictor predicts")
        self.top = top

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits that change with the weights, the number of classes named or the views."""
        return run_key(self.weights, self.top, describe_views(self.config.data))

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
