from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vidops.models import create_model, load_weights
from vidops.models.x3d import squeezed_width

NORM = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
# What PyTorchVideo's x3d_xs, x3d_s, x3d_m and x3d_l call their parameters.
STEM = ["conv.conv_t.weight", "conv.conv_xy.weight", *[f"norm.{key}" for key in NORM]]
BRANCH = [
    "conv_a.weight",
    *[f"norm_a.{key}" for key in NORM],
    "conv_b.weight",
    *[f"norm_b.0.{key}" for key in NORM],
    "norm_b.1.block.0.weight",
    "norm_b.1.block.0.bias",
    "norm_b.1.block.2.weight",
    "norm_b.1.block.2.bias",
    "conv_c.weight",
    *[f"norm_c.{key}" for key in NORM],
]
SHORTCUT = ["branch1_conv.weight", *[f"branch1_norm.{key}" for key in NORM]]
HEAD = [
    "pool.pre_conv.weight",
    *[f"pool.pre_norm.{key}" for key in NORM],
    "pool.post_conv.weight",
    "proj.weight",
    "proj.bias",
]


def pytorchvideo_keys(counts: tuple[int, ...]) -> list[str]:
    """The state dict's keys in order: the first shortcut has no norm, every other block no excitation."""
    keys = [f"blocks.0.{key}" for key in STEM]
    for stage, count in enumerate(counts, 1):
        for index in range(count):
            at = f"blocks.{stage}.res_blocks.{index}"
            if index == 0:
                keys += [f"{at}.{key}" for key in (SHORTCUT[:1] if stage == 1 else SHORTCUT)]
            squeezes = index % 2 == 0
            keys += [f"{at}.branch2.{key}" for key in BRANCH if squeezes or ".block." not in key]
    return [*keys, *[f"blocks.5.{key}" for key in HEAD]]


@pytest.mark.parametrize(
    "name, counts", [("x3d_xs", (3, 5, 11, 7)), ("x3d_m", (3, 5, 11, 7)), ("x3d_l", (5, 10, 25, 15))]
)
def test_keys_are_pytorchvideos(name: str, counts: tuple[int, ...]) -> None:
    with torch.device("meta"):
        state = create_model(name).state_dict()
    assert list(state) == pytorchvideo_keys(counts)


def test_shapes_are_pytorchvideos() -> None:
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in create_model("x3d_m").state_dict().items()}
    at = "blocks.{}.res_blocks.0.branch2.{}"
    for key, shape in {
        "blocks.0.conv.conv_t.weight": (24, 3, 1, 3, 3),
        "blocks.0.conv.conv_xy.weight": (24, 1, 5, 1, 1),
        "blocks.1.res_blocks.0.branch1_conv.weight": (24, 24, 1, 1, 1),
        "blocks.2.res_blocks.0.branch1_conv.weight": (48, 24, 1, 1, 1),
        at.format(1, "conv_a.weight"): (54, 24, 1, 1, 1),
        at.format(2, "conv_a.weight"): (108, 24, 1, 1, 1),
        at.format(3, "conv_b.weight"): (216, 1, 3, 3, 3),
        at.format(4, "conv_c.weight"): (192, 432, 1, 1, 1),
        at.format(1, "norm_b.1.block.0.weight"): (8, 54, 1, 1, 1),
        at.format(2, "norm_b.1.block.0.weight"): (8, 108, 1, 1, 1),
        at.format(3, "norm_b.1.block.0.weight"): (16, 216, 1, 1, 1),
        at.format(4, "norm_b.1.block.2.weight"): (432, 32, 1, 1, 1),
        "blocks.5.pool.pre_conv.weight": (432, 192, 1, 1, 1),
        "blocks.5.pool.post_conv.weight": (2048, 432, 1, 1, 1),
        "blocks.5.proj.weight": (400, 2048),
    }.items():
        assert shapes[key] == shape, key


def test_squeezed_widths() -> None:
    assert [squeezed_width(c) for c in (54, 108, 216, 432, 20, 200)] == [8, 8, 16, 32, 8, 16]


