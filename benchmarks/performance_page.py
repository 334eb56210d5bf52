"""Tables and picture of docs/performance.md: ``python benchmarks/performance_page.py [--check]``."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import readme_table
from result_files import Result, load

from vidops.bench import load_benchmarks
from vidops.bench.floors import H200, Floor, floors
from vidops.bench.report import number_text, seconds_text, value_text

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
PICTURE = PAGE.with_name("roofline.png")
RESOURCES = Path(__file__).with_name("resources")
ARCH = "9.0"
UNMEASURED = readme_table.UNMEASURED
MARK = re.compile(r"(<!-- ([a-z_]+(?: [a-z0-9_]+)?) -->\n).*?(<!-- /\2 -->)", re.DOTALL)


def rows(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def span(values: Sequence[float], unit: float = 1.0) -> str:
    """The least and the greatest of some figures."""
    low, high = number_text(min(values), unit), number_text(max(values), unit)
    return low if low == high else f"{low} to {high}"


def ceilings(results: Sequence[Result]) -> str:
    """What the machines do at most: measured ones, and the figures that a GPU's floors are reckoned with."""
    body = []
    for machine in dict.fromkeys(result.machine for result in results):
        own = [result for result in results if result.machine == machine]
        kinds = dict.fromkeys((c["device"], c["threads"]) for r in own for c in r.report["ceilings"])
        for device, threads in kinds:
            of = [
                c
                for r in own
                for c in r.report["ceilings"]
                if (c["device"], c["threads"]) == (device, threads)
            ]
            records = [
                r
                for result in own
                for r in result.records
                if (r["device"], r["threads"]) == (device, threads)
            ]
            copies = [r["copy_bytes_per_second"] for r in records if "copy_bytes_per_second" in r]
            best = max(
                [
                    *(r["products_ceiling"] for r in records if "products_ceiling" in r),
                    *(c["fma"] for c in of),
                ]
            )
            label = own[0].gpu or f"{machine}, {threads} thread{'s' * (threads != 1)}"
            fma = (
                f"{number_text(best, 1e9)} G/s"
                if device == "cpu"
                else f"{number_text(of[0]['fma'], 1e12)} T/s"
            )
            matrix = "-" if device == "cpu" else f"{number_text(of[0]['matrix'], 1e12)} T/s"
            body.append([label, f"{span(copies, 1e9)} GB/s" if copies else "-", fma, matrix, "measured"])
    if not any(result.gpu for result in results):
        units = [f"{number_text(rate, 1e12)} T" for rate in (H200.copy, H200.fma, H200.matrix)]
        body.append(
            ["NVIDIA H200", f"{units[0]}B/s", f"{units[1]}/s", f"{units[2]}/s", f"assumed; {UNMEASURED}"]
        )
    return rows(["machine", "copy, by size", "fp32 multiply-adds", "bf16 matrix multiply-adds", ""], body)


@functools.cache
def h200_floors(operator: str) -> tuple[Floor, ...]:
    """The floors of an operator's sizes for a GPU."""
    return tuple(floors(load_benchmarks()[operator], "cuda", H200))


def gpu_floors(operator: str, results: Sequence[Result]) -> str:
    """Of every size for a GPU the least possible time at an H200's rates, and what was reached."""
    records = [r for result in results for r in result.records if readme_table.is_kernel(r, "cuda")]
    body = []
    for floor in h200_floors(operator):
        key = (operator, floor.workload.name, floor.dtype, floor.direction)
        own = [
            r
            for r in records
            if r["status"] == "ok" and (r["operator"], r["workload"], r["dtype"], r["direction"]) == key
        ]
        wanted = [
            target.text().removeprefix(f"{floor.direction} ")
            for target in floor.workload.targets
            if any(target.concerns(floor.direction, floor.dtype, layout) for layout in floor.workload.layouts)
        ]
        reached = UNMEASURED
        if own:
            best = min(own, key=lambda r: float(r["seconds"]))
            verdicts = [t["verdict"] for t in best["targets"] if not t.get("stretch")]
            word = "" if not verdicts else ", met" if set(verdicts) == {"met"} else ", missed"
            reached = f"{seconds_text(best['seconds'])}, {best['floor_multiple']:.2f} x floor ({best['variant']}){word}"
        body.append(
            [
                floor.workload.name,
                floor.dtype,
                floor.direction,
                f"{number_text(floor.bytes, 1e6)} MB",
                f"{number_text(floor.products, 1e9)} G" if floor.products else "-",
                f"{seconds_text(floor.seconds)} ({floor.by})",
                "; ".join(wanted) or "-",
                reached,
            ]
        )
    head = ["case", "dtype", "direction", "bytes", "multiply-adds", "floor on an H200", "target", "reached"]
    return rows(head, body)


