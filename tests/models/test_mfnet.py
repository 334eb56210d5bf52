from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vidops.models import create_model, load_weights

NORM = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]


def released_keys(counts: tuple[int, ...]) -> list[str]:
    """What PyTorch-MFNet calls its parameters: a stage's first unit projects its shortcut."""
    keys = ["conv1.conv.weight", *[f"conv1.bn.{key}" for key in NORM]]
    for stage, count in enumerate(counts, 2):
        for index in range(1, count + 1):
            convs = ["conv_i1", "conv_i2", "conv_m1", "conv_m2", *(["conv_w1"] if index == 1 else [])]
            for conv in convs:
                at = f"conv{stage}.B{index:02d}.{conv}"
                keys += [*[f"{at}.bn.{key}" for key in NORM], f"{at}.conv.weight"]
    return [*keys, *[f"tail.bn.{key}" for key in NORM], "classifier.weight", "classifier.bias"]


def test_keys_are_the_releases() -> None:
    with torch.device("meta"):
        state = create_model("mfnet").state_dict()
    assert sorted(state) == sorted(released_keys((3, 4, 6, 3)))


def test_shapes_are_the_releases() -> None:
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in create_model("mfnet").state_dict().items()}
    for key, shape in {
        "conv1.conv.weight": (16, 3, 3, 5, 5),
        "conv2.B01.conv_i1.conv.weight": (24, 16, 1, 1, 1),
        "conv2.B01.conv_i2.conv.weight": (16, 24, 1, 1, 1),
        "conv2.B01.conv_m1.conv.weight": (96, 1, 3, 3, 3),
        "conv2.B01.conv_m2.conv.weight": (96, 96, 1, 1, 1),
        "conv2.B01.conv_w1.conv.weight": (96, 16, 1, 1, 1),
        "conv3.B02.conv_m1.conv.weight": (192, 12, 3, 3, 3),
        "conv4.B06.conv_m2.conv.weight": (384, 24, 1, 3, 3),
        "conv5.B03.conv_i1.conv.weight": (192, 768, 1, 1, 1),
        "tail.bn.weight": (768,),
        "classifier.weight": (400, 768),
    }.items():
        assert shapes[key] == shape, key


def test_feature_maps() -> None:
    """16 frames of 224 x 224: "Conv4", which KPSEM reads, is 384 x 8 x 14 x 14."""
    with torch.device("meta"):
        net = create_model("mfnet")
        x = net.forward_stem(torch.empty(1, 3, 16, 224, 224))
        shapes = [tuple(x.shape[1:])]
        for name in net.stages:
            x = getattr(net, name)(x)
            shapes.append(tuple(x.shape[1:]))
    assert shapes == [(16, 16, 56, 56), (96, 8, 56, 56), (192, 8, 28, 28), (384, 8, 14, 14), (768, 8, 7, 7)]


def by_hand(state: dict[str, Tensor], x: Tensor, groups: int) -> Tensor:
    """The released forward in evaluation, from a state dict."""

    def activate(x: Tensor, at: str) -> Tensor:
        mean, var = state[f"{at}.running_mean"], state[f"{at}.running_var"]
        return F.relu(F.batch_norm(x, mean, var, state[f"{at}.weight"], state[f"{at}.bias"]))

    def conv(x: Tensor, at: str, stride: tuple[int, int, int] = (1, 1, 1)) -> Tensor:
        weight, x = state[f"{at}.conv.weight"], activate(x, f"{at}.bn")
        padding = tuple(k // 2 for k in weight.shape[2:])
        return F.conv3d(x, weight, None, stride, padding, 1, x.shape[1] // weight.shape[1])

    x = F.conv3d(x, state["conv1.conv.weight"], stride=(1, 2, 2), padding=(1, 2, 2))
    x = F.max_pool3d(activate(x, "conv1.bn"), (1, 3, 3), (1, 2, 2), (0, 1, 1))
    units = sorted({".".join(key.split(".")[:2]) for key in state if ".conv_i1." in key})
    for at in units:
        first = f"{at}.conv_w1.conv.weight" in state
        stride = (1, 1, 1) if not first else (2, 1, 1) if at.startswith("conv2") else (1, 2, 2)
        short = conv(x, f"{at}.conv_w1", stride) if first else x
        mixed = x + conv(conv(x, f"{at}.conv_i1"), f"{at}.conv_i2")
        assert state[f"{at}.conv_m1.conv.weight"].shape[1] * groups == x.shape[1]
        x = conv(conv(mixed, f"{at}.conv_m1", stride), f"{at}.conv_m2") + short
    x = activate(x, "tail.bn").mean((2, 3, 4))
    return F.linear(x, state["classifier.weight"], state["classifier.bias"])


@pytest.mark.parametrize("frames", [8, 5])
def test_forward_is_the_releases(tmp_path: Path, frames: int) -> None:
    """Weights of another process, as the release would give them, loaded from a file."""
    torch.manual_seed(0)
    net = create_model("tiny_mfnet", num_segments=frames).double().eval()
    state = {
        key: torch.rand_like(value) + 0.5 if "bn" in key and value.ndim == 1 else value + 0.01
        for key, value in net.state_dict().items()
    }
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "mf.pth")
    load_weights(net, tmp_path / "mf.pth")
    clip = torch.randn(2, 3, frames, 40, 56, dtype=torch.float64)
    torch.testing.assert_close(net(clip), by_hand(state, clip, 4), rtol=1e-10, atol=1e-10)


def test_blocks() -> None:
    with torch.device("meta"):
        blocks = create_model("mfnet").residual_blocks()
    widths = {1: 96, 2: 192, 3: 384, 4: 768}
    assert [(b.stage, b.width) for b in blocks] == [
        (stage, widths[stage]) for stage, count in enumerate((3, 4, 6, 3), 1) for _ in range(count)
    ]
    assert [blocks[i].name for i in (0, 2, 3, 12, 15)] == [
        "conv2.B01", "conv2.B03", "conv3.B01", "conv4.B06", "conv5.B03",
    ]  # fmt: skip
