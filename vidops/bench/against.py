"""A report beside an older one: which kernels became slower, which faster, which are missing or wrong now.

A time says something of a kernel only where the machine and its state are the same. So a kernel is judged by a
ratio taken inside its own run: where bytes are its floor the multiple of that, otherwise its time over that of an eager
form which both reports hold. On the same machine, as long as what it was compared with runs
as fast as it did, its time has to have changed as well. A change counts beyond the tolerance and beyond the quartiles
of both runs.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .judge import Record, overloaded
from .plan import selects
from .report import number_text, seconds_text

__all__ = ["TOLERANCE", "Change", "Comparison", "compare", "compare_lines"]

TOLERANCE = 0.1
Report = dict[str, Any]


@dataclass(frozen=True)
class Measure:
    """One figure of a kernel, the less the better: before and now, and between which quartiles it lay each time."""

    name: str
    before: float
    now: float
    before_range: tuple[float, float]
    now_range: tuple[float, float]

    @property
    def ratio(self) -> float:
        """Now over before."""
        return self.now / self.before

    def verdict(self, tolerance: float) -> str:
        """``"slower"``, ``"faster"`` or ``"same"``."""
        if self.ratio > 1 + tolerance and self.now_range[0] > self.before_range[1]:
            return "slower"
        if self.ratio < 1 / (1 + tolerance) and self.now_range[1] < self.before_range[0]:
            return "faster"
        return "same"


@dataclass(frozen=True)
class Change:
    """What became of one kernel: ``"slower"``, ``"faster"``, ``"same"`` or ``"not judged"``, and then why."""

    now: Record
    before: Record
    same_machine: bool
    verdict: str
    measures: tuple[Measure, ...] = ()
    why: str = ""

    @property
    def timed(self) -> bool:
        """Whether its time was judged too."""
        return any(measure.name == "seconds" for measure in self.measures)


@dataclass(frozen=True)
class Comparison:
    """What became of every kernel of an older report.

    Attributes:
        of_report: the older report's date and revision.
        tolerance: share of a figure that it may change by without a word.
        changes: kernels that both reports hold with a time, the greatest change first.
        wrong: records of kernels whose results were right and are wrong now.
        missing: records of kernels that the new run should have measured and did not.
        left_out: how many kernels of the old report the new run's options did not choose.
        added: how many kernels only the new report holds.
        another: the older report's machine, where it is another one.
    """

    of_report: str
    tolerance: float
    changes: tuple[Change, ...]
    wrong: tuple[Record, ...]
    missing: tuple[Record, ...]
    left_out: int
    added: int
    another: str

    def of(self, verdict: str) -> list[Change]:
        """The changes with a verdict."""
        return [change for change in self.changes if change.verdict == verdict]

    @property
    def judged(self) -> bool:
        """Whether a kernel was judged at all; a comparison of none shows nothing."""
        return len(self.of("not judged")) < len(self.changes) or bool(self.wrong or self.missing)


def compare(report: Report, before: Report, tolerance: float = TOLERANCE) -> Comparison:
    """Tell which kernels of a report are slower or faster than in an older one.

    Args:
        report: the new report.
        before: the old one.
        tolerance: share of a figure that it may change by without a word.

    Returns:
        What became of every kernel.

    Raises:
        ValueError: the tolerance is negative.

    Example:
        >>> machine = {"cpu": "X", "cores": 2, "gpu": None}
        >>> def report(seconds):
        ...     record = {"group": "g", "device": "cuda", "variant": "cuda", "layout": "NCTHW", "status": "ok"}
        ...     record |= {"kind": "kernel", "seconds": seconds, "quartiles": [seconds, seconds]}
        ...     return {"date": "2026-01-01", "machine": machine, "results": [record]}
        >>> [change.verdict for change in compare(report(1.2), report(1.0)).changes]
        ['slower']
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0, got {tolerance}")
    new, old = _kernels(report), _kernels(before)
    same = {device: _machine(report, device) == _machine(before, device) for device in ("cpu", "cuda")}
    shared = [key for key in old if key in new]
    done = [key for key in shared if new[key]["status"] == old[key]["status"] == "ok"]
    changes = [
        _change(
            new[key],
            old[key],
            _baselines(report, key[0]),
            _baselines(before, key[0]),
            same[new[key]["device"]],
            tolerance,
        )
        for key in done
    ]
    gone = [old[key] for key in old if key not in new and old[key]["status"] == "ok"]
    missing = [record for record in gone if _chosen(record, report)]
    lost = [old[k] for k in shared if new[k]["status"] not in ("ok", "wrong") and old[k]["status"] == "ok"]
    devices = {new[key]["device"] for key in done}
    others = sorted({_machine(before, device) for device in devices if not same[device]})
    revision = before["machine"].get("revision")
    return Comparison(
        f"{before['date']} ({revision})" if revision else before["date"],
        tolerance,
        tuple(sorted(changes, key=_size, reverse=True)),
        tuple(new[k] for k in shared if new[k]["status"] == "wrong" and old[k]["status"] != "wrong"),
        (*missing, *lost),
        len(gone) - len(missing),
        sum(key not in old for key in new),
        " and ".join(others),
    )


