"""What measurements mean: ratios to the baselines, and whether targets are met."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from .case import Target

__all__ = ["FOREIGN_LOAD_LIMIT", "Record", "relate"]

FOREIGN_LOAD_LIMIT = 0.3  # cores that others may keep busy while CPU targets are judged
Record = dict[str, Any]


def relate(records: Sequence[Record], targets: Sequence[Target]) -> None:
    """Add to each kernel's record its ratios to the baselines, and its targets with what became of them.

    Args:
        records: of one group.
        targets: of its workload.

    Example:
        >>> common = {"status": "ok", "direction": "forward", "device": "cuda", "layout": "NCTHW"}
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
            record["ratios"] = {name: t / own for (_, name), t in times.items()}
            record["best"] = {
                kind: {"variant": name, "ratio": t / own} for kind, (t, name) in fastest.items()
            }
        record["targets"] = [
            _judge(target, record)
            for target in targets
            if target.direction == record["direction"]
            and (not target.layouts or record["layout"] in target.layouts)
        ]


def _judge(target: Target, record: Record) -> dict[str, Any]:
    value: float | None = None
    if record["status"] == "ok":
        if target.metric == "speedup":
            best = record["best"].get("eager", {}).get("ratio")
            value = record["ratios"].get(target.against) if target.against else best
        else:
            key = {"floor": "floor_multiple", "copy": "copy_multiple", "seconds": "seconds"}[target.metric]
            value = record.get(key)
    judged = {"text": target.text(), "metric": target.metric, "limit": target.limit, "value": value}
    if record["status"] != "ok":
        return {**judged, "verdict": "missed", "why": record["reason"]}
    if value is None:
        return {**judged, "verdict": "not judged", "why": "its baseline did not run"}
    why = _disturbed(record)
    if why:
        return {**judged, "verdict": "not judged", "why": why}
    return {**judged, "verdict": "met" if target.met(value) else "missed", "why": ""}


def _disturbed(record: Record) -> str:
    """Why a CPU figure is not fit to be judged, or nothing."""
    if record["device"] != "cpu":
        return ""
    load, threads = record["foreign_load"], record["threads"]
    if load is None:
        return "this system does not tell how busy others keep it"
    if load > FOREIGN_LOAD_LIMIT:
        return f"others kept {load:.2f} cores busy, {FOREIGN_LOAD_LIMIT} is the limit"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{threads} threads on {cores} cores" if threads > cores else ""
