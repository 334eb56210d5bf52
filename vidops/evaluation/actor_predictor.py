"""What actors do in single video files."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vidops.data import ActorList, FrameFolder, KeyFrame
from vidops.data.whole import seconds_long
from vidops.training.loading import EvaluationSet, worker_processes
from vidops.training.lost_workers import naming_lost_workers
from vidops.training.task import task_of

from .actor_evaluator import clip_of_boxes
from .evaluator import autocast, fp32_of_gpus
from .file_predictor import FilePredictor, check_least, run_key
from .given_boxes import Boxes, read_given_boxes
from .recipe import classifies_actors, clips_at_a_time, describe_views
from .views import actor_scores

_WHOLE = np.array([[0, 0, 1, 1]], np.float32)


@dataclass(frozen=True)
class Actor:
    """What a network says of one box at one moment.

    Args:
        timestamp: seconds, as the boxes file lists it.
        time: seconds from the first frame.
        box: x1, y1, x2, y2 as shares of width and height.
        scores: (class name, probability) of its likeliest classes, the likeliest first; maybe none.
    """

    timestamp: float
    time: float
    box: tuple[float, float, float, float]
    scores: list[tuple[str, float]]

    def as_dict(self) -> dict[str, Any]:
        """Give plain values for JSON.

        Returns:
            ``timestamp``, ``box``, and ``classes``, a list of ``class`` and ``probability``.

        Example:
            >>> Actor(902.0, 2.0, (0.0, 0.0, 1.0, 1.0), [("sit", 0.9)]).as_dict()["classes"]
            [{'class': 'sit', 'probability': 0.9}]
        """
        classes = [{"class": name, "probability": share} for name, share in self.scores]
        return {"timestamp": self.timestamp, "box": list(self.box), "classes": classes}


@dataclass(frozen=True)
class ActorPrediction:
    """What a network says of the actors of one video.

    Args:
        path: the video.
        actors: in the order of time, at one moment in that of the boxes file; empty after an error.
        error: why there are none, in one line that names the file; None where all went well.
    """

    path: str
    actors: list[Actor] = field(default_factory=list)
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Give the prediction as plain values for a line of JSON.

        Returns:
            ``path`` and either ``predictions``, a list with ``timestamp``, ``box`` and ``classes`` of each actor, or
            ``error``.

        Example:
            >>> ActorPrediction("a.mp4", error="a.mp4: no such file").as_dict()
            {'path': 'a.mp4', 'error': 'a.mp4: no such file'}
        """
        if self.error is not None:
            return {"path": self.path, "error": self.error}
        return {"path": self.path, "predictions": [actor.as_dict() for actor in self.actors]}


