"""What is timed in one group: kernels in every layout, baselines, and plain copies of the same clip."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .case import Benchmark, Run, Tensors, Workload, in_layout
from .check import Verdict, compare, poison, tensors_of
from .machine import cache_bytes

__all__ = ["Data", "Prepared", "Variant", "compiled", "first_line", "launch_errors", "traffic"]

Step = Callable[[], Any]

# A baseline, and the reference in another layout, only has to be the same function. PyTorch's own kernels sum
# in less careful orders, and leaving a fast one out for that would flatter ours.
_BASELINE_SLACK = 16.0

# In fp64 the truth has rounding errors as large as a kernel's. They are taken to be those of the reference in
# fp32, in units in the last place, and count once more than in other dtypes.
_FP64_ROUNDING = 1.5 * torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Variant:
    """One way to compute a group's result.

    Attributes:
        name: a backend, or the name of a baseline.
        kind: ``"kernel"``, ``"eager"``, ``"library"`` or ``"compile"``.
        layout: memory layout of the clips it is given.
        run: ``run(params, tensors)``.
        slack: how many times a kernel's bound its results may be off; None for what is usual.
    """

    name: str
    kind: str
    layout: str
    run: Run
    slack: float | None = None

    @property
    def key(self) -> str:
        """Its name among the variants of a group."""
        return f"{self.name}/{self.layout}"


@dataclass
class Prepared:
    """A variant ready to be timed, and the verdict on what it returned."""

    variant: Variant
    step: Step
    verdict: Verdict


class Data:
    """Inputs of one workload and dtype in sets that take turns, and what the reference makes of the first.

    Args:
        benchmark: the case.
        workload: the size.
        dtype: of the floating inputs.
        sets: how many; None for so many that none is still in the cache when its turn comes.
        truth_of: the same data on another device, whose reference results are taken.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        workload: Workload,
        dtype: torch.dtype,
        *,
        sets: int | None = None,
        truth_of: Data | None = None,
    ) -> None:
        self.benchmark = benchmark
        self.workload = workload
        self.params = workload.params
        self.dtype = dtype
        self.device = workload.device
        # Half a billion fp64 numbers take a CPU ten seconds to draw, which a GPU draws in none; data that another
        # device has the truth of must be the same there.
        self._home = truth_of.device if truth_of else self.device
        self._generator = torch.Generator(self._home).manual_seed(11)
        self._first = self._draw()
        self.input_bytes = sum(t.nbytes for t in self._first)
        if sets is None and "call" in workload.directions:
            sets = 1
        elif sets is None:
            sets = max(2, min(6, math.ceil(2 * cache_bytes(self.device) / max(self.input_bytes, 1))))
        self.sets = [self._first, *(self._draw() for _ in range(sets - 1))]
        self._grads: list[Tensors] = []
        self._truth: dict[str, tuple[Tensors, Tensors]] = {}
        self._truth_of = truth_of

    def _draw(self) -> Tensors:
        """One set of inputs: drawn in fp64, rounded to the dtype, on the device."""
        with torch.device(self._home):
            drawn = self.benchmark.inputs(self.params, self._generator)
        return tuple(t.to(self.device, self.dtype if t.is_floating_point() else None) for t in drawn)

    def laid_out(self, tensors: Tensors, layout: str) -> Tensors:
        """Copies of the inputs with their clips in a memory layout."""
        clips = self.benchmark.clips
        return tuple(in_layout(t, layout) if i in clips else t.clone() for i, t in enumerate(tensors))

    def reference(self, tensors: Tensors) -> Any:
        """The operator's definition."""
        return self.benchmark.call(self.params, tensors, "reference")

    def truth(self, direction: str) -> tuple[Tensors, Tensors]:
        """Results of the reference on the first set: in the dtype (for fp64, in fp32), and in fp64."""
        backward = direction == "backward"
        key = "backward" if backward else "forward"
        if key not in self._truth and self._truth_of is not None:
            same, exact = self._truth_of.truth(key)
            self._truth[key] = (
                tuple(t.to(self.device) for t in same),
                tuple(t.to(self.device) for t in exact),
            )
        if key not in self._truth:
            double = _cast(self._first, torch.float64)
            plain = _cast(self._first, torch.float32) if self.dtype == torch.float64 else self._first
            if backward:
                self._make_grads()
                grads = tuple(g.double() for g in self._grads[0])
                rounded = tuple(g.to(plain[0].dtype) for g in self._grads[0])
                same = self._gradients(self.reference, plain, rounded)[0]()
                exact = self._gradients(self.reference, double, grads)[0]()
            else:
                with torch.no_grad():
                    same, exact = tensors_of(self.reference(plain)), tensors_of(self.reference(double))
            if self.dtype == torch.float64:
                same = _cast(same, torch.float64)
            self._truth[key] = (tuple(same), tuple(exact))
        return self._truth[key]

    def _make_grads(self) -> None:
        """A gradient for each floating result of each set."""
        if self._grads:
            return
        shapes = [tuple(t.shape) for t in self.truth("forward")[0] if t.is_floating_point()]
        for _ in self.sets:
            with torch.device(self._home):
                drawn = [torch.randn(s, generator=self._generator, dtype=torch.float64) for s in shapes]
            self._grads.append(tuple(g.to(self.device, self.dtype) for g in drawn))

    @staticmethod
    def _gradients(call: Callable[[Tensors], Any], tensors: Tensors, grads: Tensors) -> tuple[Step, Tensors]:
        """Run forward once; return a step that computes the gradients again and again, and the results."""
        leaves = [t.detach().requires_grad_() if t.is_floating_point() else t for t in tensors]
        wanted = [t for t in leaves if t.requires_grad]
        results = [t for t in tensors_of(call(tuple(leaves))) if t.requires_grad]
        # A gradient arrives in the layout of its result, as from the next layer.
        given = [torch.empty_like(r).copy_(g) for r, g in zip(results, grads, strict=True)]

        def step() -> Sequence[Tensor]:
            return torch.autograd.grad(results, wanted, given, retain_graph=True)

        return step, tuple(results)

    def traffic(self, direction: str) -> int:
        """Bytes that must move: inputs, gradients and results, each once."""
        return traffic(self.benchmark, direction, self._first, self.truth("forward")[0])

    def result_bytes(self, direction: str) -> int:
        """Bytes of what a call returns."""
        return sum(t.nbytes for t in self.truth(direction)[0])

    def prepare(self, variant: Variant, direction: str) -> Prepared:
        """Build a variant's step and judge what it returns for the first set."""
        step, first = self._steps(variant, direction)
        same, exact = self.truth(direction)
        poison(same)
        with torch.inference_mode(direction in ("forward", "call")):
            results = tuple(t.detach() for t in tensors_of(first()))
        ours = variant.kind == "kernel" and variant.name != "reference"
        slack = variant.slack or (1.0 if ours else _BASELINE_SLACK)
        rounding = _FP64_ROUNDING if self.dtype == torch.float64 else 1.0
        return Prepared(variant, step, compare(results, same, exact, slack, rounding))

    def _steps(self, variant: Variant, direction: str) -> tuple[Step, Step]:
        """A step that walks through the sets, and one that stays on the first."""

        def call(tensors: Tensors) -> Any:
            return variant.run(self.params, tensors)

        sets = [self.laid_out(tensors, variant.layout) for tensors in self.sets]
        if direction == "backward":
            self._make_grads()
            steps = [self._gradients(call, t, g)[0] for t, g in zip(sets, self._grads, strict=True)]
        else:
            if direction == "call_grad":
                sets = [tuple(t.requires_grad_(t.is_floating_point()) for t in tensors) for tensors in sets]
            steps = [_bound(call, tensors) for tensors in sets]
        turn = itertools.cycle(steps)
        return (steps[0] if len(steps) == 1 else lambda: next(turn)()), steps[0]

    def fresh_copy(self) -> Step:
        """``empty_like(x).copy_(x)`` of the first clip, as operators.md's CPU figures count a copy."""
        index = self.benchmark.clips[0]
        turn = itertools.cycle([tensors[index].clone() for tensors in self.sets])

        def step() -> Tensor:
            x = next(turn)
            return torch.empty_like(x).copy_(x)

        return step


