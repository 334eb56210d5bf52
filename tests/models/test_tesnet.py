from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.test_networks import clips, tiny
from vidops.layers import TemporalSqueezePool
from vidops.layers.fold_time import as_clips
from vidops.models import InceptionResNetV2, count_gmacs, create_model, load_weights, model_card
from vidops.models.inception_resnet_v2 import TINY

clip64 = functools.partial(clips, dtype=torch.float64, name="tiny_tesnet")
PLACES = {
    1: ["input"],
    2: ["input"],
    3: ["conv2d_1a", "conv2d_4a"],
    4: ["conv2d_1a", "repeat"],
    5: ["conv2d_1a", "repeat_1"],
}


@functools.cache
def gmacs(**options: Any) -> float:
    frames = model_card("tesnet_inception_resnet_v2").frames_of(options)
    with torch.device("meta"):
        net = create_model("tesnet_inception_resnet_v2", backend="reference", **options)
    return count_gmacs(net, (3, frames, 299, 299))


def test_multiply_adds_of_the_settings() -> None:
    """Three squeezed images cost three frames; setting 5 "around 70 %" of that, as section 3.3.2 says."""
    with torch.device("meta"):
        frame = count_gmacs(create_model("inception_resnet_v2"), (3, 1, 299, 299))
    assert abs(gmacs(setting=1) / (3 * frame) - 1) < 0.001
    assert abs(gmacs(setting=2) / frame - 1) < 0.001
    assert abs(gmacs(setting=5) / gmacs(setting=1) - 0.7) < 0.04


@pytest.mark.parametrize("setting", PLACES)
def test_settings(setting: int) -> None:
    net = tiny("tiny_tesnet", setting=setting, num_frames=10)
    layers = [fold.layer for fold in net.squeeze.values()]
    assert list(net.squeeze) == PLACES[setting]
    assert [layer.basis_size for layer in layers] == ([1] if setting == 2 else [3, 1][: len(layers)])
    assert [layer.num_frames for layer in layers] == [10, 3][: len(layers)]
    clip = clip64(2, 1)[:, :, [0, 1, 2, 3, 4, 5, 6, 7, 0, 1]]
    assert net(clip).shape == (2, 8)
    net.train()(clip).square().sum().backward()
    assert all(p.grad.any() for layer in layers for p in layer.parameters())


@pytest.mark.parametrize(
    ("frames", "setting", "sizes"),
    [(10, 1, (3,)), (16, 1, (3,)), (16, 5, (3, 1)), (64, 5, (16, 4)), (64, 3, (16, 4)), (64, 1, (3,))],
)
def test_clip_lengths(frames: int, setting: int, sizes: tuple[int, ...]) -> None:
    """Table 3.3: setting 1 for 10 and 16 frames, setting 5 with 16 and 4 images for 64."""
    with torch.device("meta"):
        net = create_model("tesnet_inception_resnet_v2", setting=setting, num_frames=frames)
    assert tuple(fold.layer.basis_size for fold in net.squeeze.values()) == sizes
    assert net.num_images == sizes[-1]
    assert model_card("tesnet_inception_resnet_v2").frames_of({"num_frames": frames}) == frames


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("setting", [1, 5])
def test_losses_come_through_the_same_forward(setting: int, train: bool) -> None:
    net = tiny("tiny_tesnet", setting=setting, num_segments=2).train(train)
    clip = clip64(2, 2)
    seen = []
    for fold in net.squeeze.values():
        # The hooks see what goes into each layer; its error is computed by hand from that.
        fold.layer.register_forward_pre_hook(lambda layer, args: seen.append((layer, args[0].detach())))
    logits, losses = net(clip, return_losses=True)
    expected = sum(layer.project(x, ("error",)).error.mean() for layer, x in list(seen))
    assert len(seen) == len(net.squeeze)
    assert list(losses) == ["error"]
    assert losses["error"].shape == ()
    torch.testing.assert_close(losses["error"], expected, rtol=1e-12, atol=1e-12)
    if not train:
        torch.testing.assert_close(net(clip), logits, rtol=1e-12, atol=1e-12)
    losses["error"].backward()
    first = next(iter(net.squeeze.values())).layer
    assert first.fc1.weight.grad.any()


