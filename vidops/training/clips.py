"""Training to classify clips: one class a clip, cross entropy, top-1 and top-5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vidops import data
from vidops.evaluation.metrics import Counts
from vidops.models import model_card

from .config import Config
from .loading import collate
from .ranks import Ranks
from .reading import build_dataset, read_list
from .task import Batch


class ClipTask:
    """Each clip shows one class: a batch has a ``label`` (N,), the network gives logits (N, K).

    Args:
        config: the recipe.

    Attributes:
        samples, columns, score, score_name: see `vidops.training.task.Task`.
    """

    samples = "videos"
    columns: tuple[str, ...] = ("train_loss", "train_top1", "val_loss", "val_top1", "val_top5")
    score = "val_top1"
    score_name = "top-1"

    def __init__(self, config: Config) -> None:
        self.config = config

    def check(self) -> None:
        """Refuse runs of frames that the network does not take: its first batch would find them out."""
        model, given = self.config.model, self.config.data.frames_per_segment
        wanted = model_card(model.name).frames_of(model.options)
        if given != wanted:
            raise ValueError(
                f"data.frames_per_segment: must be {wanted} for {model.name} with these options, got {given}"
            )

    def read(
        self, split: str, classes: Sequence[str] | None = None, *, missing: str | None = None
    ) -> data.AnnotationList:
        """Read a list of videos and their classes."""
        return read_list(self.config, split, classes, missing=missing)

    def identify(self, sample: data.Sample, path: str) -> tuple[str, int]:
        """Tell a video by its path and its label."""
        return path, sample.label

    def dataset(
        self, annotations: data.AnnotationList, *, training: bool, views: bool = True
    ) -> data.VideoDataset:
        """Build a dataset of clips and labels."""
        return build_dataset(self.config, annotations, training=training, views=views)

    def collate(self, items: Sequence[Batch]) -> Batch:
        """Stack clips, labels and indices."""
        return collate(items)

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Pick the clips."""
        return (batch["clip"],)

    def names(self, batch: Batch) -> list[str]:
        """Name the videos."""
        return list(batch["path"])

    def row_names(self, batch: Batch) -> list[str]:
        """Name the videos: a row each."""
        return list(batch["path"])

    def loss(self, logits: Tensor, batch: Batch, ranks: Ranks) -> tuple[Tensor, float]:
        """Take the mean cross entropy: ranks have equally many clips."""
        return F.cross_entropy(logits, batch["label"]), len(logits)

    def hits(self, logits: Tensor, batch: Batch) -> Tensor:
        """Count the clips whose class has the highest logit."""
        return (logits.argmax(1) == batch["label"]).sum()

    def meter(self, annotations: data.AnnotationList, device: torch.device) -> ClipMeter:
        """Count the classes of the list."""
        return ClipMeter(len(annotations.classes or []), device)


class ClipMeter:
    """Mean cross entropy, top-1 and top-5 of a validation list.

    Args:
        num_classes: K.
        device: of the logits.

    Example:
        >>> meter = ClipMeter(2, torch.device("cpu"))
        >>> meter.update(torch.zeros(2, 2), {"label": torch.tensor([0, 1])})
        >>> meter.figures(Ranks())["val_top1"]
        0.5
    """

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self.counts = Counts(num_classes, device)
        self.loss = torch.zeros((), dtype=torch.float64, device=device)

    def update(self, logits: Tensor, batch: dict[str, Any]) -> None:
        """Count a batch of logits (N, K) and labels (N,)."""
        self.loss += F.cross_entropy(logits.double(), batch["label"], reduction="sum")
        self.counts.update(logits, batch["label"])

    def figures(self, ranks: Ranks) -> dict[str, float]:
        """Add up the counts of all ranks."""
        own = self.counts
        figures = [float(self.loss), own.right, own.among5, own.samples]
        sums = ranks.sum(torch.tensor(figures, dtype=torch.float64, device=self.loss.device))
        loss, right, among5, samples = sums.tolist()
        return {"val_loss": loss / samples, "val_top1": right / samples, "val_top5": among5 / samples}
