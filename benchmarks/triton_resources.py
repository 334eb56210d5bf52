"""Registers, shared memory, spills and occupancy of the Triton kernels, compiled without a GPU.

    python benchmarks/triton_resources.py [--write] [--quick] [--json] [OPERATOR ...]

Every launch of every case in ``COMPILE_CASES`` for an H200; for the other GPUs the cases of real networks and, of each
kernel, the launch nearest its limit. Operators whose launches are those that ``benchmarks/resources/triton.json`` was
made from are taken from there, anything else is compiled; ``--write`` puts that into the file. ``--fresh N`` compiles N
launches of the table again and exits 1 where it says something else.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
os.environ.pop("TRITON_INTERPRET", None)
os.environ.setdefault("TRITON_CACHE_DIR", str(ROOT / "build" / "triton"))  # by the content of the kernels

import resource_table  # noqa: E402

TABLE = resource_table.FOLDER / "triton.json"
COLUMNS = ("threads", "registers", "shared", "spills", "occupancy", "wide_stores", "narrow_stores")
OPERATORS = sorted(p.stem for p in (ROOT / "triton_kernels").glob("*.py") if not p.name.startswith("_"))
FIRST, OTHERS = 90, (80, 100, 120)


def toolchain() -> str:
    """The compilers: Triton, and the assembler that it brings."""
    import triton

    return f"triton {triton.__version__}, ptxas {triton.knobs.nvidia.ptxas.version}"


class Operator:
    """An operator's cases and their launches, none of which is made."""

    def __init__(self, name: str) -> None:
        from vidops.triton_kernels import _compile

        self.name = name
        self.cases = importlib.import_module(f"vidops.triton_kernels.{name}").COMPILE_CASES
        self.launches = [_compile.launches(case) for case in self.cases]
        keys = Counter(self.key(i, j) for i, made in enumerate(self.launches) for j in range(len(made)))
        assert max(keys.values()) == 1, f"two cases of {name} have one name: {keys.most_common(1)}"

    @functools.cached_property
    def digest(self) -> str:
        """Of all that a compiler is given: the kernels' text, and each launch's types, constants and options."""
        from triton.runtime.jit import JITCallable
        from vidops.triton_kernels import _compile

        for name, module in sys.modules.items():
            for value in vars(module).values() if name.startswith("vidops.triton_kernels") else ():
                if isinstance(value, JITCallable):
                    # Triton's own key holds the line that a kernel begins in, and constants of what it calls only where
                    # that has a key already, be it of another operator's.
                    value.starting_line_number, value.hash, value.used_global_vals = 0, None, {}
        made_of = hashlib.sha256()
        for case, launches in zip(self.cases, self.launches, strict=True):
            made_of.update(repr((case.name, case.quick, case.capabilities)).encode())
            for launch in launches:
                made_of.update(f"{_compile.source(launch).hash()} {sorted(launch.options.items())}".encode())
        return made_of.hexdigest()[:32]

    def key(self, case: int, launch: int) -> str:
        """A launch's name in the table."""
        names = [made.kernel.__name__ for made in self.launches[case]]
        again = names[:launch].count(names[launch])
        targets = ", ".join(map(arch, self.cases[case].capabilities))
        return (
            f"{self.cases[case].name}{f' on {targets}' if targets else ''}: {names[launch]}"
            f"{f' ({again + 1})' if again else ''}"
        )

    def compile(self, case: int, launch: int, capability: int) -> resource_table.Row:
        """What one launch takes of one GPU, as a row of the table."""
        from vidops.triton_kernels import _compile

        made = self.launches[case][launch]
        used = _compile.compile_launch(made, capability)
        stores = Counter(re.findall(r"st\.global\.((?:v\d\.)?b\d+)", used.ptx))
        needs = 32 * made.options.get("num_warps", 4), used.registers, used.shared
        return [
            *(*needs, used.spilled, resource_table.occupancy(arch(capability), *needs)),
            *(stores["v2.b32"] + stores["v4.b32"], stores["b16"]),
        ]

    def compile_all(self, quick: bool = False) -> dict[str, dict[str, resource_table.Row]]:
        """What the launches take; the quick ones are the quick cases' on the first GPU."""
        found: dict[str, dict[str, resource_table.Row]] = {}
        greediest: dict[str, tuple[int, tuple[int, int]]] = {}
        for i, case in enumerate(self.cases):
            for j, launch in enumerate(self.launches[i]):
                by_arch = found.setdefault(self.key(i, j), {})
                if FIRST in (case.capabilities or [FIRST]) and (case.quick or not quick):
                    by_arch[arch(FIRST)] = row = self.compile(i, j, FIRST)
                    if not case.capabilities:
                        most = greediest.get(launch.kernel.__name__, (-1, (0, 0)))
                        greediest[launch.kernel.__name__] = max(most, (row[1], (-i, -j)))
        nearest = {(-i, -j) for _, (i, j) in greediest.values()}
        for i, case in enumerate([] if quick else self.cases):
            for j in range(len(self.launches[i])):
                for capability in case.capabilities or OTHERS:
                    if capability != FIRST and (case.quick or case.capabilities or (i, j) in nearest):
                        found[self.key(i, j)][arch(capability)] = self.compile(i, j, capability)
        return found

    def report(self, quick: bool) -> list[dict[str, Any]]:
        """What each case may take and what its launches take."""
        table = resource_table.read(TABLE, COLUMNS)
        kept = table.knows(self.name, self.digest) and table.toolchain == toolchain()
        rows = table.groups[self.name].kernels if kept else self.compile_all(quick)
        return [
            {
                "operator": self.name, "case": case.name, "limit": case.registers, "shared": case.shared,
                "spilled": case.spilled, "archs": list(map(arch, case.capabilities)) or list(resource_table.ARCHS),
                "kernels": [launch.kernel.__name__ for launch in made],
                "compiled": [
                    {"kernel": launch.kernel.__name__, "arch": name, "align": launch.arguments.get("ALIGN"),
                     **dict(zip(COLUMNS, row, strict=True))}
                    for j, launch in enumerate(made) for name, row in rows[self.key(i, j)].items()
                ],
            }
            for i, (case, made) in enumerate(zip(self.cases, self.launches, strict=True))
        ]  # fmt: skip

    def fresh(self, kernel: str, name: str) -> resource_table.Row:
        """Compile what a row of the table is about."""
        ((i, j),) = (
            (i, j)
            for i, made in enumerate(self.launches)
            for j in range(len(made))
            if self.key(i, j) == kernel
        )
        return self.compile(i, j, int(name.replace(".", "")))


