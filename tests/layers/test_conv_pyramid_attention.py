from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.layers.attention import clips, stirred
from vidops.layers import ConvPyramidAttention
from vidops.models import create_model

# The pyramids of table 4.5.
PYRAMIDS = [
    ((1, 1, 1),),
    ((3, 3, 3),),
    ((3, 7, 7),),
    ((3, 9, 9),),
    ((3, 3, 3), (3, 7, 7)),
    ((1, 1, 1), (3, 3, 3), (3, 7, 7)),
    ((1, 1, 1), (3, 3, 3), (3, 7, 7), (3, 9, 9)),
]


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("pyramid", PYRAMIDS, ids=str)
def test_is_the_definition(pyramid: tuple[tuple[int, int, int], ...], scale: bool) -> None:
    """Eq. 4.10 and 4.11, each convolution on its own."""
    layer, x = stirred(ConvPyramidAttention(pyramid, scale=scale)), clips(h=7, w=9)
    seen = 0
    for weight, size in zip(layer.weights, pyramid, strict=True):
        assert weight.shape == (1, 1, *size)
        seen = seen + F.conv3d(x.mean(1, keepdim=True), weight, padding=[k // 2 for k in size])
    gains = seen.flatten(1).softmax(1).view(seen.shape) * (seen[0].numel() if scale else 1)
    torch.testing.assert_close(layer(x), x * gains, rtol=1e-11, atol=1e-11)


def test_mean_gain() -> None:
    x = clips(h=7, w=9)
    gains = stirred(ConvPyramidAttention()).gains(x)
    torch.testing.assert_close(gains.mean((1, 2, 3, 4)), torch.ones(2, dtype=torch.float64))
    bare = stirred(ConvPyramidAttention(scale=False)).gains(x)
    torch.testing.assert_close(bare.sum((1, 2, 3, 4)), torch.ones(2, dtype=torch.float64))
    new = ConvPyramidAttention(scale=False).double()
    torch.testing.assert_close(new(x), x / 252)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_gains_of_one_are_exact_for_any_number_of_positions(dtype: torch.dtype) -> None:
    layer = ConvPyramidAttention(((1, 1, 1),)).to(dtype)
    for positions in (1, 3, 7, 49, 6_272, 70_001):
        x = torch.ones(1, 2, 1, 1, positions, dtype=dtype)
        assert torch.equal(layer.gains(x).unique(), torch.ones(1))
        assert torch.equal(layer(x), x)


def test_a_gain_that_half_precision_cannot_hold() -> None:
    """One of 70,000 positions takes all the weight: x is multiplied before the product is rounded."""
    layer = ConvPyramidAttention(((1, 1, 1),)).half()
    torch.nn.init.constant_(layer.weights[0], 1e4)
    x = torch.zeros(1, 2, 1, 1, 70_000, dtype=torch.float16)
    x[..., 7] = 0.25
    assert torch.equal(layer(x), 70_000 * x)


def test_largest_sizes_by_axis() -> None:
    """No one convolution is the largest along every axis."""
    layer, x = stirred(ConvPyramidAttention(((5, 1, 1), (1, 3, 7)))), clips(h=7, w=9)
    assert layer.merged().shape == (1, 1, 5, 3, 7)
    mean = x.mean(1, keepdim=True)
    seen = F.conv3d(mean, layer.weights[0], padding=(2, 0, 0)) + F.conv3d(
        mean, layer.weights[1], padding=(0, 1, 3)
    )
    torch.testing.assert_close(
        F.conv3d(mean, layer.merged(), padding=(2, 1, 3)), seen, rtol=1e-12, atol=1e-12
    )


def test_large_logits() -> None:
    layer = ConvPyramidAttention(((1, 1, 1),)).double()
    torch.nn.init.constant_(layer.weights[0], 1e4)
    gains = layer.gains(clips())
    assert gains.isfinite().all()
    torch.testing.assert_close(gains.amax((1, 2, 3, 4)), torch.full((2,), 120.0, dtype=torch.float64))


def test_kernels_are_triples_or_cubes() -> None:
    sizes = ConvPyramidAttention([1, (3, 7, 7), [5, 3, 3]]).kernel_sizes
    assert sizes == ((1, 1, 1), (3, 7, 7), (5, 3, 3))
    assert ConvPyramidAttention([3, 5]).kernel_sizes == ((3, 3, 3), (5, 5, 5))
    assert create_model("tiny_cpa", kernel_sizes=[[3, 7, 7]]).layer2[0].attention.layer.kernel_sizes == (
        (3, 7, 7),
    )


@pytest.mark.parametrize("given", [(3, 7, 7), [3, 7, 7], (3, 3, 3)])
def test_three_ints_may_be_one_kernel_or_three_and_are_refused(given: Any) -> None:
    t, h, w = given
    text = (
        f"{given!r} may be one kernel, [({t}, {h}, {w})], or three cubes, [({t}, {t}, {t}), ({h}, {h}, {h}), "
    )
    for make in (ConvPyramidAttention, partial(create_model, "tiny_cpa")):
        with pytest.raises(ValueError, match=f"^kernel_sizes must be a list of kernels.*{re.escape(text)}"):
            make(kernel_sizes=given)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (3, r"such as \[\(3, 7, 7\)\], got 3; ConvPyramidAttention takes no channels$"),
        ((), r"got \(\)$"),
        (None, "got None$"),
        ("377", "got '377'$"),
        (((3, 3),), r"odd and at most 9, got \(3, 3\)$"),
        (((3, 11, 11),), r"odd and at most 9, got \(3, 11, 11\)$"),
        ([True, 3], "odd and at most 9, got True$"),
    ],
)
def test_what_is_no_pyramid_is_told(given: Any, text: str) -> None:
    with pytest.raises(
        ValueError, match=f"^kernel_sizes must be a list of kernels, each .kt, kh, kw. or an int.*{text}"
    ):
        ConvPyramidAttention(given)
