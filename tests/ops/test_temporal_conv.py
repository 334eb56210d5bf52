from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import vidops
from tests.ops.common import (
    DTYPES,
    EVERY_BACKEND,
    FAST,
    LAYOUTS,
    compare,
    device_for,
    in_layout,
    interpreted,
    move,
    random_examples,
)
from vidops import ops, reference

MIXED = ((3, 1, 1), (0, 5, 1), (4, 3, 2), (2, 5, 1), (4, 7, 1))


def make(
    groups: Any, t: int, hw: tuple[int, int], n: int = 2, dtype: torch.dtype = torch.float32, seed: int = 0
):
    g = torch.Generator().manual_seed(seed)
    c = sum(c for c, _, _ in groups)
    x = torch.randn(n, c, t, *hw, generator=g, dtype=torch.float64).to(dtype)
    weight = torch.randn(sum(c * k for c, k, _ in groups), generator=g, dtype=torch.float64).to(dtype)
    bias = torch.randn(c, generator=g, dtype=torch.float64).to(dtype)
    return x, weight, bias


def by_hand(x: Tensor, weight: Tensor, bias: Tensor, groups: Any, stride: int, padding: str) -> Tensor:
    """The definition of operators.md, element by element in Python."""
    n, c, t, h, w = x.shape
    reach = max([0, *[(k - 1) // 2 * d for gc, k, d in groups if gc]])
    frames = -(-(t - 2 * reach) // stride) if padding == "valid" else -(-t // stride)
    y = x.new_zeros(n, c, frames, h, w)
    channel = tap = 0
    for gc, k, d in groups:
        for i in range(gc):
            for o in range(frames):
                centre = o * stride + (reach if padding == "valid" else 0)
                acc = bias[channel + i].expand(n, h, w).clone()
                for j in range(k):
                    f = centre + (j - (k - 1) // 2) * d
                    if padding == "replicate":
                        f = min(max(f, 0), t - 1)
                    if 0 <= f < t:
                        acc += weight[tap + i * k + j] * x[:, channel + i, f]
                y[:, channel + i, o] = acc
        channel += gc
        tap += gc * k
    return y


@pytest.mark.parametrize("padding", ["zeros", "replicate", "valid"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("t", [1, 2, 7, 8])
def test_reference_is_the_definition(padding: str, stride: int, t: int) -> None:
    if padding == "valid" and t < 7:
        pytest.skip("valid needs 7 frames for 7 taps")
    x, weight, bias = make(MIXED, t, (2, 3), dtype=torch.float64)
    y = reference.temporal_conv(x, weight, bias, groups=MIXED, stride=stride, padding=padding)
    torch.testing.assert_close(y, by_hand(x, weight, bias, MIXED, stride, padding), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("padding", ["zeros", "replicate", "valid"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("t,hw,n", [(7, (1, 1), 3), (8, (4, 4), 1), (13, (3, 1), 2)])
@pytest.mark.parametrize("layout", ["NCTHW", "NTHWC"])
def test_padding_and_stride(
    backend: str, padding: str, stride: int, t: int, hw: tuple[int, int], n: int, layout: str
) -> None:
    device = device_for(backend, "temporal_conv")
    x, weight, bias = make(MIXED, t, hw, n)
    compare(
        functools.partial(ops.temporal_conv, groups=MIXED, stride=stride, padding=padding),
        [in_layout(x, layout), weight, bias],
        backend,
        device,
    )


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(
    "groups,t",
    [
        (((5, 1, 1),), 4),  # k = 1: no neighbours
        (((5, 7, 1),), 3),  # T < k
        (((5, 7, 3),), 8),  # some taps never meet a frame
        (((3, 5, 1), (2, 3, 1)), 1),  # one frame
        (((1, 3, 1),), 8),  # one channel
        (((0, 3, 1), (6, 3, 1), (0, 1, 1)), 5),  # groups without channels
        (((2, 9, 1), (2, 11, 2)), 16),  # more taps than any published network has
        (((33, 3, 1), (31, 5, 1)), 4),  # more channels than a vector has lanes, no multiple of it
    ],
)
@pytest.mark.parametrize("layout", ["NCTHW", "NTHWC"])
@pytest.mark.parametrize("padding", ["zeros", "replicate"])
def test_special_cases(backend: str, groups: Any, t: int, layout: str, padding: str) -> None:
    device = device_for(backend, "temporal_conv")
    x, weight, bias = make(groups, t, (3, 5))
    compare(
        functools.partial(ops.temporal_conv, groups=groups, padding=padding),
        [in_layout(x, layout), weight, bias],
        backend,
        device,
    )


@pytest.mark.parametrize("backend", ["cpu", "cuda", "triton"])
@pytest.mark.parametrize("layout", ["NCTHW", "NTCHW", "NTHWC"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sizes_of_real_networks(backend: str, layout: str, dtype: torch.dtype) -> None:
    device = device_for(backend, "temporal_conv")
    if interpreted(backend):
        pytest.skip("triton: too large for the interpreter")
    for c, hw in ((64, 56), (512, 7)):
        groups = tuple((c // 4, k, 1) for k in (1, 3, 5, 7))
        x, weight, _ = make(groups, 8, (hw, hw), n=1, dtype=dtype)
        compare(
            functools.partial(ops.temporal_conv, groups=groups),
            [in_layout(x, layout), weight],
            backend,
            device,
            grad_layout=layout,
        )


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize("shape", [(0, 14, 8, 3, 3), (2, 14, 8, 0, 3), (2, 14, 8, 3, 0), (2, 14, 0, 3, 3)])
def test_zero_sizes(backend: str, shape: tuple[int, ...]) -> None:
    device = device_for(backend, "temporal_conv")
    _, weight, bias = make(MIXED[:1] + MIXED[2:3], 1, (1, 1))
    groups = ((3, 1, 1), (4, 3, 2), (7, 1, 1))
    weight = torch.randn(3 + 12 + 7, device=device, requires_grad=True)
    bias = torch.randn(14, device=device, requires_grad=True)
    x = torch.randn(shape, device=device, requires_grad=True)
    y = ops.temporal_conv(x, weight, bias, groups=groups, backend=backend)
    assert y.shape == shape
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.shape == shape
    assert weight.grad is not None
    assert not weight.grad.any()
    assert bias.grad is not None
    assert not bias.grad.any()


@pytest.mark.parametrize("backend", EVERY_BACKEND)
def test_no_channels(backend: str) -> None:
    device = device_for(backend, "temporal_conv")
    x = torch.randn(2, 0, 4, 3, 3, device=device)
    assert ops.temporal_conv(x, x.new_empty(0), groups=[(0, 3, 1)], backend=backend).shape == x.shape


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize("padding", ["zeros", "replicate", "valid"])
def test_gradcheck(backend: str, padding: str) -> None:
    device = device_for(backend, "temporal_conv")
    groups = ((2, 1, 1), (2, 3, 2), (1, 5, 1))
    inputs = tuple(t.to(device).requires_grad_() for t in make(groups, 6, (2, 1), 1, torch.float64))
    function = functools.partial(ops.temporal_conv, groups=groups, stride=2, padding=padding, backend=backend)
    assert torch.autograd.gradcheck(function, inputs, fast_mode=interpreted(backend))
    if backend == "reference":
        assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("backend", EVERY_BACKEND)
def test_a_sequence_of_weights_is_the_flat_one(backend: str) -> None:
    device = device_for(backend, "temporal_conv")
    x, weight, _ = (t.to(device) for t in make(((2, 1, 1), (4, 3, 1)), 4, (2, 3)))
    parts = [weight[:2].view(2, 1, 1).requires_grad_(), weight[2:].view(4, 1, 3).clone().requires_grad_()]
    flat = weight.clone().requires_grad_()
    y = ops.temporal_conv(x, parts, backend=backend)
    z = ops.temporal_conv(x, flat, groups=((2, 1, 1), (4, 3, 1)), backend=backend)
    assert torch.equal(y, z)
    y.sum().backward()
    z.sum().backward()
    assert torch.equal(torch.cat([p.grad.reshape(-1) for p in parts]), flat.grad)
    dilated = ops.temporal_conv(x, parts, groups=[(2, 1, 1), (4, 3, 2)], backend=backend)
    assert torch.equal(dilated, ops.temporal_conv(x, flat, groups=((2, 1, 1), (4, 3, 2)), backend=backend))


GROUP = st.tuples(st.integers(0, 9), st.sampled_from([1, 3, 5, 7, 9]), st.integers(1, 3))


@pytest.mark.parametrize("backend", FAST)
def test_random_calls(backend: str) -> None:
    device = device_for(backend, "temporal_conv")
    side = 3 if interpreted(backend) else 9

    @random_examples(backend, device)
    @given(
        groups=st.lists(GROUP, min_size=1, max_size=5).filter(lambda g: sum(c for c, _, _ in g) > 0),
        t=st.integers(1, 10),
        h=st.integers(1, side),
        w=st.integers(1, side),
        n=st.integers(1, 2),
        stride=st.integers(1, 3),
        padding=st.sampled_from(["zeros", "replicate", "valid"]),
        layout=st.sampled_from(LAYOUTS),
        grad_layout=st.sampled_from(LAYOUTS),
        dtype=st.sampled_from(DTYPES),
        seed=st.integers(0, 999),
    )
    def check(
        groups: Any,
        t: int,
        h: int,
        w: int,
        n: int,
        stride: int,
        padding: str,
        layout: str,
        grad_layout: str,
        dtype: torch.dtype,
        seed: int,
    ) -> None:
        if padding == "valid":
            t += 2 * max((k - 1) // 2 * d for c, k, d in groups if c)
        x, weight, bias = make(groups, t, (h, w), n, dtype, seed)
        function = functools.partial(ops.temporal_conv, groups=groups, stride=stride, padding=padding)
        compare(function, [in_layout(x, layout), weight, bias], backend, device, grad_layout=grad_layout)

    check()


def test_a_compiled_function_follows_use_backend() -> None:
    device_for("cpu", "temporal_conv")
    x, weight, _ = make(MIXED, 5, (2, 3))
    graphs: list[str] = []

    def record(module: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(module.code)
        return module.forward

    torch._dynamo.reset()
    function = torch.compile(
        lambda: ops.temporal_conv(x, weight, groups=MIXED), fullgraph=True, backend=record
    )
    plain = function()
    with vidops.use_backend("reference"):
        slow = function()
    again = function()
    torch.testing.assert_close(plain, slow)
    assert torch.equal(plain, again)
    assert len(graphs) == 2
    assert "vidops.temporal_conv" in graphs[0]
    assert "conv3d" in graphs[1]


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize(
    "change,error,text",
    [
        ({"x": torch.zeros(2, 14, 5, 2)}, ValueError, r"x must be a clip \(N, C, T, H, W\), got 4 dimensions"),
        ({"x": torch.zeros(2, 14, 5, 2, 2, dtype=torch.int32)}, TypeError, "x must be float32.*torch.int32"),
        ({"x": torch.zeros(2, 14, 5, 2, 2, dtype=torch.complex64)}, TypeError, "x must be float32.*complex64"),
        ({"x": [1.0]}, TypeError, "x must be a Tensor, got list"),
        ({"x": torch.zeros(2, 12, 5, 2, 2)}, ValueError, "groups must hold as many channels as x, 12, got 14"),
        ({"weight": torch.zeros(7)}, ValueError, r"weight must have shape \(\d+,\), got \(7,\)"),
        ({"weight": torch.zeros(60, dtype=torch.float64)}, TypeError, "weight must have the dtype of x"),
        ({"weight": torch.zeros(60, device="meta")}, ValueError, "weight must be on the device of x"),
        ({"weight": []}, ValueError, "weight must hold at least one tensor"),
        ({"weight": [torch.zeros(14, 3)], "groups": None}, ValueError, r"weight\[0\] must have shape \(C_m, 1, k_m\)"),
        ({"weight": [torch.zeros(14, 1, 4)], "groups": None}, ValueError, "odd kernel sizes, got 4"),
        ({"weight": [torch.zeros(14, 1, 3)], "groups": ((14, 5, 1),)}, ValueError, "do not match the shapes of weight"),
        ({"weight": 3}, TypeError, "weight must be a Tensor or a sequence"),
        ({"groups": None}, ValueError, "groups is required with a flat weight"),
        ({"groups": ()}, ValueError, "groups must hold at least one"),
        ({"groups": ((14, 4, 1),)}, ValueError, "odd kernel sizes, got 4"),
        ({"groups": ((14, 3, 0),)}, ValueError, "dilations of at least 1, got 0"),
        ({"groups": ((-1, 3, 1),)}, ValueError, "channel counts of at least 0, got -1"),
        ({"groups": ((14, 3),)}, TypeError, "groups must be"),
        ({"groups": ((14, 3.5, 1),)}, TypeError, "groups must be"),
        ({"groups": ((14, 3.0, True),)}, TypeError, "groups must be"),
        ({"groups": 7}, TypeError, "groups must be"),
        ({"bias": torch.zeros(3)}, ValueError, r"bias must have shape \(14,\), got \(3,\)"),
        ({"bias": torch.zeros(14, dtype=torch.float16)}, TypeError, "bias must have the dtype of x"),
        ({"stride": 0}, ValueError, "stride must be at least 1, got 0"),
        ({"stride": 1.0}, TypeError, "stride must be an int, got float"),
        ({"stride": True}, TypeError, "stride must be an int, got bool"),
        ({"padding": "same"}, ValueError, "padding must be one of zeros, replicate, valid, got 'same'"),
        ({"padding": "valid"}, ValueError, "padding 'valid' needs more than 6 frames"),
        ({"padding": None}, ValueError, "padding must be one of"),
    ],
)  # fmt: skip
def test_bad_input(backend: str, change: dict[str, Any], error: type[Exception], text: str) -> None:
    device = device_for(backend, "temporal_conv")
    groups = ((3, 1, 1), (5, 3, 1), (0, 3, 1), (6, 7, 1))
    x, _, bias = make(groups, 5, (2, 2))
    arguments: dict[str, Any] = {"x": x, "weight": torch.zeros(3 + 15 + 42), "bias": bias, "groups": groups}
    arguments |= change
    arguments = {
        k: v.to(device) if isinstance(v, Tensor) and v.device.type != "meta" else v
        for k, v in arguments.items()
    }
    with pytest.raises(error, match=text):
        ops.temporal_conv(arguments.pop("x"), arguments.pop("weight"), backend=backend, **arguments)


def test_flop_formula_counts_what_the_reference_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    counts = {}
    for backend in ("reference", "cpu"):
        device_for(backend, "temporal_conv")
        x, weight, _ = (t.requires_grad_() for t in make(MIXED, 9, (2, 3)))
        with FlopCounterMode(display=False) as counter:
            y = ops.temporal_conv(x, weight, groups=MIXED, stride=2, padding="valid", backend=backend)
            counts[backend] = counter.get_total_flops()
            y.sum().backward()
        if backend == "cpu":  # PyTorch's own count of a grouped convolution's backward leaves the groups out
            assert counter.get_total_flops() == 3 * counts[backend]
    assert counts["reference"] == counts["cpu"] > 0


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize("padding", ["zeros", "replicate"])
def test_huge_dilations_and_strides(backend: str, padding: str) -> None:
    device = device_for(backend, "temporal_conv")
    groups = ((2, 3, 2**62), (2, 5, 2**40), (1, 3, 1))
    x, weight, bias = (v.to(device) for v in make(groups, 5, (2, 2)))
    y = ops.temporal_conv(x, weight, bias, groups=groups, stride=2**62, padding=padding, backend=backend)
    near = tuple((c, k, min(d, 5)) for c, k, d in groups)
    z = reference.temporal_conv(x, weight, bias, groups=near, stride=5, padding=padding)
    torch.testing.assert_close(y, z)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("where", ["x", "grad", "weight"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("layout", ["NCTHW", "NTHWC"])
def test_what_is_not_finite_reaches_what_it_reaches_in_the_reference(
    backend: str, where: str, value: float, layout: str
) -> None:
    device = device_for(backend, "temporal_conv")
    every_tap = ((8, 1, 1), (8, 3, 1), (8, 5, 1), (8, 7, 1), (8, 3, 2), (8, 9, 1))
    for frames, frame in ((8, 0), (8, 3), (8, 7), (5, 4), (11, 9), (2, 1)):
        x, weight, bias = make(every_tap, frames, (4, 4))
        grad = make(every_tap, frames, (4, 4), seed=1)[0]
        for c in (4, 12, 20, 28, 36, 44):  # one channel of every group
            if where == "weight":
                weight[4 + 24 * (c == 12)] = value
            else:
                {"x": x, "grad": grad}[where][1, c, frame, 2, 1] = value
        results = []
        for name in (backend, "reference"):
            leaves = [move(v.clone(), device).requires_grad_() for v in (in_layout(x, layout), weight, bias)]
            y = ops.temporal_conv(*leaves, groups=every_tap, backend=name)
            results.append([y, *torch.autograd.grad(y, leaves, grad.to(device))])
        for name, a, b in zip(("y", "dx", "dweight", "dbias"), *results, strict=True):
            if (backend, where, name) == ("triton", "grad", "dweight"):
                continue  # documented: it leaves products with frames outside the clip out
            assert torch.equal(a.isfinite(), b.isfinite()), name
            assert torch.equal(a.isnan(), b.isnan()), name


@pytest.mark.parametrize("layout", ["NCTHW", "NTHWC"])
@pytest.mark.parametrize("frames", [64, 300])
def test_long_clips_of_one_sign(layout: str, frames: int) -> None:
    device = device_for("cpu", "temporal_conv")
    groups = ((9, 3, 1), (5, 9, 1), (3, 3, 2))
    x, weight, bias = make(groups, frames, (8, 9))
    function = functools.partial(ops.temporal_conv, groups=groups)
    inputs = [in_layout(x.abs() + 1, layout), weight, bias]
    compare(function, inputs, "cpu", device, grad_layout=layout, one_sign=True)


def test_more_taps_than_a_table_holds() -> None:
    device_for("cpu", "temporal_conv")
    taps = (1 << 20) + 1
    x = torch.zeros(1, 1, 1024, 1, 1)
    x[0, 0, 512] = 1
    weight = torch.zeros(taps)
    weight[taps // 2 + 3] = 2
    y = ops.temporal_conv(x, weight, groups=((1, taps, 1),), backend="cpu")
    assert y.flatten().nonzero().tolist() == [[509]]
    with pytest.raises(RuntimeError, match="groups must have kernel sizes of at most 262144 for 1024 frames"):
        ops.temporal_conv(x, weight, groups=((1, taps, 1),), padding="replicate", backend="cpu")
