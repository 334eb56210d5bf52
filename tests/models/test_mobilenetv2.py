from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vidops.layers import FoldTime
from vidops.models import MobileNetV2, create_model, load_weights

NORM = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
# What torchvision's mobilenet_v2 calls its parameters: the stem, the block without expansion, the others, the end.
STEM = ["0.0.weight", *[f"0.1.{key}" for key in NORM]]
FIRST = [
    "conv.0.0.weight",
    *[f"conv.0.1.{key}" for key in NORM],
    "conv.1.weight",
    *[f"conv.2.{key}" for key in NORM],
]
BLOCK = [
    "conv.0.0.weight",
    *[f"conv.0.1.{key}" for key in NORM],
    "conv.1.0.weight",
    *[f"conv.1.1.{key}" for key in NORM],
    "conv.2.weight",
    *[f"conv.3.{key}" for key in NORM],
]
TORCHVISION = [
    *[f"features.{key}" for key in STEM],
    *[f"features.1.{key}" for key in FIRST],
    *[f"features.{index}.{key}" for index in range(2, 18) for key in BLOCK],
    "features.18.0.weight",
    *[f"features.18.1.{key}" for key in NORM],
    "classifier.1.weight",
    "classifier.1.bias",
]
WIDTHS = [16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320]
# Blocks that add their input.
RESIDUAL = [3, 5, 6, 8, 9, 10, 12, 13, 15, 16]


def test_keys_and_shapes_are_torchvisions() -> None:
    with torch.device("meta"):
        net = create_model("tsm_mobilenetv2", num_classes=1000)
    state = net.state_dict()
    assert list(state) == TORCHVISION
    assert sum(p.numel() for p in net.parameters()) == 3_504_872  # torchvision's documented number
    for key, shape in {
        "features.0.0.weight": (32, 3, 3, 3),
        "features.1.conv.0.0.weight": (32, 1, 3, 3),
        "features.1.conv.1.weight": (16, 32, 1, 1),
        "features.2.conv.0.0.weight": (96, 16, 1, 1),
        "features.2.conv.1.0.weight": (96, 1, 3, 3),
        "features.2.conv.2.weight": (24, 96, 1, 1),
        "features.17.conv.2.weight": (320, 960, 1, 1),
        "features.18.0.weight": (1280, 320, 1, 1),
        "classifier.1.weight": (1000, 1280),
    }.items():
        assert tuple(state[key].shape) == shape, key


def test_blocks_and_where_the_shift_stands() -> None:
    with torch.device("meta"):
        net = create_model("tsm_mobilenetv2")
    blocks = net.residual_blocks()
    assert [b.name for b in blocks] == [f"features.{index}" for index in range(1, 18)]
    assert [b.width for b in blocks] == WIDTHS
    assert [b.stage for b in blocks] == [1, 2, 2, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 6, 6, 6, 7]
    shifted = [key for key, module in net.named_modules() if isinstance(module, FoldTime)]
    assert shifted == [f"features.{index}.temporal" for index in RESIDUAL]


def by_hand(state: dict[str, Tensor], x: Tensor, strides: list[int]) -> Tensor:
    """torchvision's forward in evaluation, from its state dict."""

    def unit(x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        weight = state[f"{conv}.weight"]
        groups = x.shape[1] if weight.shape[1] == 1 else 1
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
        mean, var = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        return F.batch_norm(x, mean, var, state[f"{norm}.weight"], state[f"{norm}.bias"])

    x = unit(x, "features.0.0", "features.0.1", 2).clamp(0, 6)
    for index, stride in enumerate(strides, 1):
        at, before = f"features.{index}.conv", x
        depthwise = 0
        if f"{at}.3.weight" in state:
            x = unit(x, f"{at}.0.0", f"{at}.0.1").clamp(0, 6)
            depthwise = 1
        x = unit(x, f"{at}.{depthwise}.0", f"{at}.{depthwise}.1", stride).clamp(0, 6)
        x = unit(x, f"{at}.{depthwise + 1}", f"{at}.{depthwise + 2}")
        x = before + x if stride == 1 and before.shape == x.shape else x
    last = f"features.{len(strides) + 1}"
    x = unit(x, f"{last}.0", f"{last}.1").clamp(0, 6).mean((2, 3))
    return F.linear(x, state["classifier.1.weight"], state["classifier.1.bias"])


def test_forward_is_torchvisions() -> None:
    torch.manual_seed(0)
    net = MobileNetV2(5, stages=((1, 8, 1, 1), (6, 12, 2, 2), (6, 16, 2, 1))).double().eval()
    for value in net.state_dict().values():
        if value.ndim == 1:
            value.copy_(torch.rand_like(value) + 0.5)
    x = torch.randn(2, 3, 48, 40, dtype=torch.float64)
    expected = by_hand(net.state_dict(), x, [1, 2, 1, 1, 1])
    torch.testing.assert_close(net(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("channels", [3, 10])
def test_imagenet_weights_load(tmp_path: Path, channels: int) -> None:
    source = create_model("tiny_tsm_mobilenetv2", num_classes=1000).state_dict()
    torch.save(source, tmp_path / "mobilenet.pth")
    net = create_model("tiny_tsm_mobilenetv2", in_channels=channels)
    load_weights(net, tmp_path / "mobilenet.pth", part="features")
    found = net.state_dict()
    for key, value in source.items():
        if not key.startswith("classifier.") and key != "features.0.0.weight":
            assert torch.equal(found[key], value), key
    stem = source["features.0.0.weight"]
    expected = stem if channels == 3 else stem.mean(1, keepdim=True).expand(-1, 10, -1, -1)
    torch.testing.assert_close(found["features.0.0.weight"], expected)
