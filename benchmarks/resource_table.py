"""Tables of what kernels take of a GPU, kept under ``benchmarks/resources`` with digests of what decides it.

A group (a CUDA source, a Triton operator) whose digest is that of today need not be compiled to be known. ``make
resources`` makes anew what has changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "resources"
COMMAND = "make resources"
ARCHS = ("8.0", "9.0", "10.0", "12.0")

# Of a multiprocessor: threads, blocks, KiB of shared memory; each has 65,536 registers, given out by 256 a warp.
_LIMITS = {"8.0": (2048, 32, 164), "9.0": (2048, 32, 228), "10.0": (2048, 32, 228), "12.0": (1536, 24, 100)}
_REGISTERS = 65536
_RESERVED = 1024  # bytes of shared memory that the system takes of each block

Row = Sequence[int | float]


def occupancy(arch: str, threads: int, registers: int, shared: int = 0) -> float:
    """The share of a multiprocessor's threads that registers, shared memory and block slots let run at once.

    Args:
        arch: one of ``ARCHS``.
        threads: of a block.
        registers: of a thread.
        shared: bytes of a block.

    Example:
        >>> occupancy("9.0", 128, 128)
        0.25
        >>> occupancy("9.0", 128, 32, 56 << 10)
        0.25
    """
    most, blocks, kib = _LIMITS[arch]
    warps = -(-threads // 32)
    warp_registers = -(-registers * 32 // 256) * 256
    by_shared = (kib << 10) // (shared + _RESERVED)
    resident = min(blocks, most // threads, _REGISTERS // warp_registers // warps, by_shared)
    return round(resident * threads / most, 4)


@dataclass
class Group:
    """Kernels that change together: by name and target, one value for each of the table's columns."""

    digest: str
    kernels: dict[str, dict[str, Row]]


@dataclass
class Table:
    """A table as it is kept: the compilers it was made with, its columns, its groups by name."""

    path: Path
    toolchain: str
    columns: tuple[str, ...]
    groups: dict[str, Group] = field(default_factory=dict)

    def write(self) -> None:
        """Write the file, a line for each kernel."""
        lines = [
            "{",
            f'  "command": {json.dumps(COMMAND)},',
            f'  "toolchain": {json.dumps(self.toolchain)},',
            f'  "columns": {json.dumps(self.columns)},',
            '  "groups": {',
        ]
        for name, group in sorted(self.groups.items()):
            kernels = [
                f"        {json.dumps(kernel)}: {json.dumps(by_arch)}"
                for kernel, by_arch in sorted(group.kernels.items())
            ]
            lines += [
                f"    {json.dumps(name)}: {{",
                f'      "digest": "{group.digest}",',
                '      "kernels": {',
            ]
            lines += [",\n".join(kernels), "      }", "    },"]
        lines[-1] = lines[-1].rstrip(",") if self.groups else lines[-1]
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text("\n".join([*lines, "  }", "}"]) + "\n", encoding="utf-8")

    def stale(self, digests: Mapping[str, str]) -> list[str]:
        """The groups that are not there or are of other sources, and those that have no source any more."""
        changed = [name for name, digest in digests.items() if not self.knows(name, digest)]
        return changed + [name for name in self.groups if name not in digests]

    def knows(self, name: str, digest: str) -> bool:
        """Whether a group is there and was made from what has this digest."""
        return name in self.groups and self.groups[name].digest == digest


def read(path: Path, columns: tuple[str, ...]) -> Table:
    """Read a table; an empty one where there is none with these columns."""
    if not path.is_file():
        return Table(path, "", columns)
    kept = json.loads(path.read_text(encoding="utf-8"))
    if tuple(kept["columns"]) != columns:
        return Table(path, "", columns)
    groups = {name: Group(group["digest"], group["kernels"]) for name, group in kept["groups"].items()}
    return Table(path, kept["toolchain"], columns, groups)
