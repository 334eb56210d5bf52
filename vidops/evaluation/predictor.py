"""Classes of single video files."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from vidops.data import AnnotationList, Sample
from vidops.training.checkpoint import read_checkpoint, restore
from vidops.training.config import Config
from vidops.training.loading import EvaluationSet, build_dataset, collate, on_gpu

from .evaluator import autocast


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
        paths: video files, sampled and cropped as the checkpoint's recipe does in a test.
        weights: a checkpoint of ``vidops train``; it carries recipe and class names.
        top: classes a video, at most.
        batch_size: videos computed at a time.
        workers: processes that decode; 0 decodes in this one.
        accelerator: ``"auto"``, ``"cpu"`` or ``"cuda"``; None takes the recipe's.
        backend: backend of the operators; None takes the recipe's.
        out: where a progress bar may be shown; it is, if that is a terminal.

    Yields:
        One prediction a path, in the order of the paths.

    Raises:
        FileNotFoundError: the weights are missing.
        ValueError: there is no path, ``top`` or ``batch_size`` is below 1, or the weights are no checkpoint.

    Example:
        >>> predict(["clip.mp4"], "no/such/best.ckpt")
        Traceback (most recent call last):
        FileNotFoundError: no/such/best.ckpt: no such file
    """
    for name, value, least in (("top", top, 1), ("batch_size", batch_size, 1), ("workers", workers, 0)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if not paths:
        raise ValueError("paths: no video is given")
    checkpoint = read_checkpoint(weights)
    config = checkpoint.config
    if accelerator is not None:
        config = Config.model_validate({**config.model_dump(), "accelerator": accelerator})
    device = torch.device("cuda" if on_gpu(config) else "cpu")
    net = restore(checkpoint, backend=backend).to(device)
    videos = AnnotationList([Sample(str(path), 0) for path in paths], checkpoint.classes)
    uncached = config.model_copy(update={"data": config.data.model_copy(update={"cache": None})})
    loader = DataLoader(
        EvaluationSet(build_dataset(uncached, videos, training=False)),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=collate,
    )

    def run() -> Iterator[Prediction]:
        shown = out is not None and out.isatty()
        bar = tqdm(
            total=len(paths),
            desc="predict",
            unit="video",
            leave=False,
            file=out or sys.stderr,
            disable=not shown,
        )
        with bar, torch.inference_mode(), autocast(config, device):
            for start, batch in zip(range(0, len(paths), batch_size), loader, strict=True):
                errors = dict(batch["broken"])
                scores: dict[int, list[tuple[str, float]]] = {}
                if batch["path"]:
                    logits = net(batch["clip"].to(device)).float()
                    finite = torch.isfinite(logits).all(1).tolist()
                    best = logits.softmax(1).topk(min(top, len(checkpoint.classes)))
                    found = zip(batch["index"].tolist(), finite, *(b.tolist() for b in best), strict=True)
                    for index, fine, p, c in found:
                        if fine:
                            scores[index] = [(checkpoint.classes[i], q) for i, q in zip(c, p, strict=True)]
                        else:
                            errors[index] = f"{paths[index]}: the network's output is not finite"
                for index in range(start, min(start + batch_size, len(paths))):
                    bar.update(1)
                    yield Prediction(str(paths[index]), scores.get(index, []), errors.get(index))

    return run()