def first_line(error: Exception) -> str:
    """What an error says in a line, or its kind where it says nothing.

    Example:
        >>> first_line(RuntimeError("off\\nmore")), first_line(RuntimeError())
        ('off', 'RuntimeError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def launch_errors() -> tuple[type[Exception], ...]:
    """What a kernel raises that does not compile, fit or launch; Triton's errors are no RuntimeErrors.

    Example:
        >>> RuntimeError in launch_errors()
        True
    """
    triton = sys.modules.get("triton")
    return (RuntimeError, *([triton.TritonError] if triton else []))


def traffic(benchmark: Benchmark, direction: str, inputs: Tensors, outputs: Tensors) -> int:
    """Bytes that an operator must move: inputs, gradients and results, each once, or what its case says.

    Args:
        benchmark: the operator's case.
        direction: ``"forward"`` or ``"backward"``; the calls count as the former.
        inputs: one set, of any device, fake ones too.
        outputs: its results.

    Example:
        >>> from .case import load_benchmarks
        >>> x = torch.zeros(1, 8, 2, 2, 2)
        >>> traffic(load_benchmarks()["temporal_shift"], "forward", (x,), (x,))
        512
    """
    direction = "backward" if direction == "backward" else "forward"
    if benchmark.traffic is not None:
        return benchmark.traffic(direction, inputs, outputs)
    read, written = (sum(t.nbytes for t in tensors) for tensors in (inputs, outputs))
    if direction == "forward":
        return read + written
    return read + written + sum(t.nbytes for t in inputs if t.is_floating_point())


def _cast(tensors: Sequence[Tensor], dtype: torch.dtype) -> Tensors:
    return tuple(t.to(dtype) if t.is_floating_point() else t for t in tensors)


def _bound(call: Callable[[Tensors], Any], tensors: Tensors) -> Step:
    return lambda: call(tensors)


def compiled(variant: Variant) -> Variant:
    """The same variant through ``torch.compile``, traced at its first call."""
    from torch._functorch import config

    config.donated_buffer = False  # a graph that is kept for several backward passes must keep its buffers
    return replace(variant, run=torch.compile(variant.run, dynamic=False))
