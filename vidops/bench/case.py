"""What a benchmark case holds, and where the cases are."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["Baseline", "Benchmark", "Case", "Target", "Workload", "in_layout", "load_benchmarks"]

Params = Mapping[str, Any]
Tensors = tuple[Tensor, ...]
Run = Callable[[Params, Tensors], Any]

# What is timed: the operator, its gradients alone, or the cost of a call on a clip too small to matter.
# Of a network: logits, or loss and gradients.
DIRECTIONS = ("forward", "backward", "call", "call_grad", "inference", "training")


@dataclass(frozen=True)
class Target:
    """A figure that a kernel has to reach.

    Attributes:
        direction: ``"forward"``, ``"backward"``, ``"call"`` or ``"call_grad"``; of a network ``"inference"`` or
            ``"training"``.
        metric: ``"speedup"`` (baseline time / kernel time, at least ``limit``), or at most ``limit`` of
            ``"floor"`` (multiples of the least possible time), ``"copy"`` (multiples of
            ``empty_like(x).copy_(x)``), ``"own forward"`` (multiples of the same kernel's forward, in the same
            layout) or ``"seconds"``; or at least a ``"share"`` of the multiply-adds that the machine can do.
        limit: the figure.
        against: the baseline of a speed-up, by name; None for the fastest one.
        layouts: memory layouts that it holds for; empty for all.
        dtypes: dtypes that it holds for; empty for all.
        stretch: whether it is a wish: told like the others, but ``--strict`` does not ask for it.
    """

    direction: str
    metric: str
    limit: float
    against: str | None = None
    layouts: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    stretch: bool = False

    def __post_init__(self) -> None:
        """Check the words."""
        metrics = ("speedup", "floor", "copy", "own forward", "seconds", "share")
        if self.direction not in DIRECTIONS or self.metric not in metrics:
            raise ValueError(f"target {self} has an unknown direction or metric")

    def met(self, value: float) -> bool:
        """Tell whether a measured figure reaches the target.

        Example:
            >>> Target("forward", "speedup", 8.0).met(9.1), Target("forward", "copy", 1.4).met(1.5)
            (True, False)
        """
        return value >= self.limit if self.metric in ("speedup", "share") else value <= self.limit

    def concerns(self, direction: str, dtype: str, layout: str) -> bool:
        """Tell whether a measurement has to reach it.

        Example:
            >>> Target("forward", "floor", 1.1, dtypes=("bfloat16",)).concerns("forward", "float32", "NCTHW")
            False
        """
        return (
            self.direction == direction
            and (not self.layouts or layout in self.layouts)
            and (not self.dtypes or dtype in self.dtypes)
        )

    def text(self) -> str:
        """Say the target in words.

        Example:
            >>> Target("forward", "copy", 1.4).text()
            'forward <= 1.4 x copy'
        """
        wish = " (stretch)" if self.stretch else ""
        direction = _WORDS.get(self.direction, self.direction)
        return f"{direction} {self._bound()}{wish}"

    def _bound(self) -> str:
        if self.metric == "speedup":
            return f">= {self.limit:g} x {self.against or 'eager'}"
        if self.metric == "seconds":
            return f"<= {self.limit * 1e6:g} us"
        if self.metric == "share":
            return f">= {100 * self.limit:g} % of the machine's multiply-adds"
        return f"<= {self.limit:g} x {self.metric}"


_WORDS = {"call": "call without gradients", "call_grad": "call with gradients"}


@dataclass(frozen=True)
class Baseline:
    """Another way to compute the same thing.

    Attributes:
        run: ``run(params, tensors)`` returns what the operator returns.
        layout: the memory layout it is fastest in; its clips are given in it.
        slack: how many times a kernel's bound its results may be off, where the usual 16 would leave it out; the case
            says why.
    """

    run: Run
    layout: str = "NCTHW"
    slack: float | None = None


@dataclass(frozen=True)
class Workload:
    """One size of one operator on one kind of device.

    Attributes:
        name: short name, unique for the operator and device.
        device: ``"cpu"`` or ``"cuda"``.
        params: what ``Benchmark.inputs`` and ``Benchmark.call`` read: shapes and options.
        dtypes: names of ``torch`` dtypes.
        layouts: memory layouts of the clips.
        directions: of ``"forward"``, ``"backward"``, ``"call"`` and ``"call_grad"``.
        quick: whether ``--quick`` keeps it, in its first layout and dtype.
        targets: figures to reach.
    """

    name: str
    device: str
    params: Params
    dtypes: tuple[str, ...] = ("float32",)
    layouts: tuple[str, ...] = ("NCTHW",)
    directions: tuple[str, ...] = ("forward", "backward")
    quick: bool = False
    targets: tuple[Target, ...] = ()


def _no_products(params: Params, direction: str) -> int:
    return 0


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is measured: an operator, or the networks.

    Attributes:
        operator: its name: the first part of its groups' names.
        workloads: sizes to time.
        products: ``products(params, direction)``: multiply-adds that must be done.
        matrix: whether they are matrix products, for which a GPU has units of their own in 16 bits.
    """

    operator: str
    workloads: tuple[Workload, ...]
    products: Callable[[Params, str], int] = _no_products
    matrix: bool = False


