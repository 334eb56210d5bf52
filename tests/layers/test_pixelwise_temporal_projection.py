from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.ops.common import EVERY_BACKEND, device_for, in_layout
from vidops.layers import PixelwiseTemporalProjection
from vidops.models import count_gmacs, count_params

SMALL = {"descriptor_kernel_size": 3, "descriptor_stride": 2, "descriptor_channels": 4}
# Table 3.13 with T 8, D 1: beta, B, r; parameters as the layer's description has them, and FLOPs in 10^6.
CONFIGURATIONS = {
    1: ((0.25, 1, 4), 16_644, 45.3),
    2: ((0.25, 1, 1), 7_383, 38.0),
    3: ((0.25, 2, 1), 7_866, 38.3),
    4: ((0.25, 2, 4), 23_280, 50.2),
    5: ((1.0, 1, 4), 35_544, 59.8),
    6: ((0.25, 0, 4), 10_008, 40.0),
    7: ((0.25, 1, 2), 9_686, 39.7),
}


class BasisAlone(nn.Module):
    """What makes the matrices, without the projection."""

    def __init__(self, layer: PixelwiseTemporalProjection) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer.basis(x)


def made(backend: str | None = None, **options: Any) -> PixelwiseTemporalProjection:
    """A small layer in fp64, in evaluation mode, with batch norms that change something."""
    torch.manual_seed(0)
    layer = PixelwiseTemporalProjection(**{"num_frames": 4, **SMALL, **options}, backend=backend).double()
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.running_mean, module.running_var, module.weight, module.bias):
                nn.init.uniform_(value, 0.5, 1.5)
    return layer.eval()


