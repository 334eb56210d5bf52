"""What is particular to the Triton kernels; the operators' own tests run them beside every other backend."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

from tests.ops.common import compare, device_for, in_layout, past_32_bits
from vidops import ops
from vidops.ops import backends

OPS = [
    "depthwise_conv3d", "keypoint_shifts", "pathway_select", "temporal_conv", "temporal_descriptor",
    "temporal_projection", "temporal_shift",
]  # fmt: skip
SCHEMAS = [name + end for name in OPS for end in ("", "_backward")]


@pytest.fixture
def device() -> str:
    return device_for("triton", "temporal_conv")


def clip(c: int, t: int, hw: tuple[int, int], n: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, c, t, *hw, generator=torch.Generator().manual_seed(1)).to(dtype)


def taps(groups: Any, dtype: torch.dtype = torch.float32) -> Tensor:
    count = sum(c * k for c, k, _ in groups)
    return torch.randn(count, generator=torch.Generator().manual_seed(2)).to(dtype)


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema_is_that_of_the_native_operator(name: str, device: str) -> None:
    for backend in ("cpu", "triton"):
        reason = backends.OPERATORS["temporal_conv"].missing[backend]
        if reason:
            pytest.skip(f"{backend}: {reason}")
    native, ours = (getattr(getattr(torch.ops, n), name).default._schema for n in ("vidops", "vidops_triton"))

    def described(schema: Any) -> Any:
        # int and SymInt are one type here: Python operators always take the latter
        arguments = [(a.name, str(a.type), a.kwarg_only, a.has_default_value()) for a in schema.arguments]
        return arguments, [str(r.type) for r in schema.returns]

    assert described(ours) == described(native)
    assert not any(a.has_default_value() for a in ours.arguments)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_results_are_rounded_to_nearest_even(dtype: torch.dtype, device: str) -> None:
    # Sums of two products that are exact in fp32, so that only the last rounding is left: ties among them.
    one = torch.ones((), dtype=torch.float32)
    eps = torch.finfo(dtype).eps
    big = torch.tensor(
        [1.0, 1.0, 1 + eps, 1 + eps, -1.0, 2.0, float("inf"), float("-inf"), float("nan"), 0.0]
    )
    small = torch.tensor([eps / 2, eps / 2 + eps / 8, eps / 2, eps / 4, -eps / 2, eps, 1.0, 1.0, 1.0, -0.0])
    x = torch.stack([big, small, torch.zeros(10)]).view(1, 1, 3, 1, 10).to(dtype)
    expected = (x[:, :, :1].float() + x[:, :, 1:2].float()).to(dtype)
    weight = torch.stack([one, one, torch.zeros(())]).to(dtype)
    y = ops.temporal_conv(
        x.to(device), weight.to(device), groups=[(1, 3, 1)], padding="valid", backend="triton"
    )
    assert y.shape == (1, 1, 1, 1, 10)
    torch.testing.assert_close(y.cpu(), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("layout", ["NCTHW", "NTHWC"])
@pytest.mark.parametrize("padding", ["zeros", "replicate"])
def test_programs_that_walk_several_items_and_rows(
    layout: str, padding: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What only large clips need: runs of several items, the last one shorter, and more rows than a tile has.
    from vidops.triton_kernels import temporal_conv as kernels

    monkeypatch.setattr(kernels.RUNS.programs, "value", 2)
    monkeypatch.setattr(kernels.RUNS.run, "value", 2)
    monkeypatch.setattr(kernels, "ROWS", 2)
    groups = ((1, 3, 1), (2, 9, 1))
    x = in_layout(clip(3, 3, (1, 3), n=5), layout)
    function = functools.partial(ops.temporal_conv, groups=groups, padding=padding)
    compare(function, [x, taps(groups), torch.randn(3)], "triton", device, grad_layout=layout)


@pytest.mark.parametrize("layout", ["NCTHW", "NTHWC"])
def test_more_groups_than_a_launch_takes(layout: str, device: str) -> None:
    groups = ((2, 1, 1), (1, 3, 1), (2, 3, 2), (1, 5, 1), (2, 7, 1), (2, 11, 1))
    x = in_layout(clip(10, 5, (1, 3), n=1), layout)
    compare(
        functools.partial(ops.temporal_conv, groups=groups, padding="replicate", stride=2),
        [x, taps(groups), torch.randn(10)], "triton", device, grad_layout=layout,
    )  # fmt: skip


@pytest.mark.parametrize("t", [15, 16, 17, 21])
@pytest.mark.parametrize("padding", ["zeros", "replicate", "valid"])
def test_frames_around_the_longest_constant(t: int, padding: str, device: str) -> None:
    groups = ((1, 1, 1), (1, 3, 2), (1, 7, 1))
    function = functools.partial(ops.temporal_conv, groups=groups, padding=padding)
    compare(function, [clip(3, t, (1, 2), n=1), taps(groups)], "triton", device)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_offsets_have_64_bits(axis: int, device: str) -> None:
    x = past_32_bits([1, 1, 1, 1, 8], axis, device)
    weight = torch.tensor([0.5, 2.0, 1.0] * x.shape[1], dtype=torch.float16, device=device)
    groups = ((x.shape[1], 3, 1),)
    y = ops.temporal_conv(x, weight, groups=groups, backend="triton")
    expected = ops.temporal_conv(x.contiguous(), weight, groups=groups, backend="reference")
    torch.testing.assert_close(y, expected, rtol=0, atol=0)
    shifted = ops.temporal_shift(x, 2, backend="triton")
    torch.testing.assert_close(
        shifted, ops.temporal_shift(x.contiguous(), 2, backend="reference"), rtol=0, atol=0
    )


@pytest.mark.parametrize("layout", ["NCTHW", "NTCHW", "NTHWC", "offset", "apart"])
def test_native_layouts_are_not_copied(layout: str, device: str) -> None:
    from vidops.triton_kernels._clip import native, native_like

    x = clip(4, 3, (2, 2))
    x = x[:, ::2, ::2] if layout == "apart" else in_layout(x, layout)
    assert native(x) is x
    assert native_like(x, x) is x


def test_other_layouts_are_copied_once(device: str) -> None:
    from vidops.triton_kernels._clip import native, native_like, walk

    x = in_layout(clip(4, 3, (2, 2)), "strided")
    copied = native(x)
    assert copied.is_contiguous()
    assert torch.equal(copied, x)
    last = in_layout(clip(4, 3, (2, 2)), "NTHWC")
    grad = native_like(copied, last)
    assert walk(grad).last
    assert torch.equal(grad, copied)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 64, 1000])
@pytest.mark.parametrize("positions", [1, 2, 49, 196, 784, 3136, 50176])
def test_tiles_have_whole_warps_of_elements(positions: int, channels: int, last: bool, device: str) -> None:
    from vidops.triton_kernels._clip import tile

    for element_size, share in ((2, 8), (4, 4), (8, 2)):
        c, p, warps = tile(share, channels, positions, last, element_size)
        assert c & (c - 1) == 0
        assert p & (p - 1) == 0
        assert warps in (1, 2, 4)
        assert c < 2 * channels
        assert c * p <= 32 * share * warps
        # Fewer than two in three lanes without work, unless there is too little for one warp.
        padded = -(-positions // p) * p * -(-channels // c) * c
        assert padded <= 3 * positions * channels or last or c * p < 32 * share


def test_neighbouring_groups_of_one_kind_are_one() -> None:
    from vidops.triton_kernels import _groups

    split = _groups.parse([2, 3, 1, 0, 5, 1, 4, 3, 1, 2, 3, 2])
    assert split == _groups.parse([6, 3, 1, 2, 3, 2])
    assert split.bundles[0].channels == (6, 2, 0, 0)
    assert (split.widest, split.reach, split.weights) == (6, 2, 24)
