from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.ops.common import (
    DTYPES,
    EVERY_BACKEND,
    FAST,
    LAYOUTS,
    device_for,
    in_layout,
    move,
    random_examples,
)
from vidops import ops, reference


@pytest.mark.parametrize("channels,fold_div", [(16, 8), (17, 8), (5, 2), (3, 8), (8, 3)])
def test_reference_is_the_definition(channels: int, fold_div: int) -> None:
    x = torch.randn(2, channels, 5, 2, 3)
    fold = channels // fold_div
    expected = torch.zeros_like(x)
    for c in range(channels):
        step = 1 if c < fold else -1 if c < 2 * fold else 0
        for t in range(5):
            if 0 <= t + step < 5:
                expected[:, c, t] = x[:, c, t + step]
    assert torch.equal(reference.temporal_shift(x, fold_div), expected)


@pytest.mark.parametrize("backend", FAST)
def test_random_calls(backend: str) -> None:
    device = device_for(backend, "temporal_shift")

    @random_examples(backend, device)
    @given(
        shape=st.tuples(*[st.integers(0, m) for m in (3, 40, 9, 6, 6)]),
        fold_div=st.integers(2, 12),
        layout=st.sampled_from(LAYOUTS),
        dtype=st.sampled_from(DTYPES),
    )
    def check(shape: tuple[int, ...], fold_div: int, layout: str, dtype: torch.dtype) -> None:
        x = move(in_layout(torch.randn(shape).to(dtype), layout), device)
        y = ops.temporal_shift(x, fold_div, backend=backend)
        assert torch.equal(y, reference.temporal_shift(x, fold_div))

    check()


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize(
    "x,fold_div,error,text",
    [
        (torch.zeros(2, 3, 4, 5), 8, ValueError, r"x must be a clip \(N, C, T, H, W\), got 4 dimensions"),
        (torch.zeros(1, 8, 4, 2, 2, dtype=torch.int64), 8, TypeError, "x must be float32"),
        (torch.zeros(1, 8, 4, 2, 2), 1, ValueError, "fold_div must be at least 2, got 1"),
        (torch.zeros(1, 8, 4, 2, 2), 8.0, TypeError, "fold_div must be an int, got float"),
        ("x", 8, TypeError, "x must be a Tensor, got str"),
    ],
)
def test_bad_input(backend: str, x: Any, fold_div: Any, error: type[Exception], text: str) -> None:
    device_for(backend, "temporal_shift")
    with pytest.raises(error, match=text):
        ops.temporal_shift(x, fold_div, backend=backend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels,fold_div", [(256, 8), (256, 9)], ids=["aligned", "odd"])
@pytest.mark.parametrize("offset", [0, 1])
def test_results_too_large_for_the_caches(
    dtype: torch.dtype, channels: int, fold_div: int, offset: int
) -> None:
    device_for("cpu", "temporal_shift")
    shape = (1, 8, 28, 56, channels)
    flat = torch.randn(offset + 8 * 28 * 56 * channels).to(dtype)
    x = flat[offset:].view(shape).permute(0, 4, 1, 2, 3).requires_grad_()
    y = ops.temporal_shift(x, fold_div, backend="cpu")
    assert torch.equal(y, reference.temporal_shift(x, fold_div))
    (dx,) = torch.autograd.grad(y, x, x.detach())
    (same,) = torch.autograd.grad(reference.temporal_shift(x, fold_div), x, x.detach())
    assert torch.equal(dx, same)
