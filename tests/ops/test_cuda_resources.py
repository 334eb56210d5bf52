"""What nvcc says of the CUDA kernels: no spills, no local memory, on every target."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _tool() -> Any:
    spec = importlib.util.spec_from_file_location("cuda_resources", ROOT / "benchmarks" / "cuda_resources.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


tool = _tool()

LOG = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z8a_kernelPf' for 'sm_90'
ptxas info    : Function properties for _Z8a_kernelPf
    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers
"""
PTX = ".visible .entry _Z8a_kernelPf(\n\t.param .u64 p\n)\n.maxntid 128\n{"


def test_reads_the_compilers_report() -> None:
    (found,) = tool.parse(LOG, PTX, "9.0")
    assert (found.kernel, found.threads, found.registers, found.stack, found.spills) == (
        "a_kernel",
        128,
        168,
        16,
        12,
    )
    assert found.occupancy == 3 * 128 / 2048
    assert "spill 28" in tool.table([found])


def test_a_report_that_is_not_understood_is_an_error() -> None:
    with pytest.raises(ValueError, match="not understood"):
        tool.parse(LOG.replace("Used 168", "Took 168"), PTX, "9.0")


@pytest.mark.parametrize(
    "registers,arch,expected", [(32, "8.0", 1), (128, "9.0", 0.25), (255, "12.0", 1 / 6)]
)
def test_occupancy(registers: int, arch: str, expected: float) -> None:
    assert tool.occupancy(arch, 128, registers) == pytest.approx(expected)


@pytest.mark.parametrize(
    "arch", [a if a == "9.0" else pytest.param(a, marks=pytest.mark.slow) for a in tool.ARCHS]
)
@pytest.mark.parametrize("source", tool.sources(), ids=lambda p: p.stem)
def test_no_spills_and_no_stack(source: Path, arch: str) -> None:
    if tool.find_nvcc() is None:
        pytest.skip("nvcc is not installed")
    found = tool.measure(source, arch)
    print(tool.table(found))
    assert found
    assert [r.kernel for r in found if r.stack or r.spills] == []
