"""What a search measures: an operator's kernels on its benchmark's sizes, checked as the benchmark checks them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..bench.case import Benchmark, Workload
from ..bench.timing import Effort, Timing, clock_for, interleave
from ..bench.variants import Data, Prepared, Variant
from .knob import KNOBS, Value
from .search import Ratio, Timer, ratio

__all__ = ["Bench", "Wrong", "order"]

DIRECTIONS = ("forward", "backward")


class Wrong(RuntimeError):
    """The present values do not run or give wrong results, so that there is nothing to compare with."""


@dataclass(frozen=True)
class _Group:
    """What is timed together."""

    workload: Workload
    dtype: str
    layout: str
    direction: str

    @property
    def name(self) -> str:
        return f"{self.workload.name}/{self.dtype}/{self.layout}/{self.direction}"


class Bench:
    """The sizes of one operator, with their data and the reference's results.

    Args:
        benchmark: the operator's case.
        workloads: sizes to measure, on one kind of device.
        effort: how long to time a setting.
    """

    def __init__(self, benchmark: Benchmark, workloads: Sequence[Workload], effort: Effort) -> None:
        self.benchmark, self.effort = benchmark, effort
        self.groups = [
            _Group(workload, dtype, layout, direction)
            for workload in workloads
            for dtype in workload.dtypes
            for layout in workload.layouts
            for direction in DIRECTIONS
            if direction in workload.directions
        ]
        self._data: dict[tuple[str, str], Data] = {}

    def data(self, group: _Group) -> Data:
        """Inputs of a group, kept while there is room; as many sets as no cache holds, but for a rehearsal's."""
        key = group.workload.name, group.dtype
        if key not in self._data:
            if _crowded(group.workload.device):
                self._data.clear()  # drawn again when their turn comes
            sets = 1 if group.workload.device == "cpu" else None
            self._data[key] = Data(self.benchmark, group.workload, getattr(torch, group.dtype), sets=sets)
        return self._data[key]

    def times(
        self, group: _Group, settings: Mapping[str, tuple[str, Mapping[str, Value]]], reasons: dict[str, str]
    ) -> dict[str, Timing]:
        """Time settings, each a backend and values, in turns; why one was left out is added to ``reasons``."""
        steps: dict[str, Callable[[], Any]] = {}
        for name, (backend, values) in settings.items():
            if name in reasons:
                continue
            _set(values)
            prepared, reason = self._prepare(group, backend)
            if reason:
                reasons[name] = f"{group.name}: {reason}"
            else:
                assert prepared is not None
                steps[name] = _under(values, prepared.step)
        with torch.inference_mode(group.direction == "forward"):
            return interleave(steps, clock_for(group.workload.device, group.direction), self.effort)

    def _prepare(self, group: _Group, backend: str) -> tuple[Prepared | None, str]:
        """A step that has given a right result once, or what is wrong with it."""

        def call(params: Any, tensors: Any) -> Any:
            return self.benchmark.call(params, tensors, backend)

        try:
            prepared = self.data(group).prepare(
                Variant(backend, "kernel", group.layout, call), group.direction
            )
        except Exception as error:  # a compiler's, a driver's: this setting does not run, others may
            text = str(error).strip().splitlines()
            return None, f"{type(error).__name__}: {text[0][:200] if text else ''}"
        return (None, prepared.verdict.reason) if prepared.verdict.reason else (prepared, "")

    def compare(
        self, backend: str, settings: Mapping[str, Mapping[str, Value]], timer: Timer
    ) -> dict[str, Ratio]:
        """Relate the times of settings to those of the first, which is called ``""``.

        Raises:
            TimeUp: the limit came before everything was timed.
            Wrong: the first one's results are.
        """
        reasons: dict[str, str] = {}
        pairs: dict[str, list[tuple[Timing, Timing]]] = {name: [] for name in settings if name}
        asked = {name: (backend, values) for name, values in settings.items()}
        for group in self.groups:
            timer.check()
            timings = self.times(group, asked, reasons)
            if "" in reasons:
                raise Wrong(f"the present values do not do: {reasons['']}")
            for name in timings:
                if name:
                    pairs[name].append((timings[name], timings[""]))
        _set(settings[""])
        return {
            name: Ratio(math.nan, math.nan, len(found), reasons[name]) if name in reasons else ratio(found)
            for name, found in pairs.items()
        }