def by_hand(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """PyTorchVideo's forward in evaluation, from a state dict; a key that is there is a step that is taken."""

    def norm(x: Tensor, at: str) -> Tensor:
        mean, var = state[f"{at}.running_mean"], state[f"{at}.running_var"]
        return F.batch_norm(x, mean, var, state[f"{at}.weight"], state[f"{at}.bias"])

    x = F.conv3d(x, state["blocks.0.conv.conv_t.weight"], stride=(1, 2, 2), padding=(0, 1, 1))
    temporal = state["blocks.0.conv.conv_xy.weight"]
    x = F.conv3d(x, temporal, padding=(2, 0, 0), groups=len(temporal))
    x = F.relu(norm(x, "blocks.0.norm"))
    blocks = sorted({tuple(key.split(".")[:4]) for key in state if ".res_blocks." in key})
    for parts in blocks:
        at, stride = ".".join(parts), (1, 2, 2) if parts[3] == "0" else 1
        short = x
        if f"{at}.branch1_conv.weight" in state:
            short = F.conv3d(x, state[f"{at}.branch1_conv.weight"], stride=stride)
        if f"{at}.branch1_norm.weight" in state:
            short = norm(short, f"{at}.branch1_norm")
        at += ".branch2"
        x = F.relu(norm(F.conv3d(x, state[f"{at}.conv_a.weight"]), f"{at}.norm_a"))
        depthwise = state[f"{at}.conv_b.weight"]
        x = F.conv3d(x, depthwise, stride=stride, padding=1, groups=len(depthwise))
        x = norm(x, f"{at}.norm_b.0")
        if f"{at}.norm_b.1.block.0.weight" in state:
            se = {
                key: state[f"{at}.norm_b.1.block.{key}"]
                for key in ("0.weight", "0.bias", "2.weight", "2.bias")
            }
            gate = F.relu(F.conv3d(x.mean((2, 3, 4), keepdim=True), se["0.weight"], se["0.bias"]))
            x = x * F.conv3d(gate, se["2.weight"], se["2.bias"]).sigmoid()
        x = F.conv3d(x * x.sigmoid(), state[f"{at}.conv_c.weight"])
        x = F.relu(short + norm(x, f"{at}.norm_c"))
    last = max(int(key.split(".")[1]) for key in state)
    head = f"blocks.{last}"
    x = F.relu(norm(F.conv3d(x, state[f"{head}.pool.pre_conv.weight"]), f"{head}.pool.pre_norm"))
    x = F.relu(F.conv3d(x.mean((2, 3, 4), keepdim=True), state[f"{head}.pool.post_conv.weight"]))
    return F.linear(x.flatten(1), state[f"{head}.proj.weight"], state[f"{head}.proj.bias"])


def test_forward_is_pytorchvideos(tmp_path: Path) -> None:
    """Weights of another process, as the release would give them, loaded from a file."""
    torch.manual_seed(0)
    net = create_model("tiny_x3d").double().eval()
    state = {
        key: torch.rand_like(value) + 0.5 if "norm" in key and value.ndim == 1 else value + 0.01
        for key, value in net.state_dict().items()
    }
    torch.save({"model_state": state}, tmp_path / "x3d.pyth")
    load_weights(net, tmp_path / "x3d.pyth")
    clip = torch.randn(2, 3, 8, 40, 56, dtype=torch.float64)
    torch.testing.assert_close(net(clip), by_hand(state, clip), rtol=1e-10, atol=1e-10)


def test_starts_with_silent_branches() -> None:
    net = create_model("tiny_x3d")
    silent = [key for key, p in net.named_parameters() if not p.any() and key.endswith("norm_c.weight")]
    assert len(silent) == len(net.residual_blocks())
    assert net.blocks[1].res_blocks[0].branch2.norm_b[0].weight.eq(1).all()


@pytest.mark.parametrize("name", ["x3d_m", "x3d_l"])
def test_blocks(name: str) -> None:
    with torch.device("meta"):
        blocks = create_model(name).residual_blocks()
    counts = {"x3d_m": (3, 5, 11, 7), "x3d_l": (5, 10, 25, 15)}[name]
    assert [b.width for b in blocks] == [
        w for w, n in zip((24, 48, 96, 192), counts, strict=True) for _ in range(n)
    ]
    assert [b.stage for b in blocks] == [s for s, n in enumerate(counts, 1) for _ in range(n)]
    assert blocks[3].name == f"blocks.{1 if name == 'x3d_l' else 2}.res_blocks.{3 if name == 'x3d_l' else 0}"
