from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from tests.ops.common import EVERY_BACKEND, device_for, interpreted
from vidops.layers import MotionBandPass
from vidops.layers.motion_band_pass import laplacian_of_gaussian


def by_hand(kernel_size: int, sigma: float) -> torch.Tensor:
    """Eq. 5.2 on the integer grid."""
    r = kernel_size // 2
    rows = []
    for y in range(-r, r + 1):
        row = []
        for x in range(-r, r + 1):
            q = (x * x + y * y) / (2 * sigma**2)
            row.append(-math.exp(-q) / (math.pi * sigma**4) * (1 - q))
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("sigma, kernel_size, gain", [(1.1, 9, 1589), (0.9, 7, 827), (0.9, 3, 1.35)])
def test_gains_of_the_filters_that_the_thesis_uses(sigma: float, kernel_size: int, gain: float) -> None:
    plain = by_hand(kernel_size, sigma)
    weight = laplacian_of_gaussian(kernel_size, sigma, "sum")
    torch.testing.assert_close(weight, plain / plain.sum(), rtol=1e-9, atol=1e-12)
    assert weight.abs().sum().item() == pytest.approx(gain, rel=5e-4 if gain > 2 else 5e-3)
    assert weight.sum().item() == pytest.approx(1, abs=1e-9)
    layer = MotionBandPass(2, kernel_size, sigma, norm="sum")
    assert torch.equal(layer.spatial.detach(), weight.float().expand(2, -1, -1))
    unit = laplacian_of_gaussian(kernel_size, sigma, "l1")
    assert unit.abs().sum().item() == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(unit, weight / weight.abs().sum(), rtol=1e-12, atol=0)
    assert unit[kernel_size // 2, kernel_size // 2] > 0


def test_the_plain_sum_is_that_of_the_thesis() -> None:
    assert by_hand(9, 1.1).sum().item() == pytest.approx(-7.81e-4, rel=1e-3)


def test_presets() -> None:
    stem, features = MotionBandPass.stem(), MotionBandPass.features(8, kernel_size=3)
    assert (stem.channels, stem.kernel_size, stem.sigma) == (3, 9, 1.1)
    assert (stem.stride, stem.temporal_padding, stem.norm) == (3, "valid", "l1")
    assert (features.kernel_size, features.sigma, features.stride) == (3, 0.9, 1)
    assert features.temporal_padding == "replicate"
    assert sum(p.numel() for p in stem.parameters()) == 252
    torch.testing.assert_close(stem.temporal.detach(), torch.tensor([[-1.0, 2.0, -1.0]] * 3) / 3)
    assert stem(torch.rand(2, 3, 24, 16, 12)).shape == (2, 3, 8, 16, 12)
    assert features(torch.rand(2, 8, 5, 4, 4)).shape == (2, 8, 5, 4, 4)


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize("norm", ["l1", "sum"])
def test_a_still_clip_is_not_busy(backend: str, norm: str) -> None:
    device = device_for(backend, "motion_band_pass")
    generator = torch.Generator().manual_seed(0)
    height, width = (10, 11) if interpreted(backend) else (24, 26)
    x = torch.rand(1, 3, 1, height, width, generator=generator).expand(-1, -1, 6, -1, -1).to(device)
    for layer in (
        MotionBandPass.stem(norm=norm, quiet=True, backend=backend),
        MotionBandPass.features(3, norm=norm, quiet=True, backend=backend),
    ):
        busy, quiet = layer.to(device)(x)
        gain = layer.spatial.detach().abs().sum((1, 2)).max()
        assert busy.abs().max() < 1e-6 * gain
        torch.testing.assert_close(quiet, x[:, :, : busy.shape[2]], rtol=0, atol=2e-6 * gain.item())


@pytest.mark.parametrize("backend", EVERY_BACKEND)
def test_a_moving_edge_lights_up_along_its_boundary(backend: str) -> None:
    """A bright half-plane whose border moves two pixels a frame over a bright, still spot."""
    device = device_for(backend, "motion_band_pass")
    x = torch.zeros(1, 3, 3, 32, 48)
    for t in range(3):
        x[:, :, t, :, : 20 + 2 * t] = 1
    x[:, :, :, 10:14, 36:40] = 1
    y = MotionBandPass.stem(backend=backend).to(device)(x.to(device)).abs().cpu()[0, :, 0]
    along = y.amax((0, 1))
    assert along[20:24].min() > 0.1  # between the border's first and last place
    assert along[:14].max() < 1e-6  # inside what is bright, out of the filter's reach
    assert along[30:].max() < 1e-6  # the spot stands still
    assert (y[:, :, 19:25].amax(2) > 0.1).all()  # in every row, at the frame's edges too


def test_a_frozen_layer_has_the_same_parameters() -> None:
    frozen, trained = MotionBandPass.stem(trainable=False), MotionBandPass.stem()
    assert list(frozen.state_dict()) == list(trained.state_dict()) == ["spatial", "temporal"]
    assert not any(p.requires_grad for p in frozen.parameters())
    assert all(p.requires_grad for p in trained.parameters())
    x = torch.rand(1, 3, 3, 9, 9, requires_grad=True)
    frozen(x).sum().backward()
    assert x.grad is not None
    assert frozen.spatial.grad is None
    trained(x).square().sum().backward()
    assert trained.spatial.grad.any()
    assert trained.temporal.grad.any()


@pytest.mark.parametrize("backend", ["reference", "cpu", "cuda"])
@pytest.mark.parametrize("preset", [MotionBandPass.stem, MotionBandPass.features])
def test_gradients(preset: Any, backend: str) -> None:
    device = device_for(backend, "motion_band_pass")
    layer = preset(2, kernel_size=3, quiet=True, backend=backend).to(device, torch.float64)
    x = torch.rand(1, 2, 4, 3, 3, dtype=torch.float64, device=device, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]

    def call(x: torch.Tensor, *values: torch.Tensor) -> Any:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *(p.detach().requires_grad_() for p in layer.parameters())))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("weights", [torch.float32, torch.float16], ids=str)
