"""Runs the cases: plans groups, checks variants, times them in turns, relates them to the ceilings."""

from __future__ import annotations

import datetime
import fnmatch
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from ..ops.backends import BACKENDS, OPERATORS, PREFERENCE
from . import machine
from .case import Benchmark, Workload, load_benchmarks
from .ceilings import Rates, copy_step, measure_rates
from .judge import FOREIGN_LOAD_LIMIT, Record, relate
from .timing import Effort, Timing, clock_for, interleave
from .variants import Data, Prepared, Variant, compiled

__all__ = ["FORMAT", "Group", "Options", "plan", "run", "variants"]

FORMAT = 1

_COPY, _FRESH = "copy", "fresh copy"


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        pattern: part of a group's name, with ``*`` and ``?``; empty for all.
        backends: kernels to time; None for all that an automatic choice considers and that can run here.
        threads: thread counts of CPU groups; None for one and all.
        quick: a few sizes, in their first layout and dtype, and fewer samples.
        compile: time ``torch.compile(reference)`` too, which takes long to build.
    """

    pattern: str = ""
    backends: tuple[str, ...] | None = None
    threads: tuple[int, ...] | None = None
    quick: bool = False
    compile: bool = False

    def effort(self) -> Effort:
        """How long to measure."""
        return Effort(rounds=11, least=3, budget=0.4) if self.quick else Effort()


@dataclass(frozen=True)
class Group:
    """Variants that are timed together: one operator, size, dtype, direction and number of threads."""

    benchmark: Benchmark
    workload: Workload
    dtype: str
    layouts: tuple[str, ...]
    direction: str
    threads: int | None
    backends: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its name: what patterns are matched with."""
        threads = (f"{self.threads}-thread",) if self.threads else ()
        size = self.workload
        parts = (self.benchmark.operator, size.device, size.name, self.dtype, self.direction, *threads)
        return "/".join(parts)


def _usable(backend: str, operator: str, device: str) -> str:
    """Why a backend's kernel of an operator is not timed on a device, or nothing."""
    if backend == "triton" and (device == "cpu" or not torch.cuda.is_available()):
        return "Triton needs a GPU; the speed of its interpreter means nothing"
    if device == "cuda" and not torch.cuda.is_available():
        return "no GPU is visible"
    return OPERATORS[operator].why_not(backend, device)


def _backends(options: Options, operator: str, device: str) -> tuple[str, ...]:
    wanted = options.backends or [name for name in PREFERENCE[device] if name != "reference"]
    return tuple(name for name in wanted if not _usable(name, operator, device))


def plan(options: Options) -> list[Group]:
    """List the groups that the options choose and this machine can run.

    Args:
        options: what to measure.

    Returns:
        Groups in the order of the cases.

    Raises:
        ValueError: a backend is unknown, nothing is called like the pattern, or a thread count is below 1.
        RuntimeError: a backend that was asked for runs none of the cases here; the text says why.

    Example:
        >>> [g.name for g in plan(Options("temporal_shift/cpu/1x256*backward", ("reference",), threads=(1,)))]
        ['temporal_shift/cpu/1x256x8x56x56/float32/backward/1-thread']
    """
    for name in options.backends or ():
        if name not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    if options.threads is not None and min(options.threads, default=0) < 1:
        raise ValueError(f"threads must be at least 1, got {options.threads}")
    benchmarks = load_benchmarks()
    everything = list(_groups(options, benchmarks))
    groups = [g for g in everything if fnmatch.fnmatchcase(g.name, f"*{options.pattern}*")]
    if not groups:
        shows = "`vidops bench --list` shows what there is"
        if options.quick and plan(replace(options, quick=False)):
            raise ValueError(f"--quick leaves out all that is called like {options.pattern!r}; {shows}")
        raise ValueError(f"nothing is called like {options.pattern!r}; {shows}")
    runnable = [g for g in groups if g.backends]
    for name in options.backends or ():
        if not any(name in g.backends for g in runnable):
            reasons = {_usable(name, g.benchmark.operator, g.workload.device) for g in groups}
            raise RuntimeError(
                f"backend {name!r} runs none of these cases here: {'; '.join(sorted(reasons))}"
            )
    if not runnable:
        missing = sorted({BACKENDS[name].missing for name in BACKENDS if BACKENDS[name].missing})
        raise RuntimeError(f"no backend but the reference runs these cases here: {'; '.join(missing)}")
    return runnable


def _groups(options: Options, benchmarks: dict[str, Benchmark]) -> Iterator[Group]:
    available = torch.get_num_threads()
    threads: tuple[int, ...] = options.threads or tuple(sorted({1, available}))
    if options.quick and options.threads is None:
        threads = (available,)
    for operator, benchmark in benchmarks.items():
        for workload in benchmark.workloads:
            if options.quick and not workload.quick:
                continue
            some = slice(1) if options.quick else slice(None)
            backends = _backends(options, operator, workload.device)
            for dtype in workload.dtypes[some]:
                for direction in workload.directions:
                    counts = threads if workload.device == "cpu" else (None,)
                    if direction.startswith("call"):
                        counts = counts[-1:]
                    for count in counts:
                        yield Group(
                            benchmark, workload, dtype, workload.layouts[some], direction, count, backends
                        )


