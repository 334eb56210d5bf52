"""README's tables of speeds, a run each: ``python benchmarks/readme_table.py benchmarks/results/FILE.json ...``."""

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


def floors(record: dict[str, Any]) -> str:
    """How many times the least possible time, marked where that is arithmetic; one call's cost has no such measure."""
    multiple = record.get("floor_multiple")
    if multiple is None:
        return "-"
    return f"{multiple:.2f}{'*' if record['floor_by'] == 'arithmetic' else ''}"


def best(record: dict[str, Any]) -> str:
    """Against the fastest eager form, whatever the layout it wants; none may have fit the memory."""
    eager = record["best"].get("eager")
    return "-" if eager is None else f"{eager['ratio']:.2f} x {eager['variant']}"


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
    where = machine["gpu"]["name"] if machine["gpu"] else machine["cpu"]
    pairs = f" Pairs are {' / '.join(map(str, threads))} threads." if len(threads) > 1 else ""
    raised = all("products_ceiling" in r for r in report["results"] if "floor_by" in r)
    rate = "the best rate known here" if raised else f"the rate of a {report['ceilings'][0]['fma_by']}"
    lines = [
        f"{where}, {machine['cores']} cores ({machine['cpu_level']}), torch {versions['torch']}, {report['date'][:10]},"
        f" foreign load {report['foreign_load']:.2f} cores; from [{name}](benchmarks/results/{name}).{pairs}"
        ' "Of the floor": times what it takes here to copy as many bytes as the call must move, in the same run, or,'
        f" marked *, to do its multiply-adds at {rate}, where that takes longer.",
        "",
        "| operator | kernel | case | layout | time | of the floor | against the usual form | the fastest eager form |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (operator, variant, case, layout), records in rows.items():
        figures = " | ".join(
            cells(records, threads, text)
            for text in (lambda r: seconds_text(r["seconds"]), floors, usual, best)
        )
        lines.append(f"| `{operator}` | {variant} | {case} | {layout} | {figures} |")
    return "\n".join(lines)


def main(paths: list[Path]) -> None:
    """Replace what stands between the README's two marks."""
    text = README.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    tables = "\n\n".join(table(read_report(path), path.name) for path in paths)
    README.write_text(f"{head}{BEGIN}\n{tables}\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main([Path(name) for name in sys.argv[1:]])
