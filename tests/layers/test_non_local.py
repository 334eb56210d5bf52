"""The non-local and the region-based block against their equations, pair by pair."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.layers.attention import clips, stirred
from vidops.layers import NonLocal, RegionNonLocal
from vidops.layers.non_local import KINDS, AttentionBlock

each_kind = pytest.mark.parametrize("kind", KINDS)


def pointwise(conv: nn.Conv3d, rows: Tensor) -> Tensor:
    """A 1x1x1 convolution of rows, one a position."""
    return rows @ conv.weight.flatten(1).T + conv.bias


def rows_of(clip: Tensor) -> Tensor:
    return clip.flatten(1).T


def weights(layer: AttentionBlock, query: Tensor, key: Tensor) -> Tensor:
    """Eq. 4.1 with its instantiations, and eq. 4.5 to 4.7: all pairs, normalised."""
    if layer.kind == "gaussian":
        return (query @ key.T * (layer.scale or 1)).softmax(1)
    if layer.kind == "dot":
        return query @ key.T / len(key)
    if layer.kind == "cosine":
        return F.cosine_similarity(query[:, None], key[None], dim=2).clamp(min=0) / len(key)
    pairs = (query @ layer.query_weight)[:, None] + (key @ layer.key_weight)[None]
    return pairs.clamp(min=0) / len(key)


def finished(layer: AttentionBlock, rows: Tensor, x: Tensor) -> Tensor:
    """What a block makes of what each position gathered: eq. 4.8, with the batch norm."""
    norm, z = layer.norm, pointwise(layer.out, rows)
    z = (z - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    return x + z.T.view(x.shape)


@each_kind
@pytest.mark.parametrize("options", [{}, {"embed": False}, {"pool": True, "inner_channels": 3}], ids=str)
def test_non_local_is_the_definition(kind: str, options: dict[str, Any]) -> None:
    layer, x = stirred(NonLocal(6, kind, **options)), clips(2, 6)
    for clip, found in zip(x, layer(x), strict=True):
        rows = rows_of(clip)
        query, key, value = (
            rows if conv is None else pointwise(conv, rows) for conv in (layer.theta, layer.phi, layer.g)
        )
        if layer.pool:
            key, value = (rows_of(F.max_pool3d(v.T.view(-1, 4, 6, 5), (1, 2, 2))) for v in (key, value))
        expected = finished(layer, weights(layer, query, key) @ value, clip)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def by_convolution(layer: RegionNonLocal, value: Tensor) -> Tensor:
    return F.conv3d(value, layer.region.weight, padding=(1, 2, 2), groups=len(value))


REGIONS: dict[str, Callable[[RegionNonLocal, Tensor], Tensor]] = {
    "conv": by_convolution,
    "avg": lambda layer, value: F.avg_pool3d(value, (3, 5, 5), 1, (1, 2, 2)),
    "max": lambda layer, value: F.max_pool3d(value, (3, 5, 5), 1, (1, 2, 2)),
}


@each_kind
@pytest.mark.parametrize("aggregate", REGIONS)
def test_region_non_local_is_the_definition(kind: str, aggregate: str) -> None:
    layer = stirred(RegionNonLocal(6, kind, aggregate=aggregate, kernel_size=(3, 5, 5)))
    x = clips(2, 6)
    for clip, found in zip(x, layer(x), strict=True):
        value = pointwise(layer.g, rows_of(clip))
        regions = rows_of(REGIONS[aggregate](layer, value.T.view(-1, 4, 6, 5)))
        expected = finished(layer, weights(layer, regions, regions) @ value, clip)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_scale() -> None:
    x = clips(1, 6)
    for make in (NonLocal, RegionNonLocal):
        plain, scaled = (stirred(make(6, scale=scale)) for scale in (None, 0.1))
        assert not torch.allclose(plain(x), scaled(x))
        torch.testing.assert_close(stirred(make(6, scale=1.0))(x), plain(x))
        query, key, value = scaled.embed(x)
        gathered = weights(scaled, *(rows_of(v[0]) for v in (query, key))) @ rows_of(value[0])
        torch.testing.assert_close(scaled(x)[0], finished(scaled, gathered, x[0]), rtol=1e-10, atol=1e-10)


@each_kind
def test_attention_maps_are_rows_of_the_weights(kind: str) -> None:
    x = clips(2, 6)
    for layer in (stirred(NonLocal(6, kind, pool=True)), stirred(RegionNonLocal(6, kind))):
        maps = layer.attention_map(x, (1, 4, 2))
        query, key, _ = layer.embed(x)
        assert maps.shape == (2, *key.shape[2:])
        for i in range(2):
            row = weights(layer, rows_of(query[i]), rows_of(key[i]))[1 * 30 + 4 * 5 + 2]
            torch.testing.assert_close(maps[i].flatten(), row, rtol=1e-10, atol=1e-12)


def test_parameters() -> None:
    """C/2 for query, key and value; the region's kernel is counted once, without a mask."""
    for channels, taps, size in ((512, 147, (3, 7, 7)), (1024, 27, 3)):
        with torch.device("meta"):
            layers = NonLocal(channels), RegionNonLocal(channels, kernel_size=size)
            pooled = RegionNonLocal(channels, aggregate="max", kernel_size=size)
        inner, norm = channels // 2, 2 * channels
        projections = [3 * channels * inner + 3 * inner, channels * inner + inner]
        out = inner * channels + channels
        counts = [sum(p.numel() for p in layer.parameters()) for layer in (*layers, pooled)]
        assert counts == [
            projections[0] + out + norm,
            projections[1] + taps * inner + out + norm,
            projections[1] + out + norm,
        ]
    assert NonLocal(6, "concatenation").query_weight.shape == (3,)
    assert NonLocal(6, "concatenation", embed=False).key_weight.shape == (6,)
