"""What no batch may hold: broken videos where all are needed, numbers that are none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vidops.data import VideoError


class NonFiniteLossError(RuntimeError):
    """A loss or a network's output is not finite; the text names the files of the batch."""


def check_finite(logits: Tensor, paths: Sequence[str]) -> None:
    """Raise if a network gave a video a logit that is no number.

    Args:
        logits: (N, K).
        paths: the N videos.

    Raises:
        NonFiniteLossError: names the videos.

    Example:
        >>> check_finite(torch.tensor([[0.0], [float("nan")]]), ["a.mp4", "b.mp4"])
        Traceback (most recent call last):
        vidops.training.checks.NonFiniteLossError: the network's output is not finite for: b.mp4
    """
    finite = torch.isfinite(logits).all(1)
    if not finite.all():
        bad = [path for path, fine in zip(paths, finite.tolist(), strict=True) if not fine]
        raise NonFiniteLossError(f"the network's output is not finite for: {', '.join(bad)}")


def refuse_non_finite(net: nn.Module, where: str) -> None:
    """Raise if a weight is no number.

    Args:
        net: the network.
        where: it was found, for the text.

    Raises:
        NonFiniteLossError: names the first such parameter.

    Example:
        >>> net = nn.Linear(1, 1)
        >>> _ = net.bias.data.fill_(float("inf"))
        >>> refuse_non_finite(net, "epoch 2, batch 3")
        Traceback (most recent call last):
        vidops.training.checks.NonFiniteLossError: the weights are not finite after epoch 2, batch 3: bias
    """
    for name, parameter in net.named_parameters():
        if not torch.isfinite(parameter).all():
            raise NonFiniteLossError(f"the weights are not finite after {where}: {name}")


def refuse_broken(batch: dict[str, Any]) -> None:
    """Raise if a video of a batch could not be read.

    Args:
        batch: with ``broken``, a list of (index, reason).

    Raises:
        VideoError: names the first broken file.

    Example:
        >>> refuse_broken({"broken": [(3, "a.mp4: cut short")]})
        Traceback (most recent call last):
        vidops.data.video.VideoError: a.mp4: cut short
    """
    if batch["broken"]:
        raise VideoError(batch["broken"][0][1])
