"""Weights in channels-last memory where a network has 2-D and 3-D convolutions."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
Network = TypeVar("Network", bound=nn.Module)


def channels_last(network: Network) -> Network:
    """Lay a network's parameters and buffers out with channels last, in place, each as its rank has it.

    PyTorch's ``network.to(memory_format=...)`` asks one format of all weights and raises on a network that has 4-D and
    5-D ones, as a 2-D network has behind `insert_after`. The networks of vidops take either format there and do this.

    Args:
        network: any module.

    Returns:
        The module itself.

    Raises:
        TypeError: it is no module.

    Example:
        >>> net = channels_last(nn.ModuleList([nn.Conv2d(8, 8, 3), nn.Conv3d(8, 8, 3)]))
        >>> [conv.weight.stride()[1] for conv in net]
        [1, 1]
    """
    if not isinstance(network, nn.Module):
        raise TypeError(f"network must be an nn.Module, got {type(network).__name__}")
    for tensor in [*network.parameters(), *network.buffers()]:
        for values in (tensor, tensor.grad):
            if values is not None and values.dim() in FORMATS:
                values.data = values.data.contiguous(memory_format=FORMATS[values.dim()])
    return network


class AnyRank(nn.Module):
    """A network whose ``to(memory_format=torch.channels_last)``, or ``_3d``, lays out weights of either rank.

    Example:
        >>> class Both(AnyRank):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.frames, self.clips = nn.Conv2d(8, 8, 3), nn.Conv3d(8, 8, 3)
        >>> Both().to(memory_format=torch.channels_last).clips.weight.stride()[1]
        1
    """

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move or convert the network as ``nn.Module.to`` does, each weight into the format of its rank."""
        if kwargs.get("memory_format") not in FORMATS.values():
            return super().to(*args, **kwargs)
        rest = {name: value for name, value in kwargs.items() if name != "memory_format"}
        return channels_last(super().to(*args, **rest) if args or rest else self)