def _kernels(report: Report) -> dict[tuple[str, str, str], Record]:
    return {(r["group"], r["variant"], r["layout"]): r for r in report["results"] if r["kind"] == "kernel"}


def _baselines(report: Report, group: str) -> dict[str, Record]:
    return {
        r["variant"]: r
        for r in report["results"]
        if r["group"] == group and r["kind"] != "kernel" and r["status"] == "ok"
    }


def _machine(report: Report, device: str) -> str:
    machine = report["machine"]
    if device == "cuda" and machine["gpu"]:
        return str(machine["gpu"]["name"])
    return f"{machine['cpu']}, {machine['cores']} cores"


def _chosen(record: Record, report: Report) -> bool:
    """Whether a run should hold a kernel of another report, by its options and its time; a quick one holds few."""
    options = report.get("options", {})
    if record["group"] in report.get("left", ()):
        return False  # its time had run out
    if record["device"] == "cuda" and not report["machine"]["gpu"]:
        return False
    if options.get("quick"):
        places = {(r["group"], r["layout"]) for r in report["results"] if r["kind"] == "kernel"}
        return (record["group"], record["layout"]) in places
    return (
        any(selects(part, record["group"]) for part in (options.get("pattern") or "").split(", "))
        and (not options.get("backends") or record["variant"] in options["backends"])
        and (not options.get("threads") or record["threads"] in (None, *options["threads"]))
    )


def _change(
    now: Record,
    before: Record,
    now_forms: dict[str, Record],
    before_forms: dict[str, Record],
    same_machine: bool,
    tolerance: float,
) -> Change:
    forms = [(now_forms[name], before_forms[name]) for name in before_forms if name in now_forms]
    floors, beside = _floors(now, before), _forms(now, before, forms)
    # A copy is timed in turns with the kernel, the rate of multiply-adds once in a run.
    by_copy = now.get("floor_by") == "memory"
    measures = [m for m in ((floors or beside) if by_copy else (beside or floors),) if m]
    if same_machine and _steady(now, before, forms, tolerance):
        measures.append(Measure("seconds", before["seconds"], now["seconds"], _range(before), _range(now)))
    found = tuple(measures)
    why = next((why for why in map(overloaded, (now, before)) if why), "")
    if not why and not found:
        why = "nothing in common that its time could be related to"
    if why:
        return Change(now, before, same_machine, "not judged", found, why)
    verdicts = {measure.verdict(tolerance) for measure in found}
    return Change(now, before, same_machine, verdicts.pop() if len(verdicts) == 1 else "same", found)


def _range(record: Record, over: float = 1.0) -> tuple[float, float]:
    low, high = record["quartiles"]
    return low / over, high / over


def _floors(now: Record, before: Record) -> Measure | None:
    """The multiples of the floor, unless the floor is another one now or is the kernel's own time."""
    pair = (now, before)
    if not all(r.get("floor_multiple") for r in pair) or any(
        r["floor_by"] == "arithmetic" and r.get("products_ceiling_by") == "the fastest of these" for r in pair
    ):
        return None
    if any(now.get(key) != before.get(key) for key in ("bytes", "products", "floor_by")):
        return None
    ranges = [_range(r, r["floor_seconds"]) for r in pair]
    return Measure("x floor", before["floor_multiple"], now["floor_multiple"], ranges[1], ranges[0])