def cpu_reached(operator: str, results: Sequence[Result]) -> str:
    """Of every size on a CPU the floor, what the fastest layout reached, the targets over all layouts and threads."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in results:
        for r in result.records:
            if readme_table.is_kernel(r, "cpu") and r["operator"] == operator and r["status"] == "ok":
                groups.setdefault((r["workload"], r["direction"]), []).append(r)
    body = []
    for (workload, direction), records in groups.items():
        threads = sorted({r["threads"] for r in records})
        by = {n: [r for r in records if r["threads"] == n] for n in threads}
        body.append(
            [
                workload,
                readme_table.DIRECTIONS[direction],
                " / ".join(_floor(by[n][0]) for n in threads),
                " / ".join(seconds_text(min(r["seconds"] for r in by[n])) for n in threads),
                " / ".join(_multiples(by[n]) for n in threads),
                "; ".join(_verdicts(records)) or "-",
            ]
        )
    head = [
        "case",
        "direction",
        "floor",
        "reached, fastest layout",
        "x floor, by layout",
        "targets, over all",
    ]
    return rows(head, body) if body else "Not measured on a CPU."


def _floor(record: dict[str, Any]) -> str:
    if "floor_seconds" not in record:
        return "-"
    return f"{seconds_text(record['floor_seconds'])}{'*' if record['floor_by'] == 'arithmetic' else ''}"


def _multiples(records: Sequence[dict[str, Any]]) -> str:
    multiples = [r["floor_multiple"] for r in records if r.get("floor_multiple")]
    return span(multiples) if multiples else "-"


def _verdicts(records: Sequence[dict[str, Any]]) -> list[str]:
    """Target by target: the worst and the best, in how many it is missed, and by how much at most."""
    found: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        for target in record["targets"]:
            if target["value"] is not None:
                found.setdefault(target["text"], []).append(target)
    told = []
    for text, targets in found.items():
        worst, best = max(targets, key=_shortfall), min(targets, key=_shortfall)
        values = value_text(worst) if worst is best else f"{value_text(worst)} to {value_text(best)}"
        missed = [t for t in targets if t["verdict"] == "missed"]
        word = (
            f"missed in {len(missed)} of {len(targets)}, by {100 * _shortfall(worst):.0f} % at most"
            if missed
            else "met"
        )
        told.append(
            f"{text.split(' ', 1)[1] if text.split()[0] in ('forward', 'backward') else text}: {values}, {word}"
        )
    return told


def _shortfall(target: dict[str, Any]) -> float:
    """By what share a target is missed; negative where it is met."""
    value, limit = float(target["value"]), float(target["limit"])
    return 1 - value / limit if target["metric"] in ("speedup", "share") else value / limit - 1


def slower(results: Sequence[Result]) -> str:
    """Sizes at which an eager form beats a kernel, in how many layouts and numbers of threads, and by how much."""
    found: dict[tuple[str, ...], list[tuple[float, str]]] = {}
    for result in results:
        for r in result.records:
            eager = r["best"].get("eager") if r["kind"] == "kernel" and r["status"] == "ok" else None
            if eager and r["operator"] in load_benchmarks():
                key = (
                    f"`{r['operator']}`",
                    r["workload"],
                    r["device"],
                    readme_table.DIRECTIONS[r["direction"]],
                )
                found.setdefault(key, []).append((eager["ratio"], eager["variant"]))
    body = []
    for key, ratios in found.items():
        worse = sorted(pair for pair in ratios if pair[0] < 1)
        if worse:
            cells = f"{len(worse)} of {len(ratios)}"
            body.append([*key, cells, f"{worse[0][0]:.2f} x {worse[0][1]}"])
    return (
        rows(["operator", "case", "device", "direction", "slower in", "at worst"], body) if body else "None."
    )


def targets(results: Sequence[Result]) -> str:
    """Of each operator how many targets are met, the one that is missed by most, and how many a GPU has."""
    body = []
    for operator, benchmark in load_benchmarks().items():
        own = [r for x in results for r in x.records if r["operator"] == operator and r["kind"] == "kernel"]
        cells = []
        for device in ("cpu", "cuda"):
            judged = [
                (t, r)
                for r in own
                if r["device"] == device
                for t in r["targets"]
                if t["value"] is not None and not t.get("stretch") and t["verdict"] in ("met", "missed")
            ]
            missed = [pair for pair in judged if pair[0]["verdict"] == "missed"]
            told = f"{len(judged) - len(missed)} of {len(judged)}" if judged else "-"
            if missed:
                target, record = max(missed, key=lambda pair: _shortfall(pair[0]))
                told += f"; most: {target['text']} by {100 * _shortfall(target):.0f} % ({record['workload']})"
            if not judged and device == "cuda":
                told = UNMEASURED
            cells.append(told)
        set_out = sum(len(w.targets) for w in benchmark.workloads if w.device == "cuda")
        body.append([f"`{operator}`", *cells, str(set_out)])
    return rows(["operator", "met on a CPU", "met on a GPU", "targets of its sizes for a GPU"], body)


def resources(operator: str) -> str:
    """What the operator's kernels take of a multiprocessor of an H200 (sm_90), and whether any spills on any target."""
    body = []
    for language, path in (("CUDA", RESOURCES / "cuda.json"), ("Triton", RESOURCES / "triton.json")):
        kept = json.loads(path.read_text(encoding="utf-8"))
        kinds: dict[str, list[dict[str, dict[str, float]]]] = {}
        for name, targets in kept["groups"].get(operator, {"kernels": {}})["kernels"].items():
            kind = re.sub(r" \(\d+\)$", "", name.rsplit(": ", 1)[-1]).split("<")[0]
            by_column = {
                target: dict(zip(kept["columns"], row, strict=True)) for target, row in targets.items()
            }
            kinds.setdefault(kind, []).append(by_column)
        for kind, kernels in kinds.items():
            on = [kernel[ARCH] for kernel in kernels if ARCH in kernel]
            if not on:
                continue
            spills = [row["spills"] + row.get("stack", 0) for kernel in kernels for row in kernel.values()]
            worst = f"{max(spills):.0f} bytes in {sum(s > 0 for s in spills)} of {len(spills)}"
            body.append(
                [
                    language,
                    f"`{kind}`",
                    str(len(on)),
                    bounds(on, "threads"),
                    bounds(on, "registers"),
                    bounds(on, "shared"),
                    bounds(on, "occupancy", 100.0, " %"),
                    worst if any(spills) else "none",
                ]
            )
    head = [
        "",
        "kernel",
        "variants",
        "threads",
        "registers",
        "shared bytes",
        "occupancy",
        "spills, four targets",
    ]
    return rows(head, body)


