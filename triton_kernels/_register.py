"""Registration of Triton operators: traceable on a GPU, opaque in Triton's interpreter."""

from __future__ import annotations

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
    make = torch.library.custom_op if INTERPRETED else torch.library.triton_op
    make(f"vidops_triton::{function.__name__}", function, mutates_args=())
    return function


def _unwrapped(kernel: Any) -> Any:
    return kernel


wrap_triton: Callable[[Any], Any] = _unwrapped if INTERPRETED else torch.library.wrap_triton
