"""The registered operators, which anyone may call, refuse what would read past the end of a tensor.

The public functions have checked a call before, with better messages. Triton's kernels are reached through them alone.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.common import FAST, device_for
from vidops.ops import Projection
from vidops.ops.backends import OPERATORS

native = pytest.mark.parametrize("backend", [b for b in FAST if b != "triton"])


def registered(operator: str, backend: str) -> tuple[Any, Any, str]:
    """An operator's forward and backward, and the device that they run on."""
    device = device_for(backend, operator)
    forward = OPERATORS[operator].kernels[backend].op
    return forward, getattr(getattr(torch.ops, forward.namespace), f"{operator}_backward").default, device


def refused(text: str, function: Any, *arguments: Any) -> None:
    with pytest.raises(RuntimeError, match=text):
        function(*arguments)


@native
def test_temporal_conv(backend: str) -> None:
    forward, backward, device = registered("temporal_conv", backend)
    x, weight, bias = (torch.randn(size, device=device) for size in ((2, 4, 5, 2, 3), (12,), (4,)))
    flat = [4, 3, 1]
    refused("weight must hold 12 elements", forward, x, weight[:5], None, flat, 1, "zeros")
    refused("weight must have the dtype of x", forward, x, weight.double(), None, flat, 1, "zeros")
    refused("bias must hold 4 elements", forward, x, weight, bias[:2], flat, 1, "zeros")
    refused("groups must hold as many channels", forward, x, weight[:9], None, [3, 3, 1], 1, "zeros")
    refused("stride must be at least 1", forward, x, weight, None, flat, 0, "zeros")
    short = x[:, :, :3]
    refused("grad must have size 5 in dimension 2", backward, short, x, weight, flat, 1, "zeros", *[True] * 3)


@native
def test_temporal_shift(backend: str) -> None:
    forward, _, device = registered("temporal_shift", backend)
    refused("fold must be from 0 to C/2", forward, torch.randn(2, 4, 5, 2, 3, device=device), 3)


@native
def test_motion_band_pass(backend: str) -> None:
    forward, backward, device = registered("motion_band_pass", backend)
    x, spatial, temporal = (torch.randn(size, device=device) for size in ((1, 3, 6, 5, 5), (3, 3, 3), (3, 3)))
    for arguments, text in (
        ((x[0], spatial, temporal, 3, "valid"), "x must be a clip"),
        ((x, spatial[:2], temporal, 3, "valid"), "spatial must have shape"),
        ((x, spatial[:, :2, :2], temporal, 3, "valid"), "spatial must have shape"),
        ((x, spatial.double(), temporal, 3, "valid"), "spatial must have the dtype of x"),
        ((x, spatial, temporal[:, :2], 3, "valid"), "temporal must hold 9 elements"),
        ((x, spatial, temporal, 0, "valid"), "stride must be at least 1"),
        ((x, spatial, temporal, 3, "zeros"), "temporal_padding must be"),
        ((x[..., :1], spatial, temporal, 3, "valid"), "reflect"),
        ((x[:, :, :2], spatial, temporal, 3, "valid"), "at least 3 frames"),
    ):
        refused(text, forward, *arguments, False)
    rest = (x, spatial, temporal, 3, "valid", True, True, True)
    refused("grad must have size 2 in dimension 2", backward, x, None, *rest)
    refused("grad_quiet must have size 2 in dimension 2", backward, None, x, *rest)


@native
def test_temporal_descriptor(backend: str) -> None:
    forward, backward, device = registered("temporal_descriptor", backend)
    x, grad = (torch.randn(size, device=device) for size in ((1, 3, 4, 2, 2), (1, 6, 2, 2)))
    refused("features must be a clip", forward, x[0])
    refused(r"grad must have shape \(N, T\(T-1\)/2, h, w\)", backward, grad[0], x)
    refused(r"grad must have shape \(N, T\(T-1\)/2, h, w\)", backward, grad[:, :5], x)
    refused("grad must have the dtype of features", backward, grad.double(), x)


@native
def test_temporal_projection(backend: str) -> None:
    forward, backward, device = registered("temporal_projection", backend)
    x, basis = torch.zeros(2, 3, 6, 5, 4, device=device), torch.zeros(2, 6, 2, 3, 2, device=device)
    for given, text in (
        ((x[0], basis), "x must be a clip"),
        ((x[:, :0], basis), "x must have channels and pixels"),
        ((x, basis[0]), r"basis must be \(N, T, D, h, w\)"),
        ((x, basis[:, :5]), r"basis must be \(N, T, D, h, w\)"),
        ((x, basis.double()), "basis must have the dtype of x"),
        ((x, basis.new_zeros(2, 6, 6, 3, 2)), "basis must have 1 to 16 columns, fewer than frames"),
        ((x, basis.new_zeros(2, 6, 2, 6, 2)), "basis must have a grid"),
    ):
        refused(text, forward, *given, 0.0, 63)
        refused(text, backward, *[None] * 6, *given, 0.0, True, True)
    shapes = ((2, 2, 3, 5, 4), x.shape, x.shape, (2, 3, 5, 4), (2,), (2,))
    for i, (name, shape) in enumerate(zip(Projection._fields, shapes, strict=True)):
        grads: list[Tensor | None] = [None] * 6
        grads[i] = torch.zeros(*shape[:-1], shape[-1] + 1, device=device)
        refused(f"grad_{name} must have", backward, *grads, x, basis, 0.0, True, True)


@native
def test_pathway_select(backend: str) -> None:
    forward, backward, device = registered("pathway_select", backend)
    x, logits = torch.zeros(2, 3, 4, 2, 2, device=device), torch.zeros(2, 2, 3, 4, device=device)
    for paths, given, text in (
        ([], logits, "paths must hold 1 to 8 clips, got 0"),
        ([x] * 9, logits, "paths must hold 1 to 8 clips, got 9"),
        ([x[0], x[0]], logits, "each of paths must be a clip"),
        ([x, x[..., :1]], logits, r"each of paths must have the shape of paths\[0\]"),
        ([x, x.double()], logits, r"each of paths must have the dtype of paths\[0\]"),
        ([x, x], logits[0], "logits must be"),
        ([x, x], logits[..., :3], "logits must be"),
        ([x, x, x], logits, "logits must be"),
        ([x, x], logits.double(), "logits must have the dtype of paths"),
    ):
        refused(text, forward, paths, given)
        refused(text, backward, x, paths, given)
    refused(r"grad must have the shape of paths\[0\]", backward, x[:1], [x, x], logits)
    refused(r"grad must have the dtype of paths\[0\]", backward, x.double(), [x, x], logits)
