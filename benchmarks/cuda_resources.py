"""Registers, stack, spills and theoretical occupancy of every CUDA kernel, from nvcc alone: no GPU is needed.

    python benchmarks/cuda_resources.py [--arch 8.0 9.0 ...] [--source csrc/cuda/temporal_conv.cu ...]

Exits 1 if a kernel spills registers or has a stack frame. Results are kept under ``build/cuda_resources`` by
the content of the sources, so that a second look costs nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from _build_backend import find_nvcc  # noqa: E402

CACHE = ROOT / "build" / "cuda_resources"
ARCHS = ("8.0", "9.0", "10.0", "12.0")

# Threads and blocks that a multiprocessor holds; all of these have 65,536 registers, given out by 256 a warp.
_LIMITS = {"8.0": (2048, 32), "9.0": (2048, 32), "10.0": (2048, 32), "12.0": (1536, 24)}
_REGISTERS = 65536


@dataclass(frozen=True)
class Resources:
    """What one kernel needs on one target; ``occupancy`` is a share of the multiprocessor's threads."""

    kernel: str
    arch: str
    threads: int
    registers: int
    stack: int
    spills: int
    occupancy: float


def sources() -> list[Path]:
    """Every CUDA source of the project."""
    return sorted((ROOT / "csrc" / "cuda").glob("*.cu"))


def occupancy(arch: str, threads: int, registers: int) -> float:
    """The share of a multiprocessor's threads that its registers and block slots let run at once.

    Example:
        >>> occupancy("9.0", 128, 128)
        0.25
    """
    most, blocks = _LIMITS[arch]
    warps = -(-threads // 32)
    warp_registers = -(-registers * 32 // 256) * 256
    resident = min(blocks, most // threads, _REGISTERS // warp_registers // warps)
    return resident * threads / most


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
        if not (name and memory and registers):
            raise ValueError(f"nvcc's report is not understood:\n{part}")
        stack, stores, loads = map(int, memory.groups())
        block = threads.get(name[1], 1024)
        found.append(
            Resources(
                _readable(name[1]),
                arch,
                block,
                int(registers[1]),
                stack,
                stores + loads,
                occupancy(arch, block, int(registers[1])),
            )
        )
    return sorted(found, key=lambda r: r.kernel)


def _readable(symbol: str) -> str:
    text = subprocess.run(["c++filt", symbol], capture_output=True, text=True, check=True).stdout
    name = re.search(r"(\w+(?:<[^()]*>)?)\(", text.replace("(anonymous namespace)::", ""))
    return name[1].replace("c10::", "") if name else symbol


def measure(source: Path, arch: str) -> list[Resources]:
    """Compile one source's kernels for one target and return what each of them needs; the host's part is left out.

    Raises:
        RuntimeError: there is no nvcc or no torch, or nvcc failed.
    """
    nvcc = find_nvcc()
    torch = importlib.util.find_spec("torch")
    if nvcc is None or torch is None or not torch.submodule_search_locations:
        raise RuntimeError("nvcc and an installed torch (for its headers) are needed")
    number = arch.replace(".", "")
    flags = [
        "-std=c++20",
        "-O3",
        "--resource-usage",
        f"-gencode=arch=compute_{number},code=sm_{number}",
        "-DUSE_CUDA",
        "-DTORCH_TARGET_VERSION=0x020b000000000000",
        f"-I{ROOT / 'csrc'}",
        "-isystem",
        str(Path(next(iter(torch.submodule_search_locations))) / "include"),
    ]
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    digest = hashlib.sha256("\0".join([version, *flags, Path(__file__).read_text()]).encode())
    for file in [source, *sorted(ROOT.glob("csrc/*/*.h")), *sorted(ROOT.glob("csrc/*/*.cuh"))]:
        digest.update(file.read_bytes())
    kept = CACHE / f"{source.stem}-{number}-{digest.hexdigest()[:16]}.json"
    if kept.is_file():
        return [Resources(**entry) for entry in json.loads(kept.read_text())]
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        done = subprocess.run(
            [
                nvcc,
                *flags,
                "--keep",
                f"--keep-dir={scratch}",
                "-cubin",
                str(source),
                "-o",
                f"{scratch}/out.cubin",
            ],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"nvcc failed on {source} for {arch}:\n{done.stdout}{done.stderr}")
        ptx = "".join(file.read_text() for file in Path(scratch).glob("*.ptx"))
        found = parse(done.stdout + done.stderr, ptx, arch)
        part = Path(scratch, "result.json")
        part.write_text(json.dumps([asdict(r) for r in found]))
        for old in CACHE.glob(f"{source.stem}-{number}-*.json"):
            old.unlink()
        part.rename(kept)
    return found


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
    parser.add_argument("--arch", nargs="+", default=list(ARCHS), choices=list(_LIMITS))
    parser.add_argument("--source", nargs="+", type=Path, default=sources())
    args = parser.parse_args(argv)
    if find_nvcc() is None:
        print("cuda_resources: error: nvcc is not installed", file=sys.stderr)
        return 2
    for source in args.source:
        if not source.is_file():
            print(f"cuda_resources: error: {source} does not exist", file=sys.stderr)
            return 2
    found = [r for source in args.source for arch in args.arch for r in measure(source.resolve(), arch)]
    print(table(found))
    bad = [r for r in found if r.stack or r.spills]
    print(f"{len(found)} kernels, {len(bad)} with a stack frame or spills")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
