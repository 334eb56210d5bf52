from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vidops.models import BasicBlock, Bottleneck, ResNet, create_model


def torchvision_keys(blocks: tuple[int, ...], classes: int) -> dict[str, tuple[int, ...]]:
    """The state dict of torchvision's bottleneck ResNet, keys in order with shapes."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, out: int, into: int, size: int) -> None:
        shapes[f"{name}.weight"] = (out, into, size, size)

    def norm(name: str, channels: int) -> None:
        for key in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{key}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    conv("conv1", 64, 3, 7)
    norm("bn1", 64)
    into = 64
    for stage, (count, width) in enumerate(zip(blocks, (64, 128, 256, 512), strict=True), 1):
        for index in range(count):
            at = f"layer{stage}.{index}"
            for number, (out, channels, size) in enumerate(
                ((width, into, 1), (width, width, 3), (4 * width, width, 1))
            ):
                conv(f"{at}.conv{number + 1}", out, channels, size)
                norm(f"{at}.bn{number + 1}", out)
            if index == 0:
                conv(f"{at}.downsample.0", 4 * width, into, 1)
                norm(f"{at}.downsample.1", 4 * width)
            into = 4 * width
    shapes["fc.weight"] = (classes, 2048)
    shapes["fc.bias"] = (classes,)
    return shapes


@pytest.mark.parametrize(
    "depth, blocks, params", [(50, (3, 4, 6, 3), 25_557_032), (101, (3, 4, 23, 3), 44_549_160)]
)
def test_keys_and_shapes_are_torchvisions(depth: int, blocks: tuple[int, ...], params: int) -> None:
    with torch.device("meta"):
        for family in ("tsn", "tsm"):
            net = create_model(f"{family}_resnet{depth}", num_classes=1000)
            assert {k: tuple(v.shape) for k, v in net.state_dict().items()} == torchvision_keys(blocks, 1000)
            assert list(net.state_dict()) == list(torchvision_keys(blocks, 1000))
            assert sum(p.numel() for p in net.parameters()) == params  # torchvision's documented numbers
        mixed = create_model(f"mstnet_resnet{depth}", num_classes=1000).state_dict()
    added = [k for k in mixed if k not in torchvision_keys(blocks, 1000)]
    assert len(mixed) == len(torchvision_keys(blocks, 1000)) + len(added)
    assert len(added) == sum(blocks)
    assert all(k.endswith(".temporal.layer.weight") for k in added)


def by_hand(state: dict[str, Tensor], x: Tensor, blocks: tuple[int, ...], convs: int) -> Tensor:
    """torchvision's forward, from its state dict: stride in the 3x3 convolution of a stage's first block."""

    def unit(x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        weight = state[f"{conv}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, var = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        return F.batch_norm(x, mean, var, state[f"{norm}.weight"], state[f"{norm}.bias"])

    x = F.max_pool2d(F.relu(unit(x, "conv1", "bn1", 2)), 3, 2, 1)
    strided = 2 if convs == 3 else 1
    for stage, count in enumerate(blocks, 1):
        for index in range(count):
            at, stride = f"layer{stage}.{index}", 2 if stage > 1 and index == 0 else 1
            short = x
            if f"{at}.downsample.0.weight" in state:
                short = unit(x, f"{at}.downsample.0", f"{at}.downsample.1", stride)
            for number in range(1, convs + 1):
                x = unit(x, f"{at}.conv{number}", f"{at}.bn{number}", stride if number == strided else 1)
                x = F.relu(x + short if number == convs else x)
    return F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


@pytest.mark.parametrize("block, convs", [(Bottleneck, 3), (BasicBlock, 2)])
def test_forward_is_torchvisions(block: type[Bottleneck] | type[BasicBlock], convs: int) -> None:
    torch.manual_seed(0)
    net = ResNet((2, 1, 2), 5, width=8, block=block).double().eval()
    for key, value in net.state_dict().items():
        if "bn" in key or "downsample.1" in key:
            value.copy_(torch.rand_like(value, dtype=torch.float64) + 0.5)
    x = torch.randn(2, 3, 48, 40, dtype=torch.float64)
    expected = by_hand(net.state_dict(), x, (2, 1, 2), convs)
    torch.testing.assert_close(net(x), expected, rtol=1e-10, atol=1e-10)


def test_small_stem_keeps_the_total_stride() -> None:
    frames = torch.rand(1, 3, 64, 64)
    for small in (False, True):
        assert ResNet((1, 1, 1, 1), 5, width=8, small=small).forward_features(frames).shape == (1, 256, 2, 2)


def test_position_is_checked() -> None:
    with pytest.raises(ValueError, match="position must be one of head, inner, got 'tail'"):
        ResNet((1,), 5, position="tail")
