"""What a recipe trains for: all that differs between classifying clips and other things that networks learn.

Loaders, module, checkpoints and logs ask a `Task` what a sample and a batch are, what their loss is and what is
measured after an epoch; they know no kind of training themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .config import Config
from .ranks import Ranks

Batch = dict[str, Any]


class Meter(Protocol):
    """Measures one validation: batch by batch on each rank, then over all of them."""

    def update(self, logits: Tensor, batch: Batch) -> None:
        """Count a batch.

        Args:
            logits: fp32 at least, finite, what the network gave for the batch.
            batch: on the device of the logits.
        """
        ...

    def figures(self, ranks: Ranks) -> dict[str, float]:
        """Give the figures of all ranks, which have to call this together.

        Args:
            ranks: the processes that train together.

        Returns:
            ``val_loss``, the task's ``score``, and what else its ``columns`` have of the validation.
        """
        ...


class Task(Protocol):
    """What a recipe trains a network for.

    Attributes:
        config: the recipe.
        samples: what the samples of a list are called.
        columns: the figures of an epoch, in the order of metrics.csv and the terminal; ``train_loss`` and ``val_loss``
            are among them.
        score: that of them which is highest in the best checkpoint.
        score_name: what the score is called.
    """

    config: Config
    samples: str
    columns: tuple[str, ...]
    score: str
    score_name: str

    def check(self) -> None:
        """Raise ValueError unless the keys of the recipe fit its network; before any list is read."""
        ...

    def read(self, split: str, classes: Sequence[str] | None = None, *, missing: str | None = None) -> Any:
        """Read one list of the recipe, see `vidops.training.reading.read_list`.

        Args:
            split: ``"train"`` or ``"val"``.
            classes: class names in the order of the labels; None takes those of the list.
            missing: ``"keep"`` for videos that are not there; None does as the recipe says.

        Returns:
            A list with ``samples``, each with a ``path``, and ``classes``.
        """
        ...

    def identify(self, sample: Any, path: str) -> Any:
        """Say what makes a sample the one it is, for the fingerprint of its list.

        Args:
            sample: of a list.
            path: its path from the root of the data.

        Returns:
            Plain values that JSON can hold.
        """
        ...

    def dataset(self, annotations: Any, *, training: bool, views: bool = True) -> Dataset[Any]:
        """Build the dataset of a list, see `vidops.training.reading.build_dataset`.

        Args:
            annotations: what `read` gave.
            training: random frames and crops, else those of a test.
            views: all views of a test video; False gives what is enough to follow a training.

        Returns:
            The dataset: samples with ``clip``, ``index`` and ``path``.
        """
        ...

    def collate(self, items: Sequence[Batch]) -> Batch:
        """Join samples of the dataset, each with its ``broken``, to a batch.

        Args:
            items: samples; one without a clip is left out.

        Returns:
            ``path`` and ``broken`` lists; unless all are broken ``clip`` and ``index``, tensors, and the rest.
        """
        ...

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Pick what the network is called with from a batch."""
        ...

    def names(self, batch: Batch) -> list[str]:
        """Name the samples of a batch for an error text."""
        ...

    def row_names(self, batch: Batch) -> list[str]:
        """Name for each row of the logits the sample that it belongs to."""
        ...

    def loss(self, logits: Tensor, batch: Batch, ranks: Ranks) -> tuple[Tensor, float]:
        """Compute a batch's loss; all ranks call this together.

        Args:
            logits: what the network gave for this rank's share of the batch.
            batch: that share.
            ranks: the processes that train together.

        Returns:
            The loss, without dimensions, whose gradient's mean over the ranks is that of the whole batch; and this
            rank's part of the weight that the batch has in an epoch's mean.
        """
        ...

    def hits(self, logits: Tensor, batch: Batch) -> Tensor:
        """Count the rows of a training batch that are right, as far as the columns have a figure of that."""
        ...

    def meter(self, annotations: Any, device: torch.device) -> Meter:
        """Start measuring a validation.

        Args:
            annotations: the validation list.
            device: of the network.
        """
        ...


def task_of(config: Config) -> Task:
    """Tell what a recipe trains for.

    Args:
        config: the recipe.

    Returns:
        Its task.

    Example:
        >>> from vidops.training import load_config
        >>> task_of(load_config("configs/demo/tiny_tsn.yaml")).score
        'val_top1'
    """
    # They need the readers and loaders, which need this module.
    from .actors import ActorTask
    from .clips import ClipTask

    return ActorTask(config) if config.data.format == "ava" else ClipTask(config)
