from __future__ import annotations

import subprocess
import sys

import torch

from vidops.ops.tracing import assume_constant_result


def test_the_mark_is_the_one_that_pytorch_sets() -> None:
    def ours() -> bool:
        return True

    def theirs() -> bool:
        return True

    assert assume_constant_result(ours) is ours
    assert vars(ours) == vars(torch.compiler.assume_constant_result(theirs))


def test_import_leaves_the_compiler_alone() -> None:
    """It takes longer to import than all of vidops, and most programs compile nothing."""
    code = (
        "import sys, vidops.models; print({'torch._dynamo', 'torch._inductor', 'sympy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
