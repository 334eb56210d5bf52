from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.models.test_networks import clips, tiny
from vidops.layers import KeyPointShiftEmbedding
from vidops.models import KeyPointNetwork, create_model, load_weights

NETWORKS = {"tiny_mf_kpsem": "tiny_mfnet", "tiny_r3d_kpsem": "tiny_r3d"}
each = pytest.mark.parametrize("name", NETWORKS)


def made(name: str, **options: Any) -> KeyPointNetwork:
    net = tiny(name, **options).eval()
    assert isinstance(net, KeyPointNetwork)
    return net


@each
@pytest.mark.parametrize("stage", [1, 2, 3, 4])
@torch.no_grad()
def test_a_stage_gives_what_kpsem_reads(name: str, stage: int) -> None:
    """The backbone is left as it is; its pooled features and KPSEM's come before the classifier."""
    segments = 7
    plain = tiny(NETWORKS[name], num_segments=segments).eval()
    net = made(name, num_segments=segments, position=plain.stages[stage - 1])
    load_into(net, plain)
    clip = clips(2, segments, 64, torch.float64, NETWORKS[name])
    x = plain.forward_stem(plain.enter(clip))
    for block in plain.residual_blocks():
        x = block.module(x)
        if block.stage == stage:
            features = x
    rows = torch.cat([plain.forward_pool(x), net.kpsem(features)], 1)
    torch.testing.assert_close(net(clip), net.get_submodule(net.classifier_name)(rows), rtol=0, atol=0)
    last, read = net.feature_maps(clip)
    assert torch.equal(last, x)
    assert torch.equal(read, features)


def load_into(net: KeyPointNetwork, plain: nn.Module) -> None:
    """Give a network the weights of its backbone without KPSEM."""
    state = {key: v for key, v in plain.state_dict().items() if not key.startswith(net.classifier_name)}
    assert not net.load_state_dict(state, strict=False).unexpected_keys


def test_sizes_of_the_paper() -> None:
    """KPSEM reads 384 x 8 x 14 x 14 and gives 672 features beside MFNet's 768 (section 4.2)."""
    with torch.device("meta"):
        net = create_model("mf_kpsem", backend="reference")
        last, features = net.feature_maps(torch.empty(1, 3, 16, 224, 224))
        rows = net.kpsem(features)
    assert features.shape == (1, 384, 8, 14, 14)
    assert rows.shape == (1, 672)
    assert net.classifier.in_features == last.shape[1] + 672 == 1440
    with torch.device("meta"):
        net = create_model("r3d_kpsem", backend="reference")
        _, features = net.feature_maps(torch.empty(1, 3, 16, 224, 224))
    assert features.shape == (1, 512, 4, 28, 28)  # res3


def test_the_wider_classifier_starts_as_mfnets() -> None:
    """By Glorot's rule for its own width, and without a bias."""
    net = create_model("tiny_mf_kpsem", num_classes=200)
    rows, columns = net.classifier.weight.shape
    assert 0.98 < net.classifier.weight.abs().max().item() / (6 / (rows + columns)) ** 0.5 <= 1
    assert not net.classifier.bias.any()


@each
def test_every_stage_and_number_of_frames(name: str) -> None:
    with torch.device("meta"):
        for position in create_model(name).stages:
            for segments in (5, 8, 9):
                net = create_model(name, num_segments=segments, position=position, backend="reference")
                assert net(torch.empty(1, 3, segments, 64, 64)).shape[0] == 1


def test_options_reach_kpsem() -> None:
    options = {"num_regions": 9, "num_sets": 3, "embed_dim": 5, "regions": "fixed", "seed": 4}
    kpsem = create_model("tiny_mf_kpsem", **options, backend="reference").kpsem
    assert isinstance(kpsem, KeyPointShiftEmbedding)
    shifts = kpsem.shifts
    found = shifts.num_regions, shifts.num_sets, kpsem.embed_dim, shifts.regions, shifts.seed
    assert found == tuple(options.values())
    assert shifts.backend == "reference"
    assert create_model("tiny_mf_kpsem", num_regions=1).kpsem.shifts.centre is None


@each
def test_weights_of_the_backbone_load(name: str, tmp_path: Path) -> None:
    plain, net = create_model(NETWORKS[name], num_classes=9), create_model(name)
    torch.save(plain.state_dict(), tmp_path / "plain.pt")
    with pytest.raises(ValueError, match="part='backbone' leaves them and the classifier as they are"):
        load_weights(net, tmp_path / "plain.pt")
    own = {key: value.clone() for key, value in net.state_dict().items()}
    result = load_weights(net, tmp_path / "plain.pt", part="backbone")
    state = net.state_dict()
    kept = [key for key in state if key.startswith(("kpsem.", net.classifier_name))]
    assert sorted(result.loaded) == sorted(set(state) - set(kept))
    assert all(torch.equal(state[key], own[key]) for key in kept)
    assert all(torch.equal(state[key], plain.state_dict()[key]) for key in result.loaded)
    torch.save(net.state_dict(), tmp_path / "whole.pt")  # and its own, with another classifier
    other = create_model(name, num_classes=3)
    load_weights(other, tmp_path / "whole.pt", part="features")
    assert all(torch.equal(other.state_dict()[key], state[key]) for key in state if key.startswith("kpsem."))


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("tiny_mf_kpsem", {"position": "conv6"}, "position must be one of conv2, conv3, conv4, conv5, got 'conv6'"),
        ("tiny_r3d_kpsem", {"position": 2}, "position must be one of layer1, layer2, layer3, layer4, got 2"),
        ("tiny_mf_kpsem", {"num_segments": 2}, "num_segments must leave at least 2 frames after conv3, .* 2 leave 1"),
        ("r3d_kpsem", {"num_segments": 4}, "num_segments must leave at least 2 frames after layer2, .* 4 leave 1"),
        ("tiny_mf_kpsem", {"num_regions": 2}, "num_regions must be one of 1, 4, 9, 16, got 2"),
        ("tiny_mf_kpsem", {"num_sets": 0}, "num_sets must be a whole number of at least 1, got 0"),
        ("tiny_mf_kpsem", {"embed_dim": -1}, "embed_dim must be a whole number of at least 1, got -1"),
        ("tiny_mf_kpsem", {"regions": "random"}, "regions must be one of adaptive, fixed, got 'random'"),
    ],
)  # fmt: skip
def test_bad_options_are_named(name: str, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}"):
        create_model(name, **options)
