"""Registers, shared memory, stack, spills and occupancy of every CUDA kernel, from nvcc alone: no GPU is needed.

    python benchmarks/cuda_resources.py [--write] [--arch 8.0 9.0 ...] [--source csrc/cuda/temporal_conv.cu ...]

Exits 1 if a kernel spills registers or has a stack frame. What ``benchmarks/resources/cuda.json`` holds of sources
that have not changed since is taken from there, anything else is compiled; ``--write`` puts that into the file.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import resource_table  # noqa: E402
from resource_table import ARCHS, occupancy  # noqa: E402

from _build_backend import find_nvcc  # noqa: E402

CACHE = ROOT / "build" / "cuda_resources"  # of what the table does not hold
TABLE = resource_table.FOLDER / "cuda.json"
COLUMNS = ("threads", "registers", "shared", "stack", "spills", "occupancy")
FLAGS = ("-std=c++20", "-O3", "--resource-usage", "-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020b000000000000")


@dataclass(frozen=True)
class Resources:
    """What one kernel needs on one target.

    ``shared`` holds the bytes that the compiler knows of, not those asked for at the launch, and ``occupancy``, a share
    of the multiprocessor's threads, is what the others leave.
    """

    kernel: str
    arch: str
    threads: int
    registers: int
    shared: int
    stack: int
    spills: int
    occupancy: float


def sources() -> list[Path]:
    """Every CUDA source of the project."""
    return sorted((ROOT / "csrc" / "cuda").glob("*.cu"))


def includes(source: Path) -> list[Path]:
    """A source and every file of the project that it includes, directly or not."""
    found, waiting = {source}, [source]
    while waiting:
        for name in re.findall(r'^\s*#\s*include "([^"]+)"', waiting.pop().read_text(), re.MULTILINE):
            file = ROOT / "csrc" / name
            if file.is_file() and file not in found:
                found.add(file)
                waiting.append(file)
    return sorted(found)


def digest(source: Path) -> str:
    """Of all that decides what a source's kernels need, but for the compiler and the target; comments do not count."""
    made_of = hashlib.sha256("\0".join(FLAGS).encode())
    for file in includes(source):
        lines = (re.sub(r"\s*//.*", "", line).rstrip() for line in file.read_text().splitlines())
        code = "\n".join(filter(None, lines))
        made_of.update(f"\0{file.name}\0{code}".encode())
    return made_of.hexdigest()[:32]


def toolchain() -> str:
    """The compiler and the release of torch, whose headers take part."""
    nvcc = find_nvcc()
    if nvcc is None:
        return ""
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"V([\d.]+)", text)
    return (
        f"nvcc {version[1] if version else text}, torch {importlib.metadata.version('torch').split('+')[0]}"
    )


def resources(source: Path, arch: str) -> list[Resources]:
    """What a source's kernels need on one target: from the table, or by compiling what it does not know.

    Raises:
        RuntimeError: there is no nvcc or no torch to compile with, or nvcc failed.
    """
    table = resource_table.read(TABLE, COLUMNS)
    if table.knows(source.stem, digest(source)) and toolchain() in ("", table.toolchain):
        kernels = table.groups[source.stem].kernels
        rows = [
            (kernel, dict(zip(COLUMNS, by[arch], strict=True)))
            for kernel, by in kernels.items()
            if arch in by
        ]
        return [Resources(kernel=kernel, arch=arch, **row) for kernel, row in rows]
    return measure(source, arch)


def parse(log: str, ptx: str, arch: str) -> list[Resources]:
    """Read what ``nvcc --resource-usage`` said, and the block sizes that the PTX declares."""
    threads = {
        name: int(bound) for name, bound in re.findall(r"\.entry (\w+)\([^)]*\)\s*\.maxntid (\d+)", ptx)
    }
    found = []
    for part in re.split(r"Compiling entry function ", log)[1:]:
        name = re.match(r"'(\w+)'", part)
        memory = re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part
        )
        registers = re.search(r"Used (\d+) registers", part)
        shared = re.search(r"(\d+) bytes smem", part)
        if not (name and memory and registers):
            raise ValueError(f"nvcc's report is not understood:\n{part}")
        stack, stores, loads = map(int, memory.groups())
        static = int(shared[1]) if shared else 0
        needs = threads.get(name[1], 1024), int(registers[1]), static
        found.append(
            Resources(_readable(name[1]), arch, *needs, stack, stores + loads, occupancy(arch, *needs))
        )
    return sorted(found, key=lambda r: r.kernel)


def _readable(symbol: str) -> str:
    text = subprocess.run(["c++filt", symbol], capture_output=True, text=True, check=True).stdout
    name = re.search(r"(\w+(?:<[^()]*>)?)\(", text.replace("(anonymous namespace)::", ""))
    return name[1].replace("c10::", "") if name else symbol


def _command(source: Path, arch: str) -> list[str]:
    nvcc = find_nvcc()
    torch = importlib.util.find_spec("torch")
    if nvcc is None or torch is None or not torch.submodule_search_locations:
        raise RuntimeError("nvcc and an installed torch (for its headers) are needed")
    number = arch.replace(".", "")
    headers = Path(next(iter(torch.submodule_search_locations))) / "include"
    target = f"-gencode=arch=compute_{number},code=sm_{number}"
    return [nvcc, *FLAGS, target, f"-I{ROOT / 'csrc'}", "-isystem", str(headers), str(source)]