def test_autocast_keeps_large_gains_in_fp32(dtype: torch.dtype, weights: torch.dtype) -> None:
    x = torch.randint(0, 256, (1, 3, 6, 12, 12), generator=torch.Generator().manual_seed(0)).to(weights)
    exact = MotionBandPass.stem(norm="sum", quiet=True)(x.float())
    assert exact[0].abs().max() > torch.finfo(torch.float16).max
    layer = MotionBandPass.stem(norm="sum", quiet=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # fp16 weights overflow outside autocast
        layer.to(weights)
    with torch.autocast("cpu", dtype=dtype), warnings.catch_warnings():
        warnings.simplefilter("error")
        busy, quiet = layer(x)
        assert busy.dtype == quiet.dtype == torch.float32
        assert MotionBandPass.stem()(x.float()).dtype == dtype
        assert layer.double()(x.double())[0].dtype == torch.float64
    torch.testing.assert_close(busy, exact[0], rtol=0, atol=2e-3 * exact[0].abs().max().item())


def test_a_large_gain_in_fp16_is_told_once() -> None:
    """When the layer becomes one of fp16: forward may be compiled, and warns no one then."""
    x = torch.rand(1, 3, 3, 12, 12).half()
    layer = MotionBandPass.stem(norm="sum")
    with pytest.warns(UserWarning, match=r"norm='sum'.*may overflow in float16"):
        layer.half()
    with pytest.warns(UserWarning, match="may overflow in float16"):
        nn.Sequential(MotionBandPass.stem(norm="sum")).to(torch.float16)
    torch.set_default_dtype(torch.float16)
    try:
        with pytest.warns(UserWarning, match="may overflow in float16"):
            MotionBandPass.stem(norm="sum")
    finally:
        torch.set_default_dtype(torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x)
        layer.float().half()(x)
        MotionBandPass.stem().half()(x)
        MotionBandPass.stem(norm="sum").bfloat16()(x.bfloat16())


def test_weights_of_a_large_gain_in_a_layer_of_gain_1_are_told() -> None:
    """The norm is not in the state dict; under autocast the layer would run in fp16 and overflow."""
    sums, units = MotionBandPass.stem(norm="sum"), MotionBandPass.stem()
    net = nn.Sequential(MotionBandPass.stem())
    with pytest.warns(UserWarning, match=r"0\.spatial has gain 1589.*norm='sum'"):
        net.load_state_dict({f"0.{key}": value for key, value in sums.state_dict().items()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sums.load_state_dict(sums.state_dict())
        units.load_state_dict(MotionBandPass.stem().state_dict())
        units.load_state_dict(sums.to("meta").state_dict(), assign=True)


@pytest.mark.parametrize(
    "options, argument",
    [
        ({"channels": 0}, "channels"),
        ({"kernel_size": 4}, "kernel_size"),
        ({"kernel_size": -1}, "kernel_size"),
        ({"sigma": 0.0}, "sigma"),
        ({"sigma": math.nan}, "sigma"),
        ({"stride": 0}, "stride"),
        ({"temporal_padding": "zeros"}, "temporal_padding"),
        ({"norm": "l2"}, "norm"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], argument: str) -> None:
    with pytest.raises(ValueError, match=f"^{argument} must"):
        MotionBandPass(**{"channels": 3, **options})


def test_a_clip_of_other_channels_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"clip must have 3 channels, \(N, C, T, H, W\), got \(1, 4, 3, 9, 9\)"
    ):
        MotionBandPass.stem()(torch.rand(1, 4, 3, 9, 9))
