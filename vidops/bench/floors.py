"""The least possible times of the cases, reckoned from a machine's ceilings: nothing is measured or allocated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from .case import Benchmark, Workload
from .check import tensors_of
from .variants import traffic

__all__ = ["H200", "Ceilings", "Floor", "floors"]


@dataclass(frozen=True)
class Ceilings:
    """What a machine can do at most in a second.

    Attributes:
        copy: bytes read and written by a copy.
        fma: multiply-adds outside matrix units.
        matrix: multiply-adds of 16-bit matrix products.
    """

    copy: float
    fma: float
    matrix: float


# Round figures, not measured by vidops bench: a copy of gigabytes, fp32 multiply-adds in registers, a bf16 product.
H200 = Ceilings(copy=4.3e12, fma=33e12, matrix=395e12)


@dataclass(frozen=True)
class Floor:
    """The least possible time of one size, dtype and direction, and what it is made of."""

    workload: Workload
    dtype: str
    direction: str
    bytes: int
    products: int
    seconds: float
    by: str


def floors(benchmark: Benchmark, device: str, ceilings: Ceilings) -> Iterator[Floor]:
    """Reckon the floor of every size of an operator on a device.

    Args:
        benchmark: the operator's case.
        device: ``"cpu"`` or ``"cuda"``: whose workloads; no GPU is needed.
        ceilings: of the machine.

    Returns:
        Floors of forward and backward, workload by workload.

    Example:
        >>> from .case import load_benchmarks
        >>> floor = next(floors(load_benchmarks()["temporal_shift"], "cuda", H200))
        >>> floor.bytes, floor.products, floor.by
        (411041792, 0, 'memory')
    """
    for workload in benchmark.workloads:
        if workload.device != device:
            continue
        timed = [direction for direction in workload.directions if not direction.startswith("call")]
        if not timed:
            continue
        drawn = _fake(benchmark, workload)
        for dtype in workload.dtypes:
            inputs, outputs = (tuple(_of_dtype(t, dtype) for t in tensors) for tensors in drawn)
            for direction in timed:
                moved = traffic(benchmark, direction, inputs, outputs)
                products = benchmark.products(workload.params, direction)
                on_matrix_units = benchmark.matrix and dtype in ("float16", "bfloat16")
                arithmetic = products / (ceilings.matrix if on_matrix_units else ceilings.fma)
                memory = moved / ceilings.copy
                by = "memory" if memory >= arithmetic else "arithmetic"
                yield Floor(workload, dtype, direction, moved, products, max(memory, arithmetic), by)


_FOLLOWS = (
    torch.bfloat16
)  # what comes out in it has the dtype of the inputs; results that stay in fp32 do not


def _fake(
    benchmark: Benchmark, workload: Workload
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """Inputs and results of the reference that have shapes and dtypes and no memory."""
    with FakeTensorMode(), torch.no_grad():
        drawn = benchmark.inputs(workload.params, torch.Generator())
        inputs = tuple(t.to(_FOLLOWS) if t.is_floating_point() else t for t in drawn)
        return inputs, tuple(tensors_of(benchmark.call(workload.params, inputs, "reference")))


def _of_dtype(tensor: torch.Tensor, dtype: str) -> torch.Tensor:
    return tensor.to(getattr(torch, dtype)) if tensor.dtype == _FOLLOWS else tensor
