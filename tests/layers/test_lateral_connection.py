from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.ops.common import EVERY_BACKEND, device_for
from vidops.layers import BandPassLateralConnection, LateralConnection, MotionBandPass
from vidops.layers.clips import ClipNorm
from vidops.layers.lateral_connection import DESIGNS, linear_map, match_size

ALL = ["bplc", *DESIGNS]


def pathways(quiet: tuple[int, int, int] = (4, 5, 5), requires_grad: bool = False) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    sizes = (4, 9, 9), quiet
    return [
        torch.randn(2, 6, *s, generator=g, dtype=torch.float64, requires_grad=requires_grad) for s in sizes
    ]


def awake(net: nn.Module) -> nn.Module:
    """Raise the batch norms that start at zero."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.ones_(module.weight)
    return net.double()


def normal(x: Tensor) -> Tensor:
    """What a new batch norm makes of a clip in training."""
    return (x - x.mean((0, 2, 3, 4), keepdim=True)) / (x.var((0, 2, 3, 4), False, keepdim=True) + 1e-5).sqrt()


def frames_to(x: Tensor, size: int) -> Tensor:
    images = x.transpose(1, 2).flatten(0, 1)
    return F.interpolate(images, size, mode="bilinear").unflatten(0, (2, -1)).transpose(1, 2)


@pytest.mark.parametrize("index", [1, 2, 3, 4])
@pytest.mark.parametrize("design", ALL)
def test_which_way_each_design_goes(design: str, index: int) -> None:
    busy, quiet = pathways()
    layer = awake(LateralConnection(6, index, design, kernel_size=3))
    band_pass = MotionBandPass.features(6, kernel_size=3).double()
    to_quiet = quiet + normal(frames_to(busy, 5))
    to_busy = busy + normal(frames_to(band_pass(quiet), 9))
    if design == "lc5" and index % 2 == 0:
        to_busy = busy + normal(layer.to_busy.layer(frames_to(quiet, 9)))
    expected = {
        "lc1": (to_busy, quiet),
        "lc2": (busy, to_quiet),
        "lc3": (to_busy, to_quiet),
        **dict.fromkeys(("lc4", "lc5", "bplc"), (busy, to_quiet) if index % 2 else (to_busy, quiet)),
    }[design]
    torch.testing.assert_close(layer(busy, quiet), expected, rtol=1e-9, atol=1e-9)
    has_band_pass = any(isinstance(m, MotionBandPass) for m in layer.modules())
    assert has_band_pass == (design in ("lc1", "lc3") or (design in ("lc4", "bplc") and index % 2 == 0))


@pytest.mark.parametrize("design", ALL)
@pytest.mark.parametrize("phi", ["identity", "conv", "mlp"])
def test_a_new_connection_changes_nothing(design: str, phi: str) -> None:
    for index in (1, 2):
        given = pathways()
        found = LateralConnection(6, index, design, phi=phi, kernel_size=3).double()(*given)
        assert all(torch.equal(a, b) for a, b in zip(found, given, strict=True))


def test_bplc_is_lc4() -> None:
    torch.manual_seed(0)
    for index in (1, 2):
        layer = awake(BandPassLateralConnection(6, index, phi="mlp", kernel_size=5))
        other = awake(LateralConnection(6, index, "lc4", phi="mlp", kernel_size=5))
        other.load_state_dict(layer.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(layer(*pathways()), other(*pathways()), strict=True))


@pytest.mark.parametrize(("kind", "count"), [("identity", 0), ("conv", 64 * 64), ("mlp", 2 * 64 * 16)])
def test_parameters_of_phi(kind: str, count: int) -> None:
    assert sum(p.numel() for p in linear_map(64, kind).parameters()) == count


def test_other_numbers_of_frames() -> None:
    """Time is resampled linearly, as torch does it."""
    busy, quiet = pathways(quiet=(3, 5, 5))
    found = match_size(busy, quiet.shape[2:])
    torch.testing.assert_close(found, F.interpolate(busy, (3, 5, 5), mode="trilinear"), rtol=1e-9, atol=1e-9)
    for index in (1, 2):
        new_busy, new_quiet = awake(LateralConnection(6, index, kernel_size=3))(busy, quiet)
        assert (new_busy.shape, new_quiet.shape) == (busy.shape, quiet.shape)


@pytest.mark.parametrize("backend", EVERY_BACKEND)
def test_gradients_on_every_backend(backend: str) -> None:
    device = device_for(backend, "resize")
    device_for(backend, "motion_band_pass")
    results = []
    for b in ("reference", backend):
        torch.manual_seed(0)
        layer = awake(LateralConnection(6, 1, "lc3", phi="mlp", kernel_size=3, backend=b)).to(device)
        given = [x.detach().to(device).requires_grad_() for x in pathways(quiet=(3, 4, 5))]
        sum(x.square().sum() for x in layer(*given)).backward()
        results.append([x.grad for x in (*given, *layer.parameters())])
    torch.testing.assert_close(results[1], results[0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("frames", [(4, 1, 1), (1, 1, 1), (4, 2, 1)])
def test_norm_of_clips_of_one_pixel(frames: tuple[int, int, int]) -> None:
    """Whatever the memory of a clip and of its gradient, where batch norm by itself gets some pairs wrong."""
    g = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(2, 6, *frames, generator=g, dtype=torch.float64) for _ in range(2))
    leaf = x.requires_grad_()
    (expected,) = torch.autograd.grad(normal(leaf), leaf, grad)
    last = (0, 2, 3, 4, 1)
    for layout in ((0, 1, 2, 3, 4), (0, 2, 1, 3, 4), last):
        back = [layout.index(axis) for axis in range(5)]
        given = x.detach().permute(layout).contiguous().permute(back).requires_grad_()
        for other in ((0, 1, 2, 3, 4), (0, 2, 1, 3, 4), last):
            back = [other.index(axis) for axis in range(5)]
            norm = ClipNorm(6).double()
            (found,) = torch.autograd.grad(norm(given), given, grad.permute(other).contiguous().permute(back))
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_gradcheck(backend: str) -> None:
    device_for(backend, "resize")
    layer = awake(LateralConnection(2, 1, "lc3", phi="conv", kernel_size=3, backend=backend))
    g = torch.Generator().manual_seed(0)
    given = [torch.randn(1, 2, 2, s, s, generator=g, dtype=torch.float64, requires_grad=True) for s in (4, 3)]
    assert torch.autograd.gradcheck(layer, given)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"design": "lc6"}, "lateral must be one of bplc, lc1, lc2, lc3, lc4, lc5, got 'lc6'"),
        ({"phi": "relu"}, "phi must be one of identity, conv, mlp, got 'relu'"),
        ({"design": "lc1", "phi": "relu"}, "phi must be one of"),
        ({"index": 0}, "channels and index must be at least 1, got 6 and 0"),
        ({"index": 2, "kernel_size": 4}, "kernel_size must be odd"),
        ({"index": 2, "norm": "l2"}, "norm must be one of l1, sum"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        LateralConnection(6, **arguments)  # type: ignore[arg-type]


def test_quiet_features_smaller_than_the_kernel() -> None:
    with pytest.raises(
        ValueError, match=r"clip: its quiet features are 3x3 here, too small .* of 7x7; .*quiet_size"
    ):
        LateralConnection(6, 2)(*(x.float() for x in pathways(quiet=(4, 3, 3))))


@pytest.mark.parametrize("design", ALL)
@pytest.mark.parametrize("index", [1, 2])
def test_clips_that_do_not_belong_together_are_refused(design: str, index: int) -> None:
    layer = LateralConnection(6, index, design, kernel_size=3)
    quiet = torch.rand(2, 6, 4, 5, 5)
    with pytest.raises(ValueError, match="busy and quiet must be as many clips, got 2 and 1"):
        layer(quiet, quiet[:1])
    with pytest.raises(ValueError, match="busy and quiet must have 6 channels, got 6 and 5"):
        layer(quiet, quiet[:, :5])
