"""The registry of models: a decorated function is a model."""

from __future__ import annotations

import difflib
import fnmatch
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from .cards import ModelCard

F = TypeVar("F", bound=Callable[..., nn.Module])

_cards: dict[str, ModelCard] = {}


def register_model(network: type[nn.Module], **card: Any) -> Callable[[F], F]:
    """Register the decorated function as the model of its name.

    The function takes ``num_classes`` and ``num_segments`` with their defaults, ``backend`` and the network's
    options, and returns the network.

    Args:
        network: class that the function builds. The keyword-only arguments of its initialiser, and of those
            it passes further keywords on to, are the model's options; the last of that chain is the backbone,
            whose arguments the function fixes.
        card: fields of `ModelCard` other than name, function, options and default classes.

    Returns:
        The decorator, which leaves the function as it is.

    Raises:
        ValueError: the name is taken, or the function's default num_segments is not the card's.

    Example:
        >>> list_models("tsn_res*")
        ['tsn_resnet101', 'tsn_resnet50']
    """

    def register(function: F) -> F:
        name = function.__name__
        if name in _cards:
            raise ValueError(f"a model named {name!r} is registered already")
        defaults = {p.name: p.default for p in inspect.signature(function).parameters.values()}
        made = ModelCard(
            name=name,
            build=function,
            options=options_of(network),
            num_classes=defaults["num_classes"],
            **card,
        )
        if made.num_segments != defaults["num_segments"]:
            raise ValueError(
                f"{name}: num_segments defaults to {defaults['num_segments']},"
                f" its card's input_size has {made.num_segments}"
            )
        _cards[name] = made
        return function

    return register


def options_of(network: type[nn.Module]) -> tuple[str, ...]:
    """Name the options of a network class, see `register_model`."""
    names: dict[str, None] = {}
    for base in network.__mro__:
        parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break
        names.update((p.name, None) for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "backend")
    return tuple(names)


def list_models(pattern: str = "*") -> list[str]:
    """List the names of the registered models, sorted.

    Args:
        pattern: shell-style wildcard.

    Returns:
        The names that match it; an empty list when none does.

    Example:
        >>> list_models("x3d_*")
        ['x3d_l', 'x3d_m', 'x3d_s', 'x3d_xs']
    """
    return sorted(fnmatch.filter(_cards, pattern))


def is_model(name: str) -> bool:
    """Tell whether a model of that name is registered.

    Args:
        name: registry name.

    Returns:
        True if `create_model` knows it.

    Example:
        >>> is_model("mstnet_resnet50"), is_model("resnet50")
        (True, False)
    """
    return name in _cards


def model_card(name: str) -> ModelCard:
    """Look up what is known of a model.

    Args:
        name: registry name.

    Returns:
        Its card.

    Raises:
        ValueError: no model has that name; the text holds the closest ones.

    Example:
        >>> model_card("mstnet_resnet50").input_size
        (3, 8, 224, 224)
    """
    if name not in _cards:
        raise ValueError(f"no model is named {name!r}; {hint(name)}")
    return _cards[name]


def hint(name: str) -> str:
    """Say which models somebody may have meant who wrote another name.

    Args:
        name: what was written; wildcards in it count for nothing.

    Returns:
        The family of that name or up to three names that look like it, else all.

    Example:
        >>> hint("x3d")
        'did you mean x3d_l or x3d_m or x3d_s?'
    """
    name = name.strip("*")
    family = sorted(known for known in _cards if known.startswith(f"{name}_"))
    close = family[:3] or difflib.get_close_matches(name, _cards, n=3)
    return f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(sorted(_cards))}"


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    num_segments: int | None = None,
    backend: str | None = None,
    **options: Any,
) -> nn.Module:
    """Build a network, with weights at their initial values.

    Args:
        name: registry name, see `list_models`.
        num_classes: classes of the head; None for the card's.
        num_segments: segments a clip; None for the card's.
        backend: backend of every operator inside; None leaves the choice to vidops.
        options: the model's own, `ModelCard.options`, explained at the network's class.

    Returns:
        A network from normalised clips ``(N, 3, T, H, W)`` to logits ``(N, num_classes)``. One with losses of its own
        (TeSNet, DAN) returns ``(logits, {name: loss})`` when called with ``return_losses=True``. One of actors
        (`ModelCard.detects`) takes their boxes ``(R, 5)`` too, the clip's index and x1, y1, x2, y2 in pixels of the
        clip, and returns logits ``(R, num_classes)``.

    Raises:
        ValueError: no model has that name, or an argument is out of range.
        TypeError: the model has no such option, or a number is no int.

    Example:
        >>> type(create_model("tiny_mstnet", num_classes=4)).__name__
        'MSTNet'
    """
    card = model_card(name)
    for option in options:
        if option not in card.options:
            raise TypeError(f"{name} has no option {option!r}; its options are {', '.join(card.options)}")
    num_classes = card.num_classes if num_classes is None else num_classes
    num_segments = card.num_segments if num_segments is None else num_segments
    for argument, number in (("num_classes", num_classes), ("num_segments", num_segments)):
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"{argument} must be an int, got {type(number).__name__}")
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    if num_segments < 1:
        raise ValueError(f"num_segments must be at least 1, got {num_segments}")
    return card.build(num_classes=num_classes, num_segments=num_segments, backend=backend, **options)
