"""Every special case of an operator at a small size: a program that memory checkers can follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .case import Benchmark, Params, Tensors, Workload, load_benchmarks
from .check import tensors_of
from .networks import graphed
from .variants import Data, Variant, first_line, launch_errors

__all__ = ["SmallResult", "replay_small", "run_small"]

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
    benchmark = _benchmark(operator)
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


def replay_small(operator: str, backend: str, device: str) -> Iterator[SmallResult]:
    """Capture an operator's small cases in CUDA graphs and replay each on fresh inputs, bit by bit as the eager call.

    The cases, dtypes and layouts are those of `run_small`. Forward alone and forward with backward are captured each,
    and replayed for two sets of inputs in turn and the first again. A CPU has no graphs: there the call itself is
    repeated, which rehearses all but the capture.

    Args:
        operator: its name.
        backend: whose kernel to run.
        device: where the tensors are.

    Yields:
        A result a case, dtype, layout and direction; its error is 0 or infinite.

    Raises:
        ValueError: the operator has no benchmark case.

    Example:
        >>> all(not result.reason for result in replay_small("temporal_shift", "reference", "cpu"))
        True
    """
    benchmark = _benchmark(operator)
    for number, params in enumerate(benchmark.small):
        for dtype in DTYPES if number == 0 else DTYPES[:1]:
            data = Data(benchmark, Workload("small", device, params), getattr(torch, dtype), sets=2)
            for layout in LAYOUTS:
                for direction in ("forward", "backward"):
                    sets = [data.laid_out(tensors, layout) for tensors in data.sets]
                    name = f"{operator} {backend} case {number} {dtype} {layout} {direction} in a graph"
                    try:
                        reason = _replayed(_captured(benchmark, params, backend, sets[0], direction), sets)
                    except launch_errors() as error:
                        reason = first_line(error)
                    yield SmallResult(name, float("inf") if reason else 0.0, reason)


def _benchmark(operator: str) -> Benchmark:
    benchmarks = load_benchmarks()
    if operator not in benchmarks:
        raise ValueError(f"operator must be one of {', '.join(benchmarks)}, got {operator!r}")
    return benchmarks[operator]


@dataclass(frozen=True)
class _Captured:
    """A call on inputs that stay where they are, and its replay."""

    inputs: Tensors
    step: Callable[[], Tensors]
    replay: Callable[[], Tensors]

    def run(self, step: Callable[[], Tensors], inputs: Tensors) -> Tensors:
        """Results of either for these inputs, in memory of their own."""
        with torch.no_grad():
            for mine, given in zip(self.inputs, inputs, strict=True):
                mine.copy_(given)
        return tuple(result.detach().clone() for result in step())


def _captured(benchmark: Benchmark, params: Params, backend: str, like: Tensors, direction: str) -> _Captured:
    backward = direction == "backward"
    inputs = tuple(t.clone().requires_grad_(backward and t.is_floating_point()) for t in like)
    wanted = [t for t in inputs if t.requires_grad]
    generator = torch.Generator(inputs[0].device).manual_seed(13)
    grads: list[Tensor] = []

    def step() -> Tensors:
        with torch.set_grad_enabled(backward):
            results = tensors_of(benchmark.call(params, inputs, backend))
        through = [r for r in results if r.requires_grad]
        if not through:
            return results
        if not grads:  # at the first call, which is an eager one
            grads.extend(torch.empty_like(r).normal_(generator=generator) for r in through)
        return (*results, *torch.autograd.grad(through, wanted, grads))

    step()
    return _Captured(inputs, step, graphed(step) if inputs[0].is_cuda else step)


def _replayed(captured: _Captured, sets: list[Tensors]) -> str:
    """What is wrong with the replays, or nothing."""
    eager = [captured.run(captured.step, inputs) for inputs in sets]
    for turn, which in enumerate((1, 0, 1)):
        for i, (replayed, right) in enumerate(
            zip(captured.run(captured.replay, sets[which]), eager[which], strict=True)
        ):
            if not torch.equal(replayed, right):
                places = int((replayed != right).sum())
                return f"replay {turn}: result {i} differs from the eager call's in {places} places"
    return ""
