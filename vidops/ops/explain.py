"""explain: who can run a call, who cannot, and why."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from .backends import OPERATORS, Operator, ask, forced
from .checks import check_clip

__all__ = ["REMARKS", "explain"]

# What else is to be said of a call: from the backend that is chosen, whether nobody asked for one, and
# the arguments by name.
Remark = Callable[[str, bool, Mapping[str, Any]], str]
REMARKS: dict[str, Remark] = {}
PLAIN = "plain PyTorch on every device, no backend is chosen"


def explain(operator: str | Callable[..., Any], *args: Any, **keywords: Any) -> str:
    """Say, for every backend, whether it could run a call of an operator, and which would be chosen; run nothing.

    Args:
        operator: a function of `vidops.ops`, or its name, for example ``"temporal_conv"``.
        *args: its arguments. With the first one alone, a clip, the answer is what that clip tells.
        **keywords: its arguments by name, ``backend`` too.

    Returns:
        A table as text, one line a backend.

    Raises:
        TypeError: as the operator raises it, or an argument has another name than its.
        ValueError: as the operator raises it, or there is none of that name.

    Example:
        >>> import torch, vidops
        >>> print(vidops.explain("temporal_shift", torch.randn(1, 8, 4, 7, 7), fold_div=4))  # doctest: +ELLIPSIS
        temporal_shift on cpu...
    """
    known = functions()
    operator = next((name for name, function in known.items() if function is operator), operator)
    if not isinstance(operator, str) or operator not in known:
        close = difflib.get_close_matches(str(operator), known, n=1)
        meant = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"operator must be one of {', '.join(sorted(known))}, got {operator!r}{meant}")
    given, missing = _bound(operator, known[operator], args, keywords)
    requested = keywords.get("backend")
    if missing:
        first, clip = next(iter(given.items()))
        if isinstance(clip, (list, tuple)) and clip:
            first, clip = f"{first}[0]", clip[0]
        check_clip(clip, first)
        answer = (OPERATORS[operator], clip.device.type, (clip,)) if operator in OPERATORS else None
        if answer is None:
            raise TypeError(f"{operator} needs {', '.join(missing)}, too")
    else:
        call = {name: value for name, value in given.items() if name != "backend"}
        answer = ask(lambda: known[operator](**call))
    if answer is None:
        device = next((value.device.type for value in given.values() if isinstance(value, Tensor)), "cpu")
        return f"{operator} on {device}: {PLAIN}"
    return _table(operator, answer, requested, given, missing)


def functions() -> dict[str, Callable[..., Any]]:
    """The public functions of `vidops.ops` that run on clips, by name."""
    module = importlib.import_module(__package__)
    found = {name: getattr(module, name) for name in module.__all__}
    names = {*OPERATORS, "attention_map", "region_aggregate", "region_attention"}
    return {name: function for name, function in found.items() if name in names}


def _bound(
    operator: str, function: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The arguments by name, and the names of those that lack."""
    signature = inspect.signature(function)
    try:
        bound = signature.bind_partial(*args, **keywords)
    except TypeError as error:
        raise TypeError(f"{operator}: {error}; it takes {', '.join(signature.parameters)}") from None
    required = [name for name, p in signature.parameters.items() if p.default is p.empty]
    missing = [name for name in required if name not in bound.arguments]
    if required[0] in missing:
        raise TypeError(f"{operator}: {required[0]} is missing; give explain what a call would be given")
    bound.apply_defaults()
    given = {name: value for name, value in bound.arguments.items() if name not in missing}
    return given, missing


def _table(
    asked: str,
    answer: tuple[Operator, str, tuple[Any, ...]],
    requested: str | None,
    given: dict[str, Any],
    missing: list[str],
) -> str:
    operator, device, args = answer
    by = f", by {operator.name}" if operator.name != asked else ""
    head = f"{asked} on {device}{by}: "
    chosen = ""
    try:
        chosen = operator.choose(requested, device, *args)
        head += f"backend {chosen!r} is chosen"
    except (ValueError, RuntimeError) as error:
        head += str(error)
    if requested is None and forced():
        head += f" (by {forced()})"
    lines = [head]
    for name in operator.missing:
        reason = operator.why_not(name, device, *args)
        lines.append(
            f"  {name:<10} {'no: ' + reason if reason else 'yes'}{'  <- chosen' if name == chosen else ''}"
        )
    if device in operator.ordered_by:
        order = ", ".join(operator.order(device))
        lines.append(f"  tried in the order measured on {operator.ordered_by[device]}: {order}")
    if missing:
        lines.append(f"  as far as {next(iter(given))} tells, without {', '.join(missing)}")
    elif chosen and asked in REMARKS:
        remark = REMARKS[asked](chosen, operator.automatic(requested), given)
        lines += [f"  {remark}"] if remark else []
    return "\n".join(lines)