def left_out(options: Options) -> list[str]:
    """Say what ``--quick`` leaves out of what the other options choose.

    Example:
        >>> for line in left_out(Options("temporal_shift/cpu/*forward", ("reference",), quick=True)):
        ...     print(line)  # doctest: +ELLIPSIS
        --quick: ... of ... groups, with fewer samples; left out:
        ...
    """
    if not options.quick:
        return []
    groups, everything = plan(options), plan(replace(options, quick=False))
    lines = [f"--quick: {len(groups)} of {len(everything)} groups, with fewer samples; left out:"]
    kept = {(g.benchmark.operator, g.workload.name) for g in groups}
    sizes: dict[str, list[str]] = {}
    for group in everything:
        operator, size = group.benchmark.operator, group.workload.name
        names = sizes.setdefault(operator, [])
        if (operator, size) not in kept and size not in names:
            names.append(size)
    lines += [f"  {operator}: {', '.join(names)}" for operator, names in sizes.items() if names]
    for what, of in (
        ("layouts", lambda g: g.layouts),
        ("dtypes", lambda g: (g.dtype,)),
        ("threads", lambda g: (g.threads,)),
    ):
        used = {value for g in groups for value in of(g)}
        more = dict.fromkeys(str(value) for g in everything for value in of(g) if value not in used)
        lines += [f"  {what}: {', '.join(more)}"] if more else []
    return lines


