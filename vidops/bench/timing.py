"""Clocks, and variants timed in turns."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

__all__ = ["Clock", "CpuClock", "CudaClock", "Effort", "Timing", "clock_for", "interleave"]

Step = Callable[[], Any]

_COLD = 25  # a first call may take this many times a sample and the next ones be cheap


class Clock(Protocol):
    """Measures the mean time of a call."""

    def sample(self, step: Step, calls: int) -> float:
        """Call ``step`` that many times and return the seconds a call took."""


class CpuClock:
    """Wall time.

    Example:
        >>> CpuClock().sample(lambda: time.sleep(0.001), 2) >= 0.001
        True
    """

    def sample(self, step: Step, calls: int) -> float:
        """Call ``step`` that many times and return the seconds a call took."""
        start = time.perf_counter()
        for _ in range(calls):
            step()
        return (time.perf_counter() - start) / calls


class CudaClock:
    """Events around calls that were all queued before the first one started: launching is not timed."""

    _CYCLES_A_CALL = 400_000  # 0.2 ms at 2 GHz: longer than queueing any variant's launches takes

    def sample(self, step: Step, calls: int) -> float:
        """Call ``step`` that many times and return the seconds a call took on the GPU."""
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(self._CYCLES_A_CALL * calls)
        start.record()
        for _ in range(calls):
            step()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / calls


def clock_for(device: str, direction: str) -> Clock:
    """The cost of a call is host time on every device; anything else is timed where it runs.

    Example:
        >>> clock_for("cpu", "forward").__class__.__name__
        'CpuClock'
    """
    return CudaClock() if device == "cuda" and not direction.startswith("call") else CpuClock()


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: turns of each variant, at most.
        least: turns of a variant however slow it is.
        budget: seconds a variant may take, beyond ``least``.
        sample: seconds a sample should last at least.
    """

    rounds: int = 25
    least: int = 5
    budget: float = 1.0
    sample: float = 2e-3


@dataclass(frozen=True)
class Timing:
    """Times of one variant in seconds: median, quartiles and number of samples."""

    median: float
    low: float
    high: float
    samples: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Timing:
        """Sum up samples.

        Example:
            >>> Timing.of([3.0, 1.0, 2.0])
            Timing(median=2.0, low=1.5, high=2.5, samples=3)
        """
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0], 1)
        low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(median, low, high, len(samples))


def interleave(steps: dict[str, Step], clock: Clock, effort: Effort) -> dict[str, Timing]:
    """Time variants in turns, so that whatever slows the machine for a while slows them all.

    Args:
        steps: one call of each variant; called up to 101 times before any is timed, to see how long it takes.
        clock: what measures a sample.
        effort: how long to measure.

    Returns:
        Timings by name.

    Example:
        >>> quick = Effort(rounds=3, least=3, budget=0.01)
        >>> interleave({"a": lambda: None, "b": lambda: None}, CpuClock(), quick)["b"].samples
        3
    """
    calls, turns = {}, {}
    for name, step in steps.items():
        estimate = max(clock.sample(step, 1), 1e-7)
        if estimate < _COLD * effort.sample:  # the first call found cold caches: ask warm ones
            warm = min(math.ceil(effort.sample / estimate), 100)
            estimate = max(clock.sample(step, warm), 1e-7)
        calls[name] = max(1, min(math.ceil(effort.sample / estimate), 2000))
        affordable = int(effort.budget / (estimate * calls[name]))
        turns[name] = max(min(effort.least, effort.rounds), min(affordable, effort.rounds))
    samples: dict[str, list[float]] = {name: [] for name in steps}
    order = list(steps)
    for turn in range(effort.rounds):
        for name in order:
            # Slow variants sit out turns, evenly spread.
            if (turn + 1) * turns[name] // effort.rounds > turn * turns[name] // effort.rounds:
                samples[name].append(clock.sample(steps[name], calls[name]))
        order = order[1:] + order[:1]
    return {name: Timing.of(values) for name, values in samples.items()}
