from __future__ import annotations

import functools
import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.ops.common import (
    DTYPES,
    EVERY_BACKEND,
    FAST,
    LAYOUTS,
    compare,
    compare_not_finite,
    device_for,
    in_layout,
    interpreted,
    random_examples,
)
from vidops import ops, reference


def make(
    shape: tuple[int, ...], kernel: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0
) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    shapes = [shape, (shape[1], 1, *kernel), (shape[1],)]
    return [torch.randn(s, generator=g, dtype=torch.float64).to(dtype) for s in shapes]


def by_hand(x: Tensor, weight: Tensor, bias: Tensor, stride: Any, padding: Any, dilation: Any) -> Tensor:
    """The definition of operators.md, tap by tap in Python."""
    size, kernel = x.shape[2:], weight.shape[2:]
    out = [
        (s + 2 * p - d * (k - 1) - 1) // m + 1
        for s, k, m, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    ]
    y = bias.view(1, -1, 1, 1, 1).expand(*x.shape[:2], *out).clone()
    for tap in itertools.product(*map(range, kernel)):
        results, reads = [], []
        for o, s, k, m, p, d in zip(out, size, tap, stride, padding, dilation, strict=True):
            there = [i for i in range(o) if 0 <= i * m - p + k * d < s]
            first, count = (there[0], len(there)) if there else (0, 0)
            at = first * m - p + k * d if there else 0
            results.append(slice(first, first + count))
            reads.append(slice(at, at + (count - 1) * m + 1 if count else at, m))
        made = weight[(slice(None), 0, *tap)].view(-1, 1, 1, 1) * x[(slice(None), slice(None), *reads)]
        y[(slice(None), slice(None), *results)] += made
    return y


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [
        ((3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
        ((3, 5, 1), (2, 1, 3), (0, 2, 4), (1, 1, 1)),
        ((1, 3, 5), (1, 2, 1), (2, 1, 0), (3, 2, 1)),
    ],
)
def test_reference_is_the_definition(kernel: Any, stride: Any, padding: Any, dilation: Any) -> None:
    x, weight, bias = make((2, 3, 4, 5, 6), kernel, torch.float64)
    y = reference.depthwise_conv3d(x, weight, bias, stride=stride, padding=padding, dilation=dilation)
    expected = by_hand(x, weight, bias, stride, padding, dilation)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


def test_same_padding_keeps_sizes_or_divides_them() -> None:
    x, weight, bias = make((1, 2, 5, 7, 8), (3, 5, 9))
    same = ops.depthwise_conv3d(x, weight, bias, dilation=(2, 1, 1), backend="reference")
    assert same.shape == x.shape
    expected = F.conv3d(x, weight, bias, padding="same", dilation=(2, 1, 1), groups=2)
    torch.testing.assert_close(same, expected)
    halved = ops.depthwise_conv3d(x, weight, stride=(1, 2, 3), backend="reference")
    assert halved.shape == (1, 2, 5, 4, 3)
    torch.testing.assert_close(halved, ops.depthwise_conv3d(x, weight, backend="reference")[..., ::2, ::3])


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("kernel", [(3, 3, 3), (3, 7, 7), (1, 5, 3), (5, 1, 1)], ids=str)
@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 2), (2, 1, 3)], ids=str)
@pytest.mark.parametrize("layout", ["NCTHW", "NTHWC"])
def test_kernels_and_strides(backend: str, kernel: Any, stride: Any, layout: str) -> None:
    device = device_for(backend, "depthwise_conv3d")
    x, weight, bias = make((1, 2, 2, 3, 5) if interpreted(backend) else (1, 6, 5, 9, 10), kernel)
    compare(
        functools.partial(ops.depthwise_conv3d, stride=stride),
        [in_layout(x, layout), weight, bias],
        backend,
        device,
        grad_layout=layout,
    )


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(
    ("shape", "kernel", "options"),
    [
        ((1, 3, 1, 1, 1), (3, 3, 3), {}),  # one position
        ((2, 1, 2, 2, 2), (9, 9, 9), {}),  # a kernel larger than the clip
        ((1, 2, 4, 5, 5), (3, 3, 3), {"padding": 3}),  # results that see padding alone
        ((1, 2, 6, 7, 7), (3, 3, 3), {"padding": 0, "dilation": (2, 3, 3)}),  # one result in space
        ((1, 2, 3, 4, 5), (3, 3, 3), {"dilation": 2**40}),  # taps that never meet the clip
        ((1, 2, 3, 4, 5), (3, 3, 3), {"stride": 2**40}),  # one result
        ((1, 2, 9, 3, 3), (5, 1, 1), {"padding": (0, 0, 0), "stride": (2, 1, 1)}),  # along time alone
        ((1, 2, 9, 3, 3), (5, 1, 1), {"padding": (1, 0, 0)}),
        ((1, 2, 4, 9, 9), (1, 3, 3), {"stride": (3, 4, 5), "padding": (2, 0, 1)}),  # strides past the kernel
    ],
)
@pytest.mark.parametrize("layout", ["NCTHW", "NTHWC"])
def test_special_cases(backend: str, shape: Any, kernel: Any, options: Any, layout: str) -> None:
    device = device_for(backend, "depthwise_conv3d")
    x, weight, bias = make(shape, kernel)
    compare(
        functools.partial(ops.depthwise_conv3d, **options),
        [in_layout(x, layout), weight, bias],
        backend,
        device,
        grad_layout=layout,
    )