def arch(capability: int) -> str:
    """A compute capability as the table names it."""
    return f"{capability // 10}.{capability % 10}"


def digests() -> dict[str, str]:
    """Of every operator."""
    return {name: Operator(name).digest for name in OPERATORS}


def _compiled(name: str) -> tuple[str, dict[str, dict[str, resource_table.Row]]]:
    made = Operator(name)
    return made.digest, made.compile_all()


def write(names: Sequence[str]) -> None:
    """Bring the table up to date for some operators; for all of them if the compiler is another."""
    table = resource_table.read(TABLE, COLUMNS)
    if table.toolchain != toolchain():
        names, table = OPERATORS, resource_table.Table(TABLE, toolchain(), COLUMNS)
    table.groups = {name: group for name, group in table.groups.items() if name in OPERATORS}
    stale = [name for name in table.stale(digests()) if name in names]
    jobs = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for name, group in zip(stale, pool.map(_compiled, stale), strict=True):
            table.groups[name] = resource_table.Group(*group)
    table.write()


def sample(table: resource_table.Table, many: int) -> list[tuple[str, str, str]]:
    """Some launches, spread over the table, other ones after each change of it."""
    rows = [
        (name, kernel, target)
        for name, group in sorted(table.groups.items())
        for kernel, by_arch in sorted(group.kernels.items())
        for target in by_arch
    ]
    every = max(len(rows) // max(many, 1), 1)
    made_of = hashlib.sha256("".join(g.digest for _, g in sorted(table.groups.items())).encode())
    return rows[int(made_of.hexdigest(), 16) % every :: every][:many]


def differences(many: int) -> list[str]:
    """Compile a sample of the table again and say where it says something else."""
    table = resource_table.read(TABLE, COLUMNS)
    import triton

    triton.knobs.compilation.always_compile = True
    operators: Mapping[str, Operator] = {name: Operator(name) for name in OPERATORS}
    table.groups = {
        name: table.groups[name] for name in OPERATORS if table.knows(name, operators[name].digest)
    }
    said = []
    for name, kernel, target in sample(table, many):
        kept, found = table.groups[name].kernels[kernel][target], operators[name].fresh(kernel, target)
        if list(kept) != list(found):
            said.append(f"{name}, {kernel}, {target}: {list(kept)} in the table, {list(found)} compiled")
    return said


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("operators", nargs="*", default=OPERATORS, metavar="OPERATOR")
    parser.add_argument("--write", action="store_true", help=f"bring {TABLE.relative_to(ROOT)} up to date")
    parser.add_argument("--quick", action="store_true", help="of what is compiled, the quick cases alone")
    parser.add_argument("--json", action="store_true", help="a line for each case")
    parser.add_argument("--stale", action="store_true", help="name what is not as it was, and do nothing")
    parser.add_argument("--fresh", type=int, metavar="N", help="compile N launches of the table again")
    args = parser.parse_args(argv)
    if unknown := set(args.operators) - set(OPERATORS):
        parser.error(f"no Triton kernels of {', '.join(sorted(unknown))}")
    if args.stale or args.fresh:
        table = resource_table.read(TABLE, COLUMNS)
        if table.toolchain != toolchain():
            made = table.toolchain or "nothing yet"
            print(f"{TABLE.name} was made with {made}, this is {toolchain()}", file=sys.stderr)
            return 3
        said = differences(args.fresh) if args.fresh else table.stale(digests())
        if said:
            print("\n".join(said), f"`{resource_table.COMMAND}` makes {TABLE.name} anew", sep="\n")
        return 1 if said else 0
    if args.write:
        write(args.operators)
    cases = [case for name in args.operators for case in Operator(name).report(args.quick)]
    for case in cases:
        if args.json:
            print(json.dumps(case))
            continue
        for used in case["compiled"]:
            spilled = f" spill {used['spills']}" if used["spills"] else ""
            print(
                f"{case['operator']:20} {used['arch']:>4} {used['registers']:4} regs {used['shared']:7} B"
                f" {used['occupancy']:4.0%}{spilled}  {used['kernel']} ({case['case']})"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
