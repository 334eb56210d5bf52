"""Where attention stands in the networks of the thesis, and what stands there: no count of parameters tells."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vidops.layers import (
    CBAM3d,
    ConvPyramidAttention,
    GlobalContext,
    NonLocal,
    RegionNonLocal,
    SqueezeExcite3d,
)
from vidops.models import create_model

FIVE = ["layer2.0", "layer2.2", "layer3.0", "layer3.2", "layer3.4"]
KINDS = {
    "rnl": RegionNonLocal,
    "nl": NonLocal,
    "cpa": ConvPyramidAttention,
    "se": SqueezeExcite3d,
    "cbam": CBAM3d,
    "gc": GlobalContext,
}


def layers_of(name: str, kind: type[nn.Module], **options: Any) -> dict[str, nn.Module]:
    """The network's layers of a kind by the block that they follow, in the order they run in."""
    with torch.device("meta"):
        net = create_model(name, **options)
    return {
        path.partition(".attention")[0]: module
        for path, module in net.named_modules()
        if isinstance(module, kind) and ".attention" in path
    }


@pytest.mark.parametrize("name", [f"{kind}_tsm_resnet50" for kind in KINDS] + ["rnl_tsm_resnet101"])
def test_the_blocks_they_follow(name: str) -> None:
    kind = KINDS[name.partition("_")[0]]
    assert list(layers_of(name, kind)) == FIVE
    assert list(layers_of(name, kind, num_blocks=1)) == FIVE[:1]


@pytest.mark.parametrize("name", ["rnl_tsm_resnet50", "rnl_tsm_resnet101"])
def test_regions_are_wide_in_res3_alone(name: str) -> None:
    sizes = [layer.region.kernel_size for layer in layers_of(name, RegionNonLocal).values()]  # type: ignore[union-attr]
    assert sizes == [(3, 7, 7)] * 2 + [(3, 3, 3)] * 3


def test_the_default_pyramid_is_the_best_of_table_4_5() -> None:
    for layer in layers_of("cpa_tsm_resnet50", ConvPyramidAttention).values():
        assert layer.kernel_sizes == ((1, 1, 1), (3, 3, 3), (3, 7, 7), (3, 9, 9))


@pytest.mark.parametrize("name,kind", [("tiny_rnl", RegionNonLocal), ("tiny_cpa", ConvPyramidAttention)])
def test_a_chain_weighs_channels_first(name: str, kind: type[nn.Module]) -> None:
    """What a block puts out goes to the squeeze-and-excitation layer, what that puts out to the attention."""
    net = create_model(name, chain=True).eval()
    seen: list[tuple[nn.Module, Tensor, Tensor]] = []

    def keep(module: nn.Module, given: tuple[Tensor], found: Tensor) -> None:
        seen.append((module, given[0], found))

    for module in net.modules():
        if isinstance(module, (SqueezeExcite3d, kind)):
            module.register_forward_hook(keep)
    for module in net.modules():
        if isinstance(module, SqueezeExcite3d):
            nn.init.ones_(module.fc2.bias)
    net(torch.rand(1, 3, 8, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert len(seen) >= 2
    for first, second in zip(seen[::2], seen[1::2], strict=True):
        assert isinstance(first[0], SqueezeExcite3d)
        assert isinstance(second[0], kind)
        assert (first[1] >= 0).all(), "a block ends in a ReLU"
        assert not torch.equal(first[1], first[2])
        assert torch.equal(first[2], second[1])


def test_places_of_ones_own_and_what_is_none() -> None:
    places = ["layer1.0", "layer4.2"]
    assert list(layers_of("rnl_tsm_resnet50", RegionNonLocal, places=places)) == places
    with pytest.raises(ValueError, match=r"^num_blocks must be 1 or 5, got 2; places names any other blocks"):
        create_model("tiny_rnl", num_blocks=2)
    with pytest.raises(TypeError, match=r"^tiny_nl has no option 'chain'; its options are kind"):
        create_model("tiny_nl", chain=True)
