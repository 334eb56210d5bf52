"""What values are in use: chosen and applied once, when CUDA starts."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..ops.backends import BACKENDS, OPERATORS
from . import native
from .file import Tuning, choose, read_tuning
from .knob import KNOBS, adopt

__all__ = ["VARIABLE", "State", "apply", "arrange", "state", "withdraw"]

VARIABLE = "VIDOPS_TUNING"

_log = logging.getLogger("vidops")


@dataclass
class State:
    """What is in use.

    Attributes:
        text: in words, for ``vidops info``.
        tuning: whose values; None for the built-in ones.
        told: what of it could not be taken, a sentence each.
    """

    text: str
    tuning: Tuning | None = None
    told: list[str] = field(default_factory=list)


_NO_GPU = "built-in values: no GPU is in use"
_state = State(_NO_GPU)
_told: list[str] = []  # whatever is in use


def state() -> State:
    """What is in use.

    Example:
        >>> state().text.startswith("built-in values") or state().tuning is not None
        True
    """
    return _state


def take_native() -> None:
    """Take up the knobs of the CUDA library, where it is loaded; one without knobs is told, and can be used."""
    try:
        adopt(native)
    except AttributeError as error:  # it lacks the functions
        _told.append(
            f"the CUDA library has no knobs ({error}); it is older than the Python code: reinstall vidops"
        )
        _state.told += _told


def arrange(environ: Mapping[str, str] = os.environ) -> None:
    """Have values applied when CUDA starts; read the file that ``VIDOPS_TUNING`` names at once.

    Raises:
        ValueError: that file cannot be read or used.

    Example:
        >>> arrange({"VIDOPS_TUNING": "none"})
    """
    wanted = environ.get(VARIABLE, "")
    if wanted == "none":
        _state.text = f"built-in values: {VARIABLE}=none"
        return
    named = None
    if wanted:
        try:
            named = read_tuning(wanted)
        except ValueError as error:
            raise ValueError(f"{VARIABLE}: {error}") from None
        _state.text = f"built-in values: no GPU is in use, on which {wanted} would be"
    if torch.version.cuda is not None:  # without it CUDA never starts
        # As torch checks the GPUs' capabilities itself: they can be asked for their properties in there.
        torch.cuda._lazy_call(lambda: start(named))


def start(named: Tuning | None) -> None:
    """Choose and apply values for the current GPU: those of a file that was named, or shipped ones.

    Raises:
        ValueError: the file that was named was measured on a GPU of another compute capability.
    """
    gpu = torch.cuda.get_device_properties(torch.cuda.current_device())
    capability = f"{gpu.major}.{gpu.minor}"
    tuning = choose([named] if named else shipped(), gpu.name, capability)
    if tuning is not None:
        apply(tuning)
    elif named is not None:
        measured = f"{named.machine['gpu']}, compute capability {named.machine['capability']}"
        raise ValueError(
            f"{VARIABLE}: {named.path} was measured on {measured}, and this is {gpu.name}, {capability}"
        )
    else:
        _state.text = f"built-in values: no measurement of {gpu.name} is shipped"


def shipped() -> list[Tuning]:
    """The measurements that vidops comes with.

    Example:
        >>> all(tuning.machine["gpu"] for tuning in shipped())
        True
    """
    return [read_tuning(path) for path in sorted(Path(__file__).parent.glob("*.json"))]


def apply(tuning: Tuning) -> State:
    """Give knobs and operators what was measured; what there is no more is told, not an error.

    Args:
        tuning: of a file. That it was measured on this kind of GPU is for the caller to know.

    Returns:
        What is in use now.

    Example:
        >>> apply(Tuning("2026-01-01", {"gpu": "A GPU", "capability": "9.0"}, {}, {})).text
        'values measured on A GPU, 2026-01-01: 0 values, 0 orders of backends'
        >>> withdraw()
    """
    told = list(_told)
    taken = 0
    for key, value in tuning.values.items():
        backend = key.split("/")[1] if key.count("/") == 2 else ""
        if key not in KNOBS and backend in BACKENDS and BACKENDS[backend].missing:
            continue  # there are no kernels to have a knob
        try:
            KNOBS[key].set(value)
            taken += 1
        except KeyError:
            told.append(f"there is no knob {key}")
        except ValueError as error:
            told.append(str(error))
    ordered = 0
    for name, order in tuning.orders.items():
        try:
            OPERATORS[name].prefer("cuda", order, by=str(tuning.machine["gpu"]))
            ordered += 1
        except KeyError:
            told.append(f"there is no operator {name}")
        except ValueError as error:
            told.append(str(error))
    where = f" ({tuning.path})" if tuning.path else ""
    _state.text = (
        f"values measured on {tuning.machine['gpu']}, {tuning.date[:10]}{where}: {taken} values, {ordered} orders of"
        " backends"
    )
    _state.tuning, _state.told = tuning, told
    for line in told[len(_told) :]:
        _log.warning("tuning%s: %s; the built-in value stays", where, line)
    return _state


def withdraw() -> None:
    """Go back to the built-in values.

    Example:
        >>> withdraw()
        >>> state().tuning is None
        True
    """
    for knob in KNOBS.values():
        knob.set(knob.default)
    for operator in OPERATORS.values():
        operator.prefer("cuda", None)
    _state.text, _state.tuning, _state.told = _NO_GPU, None, list(_told)
