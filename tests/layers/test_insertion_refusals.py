"""What insert_after and remove_inserted refuse, by the argument's name, and what they leave alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vidops.layers import (
    AttentionChain,
    ConvPyramidAttention,
    GlobalContext,
    KeyPointShiftEmbedding,
    NonLocal,
    RegionNonLocal,
    SqueezeExcite3d,
    insert_after,
    remove_inserted,
)
from vidops.models import create_model

MAKES = "layer must be a class or function that makes a module for a number of channels"


@pytest.mark.parametrize(
    ("layer", "error", "text"),
    [
        (NonLocal(8), TypeError, rf"^{MAKES}, got a module: give lambda channels: NonLocal\(\.\.\.\)"),
        ("SE", TypeError, f"^{MAKES}, got 'SE'"),
        (None, TypeError, f"^{MAKES}, got None"),
        (
            AttentionChain,
            TypeError,
            rf"^{MAKES}, but AttentionChain .*argument: 'attention'.*lambda channels: AttentionChain\(channels, ",
        ),
        (lambda: GlobalContext(8), TypeError, f"^{MAKES}, but <lambda> .*too many positional arguments"),
        (
            ConvPyramidAttention,
            ValueError,
            "^kernel_sizes must be .* ConvPyramidAttention takes no channels$",
        ),
        (lambda channels: channels, ValueError, "^layer must make modules, made int$"),
    ],
)
def test_what_makes_no_layer_is_told(layer: Any, error: type[Exception], text: str) -> None:
    net = create_model("tiny_tsm")
    before = list(net.state_dict())
    with pytest.raises(error, match=text):
        insert_after(net, ["layer2.0", "layer3.0"], layer)
    assert list(net.state_dict()) == before


@pytest.mark.parametrize(
    ("names", "error", "text"),
    [
        ("fc", ValueError, r"^names: fc is a Linear, which puts out no clips \(N, C, T, H, W\) or frames"),
        ("", ValueError, "^names: TSM has no module ''; there are layer1"),
        (
            "_orig_mod.layer2.0",
            ValueError,
            r"has no module '_orig_mod\.layer2\.0'; did you mean layer2\.0\?$",
        ),
        (3, TypeError, "^names must be a str or a list of them, got int$"),
        (["layer2.0", 1], TypeError, "^names must be a str or a list of them, got int$"),
    ],
)
def test_places_that_are_none(names: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        insert_after(create_model("tiny_tsm"), names, SqueezeExcite3d, channels=8)


def test_compiled_networks_and_parts_of_them() -> None:
    net = create_model("tiny_tsm")
    with pytest.raises(TypeError, match=r"^network is compiled: insert before torch\.compile .*_orig_mod"):
        insert_after(torch.compile(net), "layer2.0", SqueezeExcite3d)
    outer = nn.Sequential(torch.compile(net))
    with pytest.raises(ValueError, match=r"did you mean 0\._orig_mod\.layer2\.0|_orig_mod"):
        insert_after(outer, "0.layer2.0", SqueezeExcite3d)
    with pytest.raises(ValueError, match=r"^names: 0\._orig_mod\.layer2\.0 is inside a compiled module"):
        insert_after(outer, "0._orig_mod.layer2.0", SqueezeExcite3d)
    with pytest.raises(TypeError, match=r"^network must be an nn\.Module, got str"):
        insert_after("layer2.0", net, SqueezeExcite3d)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^network must be an nn\.Module, got str"):
        remove_inserted("layer2.0")  # type: ignore[arg-type]


class Shared(nn.Module):
    """A network whose one activation serves maps of 4 and, unless told otherwise, of 6 channels."""

    def __init__(self, second: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv3d(3, 4, 1), nn.Conv3d(4, second, 1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.second(self.relu(self.first(x))))


def test_a_module_that_is_called_twice_has_the_layer_each_time() -> None:
    x = torch.rand(2, 3, 2, 4, 4)
    net = Shared(4)
    calls = []
    insert_after(net, "relu", SqueezeExcite3d, example=x)
    net.relu.attention.register_forward_hook(lambda *_: calls.append(1))
    net(x)
    assert len(calls) == 2
    with pytest.raises(
        ValueError, match=r"^names: relu is called several times .* \(2, 4, 2, 4, 4\), then \(2, 6, 2, 4, 4\)"
    ):
        insert_after(Shared(6), "relu", SqueezeExcite3d, example=x)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (lambda c: SqueezeExcite3d(16), r"x must be a clip \(N, 16, T, H, W\), got \(2, 4, 2, 4, 4\)"),
        (KeyPointShiftEmbedding, "Expected 4D .* input to conv3d"),  # rows, not clips
    ],
)
def test_an_example_must_run_through_the_layers(layer: Any, text: str) -> None:
    net = Shared(4)
    net.second.eval()
    keys = list(net.state_dict())
    with pytest.raises(
        ValueError, match=f"^layer: with it behind first, second the network does not run: {text}"
    ):
        insert_after(net, ["first", "second"], layer, example=torch.rand(2, 3, 2, 4, 4))
    assert list(net.state_dict()) == keys
    assert net.training
    assert not net.second.training
    assert remove_inserted(net) == []


@pytest.mark.parametrize("name", ["tiny_rnl", "tiny_cpa"])
def test_what_a_network_was_built_with_is_not_taken_out(name: str) -> None:
    net = create_model(name)
    keys = list(net.state_dict())
    for each in (net, copy.deepcopy(net)):
        assert remove_inserted(each) == []
        assert list(each.state_dict()) == keys
    with pytest.raises(
        ValueError, match=r"nothing was inserted after 'layer2\.0', its layer is the network's own; nor"
    ):
        remove_inserted(net, "layer2.0")
    insert_after(net, "layer4.0", lambda c: AttentionChain(c, RegionNonLocal(c, kernel_size=3)))
    x = torch.rand(2, 3, 8, 32, 32)
    expected = net.eval()(x)
    with pytest.raises(ValueError, match=r"network's own; there is one after layer4\.0$"):
        remove_inserted(net, ["layer4.0", "layer2.0"])
    assert remove_inserted(net) == ["layer4.0"]
    assert list(net.state_dict()) == keys
    assert torch.equal(net(x), expected)
    nn.init.ones_(net.layer2[0].attention.layer.norm.weight) if name == "tiny_rnl" else nn.init.normal_(
        net.layer2[0].attention.layer.weights[0]
    )
    assert not torch.equal(net(x), expected)  # it still runs


def test_names_of_any_kind_of_sequence() -> None:
    net = create_model("tiny_tsm")
    places = dict.fromkeys(["layer2.0", "layer3.0"])
    assert insert_after(net, places.keys(), SqueezeExcite3d) == list(places)
    assert remove_inserted(net, (name for name in places)) == list(places)  # type: ignore[arg-type]


def test_nothing_inserted_anywhere() -> None:
    with pytest.raises(
        ValueError, match=r"^names: nothing was inserted after 'qqq'; nor after any other module$"
    ):
        remove_inserted(create_model("tiny_tsm"), "qqq")
