"""Writes the README's table of speeds: ``python benchmarks/readme_table.py benchmarks/results/FILE.json``."""

from __future__ import annotations

import sys
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


def cell(value: float | None) -> str:
    """A ratio for a cell, or a dash."""
    return "-" if value is None else f"{value:.3g} x"


def table(report: dict[str, Any], name: str) -> str:
    """Markdown of every right kernel of a report."""
    machine, versions = report["machine"], report["machine"]["versions"]
    lines = [
        f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores ({machine['cpu_level']}), torch"
        f" {versions['torch']}, {report['date'][:10]}, foreign load {report['foreign_load']:.2f} cores;"
        f" from [{name}](benchmarks/results/{name}).",
        "",
        "| operator | case | threads | layout | time | of a copy | against each eager form |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in report["results"]:
        if r["kind"] != "kernel" or r["status"] != "ok":
            continue
        ratios = dict(r["ratios"])
        copy = ratios.pop("copy", None)
        ratios.pop("fresh copy", None)
        eager = ", ".join(f"{v:.3g} x {k}" for k, v in ratios.items())
        lines.append(
            f"| `{r['operator']}` | {r['workload']} {r['dtype']} {DIRECTIONS[r['direction']]} | {r['threads'] or '-'} |"
            f" {r['layout']} | {seconds_text(r['seconds'])} | {cell(copy)} | {eager} |"
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
