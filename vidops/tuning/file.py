"""Files of measured values: what ``vidops tune`` writes and a process with a GPU reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from .._files import write_text
from .knob import Value

__all__ = ["FORMAT", "MACHINE", "Tuning", "choose", "read_tuning", "write_tuning"]

FORMAT = 1
_KIND = "vidops tuning"
# What a file says of its machine; text, or null where it could not be found out.
MACHINE = ("gpu", "capability", "driver", "cuda", "torch", "triton", "python", "vidops", "revision")


@dataclass(frozen=True)
class Tuning:
    """Measured values, and what they were measured on.

    Attributes:
        date: when, as ISO 8601 writes it.
        machine: GPU name, compute capability (``"9.0"``), and versions: :data:`MACHINE`.
        values: of knobs, by key.
        orders: of backends that a tensor on a GPU tries, by operator.
        measured: what was timed, for who wants to know why.
        not_reached: what the time limit left out, in words.
        rehearsal: the machinery ran without a GPU; its figures mean nothing and are never used.
        path: the file that it was read from.
    """

    date: str
    machine: Mapping[str, str | None]
    values: Mapping[str, Value]
    orders: Mapping[str, Sequence[str]]
    measured: Sequence[Mapping[str, Any]] = ()
    not_reached: Sequence[str] = ()
    rehearsal: bool = False
    path: Path | None = field(default=None, compare=False)


def write_tuning(path: str | Path, tuning: Tuning) -> None:
    """Write a file, whole or not at all.

    Args:
        path: where to.
        tuning: what to write.

    Raises:
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> machine = dict.fromkeys(MACHINE) | {"gpu": "A GPU", "capability": "9.0"}
        >>> tuning = Tuning("2026-01-01", machine, {"temporal_conv/triton/run": 64}, {})
        >>> path = Path(tempfile.mkdtemp()) / "a_gpu.json"
        >>> write_tuning(path, tuning)
        >>> read_tuning(path) == tuning
        True
    """
    content = {"kind": _KIND, "format": FORMAT} | {k: v for k, v in asdict(tuning).items() if k != "path"}
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_tuning(path: str | Path, *, rehearsal: bool = False) -> Tuning:
    """Read a file that :func:`write_tuning` wrote.

    Args:
        path: the file.
        rehearsal: whether that of a rehearsal will do.

    Returns:
        What it holds.

    Raises:
        ValueError: it cannot be read, is no file of measured values, of another format, or of a rehearsal.

    Example:
        >>> read_tuning("/nowhere.json")
        Traceback (most recent call last):
        ValueError: /nowhere.json cannot be read: No such file or directory
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # no JSON, or no UTF-8
        raise ValueError(f"{path} is damaged or no JSON: {error}") from None
    if not isinstance(content, dict) or content.get("kind") != _KIND:
        raise ValueError(f"{path} holds no measured values; `vidops tune` writes files that do")
    if content.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {content.get('format')!r}, this vidops reads {FORMAT}; measure anew"
        )
    names = [f.name for f in fields(Tuning) if f.name != "path"]
    if missing := [name for name in names if name not in content]:
        raise ValueError(f"{path} is damaged: it has no {', '.join(missing)}")
    tuning = Tuning(**{name: content[name] for name in names}, path=path)
    if wrong := _damage(tuning):
        raise ValueError(f"{path} is damaged: {wrong}")
    if tuning.rehearsal and not rehearsal:
        raise ValueError(f"{path} is of a rehearsal, whose figures mean nothing; it cannot be used")
    orders = {name: tuple(order) for name, order in tuning.orders.items()}
    return replace(
        tuning, orders=orders, measured=tuple(tuning.measured), not_reached=tuple(tuning.not_reached)
    )


def _damage(tuning: Tuning) -> str:
    """What is wrong with a file's fields, or nothing."""
    machine, values, orders = tuning.machine, tuning.values, tuning.orders
    if not isinstance(machine, dict) or not all(isinstance(v, (str, type(None))) for v in machine.values()):
        return "machine is no table of texts"
    if missing := [name for name in MACHINE if name not in machine]:
        return f"machine has no {', '.join(missing)}"
    if not isinstance(values, dict) or not all(type(v) in (int, str) for v in values.values()):
        return "values is no table of whole numbers and texts"
    if not isinstance(orders, dict) or not all(
        isinstance(order, list) and order and all(isinstance(name, str) for name in order)
        for order in orders.values()
    ):
        return "orders is no table of lists of backends"
    if not isinstance(tuning.measured, list) or not isinstance(tuning.not_reached, list):
        return "measured or not_reached is no list"
    if not isinstance(tuning.rehearsal, bool) or not isinstance(tuning.date, str):
        return "rehearsal or date is of another type"
    return ""


def choose(found: Sequence[Tuning], gpu: str, capability: str) -> Tuning | None:
    """The measurement to use on a GPU: of its name, else of its compute capability, the latest of several.

    Example:
        >>> machine = {"gpu": "A GPU", "capability": "9.0"}
        >>> one = Tuning("2026-01-01", machine, {}, {})
        >>> choose([one], "Another", "9.0") is one, choose([one], "Another", "8.0")
        (True, None)
    """
    for name, value in (("gpu", gpu), ("capability", capability)):
        alike = [tuning for tuning in found if tuning.machine[name] == value]
        if alike:
            return max(alike, key=lambda tuning: tuning.date)
    return None
