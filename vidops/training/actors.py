"""Training to classify actors: boxes with several labels each, binary cross entropy, frame mAP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vidops import data
from vidops.data import transforms
from vidops.evaluation.actor_boxes import annotated_boxes, classified_boxes
from vidops.evaluation.frame_map import frame_map
from vidops.models import list_models, model_card

from .config import Config
from .modality import ActorsConfig
from .ranks import Ranks
from .reading import input_size, network_input, refuse_mirrors, training_crop
from .task import Batch


class ActorTask:
    """A batch has R boxes in its N clips, with ``labels`` (R, K), the network gives logits (R, K).

    The loss is the mean over all R x K labels of the batch, whatever rank has them, so that a recipe trains the same on
    any number of ranks though their boxes are not equally many. A batch without a box has the loss 0.

    Args:
        config: the recipe, of ``data.format: ava``.

    Attributes:
        samples, columns, score, score_name: see `vidops.training.task.Task`.
    """

    samples = "key frames"
    columns: tuple[str, ...] = ("train_loss", "val_loss", "val_map")
    score = "val_map"
    score_name = "frame mAP"

    def __init__(self, config: Config) -> None:
        self.config = config

    @property
    def section(self) -> ActorsConfig:
        """The recipe's keys about actors."""
        assert self.config.data.actors is not None
        return self.config.data.actors

    def check(self) -> None:
        """Refuse networks that take no boxes, and those that take other clips than the frames about a key frame."""
        model = self.config.model
        card = model_card(model.name)
        if not card.detects:
            able = ", ".join(name for name in list_models() if model_card(name).detects)
            raise ValueError(f"model.name: {model.name} takes no boxes, as data.format=ava needs; {able} do")

    def read(
        self, split: str, classes: Sequence[str] | None = None, *, missing: str | None = None
    ) -> data.ActorList:
        """Read the key frames of a list that show somebody.

        A detector's boxes are trained on beside those of the list, and validated in place of them.
        """
        section, actors = self.config.data, self.section
        root, training = Path(section.root), split == "train"
        lists = {
            "labels": actors.labels,
            "scored": actors.scored,
            "excluded": actors.train_excluded if training else actors.val_excluded,
            "proposals": actors.train_proposals if training else actors.val_proposals,
        }
        found = data.read_actors(
            root / getattr(section, split),
            root,
            **{name: root / file for name, file in lists.items() if file is not None},
            min_score=actors.train_min_score if training else actors.val_min_score,
            match_iou=actors.match_iou,
            keep_truth=training,
            start_time=actors.start_time,
            timestamps=(actors.timestamps[0], actors.timestamps[1]) if actors.timestamps else None,
            missing=missing or section.missing,
            frames=data.FrameFolder(section.template, section.first_frame),
        ).occupied()
        count = self.config.model.num_classes
        if count is not None and count != found.num_classes:
            raise ValueError(
                f"model.num_classes: is {count}, data.actors.labels has {found.num_classes} classes"
            )
        if classes is not None and list(classes) != found.classes:
            raise ValueError(
                f"data.actors.labels: has other classes than the network, first {_first(classes, found)}"
            )
        if not found.samples:
            raise ValueError(f"data.{split}: no key frame shows anybody")
        shown = {label for sample in found.truth for labels in sample.labels for label in labels}
        if not training and not shown & set(found.scored):
            raise ValueError("data.val: no box has a class of data.actors.scored")
        return found

    def identify(self, sample: data.KeyFrame, path: str) -> list[object]:
        """Tell a key frame by video, time, boxes, their labels and scores."""
        scores = sample.scores.tolist() if sample.scores is not None else None
        return [path, sample.timestamp, sample.time, sample.boxes.tolist(), sample.labels, scores]

    def dataset(
        self, annotations: data.ActorList, *, training: bool, views: bool = True
    ) -> data.ActorDataset:
        """Build a dataset of clips about key frames; a test sees whole frames."""
        section, actors = self.config.data, self.section
        if section.flip and training:
            refuse_mirrors(annotations.classes)
        side = input_size(self.config) if training else section.test_size or input_size(self.config)
        steps: list[transforms.Transform] = []
        if actors.squash:
            steps.append(transforms.ResizeFrames(side, flip=section.flip and training))
        elif training:
            crop, side = training_crop(self.config)
            steps.append(crop)
        return data.ActorDataset(
            annotations,
            num_frames=self.config.model.num_segments,
            frame_step=actors.frame_step,
            frame_rate=actors.frame_rate,
            transform=transforms.Compose([*steps, network_input(self.config)]),
            training=training,
            min_visible=actors.min_visible,
            seed=self.config.seed,
            short_side=side,
            cache=section.cache,
        )

    def collate(self, items: Sequence[Batch]) -> Batch:
        """Stack clips, and put the boxes of all one after the other."""
        shapes = {tuple(item["clip"].shape) for item in items if "clip" in item}
        if len(shapes) > 1:
            first, second = (f"{w} x {h}" for h, w in sorted(shape[-2:] for shape in shapes)[:2])
            raise ValueError(
                f"data.eval_batch_size: frames of {first} and of {second} make no batch; 1 takes key frames one by one,"
                " data.actors.squash: true makes them square"
            )
        return data.collate_actors(items)

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Pick the clips and the boxes."""
        return batch["clip"], batch["boxes"]

    def names(self, batch: Batch) -> list[str]:
        """Name the key frames by file and timestamp."""
        return [f"{path} at {t:g}" for path, t in zip(batch["path"], batch["timestamp"], strict=True)]

    def row_names(self, batch: Batch) -> list[str]:
        """Name each box's key frame."""
        names = self.names(batch)
        return [names[int(clip)] for clip in batch["boxes"][:, 0].tolist()]

    def loss(self, logits: Tensor, batch: Batch, ranks: Ranks) -> tuple[Tensor, float]:
        """Take the mean binary cross entropy over the boxes of all ranks."""
        boxes = int(ranks.sum(torch.tensor(len(logits))))
        total = F.binary_cross_entropy_with_logits(logits.float(), batch["labels"], reduction="sum")
        return total * (ranks.size / max(1, boxes * logits.shape[1])), boxes / ranks.size

    def hits(self, logits: Tensor, batch: Batch) -> Tensor:
        """Count nothing: what is right of several labels takes a threshold, which frame mAP does without."""
        return logits.new_zeros(())

    def meter(self, annotations: data.ActorList, device: torch.device) -> ActorMeter:
        """Measure against the annotated boxes of the list."""
        return ActorMeter(annotations)


