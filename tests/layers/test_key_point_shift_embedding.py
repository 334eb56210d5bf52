from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.layers.attention import clips, stirred
from tests.ops.common import EVERY_BACKEND, LAYOUTS, device_for, in_layout
from tests.ops.keypoint_loops import by_hand
from vidops import accelerate
from vidops.layers import AdaptiveRegionalShift, KeyPointShiftEmbedding
from vidops.models import count_params

OP = "keypoint_shifts"
OPTIONS: list[dict[str, Any]] = [
    {"num_sets": 2, "embed_dim": 5},
    {"num_sets": 1, "num_regions": 9},
    {"num_sets": 2, "regions": "fixed"},
    {"num_sets": 2, "num_regions": 1},
]


def made(channels: int = 8, **options: Any) -> KeyPointShiftEmbedding:
    """A layer in fp64 and evaluation mode, all of whose features are awake."""
    layer = stirred(KeyPointShiftEmbedding(channels, **options))
    assert isinstance(layer, KeyPointShiftEmbedding)
    nn.init.ones_(layer.reduction.bn2.bias)
    return layer


def linear(rows: Tensor, conv: nn.Module, of_set: int, sets: int) -> Tensor:
    """One set's share of a grouped convolution that takes in all of what a set has."""
    assert isinstance(conv.weight, Tensor)
    assert isinstance(conv.bias, Tensor)
    return F.linear(rows, conv.weight.flatten(1).chunk(sets)[of_set], conv.bias.chunk(sets)[of_set])


def lines_by_hand(layer: AdaptiveRegionalShift, x: Tensor) -> Tensor:
    """Set by set and frame by frame, the pooling after the 1x1 convolution, as the description has it."""
    n, _, t, h, w = x.shape
    sets, r = layer.num_sets, layer.bands
    lines = torch.empty(n, sets, t, 2, r - 1, dtype=x.dtype)
    for s in range(sets):
        for f in range(t):
            if layer.centre is None:
                moved = layer.offsets[s].expand(n, 2) if r > 1 else None
            else:
                reduced = linear(x[:, :, f].movedim(1, 3), layer.centre.reduce, s, sets).movedim(3, 1)
                units = linear(F.adaptive_avg_pool2d(reduced, 4).flatten(1), layer.centre.fc1, s, sets)
                moved = linear(units.relu(), layer.centre.fc2, s, sets).tanh()
            for axis, side in enumerate((w, h)):
                for i in range(1, r):
                    lines[:, s, f, axis, i - 1] = side * i / r + moved[:, axis] * side / 4
    return lines


