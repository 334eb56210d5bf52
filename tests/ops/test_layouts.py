"""Clips of one pixel a frame, where NTCHW and NTHWC are the same memory."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.ops.common import FAST, device_for, in_layout
from vidops import ops
from vidops.ops.layouts import clip_strides

C = 6
TAPS = torch.linspace(-1, 1, 3 * C, dtype=torch.float64).view(C, 3)
OPERATORS: dict[str, Callable[..., Tensor]] = {
    "depthwise_conv3d": lambda x, **b: ops.depthwise_conv3d(x, TAPS.to(x).view(C, 1, 3, 1, 1), **b),
    "motion_band_pass": lambda x, **b: ops.motion_band_pass(
        x, torch.ones_like(x[0, :, :1, 0]), TAPS.to(x), stride=1, temporal_padding="replicate", **b
    ),
    "resize": lambda x, **b: ops.resize(x.expand(-1, -1, -1, 2, 2), 1, **b),
    "temporal_conv": lambda x, **b: ops.temporal_conv(x, [TAPS.to(x).unsqueeze(1)], **b),
    "temporal_shift": functools.partial(ops.temporal_shift, fold_div=3),
}
LAYOUTS = ["NCTHW", "NTCHW", "NTHWC"]


def clip(layout: str, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return in_layout(torch.randn(2, C, 4, 1, 1, generator=g, dtype=torch.float64), layout)


def normal(x: Tensor) -> Tensor:
    """What a new batch norm makes of a clip in training."""
    return (x - x.mean((0, 2, 3, 4), keepdim=True)) / (x.var((0, 2, 3, 4), False, keepdim=True) + 1e-5).sqrt()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_of_one_pixel_are_of_one_memory_format(layout: str) -> None:
    """A view of ones would be channels last by its sizes, and not by its strides."""
    given = torch.empty_strided((2, C, 4, 1, 1), clip_strides((2, C, 4, 1, 1), layout))
    last = given.is_contiguous(memory_format=torch.channels_last_3d)
    assert last == (layout != "NCTHW")
    assert given.is_contiguous() == (not last)
    assert torch.empty_like(given).stride() == given.stride()


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("grad_layout", LAYOUTS)
def test_batch_norm_behind(operator: str, backend: str, layout: str, grad_layout: str) -> None:
    """PyTorch 2.13's batch norm returns another gradient on the CPU where the two memory formats are mistaken."""
    device = device_for(backend, operator)
    x, grad = clip(layout, 0).to(device).requires_grad_(), clip(grad_layout, 1).to(device)
    grad = grad.new_empty_strided(grad.shape, clip_strides((2, C, 4, 1, 1), grad_layout)).copy_(grad)
    y = OPERATORS[operator](x, backend=backend)
    assert y.stride() == clip_strides((2, C, 4, 1, 1), layout)
    (expected,) = torch.autograd.grad(normal(y), y, grad, retain_graph=True)
    (found,) = torch.autograd.grad(nn.BatchNorm3d(C).double().to(device)(y), y, grad)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
