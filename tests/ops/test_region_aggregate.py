from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.ops.common import EVERY_BACKEND, device_for, in_layout
from vidops import ops

KERNEL = (3, 7, 5)
PADDING = (1, 3, 2)


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize("layout", ["NCTHW", "NTHWC"])
def test_kinds_are_those_of_pytorch(backend: str, layout: str) -> None:
    device = device_for(backend, "depthwise_conv3d")
    x = in_layout(torch.randn(1, 5, 4, 8, 7, generator=torch.Generator().manual_seed(0)), layout).to(device)
    weight = torch.randn(5, 1, *KERNEL, device=device)
    expected = {
        "conv": F.conv3d(x, weight, padding=PADDING, groups=5),
        "avg": F.avg_pool3d(x, KERNEL, 1, PADDING),
        "max": F.max_pool3d(x, KERNEL, 1, PADDING),
    }
    for kind, wanted in expected.items():
        given = {"weight": weight} if kind == "conv" else {}
        y = ops.region_aggregate(x, kind, **given, kernel_size=KERNEL, backend=backend)
        torch.testing.assert_close(y, wanted)
    one = ops.region_aggregate(x, "avg", kernel_size=3, backend=backend)
    torch.testing.assert_close(one, F.avg_pool3d(x, 3, 1, 1))


@pytest.mark.parametrize("kind", ["conv", "avg", "max"])
def test_gradients(kind: str) -> None:
    x = torch.randn(1, 2, 3, 4, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 1, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    if kind == "conv":
        assert torch.autograd.gradcheck(lambda x, w: ops.region_aggregate(x, "conv", w), (x, weight))
    else:
        assert torch.autograd.gradcheck(lambda x: ops.region_aggregate(x, kind, kernel_size=3), (x,))


def test_regions_larger_than_the_clip() -> None:
    x = torch.randn(1, 2, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    largest = ops.region_aggregate(x, "max", kernel_size=(3, 7, 9))
    torch.testing.assert_close(largest, x.amax((2, 3, 4), keepdim=True).expand_as(x))
    average = ops.region_aggregate(x, "avg", kernel_size=(3, 7, 9))
    torch.testing.assert_close(average, (x.sum((2, 3, 4), keepdim=True) / 189).expand_as(x))


@pytest.mark.parametrize("kind", ["avg", "max"])
def test_no_positions(kind: str) -> None:
    assert ops.region_aggregate(torch.zeros(1, 2, 0, 4, 4), kind, kernel_size=3).shape == (1, 2, 0, 4, 4)


X = torch.zeros(1, 2, 3, 4, 4)
W = torch.zeros(2, 1, 3, 3, 3)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"kind": "median"}, "kind must be one of conv, avg, max, got 'median'"),
        ({"kind": "conv"}, "weight is required with kind 'conv'"),
        ({"kind": "conv", "weight": W, "kernel_size": 5}, r"kernel_size must be that of weight, \(3, 3, 3\)"),
        ({"kind": "avg", "weight": W, "kernel_size": 3}, "weight must be None with kind 'avg'"),
        ({"kind": "max"}, "kernel_size is required with kind 'max'"),
        ({"kind": "max", "kernel_size": (1, 2, 1)}, "kernel_size must be odd and at most 9"),
        ({"kind": "avg", "kernel_size": 11}, "kernel_size must be odd and at most 9"),
        ({"kind": "avg", "kernel_size": 0}, "kernel_size must be at least 1, got 0"),
    ],
)
def test_bad_input(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ops.region_aggregate(X, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to run on")
@pytest.mark.parametrize("kind", ["avg", "max"])
def test_a_backend_that_cannot_run_is_refused(kind: str) -> None:
    with pytest.raises(RuntimeError, match="'cuda'"):
        ops.region_aggregate(X, kind, kernel_size=3, backend="cuda")
    with pytest.raises(RuntimeError, match="'cuda'"), ops.use_backend("cuda"):
        ops.region_aggregate(X, kind, kernel_size=3)
    with pytest.raises(ValueError, match="backend must be one of"):
        ops.region_aggregate(X, kind, kernel_size=3, backend="tpu")


def test_slips_are_told_in_a_line() -> None:
    with pytest.raises(TypeError, match=r"^kind must be a str, got Tensor$"):
        ops.region_aggregate(X, W)
