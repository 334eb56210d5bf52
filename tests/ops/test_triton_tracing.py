"""Triton operators as compilers see them: traced to their kernels' launches, for sizes that are symbols."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from vidops.bench import load_benchmarks

pytest.importorskip("triton")

# In a process of its own: the interpreter, which these tests run in where there is no GPU, has nothing to trace.
PROGRAM = """
import importlib, sys
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from tests.ops.test_contract import Recorder, call, inputs, leaves, total

for operator in sys.argv[1:]:
    module = importlib.import_module(f"vidops.triton_kernels.{operator}")
    with Recorder("vidops") as recorder:
        total(call(operator, 0, *leaves(inputs(operator, 0)), backend="cpu")).backward()
    for name, (_, arguments) in recorder.calls.items():
        given = torch.utils._pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, arguments)
        function = getattr(module, name)
        graph = make_fx(lambda *a: function(*a), tracing_mode="symbolic")(*given).graph
        launches = [node for node in graph.nodes if "triton_kernel_wrapper" in str(node.target)]
        print(name, len(launches))
"""


@pytest.mark.slow
def test_every_operator_traces_with_symbolic_sizes() -> None:
    operators = list(load_benchmarks())
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *operators], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    launches = dict(line.split() for line in done.stdout.splitlines())
    assert launches.keys() == {name for op in operators for name in (op, f"{op}_backward")}
    assert all(int(count) > 0 for count in launches.values()), launches
