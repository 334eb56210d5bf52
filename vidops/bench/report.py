"""The table on the terminal, and the JSON file beside it."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._files import write_text
from .damage import damage
from .harness import FORMAT
from .judge import Record

__all__ = [
    "LEGEND",
    "group_lines",
    "grouped",
    "head_lines",
    "number_text",
    "read_report",
    "seconds_text",
    "summary_lines",
    "value_text",
    "write_report",
]

_BYTES, _CLIPS = "GB/s", "clips/s"  # a network's rate stands where an operator's does
# title, width; numbers are set to the right
_COLUMNS = (
    ("", 15),
    ("layout", 7),
    ("time", 10),
    (_BYTES, 7),
    ("x floor", 8),
    ("x copy", 7),
    ("vs eager", 9),
    ("+memory", 9),
    ("error", 8),
)
_LEFT = 2
LEGEND = """\
columns:
  (first)    a kernel, or "- " and a form of eager PyTorch it is compared with: conv2d, conv3d (grouped
             convolutions; _last: on channels-last memory), cat, slices (pieces moved and put together), ...;
             * marks the fastest of them
  layout     of the clip in memory: NCTHW, NTCHW, or channels-last NTHWC
  GB/s       bytes that must be moved, over the time taken
  x floor    times the least possible time: those bytes at the rate of a plain copy here, or the multiply-adds
             at the best rate known here, a matrix product's or the fastest variant's, whichever is longer
  x copy     times what a copy of as many bytes took in the same run
  vs eager   speed-up over the fastest form of eager PyTorch
  +memory    most memory held besides inputs and results
  error      largest difference from fp64, over the largest value in fp64; of a network, norm over norm
networks (`vidops bench network`): clips/s; x floor is times what their multiply-adds alone would take, vs eager the
             speed-up over the same network on the reference, +memory is held besides weights, clips and gradients;
             graph: the reference replayed from a CUDA graph, fused graph: the fused network
