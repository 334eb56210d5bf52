"""The CUDA kernels of nonlocal_attention beyond what small calls reach: every way in which blocks share the work."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from tests.ops.common import compare, device_for
from vidops import ops

OP = "nonlocal_attention"


def clips(batch: int, queries: int, keys: int, d: int, e: int, dtype: torch.dtype) -> list[Tensor]:
    g = torch.Generator().manual_seed(queries)
    shapes = ((batch, d, 1, 1, queries), (batch, d, 1, keys, 1), (batch, e, 1, keys, 1))
    made = [torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes]
    return [(x / d**0.25).to(dtype) for x in made[:2]] + [made[2].to(dtype)]


# Not cosine in 16 bits: rounded vectors give products near 0 another sign, and slopes with it.
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("gaussian", torch.float32), ("cosine", torch.float32), ("gaussian", torch.bfloat16)],
    ids=str,
)
@pytest.mark.parametrize(
    ("batch", "queries", "keys", "d", "e"),
    [
        (1, 5, 200, 8, 8),  # several tiles of columns
        (1, 3, 70, 24, 129),  # two warps of columns, more than one chunk of values, an odd width
        (1, 3, 131, 8, 300),  # four warps of columns
        (1, 3, 5, 8, 1024),  # blocks for parts of the result
        (1, 3, 5, 1024, 300),  # rows that shared memory does not hold
        (1, 3, 40, 192, 512),  # nor three stages, in fp32
        (2, 4, 3, 7, 5),  # rows that no 16 bytes can be copied of
    ],
    ids=str,
)
def test_every_share_of_the_work(
    batch: int, queries: int, keys: int, d: int, e: int, kind: str, dtype: torch.dtype
) -> None:
    device = device_for("cuda_host", OP)
    function = functools.partial(ops.nonlocal_attention, kind=kind)
    compare(function, clips(batch, queries, keys, d, e, dtype), "cuda_host", device)


def test_four_warps_of_rows() -> None:
    device = device_for("cuda_host", OP)
    compare(ops.nonlocal_attention, clips(128, 65, 3, 8, 8, torch.float32), "cuda_host", device)


@pytest.mark.parametrize("scale", [-0.7, 0.0, 3.0])
def test_scales_of_any_sign(scale: float) -> None:
    device = device_for("cuda_host", OP)
    compare(
        functools.partial(ops.nonlocal_attention, scale=scale),
        clips(1, 9, 70, 6, 4, torch.float32), "cuda_host", device,
    )  # fmt: skip


@pytest.mark.parametrize("kind", [0, 1])
def test_tf32_where_it_is_allowed(kind: int) -> None:
    """Products of numbers rounded to 11 bits: neither as exact as fp32 nor further off than that."""
    device_for("cuda_host", OP)
    query, key, value = (x.flatten(2).mT.contiguous() for x in clips(1, 37, 70, 16, 24, torch.float32))
    grad = torch.randn(1, 37, 24, generator=torch.Generator().manual_seed(1))
    found = []
    for allowed in (False, True):
        given = (query, key, value)
        out, lse = torch.ops.vidops_cuda_host.nonlocal_attention(*given, kind, 1.0, allowed)
        backward = torch.ops.vidops_cuda_host.nonlocal_attention_backward
        found.append([out, *backward(grad, *given, out, lse, kind, 1.0, allowed)])
    for i, (exact, rounded) in enumerate(zip(*found, strict=True)):
        if kind == 1 and i in (1, 2):  # slopes of relu, where rounding gives a product near 0 another sign
            continue
        error = ((rounded - exact).abs().max() / exact.abs().max()).item()
        assert 1e-5 < error < 2**-8


def test_logits_up_to_the_range_of_fp32() -> None:
    device_for("cuda_host", OP)
    key = torch.tensor([1e38, -3e38, 3e38, 2.5e38]).view(1, 1, 1, 2, 2)
    value = torch.arange(4.0).view(1, 1, 1, 2, 2).requires_grad_()
    y = ops.nonlocal_attention(torch.ones(1, 1, 1, 1, 1), key, value, backend="cuda_host")
    assert y.item() == 2
    y.sum().backward()
    assert value.grad is not None
    assert value.grad.flatten().tolist() == [0, 0, 1, 0]


def test_no_finite_logit_is_nan_and_one_is_enough() -> None:
    device_for("cuda_host", OP)
    key = torch.full((1, 1, 1, 1, 70), -float("inf"))
    query, value = torch.ones(1, 1, 1, 1, 1), torch.arange(70.0).view(1, 1, 1, 1, 70)
    assert ops.nonlocal_attention(query, key, value, backend="cuda_host").isnan().all()
    key[..., 69] = 0.5  # in the third tile, after two that have no weight
    assert ops.nonlocal_attention(query, key, value, backend="cuda_host").item() == 69
