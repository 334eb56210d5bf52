from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
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
from vidops.ops.backends import OPERATORS

STEM = {"stride": 3, "temporal_padding": "valid"}
FEATURES = {"stride": 1, "temporal_padding": "replicate"}
INF, NAN = float("inf"), float("nan")


def make(
    shape: tuple[int, ...], k: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    sizes = (shape, (shape[1], k, k), (shape[1], 3))
    x, spatial, temporal = (torch.randn(s, generator=g, dtype=torch.float64) for s in sizes)
    return x.to(dtype), spatial.div(k).to(dtype), temporal.to(dtype)


def fewer(sizes: tuple[Any, ...], backend: str) -> tuple[Any, ...]:
    """The first of the sizes where Triton's interpreter takes seconds a call."""
    return sizes[:1] if interpreted(backend) else sizes


def mirrored(i: int, size: int) -> int:
    return -i if i < 0 else 2 * (size - 1) - i if i >= size else i


def by_hand(x: Tensor, spatial: Tensor, temporal: Tensor, stride: int, padding: str) -> tuple[Tensor, Tensor]:
    """The definition of operators.md, tap by tap in Python."""
    n, c, t, h, w = x.shape
    k = spatial.shape[-1]
    first = 0 if padding == "valid" else -1
    frames = -(-(t - 2) // stride) if padding == "valid" else -(-t // stride)
    busy, mean = x.new_zeros(2, n, c, frames, h, w)
    rows = [[mirrored(i + u - k // 2, h) for i in range(h)] for u in range(k)]
    columns = [[mirrored(i + v - k // 2, w) for i in range(w)] for v in range(k)]
    for o in range(frames):
        for j in range(3):
            frame = x[:, :, min(max(o * stride + first + j, 0), t - 1)]
            mean[:, :, o] += frame / 3
            for u in range(k):
                for v in range(k):
                    tap = (temporal[:, j] * spatial[:, u, v]).view(c, 1, 1)
                    busy[:, :, o] += tap * frame[:, :, rows[u]][..., columns[v]]
    return busy, mean - busy


@pytest.mark.parametrize("padding", ["valid", "replicate"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("t,k", [(3, 5), (4, 1), (8, 3), (9, 5), (1, 3)])
def test_reference_is_the_definition(padding: str, stride: int, t: int, k: int) -> None:
    if padding == "valid" and t < 3:
        pytest.skip("valid needs 3 frames")
    inputs = make((2, 3, t, 4, 3), k, torch.float64)
    results = reference.motion_band_pass(*inputs, stride=stride, temporal_padding=padding, quiet=True)
    expected = by_hand(*inputs, stride, padding)
    torch.testing.assert_close(results, expected, rtol=1e-12, atol=1e-12)
    alone = reference.motion_band_pass(*inputs, stride=stride, temporal_padding=padding)
    assert torch.equal(alone, results[0])


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("padding", ["valid", "replicate"])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("layout", ["NCTHW", "NTHWC"])
def test_padding_and_stride(backend: str, quiet: bool, padding: str, stride: int, layout: str) -> None:
    device = device_for(backend, "motion_band_pass")
    for t, hw, k in fewer(((7, (3, 5), 5), (3, (4, 4), 3), (8, (2, 9), 3)), backend):
        x, *taps = make((2, 3, t, *hw), k)
        compare(
            functools.partial(ops.motion_band_pass, stride=stride, temporal_padding=padding, quiet=quiet),
            [in_layout(x, layout), *taps],
            backend,
            device,
        )


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("k", [1, 3, 5, 7, 9, 11, 13])
@pytest.mark.parametrize("options", [STEM, FEATURES], ids=["stem", "features"])
def test_every_kernel_size(backend: str, k: int, options: dict[str, Any]) -> None:
    device = device_for(backend, "motion_band_pass")
    reach = k // 2
    sizes = (((reach + 1, reach + 1), 17), ((reach + 2, 2 * reach + 19), 13), ((1 + 2 * reach, 37), 19))
    layouts = ("NCTHW", "NTHWC") if k < 9 else fewer(("NCTHW", "NTHWC"), backend)
    for hw, c in fewer(sizes, backend):
        c = 2 if k > 9 and interpreted(backend) else c  # a program a plane, minutes for all of them
        for layout in layouts:
            x, *taps = make((1, c, 3, *hw), k)
            function = functools.partial(ops.motion_band_pass, **options)
            compare(function, [in_layout(x, layout), *taps], backend, device, grad_layout=layout)


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
@pytest.mark.parametrize("layout", ["NCTHW", "NTCHW", "NTHWC"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sizes_of_real_networks(backend: str, layout: str, dtype: torch.dtype) -> None:
    device = device_for(backend, "motion_band_pass")
    for shape, k, options in (
        ((1, 3, 6, 112, 112), 9, STEM),
        ((1, 64, 2, 56, 56), 7, FEATURES),
        ((1, 256, 2, 14, 14), 7, FEATURES),
        ((2, 512, 2, 7, 7), 3, FEATURES),
    ):
        x, *taps = make(shape, k, dtype)
        function = functools.partial(ops.motion_band_pass, **options, quiet=True)
        compare(function, [in_layout(x, layout), *taps], backend, device, grad_layout=layout)


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize(
    "shape", [(0, 3, 6, 5, 5), (2, 0, 6, 5, 5), (2, 3, 6, 0, 5), (2, 3, 6, 5, 0), (2, 3, 0, 5, 5)]
)
def test_zero_sizes(backend: str, shape: tuple[int, ...]) -> None:
    device = device_for(backend, "motion_band_pass")
    c = shape[1]
    x, spatial, temporal = (
        torch.randn(s, device=device, requires_grad=True) for s in (shape, (c, 3, 3), (c, 3))
    )
    busy, quiet = ops.motion_band_pass(x, spatial, temporal, **FEATURES, quiet=True, backend=backend)
    assert busy.shape == quiet.shape == shape
    (busy.sum() + quiet.sum()).backward()
    for tensor in (x, spatial, temporal):
        assert tensor.grad is not None
        assert tensor.grad.shape == tensor.shape
        assert not tensor.grad.any()


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize("used", [0, 1])
def test_one_of_two_results_is_used(backend: str, used: int) -> None:
    device = device_for(backend, "motion_band_pass")
    inputs = [t.to(device) for t in make((1, 2, 6, 4, 5), 3, torch.float64)]
    gradients = []
    for name in (backend, "reference"):
        leaves = [t.clone().requires_grad_() for t in inputs]
        result = ops.motion_band_pass(*leaves, quiet=True, backend=name)[used]
        gradients.append(torch.autograd.grad(result.square().sum(), leaves))
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize("padding", ["valid", "replicate"])
def test_gradcheck(backend: str, padding: str) -> None:
    device = device_for(backend, "motion_band_pass")
    inputs = tuple(t.to(device).requires_grad_() for t in make((1, 2, 4, 3, 4), 5, torch.float64))
    function = functools.partial(
        ops.motion_band_pass, stride=2, temporal_padding=padding, quiet=True, backend=backend
    )
    assert torch.autograd.gradcheck(function, inputs, fast_mode=interpreted(backend))
    if backend == "reference":
        assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("backend", EVERY_BACKEND)
def test_a_still_clip_gives_nothing(backend: str) -> None:
    device = device_for(backend, "motion_band_pass")
    frame, spatial, _ = make((1, 3, 1, 20, 21), 9)
    x = frame.expand(1, 3, 6, 20, 21).to(device)
    temporal = (torch.tensor([-1.0, 2.0, -1.0]) / 3).expand(3, 3).contiguous().to(device)
    for options in (STEM, FEATURES):
        y = ops.motion_band_pass(x, spatial.to(device), temporal, **options, backend=backend)
        assert y.abs().max() < 1e-5 * spatial.abs().sum((1, 2)).max()


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("where", ["x", "grad", "spatial", "temporal"])
@pytest.mark.parametrize("layout", ["NCTHW", "NTCHW", "NTHWC"])
def test_what_is_not_finite_reaches_what_it_reaches_in_the_reference(
    backend: str, where: str, layout: str
) -> None:
    device = device_for(backend, "motion_band_pass")
    if interpreted(backend) and layout == "NTCHW":
        pytest.skip("the interpreter takes seconds a call")
    for options, channels, k in ((STEM, 3, 5), (FEATURES, 3 if interpreted(backend) else 20, 3)):
        if interpreted(backend) and (options is STEM) == (layout == "NTHWC"):
            continue
        named = dict(zip(("x", "spatial", "temporal"), make((1, channels, 6, 6, 9), k, seed=2), strict=True))
        frames = 2 if options is STEM else 6
        named["grad"] = make((1, channels, frames, 6, 9), 1, seed=1)[0]
        sizes = named[where].shape
        middle, last = tuple(s // 2 for s in sizes), tuple(s - 1 for s in sizes)
        for place, value in (((0,) * len(sizes), INF), (last, INF), (middle, NAN)):
            function, definition = (
                functools.partial(ops.motion_band_pass, **options, backend=name)
                for name in (backend, "reference")
            )
            compare_not_finite(function, definition, named, where, place, value, device, layout)


@pytest.mark.parametrize("backend", FAST)
def test_random_calls(backend: str) -> None:
    device = device_for(backend, "motion_band_pass")
    side, channels = (6, 9) if interpreted(backend) else (24, 24)

    @random_examples(backend, device)
    @given(
        n=st.integers(1, 2),
        c=st.integers(8, channels),
        t=st.integers(1, 7),
        h=st.integers(1, side),
        w=st.integers(1, side),
        reach=st.integers(0, 5),
        stride=st.integers(1, 4),
        padding=st.sampled_from(["valid", "replicate"]),
        quiet=st.booleans(),
        layout=st.sampled_from(LAYOUTS),
        grad_layout=st.sampled_from(LAYOUTS),
        dtype=st.sampled_from(DTYPES),
        seed=st.integers(0, 999),
    )
    def check(
        n: int,
        c: int,
        t: int,
        h: int,
        w: int,
        reach: int,
        stride: int,
        padding: str,
        quiet: bool,
        layout: str,
        grad_layout: str,
        dtype: torch.dtype,
        seed: int,
    ) -> None:
        x, *taps = make((n, c, t + 2, h, w), 2 * min(reach, h - 1, w - 1) + 1, dtype, seed)
        function = functools.partial(
            ops.motion_band_pass, stride=stride, temporal_padding=padding, quiet=quiet
        )
        compare(function, [in_layout(x, layout), *taps], backend, device, grad_layout=grad_layout)

    check()


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize(
    "change,error,text",
    [
        ({"x": torch.zeros(1, 4, 6, 5, 5)}, ValueError, r"spatial must have shape \(4, 3, 3\), got \(3, 3, 3\)"),
        ({"spatial": torch.zeros(3, 3)}, ValueError, r"spatial must have shape"),
        ({"spatial": torch.zeros(3, 3, 5)}, ValueError, r"spatial must have shape \(3, 5, 5\), got \(3, 3, 5\)"),
        ({"spatial": torch.zeros(3, 4, 4)}, ValueError, "spatial must have an odd kernel size, got 4"),
        ({"spatial": torch.zeros(3, 0, 0)}, ValueError, "spatial must have an odd kernel size, got 0"),
        ({"spatial": torch.zeros(3, 3, 3).double()}, TypeError, "spatial must have the dtype of x"),
        ({"spatial": [1.0]}, TypeError, "spatial must be a Tensor, got list"),
        ({"spatial": torch.zeros(3, 11, 11)}, ValueError, "'reflect' needs frames of more than 5 x 5 pixels"),
        ({"temporal": torch.zeros(3, 5)}, ValueError, r"temporal must have shape \(3, 3\), got \(3, 5\)"),
        ({"temporal": torch.zeros(3, 3, device="meta")}, ValueError, "temporal must be on the device of x"),
        ({"stride": 0}, ValueError, "stride must be at least 1, got 0"),
        ({"stride": 1.0}, TypeError, "stride must be an int, got float"),
        ({"spatial_padding": "zeros"}, ValueError, "spatial_padding must be 'reflect', got 'zeros'"),
        ({"temporal_padding": "zeros"}, ValueError, "temporal_padding must be one of valid, replicate"),
        ({"x": torch.zeros(1, 3, 2, 5, 5)}, ValueError, "'valid' needs at least 3 frames, x has 2"),
        ({"quiet": 1}, TypeError, "quiet must be a bool, got int"),
    ],
)  # fmt: skip
def test_bad_input(backend: str, change: dict[str, Any], error: type[Exception], text: str) -> None:
    device = device_for(backend, "motion_band_pass")
    arguments: dict[str, Any] = {
        "x": torch.zeros(1, 3, 6, 5, 5),
        "spatial": torch.zeros(3, 3, 3),
        "temporal": torch.zeros(3, 3),
    }
    arguments |= change
    arguments = {
        k: v.to(device) if isinstance(v, Tensor) and v.device.type != "meta" else v
        for k, v in arguments.items()
    }
    with pytest.raises(error, match=text):
        ops.motion_band_pass(backend=backend, **arguments)


def test_reflect_is_refused_where_pytorch_refuses_it() -> None:
    for size, k in ((4, 9), (5, 9), (1, 3), (2, 3)):
        x, *taps = make((1, 2, 3, size, 9), k)
        try:
            torch.nn.functional.pad(x[0, :, 0], (0, 0, k // 2, k // 2), mode="reflect")
        except RuntimeError:
            with pytest.raises(ValueError, match="spatial_padding 'reflect' needs"):
                ops.motion_band_pass(x, *taps)
        else:
            ops.motion_band_pass(x, *taps)


def test_cuda_says_which_kernels_it_cannot_take() -> None:
    limit = OPERATORS["motion_band_pass"].limits["cuda"]
    x = torch.zeros(1, 1, 3, 60, 60)
    assert limit(x, torch.zeros(1, 49, 49)) == ""
    assert "spatial has 51 x 51 taps; it takes 49 x 49" in limit(x, torch.zeros(1, 51, 51))


@pytest.mark.parametrize("backend", EVERY_BACKEND)
def test_a_huge_stride_leaves_one_frame(backend: str) -> None:
    device = device_for(backend, "motion_band_pass")
    inputs = [t.to(device) for t in make((1, 2, 4, 3, 3), 3)]
    y = ops.motion_band_pass(*inputs, stride=2**62, backend=backend)
    torch.testing.assert_close(y, reference.motion_band_pass(*inputs, stride=4))
