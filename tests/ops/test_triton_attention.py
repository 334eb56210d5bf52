"""What is particular to the Triton kernels of nonlocal_attention: tiles of GPUs that are not here, range of 16 bits."""

from __future__ import annotations

import collections
import inspect
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from tests.ops.common import assert_close, compare, device_for
from vidops import ops

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


@pytest.mark.parametrize(
    ("gpu", "dtype", "kind", "sizes"),
    [
        (
            "HOPPER",
            BF16,
            "gaussian",
            (5, 35, 600, 530),
        ),  # queries stay, keys by 16; two programs share the results
        ("BLACKWELL", FP16, "gaussian", (35, 5, 270, 600)),  # gradients of tokens by slices
        ("GEFORCE", BF16, "gaussian", (5, 70, 300, 270)),  # all by slices, in two parts
        ("AMPERE", FP32, "gaussian", (35, 33, 40, 130)),
        ("HOPPER", FP32, "concatenation", (33, 17, 3, 70)),
    ],
)
def test_tiles_of_every_gpu(
    gpu: str,
    dtype: torch.dtype,
    kind: str,
    sizes: tuple[int, int, int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = device_for("triton", "nonlocal_attention")
    if device != "cpu":
        pytest.skip("the GPU has tiles of its own")
    from vidops.triton_kernels import nonlocal_attention as kernels

    monkeypatch.setattr(kernels, "_device", lambda _: getattr(kernels, gpu))
    length, keys, d, e = sizes
    generator = torch.Generator().manual_seed(5)
    shapes = ((1, d, 1, 1, length), (1, d, 1, 1, keys), (1, e, 1, 1, keys))
    query, key, value = (torch.randn(s, generator=generator) for s in shapes)
    weights = [torch.randn(d, generator=generator).to(dtype) for _ in range(2 * (kind == "concatenation"))]

    def attend(*x: torch.Tensor, backend: str) -> torch.Tensor:
        named = dict(zip(("query_weight", "key_weight"), x[3:], strict=False))
        return ops.nonlocal_attention(*x[:3], kind=kind, **named, backend=backend)

    clips = [(query / d**0.25).to(dtype), (key / d**0.25).to(dtype), value.to(dtype)]
    compare(attend, [*clips, *weights], "triton", device)


def test_tiles_fit_their_gpu() -> None:
    """Shared memory of two stages, and sums of at most 128 numbers a thread."""
    from vidops.triton_kernels import nonlocal_attention as kernels

    for gpu in (kernels.AMPERE, kernels.HOPPER, kernels.BLACKWELL, kernels.GEFORCE):
        for d, e, size in itertools.product((1, 64, 200, 256, 512, 1024), (1, 64, 256, 512, 1024), (2, 4, 8)):
            for tile in (kernels._results_tile(d, e, size, gpu), kernels._tokens_tile(d, e, size, gpu)):
                assert tile.m * tile.columns <= 128 * 32 * tile.warps
                assert min(tile.m, tile.n, tile.d_slice, tile.columns) >= 16
                if tile.whole:
                    assert tile.d_slice >= d
                    assert 2 * (tile.m + 2 * tile.n) * tile.d_slice <= gpu.room


def by_definition(
    inputs: list[torch.Tensor], kind: int, scale: float, dtype: torch.dtype
) -> list[torch.Tensor]:
    """Result and gradients for tokens (B, L, D) and the result's gradient, computed in ``dtype``."""
    grad, *leaves = (x.to(dtype).requires_grad_() for x in inputs)
    query, key, value = leaves
    products = query @ key.mT
    weights = torch.softmax(products * scale, -1) if kind == 0 else products.relu() / key.shape[1]
    out = weights @ value
    return [out, *torch.autograd.grad(out, leaves, grad)]


def holds(inputs: list[torch.Tensor], kind: int, scale: float = 1.0, skip: int = 0) -> None:
    """Kernels on ``(grad, query, key, value)`` keep the bound; ``skip``: elements of the query's gradient left out."""
    device = device_for("triton", "nonlocal_attention")
    inputs = [x.to(device) for x in inputs]
    grad, *tokens = inputs
    native = torch.ops.vidops_triton
    out, lse = native.nonlocal_attention(*tokens, kind, scale, False)
    found = [out, *native.nonlocal_attention_backward(grad, *tokens, out, lse, kind, scale, False)]
    same, exact = (by_definition(inputs, kind, scale, dtype) for dtype in (FP32, torch.float64))
    for ours, reference, truth, name in zip(
        found, same, exact, ("out", "query", "key", "value"), strict=True
    ):
        part = slice(skip if name == "query" else 0, None)
        assert_close(ours[..., part], reference[..., part].to(ours.dtype), truth[..., part], name)


@pytest.mark.parametrize("kind", [0, 1], ids=["gaussian", "cosine"])
@pytest.mark.parametrize(("gradient", "size"), [(1e-3, 1.0), (1e3, 1e3)], ids=["1e-3", "1e3"])
def test_gradients_of_any_size_in_half_precision(kind: int, gradient: float, size: float) -> None:
    """Over 4096 keys: weights times slopes leave fp16's range below or above, their sums do not."""
    generator = torch.Generator().manual_seed(3)
    grad, query, key, value = (torch.randn(1, n, 8, generator=generator) for n in (3, 3, 4096, 4096))
    if kind == 1:
        query, key = (x / x.norm(dim=-1, keepdim=True) for x in (query, key))
        size = size**0.5  # of sums of one sign
    holds([x.half() for x in (grad * gradient, query, key, value * size)], kind)


@pytest.mark.parametrize("dtype", [FP16, BF16], ids=str)
@pytest.mark.parametrize("scale", [1.0, 0.7, -1.0])
@pytest.mark.parametrize(("side", "step"), [(1024.0, 1 / 8), (8192.0, 16.0)], ids=["1e6", "1e8"])
def test_logits_of_any_size(dtype: torch.dtype, scale: float, side: float, step: float) -> None:
    """All logits are one large number plus small ones, exact in fp32; the logarithm of their sum is not.

    The query's gradient along the large side is a sum of nothing but cancellation, and left out.
    """
    generator = torch.Generator().manual_seed(5)
    steps = torch.randint(-64 if step < 1 else -1, 1, (1, 70), generator=generator)
    query, key = torch.ones(1, 5, 2), torch.empty(1, 70, 2)
    query[..., 0], key[..., 0], key[..., 1] = side, side, steps * math.copysign(step, scale)
    grad, value = (torch.randn(1, n, 8, generator=generator) for n in (5, 70))
    holds([x.to(dtype) for x in (grad, query, key, value)], 0, scale, skip=1)


def test_a_scale_that_changes_is_no_new_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton compiles for every value of a constant: for every step of a scale that is annealed."""
    from vidops.triton_kernels import nonlocal_attention as kernels

    launches: list[dict[str, Any]] = []

    def record(kernel: Any) -> dict[Any, Callable[..., None]]:
        parameters = inspect.signature(kernel.fn).parameters

        def launch(*_: Any, **named: Any) -> None:
            launches.append(
                {
                    k: v
                    for k, v in named.items()
                    if k not in parameters or "constexpr" in str(parameters[k].annotation)
                }
            )

        return collections.defaultdict(lambda: launch)

    def constants(scale: float, dtype: torch.dtype) -> list[dict[str, Any]]:
        launches.clear()
        x, lse = torch.empty((1, 40, 64), dtype=dtype), torch.empty(1, 40)
        options = (0, scale, False, kernels.HOPPER)
        kernels._forward(x, x, x, *options)
        kernels._backward(x, x, x, x, x, lse, *options)
        assert len(launches) == 5
        return list(launches)

    monkeypatch.setattr(kernels, "wrap_triton", record)
    for dtype in (FP16, BF16, FP32):
        assert constants(0.5, dtype) == constants(0.25, dtype)
    assert constants(0.5, torch.float64) != constants(0.25, torch.float64)  # all 64 bits of it
