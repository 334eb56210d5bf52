"""What every operator promises on every backend, over the small cases that it is benchmarked with.

An operator joins by its registration and its case in vidops/bench/cases alone; its own test file holds what is
particular to it: the definition by hand, special cases, bad input, random calls.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

import vidops
from tests.ops.common import (
    DTYPES,
    EVERY_BACKEND,
    FAST,
    LAYOUTS,
    assert_close,
    compare,
    device_for,
    in_layout,
    interpreted,
    move,
)
from vidops.bench import load_benchmarks
from vidops.bench.check import tensors_of
from vidops.ops.layouts import layout_of

BENCHMARKS = load_benchmarks()
NATIVE = ["NCTHW", "NTCHW", "NTHWC"]
OPCHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
SMALL = [(name, i) for name, benchmark in BENCHMARKS.items() for i in range(len(benchmark.small))]
every_operator = pytest.mark.parametrize("operator", BENCHMARKS)
every_small_case = pytest.mark.parametrize(
    ("operator", "case"), SMALL, ids=[f"{name}-{i}" for name, i in SMALL]
)
kernels = pytest.mark.parametrize("backend", FAST)
backends = pytest.mark.parametrize("backend", EVERY_BACKEND)


def tiny(operator: str) -> int:
    """The index of an operator's cheapest small case."""
    small = BENCHMARKS[operator].small
    sizes = [sum(t.numel() for t in inputs(operator, i)) for i in range(len(small))]
    return sizes.index(min(sizes))


def usual(operator: str, backend: str) -> int:
    """The index of an operator's first small case; in Triton's interpreter of a smaller one where that takes long."""
    sizes = [sum(t.numel() for t in inputs(operator, i)) for i in range(len(BENCHMARKS[operator].small))]
    if not interpreted(backend) or sizes[0] < 5_000:
        return 0
    return sizes.index(min(size for size in sizes if size >= 200))  # fewer would leave layouts alike


def largest(operator: str, backend: str) -> int:
    """The index of an operator's largest small case: enough work for several threads.

    Triton's interpreter has one thread and takes minutes for the largest ones.
    """
    small = BENCHMARKS[operator].small
    sizes = [sum(t.numel() for t in inputs(operator, i)) for i in range(len(small))]
    if interpreted(backend):
        sizes = [size if size < 10_000 else 0 for size in sizes]
    return sizes.index(max(sizes))


