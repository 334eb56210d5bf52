"""What a network gives one of its modules."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def inputs_of(module: nn.Module, net: nn.Module, clips: Tensor) -> list[Tensor]:
    """Run a network without gradients and keep what one of its modules is given.

    Args:
        module: of the network.
        net: from clips to anything.
        clips: what it is run on.

    Returns:
        Copies of the module's first argument, one for each time that it ran.

    Example:
        >>> net = nn.Sequential(nn.ReLU(), nn.Flatten())
        >>> inputs_of(net[1], net, torch.tensor([[-1.0, 2.0]]))
        [tensor([[0., 2.]])]
    """
    given: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].clone()))
    try:
        with torch.no_grad():
            net(clips)
    finally:
        handle.remove()
    return given
