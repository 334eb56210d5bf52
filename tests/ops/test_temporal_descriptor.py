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
    compare,
    compare_not_finite,
    device_for,
    in_layout,
    random_examples,
)
from vidops import ops, reference

OP = "temporal_descriptor"


def make(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(2, 3, 4, 2, 3), (1, 1, 2, 1, 1), (1, 5, 7, 1, 2)])
def test_reference_is_the_definition(shape: tuple[int, ...]) -> None:
    x = make(shape)
    n, c, t, h, w = shape
    u = reference.temporal_descriptor(x)
    assert u.shape == (n, t * (t - 1) // 2, h, w)
    pair = 0
    for t1 in range(t):
        for t2 in range(t1 + 1, t):
            by_hand = sum(x[:, k, t1] * x[:, k, t2] for k in range(c)) / c
            torch.testing.assert_close(u[:, pair], by_hand, rtol=1e-12, atol=1e-12)
            pair += 1


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize(
    "shape",
    [(0, 3, 4, 2, 2), (2, 3, 4, 0, 2), (2, 3, 4, 2, 0), (2, 3, 1, 2, 2), (2, 3, 0, 2, 2), (2, 0, 4, 2, 2)],
)
def test_zero_sizes(backend: str, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, device=device_for(backend, OP), requires_grad=True)
    n, _, t, h, w = shape
    u = ops.temporal_descriptor(x, backend=backend)
    assert u.shape == (n, t * (t - 1) // 2, h, w)
    assert not u.any()  # of no channels
    u.sum().backward()
    assert x.grad is not None
    assert not x.grad.any()


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("layout", ["NCTHW", "NTCHW", "NTHWC"])
def test_the_result_lies_as_the_clip_does(backend: str, layout: str) -> None:
    x = in_layout(make((2, 3, 4, 5, 6)).float(), layout).to(device_for(backend, OP))
    u = ops.temporal_descriptor(x, backend=backend)
    last = layout == "NTHWC"
    assert u.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("layout", ["NCTHW", "NTHWC"])
def test_sizes_of_real_networks(backend: str, layout: str) -> None:
    device = device_for(backend, OP)
    emulated = backend != "cpu" and device == "cpu"
    for shape in ((1, 24, 8, 5, 4),) if emulated else ((2, 24, 8, 28, 28), (1, 24, 16, 20, 20)):
        x = in_layout(make(shape).float(), layout)
        compare(ops.temporal_descriptor, [x], backend, device, grad_layout=layout)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_not_finite_stays_at_its_position(backend: str, value: float) -> None:
    device = device_for(backend, OP)
    for layout in ("NCTHW", "NTHWC"):
        for where in ("x", "grad"):
            inputs = {"x": make((1, 3, 4, 3, 4)).float()}
            grad = make((1, 6, 3, 4), 1).float()
            if where == "x":
                inputs["grad"] = grad
                compare_not_finite(
                    lambda x: ops.temporal_descriptor(x, backend=backend),
                    reference.temporal_descriptor, inputs, "x", (0, 1, 2, 1, 3), value, device, "NCTHW",
                )  # fmt: skip
            else:
                x = in_layout(inputs["x"], layout).to(device).requires_grad_()
                grad[0, 2, 1, 3] = value
                u = ops.temporal_descriptor(x, backend=backend)
                (dx,) = torch.autograd.grad(u, x, grad.to(device))
                outside = torch.ones_like(dx, dtype=torch.bool)
                outside[:, :, 0, 1, 3] = outside[:, :, 3, 1, 3] = False
                assert dx[outside].isfinite().all()
                assert not dx[~outside].isfinite().any()


@pytest.mark.parametrize("backend", FAST)
def test_random_calls(backend: str) -> None:
    device = device_for(backend, OP)

    @random_examples(backend, device)
    @given(
        shape=st.tuples(*[st.integers(1, m) for m in (3, 20, 9, 6, 19)]),
        layout=st.sampled_from(LAYOUTS),
        dtype=st.sampled_from(DTYPES),
    )
    def check(shape: Any, layout: str, dtype: torch.dtype) -> None:
        compare(ops.temporal_descriptor, [in_layout(make(shape).to(dtype), layout)], backend, device)

    check()


def test_more_channels_than_a_grid_takes() -> None:
    device_for("cuda_host", OP)
    x, grad = (
        torch.zeros(1, n, *rest, dtype=torch.float64) for n, *rest in ((2**17 - 1, 2, 1, 1), (1, 1, 1))
    )
    with pytest.raises(RuntimeError, match=r"at most .* 2\^17 - 2 channels"):
        torch.ops.vidops_cuda_host.temporal_descriptor_backward(grad, x)


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize(
    "features,error,text",
    [
        (torch.zeros(3, 4, 5, 5), ValueError, r"features must be a clip \(N, C, T, H, W\), got 4 dimensions"),
        (torch.zeros(1, 3, 4, 5, 5, dtype=torch.int32), TypeError, "features must be float32.*int32"),
        ([1.0], TypeError, "features must be a Tensor, got list"),
    ],
)
def test_bad_input(backend: str, features: Any, error: type[Exception], text: str) -> None:
    device_for(backend, OP)
    with pytest.raises(error, match=text):
        ops.temporal_descriptor(features, backend=backend)
