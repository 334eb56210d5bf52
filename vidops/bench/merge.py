"""Several reports of one machine as one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["merge"]


def merge(reports: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Put reports of one machine together: runs of one operator each, or one that went on where another stopped.

    Args:
        reports: as :func:`vidops.bench.run` gives them; where two hold a group, the later one's records stand.

    Returns:
        The report, dated by the first. Of each kind of ceiling it holds the highest that was measured.

    Raises:
        ValueError: there is none, or two are of different machines, versions or revisions.

    Example:
        >>> one = {"machine": {}, "options": {"pattern": "a"}, "ceilings": [], "results": [{"group": "a"}]}
        >>> both = merge([one, {**one, "options": {"pattern": "b"}, "results": [{"group": "b"}]}])
        >>> both["options"]["pattern"], [record["group"] for record in both["results"]]
        ('a, b', ['a', 'b'])
    """
    reports = list(reports)
    if not reports:
        raise ValueError("reports: there are none to put together")
    first, *others = reports
    if not others:
        return first
    groups: dict[str, list[dict[str, Any]]] = {}
    left: dict[str, None] = {}
    for report in reports:
        _check_same_machine(first["machine"], report["machine"])
        found: dict[str, list[dict[str, Any]]] = {}
        for record in report["results"]:
            found.setdefault(record["group"], []).append(record)
        groups |= found
        left |= dict.fromkeys(report.get("left", ()))
    loads = [r["foreign_load"] for r in reports if r.get("foreign_load") is not None]
    patterns = ", ".join(dict.fromkeys(r["options"]["pattern"] for r in reports))
    return {
        **first,
        "options": {**first["options"], "pattern": patterns},
        "left_out": list(dict.fromkeys(line for r in reports for line in r.get("left_out", ()))),
        "left": [name for name in left if name not in groups],
        "ceilings": _highest([ceiling for r in reports for ceiling in r["ceilings"]]),
        "results": [record for records in groups.values() for record in records],
        "foreign_load": max(loads, default=None),
    }


def _check_same_machine(one: dict[str, Any], other: dict[str, Any]) -> None:
    for key in sorted(one.keys() | other.keys()):
        if one.get(key) != other.get(key):
            what = "revisions differ:" if key == "revision" else f"machines differ: {key} is"
            raise ValueError(f"reports: their {what} {one.get(key)!r} and {other.get(key)!r}")


def _highest(ceilings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each device and number of threads one entry, with the highest of each rate and what reached it."""
    best: dict[tuple[Any, Any], dict[str, Any]] = {}
    for ceiling in ceilings:
        kept = best.setdefault((ceiling["device"], ceiling["threads"]), dict(ceiling))
        for rate in ("fma", "matrix"):
            if ceiling[rate] > kept[rate]:
                kept |= {rate: ceiling[rate], f"{rate}_by": ceiling[f"{rate}_by"]}
    return list(best.values())
