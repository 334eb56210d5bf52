"""Compilation of kernels for GPUs that are not there: what every launch of an operator would take of one.

A case is a call of the operator on meta tensors. Its launches are recorded, not made, so that what is
compiled is what such a call runs: same tiles, same constants, same types.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import mangle_type

from ..ops.layouts import clip_strides

__all__ = ["CompileCase", "Launch", "Resources", "compile_launch", "launches", "meta_clip", "source"]


@dataclass(frozen=True)
class CompileCase:
    """A representative call.

    Args:
        name: what is called, in words.
        call: makes the call, on meta tensors.
        registers: the most registers a thread that any of its kernels may take.
        quick: compile it in the quick tests too, at some seconds a case.
        capabilities: the GPUs that run such a call so, as compute capabilities, where not all do; it is compiled
            for each of them.
        shared: bytes of shared memory that a program may take.
        spilled: bytes that a thread may spill.
    """

    name: str
    call: Callable[[], Any]
    registers: int
    quick: bool = False
    capabilities: tuple[int, ...] = ()
    shared: int = 16 << 10
    spilled: int = 0


@dataclass(frozen=True)
class Launch:
    """One launch as it was asked for."""

    kernel: Any
    arguments: Mapping[str, Any]
    options: Mapping[str, int]


@dataclass(frozen=True)
class Resources:
    """What a kernel takes: registers a thread, bytes of shared memory a program, bytes spilled a thread."""

    registers: int
    shared: int
    spilled: int
    ptx: str


def meta_clip(shape: tuple[int, int, int, int, int], dtype: torch.dtype, layout: str = "NCTHW") -> Tensor:
    """A clip without data, in one of the native layouts."""
    return torch.empty_strided(shape, clip_strides(shape, layout), dtype=dtype, device="meta")


def launches(case: CompileCase) -> list[Launch]:
    """The launches of a case, none of which is made."""
    found: list[Launch] = []

    class Recorder:
        def __init__(self, kernel: Any) -> None:
            self.kernel = kernel

        def __getitem__(self, grid: Any) -> Callable[..., None]:
            def launch(*args: Any, **kwargs: Any) -> None:
                options = {k: kwargs.pop(k) for k in ("num_warps", "num_stages") if k in kwargs}
                names = [p.name for p in self.kernel.params]
                found.append(Launch(self.kernel, dict(zip(names, args, strict=False)) | kwargs, options))

            return launch

    module: Any = sys.modules[case.call.__module__]
    wrap = module.wrap_triton
    module.wrap_triton = Recorder
    try:
        case.call()
    finally:
        module.wrap_triton = wrap
    return found


def source(launch: Launch) -> ASTSource:
    """What a compiler is given of a launch: the kernel, its arguments' types, its constants."""
    signature, constants, hints = {}, {}, {}
    for i, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        if parameter.is_constexpr:
            signature[parameter.name], constants[parameter.name] = "constexpr", value
        else:
            signature[parameter.name] = mangle_type(value)
        if isinstance(value, Tensor):
            hints[(i,)] = [["tt.divisibility", 16]]  # as every allocation of PyTorch's is
    return ASTSource(launch.kernel, signature=signature, constexprs=constants, attrs=hints)


def compile_launch(launch: Launch, capability: int) -> Resources:
    """Compile a launch's kernel for a GPU of some compute capability, whether or not there is one.

    Raises:
        RuntimeError: Triton's interpreter is on, which has nothing to compile.
    """
    if triton.knobs.runtime.interpret:
        raise RuntimeError("Triton's interpreter is on; compile in a process without TRITON_INTERPRET")
    compiled = triton.compile(
        source(launch), target=GPUTarget("cuda", capability, 32), options=dict(launch.options)
    )
    usage = _usage(compiled.asm["cubin"])
    return Resources(
        usage["REG"], compiled.metadata.shared, usage["STACK"] + usage["LOCAL"], compiled.asm["ptx"]
    )


def _usage(cubin: bytes) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(path)]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    fields = (field.split(":") for line in text.splitlines() if "REG:" in line for field in line.split())
    return {name: int(value) for name, value in fields if name in ("REG", "STACK", "LOCAL")}