foreign load: cores that other processes kept busy meanwhile; above 0.3 no target of the CPU is judged
"""
_DIRECTIONS = {"call": "one call, no gradients", "call_grad": "one call, with gradients"}


def head_lines(report: dict[str, Any]) -> list[str]:
    """Say what was measured where.

    Example:
        >>> machine = {"cpu": "X", "cores": 2, "cpu_level": "avx2", "gpu": None, "revision": None}
        >>> head_lines({"date": "2026-01-01", "machine": {**machine, "versions": {}}})[0]
        'X, 2 cores, avx2 kernels'
    """
    machine = report["machine"]
    gpu = f"{machine['gpu']['name']}; " if machine["gpu"] else ""
    level = f", {machine['cpu_level']} kernels" if machine["cpu_level"] else ", no CPU kernels"
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    revision = f" ({machine['revision']})" if machine["revision"] else ""
    return [
        f"{gpu}{machine['cpu']}, {machine['cores']} cores{level}",
        f"{versions}{revision}; {report['date']}",
    ]


def group_lines(records: Sequence[Record], *, targets: bool = True) -> list[str]:
    """Lay the records of one group out: a heading, a line a variant, a line a target.

    Args:
        records: of one group, as the harness gives them.
        targets: whether to say what became of the targets.

    Returns:
        Lines of at most 110 columns.

    Example:
        >>> from .harness import Options, run
        >>> report = run(Options("temporal_shift/cpu/1x8x4x2x2*call", ("reference",), threads=(1,)))
        >>> group_lines(report["results"])[0]
        'temporal_shift  1x8x4x2x2 float32 on cpu, 1 thread: one call, no gradients'
    """
    first = records[0]
    threads = "" if first["threads"] is None else f", {first['threads']} thread{'s' * (first['threads'] > 1)}"
    direction = _DIRECTIONS.get(first["direction"], first["direction"])
    size = f"{first['workload']} {first['dtype']}"
    lines = [
        f"{first['operator']}  {size} on {first['device']}{threads}: {direction}",
        *_conditions(records),
        "  " + _row(_titles(records)).rstrip(),
    ]
    best = next((r["best"].get("eager", {}).get("variant") for r in records if r.get("best")), None)
    for record in records:
        if record["status"] != "ok":
            word = "WRONG" if record["status"] == "wrong" else "not run"
            lines.append(f"  {_label(record):<15}  {record['layout']:<7}  {word}: {record['reason']}"[:110])
            continue
        mark = " *" if record["variant"] == best and record["kind"] == "eager" else ""
        lines.append("  " + _row(_cells(record)).rstrip() + mark)
    for record in records:
        for target in record.get("targets", ()) if targets else ():
            lines.append("  " + _target_line(record, target))
    return lines


def grouped(report: dict[str, Any]) -> list[list[Record]]:
    """The records of a report, one list a group.

    Example:
        >>> grouped({"results": [{"group": "a"}, {"group": "a"}, {"group": "b"}]})[0]
        [{'group': 'a'}, {'group': 'a'}]
    """
    groups: dict[str, list[Record]] = {}
    for record in report["results"]:
        groups.setdefault(record["group"], []).append(record)
    return list(groups.values())


def _titles(records: Sequence[Record]) -> list[str]:
    network = any("clips_per_second" in record for record in records)
    return [_CLIPS if network and title == _BYTES else title for title, _ in _COLUMNS]


def _rate(record: Record) -> str:
    """Clips a second of a network, bytes a second of an operator."""
    if "clips_per_second" in record:
        return number_text(record["clips_per_second"])
    return number_text(record.get("bytes_per_second"), 1e9)


def _row(cells: Sequence[str]) -> str:
    return "  ".join(
        f"{cell:<{width}}" if i < _LEFT else f"{cell:>{width}}"
        for i, (cell, (_, width)) in enumerate(zip(cells, _COLUMNS, strict=True))
    )


def _label(record: Record) -> str:
    return record["variant"] if record["kind"] == "kernel" else f"- {record['variant']}"


def _cells(record: Record) -> list[str]:
    ratio = record.get("best", {}).get("eager", {}).get("ratio")
    return [
        _label(record),
        record["layout"],
        seconds_text(record["seconds"]),
        _rate(record),
        number_text(record.get("floor_multiple")),
        number_text(record.get("copy_multiple")),
        "" if ratio is None else f"{number_text(ratio)} x",
        "" if record.get("extra_bytes") is None else f"{record['extra_bytes'] / 2**20:.1f} MiB",
        "exact" if record["error"] == 0 else f"{record['error']:.0e}",
    ]


def _conditions(records: Sequence[Record]) -> list[str]:
    """The ceiling that was measured beside these variants, and the load of the machine."""
    done = [r for r in records if r["status"] == "ok"]
    if not done:
        return []
    record, parts = done[0], []
    if "copy_bytes_per_second" in record:
        megabytes, rate = record["bytes"] / 1e6, record["copy_bytes_per_second"] / 1e9
        by = record["floor_by"]
        if by == "arithmetic" and "products_ceiling" in record:
            by = f"{number_text(record['products_ceiling'], 1e9)} G products/s, {record['products_ceiling_by']}"
        floor = f"floor {seconds_text(record['floor_seconds'])} ({by})"
        parts.append(f"{megabytes:.1f} MB to move, copied at {rate:.1f} GB/s; {floor}")
    if "clips_per_second" in record:
        done_at = f"{number_text(record['products_ceiling'], 1e9)} G/s, {record['products_ceiling_by']}"
        floor = seconds_text(record["floor_seconds"])
        parts.append(f"{number_text(record['products'], 1e9)} G multiply-adds: {floor} at {done_at}")
    if record["device"] == "cpu":
        load = record["foreign_load"]
        parts.append("foreign load unknown" if load is None else f"foreign load {load:.2f}")
    return ["  " + "; ".join(parts)] if parts else []


def _target_line(record: Record, target: dict[str, Any]) -> str:
    verdict = {"met": "met", "missed": "MISSED"}.get(target["verdict"], "not judged")
    why = f" ({target['why']})" if target["why"] else ""
    return f"target {record['variant']} {record['layout']}: {target['text']}: {value_text(target)}, {verdict}{why}"


def value_text(target: dict[str, Any]) -> str:
    """Write what a kernel reached of a target.

    Example:
        >>> value_text({"metric": "floor", "value": 1.234}), value_text({"metric": "share", "value": 0.61})
        ('1.23 x', '61 %')
    """
    value, metric = target["value"], target["metric"]
    if value is None:
        return "-"
    if metric == "seconds":
        return seconds_text(value)
    return f"{100 * value:.0f} %" if metric == "share" else f"{number_text(value)} x"


def seconds_text(seconds: float) -> str:
    """Write a time with a unit that suits it.

    Example:
        >>> seconds_text(0.00123), seconds_text(2.5e-5), seconds_text(1.5)
        ('1.23 ms', '25.0 us', '1.50 s')
    """
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} us"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def number_text(value: float | None, unit: float = 1.0) -> str:
    """Write a number in at most four digits, nothing for None.

    Example:
        >>> number_text(1.234), number_text(56.78), number_text(4321e9, 1e9), number_text(None)
        ('1.23', '56.8', '4321', '')
    """
    if value is None:
        return ""
    value /= unit
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def summary_lines(report: dict[str, Any]) -> list[str]:
    """Count what came of the checks and targets.

    Example:
        >>> summary_lines({"results": []})
        ['0 kernels measured, no targets']
    """
    kernels = [r for r in report["results"] if r["kind"] == "kernel"]
    everything = [t for r in kernels for t in r["targets"]]
    targets, wishes = ([t for t in everything if t.get("stretch", False) == wish] for wish in (False, True))
    counts = {
        verdict: sum(t["verdict"] == verdict for t in targets) for verdict in ("met", "missed", "not judged")
    }
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    lines = [f"{len(kernels)} kernels measured, {f'targets: {told}' if told else 'no targets'}"]
    if wishes:
        reached = sum(t["verdict"] == "met" for t in wishes)
        lines.append(f"{reached} of {len(wishes)} stretch targets met")
    wrong = [r for r in report["results"] if r["status"] == "wrong"]
    lines += [f"WRONG: {r['variant']} in {r['group']}: {r['reason']}" for r in wrong]
    if report.get("left"):
        lines.append(f"not measured for want of time: {', '.join(report['left'])}")
    for line in report.get("left_out", ()):
        lines += textwrap.wrap(line, 110, subsequent_indent="    ", break_long_words=False)
    return lines


def write_report(path: str | Path, report: dict[str, Any]) -> None:
    """Write a report as JSON, whole or not at all.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "bench.json"
        >>> write_report(file, {"format": 1, "results": []})
        >>> read_report(file)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: report ...bench.json is damaged: date is no text
    """
    write_text(path, json.dumps(report, indent=1, allow_nan=False) + "\n")


def read_report(path: str | Path) -> dict[str, Any]:
    """Read a report that :func:`write_report` wrote.

    Args:
        path: the JSON file.

    Returns:
        The report.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not such a report, or is damaged.

    Example:
        >>> read_report("none.json")
        Traceback (most recent call last):
        FileNotFoundError: report none.json: no such file
    """
    path = Path(path)
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"report {path}: no such file") from None
    except IsADirectoryError:
        raise ValueError(f"report {path} is a folder") from None
    except ValueError as error:
        raise ValueError(f"report {path} is no JSON: {error}") from None
    if not isinstance(report, dict) or report.get("format") != FORMAT or "results" not in report:
        raise ValueError(f"report {path} was not written by `vidops bench --json` of this version")
    if fault := damage(report):
        raise ValueError(f"report {path} is damaged: {fault}")
    return report
