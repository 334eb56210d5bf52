from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vidops.models import create_model, load_weights

NORM = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
# PyTorchVideo's i3d_r50: blocks of each stage, by their place among `blocks`, and the frames their conv_a sees.
STAGES = {1: (3, (3,)), 3: (4, (3, 1)), 4: (6, (3, 1)), 5: (3, (1, 3))}


def pytorchvideo_shapes() -> dict[str, tuple[int, ...]]:
    """The state dict of PyTorchVideo's i3d_r50 in its order; blocks.2 is a pool, which has no parameters."""
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(at: str, channels: int) -> None:
        shapes.update({f"{at}.{key}": () if key == NORM[-1] else (channels,) for key in NORM})

    shapes["blocks.0.conv.weight"] = (64, 3, 5, 7, 7)
    norm("blocks.0.norm", 64)
    given = 64
    for number, (stage, (count, frames)) in enumerate(STAGES.items()):
        inner = 64 * 2**number
        for index in range(count):
            at = f"blocks.{stage}.res_blocks.{index}"
            if index == 0:
                shapes[f"{at}.branch1_conv.weight"] = (4 * inner, given, 1, 1, 1)
                norm(f"{at}.branch1_norm", 4 * inner)
            shapes[f"{at}.branch2.conv_a.weight"] = (inner, given, frames[index % len(frames)], 1, 1)
            norm(f"{at}.branch2.norm_a", inner)
            shapes[f"{at}.branch2.conv_b.weight"] = (inner, inner, 1, 3, 3)
            norm(f"{at}.branch2.norm_b", inner)
            shapes[f"{at}.branch2.conv_c.weight"] = (4 * inner, inner, 1, 1, 1)
            norm(f"{at}.branch2.norm_c", 4 * inner)
            given = 4 * inner
    return {**shapes, "blocks.6.proj.weight": (400, 2048), "blocks.6.proj.bias": (400,)}


@pytest.mark.parametrize("options", [{}, {"last_stride": 1}, {"num_segments": 32}], ids=str)
def test_names_and_shapes_are_pytorchvideos(options: dict[str, int]) -> None:
    with torch.device("meta"):
        state = create_model("i3d_resnet50", **options).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == pytorchvideo_shapes()
    assert list(state) == list(pytorchvideo_shapes())
    assert sum(torch.Size(shape).numel() for shape in pytorchvideo_shapes().values()) == 28_096_645


