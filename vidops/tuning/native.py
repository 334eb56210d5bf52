"""Launch choices of the CUDA kernels: what there is to choose, the values in force, and another one.

The choices are declared in ``csrc/cuda``, beside the kernels that read them (``csrc/cuda/tuning.cuh``). Values hold
for the whole process and for calls made from then on; what a CUDA graph has captured stays what it was.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from pathlib import Path

from .. import _build

__all__ = ["Library", "NativeKnob", "get", "knobs", "library", "set"]

_NO_SUCH_KNOB, _NO_CANDIDATE = 1, 2


@dataclass(frozen=True)
class NativeKnob:
    """One launch choice of an operator's CUDA kernels.

    Attributes:
        operator: whose kernels read it.
        name: what it is called among them.
        default: its value where nothing has been set.
        candidates: the values that it can have, in ascending order.
    """

    operator: str
    name: str
    default: int
    candidates: tuple[int, ...]


class Library:
    """The launch choices that one library of CUDA kernels offers.

    Args:
        path: the library, which operators have been loaded from or will be.

    Raises:
        OSError: it cannot be loaded.
        AttributeError: it offers none.
    """

    def __init__(self, path: Path) -> None:
        loaded = ctypes.CDLL(str(path))
        self._text, self._get, self._set = (
            getattr(loaded, name) for name in ("vidops_tunables", "vidops_tunable_get", "vidops_tunable_set")
        )
        self._text.restype = ctypes.c_char_p
        self._get.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int64)]
        self._set.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int64]

    @functools.cached_property
    def knobs(self) -> tuple[NativeKnob, ...]:
        """All of them, by operator and name."""
        found = []
        for line in self._text().decode().splitlines():
            operator, name, default, *candidates = line.split()
            found.append(NativeKnob(operator, name, int(default), tuple(map(int, candidates))))
        return tuple(sorted(found, key=lambda knob: (knob.operator, knob.name)))

    def get(self, operator: str, name: str) -> int:
        """Return the value in force; see :func:`get`."""
        value = ctypes.c_int64()
        self._check(self._get(operator.encode(), name.encode(), ctypes.byref(value)), operator, name, 0)
        return value.value

    def set(self, operator: str, name: str, value: int) -> None:
        """Put a value in force; see :func:`set`."""
        if type(value) is not int:
            raise TypeError(f"value must be an int, got {value!r}")
        inside = -(2**63) <= value < 2**63  # ctypes would cut off what is beyond
        error = self._set(operator.encode(), name.encode(), value) if inside else _NO_CANDIDATE
        self._check(error, operator, name, value)

    def _check(self, error: int, operator: str, name: str, value: int) -> None:
        if not error:
            return
        known = [knob for knob in self.knobs if (knob.operator, knob.name) == (operator, name)]
        if error == _NO_SUCH_KNOB or not known:
            names = ", ".join(knob.name for knob in self.knobs if knob.operator == operator)
            raise ValueError(
                f"CUDA kernels of {operator!r} have no {name!r}; they have {names or 'nothing to choose'}"
            )
        allowed = ", ".join(map(str, known[0].candidates))
        raise ValueError(f"{operator}: {name} must be one of {allowed}, got {value}")


@functools.cache
def library() -> Library | None:
    """Return the choices of the CUDA library, None where it has not been loaded.

    Example:
        >>> library() is None or len(library().knobs) > 0
        True
    """
    status = _build.status()["cuda"]
    return Library(status.path) if status.loaded and status.path else None


def knobs() -> list[NativeKnob]:
    """Return what there is to choose, by operator and name; nothing where the CUDA library is not loaded.

    Example:
        >>> all(knob.default in knob.candidates for knob in knobs())
        True
    """
    loaded = library()
    return list(loaded.knobs) if loaded else []


def _loaded() -> Library:
    loaded = library()
    if loaded is None:
        raise RuntimeError(f"the CUDA kernels are not loaded: {_build.status()['cuda'].reason}")
    return loaded


def get(operator: str, name: str) -> int:
    """Return the value in force of a launch choice.

    Args:
        operator: whose kernels read it, ``"temporal_shift"``.
        name: one of theirs, ``"trips"``.

    Returns:
        The value.

    Raises:
        RuntimeError: the CUDA library is not loaded.
        ValueError: there is no such choice.

    Example:
        >>> all(get(knob.operator, knob.name) in knob.candidates for knob in knobs())
        True
    """
    return _loaded().get(operator, name)


def set(operator: str, name: str, value: int) -> None:
    """Put a value of a launch choice in force, for all calls of this process from now on.

    Args:
        operator: whose kernels read it, ``"temporal_shift"``.
        name: one of theirs, ``"trips"``.
        value: one of its candidates.

    Raises:
        RuntimeError: the CUDA library is not loaded.
        TypeError: the value is no int.
        ValueError: there is no such choice, or the value is not among its candidates.

    Example:
        >>> for knob in knobs():
        ...     set(knob.operator, knob.name, get(knob.operator, knob.name))
    """
    _loaded().set(operator, name, value)
