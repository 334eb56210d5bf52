"""Layers put after named blocks of networks that stand already."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.layers.attention import LAYERS
from vidops.layers import (
    GlobalContext,
    SqueezeExcite3d,
    TemporalShift,
    channels_last,
    insert_after,
    remove_inserted,
)
from vidops.models import create_model, load_weights


class Someone(nn.Module):
    """A network that knows nothing of vidops, over frames (2-D) or clips (3-D)."""

    def __init__(self, conv: type[nn.Module] = nn.Conv2d, norm: type[nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 8, 3, padding=1), norm(8), nn.ReLU(inplace=True))
        self.body = nn.ModuleList([nn.Sequential(conv(8, 8, 3, padding=1), norm(8)) for _ in range(2)])
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.body:
            x = (x + layer(x)).relu()
        return self.head(x.flatten(2).mean(2))


def someone_3d() -> Someone:
    return Someone(nn.Conv3d, nn.BatchNorm3d)


CLIPS = (2, 3, 8, 32, 32)
# A network, blocks of it, what it takes, and what else there is to say.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], list[str], tuple[int, ...], dict]] = {
    "TSM": (lambda: create_model("tiny_tsm"), ["layer2.0", "layer3"], CLIPS, {}),
    "TSM MobileNetV2": (lambda: create_model("tiny_tsm_mobilenetv2"), ["features.3", "features.5"], CLIPS, {}),
    "X3D": (lambda: create_model("tiny_x3d"), ["blocks.2.res_blocks.0", "blocks.4"], CLIPS, {}),
    "Busy-Quiet Net": (
        lambda: create_model("tiny_bqn"), ["busy.layer2.0", "quiet.layer3.0"], (2, 3, 24, 64, 64), {}
    ),
    "2-D": (Someone, ["stem", "body.1"], (8, 3, 9, 9), {"num_segments": 4, "channels": 8}),
    "3-D": (someone_3d, ["stem", "body.0"], (2, 3, 4, 9, 9), {"channels": 8}),
}  # fmt: skip
each = pytest.mark.parametrize("name", NETWORKS)


def place(
    name: str, net: nn.Module, layer: Callable[[int], nn.Module], names: list[str] | None = None
) -> list[str]:
    _, usual, _, options = NETWORKS[name]
    return insert_after(net, usual if names is None else names, layer, **options)


@pytest.mark.parametrize("layer", ["SE", "CPA", "CBAM", "GC", "NL", "RNL"])
@each
def test_a_new_layer_leaves_logits_as_they_were(name: str, layer: str) -> None:
    torch.manual_seed(0)
    make, _, shape, _ = NETWORKS[name]
    net = make()
    with_layers = copy.deepcopy(net)
    places = place(name, with_layers, LAYERS[layer])
    x = torch.randn(shape)
    for train in (True, False):
        assert torch.equal(with_layers.train(train)(x), net.train(train)(x))
    old, new = net.state_dict(), with_layers.state_dict()
    assert all(torch.equal(new[key], old[key]) for key in old)
    assert all(
        key.startswith(tuple(f"{place}.attention.layer." for place in places)) for key in new.keys() - old
    )
    for place_ in places:
        for parameter in with_layers.get_submodule(f"{place_}.attention").parameters():
            nn.init.normal_(parameter)
    assert not torch.allclose(with_layers(x), net(x))
    assert remove_inserted(with_layers) == places
    assert list(with_layers.state_dict()) == list(old)
    assert torch.equal(with_layers(x), net(x))


@each
def test_copies_pickles_and_compiled_networks_have_the_layers(name: str) -> None:
    torch.manual_seed(0)
    make, _, shape, _ = NETWORKS[name]
    net, x = make().eval(), torch.randn(shape)
    before = net(x)
    for place_ in place(name, net, GlobalContext):
        nn.init.normal_(net.get_submodule(place_).attention.layer.fc2.weight)
    expected = net(x)
    assert not torch.allclose(expected, before)
    assert torch.equal(copy.deepcopy(net)(x), expected)
    if name in ("2-D", "3-D"):  # tests/models/test_networks.py compiles networks of vidops
        assert torch.equal(pickle.loads(pickle.dumps(net))(x), expected)
        torch._dynamo.reset()
        compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), expected, rtol=1e-5, atol=1e-5)


def test_layers_get_channels_frames_and_kind_from_the_network() -> None:
    net = create_model("tiny_tsm", num_segments=4).double().eval()
    widths: list[int] = []

    def make(channels: int) -> nn.Module:
        widths.append(channels)
        return SqueezeExcite3d(channels)

    insert_after(net, ["layer2.0", "layer3.0"], make)
    assert widths == [32, 64]
    layer = net.layer2[0].attention
    assert layer.num_segments == 4
    assert not layer.training
    assert layer.layer.fc1.weight.dtype == torch.float64
    other = create_model("tiny_x3d")
    assert insert_after(other, ["blocks.3", "blocks.2.res_blocks.0"], make) == [
        "blocks.3",
        "blocks.2.res_blocks.0",
    ]
    assert widths[2:] == [32, 24]


def test_an_example_tells_the_channels() -> None:
    net = Someone().train()
    widths: list[int] = []

    def make(channels: int) -> nn.Module:
        widths.append(channels)
        return TemporalShift()

    statistics = net.stem[1].running_mean.clone()
    insert_after(net, ["stem", "body.0.0"], make, num_segments=4, example=torch.rand(8, 3, 6, 6))
    assert widths == [8, 8]
    assert net.training
    assert torch.equal(net.stem[1].running_mean, statistics)
    with pytest.raises(
        ValueError, match=r"names: body\.1\.1 puts out \(8, 8, 6, 6\), not clips \(N, C, T, H, W\);"
    ):
        insert_after(net, "body.1", make, example=torch.rand(8, 3, 6, 6))
    net.head = nn.BatchNorm1d(8)
    with pytest.raises(ValueError, match=r"names: head puts out \(8, 8\), not frames \(N\*T, C, H, W\)"):
        insert_after(net, "head", make, num_segments=4, example=torch.rand(8, 3, 6, 6))


def test_an_example_finds_a_layer_that_would_not_run() -> None:
    class Bypassing(Someone):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(
                self.stem.forward(x).flatten(2).mean(2)
            )  # its last module is called all the same

    class Direct(Someone):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.stem[0].forward(x).flatten(2).mean(2))

    x = torch.rand(8, 3, 6, 6)
    assert insert_after(Bypassing(), "stem", SqueezeExcite3d, num_segments=4, channels=8, example=x) == [
        "stem.2"
    ]
    net = Direct()
    with pytest.raises(
        ValueError, match=r"^example: the network did not call stem\.0: .* its forward itself"
    ):
        insert_after(net, "stem.0", SqueezeExcite3d, num_segments=4, channels=8, example=x)
    assert not hasattr(net.stem[0], "attention")
    with pytest.raises(ValueError, match=r"^channels: stem\.2 puts out 8, got 16"):
        insert_after(Someone(), "stem", SqueezeExcite3d, num_segments=4, channels=16, example=x)


def test_a_module_at_two_places() -> None:
    net = Someone().eval()
    net.body[1] = net.body[0]
    x = torch.rand(8, 3, 6, 6)
    before = net(x)
    options = {"num_segments": 4, "channels": 8}
    with pytest.raises(ValueError, match=r"^names: body\.0\.1 is given twice"):
        insert_after(net, ["body.0", "body.1"], GlobalContext, **options)
    assert insert_after(net, "body.1", GlobalContext, **options) == ["body.0.1"]
    with pytest.raises(ValueError, match=r"^names: body\.0\.1 has a layer behind it already"):
        insert_after(net, "body.0", GlobalContext, **options)
    calls = []
    net.body[0][1].attention.register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(net(x), before)
    assert len(calls) == 2
    assert remove_inserted(net, ["body.1.1", "body.0.1"]) == ["body.0.1"]


def test_channels_last_for_weights_of_two_ranks() -> None:
    """A 2-D network with layers over clips: PyTorch's own `to` takes one format for all."""
    net = Someone().eval()
    x = torch.rand(8, 3, 6, 6)
    insert_after(net, "stem", LAYERS["RNL"], num_segments=4, channels=8)
    expected = net(x)
    net.head.weight.grad = torch.ones_like(net.head.weight)
    net.stem[0].weight.grad = torch.ones_like(net.stem[0].weight)
    parameters = list(net.parameters())
    assert channels_last(net) is net
    assert all(old is new for old, new in zip(parameters, net.parameters(), strict=True))
    region = net.stem[2].attention.layer.region.weight
    assert net.stem[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert net.stem[0].weight.grad.is_contiguous(memory_format=torch.channels_last)
    assert region.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(net(x), expected)
    with pytest.raises(TypeError, match=r"network must be an nn\.Module, got Tensor"):
        channels_last(x)


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.channels_last_3d])
@pytest.mark.parametrize("name", ["tiny_rnl", "tiny_bqn", "tiny_x3d"])
def test_networks_of_vidops_take_either_format(name: str, memory_format: torch.memory_format) -> None:
    net = create_model(name)
    assert net.to(torch.float64, memory_format=memory_format) is net
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in net.parameters():
        assert parameter.dtype == torch.float64
        if parameter.dim() in formats:
            assert parameter.is_contiguous(memory_format=formats[parameter.dim()])
    assert net.to(memory_format=torch.contiguous_format) is net


