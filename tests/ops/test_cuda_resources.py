"""What nvcc says of the CUDA kernels: no spills, no local memory, on every target.

Sources that have not changed since ``benchmarks/resources/cuda.json`` was made are looked up there; a few are compiled
all the same, so that a table that is wrong would be found.
"""

from __future__ import annotations

import importlib
import re
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
tool: Any = importlib.import_module("cuda_resources")
tables: Any = importlib.import_module("resource_table")
sys.path.remove(str(ROOT / "benchmarks"))

LOG = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z8a_kernelPf' for 'sm_90'
ptxas info    : Function properties for _Z8a_kernelPf
    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 2048 bytes smem
"""
PTX = ".visible .entry _Z8a_kernelPf(\n\t.param .u64 p\n)\n.maxntid 128\n{"


def test_reads_the_compilers_report() -> None:
    (found,) = tool.parse(LOG, PTX, "9.0")
    assert (found.kernel, found.threads, found.registers) == ("a_kernel", 128, 168)
    assert (found.shared, found.stack, found.spills) == (2048, 16, 12)
    assert found.occupancy == 3 * 128 / 2048
    assert "spill 28" in tool.table([found])


def test_a_report_that_is_not_understood_is_an_error() -> None:
    with pytest.raises(ValueError, match="not understood"):
        tool.parse(LOG.replace("Used 168", "Took 168"), PTX, "9.0")


@pytest.mark.parametrize(
    "arch,registers,shared,expected",
    [("8.0", 32, 0, 1), ("9.0", 128, 0, 0.25), ("12.0", 255, 0, 1 / 6), ("12.0", 32, 49 << 10, 1 / 6)],
)
def test_occupancy(arch: str, registers: int, shared: int, expected: float) -> None:
    assert tool.occupancy(arch, 128, registers, shared) == pytest.approx(expected, abs=1e-4)


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    table = tables.Table(tmp_path / "t.json", "nvcc 1", ("registers", "spills"))
    table.groups = {
        "b": tables.Group("2", {"k<1>": {"8.0": [3, 0], "9.0": [4, 1]}, "j": {}}),
        "a": tables.Group("1", {}),
    }
    table.write()
    assert tables.read(table.path, table.columns) == table
    assert tables.read(table.path, ("registers",)).groups == {}
    assert table.stale({"a": "1", "b": "3", "c": "1"}) == ["b", "c"]
    assert table.stale({"a": "1"}) == ["b"]


def test_a_digest_is_of_the_code(tmp_path: Path, monkeypatch: Any) -> None:
    header, source = tmp_path / "csrc" / "common" / "a.h", tmp_path / "csrc" / "cuda" / "a.cu"
    for file, text in ((header, "int a;\n"), (source, '#include "common/a.h"\n#include <new>\nint b;\n')):
        file.parent.mkdir(parents=True)
        file.write_text(text)
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    assert tool.includes(source) == [header, source]
    first = tool.digest(source)
    header.write_text("// a\n\nint a; // one\n")
    assert tool.digest(source) == first
    header.write_text("int c;\n")
    assert tool.digest(source) != first


def test_the_flags_are_the_builds() -> None:
    """What the build alone is given, such as a limit of registers, would let its kernels spill unseen."""
    flags = re.search(r"set\(cuda_flags ([^)]*)\)", (ROOT / "CMakeLists.txt").read_text())
    assert flags
    assert set(flags[1].split()) - {"-lineinfo"} <= set(tool.FLAGS)


@pytest.mark.parametrize(
    "arch", [a if a == "9.0" else pytest.param(a, marks=pytest.mark.slow) for a in tool.ARCHS]
)
@pytest.mark.parametrize("source", tool.sources(), ids=lambda p: p.stem)
def test_no_spills_and_no_stack(source: Path, arch: str) -> None:
    if tool.find_nvcc() is None and stale():
        pytest.skip(f"nvcc is not installed, and {tool.TABLE.name} is older than {', '.join(stale())}")
    found = tool.resources(source, arch)
    print(tool.table(found))
    assert found
    assert [r.kernel for r in found if r.stack or r.spills] == []


def stale() -> list[str]:
    table = tables.read(tool.TABLE, tool.COLUMNS)
    return table.stale({source.stem: tool.digest(source) for source in tool.sources()})


def compilers_table() -> Any:
    """The table, where it was made with the compiler that is here."""
    table, here = tables.read(tool.TABLE, tool.COLUMNS), tool.toolchain()
    if here != table.toolchain:
        pytest.skip(f"{tool.TABLE.name} was made with {table.toolchain}, here is {here or 'no nvcc'}")
    return table


def test_the_table_is_of_these_sources() -> None:
    compilers_table()
    assert not stale(), f"{tool.TABLE.name} is older than these sources; `{tables.COMMAND}` makes it anew"


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "arch", [a if a == "9.0" else pytest.param(a, marks=pytest.mark.slow) for a in tool.ARCHS]
)
def test_the_table_is_what_nvcc_says(arch: str) -> None:
    """Of a source for each target; which, changes with the table."""
    table = compilers_table()
    known = [s for s in tool.sources() if table.knows(s.stem, tool.digest(s))]
    small = [s for s in known if s.stem in ("resize", "temporal_descriptor", "temporal_shift")]
    chosen = small if arch == "9.0" else known  # seconds in the quick tests, not half a minute
    assert chosen, f"`{tables.COMMAND}` makes the table anew"
    source = chosen[zlib.crc32((arch + "".join(map(tool.digest, known))).encode()) % len(chosen)]
    assert tool.resources(source, arch) == tool.measure(source, arch, fresh=True)


@pytest.mark.slow
@pytest.mark.parametrize("source", tool.sources(), ids=lambda p: p.stem)
def test_the_hosts_part_compiles(source: Path) -> None:
    """The tables are of the device's part alone, and the emulation knows no difference between the two."""
    if tool.find_nvcc() is None:
        pytest.skip("nvcc is not installed")
    tool.check_host(source)


def test_a_host_that_calls_the_device_is_found(tmp_path: Path) -> None:
    if tool.find_nvcc() is None:
        pytest.skip("nvcc is not installed")
    source = tmp_path / "a.cu"
    source.write_text("__device__ int f() { return 1; }\nint g() { return f(); }\n")
    with pytest.raises(RuntimeError, match="__device__ function"):
        tool.check_host(source)