def features_by_hand(layer: KeyPointShiftEmbedding, x: Tensor) -> Tensor:
    shifts, _, _ = by_hand(x, lines_by_hand(layer.shifts, x), 0.1)
    n, sets, _, c, pairs, _ = shifts.shape
    own = layer.embedding.weight.chunk(sets, 1)
    embedded = layer.embedding.bias.expand(n, c, pairs, -1)
    for s in range(sets):
        rows = shifts[:, s].permute(0, 2, 3, 1, 4).flatten(3)  # each channel and pair: K places, (x, y)
        embedded = embedded + rows @ own[s].T
    for number in (1, 2):
        conv, bn = (layer.reduction.get_submodule(f"{kind}{number}") for kind in ("conv", "bn"))
        embedded = F.conv2d(embedded, conv.weight, None, (1, 2), (0, 1), 1, conv.groups)
        embedded = F.batch_norm(embedded, bn.running_mean, bn.running_var, bn.weight, bn.bias).relu()
    return embedded.mean(3).reshape(n, c // 4 * pairs)


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_is_the_definition(options: dict[str, Any], backend: str) -> None:
    device = device_for(backend, OP)
    layer, x = made(**options, backend=backend), clips(2, t=3)
    with torch.no_grad():
        lines, expected = lines_by_hand(layer.shifts, x), features_by_hand(layer, x)
        assert (expected > 0).float().mean() > 0.9
        layer, x = layer.to(device), x.to(device)
        torch.testing.assert_close(layer.shifts.separators(x).cpu(), lines, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(layer(x).cpu(), expected, rtol=1e-10, atol=1e-10)
        shifts, places, values = layer.shifts.key_points(x)
        assert torch.equal(shifts, layer.shifts(x))
    assert places.dtype == torch.int16
    assert values.shape == (2, layer.shifts.num_sets, layer.shifts.num_regions, 8, 3)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradients(options: dict[str, Any], backend: str) -> None:
    device_for(backend, OP)
    layer = made(4, **options, backend=backend)
    x = clips(1, 4, 2, 4, 4).requires_grad_()
    names = dict(layer.named_parameters())

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    parameters = tuple(p.detach().requires_grad_() for p in names.values())
    assert torch.autograd.gradcheck(call, (x, *parameters), fast_mode=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_batches(layout: str) -> None:
    layer, x = made(), clips(3, t=3)
    expected = layer(x[:1].expand(x.shape) if layout == "expanded" else x)
    torch.testing.assert_close(layer(in_layout(x, layout)), expected, rtol=1e-12, atol=1e-12)
    assert layer(x[:0]).shape == (0, 4)


@pytest.mark.parametrize("sides", [(2, 2), (2, 9), (5, 3)])
def test_frames_of_few_pixels(sides: tuple[int, int]) -> None:
    layer, x = made(), clips(2, 8, 3, *sides)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), features_by_hand(layer, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision(dtype: torch.dtype) -> None:
    layer, x = made().float(), clips(2, dtype=torch.float32)
    expected = layer(x)
    with torch.autocast("cpu", dtype=dtype):
        shifts, rows = layer.shifts(x), layer(x)
    assert shifts.dtype == torch.float32
    found = rows.float(), layer.to(dtype)(x.to(dtype)).float()
    for each in found:
        assert (each - expected).abs().max() < 0.05 * expected.abs().max()


# What a new layer is, and that it learns. -----------------------------------------------------------------------


@pytest.mark.parametrize(("num_regions", "lines"), [(4, [0.5]), (9, [1 / 3, 2 / 3]), (16, [0.25, 0.5, 0.75])])
def test_a_new_layers_grid_is_equal(num_regions: int, lines: list[float]) -> None:
    found = AdaptiveRegionalShift(8, num_regions, 3).separators(clips(dtype=torch.float32))
    sides = torch.tensor([5.0, 6.0])
    torch.testing.assert_close(found, (sides[:, None] * torch.tensor(lines)).expand(2, 3, 4, -1, -1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_rounds_a_line_once(dtype: torch.dtype) -> None:
    layer, x = AdaptiveRegionalShift(8, 9, 1).to(dtype), torch.zeros(1, 8, 1, 14, 25, dtype=dtype)
    exact = torch.tensor([[25 / 3, 50 / 3], [14 / 3, 28 / 3]], dtype=torch.float64)
    assert torch.equal(layer.separators(x)[0, 0, 0], exact.to(dtype))


def test_each_sets_linear_layer_starts_as_its_own() -> None:
    """Its bound is that of as many inputs as one set has, not all of them."""
    largest = KeyPointShiftEmbedding(8, num_regions=4, num_sets=8).embedding.weight.abs().max().item()
    assert 0.95 < largest / 8**-0.5 <= 1


@pytest.mark.parametrize("regions", ["adaptive", "fixed"])
def test_lines_reach_a_quarter_of_a_side(regions: str) -> None:
    layer = AdaptiveRegionalShift(8, 4, 16, regions=regions).double()
    if layer.centre is not None:
        nn.init.normal_(layer.centre.fc2.weight, std=30.0)
    moved = layer.separators(clips(8)).squeeze(4) / torch.tensor([5.0, 6.0]) - 0.5
    assert moved.abs().max() <= 0.25
    assert moved.min() < -0.2 < 0.2 < moved.max()


def test_what_starts_at_zero_holds_no_gradient_back_for_good() -> None:
    torch.manual_seed(0)
    layer, x = KeyPointShiftEmbedding(8, num_sets=2), clips(4, dtype=torch.float32)
    target, losses = torch.randn(4, 6), []
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    for step in range(20):
        loss = (layer(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        silent = {key for key, p in layer.named_parameters() if not p.grad.abs().max() > 0}
        before = {
            f"shifts.centre.{part}" for part in ("reduce.weight", "reduce.bias", "fc1.weight", "fc1.bias")
        }
        assert silent == (before if step == 0 else set())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    lines = layer.shifts.separators(x)
    assert (lines[:, 0] - lines[:, 1]).abs().max() > 1e-3  # the sets start alike and part


def bordered(n: int, generator: torch.Generator, size: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Clips of two frames, a quarter of which, right of and below a border, is brighter by 3.

    In every corner, beyond where lines reach, a point that is brighter still moves; a clip's motion is that of the one
    in the bright quarter. Its share in the shifts is largest where the lines are on the border: lines before it mix
    dark pixels into the bright region's mean, lines behind it bright ones into the others'. Returns clips, motions and
    borders (x, y).
    """
    border = torch.randint(size // 3, size - size // 3 + 1, (n, 2), generator=generator)
    pixel = torch.arange(size)
    bright = (pixel >= border[:, :1])[:, None, :] & (pixel >= border[:, 1:])[:, :, None]
    x = 3.0 * bright[:, None, None].repeat(1, 4, 2, 1, 1)
    margin = size // 4
    places = torch.randint(margin, (n, 4, 2, 2), generator=generator)  # corner, frame, (x, y)
    for corner in range(4):
        far = torch.tensor([corner & 1, corner >> 1]) * (size - margin)
        for frame in range(2):
            column, row = (places[:, corner, frame] + far).T
            x[torch.arange(n), :, frame, row, column] += 1.0
    return x, (places[:, 3, 1] - places[:, 3, 0]).float(), border.float()


def test_separators_learn_where_the_best_split_is() -> None:
    """Told nothing but motions, the lines move from the middle to a border that is elsewhere in every clip."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    layer = AdaptiveRegionalShift(4)
    x, motion, _ = bordered(512, generator)
    held_out, _, border = bordered(256, generator)

    def distance() -> float:
        with torch.no_grad():
            return (layer.separators(held_out)[:, 0, :, :, 0] - border[:, None]).abs().mean().item()

    start = distance()
    optimizer = torch.optim.Adam(layer.parameters(), 0.003)
    for _ in range(200):
        part = torch.randint(512, (64,), generator=generator)
        loss = (layer(x[part]).sum(2)[:, 0, :, 0] - motion[part, None]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert start > 1.0
    assert distance() < 0.25  # of a pixel


# Parameters, fixed regions, bad arguments. ----------------------------------------------------------------------


def test_parameters_fit_the_paper() -> None:
    """Beside 768 features of MFNet and 200 classes: 8.11 M less 7.84 M and 672 * 200."""
    with torch.device("meta"):
        layer = KeyPointShiftEmbedding(384)
        single = KeyPointShiftEmbedding(384, 1, 1)
    assert count_params(layer) == 133_192
    assert layer.num_features(8) == 672
    assert single.shifts.centre is None
    assert count_params(single.shifts) == 0


@pytest.mark.parametrize(
    ("frames", "text"),
    [(1, "at least 2, got 1"), (0, "a whole number"), (8.0, "a whole number"), ("8", "a whole")],
)
def test_features_of_no_clip_are_not_counted(frames: Any, text: str) -> None:
    with pytest.raises(ValueError, match=f"^frames must be {text}"):
        KeyPointShiftEmbedding(8, 1, 1).num_features(frames)


def test_fixed_regions_are_kept_with_the_weights() -> None:
    options = {"num_sets": 3, "regions": "fixed"}
    first, again, other = (AdaptiveRegionalShift(8, **options, seed=seed) for seed in (0, 0, 1))
    x = clips(dtype=torch.float32)
    lines = first.separators(x)
    assert torch.equal(lines, again.separators(x))
    assert not torch.equal(lines, other.separators(x))
    assert torch.equal(lines, lines[:1, :, :1].expand(lines.shape))  # of all clips and frames
    assert len(lines[0, :, 0, 0, 0].unique()) == 3
    other.load_state_dict(first.state_dict())
    assert torch.equal(lines, other.separators(x))
    assert not list(first.parameters())
    with torch.device("meta"):
        assert AdaptiveRegionalShift(8, **options).separators(torch.empty(2, 8, 4, 6, 5)).is_meta


def test_keys_do_not_depend_on_the_backend_which_accelerate_exchanges() -> None:
    device_for("cpu", OP)
    layers = [made(backend=backend) for backend in (None, "reference", "cpu")]
    assert len({tuple(layer.state_dict()) for layer in layers}) == 1
    (entry,) = accelerate(layers[1]).swapped
    assert (entry.name, entry.now) == ("shifts", "AdaptiveRegionalShift")
    assert layers[1].shifts.backend is None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"channels": 6}, "channels must be a multiple of 4, got 6"),
        ({"channels": 0}, "channels must be a whole number of at least 1, got 0"),
        ({"num_regions": 8}, "num_regions must be one of 1, 4, 9, 16, got 8"),
        ({"num_regions": True}, "num_regions must be one of 1, 4, 9, 16, got True"),
        ({"num_regions": [4]}, r"num_regions must be one of 1, 4, 9, 16, got \[4\]"),
        ({"num_sets": 0}, "num_sets must be a whole number of at least 1, got 0"),
        ({"num_sets": 17}, "num_sets must be at most 16, got 17"),
        ({"embed_dim": 0}, "embed_dim must be a whole number of at least 1, got 0"),
        ({"regions": "equal"}, "regions must be one of adaptive, fixed, got 'equal'"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"backend": "cppu"}, "backend must be one of reference, cpu, .* got 'cppu'"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}"):
        KeyPointShiftEmbedding(**{"channels": 8, **options})


@pytest.mark.parametrize(
    ("x", "error", "text"),
    [
        (clips(2, 6), ValueError, r"x must be a clip \(N, 8, T, H, W\), got \(2, 6, 4, 6, 5\)"),
        (clips(2)[0], ValueError, r"x must be a clip \(N, 8, T, H, W\), got \(8, 4, 6, 5\)"),
        (clips(2, t=1), ValueError, "x must have at least 2 frames, got 1"),
        (clips(2, w=2), ValueError, "x must have at least 3 rows and columns for num_regions=9, got 6 x 2"),
        (clips(2).int(), TypeError, "x must be of a floating dtype, got torch.int32"),
        ([1.0], TypeError, "x must be a Tensor, got list"),
    ],
    ids=str,
)
def test_bad_clips_are_named(x: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^{text}"):
        KeyPointShiftEmbedding(8, 9)(x)
