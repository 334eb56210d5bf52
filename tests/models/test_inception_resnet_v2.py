from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vidops.models import InceptionResNetV2, create_model
from vidops.models.inception_resnet_v2 import TINY

NORM = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]


def unit(name: str) -> list[str]:
    return [f"{name}.conv.weight", *[f"{name}.bn.{key}" for key in NORM]]


def branches(name: str, *lengths: int, first: int = 0) -> list[str]:
    """Keys of branches: convolutions alone, or so many one after another, from an index on."""
    keys = []
    for branch, length in enumerate(lengths):
        names = [f"branch{branch}"] if length == 0 else [f"branch{branch}.{i}" for i in range(length)]
        keys += [key for part in names for key in unit(f"{name}.{part}")]
    return keys


def block(name: str, *lengths: int) -> list[str]:
    return [*branches(name, *lengths), f"{name}.conv2d.weight", f"{name}.conv2d.bias"]


# What timm's inception_resnet_v2 calls its parameters.
TIMM = [
    *[key for part in ("1a", "2a", "2b", "3b", "4a") for key in unit(f"conv2d_{part}")],
    *branches("mixed_5b", 0, 2, 3),
    *unit("mixed_5b.branch3.1"),
    *[key for i in range(10) for key in block(f"repeat.{i}", 0, 2, 3)],
    *branches("mixed_6a", 0, 3),
    *[key for i in range(20) for key in block(f"repeat_1.{i}", 0, 3)],
    *branches("mixed_7a", 2, 2, 3),
    *[key for i in range(9) for key in block(f"repeat_2.{i}", 0, 3)],
    *block("block8", 0, 3),
    *unit("conv2d_7b"),
    "classif.weight",
    "classif.bias",
]


@pytest.mark.parametrize("name", ["inception_resnet_v2", "tsn_inception_resnet_v2"])
def test_keys_and_shapes_are_timms(name: str) -> None:
    with torch.device("meta"):
        net = create_model(name, num_classes=1000)
    state = net.state_dict()
    assert list(state) == TIMM
    assert sum(p.numel() for p in net.parameters()) == 55_843_464  # that of timm's network
    for key, shape in {
        "conv2d_1a.conv.weight": (32, 3, 3, 3),
        "conv2d_3b.conv.weight": (80, 64, 1, 1),
        "mixed_5b.branch1.1.conv.weight": (64, 48, 5, 5),
        "repeat.9.branch2.2.conv.weight": (64, 48, 3, 3),
        "repeat_1.0.branch1.1.conv.weight": (160, 128, 1, 7),
        "repeat_1.0.branch1.2.conv.weight": (192, 160, 7, 1),
        "mixed_7a.branch2.2.conv.weight": (320, 288, 3, 3),
        "block8.branch1.1.conv.weight": (224, 192, 1, 3),
        "block8.conv2d.weight": (2080, 448, 1, 1),
        "classif.weight": (1000, 1536),
    }.items():
        assert tuple(state[key].shape) == shape, key


def by_hand(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """timm's forward in evaluation, from its state dict."""

    def conv(x: Tensor, name: str, stride: int = 1, valid: bool = False) -> Tensor:
        weight = state[f"{name}.conv.weight"]
        padding = (0, 0) if valid else (weight.shape[2] // 2, weight.shape[3] // 2)
        x = F.conv2d(x, weight, stride=stride, padding=padding)
        norm = (state[f"{name}.bn.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *norm, eps=1e-3).relu()

    def chain(x: Tensor, name: str, length: int, last_stride: int = 1) -> Tensor:
        for i in range(length):
            last = i == length - 1 and last_stride == 2
            x = conv(x, f"{name}.{i}", 2 if last else 1, valid=last)
        return x

    def residual(x: Tensor, name: str, scale: float, *lengths: int) -> Tensor:
        parts = [conv(x, f"{name}.branch0")]
        parts += [chain(x, f"{name}.branch{i}", length) for i, length in enumerate(lengths, 1)]
        back = F.conv2d(torch.cat(parts, 1), state[f"{name}.conv2d.weight"], state[f"{name}.conv2d.bias"])
        return x + scale * back

    x = conv(conv(conv(x, "conv2d_1a", 2, True), "conv2d_2a", valid=True), "conv2d_2b")
    x = conv(conv(F.max_pool2d(x, 3, 2), "conv2d_3b"), "conv2d_4a", valid=True)
    x = F.max_pool2d(x, 3, 2)
    average = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    pieces = [conv(x, "mixed_5b.branch0"), chain(x, "mixed_5b.branch1", 2), chain(x, "mixed_5b.branch2", 3)]
    x = torch.cat([*pieces, conv(average, "mixed_5b.branch3.1")], 1)
    x = residual(x, "repeat.0", 0.17, 2, 3).relu()
    pieces = [conv(x, "mixed_6a.branch0", 2, True), chain(x, "mixed_6a.branch1", 3, 2)]
    x = torch.cat([*pieces, F.max_pool2d(x, 3, 2)], 1)
    x = residual(x, "repeat_1.0", 0.1, 3).relu()
    pieces = [chain(x, f"mixed_7a.branch{i}", length, 2) for i, length in enumerate((2, 2, 3))]
    x = torch.cat([*pieces, F.max_pool2d(x, 3, 2)], 1)
    x = residual(x, "repeat_2.0", 0.2, 3).relu()
    x = residual(x, "block8", 1.0, 3)
    return F.linear(conv(x, "conv2d_7b").mean((2, 3)), state["classif.weight"], state["classif.bias"])


def test_forward_is_timms() -> None:
    torch.manual_seed(0)
    net = InceptionResNetV2(5, **{**TINY, "small": False}).double().eval()
    for value in net.state_dict().values():
        if value.ndim == 1:
            value.copy_(torch.rand_like(value) + 0.5)
    x = torch.randn(2, 3, 75, 83, dtype=torch.float64)
    torch.testing.assert_close(net(x), by_hand(net.state_dict(), x), rtol=1e-10, atol=1e-10)


def test_blocks() -> None:
    with torch.device("meta"):
        blocks = create_model("inception_resnet_v2").residual_blocks()
    assert len(blocks) == 10 + 1 + 20 + 1 + 9 + 1
    assert [b.name for b in blocks[9:12]] == ["repeat.9", "mixed_6a", "repeat_1.0"]
    assert [b.name for b in blocks[-2:]] == ["repeat_2.8", "block8"]
    assert {b.stage: b.width for b in blocks} == {1: 320, 2: 1088, 3: 2080}
