"""Every Triton kernel compiles for every supported GPU, without one: registers, shared memory, no spills.

A module in ``triton_kernels/`` joins by its ``COMPILE_CASES``. Compilation runs in processes of its own, because
the interpreter, which the other tests use, has nothing to compile.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

ROOT = Path(__file__).resolve().parents[2]
CAPABILITIES = [80, 90, 100, 120]
OPERATORS = sorted(p.stem for p in (ROOT / "triton_kernels").glob("*.py") if not p.name.startswith("_"))

COMPILE = """
import importlib, json, re, sys
from vidops.triton_kernels import _compile
module = importlib.import_module("vidops.triton_kernels." + sys.argv[1])
for case in module.COMPILE_CASES:
    if sys.argv[3] == "all" or case.everywhere:
        for launch in _compile.launches(case):
            used = _compile.compile_launch(launch, int(sys.argv[2]))
            print(json.dumps({
                "case": case.name, "kernel": launch.kernel.__name__, "limit": case.registers,
                "registers": used.registers, "shared": used.shared, "spilled": used.spilled,
                "align": launch.arguments.get("ALIGN"),
                "accesses": re.findall(r"(?:ld|st)\\.global\\.(?:v\\d\\.)?b\\d+", used.ptx),
            }))
"""


def python(code: str, *arguments: str, cache: Path, **environment: str) -> str:
    """What a new process without the interpreter prints."""
    env = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "VIDOPS_BACKEND")}
    env |= {"TRITON_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT), **environment}
    result = subprocess.run([sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


def compiled(operator: str, capability: int, which: str, cache: Path) -> list[dict[str, Any]]:
    lines = python(COMPILE, operator, str(capability), which, cache=cache).splitlines()
    return [json.loads(line) for line in lines]


def check(results: list[dict[str, Any]]) -> None:
    assert results
    for used in results:
        what = f"{used['kernel']} ({used['case']})"
        assert used["spilled"] == 0, f"{what} spills {used['spilled']} bytes a thread"
        assert used["registers"] <= used["limit"], f"{what} takes {used['registers']} registers"
        assert used["shared"] <= 16 << 10, f"{what} takes {used['shared']} bytes of shared memory"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_kernels_fit_every_gpu(operator: str, capability: int, tmp_path: Path) -> None:
    check(compiled(operator, capability, "some", tmp_path))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_every_case_fits_every_gpu(operator: str, capability: int, tmp_path: Path) -> None:
    results = compiled(operator, capability, "all", tmp_path)
    check(results)
    for used in results:
        if used["align"] and "bf16" in used["case"] and used["align"] >= 4:
            # Clips are read and written at least 8 bytes at a time where their steps allow it.
            wide = [a for a in used["accesses"] if re.fullmatch(r"st\.global\.v[24]\.b32", a)]
            assert len(wide) >= 8, f"{used['kernel']} ({used['case']}): {sorted(set(used['accesses']))}"


@pytest.mark.parametrize("operator", OPERATORS)
def test_cases_launch_every_kernel(operator: str, tmp_path: Path) -> None:
    code = """
import importlib, sys
import triton
from vidops.triton_kernels import _compile
module = importlib.import_module("vidops.triton_kernels." + sys.argv[1])
kernels = {name for name, value in vars(module).items() if name.endswith("_kernel")}
launched = {launch.kernel.__name__ for case in module.COMPILE_CASES for launch in _compile.launches(case)}
assert any(case.everywhere for case in module.COMPILE_CASES)
assert kernels and kernels == launched, (kernels, launched)
for case in module.COMPILE_CASES:
    assert all(launch.options["num_warps"] <= 8 for launch in _compile.launches(case))
"""
    python(code, operator, cache=tmp_path)


TRACE = """
import torch, triton
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.backends.compiler import GPUTarget
import vidops
from vidops.ops import backends

class Driver:  # stands for an H200's: compilers ask it what to compile for
    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

triton.runtime.driver.set_active(Driver())
made = backends.Backend("triton_traced", "vidops_triton", (), module="vidops.triton_kernels")
backends.BACKENDS[made.name] = made
for operator in backends.OPERATORS.values():
    operator.add_backend(made)

def capture(graph, inputs):
    print(" ".join(str(node.target).split(".")[-2 if "." in str(node.target) else 0]
                   for node in graph.graph.nodes if node.op == "call_function"))
    return make_boxed_func(graph.forward)

def net(x, weight, bias):
    y = vidops.ops.temporal_shift(x, 4, backend="triton_traced")
    return vidops.ops.temporal_conv(y, weight, bias, groups=((4, 3, 1), (4, 5, 2)), backend="triton_traced")

with FakeTensorMode():
    x, weight, bias = (torch.empty(s, requires_grad=True) for s in ((2, 8, 8, 4, 4), (32,), (8,)))
    capturing = aot_autograd(fw_compiler=capture, bw_compiler=capture)
    y = torch.compile(net, backend=capturing, fullgraph=True)(x, weight, bias)
    torch.autograd.grad(y, (x, weight, bias), torch.empty_like(y))
"""


def test_compilers_see_the_kernels(tmp_path: Path) -> None:
    # As on a GPU: torch.compile inlines the launches, and finds in the kernels' code which tensors they write.
    # Where it could not, it would clone every input of every launch.
    forward, backward = python(TRACE, cache=tmp_path).splitlines()
    assert forward.count("triton_kernel_wrapper_functional") == 2
    assert backward.count("triton_kernel_wrapper_functional") == 3
    assert "clone" not in forward + backward