def bounds(found: Sequence[dict[str, float]], column: str, factor: float = 1.0, unit: str = "") -> str:
    """The least and the greatest of a column."""
    low, high = (f"{factor * pick(row[column] for row in found):.0f}" for pick in (min, max))
    return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"


def tables(results: Sequence[Result]) -> dict[str, str]:
    """Every table of the page by its mark."""
    made = {"ceilings": ceilings(results), "slower": slower(results), "targets": targets(results)}
    for operator in load_benchmarks():
        made[f"gpu {operator}"] = gpu_floors(operator, results)
        made[f"cpu {operator}"] = cpu_reached(operator, results)
        made[f"resources {operator}"] = resources(operator)
    return made


def filled(text: str, made: dict[str, str]) -> str:
    """A page with its tables between their marks.

    Raises:
        ValueError: the page lacks a mark, or has one that nothing is made for.
    """
    found = [match[2] for match in MARK.finditer(text)]
    if sorted(found) != sorted(made):
        differ = sorted(set(found) ^ set(made)) or sorted(name for name in found if found.count(name) > 1)
        raise ValueError(f"the page's marks are not those of its tables: {', '.join(differ)}")
    return MARK.sub(lambda match: f"{match[1]}{made[match[2]]}\n{match[3]}", text)


def joined(results: Sequence[Result]) -> dict[str, Any]:
    """What counts of the results of the machine that the newest file is of, as one report."""
    own = [result for result in results if result.machine == results[-1].machine]
    return {**own[-1].report, "results": [record for result in own for record in result.records]}


def digest(report: dict[str, Any]) -> str:
    """What tells a picture from one of other figures."""
    from vidops.visualize import roofline_points

    return hashlib.sha256(json.dumps(roofline_points(report)).encode()).hexdigest()[:16]


def main(argv: Sequence[str]) -> int:
    if list(argv) not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    results = load()
    text = PAGE.read_text(encoding="utf-8")
    new = filled(text, tables(results))
    report = joined(results)
    key = f"figures {digest(report)}".encode()
    if argv:
        stale = [
            file.name
            for file, bad in ((PAGE, new != text), (PICTURE, key not in PICTURE.read_bytes()))
            if bad
        ]
        for name in stale:
            print(f"{name} is not what `python benchmarks/performance_page.py` makes", file=sys.stderr)
        return int(bool(stale))
    from vidops.visualize import roofline

    PAGE.write_text(new, encoding="utf-8")
    roofline(report).savefig(PICTURE, dpi=100, metadata={"Comment": key.decode()})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
