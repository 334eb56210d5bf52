"""Registration of Triton operators: traceable on a GPU, opaque in Triton's interpreter."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
import triton

__all__ = ["INTERPRETED", "operator", "wrap_triton"]

INTERPRETED: bool = bool(triton.knobs.runtime.interpret)


def operator(function: Callable[..., Any]) -> Callable[..., Any]:
    """Register a function as ``torch.ops.vidops_triton.<its name>``, its schema being its annotations.

    Compilers see through a ``triton_op`` to the kernels that it launches. The interpreter's kernels can only
    be called, never traced, so there the operator is a ``custom_op``. Fake, autograd and FLOP rules come from
    the registry, as for every backend.

    Args:
        function: annotated, without default arguments, and named as its schema in ``csrc/schema.cpp``. It
            launches kernels as ``wrap_triton(kernel)[grid](...)`` and changes none of its arguments.

    Returns:
        The function itself, for tests and for other operators to call.
    """
    if INTERPRETED:
        torch.library.custom_op(f"vidops_triton::{function.__name__}", function, mutates_args=())
        return function

    @functools.wraps(function)
    def on_its_device(*args: Any) -> Any:
        x = next(a for a in args if isinstance(a, torch.Tensor))
        with torch.cuda.device_of(x):  # Triton launches on the current device, which need not be that of x
            return function(*args)

    on_its_device.__signature__ = inspect.signature(function, eval_str=True)  # type: ignore[attr-defined]
    torch.library.triton_op(f"vidops_triton::{function.__name__}", on_its_device, mutates_args=())
    return function


def _unwrapped(kernel: Any) -> Any:
    return kernel


wrap_triton: Callable[[Any], Any] = _unwrapped if INTERPRETED else torch.library.wrap_triton
