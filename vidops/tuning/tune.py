"""The whole measurement: every operator's knobs on every backend, then the order of the backends."""

from __future__ import annotations

import datetime
import fnmatch
import functools
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..bench import machine
from ..bench.case import Benchmark, load_benchmarks
from ..bench.timing import Effort
from ..ops.backends import OPERATORS, PREFERENCE
from .file import MACHINE, Tuning
from .knob import KNOBS, Knob, Value, trial
from .measure import Bench, Wrong, order, workloads
from .search import Found, Timer, TimeUp, descend

__all__ = ["Options", "Plan", "plan", "tune"]

BACKENDS = PREFERENCE["cuda"][:-1]  # those that have knobs, in the built-in order


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        pattern: part of an operator's name, with ``*`` and ``?``; empty for all.
        limit: seconds in all; None for no limit.
        quick: the quick sizes alone, in their first dtype.
        rehearsal: run the machinery on a tiny size in Triton's interpreter; the figures mean nothing.
    """

    pattern: str = ""
    limit: float | None = None
    quick: bool = False
    rehearsal: bool = False

    def effort(self) -> Effort:
        """How long to time a setting."""
        if self.rehearsal:
            return Effort(rounds=2, least=2, budget=0.0, sample=1e-9)
        return Effort(rounds=11, least=5, budget=0.1)


@dataclass(frozen=True)
class Plan:
    """An operator, the backends that can run it here, and their knobs."""

    benchmark: Benchmark
    knobs: dict[str, list[Knob[Any]]]


def plan(options: Options) -> list[Plan]:
    """What the options choose and this machine can run.

    Raises:
        ValueError: no operator is called like the pattern, or the limit is no positive number.
        RuntimeError: there is no GPU, no backend for it, or, for a rehearsal, no interpreter.

    Example:
        >>> plan(Options("optical_flow"))
        Traceback (most recent call last):
        ValueError: no operator is called like 'optical_flow'
    """
    if options.limit is not None and not options.limit > 0:
        raise ValueError(f"the limit must be above 0 seconds, got {options.limit:g}")
    benchmarks = {
        name: case
        for name, case in load_benchmarks().items()
        if name in OPERATORS and fnmatch.fnmatchcase(name, f"*{options.pattern}*")
    }
    if not benchmarks:
        raise ValueError(f"no operator is called like {options.pattern!r}")
    device = "cpu" if options.rehearsal else "cuda"
    if options.rehearsal and OPERATORS["temporal_shift"].why_not("triton", "cpu"):
        raise RuntimeError("a rehearsal runs in Triton's interpreter: set TRITON_INTERPRET=1")
    if not options.rehearsal and not torch.cuda.is_available():
        raise RuntimeError("no GPU is visible; --rehearse runs everything but the measurement without one")
    plans = []
    for name, case in benchmarks.items():
        able = [backend for backend in BACKENDS if not OPERATORS[name].why_not(backend, device)]
        knobs = {b: [k for k in KNOBS.values() if (k.operator, k.backend) == (name, b)] for b in able}
        if able and workloads(case, quick=options.quick, rehearsal=options.rehearsal):
            plans.append(Plan(case, knobs))
    if not plans:
        reasons = {OPERATORS[name].why_not(b, device) for name in benchmarks for b in BACKENDS} - {""}
        raise RuntimeError(f"nothing can be tuned here: {'; '.join(sorted(reasons)) or 'no size is chosen'}")
    return plans


@dataclass
class _Result:
    """What there is so far."""

    machine: dict[str, str | None]
    rehearsal: bool
    left: list[list[str]]  # a list a part of the work that is still to be done: what it would find
    values: dict[str, Value] = field(default_factory=dict)
    orders: dict[str, list[str]] = field(default_factory=dict)
    measured: list[dict[str, Any]] = field(default_factory=list)
    not_reached: list[str] = field(default_factory=list)

    def tuning(self) -> Tuning:
        """A file's content; what is still to be done counts as not reached."""
        return Tuning(
            date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            machine=self.machine,
            values=dict(self.values),
            orders=dict(self.orders),
            measured=tuple(self.measured),
            not_reached=(*self.not_reached, *(name for part in self.left for name in part)),
            rehearsal=self.rehearsal,
        )


