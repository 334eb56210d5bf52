"""What is wrong with a report's content, where its format is right."""

from __future__ import annotations

from typing import Any

__all__ = ["damage"]

_TEXTS = ("group", "operator", "workload", "device", "dtype", "direction", "variant", "kind", "layout")
_FIGURES = ("_multiple", "_seconds", "_per_second", "bytes", "_load")


def damage(report: dict[str, Any]) -> str:
    """Say what a report lacks of what tables, comparisons and pictures rely on.

    Args:
        report: a JSON object.

    Returns:
        The first fault in words, "" where there is none.

    Example:
        >>> damage({"date": "2026-01-01"})
        'machine is no table'
    """
    if not isinstance(report.get("date"), str):
        return "date is no text"
    if fault := _machine(report.get("machine")):
        return fault
    options = report.get("options")
    if not isinstance(options, dict) or not isinstance(options.get("pattern"), str):
        return "options is no table with a pattern"
    for name in ("ceilings", "results"):
        if not isinstance(report.get(name), list) or not all(isinstance(e, dict) for e in report[name]):
            return f"{name} is no list of tables"
    for number, record in enumerate(report["results"], 1):
        if fault := _record(record):
            return f"record {number} of results: {fault}"
    return ""


def _machine(machine: Any) -> str:
    if not isinstance(machine, dict):
        return "machine is no table"
    if missing := [
        n for n in ("cpu", "cores", "cpu_level", "gpu", "revision", "versions") if n not in machine
    ]:
        return f"machine has no {', '.join(missing)}"
    gpu = machine["gpu"]
    if gpu is not None and not (isinstance(gpu, dict) and isinstance(gpu.get("name"), str)):
        return "the machine's gpu is no table with a name"
    return "" if isinstance(machine["versions"], dict) else "the machine's versions are no table"


def _record(record: dict[str, Any]) -> str:
    for name in (*_TEXTS, "status", "reason"):
        if not isinstance(record.get(name), str):
            return f"{name} is missing or no text"
    threads = record.get("threads", "")
    if threads is not None and not isinstance(threads, int):
        return "threads is missing or no whole number"
    targets = record.get("targets", () if record["kind"] != "kernel" else None)
    if not isinstance(targets, (list, tuple)) or not all(
        isinstance(t, dict) and "verdict" in t for t in targets
    ):
        return "targets is missing or no list of targets"
    if record["status"] != "ok":
        return ""
    for name in ("seconds", "error"):
        if not _number(record.get(name)):
            return f"{name} is missing or no number"
    quartiles = record.get("quartiles")
    if not isinstance(quartiles, list) or len(quartiles) != 2 or not all(map(_number, quartiles)):
        return "quartiles is missing or no pair of numbers"
    if "foreign_load" not in record:
        return "foreign_load is missing"
    for name, value in record.items():  # all other figures: there or not, by the direction
        if name.endswith(_FIGURES) and value is not None and not _number(value):
            return f"{name} is no number"
    return ""


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
