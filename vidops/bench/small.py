"""Every special case of an operator at a small size: a program that memory checkers can follow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from .case import Workload, load_benchmarks
from .variants import Data, Variant

__all__ = ["SmallResult", "run_small"]

DTYPES = ("float32", "float64", "bfloat16", "float16")
LAYOUTS = ("NCTHW", "NTCHW", "NTHWC")


@dataclass(frozen=True)
class SmallResult:
    """One comparison with the reference.

    Attributes:
        name: parameters' number, dtype, layout and direction.
        error: of the worst result, as a share of its largest value.
        reason: what is wrong; empty for a right result.
    """

    name: str
    error: float
    reason: str


def run_small(operator: str, backend: str, device: str) -> Iterator[SmallResult]:
    """Run an operator's small cases forward and backward and compare with the reference on the CPU.

    The first case runs in every dtype and layout, the others in fp32 in every layout.

    Args:
        operator: its name.
        backend: whose kernel to run.
        device: where the tensors are.

    Yields:
        A result a case, dtype, layout and direction.

    Raises:
        ValueError: the operator has no benchmark case.
        RuntimeError: the backend cannot run it there.

    Example:
        >>> all(not result.reason for result in run_small("temporal_shift", "reference", "cpu"))
        True
    """
    benchmarks = load_benchmarks()
    if operator not in benchmarks:
        raise ValueError(f"operator must be one of {', '.join(benchmarks)}, got {operator!r}")
    benchmark = benchmarks[operator]
    for number, params in enumerate(benchmark.small):
        for dtype in DTYPES if number == 0 else DTYPES[:1]:
            host = Data(benchmark, Workload("small", "cpu", params), getattr(torch, dtype), sets=1)
            data = Data(
                benchmark, Workload("small", device, params), getattr(torch, dtype), sets=1, truth_of=host
            )
            for layout in LAYOUTS:
                variant = Variant(backend, "kernel", layout, lambda p, t: benchmark.call(p, t, backend))
                for direction in ("forward", "backward"):
                    verdict = data.prepare(variant, direction).verdict
                    name = f"{operator} {backend} case {number} {dtype} {layout} {direction}"
                    yield SmallResult(name, verdict.error, verdict.reason)
