"""The Lightning module: loss, optimizer, schedule and the counts of an epoch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer

from vidops.data import VideoError

from .checkpoint import KEY, describe
from .checks import NonFiniteLossError, check_finite, refuse_broken
from .config import Config
from .loading import STEP, derive_seed
from .objective import Objective
from .optim import build_optimizer, build_schedule, frozen_norms, zero_norms
from .ranks import Ranks
from .task import task_of

# fp16 begins with a scale of 2**16: after so many steps left out in a row it is far below 1.
SKIPS = 32


class Recognizer(pl.LightningModule):
    """Trains a network for its recipe's task.

    Args:
        config: the recipe.
        net: from clips (N, 3, T, H, W), and what else the task has, to logits (N, K) or (R, K), and with
            ``return_losses=True`` to its own losses too, if the recipe trains those.
        classes: K class names.
        batches_per_epoch: training batches an epoch.
        lists: fingerprints of the lists, for the checkpoints.
        ranks: the processes that train together.
        validation: the validation list; training steps alone need none.

    Raises:
        ValueError: batch norms are to be frozen and there are none, or the recipe's ``joint`` does not fit.
    """

    def __init__(
        self,
        config: Config,
        net: nn.Module,
        classes: Sequence[str],
        batches_per_epoch: int,
        lists: dict[str, str] | None = None,
        ranks: Ranks | None = None,
        validation: Any = None,
    ) -> None:
        super().__init__()
        self.task, self.validation = task_of(config), validation
        self.lists, self.ranks = lists or {}, ranks or Ranks()
        self.config, self.model, self.classes = config, net, list(classes)
        self.steps_per_epoch = batches_per_epoch // config.accumulate
        self.metrics: dict[str, float] = {}
        self.position = 0, 0  # of the checkpoint to be written: epochs finished, batches done of the next
        self._restored: list[float] | None = None
        self._step_names: list[str] = []  # samples of the batches of the optimizer step under way
        self._skipped = 0
        self._frozen = frozen_norms(net, config.freeze_norms)
        if zero := zero_norms(net, self._frozen):
            warnings.warn(
                f"freeze_norms: {len(zero)} of the frozen batch norms have weight zero and stay so, what is before"
                f" them adds nothing: {', '.join(zero[:4])}{', ...' if len(zero) > 4 else ''}",
                stacklevel=2,
            )
        for norm in self._frozen:
            norm.requires_grad_(False)
        self.objective = Objective(config, net, self.steps_per_epoch)
        self.train()

    def train(self, mode: bool = True) -> Recognizer:
        """Choose training or evaluation mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        if mode:
            self.objective.set_modes(self.current_epoch)
        for norm in self._frozen:
            norm.eval()
        return self

    def on_train_start(self) -> None:
        """Take up the sums of an epoch that a checkpoint was written in."""
        self.on_train_epoch_start()
        if self._restored and self.ranks.first:  # they are of all ranks together
            self._sums += torch.tensor(self._restored, dtype=torch.float64, device=self.device)

    def on_train_epoch_start(self) -> None:
        """Start the epoch's sums on the device: loss, right answers, weight; own losses; alpha, steps that had one."""
        self.train()
        columns = len(self.objective.columns)
        self._sums = torch.zeros((3, 4, 6)[columns], dtype=torch.float64, device=self.device)
        self._step = torch.zeros(1 + columns, device=self.device)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Compute a batch's loss; its random numbers are a function of seed, epoch, position and rank."""
        rank = [self.ranks.rank] if self.ranks.rank else []
        torch.manual_seed(derive_seed(self.config.seed, STEP, self.current_epoch, batch_idx, *rank))
        logits, own = self.objective.run(*self.task.inputs(batch))
        loss, weight = self.task.loss(logits, batch, self.ranks)
        names = self.task.names(batch)
        self._check_loss(loss if own is None else loss + own, names, batch_idx)
        if batch_idx % self.config.accumulate == 0:
            self._step.zero_()
            self._step_names = []
        self._step_names += names
        last = (batch_idx + 1) % self.config.accumulate == 0
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        total = self.objective.join(loss, own, step=self.global_step, last=last, scaler=scaler)
        self._sums[1] += self.task.hits(logits, batch)
        self._sums[2] += weight
        self._add(loss, own, weight, last)
        return total

    def _add(self, loss: Tensor, own: Tensor | None, weight: float, last: bool) -> None:
        """Add a batch's losses to the sums of the step and of the epoch, and alpha once a step."""
        for i, part in enumerate((loss,) if own is None else (loss, own)):
            self._step[i] += part.detach() / self.config.accumulate
            self._sums[3 * i] += part.detach() * weight
        if last and self.objective.joint is not None and self.objective.joint.alpha is not None:
            alpha = self.objective.joint.alpha
            self._step[2] = alpha
            # Where fp16 overflows it is no number, and the scaler leaves the step out.
            self._sums[4] += torch.where(alpha.isfinite(), alpha, 0)
            self._sums[5] += alpha.isfinite()

    def _check_loss(self, loss: Tensor, names: Sequence[str], batch_idx: int) -> None:
        """Look at the loss before the backward pass: weights and optimizer stay clean of a bad batch.

        All ranks stop if one has to: the others would wait for its gradients.
        """
        fine = bool(torch.isfinite(loss))
        if self.ranks.any(not fine):
            where = f"in epoch {self.current_epoch + 1}, batch {batch_idx + 1}"
            mine = f"the loss is {loss.item()} {where}, of: {', '.join(names)}"
            found = self.ranks.gather("" if fine else mine)
            raise NonFiniteLossError("; ".join(text for text in found if text))

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients' norm, and look at it before the optimizer step: weights stay clean of a bad one.

        Under fp16 the scaler leaves such a step out and halves its scale; `SKIPS` in a row end the run.
        """
        self.objective.drop_gradients()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        fine = bool(torch.isfinite(norm))
        if not self.ranks.any(not fine):
            self._skipped = 0
            if gradient_clip_val:
                nn.utils.clip_grads_with_norm_(self.model.parameters(), gradient_clip_val, norm)
            return
        self._skipped += 1
        if self.config.precision == "fp16" and self._skipped < SKIPS:
            return
        times = f" for the {self._skipped}th step in a row" if self._skipped > 1 else ""
        names = ", ".join(name for part in self.ranks.gather(self._step_names) for name in part)
        raise NonFiniteLossError(
            f"the gradients' norm is {norm.item()}{times} in epoch {self.current_epoch + 1}, step"
            f" {self.global_step + 1}, of: {names}"
        )

    def training_metrics(self) -> dict[str, float]:
        """Give the epoch's mean loss and accuracy so far, measured while the weights changed.

        Returns:
            ``train_loss``, ``train_top1`` where the task has it, and what else the objective has, over all ranks,
            which have to call it together.
        """
        loss, right, weight, *own = self.ranks.sum(self._sums).tolist()
        weight = weight or math.nan  # of an epoch without anything that has a label
        figures = {"train_loss": loss / weight, "train_top1": right / weight}
        figures = {name: value for name, value in figures.items() if name in self.task.columns}
        if own:
            figures["l1"] = own[0] / weight
        if len(own) > 1:
            figures["alpha"] = own[1] / max(own[2], 1)
        return figures

    def step_figures(self) -> dict[str, float]:
        """Give the mean losses of the batches of the last optimizer step, and its alpha.

        Returns:
            ``train_loss`` and what else the objective has, means over all ranks, which have to call it together.
        """
        means = (self.ranks.sum(self._step) / self.ranks.size).tolist()
        return dict(zip(("train_loss", *self.objective.columns), means, strict=True))

    def on_validation_start(self) -> None:
        """Measure with one set of weights."""
        self.ranks.share_buffers(self.model)

    def on_validation_epoch_start(self) -> None:
        """Start the counts."""
        self._meter = self.task.meter(self.validation, self.device)
        self._val_own = torch.zeros(2, dtype=torch.float64, device=self.device)  # sum, and clips
        self._failure: VideoError | NonFiniteLossError | None = None

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Count a batch. Ranks have unequal numbers of them, so they meet at the end, for errors too."""
        if self._failure is not None:
            return
        try:
            refuse_broken(batch)
            logits, own = self.objective.run(*self.task.inputs(batch))
            logits = logits.float()
            check_finite(logits, self.task.row_names(batch))
        except (VideoError, NonFiniteLossError) as error:
            if self.ranks.alone:
                raise
            self._failure = error
            return
        if own is not None:
            clips = len(batch["clip"])
            self._val_own += torch.stack((own.double() * clips, own.new_tensor(clips, dtype=torch.float64)))
        self._meter.update(logits, batch)

    def on_validation_epoch_end(self) -> None:
        """Turn the counts of all ranks into the figures that the log and the checkpoints show."""
        self.ranks.together(self._raise_failure)
        self.metrics = self._meter.figures(self.ranks)
        if self.objective.columns:
            own, clips = self.ranks.sum(self._val_own).tolist()
            self.metrics["val_l1"] = own / clips

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Build optimizer and schedule; the rate changes every step."""
        optimizer = build_optimizer(self.config, self.model)
        scheduler = build_schedule(self.config, optimizer, self.steps_per_epoch)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add recipe, classes, figures and position; all ranks do, for the sums."""
        checkpoint[KEY] = describe(
            self.config,
            self.classes,
            self.position,
            self.metrics,
            self.lists,
            ranks=self.ranks.size,
            sums=self.ranks.sum(self._sums).tolist() if self.position[1] else None,
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the figures of the last finished epoch and the sums of the one that goes on."""
        self.metrics = dict(checkpoint[KEY]["metrics"])
        self._restored = list(checkpoint[KEY]["sums"])
