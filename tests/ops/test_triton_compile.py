"""Every Triton kernel compiles for every supported GPU, without one: registers, shared memory, no spills.

A module in ``triton_kernels/`` joins by its ``COMPILE_CASES``. Compilation runs in other processes: the
interpreter, which the other tests use, has nothing to compile.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

ROOT = Path(__file__).resolve().parents[2]
CACHE = (
    ROOT / "build" / "triton"
)  # by the content of the kernels: the slow tests find what the quick ones compiled
OPERATORS = sorted(p.stem for p in (ROOT / "triton_kernels").glob("*.py") if not p.name.startswith("_"))

COMPILE = """
import importlib, json, re, sys
from vidops.triton_kernels import _compile
which, *operators = sys.argv[1:]

def compiled(case, launch, capability):
    used = _compile.compile_launch(launch, capability)
    return {
        "kernel": launch.kernel.__name__, "capability": capability, "align": launch.arguments.get("ALIGN"),
        "registers": used.registers, "shared": used.shared, "spilled": used.spilled,
        "stores": re.findall(r"st\\.global\\.((?:v\\d\\.)?b\\d+)", used.ptx),
    }

for operator in operators:
    cases = importlib.import_module("vidops.triton_kernels." + operator).COMPILE_CASES
    launches = [_compile.launches(case) for case in cases]
    found = [[compiled(case, launch, 90) for launch in made]
             if (which == "all" or case.quick) and 90 in (case.capabilities or [90]) else []
             for case, made in zip(cases, launches)]
    greediest = {}
    for i, used in enumerate(found):
        for j, use in enumerate(used if not cases[i].capabilities else []):
            best = greediest.setdefault(use["kernel"], (i, j))
            if use["registers"] > found[best[0]][best[1]]["registers"]:
                greediest[use["kernel"]] = i, j
    for i, (case, made, used) in enumerate(zip(cases, launches, found)):
        if which == "all":
            again = [j for j in range(len(made)) if case.quick or case.capabilities or (i, j) in greediest.values()]
            used += [compiled(case, made[j], capability) for capability in (80, 100, 120)
                     if capability in (case.capabilities or [capability]) for j in again]
        print(json.dumps({
            "operator": operator, "case": case.name, "limit": case.registers, "shared": case.shared,
            "spilled": case.spilled, "capabilities": case.capabilities or [80, 90, 100, 120],
            "kernels": [launch.kernel.__name__ for launch in made],
            "warps": [launch.options["num_warps"] for launch in made], "compiled": used,
        }))
"""


def python(code: str, *arguments: str) -> str:
    """What a new process without the interpreter prints."""
    env = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "VIDOPS_BACKEND")}
    env |= {"TRITON_CACHE_DIR": str(CACHE), "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


def compiled(which: str, operators: list[str]) -> list[dict[str, Any]]:
    lines = python(COMPILE, which, *operators).splitlines()
    return [json.loads(line) for line in lines]


def check(case: dict[str, Any]) -> None:
    for used in case["compiled"]:
        what = f"{used['kernel']}, sm_{used['capability']} ({case['case']})"
        assert used["spilled"] <= case["spilled"], f"{what} spills {used['spilled']} bytes a thread"
        assert used["registers"] <= case["limit"], f"{what} takes {used['registers']} registers"
        assert used["shared"] <= case["shared"], f"{what} takes {used['shared']} bytes of shared memory"
        if used["align"] and used["align"] >= 4 and "bf16" in case["case"]:
            # Clips are written 8 bytes at a time and more where their steps allow it.
            wide = sum(store in ("v2.b32", "v4.b32") for store in used["stores"])
            assert wide >= max(used["stores"].count("b16"), 1), f"{what} stores as {sorted(used['stores'])}"


def test_kernels_fit_an_h200() -> None:
    cases = compiled("quick", OPERATORS)
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
def test_kernels_fit_every_gpu(operator: str) -> None:
    """Every case for an H200; for the others the cases of real networks and, of each kernel, the one nearest its limit.

    A kernel's tiles and constants are one program for every GPU, and what a target makes of it differs in registers.
    Where tiles are chosen by the GPU, cases name theirs.
    """
    cases = compiled("all", [operator])
    made = {(used["kernel"], used["capability"]) for case in cases for used in case["compiled"]}
    assert made == set(itertools.product({k for case in cases for k in case["kernels"]}, (80, 90, 100, 120)))
    for case in cases:
        first = 90 if 90 in case["capabilities"] else case["capabilities"][0]
        assert sum(used["capability"] == first for used in case["compiled"]) == len(case["kernels"])
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

def net(x, weight, bias, logits):
    y = vidops.ops.temporal_shift(x, 4, backend="triton_traced")
    z = vidops.ops.temporal_conv(y, weight, bias, groups=((4, 3, 1), (4, 5, 2)), backend="triton_traced")
    return vidops.ops.pathway_select([x, z], logits, backend="triton_traced")

with FakeTensorMode():
    shapes = (2, 8, 8, 4, 4), (32,), (8,), (2, 2, 8, 8)
    given = [torch.empty(shape, requires_grad=True) for shape in shapes]
    capturing = aot_autograd(fw_compiler=capture, bw_compiler=capture)
    for dynamic in (False, True):
        torch.compiler.reset()
        y = torch.compile(net, backend=capturing, fullgraph=True, dynamic=dynamic)(*given)
        torch.autograd.grad(y, given, torch.empty_like(y))
"""


def test_compilers_see_the_kernels() -> None:
    # As on a GPU: torch.compile inlines the launches, and finds in the kernels' code what they write.
    # Where it could not, it would clone every input of every launch.
    graphs = python(TRACE).splitlines()
    assert [graph.count("triton_kernel_wrapper_functional") for graph in graphs] == [3, 4] * 2
    assert "clone" not in " ".join(graphs)