def test_setting_1_is_the_network_on_squeezed_images() -> None:
    net, clip = tiny("tiny_tesnet", setting=1, num_segments=2).eval(), clip64(2, 2)
    frames = InceptionResNetV2(8, **TINY).double().eval()
    own = {key: value for key, value in net.state_dict().items() if not key.startswith("squeeze.")}
    frames.load_state_dict(own)
    layer = net.squeeze["input"].layer
    assert isinstance(layer, TemporalSqueezePool)
    images = torch.cat([layer(clip[:, :, :8]), layer(clip[:, :, 8:])], 2)
    logits = torch.stack([frames(image) for image in images.unbind(2)]).mean(0)
    torch.testing.assert_close(net(clip), logits, rtol=1e-9, atol=1e-9)


def test_half_of_the_blocks_stand_before_the_layer() -> None:
    with torch.device("meta"):
        names = [b.name for b in create_model("tesnet_inception_resnet_v2", setting=5).residual_blocks()]
        of_a = [b.name for b in create_model("tesnet_inception_resnet_v2", setting=4).residual_blocks()]
    place = names.index("squeeze.repeat_1")
    assert names[place - 1 : place + 2] == ["repeat_1.9", "squeeze.repeat_1", "repeat_1.10"]
    place = of_a.index("squeeze.repeat")
    assert of_a[place - 1 : place + 2] == ["repeat.4", "squeeze.repeat", "repeat.5"]


@pytest.mark.parametrize("setting", [2, 4])
def test_blocks_one_by_one_in_other_settings(setting: int) -> None:
    net, clip = tiny("tiny_tesnet", setting=setting).eval(), clip64(2, 1)
    x = net.forward_stem(net.enter(clip))
    for block in net.residual_blocks():
        x = block.module(x)
    torch.testing.assert_close(net.leave(net.classify(net.forward_pool(x))), net(clip), rtol=0, atol=0)
    assert as_clips(x, net.num_images).shape[:3] == (2, x.shape[1], net.num_images)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"setting": 6}, "setting must be one of 1, 2, 3, 4, 5, got 6"),
        ({"setting": True}, "setting must be one of"),
        (
            {"basis_sizes": (3,)},
            r"basis_sizes must be 2 numbers, one for each layer of setting 5, got \(3,\)",
        ),
        ({"basis_sizes": 3}, "basis_sizes must be 2 numbers"),
        ({"basis_sizes": (8, 1)}, "basis_sizes must be 1 to 7"),
        ({"basis_sizes": (3, 3)}, "basis_sizes must be 1 to 2"),
        ({"num_frames": 65}, "num_frames must be 2 to 64, got 65"),
        ({"activations": ("relu",)}, "activations must be two of"),
        ({"in_channels": 0}, "in_channels must be a whole number of at least 1"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        create_model("tiny_tesnet", **options)


@pytest.mark.parametrize("channels", [3, 2])
def test_imagenet_weights_start_a_tesnet(tmp_path: Path, channels: int) -> None:
    """Of RGB, or of two channels of flow: the first convolution's weights are their mean over R, G and B."""
    source = InceptionResNetV2(1000, **TINY).state_dict()
    torch.save(source, tmp_path / "imagenet.pth")
    net = create_model("tiny_tesnet", in_channels=channels)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    load_weights(net, tmp_path / "imagenet.pth", part="backbone")
    for key, value in net.state_dict().items():
        if key == "conv2d_1a.conv.weight":
            stem = source[key]
            expected = stem if channels == 3 else stem.mean(1, keepdim=True).expand(-1, 2, -1, -1)
            torch.testing.assert_close(value, expected)
        else:
            kept = key.startswith(("classif.", "squeeze."))
            assert torch.equal(value, before[key] if kept else source[key]), key
