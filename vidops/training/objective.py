"""What a recipe minimises: its task's loss, alone or together with losses of the network's own."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from .config import Config
from .joint import JointLoss, Rule, ScaleSchedule, Separate
from .sections import ConstantConfig, ScaleScheduleConfig, SeparateConfig, SumConfig


class Objective:
    """The losses of a batch, and what is made of them.

    A network with losses of its own takes ``return_losses=True`` and then returns ``(logits, {name: loss})``, a loss
    being without dimensions or one a clip. One whose own loss trains a part of it names that part by the attribute
    ``projection_name``.

    Args:
        config: the recipe.
        net: its network, with what is frozen frozen.
        steps_per_epoch: optimizer steps an epoch.

    Attributes:
        columns: what the log has beside the task's loss: none, ``l1``, or ``l1`` and ``alpha``.

    Raises:
        ValueError: the recipe's ``joint`` does not fit the network or the number of steps.
    """

    def __init__(self, config: Config, net: nn.Module, steps_per_epoch: int) -> None:
        self.section, self.net = config.joint, net
        self.columns: tuple[str, ...] = ()
        self.joint: JointLoss | None = None
        if self.section is None:
            return
        kind = type(net).__name__
        if not getattr(net, "own_losses", "return_losses" in inspect.signature(net.forward).parameters):
            raise ValueError(f"joint: {kind} has no losses of its own")
        self.columns = ("l1",)
        if isinstance(self.section, SumConfig):
            return
        name = getattr(net, "projection_name", None)
        if not isinstance(name, str):
            raise ValueError(
                f"joint.name: {self.section.name} is for a network with a projection; {kind} has losses, but none"
                " (sum takes any)"
            )
        self.columns = ("l1", "alpha")
        self.projection = net.get_submodule(name)
        self.joint = JointLoss(self.projection, self._rule(config, steps_per_epoch))

    def _rule(self, config: Config, steps_per_epoch: int) -> Rule:
        section = self.section
        if isinstance(section, SeparateConfig):
            return Separate(section.epochs * steps_per_epoch)
        if isinstance(section, ConstantConfig):
            return section.alpha
        if isinstance(section, ScaleScheduleConfig):
            try:
                return ScaleSchedule(config.epochs * steps_per_epoch, section.gamma, section.lam)
            except ValueError as error:
                raise ValueError("joint." + str(error).replace(" ", ": ", 1)) from None
        return "mgda"

    def run(self, *inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Run the network.

        Args:
            inputs: what it is called with, clips (N, C, T, H, W) first.

        Returns:
            Logits, and the sum of the network's own losses, each the mean over the clips; None if the recipe leaves
            them out.
        """
        if self.section is None:
            return self.net(*inputs), None
        logits, own = self.net(*inputs, return_losses=True)
        return logits, add_up(own)

    def join(
        self,
        loss: Tensor,
        own: Tensor | None,
        *,
        step: int,
        last: bool,
        scaler: torch.amp.GradScaler | None = None,
    ) -> Tensor:
        """Make of both losses what the backward pass starts from; all ranks have to call it together.

        Args:
            loss: the task's.
            own: the network's own.
            step: optimizer steps done.
            last: whether the optimizer step comes after this batch.
            scaler: of fp16.

        Returns:
            A loss without dimensions.
        """
        if own is None:
            return loss
        if isinstance(self.section, SumConfig):
            return loss + self.section.weight * own
        assert self.joint is not None
        return self.joint(own, loss, step=step, last=last, scaler=scaler)

    def set_modes(self, epoch: int) -> None:
        """Put what is not trained in an epoch of ``separate`` into evaluation mode, and the rest into training mode.

        Args:
            epoch: from 0.
        """
        if isinstance(self.section, SeparateConfig):
            first = epoch < self.section.epochs
            self.net.train(not first)
            self.projection.train(first)

    def drop_gradients(self) -> None:
        """Take away the gradients of what an epoch of ``separate`` does not train."""
        if self.joint is not None:
            self.joint.drop_gradients(self.net.parameters())


def add_up(losses: dict[str, Tensor]) -> Tensor:
    """Add up a network's own losses, each the mean over the clips.

    Args:
        losses: by name, without dimensions or one a clip.

    Returns:
        fp32 at least, without dimensions.

    Example:
        >>> add_up({"first": torch.tensor([1.0, 3.0]), "second": torch.tensor(0.5)})
        tensor(2.5000)
    """
    wide = [loss.to(torch.promote_types(loss.dtype, torch.float32)).mean() for loss in losses.values()]
    return torch.stack(wide).sum()
