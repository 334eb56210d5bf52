"""What a report holds of one variant, and the most that the machine is known to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

import torch

from .ceilings import Rates
from .check import Verdict
from .judge import Record
from .plan import Group
from .timing import Timing
from .variants import first_line, launch_errors

__all__ = ["ceiling_of", "judged", "record_of"]


class Named(Protocol):
    """What a variant is called."""

    @property
    def name(self) -> str:
        """A backend, or the name of a baseline."""

    @property
    def kind(self) -> str:
        """``"kernel"``, ``"eager"``, ``"library"``, ``"compile"`` or, of networks, ``"graph"``."""

    @property
    def layout(self) -> str:
        """Memory layout of clips."""


class Judged(Protocol):
    """A variant that is ready to be timed."""

    @property
    def verdict(self) -> Verdict:
        """On its results."""


N = TypeVar("N", bound=Named)
J = TypeVar("J", bound=Judged)


def judged(group: Group, variants: Iterable[N], prepare: Callable[[N], J]) -> tuple[list[J], list[Record]]:
    """Prepare the variants of a group and keep those with right results.

    Args:
        group: what is measured.
        variants: how.
        prepare: runs a variant once and judges its results; what it raises makes a kernel wrong, any other variant
            unavailable.

    Returns:
        What to time, and records of those that are wrong or do not run.
    """
    ready: list[J] = []
    records: list[Record] = []
    for variant in variants:
        try:
            found = prepare(variant)
        except launch_errors() as error:
            ours = variant.kind == "kernel" and not isinstance(error, torch.OutOfMemoryError)
            status = "wrong" if ours else "unavailable"
            records.append(record_of(group, variant, status=status, reason=first_line(error)))
            continue
        if reason := found.verdict.reason:
            records.append(record_of(group, variant, found.verdict, status="wrong", reason=reason))
        else:
            ready.append(found)
    return ready, records


def record_of(group: Group, variant: Named, verdict: Verdict | None = None, **more: Any) -> Record:
    """What a report says of a variant of a group, before and beside its figures.

    Args:
        group: what was measured.
        variant: how.
        verdict: on its results; None where there are none.
        more: further entries.
    """
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


def ceiling_of(group: Group, rates: Rates, timings: list[Timing]) -> tuple[float, str]:
    """The most multiply-adds a second that are known of here, and what does them: a ceiling, or a variant above it."""
    unit = "matrix" if group.benchmark.matrix and group.dtype in ("float16", "bfloat16") else "fma"
    products = group.benchmark.products(group.workload.params, group.direction)
    fastest = max((products / timing.median for timing in timings), default=0.0)
    if fastest > rates[unit]:
        return fastest, "the fastest of these"
    return rates[unit], rates[f"{unit}_by"]
