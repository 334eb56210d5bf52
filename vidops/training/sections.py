"""The sections of a recipe that say how the weights are moved: optimizer, groups, schedule, losses together."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, model_validator

Natural = Annotated[int, Strict(), Field(ge=0)]
Count = Annotated[int, Strict(), Field(ge=1)]
NonNegative = Annotated[float, Strict(), Field(ge=0)]
Positive = Annotated[float, Strict(), Field(gt=0)]
Below1 = Annotated[float, Strict(), Field(gt=0, lt=1)]
Share = Annotated[float, Strict(), Field(gt=0, le=1)]
UpTo1 = Annotated[float, Strict(), Field(ge=0, le=1)]
From0Below1 = Annotated[float, Strict(), Field(ge=0, lt=1)]
Bool = Annotated[bool, Strict()]


class Section(BaseModel):
    """Keys of a recipe: fixed once read, none unknown, no number infinite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class GroupConfig(Section):
    """What a kind of parameter multiplies the optimizer's figures with.

    Args:
        lr: multiplier of ``optimizer.lr``, over the whole schedule.
        decay: multiplier of ``optimizer.weight_decay``.
    """

    lr: Positive = 1.0
    decay: NonNegative = 1.0


class GroupsConfig(Section):
    """Parameter groups by kind; a kind that is not named keeps lr 1 and decay 1, but for the first convolution's.

    ``{weight: {decay: 1}, bias: {lr: 2, decay: 0}, norm: {decay: 0}}`` with ``classifier_weight: {lr: 5,
    decay: 5}, classifier_bias: {lr: 10, decay: 0}`` are the thesis' groups; TSM and TSN have
    ``classifier_weight: {lr: 5, decay: 1}``.

    Args:
        first_conv_weight: weight of the network's first convolution; where it is not named, of kind ``weight``.
        first_conv_bias: bias of that convolution; where it is not named, of kind ``bias``.
        weight: every parameter that is of no other kind.
        bias: parameters named ``bias``.
        norm: weight and bias of batch norms and other normalisation layers.
        classifier_weight: parameters of the layer that the network names as its classifier, but biases.
        classifier_bias: biases of that layer.
    """

    first_conv_weight: GroupConfig | None = None
    first_conv_bias: GroupConfig | None = None
    weight: GroupConfig = GroupConfig()
    bias: GroupConfig = GroupConfig()
    norm: GroupConfig = GroupConfig()
    classifier_weight: GroupConfig = GroupConfig()
    classifier_bias: GroupConfig = GroupConfig()


class SGDConfig(Section):
    """Stochastic gradient descent with momentum.

    Args:
        name: ``sgd``.
        lr: learning rate at the top of the schedule.
        lr_batch: clips an optimizer step that ``lr`` is meant for: the rate in use is ``lr * data.batch_size *
            accumulate / lr_batch``. None: the rate is ``lr``, whatever the batch.
        momentum: at least 0, below 1.
        nesterov: look ahead along the momentum; needs a momentum.
        weight_decay: added to the gradient as ``weight_decay`` times the weight.
        groups: multipliers of rate and decay by kind of parameter.
    """

    name: Literal["sgd"]
    lr: Positive
    lr_batch: Count | None = None
    momentum: From0Below1 = 0.9
    nesterov: Bool = False
    weight_decay: NonNegative = 0.0
    groups: GroupsConfig = GroupsConfig()

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> SGDConfig:
        if self.nesterov and self.momentum == 0:
            raise ValueError("optimizer.nesterov: needs optimizer.momentum above 0, got 0")
        return self


class AdamWConfig(Section):
    """Adam with decoupled weight decay.

    Args:
        name: ``adamw``.
        lr: learning rate at the top of the schedule.
        lr_batch: clips an optimizer step that ``lr`` is meant for: the rate in use is ``lr * data.batch_size *
            accumulate / lr_batch``. None: the rate is ``lr``, whatever the batch.
        weight_decay: each step takes the rate times this share off the weights.
        groups: multipliers of rate and decay by kind of parameter.
    """

    name: Literal["adamw"]
    lr: Positive
    lr_batch: Count | None = None
    weight_decay: NonNegative = 0.01
    groups: GroupsConfig = GroupsConfig()


class OneCycleConfig(Section):
    """One-cycle policy: up to the full rate over a part of the run, then down to nearly nothing.

    Args:
        name: ``one_cycle``.
        warmup: share of the run's steps that the rate rises over.
    """

    name: Literal["one_cycle"]
    warmup: Below1 = 0.3


class CosineConfig(Section):
    """Linear warm-up, then a half cosine to zero.

    Args:
        name: ``cosine``.
        warmup_epochs: epochs, or parts of one, over which the rate rises to the full one; below ``epochs``.
    """

    name: Literal["cosine"]
    warmup_epochs: NonNegative = 0.0


class StepsConfig(Section):
    """The rate is multiplied by ``gamma`` at the start of each epoch of ``milestones``.

    Args:
        name: ``steps``.
        milestones: numbers of epochs done, rising, below ``epochs``.
        gamma: factor, between 0 and 1.
        warmup_epochs: epochs, or parts of one, over which the rate rises to the full one; at most the first
            milestone.
    """

    name: Literal["steps"]
    milestones: list[Count] = Field(min_length=1)
    gamma: Below1 = 0.1
    warmup_epochs: NonNegative = 0.0


class SumConfig(Section):
    """The cross entropy plus ``weight`` times the network's own losses: eq. 3.6 of Huang's thesis, its beta.

    Args:
        name: ``sum``.
        weight: of the network's own losses.
    """

    name: Literal["sum"]
    weight: Positive


class SeparateConfig(Section):
    """The projection alone on its own loss for some epochs, then frozen, and the rest alone on the cross entropy.

    Rate and warm-up go on over both as the schedule says, and whatever is not trained keeps its batch norms'
    statistics too.

    Args:
        name: ``separate``.
        epochs: of the projection, below those of the run.
    """

    name: Literal["separate"]
    epochs: Count


class ConstantConfig(Section):
    """``alpha`` of the projection's own loss, 1 - ``alpha`` of the cross entropy, for the projection's parameters.

    Args:
        name: ``constant``.
        alpha: 0 trains on the cross entropy alone, and logs the projection's loss.
    """

    name: Literal["constant"]
    alpha: UpTo1


class ScaleScheduleConfig(Section):
    """An alpha that falls from 1 to ``lam`` and then to 0, see :class:`~vidops.training.joint.ScaleSchedule`.

    Args:
        name: ``schedule``.
        gamma: share of the run's steps over which alpha falls to ``lam``.
        lam: the thesis' lambda.
    """

    name: Literal["schedule"]
    gamma: Below1
    lam: From0Below1


class MGDAConfig(Section):
    """The alpha of the multiple-gradient descent algorithm, at every step anew.

    Args:
        name: ``mgda``.
    """

    name: Literal["mgda"]


# Told apart by their key `name`.
OptimizerConfig = Annotated[SGDConfig | AdamWConfig, Field(discriminator="name")]
ScheduleConfig = Annotated[OneCycleConfig | CosineConfig | StepsConfig, Field(discriminator="name")]
JointConfig = Annotated[
    SumConfig | SeparateConfig | ConstantConfig | ScaleScheduleConfig | MGDAConfig,
    Field(discriminator="name"),
]
