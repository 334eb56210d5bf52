"""What measurements mean: ratios to the baselines, and whether targets are met."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from .case import Target

__all__ = ["FOREIGN_LOAD_LIMIT", "Record", "overloaded", "relate"]

FOREIGN_LOAD_LIMIT = 0.3  # cores that others may keep busy while CPU targets are judged
Record = dict[str, Any]


def relate(records: Sequence[Record], targets: Sequence[Target], before: Sequence[Record] = ()) -> None:
    """Add to each kernel's record its ratios to the baselines, and its targets with what became of them.

    Args:
        records: of one group.
        targets: of its workload.
        before: of the groups that ran before, for what a kernel's forward took.

    Example:
        >>> common = {"status": "ok", "direction": "forward", "device": "cuda"}
        >>> kernel = {**common, "kind": "kernel", "variant": "cuda", "seconds": 1.0}
        >>> relate([kernel, {**common, "kind": "eager", "variant": "cat", "seconds": 3.0}], [])
        >>> kernel["ratios"], kernel["targets"]
        ({'cat': 3.0}, [])
    """
    times = {
        (r["kind"], r["variant"]): r["seconds"]
        for r in records
        if r["status"] == "ok" and r["kind"] != "kernel"
    }
    fastest = {
        kind: min((t, name) for (k, name), t in times.items() if k == kind) for kind in {k for k, _ in times}
    }
    for record in records:
        if record["kind"] != "kernel":
            continue
        if record["status"] == "ok":
            own = record["seconds"]
            record["own_forward_multiple"] = _of_own_forward(record, before)
            record["ratios"] = {name: t / own for (_, name), t in times.items()}
            record["best"] = {
                kind: {"variant": name, "ratio": t / own} for kind, (t, name) in fastest.items()
            }
        record["targets"] = [
            _judge(target, record)
            for target in targets
            if target.concerns(record["direction"], record["dtype"], record["layout"])
        ]


_KEYS = {
    "floor": "floor_multiple",
    "copy": "copy_multiple",
    "own forward": "own_forward_multiple",
    "seconds": "seconds",
}
_SAME = ("operator", "workload", "device", "dtype", "threads", "variant", "layout")


def _of_own_forward(record: Record, before: Sequence[Record]) -> float | None:
    """How many times its own forward a kernel's gradients take; None where that did not run in the same report."""
    if record["direction"] != "backward":
        return None
    for other in before:
        forward = (other["kind"], other["direction"], other["status"]) == ("kernel", "forward", "ok")
        if forward and all(other[key] == record[key] for key in _SAME):
            return float(record["seconds"] / other["seconds"])
    return None


def _judge(target: Target, record: Record) -> dict[str, Any]:
    value: float | None = None
    if record["status"] == "ok":
        if target.metric == "speedup":
            best = record["best"].get("eager", {}).get("ratio")
            value = record["ratios"].get(target.against) if target.against else best
        elif target.metric == "share":
            value = _share(record)
        else:
            value = record.get(_KEYS[target.metric])
    judged = {"text": target.text(), "metric": target.metric, "limit": target.limit, "value": value}
    if target.stretch:
        judged["stretch"] = True
    if record["status"] != "ok":
        return {**judged, "verdict": "missed", "why": record["reason"]}
    if value is None:
        missing = "forward" if target.metric == "own forward" else "baseline"
        return {**judged, "verdict": "not judged", "why": f"its {missing} did not run"}
    why = _disturbed(record)
    if why:
        return {**judged, "verdict": "not judged", "why": why}
    return {**judged, "verdict": "met" if target.met(value) else "missed", "why": ""}


def _share(record: Record) -> float | None:
    """Multiply-adds that must be done, a second, of the most that are known of here."""
    ceiling = record.get("products_ceiling")
    return float(record["products_per_second"] / ceiling) if ceiling else None


def _disturbed(record: Record) -> str:
    """Why a figure is not fit to be judged on this machine, or nothing."""
    why = overloaded(record)
    if why or record["device"] != "cpu":
        return why
    threads = record["threads"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{threads} threads on {cores} cores" if threads > cores else ""


def overloaded(record: Record) -> str:
    """Why other processes make a record's time mean nothing, or nothing where they do not.

    Args:
        record: of a kernel that was timed.

    Returns:
        The reason in words; a GPU's times do not suffer from what keeps the CPU busy.

    Example:
        >>> overloaded({"device": "cpu", "foreign_load": 0.5})
        'others kept 0.50 cores busy, 0.3 is the limit'
    """
    if record["device"] != "cpu":
        return ""
    load = record["foreign_load"]
    if load is None:
        return "this system does not tell how busy others keep it"
    return (
        f"others kept {load:.2f} cores busy, {FOREIGN_LOAD_LIMIT} is the limit"
        if load > FOREIGN_LOAD_LIMIT
        else ""
    )