def test_what_cannot_be_done_is_told_and_changes_nothing() -> None:
    net, tsm = Someone(), create_model("tiny_tsm")
    insert_after(tsm, "layer3.0", SqueezeExcite3d)
    before = [name for name, _ in [*net.named_modules(), *tsm.named_modules()]]
    for network, names, options, text in (
        (tsm, "layer2.7", {}, r"TSM has no module 'layer2\.7'; did you mean layer2\.0"),
        (tsm, "qqqq", {}, r"TSM has no module 'qqqq'; there are layer1\.0, layer2\.0, layer3\.0, layer4\.0$"),
        (tsm, "", {}, "TSM has no module ''"),
        (tsm, [], {}, "names: none is given"),
        (tsm, ["layer2.0", "layer2"], {}, r"names: layer2\.0 is given twice"),
        (tsm, ["layer2.0", "layer3.0"], {}, r"names: layer3\.0 has a layer behind it already"),
        (
            net,
            "qqqq",
            {"channels": 8},
            r"Someone has no module 'qqqq'; there are stem, body, body\.0, body\.1$",
        ),
        (net, "body", {"channels": 8}, "names: body is a ModuleList"),
        (net, "stem", {"num_segments": 4}, r"channels: it is not known how many stem\.2 puts out"),
        (net, "stem", {"channels": 8, "num_segments": 0}, "num_segments must be at least 1, got 0"),
        (net, ["stem", "body.0"], {"channels": 0}, "channels must be a whole number of at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=text):
            insert_after(network, names, SqueezeExcite3d, **options)
    assert before == [name for name, _ in [*net.named_modules(), *tsm.named_modules()]]
    with pytest.raises(
        ValueError, match=r"nothing was inserted after 'layer2\.0'; there is one after layer3\.0"
    ):
        remove_inserted(tsm, "layer2.0")


def test_activations_of_another_kind_are_told_when_they_come() -> None:
    net = Someone()
    insert_after(net, "stem", GlobalContext, channels=8)
    with pytest.raises(
        ValueError, match=r"clips \(N, C, T, H, W\), but that puts out \(8, 8, 6, 6\); .* num_segments"
    ):
        net(torch.rand(8, 3, 6, 6))

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    pair = nn.Sequential(nn.Identity(), Pair())
    insert_after(pair, "1", GlobalContext, channels=8)
    with pytest.raises(TypeError, match="this Pair takes a Tensor, but the block puts out tuple"):
        pair(torch.rand(1, 8, 2, 2, 2))


@pytest.mark.parametrize("name, blocks", [("tiny_tsm", "layer2.0"), ("tiny_x3d", "blocks.2.res_blocks.0")])
def test_weights_of_the_network_without_layers_load(name: str, blocks: str, tmp_path) -> None:
    net = create_model(name, num_classes=5)
    torch.save(net.state_dict(), tmp_path / "plain.pt")
    other = create_model(name, num_classes=3)
    insert_after(other, blocks, SqueezeExcite3d)
    result = load_weights(other, tmp_path / "plain.pt", part="backbone")
    assert result.missing == result.unexpected == []
    for part in ("all", "features"):
        same = create_model(name, num_classes=5)
        insert_after(same, blocks, SqueezeExcite3d)
        with pytest.raises(
            ValueError, match="it has no layers behind those blocks: strict=False leaves them"
        ):
            load_weights(same, tmp_path / "plain.pt", part=part)
        result = load_weights(same, tmp_path / "plain.pt", strict=False, part=part)
        assert result.missing
        assert all(key.startswith(f"{blocks}.attention.layer.") for key in result.missing)
        assert result.unexpected == []
    key = f"{net.stem_name}.weight"
    assert torch.equal(other.state_dict()[key], net.state_dict()[key])
