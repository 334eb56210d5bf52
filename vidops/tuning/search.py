"""The search for better values: one knob after the other, and a change only where it shows beyond the spread."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..bench.timing import Timing
from .knob import Knob, Value

__all__ = ["Found", "Ratio", "TimeUp", "Timer", "descend", "ratio"]

PASSES = 2  # over all knobs: the second for what the first one's changes make better


class TimeUp(Exception):
    """The time limit has come; what was being measured is dropped."""


class Timer:
    """A time limit.

    Args:
        seconds: from now on; None for no limit.

    Example:
        >>> Timer(None).over(), Timer(0.0).over()
        (False, True)
    """

    def __init__(self, seconds: float | None) -> None:
        self._end = math.inf if seconds is None else time.monotonic() + seconds

    def left(self) -> float:
        """Seconds that are left."""
        return max(0.0, self._end - time.monotonic())

    def over(self) -> bool:
        """Whether none are."""
        return time.monotonic() >= self._end

    def share(self, parts: int) -> Timer:
        """A limit of one in so many parts of what is left."""
        left = self.left()
        return Timer(None if left == math.inf else left / parts)

    def check(self) -> None:
        """Raise :class:`TimeUp` where no time is left."""
        if self.over():
            raise TimeUp


@dataclass(frozen=True)
class Ratio:
    """Times with one setting over those with another, the geometric mean over all that was timed.

    Attributes:
        typical: of the medians.
        cautious: of the upper quartiles over the other's lower ones; below 1 where a gain is beyond the spread.
        groups: how many sizes, types, layouts and directions were timed.
        reason: why there is no ratio: a wrong result, or a kernel that does not run; empty where there is one.
    """

    typical: float
    cautious: float
    groups: int
    reason: str = ""

    def facts(self) -> dict[str, Any]:
        """What a file says of it.

        Example:
            >>> Ratio(math.nan, math.nan, 3, "wrong").facts()
            {'groups': 3, 'reason': 'wrong'}
        """
        known = {"groups": self.groups, "reason": self.reason}
        return known if self.reason else {"typical": self.typical, "cautious": self.cautious} | known


def ratio(pairs: Sequence[tuple[Timing, Timing]]) -> Ratio:
    """Compare timings of a setting, the first of each pair, with those of another.

    Example:
        >>> ratio([(Timing(1.0, 0.9, 1.1, 5), Timing(2.0, 2.0, 2.2, 5))])
        Ratio(typical=0.5, cautious=0.55, groups=1, reason='')
    """

    def mean(logs: list[float]) -> float:
        return round(math.exp(sum(logs) / len(logs)), 4)

    typical = mean([math.log(a.median / b.median) for a, b in pairs])
    return Ratio(typical, mean([math.log(a.high / b.low) for a, b in pairs]), len(pairs))


@dataclass
class Found:
    """What a search came to.

    Attributes:
        values: of all knobs that were looked at, by key.
        steps: what was tried, in order, ready for JSON.
        not_reached: keys of knobs that there was no time for.
    """

    values: dict[str, Value] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    not_reached: list[str] = field(default_factory=list)


# Times the settings beside the first one and relates them to it, by name.
Measure = Callable[[Mapping[str, Mapping[str, Value]]], dict[str, Ratio]]


def descend(
    knobs: Sequence[Knob[Any]],
    measure: Measure,
    timer: Timer,
    told: Callable[[str], None] = lambda line: None,
) -> Found:
    """Take one knob after the other, time its candidates beside its present value, and keep the best.

    A candidate is kept where its results are right and its gain is beyond the spread. A knob is looked at again where
    another one has changed since.

    Args:
        knobs: in the order in which they are taken.
        measure: ``measure({"": present values, name: other values, ...})`` gives the ratio of each name.
        timer: the limit; the knob that is measured when it comes is not reached.
        told: called with a line about each knob.

    Returns:
        Values, and how they were found.

    Example:
        >>> run = Knob("temporal_shift", "triton", "example", 16, (4, 16, 64))
        >>> faster = {4: Ratio(1.2, 1.3, 1), 64: Ratio(0.8, 0.9, 1)}
        >>> found = descend([run], lambda settings: {n: faster[int(n)] for n in settings if n}, Timer(None))
        >>> found.values
        {'temporal_shift/triton/example': 64}
        >>> from vidops.tuning import KNOBS
        >>> KNOBS.pop(run.key) is run
        True
    """
    found = Found({knob.key: knob.default for knob in knobs})
    since: dict[str, int] = {}  # how many changes there had been when a knob was looked at
    changes = 0
    for number in range(PASSES):
        for knob in knobs:
            if since.get(knob.key) == changes:
                continue
            others = {str(value): value for value in knob.candidates if value != found.values[knob.key]}
            try:
                timer.check()
                settings = {name: found.values | {knob.key: value} for name, value in others.items()}
                ratios = measure({"": dict(found.values), **settings})
            except TimeUp:
                if number == 0:
                    found.not_reached.append(knob.key)
                continue
            before = found.values[knob.key]
            better = {name: r for name, r in ratios.items() if not r.reason and r.cautious < 1}
            if better:
                best = min(better, key=lambda name: better[name].typical)
                found.values[knob.key] = others[best]
                changes += 1
            since[knob.key] = changes
            step = {"knob": knob.key, "before": before, "kept": found.values[knob.key]}
            found.steps.append(step | {"tried": {name: r.facts() for name, r in ratios.items()}})
            told(_line(step, ratios))
    for key in found.not_reached:
        del found.values[key]
    return found


def _line(step: Mapping[str, Any], ratios: Mapping[str, Ratio]) -> str:
    tried = ", ".join(f"{name}: {r.reason or f'x {r.typical:.3f}'}" for name, r in ratios.items())
    kept = "stays" if step["kept"] == step["before"] else f"becomes {step['kept']}"
    return f"{step['knob']} = {step['before']} {kept} ({tried})"
