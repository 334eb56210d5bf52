"""Writes the README's table of speeds: ``python benchmarks/readme_table.py benchmarks/results/FILE.json``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vidops.bench.report import read_report, seconds_text

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- speed -->", "<!-- /speed -->"
DIRECTIONS = {
    "forward": "forward",
    "backward": "backward",
    "call": "one call, no gradients",
    "call_grad": "one call, with gradients",
}


def cells(records: list[dict[str, Any]], text: Callable[[dict[str, Any]], str]) -> str:
    """One figure a number of threads, side by side."""
    return " / ".join(text(r) for r in records)


def floor(record: dict[str, Any]) -> str:
    """How many times the machine's floor a call takes; the overhead of one call has none."""
    multiple = record.get("floor_multiple")
    return "-" if multiple is None else f"{multiple:.2f}"


def best(record: dict[str, Any]) -> str:
    """Against the fastest eager form, whatever the layout it wants."""
    eager = record["best"]["eager"]
    return f"{eager['ratio']:.2f} x {eager['variant']}"


def usual(record: dict[str, Any]) -> str:
    """Against the form that comes first in the operator's case: how the layer is written everywhere."""
    name, ratio = next(iter(record["ratios"].items()))
    return f"{ratio:.1f} x {name}"


def table(report: dict[str, Any], name: str) -> str:
    """Markdown of every right kernel of a report."""
    machine, versions = report["machine"], report["machine"]["versions"]
    rows: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for r in report["results"]:
        if r["kind"] == "kernel" and r["status"] == "ok":
            case = f"{r['workload']} {r['dtype']} {DIRECTIONS[r['direction']]}"
            rows.setdefault((r["operator"], r["variant"], case, r["layout"]), []).append(r)
    threads = sorted({r["threads"] for records in rows.values() for r in records if r["threads"]})
    lines = [
        f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores ({machine['cpu_level']}), torch"
        f" {versions['torch']}, {report['date'][:10]}, foreign load {report['foreign_load']:.2f} cores;"
        f" from [{name}](benchmarks/results/{name})."
        + (f" Pairs are {' / '.join(map(str, threads))} threads." if len(threads) > 1 else ""),
        "",
        "| operator | kernel | case | layout | time | x the floor | against the usual form | the fastest eager form |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (operator, variant, case, layout), records in rows.items():
        lines.append(
            f"| `{operator}` | {variant} | {case} | {layout} |"
            f" {cells(records, lambda r: seconds_text(r['seconds']))} | {cells(records, floor)} |"
            f" {cells(records, usual)} | {cells(records, best)} |"
        )
    return "\n".join(lines)


def main(path: Path) -> None:
    """Replace what stands between the README's two marks."""
    text = README.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    README.write_text(f"{head}{BEGIN}\n{table(read_report(path), path.name)}\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