def by_hand(state: dict[str, Tensor], clip: Tensor, last_stride: int = 2) -> Tensor:
    """The network from its state dict, step by step."""

    def norm(x: Tensor, at: str) -> Tensor:
        mean, var = state[f"{at}.running_mean"], state[f"{at}.running_var"]
        return F.batch_norm(x, mean, var, state[f"{at}.weight"], state[f"{at}.bias"])

    def convolved(x: Tensor, at: str, stride: int = 1, dilation: int = 1) -> Tensor:
        weight = state[f"{at}.weight"]
        padding = [(size // 2) * d for size, d in zip(weight.shape[2:], (1, dilation, dilation), strict=True)]
        return F.conv3d(x, weight, None, (1, stride, stride), padding, (1, dilation, dilation))

    x = F.relu(norm(convolved(clip, "blocks.0.conv", 2), "blocks.0.norm"))
    x = F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
    blocks = sorted({tuple(map(int, key.split(".")[1:4:2])) for key in state if ".res_blocks." in key})
    for stage, index in blocks:
        if stage == 3 and index == 0:
            pairs = torch.stack([x[:, :, 0:-1:2], x[:, :, 1::2]]).amax(0)
            x = pairs if x.shape[2] % 2 == 0 else torch.cat([pairs, x[:, :, -1:]], 2)
        at = f"blocks.{stage}.res_blocks.{index}"
        stride = 1 if index or stage == 1 else last_stride if stage == blocks[-1][0] else 2
        dilation = 2 if stage == blocks[-1][0] and last_stride == 1 else 1
        short = x
        if f"{at}.branch1_conv.weight" in state:
            short = norm(convolved(x, f"{at}.branch1_conv", stride), f"{at}.branch1_norm")
        x = F.relu(norm(convolved(x, f"{at}.branch2.conv_a"), f"{at}.branch2.norm_a"))
        x = F.relu(norm(convolved(x, f"{at}.branch2.conv_b", stride, dilation), f"{at}.branch2.norm_b"))
        x = F.relu(short + norm(convolved(x, f"{at}.branch2.conv_c"), f"{at}.branch2.norm_c"))
    head = f"blocks.{max(int(key.split('.')[1]) for key in state)}.proj"
    return F.linear(x.mean((2, 3, 4)), state[f"{head}.weight"], state[f"{head}.bias"])


@pytest.mark.parametrize("last_stride", [2, 1])
@pytest.mark.parametrize("frames", [8, 5])
def test_forward_is_pytorchvideos(tmp_path: Path, frames: int, last_stride: int) -> None:
    """Weights of another process, as the release would give them, loaded from a file."""
    torch.manual_seed(0)
    net = create_model("tiny_i3d", num_segments=frames, last_stride=last_stride).double().eval()
    state = {
        key: torch.rand_like(value) + 0.5 if "norm" in key and value.ndim == 1 else value + 0.01
        for key, value in net.state_dict().items()
    }
    torch.save({"model_state": state}, tmp_path / "I3D_8x8_R50.pyth")
    load_weights(net, tmp_path / "I3D_8x8_R50.pyth")
    clip = torch.randn(2, 3, frames, 40, 56, dtype=torch.float64)
    torch.testing.assert_close(net(clip), by_hand(state, clip, last_stride), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("frames", "left"), [(1, 1), (2, 1), (3, 2), (8, 4), (32, 16)])
@pytest.mark.parametrize(("last_stride", "size"), [(2, 8), (1, 16)])
def test_maps(frames: int, left: int, last_stride: int, size: int) -> None:
    with torch.device("meta"):
        net = create_model("i3d_resnet50", num_segments=frames, last_stride=last_stride)
        x = net.forward_features(net.enter(torch.empty(1, 3, frames, 256, 256)))
    assert x.shape == (1, net.features, left, size, size)
    assert net.features == 2048
    assert net.stride == 256 // size


def test_dilation_alone_replaces_the_stride() -> None:
    with torch.device("meta"):
        kernels = [
            [
                (conv.kernel_size, conv.stride, conv.dilation)
                for conv in net.modules()
                if hasattr(conv, "groups")
            ]
            for net in (create_model("i3d_resnet50", last_stride=s) for s in (2, 1))
        ]
    changed = [pair for pair in zip(*kernels, strict=True) if pair[0] != pair[1]]
    assert changed == [
        (((1, 1, 1), (1, 2, 2), (1, 1, 1)), ((1, 1, 1), (1, 1, 1), (1, 1, 1))),
        (((1, 3, 3), (1, 2, 2), (1, 1, 1)), ((1, 3, 3), (1, 1, 1), (1, 2, 2))),
        (((1, 3, 3), (1, 1, 1), (1, 1, 1)), ((1, 3, 3), (1, 1, 1), (1, 2, 2))),
        (((1, 3, 3), (1, 1, 1), (1, 1, 1)), ((1, 3, 3), (1, 1, 1), (1, 2, 2))),
    ]


@pytest.mark.parametrize("value", [0, 4, True, 1.5, None])
def test_last_stride_is_checked(value: object) -> None:
    with pytest.raises(ValueError, match=f"^last_stride must be 1 or 2, got {value!r}"):
        create_model("tiny_i3d", last_stride=value)


def test_starts_with_silent_branches() -> None:
    net = create_model("tiny_i3d")
    silent = [key for key, p in net.named_parameters() if not p.any() and key.endswith("norm_c.weight")]
    assert len(silent) == len(net.residual_blocks()) - 1  # the pool has no weights
