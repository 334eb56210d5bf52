"""Exponential moving average of the weights, as torch's AveragedModel keeps it."""

from __future__ import annotations

from itertools import chain
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .checkpoint import PREFIX, TRAINED
from .module import Recognizer


class Averaging(Callback):
    """Averages weights and buffers after every optimizer step: ``decay`` times the average, the rest anew.

    The average starts as the weights after the first step. Validation runs with it, and a checkpoint's
    ``state_dict`` holds it; the weights that training goes on with are in ``trained_state_dict`` beside it.
    Lightning's own callback averages on the CPU when the network moves to a GPU.

    Args:
        decay: above 0, below 1.
        every: batches an optimizer step.
    """

    def __init__(self, decay: float, every: int) -> None:
        self.decay, self.every = decay, every
        self.average: AveragedModel | None = None
        self._restored: tuple[dict[str, torch.Tensor], int] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy the network, where it is now; a resumed run takes its average up again."""
        assert isinstance(pl_module, Recognizer)
        self.average = AveragedModel(
            pl_module.model, multi_avg_fn=get_ema_multi_avg_fn(self.decay), use_buffers=True
        )
        if self._restored is not None:
            weights, updates = self._restored
            self.average.module.load_state_dict(weights)
            self.average.n_averaged.fill_(updates)
            self._restored = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Average after a step."""
        assert self.average is not None
        assert isinstance(pl_module, Recognizer)
        if (batch_idx + 1) % self.every == 0:
            self.average.update_parameters(pl_module.model)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the average in the network's place."""
        self._swap(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the weights back."""
        self._swap(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Keep the number of updates."""
        assert self.average is not None
        return {"updates": int(self.average.n_averaged)}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the average as the checkpoint's weights, and those in training beside it."""
        assert self.average is not None
        checkpoint[TRAINED] = checkpoint["state_dict"]
        averaged = self.average.module.state_dict()
        checkpoint["state_dict"] = {PREFIX + name: value for name, value in averaged.items()}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Give the network the weights that training goes on with, and keep the average for the start."""
        updates = checkpoint["callbacks"][self.state_key]["updates"]
        weights = {name.removeprefix(PREFIX): value for name, value in checkpoint["state_dict"].items()}
        self._restored = weights, updates
        pl_module.load_state_dict(checkpoint[TRAINED])

    @torch.no_grad()
    def _swap(self, pl_module: pl.LightningModule) -> None:
        assert self.average is not None
        assert isinstance(pl_module, Recognizer)
        averaged, trained = self.average.module, pl_module.model
        pairs = zip(
            chain(averaged.parameters(), averaged.buffers()),
            chain(trained.parameters(), trained.buffers()),
            strict=True,
        )
        for ours, theirs in pairs:
            kept = ours.clone()
            ours.copy_(theirs)
            theirs.copy_(kept)