def order(
    bench: Bench, values: Mapping[str, Mapping[str, Value]], timer: Timer
) -> tuple[list[str], dict[str, Ratio]]:
    """The order in which backends are tried: the fastest first, forward and backward together.

    Args:
        bench: the operator's sizes.
        values: of every backend's knobs; the backends in their built-in order, which stays where the spread hides a
            gain.
        timer: the limit.

    Returns:
        The backends, and the ratio of each but the first one to that one. A backend that does not run everything comes
        last.

    Raises:
        TimeUp: the limit came before everything was timed.
    """
    reasons: dict[str, str] = {}
    sums: dict[tuple[str, str, str], dict[str, Timing]] = {}
    for group in bench.groups:
        timer.check()
        timings = bench.times(group, {name: (name, values[name]) for name in values}, reasons)
        both = sums.setdefault((group.workload.name, group.dtype, group.layout), {})
        for name, timing in timings.items():
            both[name] = _plus(both[name], timing) if name in both else timing
    first, *others = values
    able = [name for name in values if name not in reasons]
    ratios = {name: Ratio(math.nan, math.nan, 0, reasons[name]) for name in others if name in reasons}
    if first in able:
        for name in others:
            if name in able:
                ratios[name] = ratio([(timings[name], timings[first]) for timings in sums.values()])
        faster = [name for name in others if name in able and ratios[name].cautious < 1]
        rest = [name for name in able if name not in faster]
        able = [*sorted(faster, key=lambda name: ratios[name].typical), *rest]
    else:
        ratios |= {name: Ratio(math.nan, math.nan, 0, f"{first}: {reasons[first]}") for name in others}
    return [*able, *[name for name in values if name not in able]], ratios


def _plus(a: Timing, b: Timing) -> Timing:
    return Timing(a.median + b.median, a.low + b.low, a.high + b.high, min(a.samples, b.samples))


def _crowded(device: str) -> bool:
    """Whether a third of the GPU's memory is in use: all sizes of an operator in all types are tens of gigabytes."""
    if device != "cuda":
        return False
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    return torch.cuda.memory_allocated() > total / 3


def _set(values: Mapping[str, Value]) -> None:
    for key, value in values.items():
        if KNOBS[key].value != value:
            KNOBS[key].set(value)


def _under(values: Mapping[str, Value], step: Callable[[], Any]) -> Callable[[], Any]:
    def call() -> Any:
        _set(values)
        return step()

    return call


def workloads(benchmark: Benchmark, *, quick: bool, rehearsal: bool) -> list[Workload]:
    """The sizes that an operator is tuned on: those of GPUs; in a rehearsal a tiny one on the CPU.

    Args:
        benchmark: the operator's case.
        quick: the quick ones alone, in their first dtype.
        rehearsal: whether this is one.

    Example:
        >>> from vidops.bench import load_benchmarks
        >>> case = load_benchmarks()["temporal_shift"]
        >>> {w.device for w in workloads(case, quick=False, rehearsal=False)}
        {'cuda'}
        >>> [w.name for w in workloads(case, quick=False, rehearsal=True)]
        ['rehearsal']
    """
    if rehearsal:
        generator = torch.Generator()
        params = min(benchmark.small, key=lambda p: sum(t.numel() for t in benchmark.inputs(p, generator)))
        return [Workload("rehearsal", "cpu", params)]
    found = [w for w in benchmark.workloads if w.device == "cuda" and {*w.directions} & {*DIRECTIONS}]
    if quick:
        found = [replace(w, dtypes=w.dtypes[:1]) for w in found if w.quick]
    return found
