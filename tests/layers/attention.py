"""What the tests of the attention layers share: every layer, and networks to put them into."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vidops.layers import (
    AttentionChain,
    CBAM3d,
    ConvPyramidAttention,
    GlobalContext,
    NonLocal,
    RegionNonLocal,
    SlowFastAttention,
    SqueezeExcite3d,
)

Make = Callable[..., nn.Module]
# Made for a number of channels; each starts as the identity.
WITHOUT_PAIRS: dict[str, Make] = {
    "SE": SqueezeExcite3d,
    "SE gate": lambda channels, **k: SqueezeExcite3d(channels, form="gate", **k),
    "CPA": lambda channels, **k: ConvPyramidAttention(**k),
    "CBAM": CBAM3d,
    "GC": GlobalContext,
    "SE+CPA": lambda channels, **k: AttentionChain(channels, ConvPyramidAttention(**k), **k),
}
WITH_PAIRS: dict[str, Make] = {
    "NL": NonLocal,
    "NL pooled": lambda channels, **k: NonLocal(channels, "dot", pool=True, **k),
    "NL concatenation": lambda channels, **k: NonLocal(channels, "concatenation", **k),
    "RNL": lambda channels, **k: RegionNonLocal(channels, **k),
    "RNL cosine of averages": lambda channels, **k: RegionNonLocal(
        channels, "cosine", aggregate="avg", kernel_size=3, **k
    ),
    "SSFA+TSFA": lambda channels, **k: SlowFastAttention(channels, 16, **k),
    "TSFA of LN": lambda channels, **k: SlowFastAttention(channels, 16, ssfa=False, layer_norm=True, **k),
    "SE+RNL": lambda channels, **k: AttentionChain(channels, RegionNonLocal(channels, **k), **k),
}
LAYERS = {**WITHOUT_PAIRS, **WITH_PAIRS}


def clips(n: int = 2, c: int = 8, t: int = 4, h: int = 6, w: int = 5, **options: Any) -> Tensor:
    """Clips of normal values."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(n, c, t, h, w, generator=generator, dtype=torch.float64).to(
        **{"dtype": torch.float64, **options}
    )


@torch.no_grad()
def stirred(layer: nn.Module) -> nn.Module:
    """A layer in fp64 and evaluation mode, none of whose parameters and statistics is at its first value."""
    generator, layer = torch.Generator().manual_seed(5), layer.double().eval()
    for name, value in [*layer.named_parameters(), *layer.named_buffers()]:
        if value.is_floating_point():
            noise = torch.rand(value.shape, generator=generator, dtype=torch.float64)
            value.copy_(0.5 + noise if "norm" in name or "var" in name else noise - 0.5)
    return layer
