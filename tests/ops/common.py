"""What every operator's tests share: which backends can run here, layouts, poisoned memory, the error bound."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor

from tests import host_cuda
from vidops.bench import check
from vidops.ops import backends

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# VIDOPS_TEST_BACKENDS=a,b runs the operator tests on these alone; the sanitizer run uses it.
_ONLY = [name for name in os.environ.get("VIDOPS_TEST_BACKENDS", "").split(",") if name]
FAST = _ONLY or ["cpu", "cuda_host", "cuda", "triton"]
EVERY_BACKEND = _ONLY or ["reference", *FAST]
LAYOUTS = ["NCTHW", "NTCHW", "NTHWC", "strided", "offset", "expanded"]


def device_for(backend: str, operator: str) -> str:
    """Where ``operator`` runs on ``backend``; skips the test, with the reason, where it cannot."""
    if backend in host_cuda.HOST_BACKENDS and (reason := host_cuda.register(backend)):
        pytest.skip(f"{backend}: {reason}")
    device = "cuda" if backend in ("cuda", "triton") and torch.cuda.is_available() else "cpu"
    reason = backends.OPERATORS[operator].why_not(backend, device)
    if reason:
        pytest.skip(f"{backend}: {reason}")
    return device


def interpreted(backend: str) -> bool:
    """Whether Triton's interpreter runs the kernels: seconds a call, so tests give it fewer and smaller ones."""
    return backend == "triton" and not torch.cuda.is_available()


def random_examples(backend: str, device: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Hypothesis settings of a random test: the same examples every time, fewer where a backend is emulated."""
    emulated = backend != "cpu" and device == "cpu"
    # On a GPU every other shape has Triton compile, for a second.
    examples = 6 if interpreted(backend) else 15 if emulated else 24 if backend == "triton" else 80
    return settings(
        max_examples=examples, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def in_layout(x: Tensor, layout: str) -> Tensor:
    """The same clip in another memory layout."""
    if layout == "NCTHW":
        return x.contiguous()
    if layout == "NTCHW":
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "NTHWC":
        return x.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3)
    if layout == "strided":  # every second frame and column of a larger clip
        n, c, t, h, w = x.shape
        big = x.new_full((n, c, 2 * t, h, 2 * w), float("nan"))
        big[:, :, ::2, :, ::2] = x
        return big[:, :, ::2, :, ::2]
    if layout == "offset":  # starts one element past an aligned address
        flat = x.new_full((x.numel() + 1,), float("nan"))
        flat[1:] = x.reshape(-1)
        return flat[1:].view(x.shape)
    if layout == "expanded":  # all clips are the first one
        return x[:1].contiguous().expand(x.shape) if len(x) else x
    raise ValueError(layout)


def past_32_bits(shape: Sequence[int], axis: int, device: str) -> Tensor:
    """A small fp16 clip whose two neighbours on one axis lie more than 2^31 elements apart, or a skipped test.

    Hardly any of the memory is ever touched.
    """
    step = 2**31 + 8
    try:
        memory = torch.empty(step + 64, dtype=torch.float16, device=device)
    except RuntimeError as error:
        pytest.skip(f"no room for 4 GiB: {str(error).splitlines()[0]}")
    strides = list(torch.empty(tuple(shape), device="meta").stride())
    strides[axis] = step
    x = memory.as_strided([2 if i == axis else size for i, size in enumerate(shape)], strides)
    return x.copy_(torch.arange(x.numel()).view(x.shape).flip(-1) / 4)


def move(t: Tensor, device: str) -> Tensor:
    """The tensor on a device with its strides and its offset, which ``to`` does not keep."""
    if device == "cpu":
        return t
    elements = t.untyped_storage().nbytes() // t.element_size()
    flat = t.as_strided((elements,), (1,), 0).to(device)
    return flat.as_strided(t.shape, t.stride(), t.storage_offset())


def assert_close(out: Tensor, same_dtype: Tensor, exact: Tensor, what: str) -> None:
    """Apply the benchmarks' bound: error <= 2 x the error of the reference in the same dtype + one unit."""
    verdict = check.compare([out.detach()], [same_dtype.detach()], [exact.detach()])
    assert not verdict.reason, f"{what}: {verdict.reason}"


def compare(
    function: Callable[..., Any],
    inputs: list[Tensor],
    backend: str,
    device: str,
    *,
    grad_layout: str = "NCTHW",
    one_sign: bool = False,
) -> None:
    """Forward and backward of ``function(*inputs, backend=)`` against the reference in fp64 and in the same dtype."""
    results: dict[str, list[Tensor]] = {}
    generator = torch.Generator().manual_seed(7)
    grads: list[Tensor] = []
    for run in ("exact", "reference", backend):
        leaves = []
        for t in inputs:
            leaf = t.detach().double().to(device) if run == "exact" and t.is_floating_point() else None
            leaf = move(t.detach(), device) if leaf is None else leaf
            leaves.append(leaf.requires_grad_(t.is_floating_point()))
        if run == backend:
            check.poison(results["reference"])
        outs = check.tensors_of(function(*leaves, backend=backend if run == backend else "reference"))
        through = [out for out in outs if out.requires_grad]
        if not grads:
            dtype = next(t.dtype for t in inputs if t.is_floating_point())
            grads = [torch.randn(out.shape, generator=generator, dtype=torch.float64) for out in through]
            grads = [(grad.abs() + 1 if one_sign else grad).to(dtype) for grad in grads]
        given = [
            move(in_layout(grad, grad_layout) if grad.dim() == 5 else grad, device).to(out.dtype)
            for grad, out in zip(grads, through, strict=True)
        ]
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        results[run] = [*outs, *torch.autograd.grad(through, wanted, given)]
    for i, (out, same, exact) in enumerate(
        zip(results[backend], results["reference"], results["exact"], strict=True)
    ):
        assert_close(out, same, exact, f"output {i}" if i < len(outs) else f"gradient {i - len(outs)}")


def compare_not_finite(
    function: Callable[..., Tensor],
    definition: Callable[..., Tensor],
    inputs: dict[str, Tensor],
    where: str,
    place: tuple[int, ...],
    value: float,
    device: str,
    layout: str,
) -> None:
    """What one value of ``inputs[where]`` makes infinite or NaN in result and gradients is what it does by definition.

    ``inputs`` holds x and whatever else the functions take, in their order, and the gradient of the result, ``grad``.
    """
    given = {name: t.clone() for name, t in inputs.items()}
    given[where][place] = value
    given["x"] = in_layout(given["x"], layout)
    grad = move(in_layout(given.pop("grad"), layout), device)
    results = []
    for f in (function, definition):
        leaves = [move(t.clone(), device).requires_grad_() for t in given.values()]
        y = f(*leaves)
        results.append([y, *torch.autograd.grad(y, leaves, grad)])
    for name, ours, expected in zip(("y", *given), *results, strict=True):
        what = f"{value} in {where}{list(place)}: {name}"
        assert torch.equal(ours.isfinite(), expected.isfinite()), what
        if value != value:  # sums of infinities are NaN or infinite by the order they are taken in
            assert torch.equal(ours.isnan(), expected.isnan()), what
