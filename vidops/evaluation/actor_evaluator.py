"""Measure a network that classifies actors on every key frame of a list, once each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor, nn

from vidops.data import ActorList
from vidops.training.checks import check_finite
from vidops.training.config import Config
from vidops.training.loading import evaluation_loader
from vidops.training.task import task_of

from .actor_boxes import annotated_boxes, classified_boxes
from .actor_report import ActorReport
from .detections import LabelledBoxes, read_detections
from .evaluator import describe_list, describe_run, prepare, run_batches
from .frame_map import FrameMap, frame_map
from .ranks import on_all_ranks, rank_and_size
from .recipe import classifies_actors, clips_at_a_time, with_data, with_views
from .report import write_json
from .views import actor_scores


def evaluate_actors(
    weights: str | Path,
    config: Config | None = None,
    *,
    split: str = "val",
    views: str | None = None,
    average: str | None = None,
    batch_size: int | None = None,
    json_path: str | Path | None = None,
    out: TextIO | None = None,
) -> ActorReport:
    """Measure a network that classifies actors by frame mAP at IoU 0.5, as AVA's official evaluation does.

    The boxes are those of the list, or those of ``data.actors.val_proposals`` where the recipe names such a file.
    Under torchrun every rank measures its share of the key frames, each on one rank, and every rank returns the
    report of all of them; rank 0 alone writes and shows anything.

    Args:
        weights: a checkpoint of ``vidops train``, or a file of bare weights, which needs a recipe.
        config: the recipe that says what to measure on; None takes the checkpoint's own.
        split: ``"val"`` or ``"train"``, which of the recipe's lists.
        views: spatial crops x temporal clips of each key frame, such as ``"3x1"``; None takes the recipe's.
        average: what is averaged over the views, ``"logits"``, or ``"softmax"`` for the probabilities of the classes
            (each a sigmoid's); None takes the recipe's.
        batch_size: clips that run through the network at a time, on each rank; None takes the recipe's.
        json_path: where to write the report as JSON; whole or not at all.
        out: where a progress bar may be shown; it is, if that is a terminal.

    Returns:
        The report, with the detections it was counted from.

    Raises:
        FileNotFoundError: weights, list or a listed video are missing.
        ValueError: the weights are no checkpoint or another network's than the recipe's; the text names the
            file. Or the recipe is of clips, or views, average or batch size are none.
        VideoError: a video cannot be read.
        NonFiniteLossError: the network's output for a key frame is not finite.

    Example:
        >>> evaluate_actors("no/such/best.ckpt")
        Traceback (most recent call last):
        FileNotFoundError: no/such/best.ckpt: no such file
    """
    origin: dict[str, str] = {}
    lists: list[ActorList] = []

    def work(rank: int, size: int) -> _Part:
        net, used, actors = prepare(Path(weights), config, split)
        if not classifies_actors(used):
            raise ValueError(f"{weights}: classifies whole clips, which evaluate measures")
        used = with_views(used, views=views, average=average, batch_size=batch_size)
        lists.append(actors)
        origin.update(describe_run(used, weights, split))
        return _measure_part(net, used, actors, rank, size, out)

    report = _join(on_all_ranks(work), lists[0], origin)
    if json_path is not None and rank_and_size()[0] == 0:
        write_json(report, json_path)
    return report


def evaluate_detections(path: str | Path, config: Config, *, split: str = "val") -> ActorReport:
    """Measure a file of detections by frame mAP at IoU 0.5, as AVA's official evaluation does.

    Args:
        path: the file, see :func:`vidops.evaluation.read_detections`.
        config: a recipe of actors, whose list is the ground truth; its videos need not be there.
        split: ``"val"`` or ``"train"``, which of the recipe's lists.

    Returns:
        The report.

    Raises:
        FileNotFoundError: the file or a list is missing.
        ValueError: a line is wrong, or the recipe is of clips.

    Example:
        >>> from vidops.training import load_config
        >>> evaluate_detections("found.csv", load_config("configs/demo/tiny_tsn.yaml"))
        Traceback (most recent call last):
        ValueError: config: is of clips, and detections are of actors (data.format: ava)
    """
    if not classifies_actors(config):
        raise ValueError("config: is of clips, and detections are of actors (data.format: ava)")
    if split not in ("train", "val"):
        raise ValueError(f"split must be train or val, got {split!r}")
    found = read_detections(path)
    actors: ActorList = task_of(config).read(split, missing="keep")
    measured = _measured(actors, found)
    boxes = len(np.unique(np.column_stack((found.frame, found.boxes)), axis=0))
    origin = {"model": Path(path).name, "list": describe_list(config, split), "boxes": "given"}
    return ActorReport(actors.classes, measured, len(found.frames), boxes, origin, found)


def measure_actors(
    net: nn.Module, config: Config, actors: ActorList, *, out: TextIO | None = None
) -> ActorReport:
    """Measure a network on key frames, with a recipe's windows, test crops, views and precision.

    Args:
        net: from clips (N, 3, T, H, W) and boxes (R, 5) to logits (R, K); each rank its own.
        config: the recipe.
        actors: key frames with their boxes, ground truth and K class names.
        out: where a progress bar may be shown; it is, if that is a terminal.

    Returns:
        The report, on every rank that of all key frames.

    Raises:
        VideoError: a video cannot be read.
        NonFiniteLossError: the network's output for a key frame is not finite.
    """
    parts = on_all_ranks(lambda rank, size: _measure_part(net, config, actors, rank, size, out))
    return _join(parts, actors, {})


@dataclass(frozen=True)
class _Part:
    """One rank's share of all ``frames``: indices of its key frames; of each box its key frame, shares and logits."""

    frames: int
    indices: Tensor
    frame: Tensor
    shares: Tensor
    logits: Tensor


def _measure_part(
    net: nn.Module, config: Config, actors: ActorList, rank: int, size: int, out: TextIO | None
) -> _Part:
    """Run the network on the key frames of one rank."""
    task, average = task_of(config), config.data.average
    clips, frames = clips_at_a_time(config.data)
    dataset = task.dataset(actors, training=False)
    loader = evaluation_loader(
        with_data(config, eval_batch_size=frames),
        dataset,
        rank=rank,
        world_size=size,
        collate_fn=task.collate,
    )
    none = torch.empty(0, dtype=torch.int64)
    kept = [(none, none, torch.empty(0, 4), torch.empty(0, actors.num_classes))]  # more ranks than key frames

    def measure_batch(batch: dict[str, Any], device: torch.device) -> None:
        clip, boxes = (batch[key].to(device, non_blocking=True) for key in ("clip", "boxes"))
        logits = actor_scores(net, clip, boxes, actors.num_classes, average=average, chunk=clips).cpu()
        check_finite(logits, task.row_names(batch))
        kept.append((batch["index"], batch["index"][clip_of_boxes(batch)], batch["shares"], logits))

    run_batches(net, config, loader, measure_batch, out=None if rank else out)
    indices, frame, shares, logits = (torch.cat(column) for column in zip(*kept, strict=True))
    return _Part(len(actors), indices, frame, shares, logits)


def clip_of_boxes(batch: dict[str, Any]) -> Tensor:
    """Tell of each box of a batch which of its key frames it is of.

    Args:
        batch: with ``boxes`` (R, 5), or (R, V, 5) of V views, as `vidops.data.collate_actors` makes it.

    Returns:
        int64 (R,).

    Example:
        >>> clip_of_boxes({"boxes": torch.tensor([[[2.0, 0, 0, 1, 1], [3.0, 0, 0, 1, 1]]])})
        tensor([1])
    """
    boxes: Tensor = batch["boxes"]
    if boxes.ndim == 2:
        return boxes[:, 0].long()
    return boxes[:, 0, 0].long() // boxes.shape[1]


def _join(parts: Sequence[_Part], actors: ActorList, origin: dict[str, str]) -> ActorReport:
    """Put the shares of all ranks in the order of the list and measure."""
    indices = torch.cat([part.indices for part in parts])
    if not torch.equal(indices.sort().values, torch.arange(parts[0].frames)):
        raise RuntimeError("evaluate: the ranks did not measure each key frame once")
    frame = torch.cat([part.frame for part in parts])
    order = frame.argsort(stable=True)
    found = classified_boxes(
        [(sample.video, sample.timestamp) for sample in actors.samples],
        frame[order].numpy(),
        torch.cat([part.shares for part in parts])[order].numpy(),
        torch.cat([part.logits for part in parts])[order].numpy(),
        actors.scored,
    )
    given = any(sample.scores is not None for sample in actors.samples)
    origin = {**origin, "boxes": "given" if given else "annotated"}
    return ActorReport(actors.classes, _measured(actors, found), len(actors), len(frame), origin, found)


def _measured(actors: ActorList, found: LabelledBoxes) -> FrameMap:
    return frame_map(annotated_boxes(actors.truth), found, actors.scored, excluded=actors.excluded)
