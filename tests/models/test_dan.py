from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import nn

from tests.models.test_networks import awake, clips, tiny
from vidops.models import DANX3D, create_model, load_weights, model_card
from vidops.models.x3d import TINY as TINY_X3D

clip64 = functools.partial(clips, dtype=torch.float64, name="tiny_dan")
OPTIONS: dict[str, list[Any]] = {
    "basis_size": [1, 2],
    "descriptor_kernel_size": [3, 7],
    "descriptor_stride": [1, 8],
    "descriptor_channels": [1, 24],
    "bottleneck_ratio": [0.25, 1.0],
    "num_bottlenecks": [0, 2],
    "expansion_ratio": [1, 4],
    "fold_div": [8],
}


def x3d() -> nn.Module:
    """A tiny DAN on X3D, in fp64."""
    torch.manual_seed(0)
    options = {"descriptor_stride": 4, "descriptor_channels": 4}
    net = awake(DANX3D(8, 4, frames_per_segment=3, **options, **TINY_X3D).double())
    nn.init.normal_(net.get_submodule(net.classifier_name).weight)
    return net


@pytest.mark.parametrize(("option", "value"), [(key, v) for key, values in OPTIONS.items() for v in values])
def test_each_option_runs_and_trains(option: str, value: Any) -> None:
    net = tiny("tiny_dan", num_segments=4, **{option: value})
    logits, losses = net(clip64(2, 4), return_losses=True)
    assert logits.shape == (2, 8)
    (logits.square().sum() + losses["energy"]).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("make", [lambda: tiny("tiny_dan", num_segments=4), x3d], ids=["tsm", "x3d"])
def test_losses_come_through_the_same_forward(make: Any, train: bool) -> None:
    net, other, clip = make().train(train), make().train(train), clip64(2, 4)
    logits, losses = net(clip, return_losses=True)
    assert list(losses) == ["energy"]
    assert losses["energy"].shape == ()
    torch.testing.assert_close(other(clip), logits, rtol=1e-12, atol=1e-12)
    for key, value in other.state_dict().items():  # running statistics were counted once
        torch.testing.assert_close(net.state_dict()[key], value, rtol=1e-12, atol=1e-12)
    energy = make().train(train).projection(clip, return_losses=True)[1]["energy"]
    torch.testing.assert_close(losses["energy"], energy.mean(), rtol=1e-12, atol=1e-12)
    losses["energy"].backward()
    shared = dict(net.get_submodule(net.projection_name).named_parameters(prefix=net.projection_name))
    for key, parameter in net.named_parameters():  # the energy is a loss of the projection alone
        assert (parameter.grad is not None) == (key in shared), key


def test_the_backbone_sees_dynamic_appearances() -> None:
    net, clip = tiny("tiny_dan", num_segments=4).eval(), clip64(2, 4)
    tsm = create_model("tiny_tsm", num_segments=4).double().eval()
    state = net.state_dict()
    tsm.load_state_dict({key: value for key, value in state.items() if not key.startswith("projection.")})
    torch.testing.assert_close(net(clip), tsm(net.projection(clip)), rtol=1e-12, atol=1e-12)
    still = clip[:, :, :1].expand_as(clip)
    constant = net.projection.mlp[-1]
    nn.init.zeros_(constant.weight)
    nn.init.ones_(constant.bias)
    assert net.projection(still).abs().max() < 1e-5  # and what stays is not among them


def test_weights_of_the_backbone_start_it(tmp_path: Any) -> None:
    torch.manual_seed(0)
    tsm, net = create_model("tiny_tsm", num_classes=5), create_model("tiny_dan", in_channels=2)
    torch.save(tsm.state_dict(), tmp_path / "tsm.pt")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    load_weights(net, tmp_path / "tsm.pt", part="backbone")
    own, given = net.state_dict(), tsm.state_dict()
    for key, value in own.items():
        if key == "conv1.weight":
            torch.testing.assert_close(value, given[key].mean(1, keepdim=True).expand(-1, 2, -1, -1))
        else:
            kept = key.startswith(("fc.", "projection."))
            assert torch.equal(value, before[key] if kept else given[key]), key


def test_losses_compile() -> None:
    net, clip = tiny("tiny_dan"), clip64()
    torch._dynamo.reset()
    compiled = torch.compile(tiny("tiny_dan"), fullgraph=True, backend="aot_eager")
    for found, expected in zip(
        compiled(clip, return_losses=True), net(clip, return_losses=True), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["tiny_dan", "tiny_tesnet"])
def test_losses_export(name: str) -> None:
    net, clip = tiny(name).eval(), clips(dtype=torch.float64, name=name)
    program = torch.export.export(net, (clip,), {"return_losses": True})
    found, expected = program.module()(clip, return_losses=True), net(clip, return_losses=True)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["tiny_dan", "tiny_tesnet"])
def test_autocast_projects_in_fp32(name: str) -> None:
    torch.manual_seed(0)
    net, clip = create_model(name, num_segments=2), clips(2, 2, name=name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, losses = net(clip, return_losses=True)
    (loss,) = losses.values()
    assert loss.dtype == torch.float32
    (nn.functional.cross_entropy(logits.float(), torch.tensor([0, 1])) + loss).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_cards_know_the_frames_of_a_segment() -> None:
    card = model_card("dan_tsm_resnet50")
    assert (card.frames_per_segment, card.frames_of({}), card.frames_of({"frames_per_segment": 8})) == (
        4,
        4,
        8,
    )
    assert model_card("bqn_tsm_resnet50").frames_of({"busy_size": 224}) == 3
    for name in ("dan_tsm_resnet50", "dan_x3d_xs", "dan_x3d_m", "tiny_dan", "tesnet_inception_resnet_v2"):
        with torch.device("meta"):
            net = create_model(name)
        option = model_card(name).frames_option
        assert getattr(net, option) == model_card(name).frames_per_segment


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"frames_per_segment": 1}, "frames_per_segment must be 2 to 64, got 1"),
        ({"basis_size": 3}, r"basis_size must be 1 to 2 \(below frames_per_segment=3"),
        ({"descriptor_stride": 0}, "descriptor_stride must be a whole number"),
        ({"in_channels": 0}, "in_channels must be a whole number of at least 1"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        create_model("tiny_dan", **options)
