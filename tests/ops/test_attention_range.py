"""The CUDA kernels of nonlocal_attention where 16 bits are short: small and large gradients, logits up to 1e8."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.ops.common import assert_close, device_for

GAUSSIAN, COSINE, CONCATENATION = range(3)
NAMES = ("out", "query", "key", "value")


def make(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_definition(
    inputs: list[Tensor], grad: Tensor, kind: int, scale: float, dtype: torch.dtype
) -> list[Tensor]:
    """Result and gradients for tokens (B, L, D), computed in ``dtype``."""
    query, key, value = leaves = [x.to(dtype).requires_grad_() for x in inputs]
    if kind == GAUSSIAN:
        weights = torch.softmax(query @ key.mT * scale, -1)
    else:
        pairs = query + key.mT if kind == CONCATENATION else query @ key.mT
        weights = pairs.relu() / key.shape[1]
    out = weights @ value
    return [out.detach(), *torch.autograd.grad(out, leaves, grad.to(dtype))]


def by_kernels(inputs: list[Tensor], grad: Tensor, kind: int, scale: float) -> list[Tensor]:
    device_for("cuda_host", "nonlocal_attention")
    native = torch.ops.vidops_cuda_host
    out, lse = native.nonlocal_attention(*inputs, kind, scale, False)
    given = (grad, *inputs, out, lse, kind, scale, False)
    return [out, *native.nonlocal_attention_backward(*given)]


@pytest.mark.parametrize("kind", [GAUSSIAN, COSINE, CONCATENATION])
@pytest.mark.parametrize(("gradient", "size"), [(1e-3, 1), (1e3, 1), (1e3, 1000), (1e-3, 1e-3)], ids=str)
def test_gradients_of_any_size_in_half_precision(kind: int, gradient: float, size: float) -> None:
    """Over 4096 keys: weights times slopes leave fp16's range below or above, their sums do not."""
    d = 1 if kind == CONCATENATION else 8
    query, key = make(1, 3, d), make(1, 4096, d, seed=1)
    if kind == COSINE:
        query, key = (x / x.norm(dim=-1, keepdim=True) for x in (query, key))
    inputs = [x.half() for x in (query, key, make(1, 4096, 8, seed=2) * size)]
    grad = (make(1, 3, 8, seed=3) * gradient).half()
    found = by_kernels(inputs, grad, kind, 1.0)
    same, exact = (by_definition(inputs, grad, kind, 1.0, dtype) for dtype in (torch.float32, torch.float64))
    for ours, reference, truth, name in zip(found, same, exact, NAMES, strict=True):
        assert_close(ours, reference.half(), truth, name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scale", [1.0, 0.7])
@pytest.mark.parametrize(
    ("sides", "step"), [((256.0, 400.0), 1 / 64), ((1024.0, 1024.0), 1 / 8), ((8192.0, 8192.0), 16.0)],
    ids=["1e5", "1e6", "1e8"],
)  # fmt: skip
def test_logits_of_any_size(
    dtype: torch.dtype, scale: float, sides: tuple[float, float], step: float
) -> None:
    """All logits are one large number plus small ones, exact in fp32; their logarithm of sums is not.

    The query's gradient along the large side is a sum of nothing but cancellation, and left out.
    """
    steps = torch.randint(-64 if step < 1 else -1, 1, (1, 70), generator=torch.Generator().manual_seed(5))
    query, key = torch.ones(1, 5, 2), torch.empty(1, 70, 2)
    query[..., 0], key[..., 0], key[..., 1] = sides[0], sides[1], steps * step
    inputs = [x.to(dtype) for x in (query, key, make(1, 70, 8))]
    grad = make(1, 5, 8, seed=1).to(dtype)
    found = by_kernels(inputs, grad, GAUSSIAN, scale)
    same, exact = (
        by_definition(inputs, grad, GAUSSIAN, scale, wide) for wide in (torch.float32, torch.float64)
    )
    for ours, reference, truth, name in zip(found, same, exact, NAMES, strict=True):
        columns = slice(1, None) if name == "query" else slice(None)
        assert_close(ours[..., columns], reference[..., columns].to(dtype), truth[..., columns], name)