@pytest.mark.parametrize(
    ("shape", "layout"),
    [((1, 18, 8, 96, 83), "NCTHW"), ((1, 18, 8, 92, 84), "NTCHW"), ((1, 1, 4, 520, 530), "NCTHW")],
    ids=["part", "whole", "a channel in bands"],
)
def test_results_past_the_caches(shape: Any, layout: str) -> None:
    """From 4 MB on whole aligned vectors of planes are streamed, beside those at a row's end that are not."""
    device = device_for("cpu", "depthwise_conv3d")
    x, weight, _ = make(shape, (1, 3, 3))
    assert x.numel() * x.element_size() >= 4 << 20
    compare(ops.depthwise_conv3d, [in_layout(x, layout), weight], "cpu", device, grad_layout=layout)


@pytest.mark.parametrize("layout", ["NCTHW", "NTCHW"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("shape", "kernel", "padding"),
    [
        ((2, 19, 4, 11, 37), (3, 3, 3), (1, 1, 1)),
        ((1, 2, 2, 5, 16), (3, 5, 9), (2, 1, 6)),
    ],
    ids=["behind whole vectors", "alone"],
)
def test_channels_that_fill_no_vector(
    shape: Any, kernel: Any, padding: Any, dtype: torch.dtype, layout: str
) -> None:
    """In planar clips they go by rows."""
    device = device_for("cpu", "depthwise_conv3d")
    x, *rest = make(shape, kernel, dtype)
    compare(
        functools.partial(ops.depthwise_conv3d, padding=padding),
        [in_layout(x, layout), *rest],
        "cpu",
        device,
        grad_layout=layout,
    )


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize("shape", [(0, 3, 4, 3, 3), (2, 3, 0, 3, 3), (2, 3, 4, 0, 3), (2, 0, 4, 3, 3)])
def test_zero_sizes(backend: str, shape: tuple[int, ...]) -> None:
    device = device_for(backend, "depthwise_conv3d")
    x = torch.randn(shape, device=device, requires_grad=True)
    weight = torch.randn(shape[1], 1, 3, 3, 3, device=device, requires_grad=True)
    bias = torch.randn(shape[1], device=device, requires_grad=True)
    y = ops.depthwise_conv3d(x, weight, bias, stride=(1, 2, 1), backend=backend)
    assert y.shape == tuple((s + (i == 3)) // (1 + (i == 3)) for i, s in enumerate(shape))
    y.sum().backward()
    assert x.grad.shape == shape
    assert (weight.grad == 0).all()
    assert (bias.grad == 0).all()


@pytest.mark.parametrize("backend", FAST)
def test_random_calls(backend: str) -> None:
    device = device_for(backend, "depthwise_conv3d")
    odd = st.sampled_from([1, 3, 5] if interpreted(backend) else [1, 3, 5, 7, 9])
    most = (2, 5, 3, 5, 6) if interpreted(backend) else (2, 20, 5, 8, 12)

    @random_examples(backend, device)
    @given(
        shape=st.tuples(*[st.integers(1, m) for m in most]),
        kernel=st.tuples(odd, odd, odd),
        stride=st.tuples(*[st.integers(1, 3)] * 3),
        dilation=st.tuples(*[st.integers(1, 3)] * 3),
        more=st.tuples(*[st.integers(-1, 2)] * 3),
        layout=st.sampled_from(LAYOUTS),
        dtype=st.sampled_from(DTYPES),
        biased=st.booleans(),
    )
    def check(
        shape: Any, kernel: Any, stride: Any, dilation: Any, more: Any, layout: str, dtype: Any, biased: bool
    ) -> None:
        padding = tuple(max(0, (k - 1) // 2 * d + m) for k, d, m in zip(kernel, dilation, more, strict=True))
        small = zip(shape[2:], padding, kernel, dilation, strict=True)
        if any(s + 2 * p <= d * (k - 1) for s, p, k, d in small):
            return
        x, weight, bias = make(shape, kernel, dtype)
        compare(
            functools.partial(ops.depthwise_conv3d, stride=stride, padding=padding, dilation=dilation),
            [in_layout(x, layout), weight, *([bias] if biased else [])],
            backend,
            device,
        )

    check()


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("layout", ["NCTHW", "NTCHW", "NTHWC"])
@pytest.mark.parametrize(
    ("kernel", "stride"), [((3, 3, 3), (1, 1, 1)), ((3, 7, 7), (1, 1, 1)), ((3, 3, 5), (2, 2, 2))], ids=str
)
def test_what_is_not_finite_meets_no_padding(backend: str, layout: str, kernel: Any, stride: Any) -> None:
    device = device_for(backend, "depthwise_conv3d")
    if interpreted(backend) and (kernel[1] == 7 or layout == "NTCHW"):
        pytest.skip("the interpreter takes seconds a call")
    x, weight, bias = make((1, 3, 3, 4, 5) if interpreted(backend) else (1, 20, 4, 6, 9), kernel)
    padding = tuple(k // 2 for k in kernel)
    out = reference.depthwise_conv3d(x, weight, stride=stride, padding=padding)
    inputs = {"x": x, "weight": weight, "bias": bias, "grad": make(tuple(out.shape), (1, 1, 1), seed=1)[0]}
    function = functools.partial(ops.depthwise_conv3d, stride=stride, backend=backend)
    # PyTorch's own convolution gives a gradient that is not finite the zeros around the clip, in some layouts.
    definition = functools.partial(by_hand, stride=stride, padding=padding, dilation=(1, 1, 1))
    for where in ("x", "weight", "grad"):
        first, last = (0,) * 5, tuple(s - 1 for s in inputs[where].shape)  # of every axis
        for place, value in ((first, float("inf")), (last, float("nan"))):
            compare_not_finite(function, definition, inputs, where, place, value, device, layout)


X = torch.zeros(1, 4, 3, 5, 5)
W = torch.zeros(4, 1, 3, 3, 3)


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        ((X, "w"), {}, TypeError, "weight must be a Tensor, got str"),
        (
            (X, W[:3]),
            {},
            ValueError,
            r"weight must have shape \(C, 1, kt, kh, kw\) with the C of x, 4, got \(3,",
        ),
        ((X, W[:, 0]), {}, ValueError, r"weight must have shape \(C, 1, kt, kh, kw\)"),
        (
            (X, W[:, :, :2]),
            {},
            ValueError,
            r"weight must have odd kernel sizes of at most 9, got \(2, 3, 3\)",
        ),
        ((X, W.new_zeros(4, 1, 1, 1, 11)), {}, ValueError, "weight must have odd kernel sizes of at most 9"),
        ((X, W.double()), {}, TypeError, "weight must have the dtype of x"),
        ((X, W, torch.zeros(3)), {}, ValueError, r"bias must have shape \(4,\), got \(3,\)"),
        ((X, W), {"stride": 0}, ValueError, "stride must be at least 1, got 0"),
        ((X, W), {"stride": (1, 1)}, ValueError, r"stride must be an int or three ints .*, got \(1, 1\)"),
        ((X, W), {"stride": 1.5}, TypeError, "stride must be an int, got float"),
        ((X, W), {"dilation": (1, 0, 1)}, ValueError, "dilation must be at least 1, got 0"),
        ((X, W), {"padding": -1}, ValueError, "padding must be at least 0, got -1"),
        (
            (X, W),
            {"padding": "valid"},
            ValueError,
            "padding must be 'same', an int or three ints, got 'valid'",
        ),
        ((X, W), {"padding": 0, "dilation": (2, 1, 1)}, ValueError, "x is too small for weight: T = 3"),
    ],
)
def test_bad_input(backend: str, arguments: Any, options: Any, error: type[Exception], text: str) -> None:
    device_for(backend, "depthwise_conv3d")
    with pytest.raises(error, match=text):
        ops.depthwise_conv3d(*arguments, **options, backend=backend)


@pytest.mark.parametrize("backend", ["cpu", "cuda_host", "cuda"])
def test_operators_refuse_what_would_read_past_the_end(backend: str) -> None:
    device = device_for(backend, "depthwise_conv3d")
    namespace = {"cuda_host": "vidops_cuda_host"}.get(backend, "vidops")
    forward, backward = (
        getattr(getattr(torch.ops, namespace), f"depthwise_conv3d{s}") for s in ("", "_backward")
    )
    x, w, one = X.to(device), W.to(device), [1, 1, 1]
    for call, text in (
        (lambda: forward(x, w[:3], None, one, one, one), r"weight must have shape \(C, 1, kt, kh, kw\)"),
        (lambda: forward(x, w.double(), None, one, one, one), "weight must have the dtype of x"),
        (lambda: forward(x, w, w.new_zeros(3), one, one, one), "bias must hold 4 elements"),
        (lambda: forward(x, w, None, [1, 1], one, one), "stride, padding and dilation must hold 3 numbers"),
        (lambda: forward(x, w, None, [0, 1, 1], one, one), "stride must be at least 1"),
        (lambda: forward(x, w, None, one, [0, 0, 0], [2, 1, 1]), "x is too small for weight in dimension 2"),
        (
            lambda: backward(x[:, :, :2], x, w, one, one, one, True, True, True),
            "grad must have size 3 in dimension 2, got 2",
        ),
    ):
        with pytest.raises(RuntimeError, match=text):
            call()


@pytest.mark.parametrize("layout", ["NCTHW", "NTHWC"])
def test_long_sums_of_one_sign(layout: str) -> None:
    device = device_for("cpu", "depthwise_conv3d")
    x, weight, bias = make((1, 5, 9, 24, 150), (3, 3, 3))
    compare(
        ops.depthwise_conv3d,
        [in_layout(x.abs() + 1, layout), weight.abs(), bias],
        "cpu",
        device,
        grad_layout=layout,
        one_sign=True,
    )
