"""Runs a network on an example input, to learn what its modules put out and whether it runs at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def shapes_behind(network: nn.Module, places: list[str], example: Tensor) -> dict[str, Sequence[int]]:
    """Run a network once to see the shapes of what modules put out.

    Args:
        network: any.
        places: names of its modules.
        example: what it takes.

    Returns:
        The shape by name; of several calls that of the first, and () where it is no tensor.

    Raises:
        ValueError: a module is not called, or several times with other channels.

    Example:
        >>> import torch
        >>> shapes_behind(nn.Sequential(nn.Linear(4, 3)), ["0"], torch.rand(2, 4))
        {'0': (2, 3)}
    """
    found: dict[str, Sequence[int]] = {}

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            shape = tuple(output.shape) if isinstance(output, Tensor) else ()
            if shape[1:2] != found.setdefault(name, shape)[1:2]:
                raise ValueError(
                    f"names: {name} is called several times and puts out other channels: {found[name]}, then {shape}"
                )

        return keep

    handles = [network.get_submodule(name).register_forward_hook(watch(name)) for name in places]
    try:
        run_once(network, example)
    finally:
        for handle in handles:
            handle.remove()
    missing = [name for name in places if name not in found]
    if missing:
        raise ValueError(
            f"example: the network did not call {missing[0]}: it does not run it, or runs its forward itself, past"
            " the hook that a layer behind it needs"
        )
    return found


def run_once(network: nn.Module, example: Tensor) -> None:
    """Run a network in evaluation mode and without gradients, and leave the mode of each module as it was.

    Example:
        >>> import torch
        >>> run_once(nn.Linear(4, 3), torch.rand(2, 4))
    """
    modes = {module: module.training for module in network.modules()}
    try:
        network.eval()
        with torch.no_grad():
            network(example)
    finally:
        for module, training in modes.items():
            module.training = training


def width_of(shape: Sequence[int], place: str, num_segments: int | None) -> int:
    """Read the channels off a shape; raise unless it is that of clips or, of so many segments, of frames.

    Example:
        >>> width_of((2, 16, 8, 7, 7), "layer2", None)
        16
    """
    if len(shape) != (5 if num_segments is None else 4):
        wanted = (
            "clips (N, C, T, H, W); frames (N*T, C, H, W) need num_segments"
            if num_segments is None
            else "frames (N*T, C, H, W); clips need num_segments=None"
        )
        raise ValueError(f"names: {place} puts out {tuple(shape) or 'no Tensor'}, not {wanted}")
    return shape[1]
