"""Grad-CAM against the formula computed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("captum", reason="Grad-CAM needs captum")

from vidops.models import create_model
from vidops.visualize import default_layer, grad_cam, layer_energy


class Folded(nn.Module):
    """A linear head on the mean of a known feature map of every frame, logits averaged over frames."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 4, 1, bias=False)
        self.unused = nn.Conv2d(3, 1, 1)
        self.fc = nn.Linear(*weight.shape[::-1])
        self.fc.weight = nn.Parameter(weight)

    def forward(self, clip: Tensor) -> Tensor:
        n, _, t, h, w = clip.shape
        frames = clip.transpose(1, 2).reshape(n * t, 3, h, w)
        self.unused(frames)
        return self.fc(self.features(frames).mean((2, 3))).view(n, t, -1).mean(1)


class Whole(nn.Module):
    """The same head on a feature map over space and time, half as long as the clip."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.features = nn.Conv3d(3, 4, (2, 1, 1), (2, 1, 1), bias=False)
        self.fc = nn.Linear(*weight.shape[::-1])
        self.fc.weight = nn.Parameter(weight)

    def forward(self, clip: Tensor) -> Tensor:
        return self.fc(self.features(clip).mean((2, 3, 4)))


WEIGHT = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
CLIP = torch.randn(1, 3, 6, 5, 7, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("target", range(5))
def test_folded_frames_follow_the_formula(target: int) -> None:
    net = Folded(WEIGHT)
    found = grad_cam(net, CLIP, target=target, layer="features")
    features = net.features(CLIP[0].transpose(0, 1))  # (T, C, h, w)
    # The logit is the mean over T frames and h x w places: every gradient is w / (T h w), so is its mean.
    expected = (torch.einsum("c,tchw->thw", WEIGHT[target], features) / (6 * 5 * 7)).relu()
    assert found.heat.shape == (6, 5, 7)
    torch.testing.assert_close(found.heat, expected.detach())
    assert expected.max() > 0
    assert (expected == 0).any()
    logits = net(CLIP)[0].detach()
    assert found.target == target
    assert found.predicted == (int(logits.argmax()) == target)
    assert found.probability == pytest.approx(float(logits.softmax(0)[target]))


def test_a_layer_over_the_clip_follows_the_formula() -> None:
    net = Whole(WEIGHT)
    found = grad_cam(net, CLIP, layer="features")
    features = net.features(CLIP)[0]
    expected = (torch.einsum("c,cthw->thw", WEIGHT[found.target], features) / (3 * 5 * 7)).relu()
    assert found.heat.shape == (3, 5, 7)
    torch.testing.assert_close(found.heat, expected.detach())
    assert found.predicted


@pytest.mark.parametrize("name", ["tiny_tsn", "tiny_tsm", "tiny_mstnet"])
@pytest.mark.parametrize("layer", [None, "layer1", "conv1", "layer4.0.bn2", "maxpool"])
def test_networks_against_plain_gradients(name: str, layer: str | None) -> None:
    torch.manual_seed(0)
    net = create_model(name).eval()
    nn.init.normal_(net.fc.weight)
    clip = torch.randn(1, 3, 8, 33, 47)
    found = grad_cam(net, clip, target=3, layer=layer)
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()  # the next layer may work in place

    handle = net.get_submodule(layer or "layer4").register_forward_hook(keep)
    logit = net(clip)[0, 3]
    handle.remove()
    gradient = torch.autograd.grad(logit, kept[0])[0]
    expected = (gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1).relu()
    torch.testing.assert_close(found.heat, expected.detach(), rtol=1e-4, atol=1e-8)
    assert found.heat.shape[0] == 8
    assert found.heat.max() > 0


def test_the_network_stays_as_it_was() -> None:
    net = create_model("tiny_tsm").eval().requires_grad_(False)
    clip = torch.randn(1, 3, 8, 32, 32)
    before = [p.clone() for p in net.state_dict().values()]
    with torch.no_grad():
        found = grad_cam(net, clip)
    assert not found.heat.requires_grad
    assert not clip.requires_grad
    assert all(torch.equal(a, b) for a, b in zip(before, net.state_dict().values(), strict=True))
    assert all(p.grad is None and not p.requires_grad for p in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in net.modules())


def test_classes_have_maps_of_their_own() -> None:
    torch.manual_seed(0)
    net = create_model("tiny_tsn").eval()
    clip = torch.randn(1, 3, 8, 64, 64)
    maps = [grad_cam(net, clip, target=i).heat for i in range(8)]
    assert all(not torch.allclose(a, b) for i, a in enumerate(maps) for b in maps[:i])
    assert torch.equal(maps[2], grad_cam(net, clip, target=2).heat)


def test_the_default_layer() -> None:
    assert default_layer(create_model("tiny_mstnet")) == "layer4"
    assert default_layer(create_model("tiny_tsm_mobilenetv2")) == "features.7"
    x3d = create_model("tiny_x3d").eval()
    assert default_layer(x3d) == "blocks.4.res_blocks.0"
    assert grad_cam(x3d, torch.randn(1, 3, 8, 64, 64)).heat.shape == (8, 2, 2)
    assert default_layer(nn.Sequential(nn.Conv3d(3, 4, 1), nn.ReLU())) == "0"
    with pytest.raises(ValueError, match="Linear has no residual stage and no convolution"):
        default_layer(nn.Linear(2, 2))


def test_energy_is_the_mean_square() -> None:
    net = Folded(WEIGHT)
    heat, layer = layer_energy(net, CLIP, layer="features")
    assert layer == "features"
    torch.testing.assert_close(heat, net.features(CLIP[0].transpose(0, 1)).square().mean(1).detach())
    heat, _ = layer_energy(Whole(WEIGHT), CLIP)
    assert heat.shape == (3, 5, 7)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"layer": "feature"}, "layer 'feature': Folded has no such module; did you mean features"),
        ({"layer": ""}, "has no such module; its children are features, unused, fc"),
        ({"layer": "fc"}, r"layer fc: must put out maps .*, puts out \(6, 5\)"),
        ({"layer": "unused"}, "layer unused: has no influence on the logits"),
        ({"layer": "features", "target": 5}, "target must be a class from 0 to 4, got 5"),
        ({"layer": "features", "target": -1}, "target must be a class from 0 to 4, got -1"),
        ({"layer": "features", "clip": CLIP[0]}, r"clip must be one, \(1, 3, T, H, W\)"),
        ({"layer": "features", "clip": CLIP.expand(2, -1, -1, -1, -1)}, "clip must be one"),
        ({"layer": "features", "clip": CLIP * float("nan")}, "logits for this clip are not finite"),
    ],
)
def test_bad_arguments(arguments: dict, text: str) -> None:
    arguments = {"clip": CLIP, **arguments}
    with pytest.raises(ValueError, match=text):
        grad_cam(Folded(WEIGHT), arguments.pop("clip"), **arguments)


def test_a_layer_that_runs_twice_is_refused() -> None:
    net = create_model("tiny_tsn").eval()
    with pytest.raises(ValueError, match=r"layer layer1\.0\.relu: must run once a clip, runs 2 times"):
        grad_cam(net, torch.randn(1, 3, 8, 32, 32), layer="layer1.0.relu")
