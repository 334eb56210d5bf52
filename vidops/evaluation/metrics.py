"""Exact counts over a labelled set: each sample once, ties broken the same way everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor


class Counts:
    """Running counts over batches of logits; nothing leaves the device before the end.

    A sample's rank is the number of classes with a higher logit, or an equal one and a lower index,
    as ``argmax`` takes the first of equal maxima.

    Args:
        num_classes: K.
        device: of the logits.

    Example:
        >>> counts = Counts(3)
        >>> counts.update(torch.tensor([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]]), torch.tensor([0, 1]))
        >>> counts.top1, counts.confusion.tolist()
        (0.5, [[1, 0, 0], [1, 0, 0], [0, 0, 0]])
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        self.num_classes = num_classes
        self._confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
        self._top5 = torch.zeros((), dtype=torch.int64, device=device)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch.

        Args:
            logits: (N, K), finite.
            labels: (N,) int64.
        """
        own = logits.gather(1, labels[:, None])
        lower = torch.arange(self.num_classes, device=labels.device) < labels[:, None]
        rank = ((logits > own) | ((logits == own) & lower)).sum(1)
        cells = labels * self.num_classes + logits.argmax(1)
        self._confusion += torch.bincount(cells, minlength=self.num_classes**2).view_as(self._confusion)
        self._top5 += (rank < 5).sum()

    @property
    def confusion(self) -> npt.NDArray[np.int64]:
        """Samples of class i taken for class j, int64 (K, K)."""
        confusion: npt.NDArray[np.int64] = self._confusion.cpu().numpy()
        return confusion

    @property
    def samples(self) -> int:
        """Samples counted."""
        return int(self._confusion.sum())

    @property
    def right(self) -> int:
        """Samples whose class has the highest logit."""
        return int(self._confusion.trace())

    @property
    def among5(self) -> int:
        """Samples whose class is among the five highest logits."""
        return int(self._top5)

    @property
    def top1(self) -> float:
        """Share of samples whose class has the highest logit; there must be a sample."""
        return self.right / self.samples

    @property
    def top5(self) -> float:
        """Share of samples whose class is among the five highest logits; there must be a sample."""
        return self.among5 / self.samples


@dataclass(frozen=True)
class Report:
    """Accuracies of a network on a set of videos.

    Args:
        classes: class names.
        confusion: samples of class i (row) taken for class j (column), int64 (K, K).
        top5: share of samples whose class is among the five highest scores.
        loss: mean cross-entropy.
        origin: what was measured: model, weights, list, views.
        logits: of every sample in the order of the list, float (N, K), or None.
        labels: class of every sample, int64 (N,), or None.
        paths: of every sample, or None.

    Example:
        >>> report = Report(["a", "b"], np.array([[3, 1], [0, 0]]), top5=1.0, loss=0.5)
        >>> report.top1, report.mean_class_accuracy, report.class_accuracies
        (0.75, 0.75, [0.75, None])
    """

    classes: Sequence[str]
    confusion: npt.NDArray[np.int64]
    top5: float
    loss: float
    origin: dict[str, str] = field(default_factory=dict)
    logits: npt.NDArray[np.floating[Any]] | None = None
    labels: npt.NDArray[np.int64] | None = None
    paths: Sequence[str] | None = None

    @classmethod
    def of(
        cls,
        classes: Sequence[str],
        logits: Tensor,
        labels: Tensor,
        *,
        paths: Sequence[str] | None = None,
        origin: dict[str, str] | None = None,
    ) -> Report:
        """Count the scores of a whole list.

        Args:
            classes: K class names.
            logits: float (N, K), finite, N at least 1.
            labels: int64 (N,), each below K.
            paths: of the N videos.
            origin: what was measured.

        Returns:
            The report; its loss is summed in float64, so that it does not depend on batches or ranks.

        Example:
            >>> Report.of(["a", "b"], torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])).top1
            0.5
        """
        counts = Counts(len(classes), logits.device)
        counts.update(logits, labels)
        return cls(
            classes,
            counts.confusion,
            counts.top5,
            float(F.cross_entropy(logits.double(), labels)),
            dict(origin or {}),
            logits.cpu().numpy(),
            labels.cpu().numpy(),
            list(paths) if paths is not None else None,
        )

    @property
    def samples(self) -> int:
        """Number of samples."""
        return int(self.confusion.sum())

    @property
    def top1(self) -> float:
        """Share of samples that got their own class."""
        return int(np.trace(self.confusion)) / self.samples

    @property
    def class_accuracies(self) -> list[float | None]:
        """Share of each class's samples that got their own class; None for a class without samples."""
        totals = self.confusion.sum(1)
        right = np.diagonal(self.confusion)
        return [int(r) / int(n) if n else None for r, n in zip(right, totals, strict=True)]

    @property
    def classes_seen(self) -> int:
        """Number of classes that have samples."""
        return int((self.confusion.sum(1) > 0).sum())

    @property
    def mean_class_accuracy(self) -> float:
        """Mean of the accuracies of the classes that have samples; the others do not count as 0."""
        known = [a for a in self.class_accuracies if a is not None]
        return sum(known) / len(known)

    @property
    def confusions(self) -> list[tuple[int, int] | None]:
        """For each class the other class that its samples were most often taken for, and how many were.

        Of equally frequent ones the first is given; None where no sample went to another class.
        """
        others = self.confusion.copy()
        np.fill_diagonal(others, 0)
        worst = others.argmax(1)
        counts = others[np.arange(len(others)), worst]
        return [(int(j), int(n)) if n else None for j, n in zip(worst, counts, strict=True)]

    def as_dict(self) -> dict[str, Any]:
        """Give the report as plain values for JSON.

        Returns:
            Counts, accuracies from 0 to 1, one entry a class, and the confusion matrix as lists.
        """
        return {
            **self.origin,
            "samples": self.samples,
            "top1": self.top1,
            "top5": self.top5,
            "mean_class_accuracy": self.mean_class_accuracy,
            "classes_seen": self.classes_seen,
            "loss": self.loss,
            "classes": [
                {
                    "name": name,
                    "samples": int(row.sum()),
                    "correct": int(row[i]),
                    "accuracy": accuracy,
                    "taken_for": {"name": self.classes[worst[0]], "samples": worst[1]} if worst else None,
                }
                for i, (name, row, accuracy, worst) in enumerate(
                    zip(self.classes, self.confusion, self.class_accuracies, self.confusions, strict=True)
                )
            ],
            "confusion": self.confusion.tolist(),
        }