def clips(n: int, t: int, h: int = 7, w: int = 6, c: int = 3) -> Tensor:
    return torch.randn(n, c, t, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("number", CONFIGURATIONS)
def test_configurations_of_table_3_13(number: int) -> None:
    (beta, blocks, ratio), params, flops = CONFIGURATIONS[number]
    with torch.device("meta"):
        layer = PixelwiseTemporalProjection(
            bottleneck_ratio=beta, num_bottlenecks=blocks, expansion_ratio=ratio, backend="reference"
        )
    assert count_params(layer) == params
    # The table counts what makes the matrices, not the projection itself, on 224 x 224 pixels.
    counted = 1e3 * count_gmacs(BasisAlone(layer), (3, 8, 224, 224))
    assert abs(counted / flops - 1) < 0.015


def test_default_is_configuration_7_and_t_6_is_table_3_12() -> None:
    assert count_params(PixelwiseTemporalProjection()) == 9_686
    with torch.device("meta"):
        layer = PixelwiseTemporalProjection(6, backend="reference")
    assert count_params(layer) == 7_100
    assert abs(8 * count_gmacs(BasisAlone(layer), (3, 6, 224, 224)) / 0.23 - 1) < 0.015


def by_hand(layer: PixelwiseTemporalProjection, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Eq. 3.7 to 3.13: matrices place by place, NumPy's least squares pixel by pixel."""
    n, c, t, height, width = x.shape
    d = layer.basis_size
    features = torch.stack([layer.descriptor(x[:, :, i]) for i in range(t)])
    h, w = features.shape[3:]
    grid = torch.empty(n, t * d, h, w, dtype=torch.float64)
    for clip, row, column in np.ndindex(n, h, w):
        place = features[:, clip, :, row, column]
        alike = [place[i] @ place[j] / place.shape[1] for i in range(t) for j in range(i + 1, t)]
        grid[clip, :, row, column] = perceptron(layer.mlp, torch.stack(alike))
    fine = F.interpolate(grid, (height, width), mode="bilinear").detach().numpy()
    appearance, energy = np.empty((n, c, height, width)), np.zeros(n)
    for clip, row, column in np.ndindex(n, height, width):
        a = fine[clip, :, row, column].reshape(t, d)
        pixel = x[clip, :, :, row, column].numpy().T
        ridged = np.concatenate([a, np.sqrt(layer.ridge) * np.eye(d)])
        y = np.linalg.lstsq(ridged, np.concatenate([pixel, np.zeros((d, c))]), rcond=None)[0]
        residual = pixel - a @ y
        appearance[clip, :, row, column] = residual.mean(0)
        energy[clip] += (residual**2).sum() / (height * width * c)
    return appearance, energy


def perceptron(mlp: nn.Sequential, u: Tensor) -> Tensor:
    """Figure 3.14 on one place."""

    def fc(module: nn.Module, u: Tensor) -> Tensor:
        return module.weight[:, :, 0, 0] @ u + module.bias

    u = F.gelu(fc(mlp[0], u))
    for block in mlp[2:-1]:
        norm, down, _, up, _ = block.branch
        v = (u - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
        u = u + F.gelu(fc(up, F.gelu(fc(down, v))))
    return fc(mlp[-1], u)


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize("options", [{}, {"basis_size": 2, "num_bottlenecks": 2}], ids=str)
def test_is_the_definition(options: dict[str, Any], backend: str) -> None:
    device = device_for(backend, "temporal_projection")
    device_for(backend, "temporal_descriptor")
    layer, x = made(backend, **options), clips(2, 4)
    appearance, energy = by_hand(made("reference", **options), x)
    found, losses = layer.to(device)(x.to(device), return_losses=True)
    torch.testing.assert_close(found.cpu(), torch.tensor(appearance)[:, :, None], rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(losses["energy"].cpu(), torch.tensor(energy), rtol=1e-7, atol=1e-7)
    assert list(losses) == ["energy"]
    assert torch.equal(layer(x.to(device)), found)


@pytest.mark.parametrize("layout", ["NCTHW", "NTCHW", "NTHWC"])
def test_segments_of_a_clip_are_projected_one_by_one(layout: str) -> None:
    layer, x = made(), clips(2, 12)
    found, losses = layer(in_layout(x, layout), return_losses=True)
    assert found.shape == (2, 3, 3, 7, 6)
    energy = 0
    for segment in range(3):
        alone, loss = layer(x[:, :, 4 * segment : 4 * segment + 4], return_losses=True)
        torch.testing.assert_close(found[:, :, segment], alone[:, :, 0], rtol=1e-12, atol=1e-12)
        energy += loss["energy"] / 3
    torch.testing.assert_close(losses["energy"], energy, rtol=1e-12, atol=1e-12)


def test_constant_columns_leave_what_changes() -> None:
    """With all matrices constant over time the projection is the mean, and what is left has none."""
    layer, x = made(ridge=0.0), clips(1, 4)
    nn.init.zeros_(layer.mlp[-1].weight)
    nn.init.ones_(layer.mlp[-1].bias)
    found, losses = layer(x, return_losses=True)
    assert found.abs().max() < 1e-14
    deviations = (x - x.mean(2, keepdim=True)).square().sum(2).mean((1, 2, 3))
    torch.testing.assert_close(losses["energy"], deviations, rtol=1e-12, atol=1e-12)
    assert layer(x[:, :, :1].expand_as(x), return_losses=True)[1]["energy"].max() < 1e-25


@pytest.mark.parametrize("backend", ["reference", "cpu", "cuda", "triton"])
def test_gradients(backend: str) -> None:
    if backend == "triton" and not torch.cuda.is_available():
        pytest.skip("triton: gradcheck in the interpreter takes minutes")
    device = device_for(backend, "temporal_projection")
    layer = made(backend, num_frames=3, descriptor_channels=2).to(device)
    names = dict(layer.named_parameters())

    def call(x: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        parameters = dict(zip(names, values, strict=True))
        found, losses = torch.func.functional_call(layer, parameters, (x,), {"return_losses": True})
        return found, losses["energy"]

    x = clips(1, 3, 4, 4, 2)[:, :1].expand(1, 3, 3, 4, 4).contiguous().to(device).requires_grad_()
    assert torch.autograd.gradcheck(call, (x, *(p.detach().requires_grad_() for p in names.values())))


def moving_square() -> Tensor:
    """A bright square that moves over a texture, with a little noise."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 3, 1, 32, 32, generator=generator).repeat(1, 1, 8, 1, 1)
    for t in range(8):
        x[:, :, t, 10:18, 2 + 3 * t : 10 + 3 * t] = 1.5
    return x + 0.02 * torch.randn(x.shape, generator=generator)


@pytest.mark.parametrize("basis_size", [1, 2])
def test_energy_falls_when_it_is_trained_alone(basis_size: int) -> None:
    torch.manual_seed(0)
    layer, x = PixelwiseTemporalProjection(8, basis_size), moving_square()
    optimizer = torch.optim.AdamW(layer.parameters(), 0.01)
    found = []
    for _ in range(60):
        loss = layer(x, return_losses=True)[1]["energy"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    # A column that is the same for all frames leaves as much as changes; a trained one no more than that.
    changes = float((x - x.mean(2, keepdim=True)).square().sum(2).mean())
    assert found[-1] < 0.5 * found[0]
    assert found[-1] < 1.1 * changes


def test_state_dict_keys_do_not_depend_on_the_backend() -> None:
    keys = {tuple(PixelwiseTemporalProjection(backend=b).state_dict()) for b in (None, "reference", "triton")}
    (found,) = keys
    assert found[:4] == ("descriptor.weight", "descriptor.bias", "mlp.0.weight", "mlp.0.bias")
    assert found[4] == "mlp.2.branch.0.weight"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_frames": 65}, "num_frames must be 2 to 64"),
        ({"basis_size": 8}, "basis_size must be 1 to 7"),
        ({"in_channels": 0}, "in_channels must be a whole number of at least 1, got 0"),
        ({"descriptor_kernel_size": 8}, "descriptor_kernel_size must be odd, got 8"),
        ({"descriptor_stride": 0}, "descriptor_stride must be a whole number of at least 1"),
        ({"descriptor_channels": 2.0}, "descriptor_channels must be a whole number"),
        ({"bottleneck_ratio": 0.0}, "bottleneck_ratio must be above 0 and at most 1, got 0.0"),
        ({"bottleneck_ratio": 1.5}, "bottleneck_ratio must be above 0"),
        ({"bottleneck_ratio": "0.5"}, "bottleneck_ratio must be above 0 and at most 1, got '0.5'"),
        ({"ridge": -1}, "ridge must be finite and at least 0, got -1"),
        ({"backend": "cppu"}, "backend must be one of reference, cpu, .* got 'cppu'"),
        ({"num_bottlenecks": -1}, "num_bottlenecks must be a whole number of at least 0"),
        ({"expansion_ratio": 0}, "expansion_ratio must be a whole number of at least 1"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}"):
        PixelwiseTemporalProjection(**options)


@pytest.mark.parametrize("shape", [(1, 3, 9, 8, 8), (1, 2, 8, 8, 8), (3, 8, 8, 8), (1, 3, 0, 8, 8)])
def test_other_clips_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^x must be clips \(N, 3, S\*T, H, W\) of whole segments of T=8"):
        PixelwiseTemporalProjection()(torch.rand(*shape))