def _forms(now: Record, before: Record, forms: Sequence[tuple[Record, Record]]) -> Measure | None:
    """The time over that of the form which was the fastest before."""
    if not forms:
        return None
    here, there = min(forms, key=lambda pair: float(pair[1]["seconds"]))

    def span(record: Record, form: Record) -> tuple[float, float]:
        return record["quartiles"][0] / form["quartiles"][1], record["quartiles"][1] / form["quartiles"][0]

    return Measure(
        f"x {here['variant']}",
        before["seconds"] / there["seconds"],
        now["seconds"] / here["seconds"],
        span(before, there),
        span(now, here),
    )


def _steady(now: Record, before: Record, forms: Sequence[tuple[Record, Record]], tolerance: float) -> bool:
    """Whether what a kernel is compared with, eager forms and the copy, takes as long as it did."""
    drifts = [here["seconds"] / there["seconds"] for here, there in forms]
    if all("copy_bytes_per_second" in r for r in (now, before)) and now["bytes"] == before["bytes"]:
        drifts.append(before["copy_bytes_per_second"] / now["copy_bytes_per_second"])
    return not drifts or 1 / (1 + tolerance) <= statistics.median(drifts) <= 1 + tolerance


def _size(change: Change) -> float:
    return change.measures[0].ratio if change.measures else 1.0


def compare_lines(found: Comparison) -> list[str]:
    """Say what became of the kernels of an older report.

    Args:
        found: what :func:`compare` returned.

    Returns:
        Lines: what is slower first, then what is faster, not judged, wrong or missing; the rest is counted.

    Example:
        >>> report = {"date": "2026-01-01", "machine": {"cpu": "X", "cores": 2, "gpu": None}, "results": []}
        >>> compare_lines(compare(report, report))
        ['against the report of 2026-01-01, beyond 10 %: no kernel in common, nothing was compared']
    """
    head = f"against the report of {found.of_report}, beyond {100 * found.tolerance:g} %"
    if not found.changes and not found.wrong and not found.missing:
        return [f"{head}: no kernel in common, nothing was compared"]
    told = [
        f"{len(found.of(verdict))} {verdict}"
        for verdict in ("slower", "faster", "same", "not judged")
        if found.of(verdict)
    ]
    lines = [f"{head}: {', '.join(told) or 'no kernel measured in both'}"]
    if found.another:
        lines.append(f"  that was another machine ({found.another}): ratios are compared, times are not")
    unsteady = sum(c.same_machine and c.verdict != "not judged" and not c.timed for c in found.changes)
    if unsteady:
        lines.append(f"  {unsteady} by ratios alone: what they are related to took another time then, too")
    lines += [f"  SLOWER  {_told(change)}" for change in found.of("slower")]
    lines += [f"  faster  {_told(change)}" for change in reversed(found.of("faster"))]
    lines += _unjudged(found.of("not judged"))
    if not found.judged:
        lines.append("  NO kernel was judged: this run neither shows nor rules out a slower one")
    lines += [f"  wrong now  {_name(r)}: {r['reason']}" for r in found.wrong]
    lines += [f"  missing  {_name(r)}" for r in found.missing]
    if found.left_out:
        lines.append(
            f"  {found.left_out} kernels of that report were not asked for this time, or cannot run here"
        )
    if found.added:
        lines.append(f"  {found.added} kernels are not in that report")
    return lines


def _unjudged(changes: Sequence[Change]) -> list[str]:
    """Kernels that were not judged, those of one group and reason in one line."""
    lines: dict[str, int] = {}
    for change in changes:
        key = f"  not judged  {change.now['group']}: {change.why}"
        lines[key] = lines.get(key, 0) + 1
    return [f"{line} ({count} kernels)" if count > 1 else line for line, count in lines.items()]


def _name(record: Record) -> str:
    return f"{record['group']} {record['variant']} {record['layout']}"


def _told(change: Change) -> str:
    parts = []
    for m in change.measures:
        text = seconds_text if m.name == "seconds" else number_text
        name = "time" if m.name == "seconds" else m.name
        parts.append(f"{name} {text(m.before)} -> {text(m.now)} ({number_text(m.ratio)} times)")
    return f"{_name(change.now)}: {', '.join(parts)}"
