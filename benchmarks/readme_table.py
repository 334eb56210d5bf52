"""README's tables of speeds, from what lies in benchmarks/results: ``python benchmarks/readme_table.py [--check]``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from result_files import Result, load

from vidops.bench import Target, Workload, load_benchmarks
from vidops.bench.network_cases import NETWORKS
from vidops.bench.plan import NETWORK
from vidops.bench.report import number_text, seconds_text, value_text

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- speed -->", "<!-- /speed -->"
UNMEASURED = "not yet measured on a GPU"
DTYPES = ("bfloat16", "float32")
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
    return " / ".join(text(records[n]) if n in records else "-" for n in threads)


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


def is_kernel(record: dict[str, Any], device: str) -> bool:
    """Whether a record is of a kernel of an operator on a device."""
    named = record["kind"] == "kernel" and record["operator"] in load_benchmarks()
    return bool(named and record["device"] == device)


def cpu_table(result: Result) -> str:
    """Markdown of the right kernels of a file that have a target; the file itself holds the others."""
    report, name = result.report, result.path.name
    machine, versions = report["machine"], report["machine"]["versions"]
    rows: dict[tuple[str, ...], dict[int | None, dict[str, Any]]] = {}
    for r in result.records:
        if is_kernel(r, "cpu") and r["status"] == "ok" and r["targets"]:
            case = f"{r['workload']} {r['dtype']} {DIRECTIONS[r['direction']]}"
            rows.setdefault((r["operator"], r["variant"], case, r["layout"]), {})[r["threads"]] = r
    if not rows:
        return ""
    threads = sorted({n for records in rows.values() for n in records if n})
    pairs = f" Pairs are {' / '.join(map(str, threads))} threads." if len(threads) > 1 else ""
    raised = all("products_ceiling" in r for r in report["results"] if "floor_by" in r)
    rate = "the best rate known here" if raised else f"the rate of a {report['ceilings'][0]['fma_by']}"
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores ({machine['cpu_level']}), torch {versions['torch']},"
        f" {report['date'][:10]}, foreign load {report['foreign_load']:.2f} cores; from"
        f" [{name}](benchmarks/results/{name}).{pairs}"
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


def gpu_targets() -> Iterator[tuple[str, Workload, Target]]:
    """Every target that the cases set for a GPU."""
    for operator, benchmark in load_benchmarks().items():
        for workload in benchmark.workloads:
            if workload.device == "cuda":
                yield from ((operator, workload, target) for target in workload.targets)


def gpu_cell(
    records: Sequence[dict[str, Any]], operator: str, workload: Workload, dtype: str, target: Target
) -> str:
    """What the faster kernel of each layout reached of a target; nothing where no GPU has measured it."""
    if dtype not in workload.dtypes or (target.dtypes and dtype not in target.dtypes):
        return "-"
    key = (operator, workload.name, dtype, target.direction)
    own = [r for r in records if (r["operator"], r["workload"], r["dtype"], r["direction"]) == key]
    found = []
    for layout in workload.layouts:
        fastest = min(
            (r for r in own if r["layout"] == layout),
            key=lambda r: (r["status"] != "ok", r.get("seconds", 0.0)),
            default=None,
        )
        if fastest is not None:
            found.append((fastest, next((t for t in fastest["targets"] if t["text"] == target.text()), None)))
    if not found or all(judged is None for _, judged in found):
        return UNMEASURED
    names = dict.fromkeys(record["variant"] for record, _ in found)
    one = f" {next(iter(names))}" if len(names) == 1 else ""
    return " / ".join(_reached(r, t, name=not one) for r, t in found) + one


def _reached(record: dict[str, Any], judged: dict[str, Any] | None, *, name: bool) -> str:
    if record["status"] != "ok":
        return "wrong"
    if judged is None:
        return "-"
    missed = {"missed": " missed", "not judged": " not judged"}.get(judged["verdict"], "")
    kernel = f" {record['variant']}" if name else ""
    return f"{value_text(judged)}{kernel}{missed}"


def gpu_table(results: Sequence[Result]) -> str:
    """Markdown of every target for a GPU, with what the results of one GPU say of it."""
    records = [r for result in results for r in result.records if is_kernel(r, "cuda")]
    head = f"GPU: {UNMEASURED}. The floor: what copying the bytes or doing the multiply-adds takes there."
    if records:
        machine = results[0].report["machine"]
        versions = f"torch {machine['versions']['torch']}, Triton {machine['versions']['triton']}"
        files = ", ".join(f"[{r.path.name}](benchmarks/results/{r.path.name})" for r in results)
        head = (
            f"{machine['gpu']['name']}, {versions}; from {files}."
            " Figures are of the layouts that the case names, in their order, each of the faster kernel."
        )
    rows: dict[tuple[str, ...], list[str]] = {}
    for operator, workload, target in gpu_targets():
        figures = [gpu_cell(records, operator, workload, dtype, target) for dtype in DTYPES]
        layouts = f" ({' / '.join(workload.layouts)})" if records and len(workload.layouts) > 1 else ""
        case = f"{workload.name}{layouts}"
        same = () if records else (operator, target.text())  # what is not measured yet needs no row a size
        rows.setdefault(same or (operator, target.text(), case), [*figures]).append(case)
    lines = [head, "", "| operator | target | cases | bfloat16 | float32 |", "|---|---|---|---|---|"]
    for (operator, text, *_), (first, second, *cases) in rows.items():
        lines.append(f"| `{operator}` | {text} | {', '.join(cases)} | {first} | {second} |")
    return "\n".join(lines)


def network_cell(records: Sequence[dict[str, Any]]) -> str:
    """Clips a second of the fused network and its speed-up over the reference, for each number of threads."""
    by_threads = sorted(records, key=lambda r: r["threads"] or 0)
    rates = " / ".join(number_text(r["clips_per_second"]) for r in by_threads)
    ratios = [r["ratios"].get("reference") for r in by_threads]
    speedups = " / ".join("-" if ratio is None else f"{ratio:.2f} x" for ratio in ratios)
    others = {n: ratio for r in records for n, ratio in r["ratios"].items() if n != "reference"}
    more = [f"; {ratio:.2f} x {name}" for name, ratio in others.items() if len(records) == 1]
    return f"{rates} ({speedups}{''.join(more)})"


def network_table(results: Sequence[Result], device: str) -> str:
    """Markdown of the networks that a machine's results hold, and of those with targets on a GPU whatever they hold."""
    found: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    if device == "cuda":
        for workload in (w for w in NETWORKS.workloads if w.device == device and w.targets):
            found[workload.name, workload.dtypes[0]] = {}
    for result in results:
        for r in result.records:
            if (r["operator"], r["device"], r["kind"], r["status"]) == (NETWORK, device, "kernel", "ok"):
                found.setdefault((r["workload"], r["dtype"]), {}).setdefault(r["direction"], []).append(r)
    if not found:
        return ""
    measured = [result for result in results if any(r["operator"] == NETWORK for r in result.records)]
    head = f"Networks: {UNMEASURED}." if device == "cuda" else ""
    if measured:
        machine = measured[-1].report["machine"]
        where = machine["gpu"]["name"] if machine["gpu"] else f"{machine['cpu']}, {machine['cores']} cores"
        files = ", ".join(f"[{r.path.name}](benchmarks/results/{r.path.name})" for r in measured)
        head = f"Networks on {where}, torch {machine['versions']['torch']}; from {files}."
        head += " Pairs are one thread / two." if device == "cpu" else ""
    head += " Clips a second of the fused network, in brackets its speed-up over the same network on the reference"
    head += " and over what else was measured; training is forward and backward."
    lines = [
        head,
        "",
        "| network and clips | dtype | inference | training | targets |",
        "|---|---|---|---|---|",
    ]
    for (name, dtype), directions in found.items():
        figures = [
            network_cell(directions[d]) if d in directions else UNMEASURED if not directions else "-"
            for d in ("inference", "training")
        ]
        targets = [t for records in directions.values() for r in records for t in r["targets"]]
        told = [f"{t['text']}: {value_text(t)}, {t['verdict']}" for t in targets]
        if not directions:
            told = [
                t.text()
                for w in NETWORKS.workloads
                if (w.device, w.name) == (device, name)
                for t in w.targets
            ]
        lines.append(f"| {name} | {dtype} | {' | '.join(figures)} | {'; '.join(told) or '-'} |")
    return "\n".join(lines)


def tables(results: Sequence[Result]) -> str:
    """All tables, one below the other."""
    gpus: dict[str, list[Result]] = {}
    for result in results:
        if result.gpu:
            gpus.setdefault(result.gpu, []).append(result)
    parts = [cpu_table(result) for result in results if not result.gpu]
    parts.append(network_table([result for result in results if not result.gpu], "cpu"))
    for found in list(gpus.values()) or [[]]:
        parts += [gpu_table(found), network_table(found, "cuda")]
    return "\n\n".join(part for part in parts if part)


def filled(text: str, results: Sequence[Result]) -> str:
    """A text with the tables between its two marks."""
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}\n{tables(results)}\n{END}{tail}"


def main(argv: Sequence[str]) -> int:
    if list(argv) not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    text = README.read_text(encoding="utf-8")
    new = filled(text, load())
    if argv:
        if new != text:
            print("README.md is not what `python benchmarks/readme_table.py` makes", file=sys.stderr)
        return int(new != text)
    README.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
