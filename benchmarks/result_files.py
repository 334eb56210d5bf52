"""Puts measurements among the committed results: ``python benchmarks/result_files.py [--machine WORDS] FILE.json ...``.

A file of ``benchmarks/results`` is what ``vidops bench --json`` wrote, named DATE_MACHINE[_PART].json: the day; the
machine in words with hyphens (a GPU's name, or a CPU's and "-N-cores"; WORDS adds what the name leaves out); and,
where a run measured a part, which. Several files of one run, such as one an operator, become one. Where two files of a
machine hold the same group, the newer one counts; a file of which nothing counts any more has to go.
"""

from __future__ import annotations

import argparse
import functools
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidops.bench import load_benchmarks
from vidops.bench.floors import H200, floors
from vidops.bench.judge import overloaded
from vidops.bench.merge import merge
from vidops.bench.report import read_report, write_report

RESULTS = Path(__file__).resolve().parent / "results"
NAME = re.compile(r"(\d{4}-\d\d-\d\d)_([a-z0-9]+(?:-[a-z0-9]+)*)(?:_([a-z0-9]+(?:_[a-z0-9]+)*))?\.json")


@dataclass(frozen=True)
class Result:
    """One file: its place, the machine of its name, the report, and the records of it that count."""

    path: Path
    machine: str
    report: dict[str, Any]
    records: tuple[dict[str, Any], ...]

    @property
    def gpu(self) -> str | None:
        """The name of the GPU, for measurements of one."""
        return self.report["machine"]["gpu"]["name"] if self.report["machine"]["gpu"] else None


def words(text: str) -> list[str]:
    """The words of a name, as file names hold them.

    Example:
        >>> words("NVIDIA H200"), words("AMD EPYC")
        (['nvidia', 'h200'], ['amd', 'epyc'])
    """
    return re.findall(r"[a-z0-9]+", re.sub(r"\((R|TM)\)", "", text, flags=re.IGNORECASE).lower())


def faults(name: str, report: dict[str, Any]) -> list[str]:
    """Say what is wrong with a file: with its name, or as a measurement to be shown to others."""
    match = NAME.fullmatch(name)
    if not match:
        return ["its name is not DATE_MACHINE[_PART].json"]
    found, machine, parts = [], report["machine"], match[2].split("-")
    if match[1] != report["date"][:10]:
        found.append(f"it was measured on {report['date'][:10]}")
    named = words(machine["gpu"]["name"]) if machine["gpu"] else words(machine["cpu"])
    if not set(named) <= set(parts):
        found.append(f"its name does not hold {' and '.join(named)}")
    if not machine["gpu"] and parts[-2:] != [str(machine["cores"]), "cores"]:
        found.append(f"its name does not end in {machine['cores']}-cores")
    if report["options"]["quick"]:
        found.append("it is of a --quick run")
    if str(machine["revision"]).endswith("-dirty") or not machine["revision"]:
        found.append("it is of no committed revision")
    for record in report["results"]:
        if record["status"] == "wrong":
            found.append(f"{record['variant']} is wrong in {record['group']}")
        elif record["status"] == "ok" and record["kind"] == "kernel" and overloaded(record):
            found.append(f"{record['group']}: {overloaded(record)}")
    return found


@functools.cache
def _counts(operator: str, device: str) -> dict[tuple[str, str, str], tuple[int, int]]:
    """Bytes and multiply-adds of an operator's sizes, dtypes and directions as its case counts them today."""
    benchmark = load_benchmarks().get(operator)
    found = floors(benchmark, device, H200) if benchmark else ()
    return {(f.workload.name, f.dtype, f.direction): (f.bytes, f.products) for f in found}


def with_todays_floor(record: dict[str, Any]) -> dict[str, Any]:
    """A record as it is, or without its floor where that counts other bytes or multiply-adds than the case does now."""
    if "bytes" not in record:
        return record
    counted = record["bytes"], record["products"]
    key = (record["workload"], record["dtype"], record["direction"])
    if _counts(record["operator"], record["device"]).get(key, counted) == counted:
        return record
    gone = ("bytes", "products", "floor_seconds", "floor_by", "floor_multiple")
    kept = {name: value for name, value in record.items() if name not in gone}
    if "targets" in record:
        kept["targets"] = [t for t in record["targets"] if t["metric"] not in ("floor", "share")]
    return kept


def load(folder: Path = RESULTS) -> list[Result]:
    """Read every file of a folder of results, the oldest first.

    Raises:
        ValueError: a file is not to be shown, or nothing of it counts.
    """
    found: list[tuple[str, Path, dict[str, Any]]] = []
    for path in sorted(folder.glob("*.json")):
        report = read_report(path)
        wrong = faults(path.name, report)
        if wrong:
            raise ValueError(f"{path.name}: {'; '.join(wrong)}")
        found.append((report["date"], path, report))
    found.sort(key=lambda entry: entry[:2])
    newest: dict[tuple[str, str], Path] = {}
    for _, path, report in found:
        machine = path.name.split("_")[1].removesuffix(".json")
        newest |= {(machine, record["group"]): path for record in report["results"]}
    results = []
    for _, path, report in found:
        machine = path.name.split("_")[1].removesuffix(".json")
        records = tuple(
            with_todays_floor(r) for r in report["results"] if newest[machine, r["group"]] == path
        )
        if not records:
            raise ValueError(f"{path.name}: newer files hold all of its groups; remove it")
        results.append(Result(path, machine, report, records))
    return results


def name_of(report: dict[str, Any], more: str = "", part: str = "") -> str:
    """The file name of a report; ``more``: words that the machine's own name leaves out."""
    machine = report["machine"]
    if machine["gpu"]:
        slug = [*words(machine["gpu"]["name"]), *words(more)]
    else:
        slug = [*words(machine["cpu"]), *words(more), str(machine["cores"]), "cores"]
    return f"{report['date'][:10]}_{'-'.join(slug)}{f'_{part}' if part else ''}.json"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.json")
    parser.add_argument(
        "--machine", default="", metavar="WORDS", help='what its name leaves out, such as "zen5"'
    )
    parser.add_argument("--part", default="", help="what was measured, where it is not everything")
    parser.add_argument(
        "--revision", metavar="COMMIT", help="of what was measured, where its copy had no git folder"
    )
    parser.add_argument("--into", type=Path, default=RESULTS, metavar="FOLDER")
    args = parser.parse_args(argv)
    try:
        report = merge(sorted((read_report(path) for path in args.files), key=lambda r: str(r["date"])))
        if args.revision and report["machine"]["revision"]:
            raise ValueError(f"the files say that they are of {report['machine']['revision']}")
        report["machine"]["revision"] = report["machine"]["revision"] or args.revision
        name = name_of(report, args.machine, args.part)
        wrong = faults(name, report)
        if wrong:
            raise ValueError(f"{name}: {'; '.join(wrong)}")
        if (args.into / name).exists():
            raise ValueError(f"{name} exists; --part tells two files of a day apart")
    except (OSError, ValueError) as error:
        print(f"result_files: error: {error}", file=sys.stderr)
        return 2
    write_report(args.into / name, report)
    print(args.into / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
