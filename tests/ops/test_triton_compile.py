"""Every Triton kernel compiles for every supported GPU, without one: registers, shared memory, no spills.

A module in ``triton_kernels/`` joins by its ``COMPILE_CASES``. Launches that ``benchmarks/resources/triton.json`` was
made from are looked up there; a few are compiled all the same, so that a table that is wrong would be found. All that
runs in other processes: the interpreter, which the other tests use, has nothing to compile.
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
TOOL = ROOT / "benchmarks" / "triton_resources.py"
ARCHS = ("8.0", "9.0", "10.0", "12.0")
OTHER_TRITON = 3  # the status of TOOL where the table was made with another compiler
OPERATORS = sorted(p.stem for p in (ROOT / "triton_kernels").glob("*.py") if not p.name.startswith("_"))


def python(*arguments: str) -> str:
    """What a new process without the interpreter prints."""
    env = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "VIDOPS_BACKEND")}
    env |= {"PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True)
    if result.returncode == OTHER_TRITON:
        pytest.skip(result.stderr.strip())
    assert result.returncode == 0, result.stdout + result.stderr[-4000:]
    return result.stdout


def compiled(*arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in python(str(TOOL), "--json", *arguments).splitlines()]


def check(case: dict[str, Any]) -> None:
    for used in case["compiled"]:
        what = f"{used['kernel']}, {used['arch']} ({case['case']})"
        assert used["spills"] <= case["spilled"], f"{what} spills {used['spills']} bytes a thread"
        assert used["registers"] <= case["limit"], f"{what} takes {used['registers']} registers"
        assert used["shared"] <= case["shared"], f"{what} takes {used['shared']} bytes of shared memory"
        assert used["threads"] <= 256, f"{what} has more than 8 warps, which ptxas fails on for some kernels"
        if used["align"] and used["align"] >= 4 and "bf16" in case["case"]:
            # Clips are written 8 bytes at a time and more where their steps allow it.
            wide, narrow = used["wide_stores"], used["narrow_stores"]
            assert wide >= max(narrow, 1), f"{what} stores {wide} times widely, {narrow} times narrowly"


def test_kernels_fit_an_h200() -> None:
    cases = compiled("--quick")
    assert {case["operator"] for case in cases if case["compiled"]} == set(OPERATORS)
    for case in cases:
        check(case)
    for operator in OPERATORS:
        module = importlib.import_module(f"vidops.triton_kernels.{operator}")
        kernels = {name for name in vars(module) if name.endswith("_kernel")}
        assert kernels == {name for case in cases if case["operator"] == operator for name in case["kernels"]}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kernels_fit_every_gpu() -> None:
    """Every case for an H200; for the others the cases of real networks and, of each kernel, the one nearest its limit.

    A kernel's tiles and constants are one program for every GPU, and what a target makes of it differs in registers.
    Where tiles are chosen by the GPU, cases name theirs.
    """
    cases = compiled()
    for operator in OPERATORS:
        own = [case for case in cases if case["operator"] == operator]
        made = {(used["kernel"], used["arch"]) for case in own for used in case["compiled"]}
        assert made == set(itertools.product({k for case in own for k in case["kernels"]}, ARCHS))
    for case in cases:
        first = "9.0" if "9.0" in case["archs"] else case["archs"][0]
        assert sum(used["arch"] == first for used in case["compiled"]) == len(case["kernels"])
        check(case)


def test_the_table_is_of_these_kernels() -> None:
    python(str(TOOL), "--stale")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_table_is_what_triton_says() -> None:
    """Of some launches, for every GPU; which, changes with the table."""
    python(str(TOOL), "--fresh", "16")


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
    graphs = python("-c", TRACE).splitlines()
    assert [graph.count("triton_kernel_wrapper_functional") for graph in graphs] == [3, 4] * 2
    assert "clone" not in " ".join(graphs)
