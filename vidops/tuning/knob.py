"""Knobs: numbers that kernels read at launch and that a measurement may change, their results never."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar

__all__ = ["KNOBS", "Knob", "Native", "Value", "adopt", "trial"]

Value = int | str
V = TypeVar("V", int, str)


class Knob(Generic[V]):
    """A named number or choice of one operator's kernels on one backend, the same for the whole process.

    Kernels read ``value`` whenever they are launched, and are right at each of the candidates: a test runs them all.

    Args:
        operator: its name in every folder.
        backend: ``"triton"`` or ``"cuda"``.
        name: what it is called among the knobs of these kernels.
        default: the built-in value, in use where nothing was measured.
        candidates: the values that it may have, in order; the default is one of them.

    Raises:
        ValueError: the default is no candidate.
        RuntimeError: there is a knob of that name.

    Example:
        >>> run = Knob("temporal_shift", "triton", "example", 16, (4, 16, 64))
        >>> run.value, KNOBS.pop(run.key) is run
        (16, True)
    """

    def __init__(self, operator: str, backend: str, name: str, default: V, candidates: tuple[V, ...]) -> None:
        self.operator, self.backend, self.name = operator, backend, name
        self.key = f"{operator}/{backend}/{name}"
        self.default: V = default
        self.candidates: tuple[V, ...] = tuple(candidates)
        self.value: V = default
        if default not in self.candidates:
            raise ValueError(f"{self.key}: default {default!r} is none of the candidates {self.candidates}")
        if self.key in KNOBS:
            raise RuntimeError(f"knob {self.key} is made twice")
        KNOBS[self.key] = self

    def set(self, value: V) -> None:
        """Give it another of its candidates.

        Raises:
            ValueError: the value is none of them.
        """
        if value not in self.candidates or type(value) is not type(self.default):
            allowed = ", ".join(map(repr, self.candidates))
            raise ValueError(f"{self.key} must be one of {allowed}, got {value!r}")
        self.value = value

    def __repr__(self) -> str:
        """The knob and its value."""
        return f"Knob({self.key} = {self.value!r})"


KNOBS: dict[str, Knob[Any]] = {}  # by key: "operator/backend/name"


class NativeKnob(Protocol):
    """A knob as a native library tells it."""

    @property
    def operator(self) -> str:
        """Whose kernels read it."""

    @property
    def name(self) -> str:
        """What it is called among theirs."""

    @property
    def default(self) -> int:
        """The built-in value."""

    @property
    def candidates(self) -> tuple[int, ...]:
        """The values that it may have."""


class Native(Protocol):
    """A library whose kernels have knobs of their own."""

    def knobs(self) -> Sequence[NativeKnob]:
        """All of them."""

    def set(self, operator: str, name: str, value: int) -> None:
        """Give one another value."""

    def get(self, operator: str, name: str) -> int:
        """The value of one."""


class _CudaKnob(Knob[int]):
    """A knob that a native library's kernels read; ``value`` is what the library was given last."""

    def __init__(self, library: Native, knob: NativeKnob) -> None:
        super().__init__(knob.operator, "cuda", knob.name, knob.default, knob.candidates)
        self._library = library
        self.value = library.get(knob.operator, knob.name)

    def set(self, value: int) -> None:
        before = self.value
        super().set(value)
        if value != before:
            self._library.set(self.operator, self.name, value)


def adopt(library: Native) -> None:
    """Take up the knobs of a native library, in its order.

    Args:
        library: for example the module :mod:`vidops.tuning.native`.
    """
    for knob in library.knobs():
        _CudaKnob(library, knob)


@contextmanager
def trial(values: Mapping[str, Value]) -> Iterator[None]:
    """Give knobs other values inside a ``with`` block.

    Args:
        values: by the knobs' keys.

    Raises:
        KeyError: there is no such knob.
        ValueError: a value is none of its knob's candidates.

    Example:
        >>> run = Knob("temporal_shift", "triton", "example", 16, (4, 16, 64))
        >>> with trial({run.key: 64}):
        ...     print(run.value)
        64
        >>> run.value, KNOBS.pop(run.key) is run
        (16, True)
    """
    before = {key: KNOBS[key].value for key in values}
    try:
        for key, value in values.items():
            KNOBS[key].set(value)
        yield
    finally:
        for key, value in before.items():
            KNOBS[key].set(value)