def check_host(source: Path) -> None:
    """Have the compiler part a source into its host's and its device's code, which `measure` leaves out.

    It finds a host that calls a function of the device's, a kernel launched with other arguments, and the like. No
    machine code is made: seconds instead of minutes.

    Raises:
        RuntimeError: there is no nvcc or no torch, or the source is wrong.
    """
    with tempfile.TemporaryDirectory() as scratch:
        command = [*_command(source, "9.0"), "--dryrun", "--keep", f"--keep-dir={scratch}", "-c"]
        plan = subprocess.run([*command, "-o", f"{scratch}/out.o"], capture_output=True, text=True).stderr
        steps = [line[3:] for line in plan.splitlines() if line.startswith(("#$ gcc", "#$ cudafe++"))]
        last = next((i for i, step in enumerate(steps) if step.startswith("cudafe++")), None)
        if last is None:
            raise RuntimeError(f"nvcc has no plan for {source} that is understood:\n{plan}")
        tools = f"{Path(command[0]).resolve().parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-e"],
            input="\n".join(steps[: last + 1]),
            env={**os.environ, "PATH": tools},
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise RuntimeError(f"the host's part of {source} is wrong:\n{done.stdout}{done.stderr}")


def measure(source: Path, arch: str, fresh: bool = False) -> list[Resources]:
    """Compile one source's kernels for one target and return what each of them needs; the host's part is left out.

    Args:
        source: the file.
        arch: the target.
        fresh: compile even if that has been done before.

    Raises:
        RuntimeError: there is no nvcc or no torch, or nvcc failed.
    """
    number = arch.replace(".", "")
    key = hashlib.sha256(f"{toolchain()} {digest(source)}".encode()).hexdigest()[:16]
    kept = CACHE / f"{source.stem}-{number}-{key}.json"
    if kept.is_file() and not fresh:
        return [Resources(**entry) for entry in json.loads(kept.read_text())]
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        command = [*_command(source, arch), "--keep", f"--keep-dir={scratch}", "-cubin"]
        done = subprocess.run([*command, "-o", f"{scratch}/out.cubin"], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"nvcc failed on {source} for {arch}:\n{done.stdout}{done.stderr}")
        ptx = "".join(file.read_text() for file in Path(scratch).glob("*.ptx"))
        found = parse(done.stdout + done.stderr, ptx, arch)
        part = Path(scratch, "result.json")
        part.write_text(json.dumps([asdict(r) for r in found]))
        for old in CACHE.glob(f"{source.stem}-{number}-*.json"):
            old.unlink(missing_ok=True)
        part.rename(kept)
    return found


def write(chosen: Sequence[Path]) -> None:
    """Bring the table up to date for some sources, for every target; for all of them if the compiler is another."""
    table = resource_table.read(TABLE, COLUMNS)
    if table.toolchain != toolchain():
        chosen, table = sources(), resource_table.Table(TABLE, toolchain(), COLUMNS)
    jobs = [(source, arch) for source in chosen for arch in ARCHS]
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
        found = list(pool.map(lambda job: resources(*job), jobs))
    table.groups = {
        name: group for name, group in table.groups.items() if name in {s.stem for s in sources()}
    }
    for source in chosen:
        table.groups[source.stem] = resource_table.Group(digest(source), {})
    for (source, _), rows in zip(jobs, found, strict=True):
        for r in rows:
            by_arch = table.groups[source.stem].kernels.setdefault(r.kernel, {})
            by_arch[r.arch] = [getattr(r, column) for column in COLUMNS]
    table.write()


def table(found: Sequence[Resources]) -> str:
    """One line a kernel, one column a target: registers, occupancy, and bytes of stack and spills if any."""
    archs = sorted({r.arch for r in found}, key=float)
    kernels = sorted({r.kernel for r in found})
    width = max(map(len, kernels), default=6)
    lines = [" " * width + "".join(f"  {'sm_' + a.replace('.', ''):>16}" for a in archs)]
    by = {(r.kernel, r.arch): r for r in found}
    for kernel in kernels:
        cells = []
        for arch in archs:
            r = by.get((kernel, arch))
            bad = f" spill {r.stack + r.spills}" if r and (r.stack or r.spills) else ""
            cells.append(f"  {f'{r.registers} regs {r.occupancy:4.0%}{bad}' if r else '':>16}")
        lines.append(f"{kernel:<{width}}" + "".join(cells))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", nargs="+", default=list(ARCHS), choices=list(ARCHS))
    parser.add_argument("--source", nargs="+", type=Path, default=sources())
    parser.add_argument("--write", action="store_true", help=f"bring {TABLE.relative_to(ROOT)} up to date")
    args = parser.parse_args(argv)
    if find_nvcc() is None:
        print("cuda_resources: error: nvcc is not installed", file=sys.stderr)
        return 2
    for source in args.source:
        if not source.is_file():
            print(f"cuda_resources: error: {source} does not exist", file=sys.stderr)
            return 2
    chosen = [source.resolve() for source in args.source]
    if args.write:
        write(chosen)
    found = [r for source in chosen for arch in args.arch for r in resources(source, arch)]
    print(table(found))
    bad = [r for r in found if r.stack or r.spills]
    print(f"{len(found)} kernels, {len(bad)} with a stack frame or spills")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
