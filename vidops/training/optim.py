"""A recipe's optimizer, parameter groups, schedule and frozen batch norms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from .config import Config
from .sections import CosineConfig, OneCycleConfig, SGDConfig, StepsConfig

# Batch and instance norms are both _NormBase.
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def frozen_norms(net: nn.Module, which: str) -> list[nn.Module]:
    """List the batch norms that are to keep their statistics, weight and bias.

    Args:
        net: the network.
        which: ``none``, ``all``, or ``all_but_first``, the first in the order in which the network was built; of a
            network of several ``pathways`` the first of each, since each has an input of its own.

    Returns:
        The batch norms.

    Raises:
        ValueError: some are to be frozen and the network has none.

    Source: Wang et al., Temporal Segment Networks, "Partial BN": all but the first.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(4))
        >>> [len(frozen_norms(net, which)) for which in ("none", "all", "all_but_first")]
        [0, 3, 2]
    """
    norms: list[nn.Module] = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    if which == "none":
        return []
    if not norms:
        raise ValueError(f"freeze_norms: is {which}, but {type(net).__name__} has no batch norm")
    if which == "all":
        return norms
    parts = [net.get_submodule(name) for name in getattr(net, "pathways", ())] or [net]
    first = {next((m for m in part.modules() if isinstance(m, _BatchNorm)), None) for part in parts}
    return [norm for norm in norms if norm not in first]


def zero_norms(net: nn.Module, norms: Iterable[nn.Module]) -> list[str]:
    """List the batch norms that put out nothing but their bias, having weight zero.

    Args:
        net: the network.
        norms: of its batch norms those in question.

    Returns:
        Their names in the network.

    Example:
        >>> net = nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4))
        >>> _ = nn.init.zeros_(net[1].weight)
        >>> zero_norms(net, net)
        ['1']
    """
    asked = set(norms)
    return [
        name
        for name, norm in net.named_modules()
        if norm in asked
        and isinstance(norm, _BatchNorm)
        and norm.weight is not None
        and not norm.weight.any()
    ]


def parameter_kinds(net: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Sort a network's trained parameters by kind, see :class:`~vidops.training.sections.GroupsConfig`.

    Args:
        net: the network; ``net.classifier_name`` names its last layer, if it has the attribute;
            ``net.classifier_names`` several.

    Returns:
        The parameters of each kind that there is; together every one that requires a gradient, once.

    Example:
        >>> from vidops.models import create_model
        >>> kinds = parameter_kinds(create_model("tiny_tsn", num_classes=4))
        >>> {kind: len(parameters) for kind, parameters in kinds.items()}
        {'first_conv_weight': 1, 'norm': 26, 'weight': 12, 'classifier_weight': 1, 'classifier_bias': 1}
    """
    kinds: dict[str, list[nn.Parameter]] = {}
    for kind, parameter in _with_kind(net):
        if parameter.requires_grad:
            kinds.setdefault(kind, []).append(parameter)
    return kinds


