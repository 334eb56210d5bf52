"""Times networks: fused, on the reference, compiled, and on a GPU replayed from CUDA graphs."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from . import machine
from .case import Workload
from .ceilings import Rates
from .check import Verdict
from .judge import Record
from .networks import COMPILED_SLACK, NetworkData, graphed
from .plan import FUSED, Group, Options
from .records import ceiling_of, judged, record_of
from .timing import Effort, Timing, clock_for, interleave
from .variants import first_line

__all__ = ["MeasuredNetwork", "NetworkVariant", "network_variants"]

Step = Callable[[], Any]


@dataclass(frozen=True)
class NetworkVariant:
    """One way to run a network.

    Attributes:
        name: what a report calls it.
        kind: ``"kernel"``, ``"eager"``, ``"compile"`` or ``"graph"``.
        layout: memory layout of clip and weights.
        backend: of every operator; None for the automatic choice.
    """

    name: str
    kind: str
    layout: str
    backend: str | None


@dataclass
class Ready:
    """A variant with a right result, and what times it."""

    variant: NetworkVariant
    net: nn.Module
    step: Step
    verdict: Verdict


def network_variants(group: Group, *, compiled: bool = False) -> list[NetworkVariant]:
    """List what is timed in a network's group.

    Args:
        group: one of `vidops.bench.plan.plan`.
        compiled: ``torch.compile`` of the reference and of the fused networks too.

    Returns:
        Variants, the fused ones first.
    """
    layout = group.layouts[0]
    make = functools.partial(NetworkVariant, layout=layout)
    kernels = [make(b, "kernel", backend=None if b == FUSED else b) for b in group.backends]
    found = [*kernels, make("reference", "eager", backend="reference")]
    if group.workload.device == "cuda":
        found += [make(f"{k.name} graph", "graph", backend=k.backend) for k in kernels]
        found.append(make("graph", "graph", backend="reference"))
    if compiled:
        found += [make(f"compiled {k.name}", "compile", backend=k.backend) for k in kernels]
        found.append(make("torch.compile", "compile", backend="reference"))
    return found


class MeasuredNetwork:
    """See `vidops.bench.harness.Measured`.

    Args:
        workload: one of ``NETWORKS``.
        dtype: as of `NetworkData`.
    """

    def __init__(self, workload: Workload, dtype: torch.dtype) -> None:
        self.workload, self.dtype = workload, dtype
        self.data = NetworkData(workload, dtype)

    def measure(self, group: Group, rates: Rates, options: Options) -> list[Record]:
        """Check and time the variants of a group: a record a variant."""
        with _usual_mode(self.workload.device):
            ready, records = self._judged(group, options)
            try:
                return records + self._time(ready, group, rates, options)
            except torch.OutOfMemoryError as error:
                graphs = [r.variant for r in ready if r.variant.kind == "graph"]
                if not graphs:
                    raise
                reason = f"other variants need its memory: {first_line(error)}"
            for variant in graphs:
                records.append(record_of(group, variant, status="unavailable", reason=reason))
            ready = [r for r in ready if r.variant.kind != "graph"]
            return records + self._time(ready, group, rates, options)

    def _judged(self, group: Group, options: Options) -> tuple[list[Ready], list[Record]]:
        """The variants to time, and records of those that are wrong or do not run."""
        # What a training step keeps for backward would not fit a GPU once for each graph.
        pool = torch.cuda.graph_pool_handle() if self.workload.device == "cuda" else None
        chosen = network_variants(group, compiled=options.compile)
        return judged(group, chosen, lambda variant: self._prepare(variant, group.direction, pool))

    def _prepare(self, variant: NetworkVariant, direction: str, pool: Any) -> Ready:
        """Build a variant's step, and judge its result; graphs share a pool of memory."""
        data = self.data
        if variant.kind == "kernel":
            verdict = data.same_function(variant.backend, direction)
            if verdict.reason:
                net = data.network(variant.backend, direction)
                return Ready(variant, net, lambda: None, verdict)
        net = data.network(variant.backend, direction)
        compiled = variant.kind == "compile"
        timed = cast(nn.Module, torch.compile(net, dynamic=False)) if compiled else net
        with torch.inference_mode(direction == "inference"):
            step = data.step(timed, direction)
            if variant.kind == "graph":
                step = graphed(step, pool)
        slack = COMPILED_SLACK if compiled else None
        verdict = data.judge(data.results(net, direction, step), direction, slack)
        return Ready(variant, net, step, verdict)

    def _time(self, ready: list[Ready], group: Group, rates: Rates, options: Options) -> list[Record]:
        device, direction = group.workload.device, group.direction
        steps = {r.variant.name: r.step for r in ready}
        with machine.LoadMeter() as meter, torch.inference_mode(direction == "inference"):
            timings = interleave(steps, clock_for(device, direction), _effort(options, device))
        ceiling = ceiling_of(group, rates, list(timings.values()))
        products = group.benchmark.products(group.workload.params, direction)
        records = []
        for r in ready:
            record = record_of(group, r.variant, r.verdict, status="ok", foreign_load=meter.cores)
            record |= _figures(timings[r.variant.name], self.data.clip[0], products, ceiling)
            record |= self._memory(r, direction)
            records.append(record)
        return records

    def _memory(self, r: Ready, direction: str) -> dict[str, int | None]:
        """Most memory held beyond weights and clip, and beyond gradients too; a graph keeps its own."""
        if r.variant.kind == "graph":
            return {"peak_bytes": None, "extra_bytes": None}
        r.net.zero_grad(set_to_none=True)
        with torch.inference_mode(direction == "inference"):
            grown = machine.peak_growth(r.step, self.workload.device)
        gradients = sum(p.grad.nbytes for p in r.net.parameters() if p.grad is not None)
        return {"peak_bytes": grown, "extra_bytes": None if grown is None else max(0, grown - gradients)}


def _figures(timing: Timing, clips: int, products: int, ceiling: tuple[float, str]) -> dict[str, Any]:
    """A variant's time, and what it is of the time that the multiply-adds alone would take."""
    floor = products / ceiling[0]
    return {
        "seconds": timing.median,
        "quartiles": [timing.low, timing.high],
        "samples": timing.samples,
        "clips": clips,
        "clips_per_second": clips / timing.median,
        "products": products,
        "products_per_second": products / timing.median,
        "floor_seconds": floor,
        "floor_by": "arithmetic",
        "products_ceiling": ceiling[0],
        "products_ceiling_by": ceiling[1],
        "floor_multiple": timing.median / floor,
    }


def _effort(options: Options, device: str) -> Effort:
    """A sample on a GPU is many calls, so that a call's launches run on while the GPU works on the one before."""
    sample = 0.1 if device == "cuda" else 2e-3
    if options.quick:
        return Effort(rounds=5, least=2, budget=0.5, sample=sample)
    return Effort(rounds=7, least=3, budget=1.0, sample=sample)


@contextlib.contextmanager
def _usual_mode(device: str) -> Iterator[None]:
    """cuDNN tries its algorithms, as training does where all clips have one shape."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or device == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