def inputs(operator: str, case: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> list[Tensor]:
    benchmark = BENCHMARKS[operator]
    tensors = benchmark.inputs(benchmark.small[case], torch.Generator().manual_seed(case))
    return [t.to(device, dtype if t.is_floating_point() else t.dtype) for t in tensors]


def call(operator: str, case: int, *tensors: Tensor, backend: str | None) -> tuple[Tensor, ...]:
    benchmark = BENCHMARKS[operator]
    return tensors_of(benchmark.call(benchmark.small[case], tuple(tensors), backend))


def leaves(tensors: list[Tensor]) -> list[Tensor]:
    return [t.detach().clone().requires_grad_() if t.is_floating_point() else t for t in tensors]


def clips_of(operator: str, given: list[Tensor]) -> list[int]:
    return [i for i in BENCHMARKS[operator].clips if i < len(given)]


def laid_out(operator: str, tensors: list[Tensor], layout: str, device: str = "cpu") -> list[Tensor]:
    clips = BENCHMARKS[operator].clips
    return [move(in_layout(t, layout) if i in clips else t, device) for i, t in enumerate(tensors)]


def total(results: tuple[Tensor, ...]) -> Tensor:
    """One number whose gradient is another for every element."""
    return sum((r.double().square().sum() for r in results if r.is_floating_point()), torch.zeros(()))


class Recorder(TorchDispatchMode):
    """Notes the calls of one namespace's operators."""

    def __init__(self, namespace: str) -> None:
        super().__init__()
        self.namespace = namespace
        self.calls: dict[str, tuple[Any, tuple[Any, ...]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == self.namespace:
            self.calls.setdefault(func._opname, (func, args))
        return func(*args, **(kwargs or {}))


@every_small_case
@kernels
def test_small_cases(operator: str, case: int, backend: str) -> None:
    device = device_for(backend, operator)
    function = functools.partial(call, operator, case)
    for layout, grad_layout in (("NCTHW", "NTHWC"), ("NTHWC", "NTHWC"), ("strided", "NCTHW")):
        compare(
            function,
            laid_out(operator, inputs(operator, case), layout),
            backend,
            device,
            grad_layout=grad_layout,
        )


@every_operator
@kernels
@pytest.mark.parametrize("layout", ["NCTHW", "NTHWC"])
def test_sums_of_one_sign(operator: str, backend: str, layout: str) -> None:
    """Nothing cancels: a sum that runs too long in fp32 shows."""
    device = device_for(backend, operator)
    case = largest(operator, backend)
    given = [t.abs() + 1 if t.is_floating_point() else t for t in inputs(operator, case)]
    compare(
        functools.partial(call, operator, case),
        laid_out(operator, given, layout),
        backend,
        device,
        grad_layout=layout,
        one_sign=True,
    )


@every_operator
@kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_dtype_and_layout(operator: str, backend: str, dtype: torch.dtype, layout: str) -> None:
    device = device_for(backend, operator)
    given = laid_out(operator, inputs(operator, 0, dtype), layout)
    other = {"NCTHW": "NTHWC", "NTHWC": "NCTHW"}.get(layout, layout)
    for grad in (layout, other):
        compare(functools.partial(call, operator, 0), given, backend, device, grad_layout=grad)


@every_operator
@kernels
@pytest.mark.parametrize("layout", NATIVE)
def test_results_and_gradients_have_the_layout_of_the_clip(operator: str, backend: str, layout: str) -> None:
    device = device_for(backend, operator)
    given = leaves(laid_out(operator, inputs(operator, 0), layout, device))
    results = call(operator, 0, *given, backend=backend)
    total(results).backward()
    channels = given[BENCHMARKS[operator].clips[0]].shape[1]  # other results of five axes are no clips
    for tensor in (
        *(r for r in results if r.dim() == 5 and r.shape[1] == channels),
        *(given[i].grad for i in clips_of(operator, given)),
    ):
        assert tensor is not None
        assert layout_of(tensor) == layout


@every_operator
@backends
def test_gradcheck(operator: str, backend: str) -> None:
    device = device_for(backend, operator)
    case = tiny(operator)
    given = tuple(leaves(inputs(operator, case, torch.float64, device)))
    function = functools.partial(call, operator, case, backend=backend)
    assert torch.autograd.gradcheck(function, given, fast_mode=interpreted(backend))
    if backend == "reference":
        assert torch.autograd.gradgradcheck(function, given)


@every_operator
@kernels
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38, 1e-40])
def test_extreme_values_reach_what_they_reach_in_the_reference(
    operator: str, backend: str, value: float
) -> None:
    device = device_for(backend, operator)
    given = inputs(operator, 0, device=device)
    for clip in clips_of(operator, given):
        given[clip].view(-1)[given[clip].numel() // 2 + 1] = value
    double = [t.double() if t.is_floating_point() else t for t in given]
    for y, z, exact in zip(
        call(operator, 0, *given, backend=backend),
        call(operator, 0, *given, backend="reference"),
        call(operator, 0, *double, backend="reference"),
        strict=True,
    ):
        assert torch.equal(y.isnan(), z.isnan())
        assert torch.equal(y.isinf(), z.isinf())
        # Sums that the value stands in may cancel, so that the bound is one of the largest; the others are as ever.
        huge = z.isfinite() & (z.abs() > 1e30)
        torch.testing.assert_close(y[~huge], z[~huge], equal_nan=True)
        if huge.any():
            assert_close(y[huge], z[huge], exact[huge], "sums that the value stands in")


@every_operator
@kernels
@pytest.mark.parametrize("layout", ["NCTHW", "NTHWC"])
def test_the_same_bits_again_and_on_any_number_of_threads(operator: str, backend: str, layout: str) -> None:
    device = device_for(backend, operator)
    alone = interpreted(backend)  # one thread, whatever is asked for
    case = 0 if alone else largest(operator, backend)
    given = leaves(laid_out(operator, inputs(operator, case), layout, device))
    wanted = [t for t in given if t.requires_grad]
    runs = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 1) if alone else (1, 2, 1):
            torch.set_num_threads(count)
            results = call(operator, case, *given, backend=backend)
            runs.append([*results, *torch.autograd.grad(total(results), wanted)])
    finally:
        torch.set_num_threads(threads)
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


@every_operator
@backends
def test_only_the_gradients_asked_for(operator: str, backend: str) -> None:
    device = device_for(backend, operator)
    case = tiny(operator)
    everything = leaves(inputs(operator, case, device=device))
    total(call(operator, case, *everything, backend=backend)).backward()
    for chosen, tensor in enumerate(everything):
        if not tensor.requires_grad:
            continue
        some = [t.detach().requires_grad_(i == chosen) for i, t in enumerate(everything)]
        total(call(operator, case, *some, backend=backend)).backward()
        assert [t.grad is not None for t in some] == [i == chosen for i in range(len(some))]
        assert torch.equal(some[chosen].grad, tensor.grad)


@every_operator
@backends
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(operator: str, backend: str, dtype: torch.dtype) -> None:
    device = device_for(backend, operator)
    given = leaves(inputs(operator, 0, device=device))
    rule = vidops.ops.backends.OPERATORS[operator].autocast
    other = torch.float16 if dtype == torch.bfloat16 else torch.bfloat16
    with torch.autocast(device, dtype=dtype):
        results = call(operator, 0, *given, backend=backend)
        double = call(operator, 0, *inputs(operator, 0, torch.float64, device), backend=backend)
        low = call(operator, 0, *inputs(operator, 0, other, device), backend=backend)
    assert {r.dtype for r in results} == {dtype if rule == "lower" else torch.float32}
    assert {r.dtype for r in double} == {torch.float64}
    assert {r.dtype for r in low} == {{"lower": dtype, "float32": torch.float32, "keep": other}[rule]}
    total(results).backward()
    assert {t.grad.dtype for t in given if t.requires_grad} == {torch.float32}


@every_operator
@kernels
def test_second_derivatives_say_what_to_use(operator: str, backend: str) -> None:
    device = device_for(backend, operator)
    case = tiny(operator)
    given = leaves(inputs(operator, case, device=device))
    (dx,) = torch.autograd.grad(
        total(call(operator, case, *given, backend=backend)), given[0], create_graph=True
    )
    with pytest.raises(RuntimeError, match=rf'{operator} has no double backward.*backend="reference"'):
        dx.sum().backward()


@every_operator
@kernels
def test_other_kinds_of_derivatives_say_what_to_use(operator: str, backend: str) -> None:
    device = device_for(backend, operator)
    case = tiny(operator)
    x, *rest = inputs(operator, case, device=device)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.raises(RuntimeError, match=r'forward-mode.*backend="reference"'):
            call(operator, case, dual, *rest, backend=backend)
    with pytest.raises(RuntimeError, match=r'torch\.func gradient; use backend="reference"'):
        torch.func.grad(lambda v: total(call(operator, case, v, *rest, backend=backend)))(x)


@every_operator
@kernels
@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(operator: str, backend: str, layout: str) -> None:
    device = device_for(backend, operator)
    namespace = vidops.ops.backends.OPERATORS[operator].kernels[backend].op.namespace
    case = usual(operator, backend)
    # What the registrations say of a call is the same in every layout; the strides that a fake promises are not.
    tests = OPCHECKS if layout == "NCTHW" else ("test_schema", "test_faketensor")
    given = leaves(laid_out(operator, inputs(operator, case), layout, device))
    with Recorder(namespace) as recorder:
        total(call(operator, case, *given, backend=backend)).backward()
    forward, arguments = recorder.calls[operator]
    arguments = tree_map_only(Tensor, lambda a: a.detach().requires_grad_(a.is_floating_point()), arguments)
    opcheck(forward, arguments, test_utils=tests)
    backward, arguments = recorder.calls[f"{operator}_backward"]
    arguments = tree_map_only(Tensor, Tensor.detach, arguments)
    opcheck(backward, arguments, test_utils=tests)


@every_operator
@pytest.mark.parametrize("backend", [None, *EVERY_BACKEND])
def test_compiles_in_one_graph_and_exports(operator: str, backend: str | None) -> None:
    device = device_for(backend or "reference", operator)
    case = usual(operator, backend or "reference")

    class Net(torch.nn.Module):
        def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
            return tuple(r.sin() for r in call(operator, case, *tensors, backend=backend))

    net = Net()
    given = inputs(operator, case, device=device)
    first, second = leaves(given), leaves(given)
    torch._dynamo.reset()
    total(torch.compile(net, fullgraph=True, backend="aot_eager")(*first)).backward()
    total(net(*second)).backward()
    for a, b in zip(first, second, strict=True):
        if a.requires_grad:
            torch.testing.assert_close(a.grad, b.grad)
    exported = torch.export.export(net, tuple(given))
    torch.testing.assert_close(exported.module()(*given), net(*given))


@every_operator
def test_flop_formula_counts_what_the_reference_counts(operator: str) -> None:
    counts = {}
    for backend in ("reference", "cpu"):
        device_for(backend, operator)
        with FlopCounterMode(display=False) as counter:
            call(operator, 0, *inputs(operator, 0), backend=backend)
        counts[backend] = counter.get_total_flops()
    assert counts["reference"] == counts["cpu"]


@every_operator
@backends
def test_no_clips(operator: str, backend: str) -> None:
    device = device_for(backend, operator)
    given = inputs(operator, 0, device=device)
    given = leaves([t[:0] if i in BENCHMARKS[operator].batched else t for i, t in enumerate(given)])
    results = call(operator, 0, *given, backend=backend)
    assert all(len(r) == 0 for r in results)
    total(results).backward()
    assert all((t.grad == 0).all() for t in given if t.requires_grad)


@every_operator
@backends
@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda x: x[0], ValueError, "must be .*, got 4 dimensions"),
        (lambda x: x.to(torch.int32), TypeError, r"must be float32.*torch\.int32"),
        (lambda x: x.to(torch.complex64), TypeError, "must be float32.*complex64"),
        (lambda x: x.tolist(), TypeError, "must be a Tensor, got list"),
    ],
    ids=["rank", "int32", "complex64", "list"],
)
def test_a_clip_that_is_none(
    operator: str, backend: str, change: Any, error: type[Exception], text: str
) -> None:
    device_for(backend, operator)
    x, *rest = inputs(operator, 0)
    clip = next(iter(inspect.signature(getattr(vidops.ops, operator)).parameters))
    with pytest.raises(error, match=rf"^{clip}(\[0\])? {text}"):
        BENCHMARKS[operator].call(BENCHMARKS[operator].small[0], (change(x), *rest), backend)