def _with_kind(net: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    classifier = getattr(net, "classifier_name", None)
    names = getattr(net, "classifier_names", (classifier,) if isinstance(classifier, str) else ())
    first = next((path for path, module in net.named_modules() if isinstance(module, CONVOLUTIONS)), None)
    seen: set[int] = set()
    for path, module in net.named_modules():
        last = any(path == name or path.startswith(f"{name}.") for name in names)
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            kind = "bias" if "bias" in name else "weight"
            if path == first and not last:
                kind = f"first_conv_{kind}"
            yield ("norm" if isinstance(module, NORMS) else f"classifier_{kind}" if last else kind), parameter


def scaled_rate(config: Config) -> float:
    """Compute the learning rate at the top of the schedule, of a group with multiplier 1.

    Args:
        config: the recipe.

    Returns:
        ``optimizer.lr``, scaled with the batch if the recipe gives ``optimizer.lr_batch``.
    """
    section = config.optimizer
    if section.lr_batch is None:
        return section.lr
    return section.lr * config.data.batch_size * config.accumulate / section.lr_batch


def build_optimizer(config: Config, net: nn.Module) -> Optimizer:
    """Build a recipe's optimizer.

    Args:
        config: the recipe.
        net: the network.

    Returns:
        The optimizer over all parameters that require a gradient; kinds with the same multipliers share a
        group.

    Raises:
        ValueError: the recipe has multipliers for a classifier that the network does not name.
    """
    section = config.optimizer
    if not isinstance(getattr(net, "classifier_name", None), str):
        for kind in ("classifier_weight", "classifier_bias"):
            if kind in section.groups.model_fields_set:
                raise ValueError(
                    f"optimizer.groups.{kind}: {type(net).__name__} does not name its classifier"
                )
    rate = scaled_rate(config)
    shared: dict[tuple[float, float], dict[str, Any]] = {}
    kinds = parameter_kinds(net)
    for kind, usual in (("first_conv_weight", "weight"), ("first_conv_bias", "bias")):
        if getattr(section.groups, kind) is None and kind in kinds:
            kinds = {usual: [*kinds.pop(kind), *kinds.pop(usual, [])], **kinds}
    for kind, parameters in kinds.items():
        by = getattr(section.groups, kind)
        group = {"lr": rate * by.lr, "weight_decay": section.weight_decay * by.decay, "params": []}
        shared.setdefault((by.lr, by.decay), group)["params"].extend(parameters)
    groups = list(shared.values())
    if isinstance(section, SGDConfig):
        return SGD(groups, lr=rate, momentum=section.momentum, nesterov=section.nesterov)
    return AdamW(groups, lr=rate)


def build_schedule(config: Config, optimizer: Optimizer, steps_per_epoch: int) -> LRScheduler:
    """Build a recipe's schedule, to be stepped after every optimizer step.

    Args:
        config: the recipe.
        optimizer: its optimizer.
        steps_per_epoch: optimizer steps an epoch.

    Returns:
        The scheduler; groups keep the ratio of their rates. A one-cycle warm-up of one step has the full rate
        at once.
    """
    schedule, total = config.schedule, config.epochs * steps_per_epoch
    if isinstance(schedule, OneCycleConfig):
        rates = [group["lr"] for group in optimizer.param_groups]
        rise = schedule.warmup
        if rise * total == 1:  # the rise would end at step 0, where it begins, and OneCycleLR divides by 0
            rise *= 1 - 1e-9
        return OneCycleLR(optimizer, rates, total, pct_start=rise, cycle_momentum=False)
    return LambdaLR(optimizer, lambda step: rate_factor(schedule, step, total, steps_per_epoch))


def rate_factor(schedule: CosineConfig | StepsConfig, step: int, total: int, steps_per_epoch: int) -> float:
    """Compute what the full rate is multiplied with at a step.

    With w steps of warm-up, step s < w has (s + 1) / (w + 1). After it, the cosine has
    (1 + cos(pi (s - w) / (total - w))) / 2, steps gamma to the power of the milestones reached.

    Args:
        schedule: cosine or steps.
        step: optimizer steps done, from 0.
        total: steps of the run.
        steps_per_epoch: optimizer steps an epoch.

    Returns:
        The factor, from 0 to 1.

    Example:
        >>> cosine = CosineConfig(name="cosine", warmup_epochs=1)
        >>> [round(rate_factor(cosine, step, 9, 3), 3) for step in range(9)]
        [0.25, 0.5, 0.75, 1.0, 0.933, 0.75, 0.5, 0.25, 0.067]
    """
    warm = round(schedule.warmup_epochs * steps_per_epoch)
    if step < warm:
        return (step + 1) / (warm + 1)
    if isinstance(schedule, CosineConfig):
        return (1 + math.cos(math.pi * (step - warm) / max(1, total - warm))) / 2
    return schedule.gamma ** sum(step >= milestone * steps_per_epoch for milestone in schedule.milestones)
