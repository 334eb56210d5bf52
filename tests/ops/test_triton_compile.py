"""Every Triton kernel compiles for every supported GPU, without one: registers, shared memory, no spills.

A module in ``triton_kernels/`` joins by its ``COMPILE_CASES``. Compilation runs in other processes: the
interpreter, which the other tests use, has nothing to compile.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

ROOT = Path(__file__).resolve().parents[2]
OPERATORS = sorted(p.stem for p in (ROOT / "triton_kernels").glob("*.py") if not p.name.startswith("_"))

COMPILE = """
import importlib, json, re, sys
from vidops.triton_kernels import _compile
capabilities, which, *operators = sys.argv[1:]
for operator in operators:
    module = importlib.import_module("vidops.triton_kernels." + operator)
    for case in module.COMPILE_CASES:
        launches = _compile.launches(case)
        found = {
            "operator": operator, "case": case.name, "limit": case.registers,
            "kernels": [launch.kernel.__name__ for launch in launches],
            "warps": [launch.options["num_warps"] for launch in launches], "compiled": [],
        }
        for launch in launches if which == "all" or case.quick else []:
            for capability in map(int, capabilities.split(",")):
                used = _compile.compile_launch(launch, capability)
                found["compiled"].append({
                    "what": f"{launch.kernel.__name__}, sm_{capability} ({case.name})",
                    "align": launch.arguments.get("ALIGN"),
                    "registers": used.registers, "shared": used.shared, "spilled": used.spilled,
                    "stores": re.findall(r"st\\.global\\.((?:v\\d\\.)?b\\d+)", used.ptx),
                })
        print(json.dumps(found))
"""


def python(code: str, *arguments: str, cache: Path) -> str:
    """What a new process without the interpreter prints."""
    env = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "VIDOPS_BACKEND")}
    env |= {"TRITON_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


def compiled(capabilities: str, which: str, operators: list[str], cache: Path) -> list[dict[str, Any]]:
    lines = python(COMPILE, capabilities, which, *operators, cache=cache).splitlines()
    return [json.loads(line) for line in lines]


def check(case: dict[str, Any]) -> None:
    for used in case["compiled"]:
        what = used["what"]
        assert used["spilled"] == 0, f"{what} spills {used['spilled']} bytes a thread"
        assert used["registers"] <= case["limit"], f"{what} takes {used['registers']} registers"
        assert used["shared"] <= 16 << 10, f"{what} takes {used['shared']} bytes of shared memory"
        if used["align"] and used["align"] >= 4 and "bf16" in case["case"]:
            # Clips are written 8 bytes at a time and more where their steps allow it.
            wide = [store for store in used["stores"] if store in ("v2.b32", "v4.b32")]
            assert len(wide) >= 8, f"{what} stores as {sorted(set(used['stores']))}"


def test_kernels_fit_an_h200(tmp_path: Path) -> None:
    cases = compiled("90", "quick", OPERATORS, tmp_path)
    assert {case["operator"] for case in cases if case["compiled"]} == set(OPERATORS)
    for case in cases:
        check(case)
        assert max(case["warps"]) <= 8  # ptxas fails on some kernels of 16
    for operator in OPERATORS:
        module = importlib.import_module(f"vidops.triton_kernels.{operator}")
        kernels = {name for name in vars(module) if name.endswith("_kernel")}
        assert kernels == {name for case in cases if case["operator"] == operator for name in case["kernels"]}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("operator", OPERATORS)
def test_kernels_fit_every_gpu(operator: str, tmp_path: Path) -> None:
    cases = compiled("80,90,100,120", "all", [operator], tmp_path)
    assert cases
    for case in cases:
        assert len(case["compiled"]) == 4 * len(case["kernels"])
        check(case)


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
    for dynamic in (False, True):
        torch.compiler.reset()
        y = torch.compile(net, backend=capturing, fullgraph=True, dynamic=dynamic)(x, weight, bias)
        torch.autograd.grad(y, (x, weight, bias), torch.empty_like(y))
"""


def test_compilers_see_the_kernels(tmp_path: Path) -> None:
    # As on a GPU: torch.compile inlines the launches, and finds in the kernels' code what they write.
    # Where it could not, it would clone every input of every launch.
    graphs = python(TRACE, cache=tmp_path).splitlines()
    assert [graph.count("triton_kernel_wrapper_functional") for graph in graphs] == [2, 3] * 2
    assert "clone" not in " ".join(graphs)
