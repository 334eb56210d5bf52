"""Runs the cases: plans groups, checks variants, times them in turns, relates them to the ceilings."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Protocol

import torch

from . import machine
from .case import Benchmark, Workload
from .ceilings import Rates, copy_step, measure_rates
from .judge import FOREIGN_LOAD_LIMIT, Record, relate
from .plan import Group, Options, left_out, plan
from .records import ceiling_of, judged, record_of
from .timing import Timing, clock_for, interleave
from .variants import Data, Prepared, Variant, compiled

__all__ = ["FORMAT", "Group", "Options", "plan", "run", "variants"]

FORMAT = 1

_COPY, _FRESH = "copy", "fresh copy"


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
    data: Measured | None = None
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
                dtype = getattr(torch, group.dtype)
                if data is None or (data.workload, data.dtype) != (group.workload, dtype):
                    data = None  # the old tensors go before the new ones come
                    data = _measured(group, dtype)
                if options.compile:
                    torch.compiler.reset()  # all groups compile one function, eager after its eighth version
                records = data.measure(group, rates[key], options)
                relate(records, group.workload.targets, report["results"])
            report["results"] += records
            report["left"].remove(group.name)
            report["foreign_load"] = meter.so_far()
            if finished:
                finished(records, report)
    report["foreign_load"] = meter.cores
    return report


class Measured(Protocol):
    """The inputs of a workload in a dtype, and what measures the variants of a group on them."""

    workload: Workload
    dtype: torch.dtype

    def measure(self, group: Group, rates: Rates, options: Options) -> list[Record]:
        """A record a variant."""


class MeasuredOperator:
    """See `Measured`."""

    def __init__(self, benchmark: Benchmark, workload: Workload, dtype: torch.dtype) -> None:
        self.workload, self.dtype = workload, dtype
        self.data = Data(benchmark, workload, dtype)

    def measure(self, group: Group, rates: Rates, options: Options) -> list[Record]:
        """A record a variant."""
        return _measure(group, self.data, rates, options)


def _measured(group: Group, dtype: torch.dtype) -> Measured:
    if isinstance(group.benchmark, Benchmark):
        return MeasuredOperator(group.benchmark, group.workload, dtype)
    from .network_timing import MeasuredNetwork

    return MeasuredNetwork(group.workload, dtype)


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
    if not isinstance(benchmark, Benchmark):
        raise TypeError(f"{group.name} is no operator's group")

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
    chosen = variants(group, compile_reference=options.compile)
    ready, records = judged(group, chosen, lambda variant: data.prepare(variant, direction))
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
    ceiling = ceiling_of(group, rates, [timings[p.variant.key] for p in ready])
    for prepared in ready:
        record = record_of(group, prepared.variant, prepared.verdict, status="ok")
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