def run(
    options: Options,
    *,
    started: Callable[[str, int, int], None] | None = None,
    finished: Callable[[list[Record], dict[str, Any]], None] | None = None,
    enough: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Measure.

    Args:
        options: what to measure.
        started: called with the name, number and count of each group before it runs.
        finished: called with the records of each group, and with the report as far as it has come.
        enough: asked before each group but the first; once it says yes, nothing more is measured.

    Returns:
        The report: date, machine, versions, ceilings and a record a variant of every group, ready for JSON; ``left``
        names the groups that were not measured for want of time.

    Raises:
        ValueError, RuntimeError: as :func:`plan` does.

    Example:
        >>> report = run(Options("temporal_shift/cpu/1x8x4x2x2*call", ("reference",), threads=(1,)))
        >>> report["results"][0]["status"]
        'ok'
    """
    groups = plan(options)
    devices = sorted({g.workload.device for g in groups})
    report: dict[str, Any] = {
        "format": FORMAT,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": machine.describe(devices[-1]),
        "options": {**asdict(options), "foreign_load_limit": FOREIGN_LOAD_LIMIT},
        "left_out": left_out(options),
        "left": [group.name for group in groups],
        "ceilings": [],
        "results": [],
    }
    rates: dict[tuple[str, int | None], Rates] = {}
    data: Data | None = None
    with machine.LoadMeter() as meter:
        for number, group in enumerate(groups, 1):
            if enough and number > 1 and enough():
                break
            if started:
                started(group.name, number, len(groups))
            with _threads(group.threads):
                key = (group.workload.device, group.threads)
                if key not in rates:
                    rates[key] = measure_rates(key[0], options.effort())
                    report["ceilings"].append({"device": key[0], "threads": key[1], **rates[key]})
                if data is None or (data.workload, data.dtype) != (
                    group.workload,
                    getattr(torch, group.dtype),
                ):
                    data = None  # the old tensors go before the new ones come
                    data = Data(group.benchmark, group.workload, getattr(torch, group.dtype))
                records = _measure(group, data, rates[key], options)
                relate(records, group.workload.targets, report["results"])
            report["results"] += records
            report["left"].remove(group.name)
            report["foreign_load"] = meter.so_far()
            if finished:
                finished(records, report)
    report["foreign_load"] = meter.cores
    return report


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)


def variants(group: Group, *, compile_reference: bool = False) -> list[Variant]:
    """List what is timed in a group: kernels in every layout, eager forms, library kernels.

    Args:
        group: one of :func:`plan`.
        compile_reference: ``torch.compile(reference)`` too.

    Returns:
        Variants, kernels first.

    Example:
        >>> group = plan(Options("temporal_shift/cpu/1x256*forward", ("reference",), threads=(1,)))[0]
        >>> [variant.key for variant in variants(group)][-1]
        'cat/NCTHW'
    """
    benchmark = group.benchmark

    def kernel(backend: str) -> Callable[..., Any]:
        return lambda params, tensors: benchmark.call(params, tensors, backend)

    found = [Variant(b, "kernel", layout, kernel(b)) for b in group.backends for layout in group.layouts]
    for kind, baselines in (("eager", benchmark.eager), ("library", benchmark.library)):
        found += [Variant(name, kind, b.layout, b.run, b.slack) for name, b in baselines.items()]
    if compile_reference and not group.direction.startswith("call"):
        found.append(compiled(Variant("torch.compile", "compile", "NCTHW", kernel("reference"))))
    return found


def _measure(group: Group, data: Data, rates: Rates, options: Options) -> list[Record]:
    direction, device = group.direction, group.workload.device
    ready: list[Prepared] = []
    records: list[Record] = []
    for variant in variants(group, compile_reference=options.compile):
        try:
            prepared = data.prepare(variant, direction)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0][:300]
            ours = variant.kind == "kernel" and not isinstance(error, torch.OutOfMemoryError)
            status = "wrong" if ours else "unavailable"
            records.append(_record(group, variant, status=status, reason=reason))
            continue
        if prepared.verdict.reason:
            records.append(
                _record(group, variant, prepared=prepared, status="wrong", reason=prepared.verdict.reason)
            )
        else:
            ready.append(prepared)
    steps = {p.variant.key: p.step for p in ready}
    traffic = data.traffic(direction)
    timed_call = direction.startswith("call")
    if not timed_call:
        steps[_COPY] = copy_step(traffic, device, machine.cache_bytes(device))
        if device == "cpu" and direction == "forward":
            steps[_FRESH] = data.fresh_copy()
    with machine.LoadMeter() as meter, torch.inference_mode(direction in ("forward", "call")):
        timings = interleave(steps, clock_for(device, direction), options.effort())
    growth = {} if timed_call else _growth(ready, timings, device, direction)
    ceiling = _ceiling(group, rates, [timings[p.variant.key] for p in ready])
    for prepared in ready:
        record = _record(group, prepared.variant, prepared=prepared, status="ok")
        timing, grown = timings[prepared.variant.key], growth.get(prepared.variant.key)
        record.update(_figures(timing, timings, traffic, group, ceiling))
        record["foreign_load"] = meter.cores
        record["peak_bytes"] = grown
        record["extra_bytes"] = None if grown is None else max(0, grown - data.result_bytes(direction))
        records.append(record)
    return records


def _growth(
    ready: list[Prepared], timings: dict[str, Timing], device: str, direction: str
) -> dict[str, int | None]:
    """Memory that kernels and the fastest baseline take."""
    baselines = [p for p in ready if p.variant.kind != "kernel"]
    fastest = min(baselines, key=lambda p: timings[p.variant.key].median, default=None)
    with torch.inference_mode(direction == "forward"):
        return {
            p.variant.key: machine.peak_growth(p.step, device)
            for p in ready
            if p.variant.kind == "kernel" or p is fastest
        }


def _record(group: Group, variant: Variant, *, prepared: Prepared | None = None, **more: Any) -> Record:
    verdict = prepared.verdict if prepared else None
    return {
        "group": group.name,
        "operator": group.benchmark.operator,
        "workload": group.workload.name,
        "device": group.workload.device,
        "dtype": group.dtype,
        "direction": group.direction,
        "threads": group.threads,
        "variant": variant.name,
        "kind": variant.kind,
        "layout": variant.layout,
        "error": verdict.error if verdict else None,
        "allowed_error": verdict.allowed if verdict else None,
        "reason": "",
        **more,
    }


def _ceiling(group: Group, rates: Rates, timings: list[Timing]) -> tuple[float, str]:
    """The most multiply-adds a second that are known of here, and what does them: a ceiling, or a variant above it."""
    unit = "matrix" if group.benchmark.matrix and group.dtype in ("float16", "bfloat16") else "fma"
    products = group.benchmark.products(group.workload.params, group.direction)
    fastest = max((products / timing.median for timing in timings), default=0.0)
    if fastest > rates[unit]:
        return fastest, "the fastest of these"
    return rates[unit], rates[f"{unit}_by"]


def _figures(
    timing: Timing, timings: dict[str, Timing], traffic: int, group: Group, ceiling: tuple[float, str]
) -> dict[str, Any]:
    """A variant's time in relation to what must be moved and computed."""
    figures: dict[str, Any] = {
        "seconds": timing.median,
        "quartiles": [timing.low, timing.high],
        "samples": timing.samples,
    }
    if _COPY not in timings:
        return figures
    products = group.benchmark.products(group.workload.params, group.direction)
    copy, arithmetic = timings[_COPY].median, products / ceiling[0]
    floor = max(copy, arithmetic)
    figures |= {
        "bytes": traffic,
        "products": products,
        "bytes_per_second": traffic / timing.median,
        "products_per_second": products / timing.median,
        "copy_bytes_per_second": traffic / copy,
        "floor_seconds": floor,
        "floor_by": "memory" if copy >= arithmetic else "arithmetic",
        "products_ceiling": ceiling[0],
        "products_ceiling_by": ceiling[1],
        "floor_multiple": timing.median / floor,
    }
    if _FRESH in timings:
        figures |= {
            "copy_seconds": timings[_FRESH].median,
            "copy_multiple": timing.median / timings[_FRESH].median,
        }
    return figures