@dataclass(frozen=True, kw_only=True)
class Benchmark(Case):
    """Everything the harness has to know of an operator, whose name is that of the file in ``vidops/bench/cases``.

    Attributes:
        inputs: ``inputs(params, generator)`` returns one set of fp64 or integer tensors, clips contiguous, on the
            default device, which is the generator's.
        call: ``call(params, tensors, backend)`` runs the public operator. It returns a tensor or a tuple of
            tensors; None among them is left out.
        eager: plain PyTorch forms of it, by name.
        small: parameters of small inputs that reach every special case, for tests and memory checkers; the first
            has odd sizes and every argument, and stands for all where one must do.
        library: the nearest library kernels, by name.
        traffic: ``traffic(direction, inputs, outputs)``: bytes that must move, from the tensors; None: every
            input is read once and every result written once.
        clips: which inputs are clips, whose memory layout varies; of those that a size has.
        batched: which inputs hold one entry a clip along their first axis; of those that a size has.
    """

    inputs: Callable[[Params, torch.Generator], Tensors]
    call: Callable[[Params, Tensors, str | None], Any]
    eager: Mapping[str, Baseline]
    small: tuple[Params, ...]
    library: Mapping[str, Baseline] = field(default_factory=dict)
    traffic: Callable[[str, Tensors, Tensors], int] | None = None
    clips: tuple[int, ...] = (0,)
    batched: tuple[int, ...] = (0,)


def load_benchmarks() -> dict[str, Benchmark]:
    """Find every case: ``vidops/bench/cases/<op>.py`` holds ``BENCHMARK``.

    Returns:
        Cases by operator name, in alphabetical order.

    Raises:
        RuntimeError: a file holds the case of another operator.

    Example:
        >>> "temporal_conv" in load_benchmarks()
        True
    """
    from . import cases

    found = {}
    for module in sorted(pkgutil.iter_modules(cases.__path__), key=lambda m: m.name):
        benchmark: Benchmark = importlib.import_module(f"{cases.__name__}.{module.name}").BENCHMARK
        if benchmark.operator != module.name:
            raise RuntimeError(f"bench/cases/{module.name}.py holds the case of {benchmark.operator}")
        found[module.name] = benchmark
    return found


def in_layout(x: Tensor, layout: str) -> Tensor:
    """Return a dense copy of a clip ``(N, C, T, H, W)`` in a native memory layout.

    Example:
        >>> in_layout(torch.zeros(1, 4, 2, 3, 3), "NTHWC").stride()
        (72, 1, 36, 12, 4)
    """
    order = {"NCTHW": (0, 1, 2, 3, 4), "NTCHW": (0, 2, 1, 3, 4), "NTHWC": (0, 2, 3, 4, 1)}[layout]
    back = [order.index(axis) for axis in range(5)]
    return x.permute(order).clone(memory_format=torch.contiguous_format).permute(back)
