"""Squeeze and excitation, and the baselines of the thesis' table 4.6, against their equations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.layers.attention import clips, stirred
from vidops.layers import AttentionChain, CBAM3d, ConvPyramidAttention, GlobalContext, SqueezeExcite3d


def linear(module: nn.Linear, v: Tensor) -> Tensor:
    return module.weight @ v + (0 if module.bias is None else module.bias)


def excited(layer: SqueezeExcite3d, x: Tensor) -> Tensor:
    """Eq. 4.12 and 4.13 of one clip."""
    squeezed = torch.stack([channel.sum() / channel.numel() for channel in x])
    hidden, norm = linear(layer.fc1, squeezed), layer.norm
    hidden = (hidden - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    return linear(layer.fc2, hidden.clamp(min=0))


@pytest.mark.parametrize("form", ["add", "gate"])
def test_squeeze_and_excitation_is_the_definition(form: str) -> None:
    layer, x = stirred(SqueezeExcite3d(32, 4, form=form)), clips(2, 32)
    for clip, found in zip(x, layer(x), strict=True):
        s = excited(layer, clip)[:, None, None, None]
        expected = clip + s if form == "add" else clip * 2 / (1 + torch.exp(-s))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_chain_is_channels_first() -> None:
    chain, x = stirred(AttentionChain(8, ConvPyramidAttention())), clips()
    excited = chain.squeeze_excite(x)
    torch.testing.assert_close(chain(x), excited * chain.attention.gains(excited), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [True, False])
def test_cbam_is_the_definition(scale: bool) -> None:
    layer, x = stirred(CBAM3d(8, 1, kernel_size=(1, 3, 5), scale=scale)), clips()
    gain = 2 if scale else 1

    def mlp(v: Tensor) -> Tensor:
        return linear(layer.fc2, linear(layer.fc1, v).clamp(min=0))

    for i, clip in enumerate(x):
        mean, largest = clip.flatten(1).mean(1), clip.flatten(1).max(1).values
        gated = clip * (gain * torch.sigmoid(mlp(mean) + mlp(largest)))[:, None, None, None]
        pooled = torch.stack([gated.mean(0), gated.max(0).values])[None]
        seen = F.conv3d(pooled, layer.conv.weight, padding=(0, 1, 2))
        norm = layer.norm
        seen = (seen - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
        torch.testing.assert_close(
            layer(x)[i], gated * (gain * torch.sigmoid(seen[0])), rtol=1e-11, atol=1e-11
        )


def test_global_context_is_the_definition() -> None:
    layer, x = stirred(GlobalContext(8, 1)), clips()
    for clip, found in zip(x, layer(x), strict=True):
        rows = clip.flatten(1)
        shares = (layer.mask.weight.flatten() @ rows).exp()
        context = rows @ (shares / shares.sum())
        hidden = F.layer_norm(linear(layer.fc1, context), (8,), layer.norm.weight, layer.norm.bias)
        added = linear(layer.fc2, hidden.clamp(min=0))
        torch.testing.assert_close(found, clip + added[:, None, None, None], rtol=1e-12, atol=1e-12)


def test_hidden_units() -> None:
    for make in (SqueezeExcite3d, CBAM3d, GlobalContext):
        assert [make(channels).fc1.out_features for channels in (8, 64, 512)] == [4, 4, 32]
