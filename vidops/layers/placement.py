"""Puts layers over clips after blocks of a network that stands already, by the blocks' names."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from .fold_time import FoldTime
from .trial import run_once, shapes_behind, width_of

CHILD = "attention"  # of the block, in its state-dict keys
SHOWN = 12
COMPILED = "_orig_mod"
NO_CLIPS = (
    nn.Linear,
    nn.Bilinear,
    nn.Embedding,
    nn.Flatten,
)  # put out vectors, or channels where a clip has its width


class OnClips(nn.Module):
    """Shows a clip layer the activations ``(N, C, T, H, W)`` of a 3-D backbone; the counterpart of `FoldTime`.

    Args:
        layer: module from clips to clips.

    Returns:
        Calling it on a clip returns what the layer does.

    Raises:
        ValueError: the activations are none of a 3-D backbone.

    Example:
        >>> import torch, vidops
        >>> OnClips(vidops.layers.TemporalShift())(torch.rand(2, 16, 8, 7, 7)).shape
        torch.Size([2, 16, 8, 7, 7])
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to a clip ``(N, C, T, H, W)``."""
        if x.dim() != 5:
            raise ValueError(
                f"the layer was put behind a block of clips (N, C, T, H, W), but that puts out {tuple(x.shape)};"
                " activations (N*T, C, H, W) need num_segments"
            )
        return self.layer(x)


def insert_after(
    network: nn.Module,
    names: str | Sequence[str],
    layer: Callable[[int], nn.Module],
    *,
    num_segments: int | None = None,
    channels: int | None = None,
    example: Tensor | None = None,
) -> list[str]:
    """Put a layer over clips after blocks of a network, in place: what a block puts out goes through it.

    The network may be anybody's. Each block gets the layer as its child ``attention`` and runs it on what it puts out,
    by a forward hook; all other parameters stay the same objects under the same names. A layer that starts as the
    identity, as the attention layers of vidops do, leaves the network's results as they were, bit by bit. Insert before
    `torch.compile` or `torch.export`, and give the new parameters to the optimizer.

    Weights of the network as it was lack the layers' keys: load them before inserting, or with ``strict=False``. A hook
    runs where the block is called, ``block(x)``: behind code that calls ``block.forward(x)`` the layer is never run, in
    silence; an ``example`` finds that out. A module that is called several times, such as one ReLU of a whole residual
    block, has the layer each time. A network of 2-D convolutions has 4-D and 5-D weights then, which PyTorch's
    ``network.to(memory_format=...)`` refuses; `channels_last` takes both.

    Args:
        network: a network over clips (3-D convolutions) or over their frames ``(N*T, C, H, W)`` (2-D).
        names: of the blocks, as in ``network.named_modules()``; for an ``nn.Sequential`` its last module. A module
            that stands at several places has the layer at each.
        layer: makes a layer for a number of channels: a class such as `RegionNonLocal`, or what gives it further
            arguments, such as ``lambda c: AttentionChain(c, RegionNonLocal(c))``. Each block gets one of its own.
        num_segments: T, for blocks that put out frames ``(N*T, C, H, W)``; None where a network of vidops tells it
            itself, and for blocks that put out clips ``(N, C, T, H, W)``. It must be what the network is fed with: each
            T frames of a batch are taken for one clip, and 4 for 8 would make two clips of each without a word.
        channels: that the blocks put out; None where a network of vidops tells it, a block has an attribute
            ``out_channels``, or ``example`` is given.
        example: input of the network, which then runs before and after, without gradients and in evaluation mode, to
            tell the channels and to make sure that each layer is run and the network still runs.

    Returns:
        The names of the modules that now have a layer behind them, each the first of its module.

    Raises:
        TypeError: ``layer`` is a module, or nothing that a number of channels alone calls; another argument is of the
            wrong kind, or the network is compiled.
        ValueError: a name is unknown, given twice or already followed by a layer, a module cannot take one, or its
            channels or the layer's making are at fault, or ``example`` does not come to a block, or not through the
            network with the layers; the network is as it was.

    Example:
        >>> import torch, vidops
        >>> net = vidops.create_model("tiny_x3d", num_classes=5)
        >>> insert_after(net, "blocks.2.res_blocks.0", vidops.layers.GlobalContext)
        ['blocks.2.res_blocks.0']
    """
    return _insert(network, names, layer, _through, num_segments, channels, example)


def build_in(network: nn.Module, names: str | Sequence[str], layer: Callable[[int], nn.Module]) -> list[str]:
    """Put a layer after blocks as `insert_after` does, for good: it is the network's own to `remove_inserted`.

    Example:
        >>> import vidops
        >>> net = vidops.create_model("tiny_tsm")
        >>> build_in(net, "layer2.0", vidops.layers.GlobalContext), remove_inserted(net)
        (['layer2.0'], [])
    """
    return _insert(network, names, layer, _through_own)


def _insert(
    network: nn.Module,
    names: str | Sequence[str],
    layer: Callable[[int], nn.Module],
    hook: Callable[..., Any],
    num_segments: int | None = None,
    channels: int | None = None,
    example: Tensor | None = None,
) -> list[str]:
    _check_network(network)
    wanted = _names(names)
    _check_layer(layer)
    if not wanted:
        raise ValueError("names: none is given")
    places = [_place(network, name) for name in wanted]
    doubled = {place for place in places if places.count(place) > 1}
    if doubled:
        raise ValueError(f"names: {sorted(doubled)[0]} is given twice")
    shapes = {} if example is None else shapes_behind(network, places, example)
    made = []
    for place in places:
        width, segments = _facts(network, place, channels, num_segments)
        if place in shapes:
            width = width_of(shapes[place], place, segments)
            if channels not in (None, width):
                raise ValueError(f"channels: {place} puts out {width}, got {channels!r}")
        if width is None:
            raise ValueError(
                f"channels: it is not known how many {place} puts out; give channels, or an example of the network's"
                " input"
            )
        module = network.get_submodule(place)
        made.append((module, _made(layer, width, segments, module, network)))
    for module, new in made:
        module.add_module(CHILD, new)
        module.register_forward_hook(hook)
    if example is not None:
        _try(network, places, example)
    return places


def _try(network: nn.Module, places: list[str], example: Tensor) -> None:
    """Run a network with its new layers, and take these out again if it does not run any more."""
    try:
        run_once(network, example)
    except Exception as error:
        remove_inserted(network, places)
        raise ValueError(
            f"layer: with it behind {', '.join(places)} the network does not run: {error}"
        ) from error


def _made(
    layer: Callable[[int], nn.Module], width: int, segments: int | None, module: nn.Module, network: nn.Module
) -> nn.Module:
    """Make the layer behind a module, of its dtype, device and mode."""
    new = layer(width)
    if not isinstance(new, nn.Module):
        raise ValueError(f"layer must make modules, made {type(new).__name__}")
    new = OnClips(new) if segments is None else FoldTime(new, segments)
    like = next((p for p in [*module.parameters(), *network.parameters()] if p.is_floating_point()), None)
    if like is not None:
        new.to(device=like.device, dtype=like.dtype)
    return new.train(module.training)


def _names(names: Any) -> list[str]:
    wanted = list(names) if isinstance(names, Iterable) and not isinstance(names, str) else [names]
    for name in wanted:
        if not isinstance(name, str):
            raise TypeError(f"names must be a str or a list of them, got {type(name).__name__}")
    return wanted


def _check_network(network: Any) -> None:
    if not isinstance(network, nn.Module):
        raise TypeError(f"network must be an nn.Module, got {type(network).__name__}")
    if hasattr(network, COMPILED) or network._compiled_call_impl is not None:
        raise TypeError(
            f"network is compiled: insert before torch.compile (what was compiled is its {COMPILED}), then compile it"
        )


def _check_layer(layer: Any) -> None:
    """Refuse, before anything is made, what a number of channels alone cannot call."""
    wanted = "layer must be a class or function that makes a module for a number of channels"
    if isinstance(layer, nn.Module):
        kind = type(layer).__name__
        raise TypeError(
            f"{wanted}, got a module: give lambda channels: {kind}(...), for each block gets one of its own"
        )
    if not callable(layer):
        raise TypeError(f"{wanted}, got {layer!r}")
    try:
        signature = inspect.signature(layer)
    except (TypeError, ValueError):
        return  # what is not Python does not tell
    try:
        signature.bind(1)
    except TypeError as error:
        name = getattr(layer, "__name__", type(layer).__name__)
        raise TypeError(
            f"{wanted}, but {name} cannot be called with that alone ({error}); give its other arguments in a lambda:"
            f" lambda channels: {'Layer' if name == '<lambda>' else name}(channels, ...)"
        ) from None


def remove_inserted(network: nn.Module, names: str | Sequence[str] | None = None) -> list[str]:
    """Take out layers that `insert_after` put into a network, with their parameters; what it was built with stays.

    Args:
        network: the network, or a copy of it.
        names: what `insert_after` returned, or some of it; None for all.

    Returns:
        The names of the modules that had one.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: nothing was put behind a module of that name; the network is as it was.

    Example:
        >>> import torch, vidops
        >>> net = vidops.create_model("tiny_tsm")
        >>> _ = insert_after(net, ["layer2.0", "layer3.0"], vidops.layers.SqueezeExcite3d)
        >>> remove_inserted(net)
        ['layer2.0', 'layer3.0']
    """
    if not isinstance(network, nn.Module):
        raise TypeError(f"network must be an nn.Module, got {type(network).__name__}")
    found = {name: module for name, module in network.named_modules() if _is_followed(module, _through)}
    wanted = list(found) if names is None else _names(names)
    known = dict(network.named_modules(remove_duplicate=False))
    wanted = list(dict.fromkeys(_first_name(network, known[n]) if n in known else n for n in wanted))
    for name in wanted:
        if name not in found:
            own = name in known and _is_followed(known[name], _through_own)
            text = f"nothing was inserted after {name!r}" + (
                ", its layer is the network's own" if own else ""
            )
            there = f"there is one after {', '.join(found)}" if found else "nor after any other module"
            raise ValueError(f"names: {text}; {there}")
    for name in wanted:
        module = found[name]
        for key, hook in list(module._forward_hooks.items()):
            if hook is _through:
                del module._forward_hooks[key]
        delattr(module, CHILD)
    return wanted


def _through(module: nn.Module, inputs: Any, output: Any) -> Any:
    """Send what a block puts out through the layer behind it: the forward hook."""
    if not isinstance(output, Tensor):
        raise TypeError(
            f"the layer behind this {type(module).__name__} takes a Tensor, but the block puts out"
            f" {type(output).__name__}"
        )
    behind: Any = module.attention
    return behind(output)


def _through_own(module: nn.Module, inputs: Any, output: Any) -> Any:
    """Do the same where the layer is a part of the network as it was built; hooks tell the two apart in copies, too."""
    return _through(module, inputs, output)


def inserted_keys(network: nn.Module) -> tuple[str, ...]:
    """List the prefixes of the state-dict keys of layers behind blocks: inserted ones, and those built in."""
    names = network.named_modules(remove_duplicate=False)
    return tuple(f"{name}.{CHILD}." for name, module in names if _is_followed(module))


def _is_followed(module: nn.Module, *by: Callable[..., Any]) -> bool:
    hooks = by or (_through, _through_own)
    return any(hook in hooks for hook in module._forward_hooks.values())


def _first_name(network: nn.Module, module: nn.Module) -> str:
    """Find the first of the places at which a module stands."""
    return next(name for name, found in network.named_modules() if found is module)


def _place(network: nn.Module, name: str) -> str:
    """Find the module whose output is that of the module of a name, and make sure that a layer may follow it."""
    known = dict(network.named_modules(remove_duplicate=False))
    del known[""]
    if name not in known:
        plain = name.replace(f"{COMPILED}.", "")  # a compiled network's names have that
        close = [plain] if plain in known else difflib.get_close_matches(plain, known, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {_shown(network)}"
        raise ValueError(f"names: {type(network).__name__} has no module {name!r}; {hint}")
    if COMPILED in name.split("."):
        raise ValueError(f"names: {name} is inside a compiled module: insert before torch.compile")
    module = known[name]
    while type(module).forward is nn.Sequential.forward and len(module) > 0:
        last = list(module._modules)[-1]
        name, module = f"{name}.{last}", module._modules[last]
    if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        raise ValueError(
            f"names: {name} is a {type(module).__name__}, whose children are what it runs; name the last one"
        )
    if isinstance(module, NO_CLIPS):
        raise ValueError(
            f"names: {name} is a {type(module).__name__}, which puts out no clips (N, C, T, H, W) or frames (N*T, C, H,"
            " W)"
        )
    if hasattr(module, CHILD):
        what = "a layer behind it" if _is_followed(module) else f"its own {CHILD!r}"
        raise ValueError(f"names: {name} has {what} already")
    return _first_name(network, module)


def _shown(network: nn.Module) -> str:
    """Name some of a network's modules: its residual blocks, or those that hold others."""
    backbone: Any = network
    if hasattr(network, "residual_blocks"):
        names = [block.name for block in backbone.residual_blocks()]
    else:
        names = [
            name for name, module in network.named_modules() if name and any(True for _ in module.children())
        ]
        names = names or [name for name, _ in network.named_modules() if name]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _facts(
    network: nn.Module, place: str, channels: int | None, num_segments: int | None
) -> tuple[int | None, int | None]:
    """Look up the channels and frames of what a module puts out: as given, or as the backbone around it tells."""
    parts = place.split(".")
    for depth in range(len(parts)):  # a pathway of a network is a backbone, too
        around: Any = network.get_submodule(".".join(parts[:depth]))
        if not hasattr(around, "residual_blocks"):
            continue
        if num_segments is None and getattr(around, "folded", False):
            num_segments = around.num_segments
        if channels is None:
            inside = ".".join(parts[depth:])  # a block, or a stage of them
            widths = [b.width for b in around.residual_blocks() if f"{b.name}.".startswith(f"{inside}.")]
            channels = widths[-1] if widths else None
        break
    if channels is None:
        own = getattr(network.get_submodule(place), "out_channels", None)
        channels = own if isinstance(own, int) else None
    return channels, num_segments