class ActorPredictor(FilePredictor[ActorPrediction]):
    """A checkpoint's network that classifies actors, ready to name what those of any number of videos do.

    Each class has a probability of its own, so that an actor may do several things or none.

    Args:
        weights: a checkpoint of ``vidops train``; it carries recipe and class names.
        boxes: file of boxes that are classified at the moments it lists, see `given_boxes.read_given_boxes`; None
            classifies the whole frame, all ``every`` seconds.
        min_score: of boxes in the file that are taken.
        start_time: timestamp of a video's first frame in the boxes file, such as 900 for AVA's.
        every: seconds from one moment to the next where no boxes are given; the first is at half of it.
        top: classes a box, at most.
        threshold: least probability of a class that is named.
        batch_size: clips that run through the network at a time.
        workers: processes that decode; 0 decodes in this one.
        views: spatial crops x temporal clips of each moment; None takes the recipe's.
        average: what is averaged over the views, ``"logits"`` or ``"softmax"``; None takes the recipe's.
        accelerator: ``"auto"``, ``"cpu"`` or ``"cuda"``; None takes the recipe's.
        backend: backend of the operators; None takes the recipe's.

    Raises:
        FileNotFoundError: weights or boxes are missing.
        ValueError: an argument is out of range, the weights are no checkpoint or one that classifies whole clips, or
            the boxes file is malformed.

    Example:
        >>> ActorPredictor("no/such/best.ckpt")
        Traceback (most recent call last):
        FileNotFoundError: no/such/best.ckpt: no such file
    """

    def __init__(
        self,
        weights: str | Path,
        *,
        boxes: str | Path | None = None,
        min_score: float = 0.0,
        start_time: float = 0.0,
        every: float = 1.0,
        top: int = 5,
        threshold: float = 0.0,
        batch_size: int = 8,
        workers: int = 0,
        views: str | None = None,
        average: str | None = None,
        accelerator: str | None = None,
        backend: str | None = None,
    ) -> None:
        check_least(top=(top, 1))
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be in 0 to 1, got {threshold:g}")
        if not every > 0:
            raise ValueError(f"every must be above 0, got {every:g}")
        self.boxes = None if boxes is None else read_given_boxes(boxes, min_score)
        self._boxes_file = boxes
        super().__init__(weights, batch_size, workers, views, average, accelerator, backend)
        if not classifies_actors(self.config):
            raise ValueError(f"{weights}: classifies whole clips, which Predictor predicts")
        self.top, self.threshold, self.every = top, threshold, every
        self.min_score, self.start_time = min_score, start_time

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits that change with the weights, the boxes, what is named of them, or the views."""
        choices = (self.top, self.threshold, self.start_time, describe_views(self.config.data))
        given = self.every if self._boxes_file is None else run_key(self._boxes_file, self.min_score)
        return run_key(self.weights, "actors", *choices, given)

    @property
    def frame_rate(self) -> float:
        """Frames a second of frame folders, as the recipe says."""
        section = self.config.data.actors
        assert section is not None
        return section.frame_rate

    def _share(self, paths: list[str]) -> Iterator[ActorPrediction]:
        for path in paths:
            try:
                keys = self._keys(path)
            except ValueError as error:  # VideoError, or no boxes for it
                yield ActorPrediction(path, error=str(error))
                continue
            yield self._predict(path, keys)

    def _keys(self, path: str) -> list[KeyFrame]:
        """Give the moments of a video that are classified."""
        data = self.config.data
        folder = FrameFolder(data.template, data.first_frame) if os.path.isdir(path) else None
        moments: dict[float, Boxes]
        if self.boxes is not None:
            moments = dict(self.boxes.of(path))
            early = [time for time in moments if time < self.start_time]
            if early:
                raise ValueError(
                    f"{path}: {self.boxes.source} has boxes at {early[0]:g} s, before the first frame at"
                    f" {self.start_time:g} s"
                )
        else:
            long = seconds_long(path, frames=folder, frame_rate=self.frame_rate)
            count = max(1, math.ceil(long / self.every - 0.5))
            first = min(self.every, long) / 2
            moments = {self.start_time + first + i * self.every: _WHOLE for i in range(count)}
        return [
            KeyFrame(path, Path(path).stem, t, t - self.start_time, boxes, ((),) * len(boxes), frames=folder)
            for t, boxes in moments.items()
        ]

    def _predict(self, path: str, keys: list[KeyFrame]) -> ActorPrediction:
        """Predict one video."""
        task = task_of(self.config)
        clips, frames = clips_at_a_time(self.config.data)
        actors = ActorList(keys, self.classes, tuple(range(len(self.classes))), keys)
        loader = DataLoader(
            EvaluationSet(task.dataset(actors, training=False)),
            batch_size=frames,
            collate_fn=task.collate,
            **worker_processes(self.workers if len(keys) > frames else 0),
        )
        found: list[Actor] = []
        done = 0
        with naming_lost_workers(lambda: ("predict", loader, done)):
            for batch in loader:
                if batch["broken"]:
                    return ActorPrediction(path, error=batch["broken"][0][1])
                clip, boxes = (batch[key].to(self.device) for key in ("clip", "boxes"))
                with (
                    torch.inference_mode(),
                    autocast(self.config, self.device),
                    fp32_of_gpus(tf32=self.config.tf32),
                ):
                    average = self.config.data.average
                    logits = actor_scores(
                        self._net, clip, boxes, len(self.classes), average=average, chunk=clips
                    )
                if not torch.isfinite(logits).all():
                    return ActorPrediction(path, error=f"{path}: the network's output is not finite")
                moments = batch["index"][clip_of_boxes(batch)].tolist()
                found += self._actors([keys[i] for i in moments], batch["shares"], logits)
                done += 1
        return ActorPrediction(path, found)

    def _actors(self, keys: list[KeyFrame], shares: Tensor, logits: Tensor) -> list[Actor]:
        best = logits.double().sigmoid().topk(min(self.top, len(self.classes)))
        rows = zip(keys, shares.double().tolist(), best.values.tolist(), best.indices.tolist(), strict=True)
        return [
            Actor(
                key.timestamp,
                key.time,
                (round(x1, 6), round(y1, 6), round(x2, 6), round(y2, 6)),
                [(self.classes[c], p) for p, c in zip(values, classes, strict=True) if p >= self.threshold],
            )
            for key, (x1, y1, x2, y2), values, classes in rows
        ]