def tune(
    options: Options,
    *,
    told: Callable[[str], None] = lambda line: None,
    kept: Callable[[Tuning], None] = lambda so_far: None,
    plans: Sequence[Plan] | None = None,
) -> Tuning:
    """Measure.

    The time that is left is shared evenly among what is left to do, so that each operator has a turn. Whatever was in
    use before is in use again at the end.

    Args:
        options: what to measure.
        told: called with a line about each thing that was measured or left out.
        kept: called with what there is whenever a backend's knobs or an order are done, for what is measured next may
            end the process.
        plans: of :func:`plan`, where it has been asked before.

    Returns:
        Values and orders, what they were measured on, how they compared, and what the limit left out.

    Raises:
        ValueError, RuntimeError: as :func:`plan` does.
    """
    plans = plan(options) if plans is None else plans
    timer = Timer(options.limit)
    result = _Result(
        _machine(options.rehearsal), options.rehearsal, [part for p in plans for part in _parts(p)]
    )
    with trial({knob.key: knob.default for knob in KNOBS.values()}):
        for each in plans:
            bench = Bench(
                each.benchmark,
                workloads(each.benchmark, quick=options.quick, rehearsal=options.rehearsal),
                options.effort(),
            )
            for _ in _tune_one(each, bench, timer, result, told):
                kept(result.tuning())
    return result.tuning()


def _parts(each: Plan) -> list[list[str]]:
    """What an operator's parts of the work would find: a backend's knobs, one after the other, and the order."""
    found = [[knob.key for knob in knobs] for knobs in each.knobs.values()]
    return [*found, [_order_of(each.benchmark.operator, each.knobs)]] if len(each.knobs) > 1 else found


def _order_of(name: str, backends: Iterable[str]) -> str:
    return f"{name}: order of {', '.join(backends)}"


def _tune_one(
    each: Plan, bench: Bench, timer: Timer, result: _Result, told: Callable[[str], None]
) -> Iterator[None]:
    """Tune one operator, and yield after each part."""
    name = each.benchmark.operator
    best: dict[str, dict[str, Value]] = {}
    for backend, knobs in each.knobs.items():
        own = timer.share(len(result.left))
        try:
            found = descend(knobs, functools.partial(bench.compare, backend, timer=own), own, told)
        except Wrong as wrong:
            result.not_reached.append(f"{name}/{backend}: {wrong}")
            told(result.not_reached[-1])
        else:
            best[backend] = {knob.key: found.values.get(knob.key, knob.default) for knob in knobs}
            _take(found, result, told)
        del result.left[0]
        yield
    if len(each.knobs) > 1:
        if len(best) > 1:
            _take_order(name, bench, best, timer.share(len(result.left)), result, told)
        del result.left[0]
        yield


def _take(found: Found, result: _Result, told: Callable[[str], None]) -> None:
    result.values |= found.values
    result.measured += found.steps
    result.not_reached += found.not_reached
    for key in found.not_reached:
        told(f"{key} was not reached")


def _take_order(
    name: str,
    bench: Bench,
    best: dict[str, dict[str, Value]],
    timer: Timer,
    result: _Result,
    told: Callable[[str], None],
) -> None:
    try:
        backends, ratios = order(bench, best, timer)
    except TimeUp:
        result.not_reached.append(_order_of(name, best))
        told(f"{result.not_reached[-1]} was not reached")
        return
    result.orders[name] = backends
    result.measured.append(
        {"order": name, "kept": backends, "tried": {n: r.facts() for n, r in ratios.items()}}
    )
    first = next(iter(best))
    tried = ", ".join(r.reason or f"{n} x {r.typical:.3f} of {first}" for n, r in ratios.items())
    told(f"{name}: {', '.join(backends)} ({tried})")


def _machine(rehearsal: bool) -> dict[str, str | None]:
    described = machine.describe("cpu" if rehearsal else "cuda")
    gpu, versions = described["gpu"] or {}, described["versions"]
    facts = {
        "gpu": gpu.get("name"),
        "capability": gpu.get("capability"),
        "driver": None if rehearsal else _driver(),
        "revision": described["revision"],
        **versions,
    }
    return {name: facts[name] for name in MACHINE}


def _driver() -> str | None:
    """The driver's version, None where nobody tells."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.split("\n", 1)[0].strip() or None
