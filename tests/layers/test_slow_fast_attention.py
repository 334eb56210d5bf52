"""The four attention modules against the slides' figures, position by position, and what sees time in them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.layers.attention import clips, stirred
from vidops.layers import SlowFastAttention, SlowFastSelfAttention


def along_time(x: Tensor, weight: Tensor) -> Tensor:
    """A convolution over the frames of each position: zeros beyond the clip."""
    frames, reach = x.shape[1], weight.shape[2] // 2
    out = x.new_zeros(len(weight), *x.shape[1:])
    for t in range(frames):
        for tap in range(weight.shape[2]):
            source = t + tap - reach
            if 0 <= source < frames:
                out[:, t] += torch.einsum("oc,chw->ohw", weight[:, :, tap, 0, 0], x[:, source])
    return out


def by_hand(module: SlowFastSelfAttention, clip: Tensor) -> Tensor:
    """One clip ``(C, T, H, W)``: each frame, or each place, by itself."""
    q, k, v = (along_time(clip, conv.weight) for conv in (module.query, module.key, module.value))
    gathered = torch.empty_like(v)
    _, frames, height, width = v.shape
    if module.over == "space":
        for t in range(frames):
            weights = torch.softmax(q[:, t].flatten(1).T @ k[:, t].flatten(1), 1)
            gathered[:, t] = (v[:, t].flatten(1) @ weights.T).unflatten(1, (height, width))
    else:
        for y in range(height):
            for x in range(width):
                weights = torch.softmax(q[:, :, y, x].T @ k[:, :, y, x], 1)
                gathered[:, :, y, x] = v[:, :, y, x] @ weights.T
    weight, bias = module.out.weight[:, :, 0, 0, 0], module.out.bias
    return module.gamma * (torch.einsum("oc,cthw->othw", weight, gathered) + bias[:, None, None, None])


@pytest.mark.parametrize("frames", [7, 1])
@pytest.mark.parametrize("over", ["space", "time"])
def test_a_module_is_the_definition(over: str, frames: int) -> None:
    module, x = stirred(SlowFastSelfAttention(6, 24, over, frames)), clips(2, 6, 9, 3, 2)
    assert [tuple(conv.weight.shape) for conv in (module.query, module.value, module.out)] == [
        (3, 6, frames, 1, 1),
        (24, 6, frames, 1, 1),
        (6, 24, 1, 1, 1),
    ]
    for clip, found in zip(x, module(x), strict=True):
        torch.testing.assert_close(found, by_hand(module, clip), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_layer_adds_its_modules_to_the_clip(layer_norm: bool) -> None:
    layer, x = stirred(SlowFastAttention(6, 16, layer_norm=layer_norm)), clips(1, 6)
    seen = x
    if layer_norm:
        mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, correction=0)
        weight, bias = (p[:, None, None, None] for p in (layer.norm.weight, layer.norm.bias))
        seen = (x - mean) / (var + 1e-5).sqrt() * weight + bias
    assert list(layer.branches) == ["space_slow", "space_fast", "time_slow", "time_fast"]
    assert [(b.over, b.frames) for b in layer.branches.values()] == [
        ("space", 7),
        ("space", 1),
        ("time", 7),
        ("time", 1),
    ]
    expected = x[0] + sum(by_hand(branch, seen[0]) for branch in layer.branches.values())
    torch.testing.assert_close(layer(x)[0], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_new_layer_returns_what_it_is_given(layer_norm: bool) -> None:
    layer, x = SlowFastAttention(6, 16, layer_norm=layer_norm), clips(1, 6).float()
    assert torch.equal(layer(x), x)
    layer(x).sum().backward()
    assert all(branch.gamma.grad.abs() > 0 for branch in layer.branches.values())  # and learns


@pytest.mark.parametrize(
    ("options", "branches"),
    [
        ({"tsfa": False}, ["space_slow", "space_fast"]),
        ({"ssfa": False}, ["time_slow", "time_fast"]),
        ({"ssfa": "fast", "tsfa": "slow"}, ["space_fast", "time_slow"]),
    ],
)
def test_the_modules_that_are_asked_for(options: dict[str, Any], branches: list[str]) -> None:
    assert list(SlowFastAttention(8, 16, **options).branches) == branches


@pytest.mark.parametrize(
    ("options", "sees"),
    [
        ({"ssfa": "fast", "tsfa": False}, "frames"),
        ({"ssfa": "fast", "tsfa": "fast"}, "sets"),
        ({"ssfa": False, "tsfa": "fast"}, "sets"),
        ({"ssfa": "slow", "tsfa": False}, "order"),
        ({"ssfa": False, "tsfa": "slow"}, "order"),
    ],
)
def test_what_sees_time(options: dict[str, Any], sees: str) -> None:
    """Frames one by one, as a set, or in their order: what the docstring says of each module."""
    layer, x = stirred(SlowFastAttention(6, 16, layer_norm=True, **options)), clips(1, 6, 8)
    shuffle = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    y = layer(x)
    alone = layer(x[:, :, 2:3])
    assert torch.allclose(layer(x[:, :, shuffle]), y[:, :, shuffle], rtol=1e-10, atol=1e-10) == (
        sees != "order"
    )
    assert torch.allclose(alone, y[:, :, 2:3], rtol=1e-10, atol=1e-10) == (sees == "frames")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"channels": 0}, "channels must be a whole number of at least 1, got 0"),
        ({"attention_dim": 0}, "attention_dim must be a whole number of at least 1, got 0"),
        ({"attention_dim": 4.0}, r"attention_dim must be a whole number of at least 1, got 4\.0"),
        ({"ssfa": "both"}, "ssfa must be True, False, 'slow' or 'fast', got 'both'"),
        ({"tsfa": None}, "tsfa must be True, False, 'slow' or 'fast', got None"),
        ({"ssfa": False, "tsfa": False}, "ssfa or tsfa must be given, got neither"),
        ({"layer_norm": 1}, "layer_norm must be True or False, got 1"),
        ({"backend": "gpu"}, "backend must be one of"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}"):
        SlowFastAttention(**{"channels": 8, "attention_dim": 16, **arguments})


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"over": "all"}, "over must be one of space, time, got 'all'"),
        ({"frames": 4}, "frames must be odd, got 4"),
        ({"frames": 0}, "frames must be a whole number of at least 1, got 0"),
    ],
)
def test_bad_arguments_of_a_module_are_named(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}"):
        SlowFastSelfAttention(8, 16, **arguments)


def test_few_channels_leave_one_for_queries() -> None:
    module = SlowFastSelfAttention(4, 4)
    assert module.query.out_channels == 1
    assert module(torch.rand(1, 4, 2, 3, 3)).shape == (1, 4, 2, 3, 3)


def test_values_are_gathered_in_parts_where_a_kernel_takes_no_more() -> None:
    module = stirred(SlowFastSelfAttention(6, 24, "space", 7))
    query, key, values = (conv(clips(2, 6)) for conv in (module.query, module.key, module.value))
    whole = module.gather(query, key, values, 24)
    torch.testing.assert_close(module.gather(query, key, values, 10), whole, rtol=1e-12, atol=1e-12)
