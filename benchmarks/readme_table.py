"""Writes the README's table of speeds: ``python benchmarks/readme_table.py benchmarks/results/FILE.json``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vidops.bench import load_benchmarks
from vidops.bench.report import read_report, seconds_text

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- speed -->", "<!-- /speed -->"
DIRECTIONS = {
    "forward": "forward",
    "backward": "backward",
    "call": "one call, no gradients",
    "call_grad": "one call, with gradients",
}


def cells(
    records: dict[int | None, dict[str, Any]],
    threads: list[int],
    text: Callable[[dict[str, Any]], str],
) -> str:
    """One figure a number of threads, side by side; a call of a few microseconds is measured on one number only."""
    if len(records) == 1 and next(iter(records.values()))["direction"].startswith("call"):
        return text(next(iter(records.values())))
    counts: list[int | None] = [*threads] if None not in records else [None]
    return " / ".join(text(records[n]) if n in records else "-" for n in counts)


def copies(record: dict[str, Any]) -> str:
    """How many times the time it takes to copy as many bytes; the cost of one call has no such measure."""
    multiple = record.get("floor_multiple")
    return "-" if multiple is None else f"{multiple:.2f}"


def best(record: dict[str, Any]) -> str:
    """Against the fastest eager form, whatever the layout it wants."""
    eager = record["best"]["eager"]
    return f"{eager['ratio']:.2f} x {eager['variant']}"


def usual(record: dict[str, Any]) -> str:
    """Against the form that comes first in the operator's case: how the layer is written everywhere."""
    name = next(iter(load_benchmarks()[record["operator"]].eager))
    ratio = record["ratios"].get(name)
    return "-" if ratio is None else f"{ratio:.1f} x {name}"


def table(report: dict[str, Any], name: str) -> str:
    """Markdown of the right kernels of a report that have a target; the report itself holds the others."""
    machine, versions = report["machine"], report["machine"]["versions"]
    rows: dict[tuple[str, ...], dict[int | None, dict[str, Any]]] = {}
    for r in report["results"]:
        if r["kind"] == "kernel" and r["status"] == "ok" and r["targets"]:
            case = f"{r['workload']} {r['dtype']} {DIRECTIONS[r['direction']]}"
            rows.setdefault((r["operator"], r["variant"], case, r["layout"]), {})[r["threads"]] = r
    threads = sorted({n for records in rows.values() for n in records if n})
    lines = [
        f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores ({machine['cpu_level']}), torch"
        f" {versions['torch']}, {report['date'][:10]}, foreign load {report['foreign_load']:.2f} cores;"
        f" from [{name}](benchmarks/results/{name})."
        + (f" Pairs are {' / '.join(map(str, threads))} threads." if len(threads) > 1 else "")
        + ' "Of a copy": times what it takes here to copy as many bytes as the call must move, in the same run.',
        "",
        "| operator | kernel | case | layout | time | of a copy | against the usual form | the fastest eager form |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (operator, variant, case, layout), records in rows.items():
        figures = " | ".join(
            cells(records, threads, text)
            for text in (lambda r: seconds_text(r["seconds"]), copies, usual, best)
        )
        lines.append(f"| `{operator}` | {variant} | {case} | {layout} | {figures} |")
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
