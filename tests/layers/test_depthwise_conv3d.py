from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

from vidops.layers import DepthwiseConv3d


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1, "stride": (1, 2, 2), "bias": False},
        {"kernel_size": (5, 1, 1), "padding": (2, 0, 0)},
        {"kernel_size": (3, 5, 3), "padding": "same", "dilation": (1, 2, 1)},
        {"kernel_size": 3, "padding": "valid"},
    ],
)
def test_it_is_a_conv3d(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer = DepthwiseConv3d(6, 6, **options)
    torch.manual_seed(0)
    plain = nn.Conv3d(6, 6, groups=6, **options)
    assert isinstance(layer, nn.Conv3d)
    assert list(layer.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), plain.parameters(), strict=True))
    x = torch.randn(2, 6, 5, 9, 8)
    torch.testing.assert_close(layer(x), plain(x))
    torch.testing.assert_close(layer(x[0]), plain(x[0]))
    torch.testing.assert_close(DepthwiseConv3d(6, 6, **options, backend="reference")(x).shape, plain(x).shape)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"in_channels": 0, "out_channels": 0}, "in_channels must be at least 1, got 0"),
        ({"out_channels": 8}, "out_channels must be in_channels, 4, got 8"),
        ({"groups": 2}, "groups must be in_channels, 4, or None, got 2"),
        ({"padding_mode": "reflect"}, "padding_mode must be 'zeros', got 'reflect'"),
        ({"kernel_size": (3, 2, 3)}, "kernel_size must be odd and at most 9"),
        ({"kernel_size": 11}, "kernel_size must be odd and at most 9"),
        ({"kernel_size": (3, 3)}, "kernel_size must be odd and at most 9, one int or three"),
    ],
)
def test_bad_arguments(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        DepthwiseConv3d(**({"in_channels": 4, "out_channels": 4, "kernel_size": 3} | options))


def test_repr_names_the_backend() -> None:
    assert "groups=4, backend='reference'" in repr(DepthwiseConv3d(4, 4, 3, backend="reference"))


@pytest.mark.parametrize("shape", [(1, 5, 3, 4, 4), (5, 3, 4, 4), (4, 3, 4), (1, 1, 4, 3, 4, 4)])
def test_bad_clips_are_told_by_their_own_shape(shape: tuple[int, ...]) -> None:
    text = re.escape(f"clip must be (N, 4, T, H, W) or (4, T, H, W), got {shape}")
    with pytest.raises(ValueError, match=text):
        DepthwiseConv3d(4, 4, 3)(torch.rand(shape))
