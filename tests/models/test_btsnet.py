from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.models.test_networks import clips
from tests.training.published_btsnet import BTSNET
from vidops.layers import TemporalSpatialPathway
from vidops.models import BTSNet, create_model, load_weights, model_card


def test_the_posters_network() -> None:
    """Widths, cardinality, strides and where the pathway blocks stand, at 30 frames of 112 x 112."""
    for depth, counts in ((26, [2, 2, 2, 2]), (50, [3, 4, 6, 3]), (101, [3, 4, 23, 3])):
        with torch.device("meta"):
            net = create_model(f"btsnet{depth}", backend="reference")
        assert [len(net.get_submodule(name)) for name in net.stages] == counts
        for block in net.residual_blocks():
            inner = 128 * 2 ** (block.stage - 1)
            assert block.width == 2 * inner
            pathways = isinstance(block.module.conv2, TemporalSpatialPathway)
            assert pathways == (block.stage < 4)
            convolutions = [p.conv for p in block.module.conv2.pathways] if pathways else [block.module.conv2]
            for conv in convolutions:
                assert (conv.kernel_size, conv.groups, conv.out_channels) == ((3, 3, 3), 32, inner)
                first = block.name.endswith(".0") and block.stage > 1
                assert conv.stride == ((2, 2, 2) if first else (1, 1, 1))
            if pathways:
                assert block.module.conv2.fuse.conv1.out_channels == max(inner // 16, 32)
    with torch.device("meta"):
        net = create_model("btsnet26", backend="reference")
        x = net.forward_stem(torch.empty(1, 3, 30, 112, 112))
        shapes = [x.shape]
        for name in net.stages:
            x = net.get_submodule(name)(x)
            shapes.append(x.shape)
    assert shapes == [
        (1, 128, 15, 28, 28),
        (1, 256, 15, 28, 28),
        (1, 512, 8, 14, 14),
        (1, 1024, 4, 7, 7),
        (1, 2048, 2, 4, 4),
    ]
    assert (net.conv1.kernel_size, net.conv1.stride) == ((7, 7, 7), (1, 2, 2))


@pytest.mark.parametrize("attention", ["TC", "C"])
@pytest.mark.parametrize(
    "pathways",
    [
        *({"num_pathways": m} for m in range(1, 8)),
        *({"num_pathways": m, "receptive_fields": "O2"} for m in (2, 3, 4, 7)),
        {"dilations": [(1, 2, 2), (2, 1, 1)]},
    ],
    ids=str,
)
@torch.no_grad()
def test_every_option(pathways: dict[str, Any], attention: str) -> None:
    net = create_model("tiny_btsnet", attention=attention, **pathways).eval()
    blocks = [module for module in net.modules() if isinstance(module, TemporalSpatialPathway)]
    assert [block.attention for block in blocks] == [attention] * 3
    count = pathways.get("num_pathways", 2)
    found = net.pathway_contributions(clips(1))
    assert {name: tuple(weights.shape) for name, weights in found.items()} == {
        "layer1.0": (1, count, 4),
        "layer2.0": (1, count, 2),
        "layer3.0": (1, count, 1),
    }
    for weights in found.values():
        torch.testing.assert_close(weights.sum(1), torch.ones_like(weights[:, 0]))


@pytest.mark.parametrize("frames", [1, 2, 5, 31])
@torch.no_grad()
def test_any_number_of_frames(frames: int) -> None:
    net = create_model("tiny_btsnet", num_segments=frames).eval()
    assert net(torch.rand(2, 3, frames, 33, 50)).shape == (2, 8)
    steps = [
        weights.shape[2] for weights in net.pathway_contributions(torch.rand(1, 3, frames, 33, 50)).values()
    ]
    assert steps == [-(-frames // 2), -(-frames // 4), -(-frames // 8)]


@torch.no_grad()
def test_the_run_written_out() -> None:
    """Blocks, shortcuts, norms and activations where a ResNeXt has them, and each block's attention of what it sees."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"num_pathways": 4, "receptive_fields": "O2"}
    net = BTSNet(5, 8, **options, blocks=(2, 1, 1), width=16, groups=4).double().eval()
    for module in net.modules():
        if isinstance(module, TemporalSpatialPathway):
            nn.init.normal_(module.fuse.conv2.weight)
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean)
    clip = clips(2, dtype=torch.float64)
    found = net.pathway_contributions(clip)
    x = F.max_pool3d(net.bn1(net.conv1(clip)).relu(), 3, 2, 1)
    for stage, blocks in enumerate((net.layer1, net.layer2, net.layer3), 1):
        for i, block in enumerate(blocks):
            y = block.bn1(block.conv1(x)).relu()
            if stage < 3:
                shares = block.conv2.weigh(block.conv2.split(y)).softmax(1).mean(2)
                name = f"layer{stage}.{i}"
                torch.testing.assert_close(found[name].double(), shares, rtol=1e-5, atol=1e-6)
                assert shares.std(1).max() > 0.01
                y = block.conv2(y)
            else:
                y = block.bn2(block.conv2(y)).relu()
            short = x if i else block.downsample[1](block.downsample[0](x))
            x = (block.bn3(block.conv3(y)) + short).relu()
    assert list(found) == ["layer1.0", "layer1.1", "layer2.0"]
    torch.testing.assert_close(net(clip), net.fc(x.mean((2, 3, 4))))


def test_dropout_is_before_the_classifier() -> None:
    net = create_model("tiny_btsnet", dropout=1.0)
    rows = torch.ones(1, net.fc.in_features)
    assert torch.equal(net.train().classify(rows)[0], net.fc.bias)
    assert torch.equal(net.eval().classify(rows), net.fc(rows))


def test_weights_load_with_another_classifier(tmp_path: Path) -> None:
    net, other = create_model("tiny_btsnet", num_classes=5), create_model("tiny_btsnet", num_classes=9)
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    load_weights(other, tmp_path / "weights.pt", part="features")
    state = net.state_dict()
    assert all(torch.equal(other.state_dict()[key], state[key]) for key in state if not key.startswith("fc."))


def test_the_card_has_every_figure_of_the_poster() -> None:
    for name, (top1, options) in BTSNET.items():
        model = name.split("_")[2]
        (score,) = [score for score in model_card(model).scores if dict(score.options) == options]
        assert (score.top1, score.frames) == (float(top1), 30)
    assert sum(len(model_card(f"btsnet{depth}").scores) for depth in (26, 50, 101)) == len(BTSNET) == 22


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_pathways": 5, "receptive_fields": "O2"}, "num_pathways must be one of 2, 3, 4, 7 with"),
        ({"attention": "CT"}, "attention must be one of TC, C, got 'CT'"),
        ({"width": 10}, "in_channels must be a multiple of groups, 4, got 10"),
        ({"in_channels": 0}, "in_channels must be a whole number of at least 1, got 0"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}"):
        BTSNet(5, 4, **{"blocks": (1, 1), "width": 16, "groups": 4, **options})
