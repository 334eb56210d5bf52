"""The Lightning module: loss, optimizer, schedule and the counts of an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    SequentialLR,
)

from vidops.evaluation.metrics import Counts

from .checkpoint import KEY, describe
from .checks import NonFiniteLossError, check_finite
from .config import Config
from .loading import STEP, derive_seed
from .sections import CosineConfig, OneCycleConfig, SGDConfig


class Recognizer(pl.LightningModule):
    """Trains a network to classify clips.

    Args:
        config: the recipe.
        net: from clips (N, 3, T, H, W) to logits (N, K).
        classes: K class names.
        steps_per_epoch: training batches an epoch.
        lists: fingerprints of the lists of videos, for the checkpoints.
    """

    def __init__(
        self,
        config: Config,
        net: nn.Module,
        classes: Sequence[str],
        steps_per_epoch: int,
        lists: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.lists = lists or {}
        self.config, self.model, self.classes = config, net, list(classes)
        self.steps_per_epoch = steps_per_epoch
        self.metrics: dict[str, float] = {}

    def on_train_epoch_start(self) -> None:
        """Start the epoch's sums on the device."""
        self._loss, self._right = torch.zeros(2, device=self.device)
        self._seen = 0

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Compute a batch's loss; its random numbers are a function of seed, epoch and position."""
        torch.manual_seed(derive_seed(self.config.seed, STEP, self.current_epoch, batch_idx))
        logits = self.model(batch["clip"])
        loss = F.cross_entropy(logits, batch["label"])
        # One look at the loss before the backward pass keeps weights and optimizer clean of a bad batch.
        if not torch.isfinite(loss):
            raise NonFiniteLossError(
                f"the loss is {loss.item()} in epoch {self.current_epoch + 1}, batch {batch_idx + 1}, of:"
                f" {', '.join(batch['path'])}"
            )
        count = len(logits)
        self._loss += loss.detach() * count
        self._right += (logits.argmax(1) == batch["label"]).sum()
        self._seen += count
        return loss

    def training_metrics(self) -> dict[str, float]:
        """Give the epoch's mean loss and accuracy so far, measured while the weights changed.

        Returns:
            ``train_loss`` and ``train_top1``.
        """
        return {"train_loss": float(self._loss) / self._seen, "train_top1": float(self._right) / self._seen}

    def on_validation_epoch_start(self) -> None:
        """Start the counts."""
        self._counts = Counts(len(self.classes), self.device)
        self._val_loss = torch.zeros((), device=self.device)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Count a batch."""
        logits = self.model(batch["clip"]).float()
        check_finite(logits, batch["path"])
        self._val_loss += F.cross_entropy(logits, batch["label"], reduction="sum")
        self._counts.update(logits, batch["label"])

    def on_validation_epoch_end(self) -> None:
        """Turn the counts into the figures that the log and the checkpoints show."""
        counts = self._counts
        loss = float(self._val_loss) / counts.samples
        self.metrics = {"val_loss": loss, "val_top1": counts.top1, "val_top5": counts.top5}

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Build optimizer and schedule; the rate changes every step."""
        optimizer = build_optimizer(self.config, self.model)
        scheduler = build_schedule(self.config, optimizer, self.steps_per_epoch)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add recipe, classes and figures."""
        checkpoint[KEY] = describe(
            self.config, self.classes, self.current_epoch + 1, self.metrics, self.lists
        )


def build_optimizer(config: Config, net: nn.Module) -> Optimizer:
    """Build a recipe's optimizer.

    Args:
        config: the recipe.
        net: the network.

    Returns:
        The optimizer over all parameters.
    """
    section = config.optimizer
    if isinstance(section, SGDConfig):
        return SGD(
            net.parameters(), lr=section.lr, momentum=section.momentum, weight_decay=section.weight_decay
        )
    return AdamW(net.parameters(), lr=section.lr, weight_decay=section.weight_decay)


def build_schedule(config: Config, optimizer: Optimizer, steps_per_epoch: int) -> LRScheduler:
    """Build a recipe's schedule, to be stepped after every batch.

    Args:
        config: the recipe.
        optimizer: its optimizer.
        steps_per_epoch: training batches an epoch.

    Returns:
        The scheduler.
    """
    schedule, total = config.schedule, config.epochs * steps_per_epoch
    if isinstance(schedule, OneCycleConfig):
        return OneCycleLR(
            optimizer, config.optimizer.lr, total, pct_start=schedule.warmup, cycle_momentum=False
        )
    if isinstance(schedule, CosineConfig):
        warm = round(schedule.warmup_epochs * steps_per_epoch)
        if warm == 0:
            return CosineAnnealingLR(optimizer, total)
        ramp = LinearLR(optimizer, start_factor=1 / (warm + 1), total_iters=warm)
        return SequentialLR(optimizer, [ramp, CosineAnnealingLR(optimizer, total - warm)], [warm])
    return MultiStepLR(optimizer, [m * steps_per_epoch for m in schedule.milestones], schedule.gamma)