class ActorMeter:
    """Mean binary cross entropy, and frame mAP at IoU 0.5 by the official rules.

    Args:
        actors: the validation list.

    Example:
        >>> import numpy as np
        >>> box = np.array([[0, 0, 1, 1]], np.float32)
        >>> key = data.KeyFrame("a.mp4", "a", 902.0, 2.0, box, ((1,),))
        >>> meter = ActorMeter(data.ActorList([key], ["sit", "stand"], (0, 1), [key]))
        >>> batch = {"boxes": torch.zeros(1, 5), "index": torch.tensor([0]), "labels": torch.tensor([[0.0, 1.0]])}
        >>> meter.update(torch.zeros(1, 2), {**batch, "shares": torch.from_numpy(box)})
        >>> meter.figures(Ranks())["val_map"]
        1.0
    """

    def __init__(self, actors: data.ActorList) -> None:
        self.actors = actors
        self._parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def update(self, logits: Tensor, batch: Batch) -> None:
        """Keep a batch of logits (R, K), the boxes that they are of, and what these are labelled."""
        own = batch["index"][batch["boxes"][:, 0].long()]
        parts = own, batch["shares"], logits, batch["labels"]
        self._parts.append(tuple(part.cpu() for part in parts))  # type: ignore[arg-type]

    def figures(self, ranks: Ranks) -> dict[str, float]:
        """Put the boxes of all ranks in the order of the list and measure them; every rank does."""
        mine = tuple(torch.cat(column).numpy() for column in zip(*self._parts, strict=True))
        parts = [part for part in ranks.gather(mine) if part]
        index, shares, logits, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(index, kind="stable")
        samples = self.actors.samples
        keys = [(sample.video, sample.timestamp) for sample in samples]
        found = classified_boxes(keys, index[order], shares[order], logits[order], self.actors.scored)
        truth = annotated_boxes(self.actors.truth)
        measured = frame_map(truth, found, self.actors.scored, excluded=self.actors.excluded)
        wide, wanted = (torch.from_numpy(values[order]).double() for values in (logits, labels))
        loss = F.binary_cross_entropy_with_logits(wide, wanted)
        return {"val_loss": float(loss), "val_map": measured.mean}


def _first(classes: Sequence[str], found: data.ActorList) -> str:
    """Name the first class that differs."""
    for given, read in zip(classes, found.classes, strict=False):
        if given != read:
            return f"{read!r}, not {given!r}"
    return f"{len(found.classes)} of them, not {len(classes)}"
