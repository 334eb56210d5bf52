from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.ops.common import EVERY_BACKEND, device_for, in_layout
from vidops.layers import TemporalSqueezePool
from vidops.layers.fold_time import as_frames

ACTIVATIONS = {
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
}


def clips(n: int, c: int, k: int, size: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(n, c, k, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_hand(layer: TemporalSqueezePool, x: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 3.1 to 3.5 with NumPy's least squares, one clip at a time."""
    k, d = layer.num_frames, layer.basis_size
    w1, w2 = (fc.weight.detach().numpy() for fc in (layer.fc1, layer.fc2))
    first, second = (ACTIVATIONS[name] for name in layer.activations)
    squeezed, errors = [], []
    for clip in x.numpy():
        z = clip.mean((0, 2, 3))
        a = second(w2 @ first(w1 @ z)).reshape(k, d)
        pixels = clip.transpose(1, 0, 2, 3).reshape(k, -1)
        ridged = np.concatenate([a, np.sqrt(layer.ridge) * np.eye(d)])
        y = np.linalg.lstsq(ridged, np.concatenate([pixels, np.zeros((d, pixels.shape[1]))]), rcond=None)[0]
        squeezed.append(y.reshape(d, *clip.shape[:1], *clip.shape[2:]).transpose(1, 0, 2, 3))
        errors.append(np.linalg.norm(pixels - a @ y, axis=0).mean())
    return torch.tensor(np.array(squeezed)), torch.tensor(errors)


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize("activations", [("sigmoid", "leaky_relu"), ("tanh", "sigmoid"), ("relu", "tanh")])
def test_is_the_definition(activations: tuple[str, str], backend: str) -> None:
    device = device_for(backend, "temporal_projection")
    torch.manual_seed(0)
    layer = TemporalSqueezePool(7, 3, activations=activations, backend=backend).double()
    x = clips(2, 4, 7)
    expected, error = by_hand(layer, x)
    squeezed, losses = layer.to(device)(x.to(device), return_losses=True)
    torch.testing.assert_close(squeezed.cpu(), expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(losses["error"].cpu(), error, rtol=1e-8, atol=1e-8)
    assert list(losses) == ["error"]
    assert torch.equal(layer(x.to(device)), squeezed)


@pytest.mark.parametrize("backend", ["reference", "cpu", "cuda", "triton"])
def test_gradients(backend: str) -> None:
    if backend == "triton" and not torch.cuda.is_available():
        pytest.skip("triton: gradcheck in the interpreter takes minutes")
    device = device_for(backend, "temporal_projection")
    torch.manual_seed(0)
    layer = TemporalSqueezePool(5, 2, backend=backend).to(device, torch.float64)
    names = dict(layer.named_parameters())

    def call(x: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        parameters = dict(zip(names, values, strict=True))
        squeezed, losses = torch.func.functional_call(layer, parameters, (x,), {"return_losses": True})
        return squeezed, losses["error"]

    x = clips(2, 2, 5, 2).to(device).requires_grad_()
    assert torch.autograd.gradcheck(call, (x, *(p.detach().requires_grad_() for p in names.values())))


@pytest.mark.parametrize(("k", "d"), [(10, 3), (10, 1), (16, 3), (64, 16), (16, 4), (3, 1)])
def test_it_starts_as_the_means_of_consecutive_frames(k: int, d: int) -> None:
    torch.manual_seed(0)
    layer = TemporalSqueezePool(k, d).double()
    x = clips(1, 3, k, 8)
    squeezed = layer(x)
    assert squeezed.shape == (1, 3, d, 8, 8)
    assert np.linalg.cond(layer.basis(x)[0, :, :, 0, 0].detach().numpy()) < 8
    owner = torch.arange(k) * d // k
    means = torch.stack([x[:, :, owner == column].mean(2) for column in range(d)], 2)
    similar = torch.corrcoef(torch.cat([squeezed.detach(), means], 2)[0].transpose(0, 1).flatten(1))[:d, d:]
    assert (similar.argmax(1) == torch.arange(d)).all()
    still = x[:, :, :1].expand_as(x)
    brightness = float(layer(still).detach().sum() / (d * still[:, :, 0].sum()))
    assert 0.3 < brightness < 1.1  # columns overlap a little, so that images share what stays


def test_all_pairs_of_activations_are_finite_and_train() -> None:
    for pair in itertools.product(ACTIVATIONS, repeat=2):
        torch.manual_seed(0)
        layer = TemporalSqueezePool(6, 2, activations=pair)
        squeezed, losses = layer(clips(2, 3, 6).float(), return_losses=True)
        (squeezed.square().mean() + losses["error"].mean()).backward()
        for p in layer.parameters():
            assert p.grad is not None
            assert p.grad.isfinite().all()
            assert p.grad.any(), pair


def test_its_error_falls_when_it_is_trained_alone() -> None:
    torch.manual_seed(0)
    layer = TemporalSqueezePool(8, 2)
    fade = torch.linspace(0, 1, 8).view(1, 1, 8, 1, 1)
    x = clips(1, 3, 1, 12).float() + fade * clips(1, 3, 1, 12, seed=1).float()  # of rank 2 over time
    optimizer = torch.optim.Adam(layer.parameters(), 0.02)
    found = []
    for _ in range(60):
        loss = layer(x, return_losses=True)[1]["error"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < 0.3 * found[0]


@pytest.mark.parametrize("layout", ["NCTHW", "NTCHW", "NTHWC"])
def test_a_2d_network_takes_the_images_without_a_copy(layout: str) -> None:
    device_for("cpu", "temporal_projection")
    layer = TemporalSqueezePool(6, 2, backend="cpu")
    images = as_frames(layer(in_layout(clips(2, 3, 6, 4).float(), layout)))
    memory_format = torch.channels_last if layout == "NTHWC" else torch.contiguous_format
    assert images.shape == (4, 3, 4, 4)
    assert images.is_contiguous(memory_format=memory_format)
    assert images._is_view()


def test_state_dict_keys_do_not_depend_on_the_backend() -> None:
    for backend in (None, "reference", "cpu", "triton"):
        assert tuple(TemporalSqueezePool(8, backend=backend).state_dict()) == ("fc1.weight", "fc2.weight")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_frames": 65}, "num_frames must be 2 to 64, got 65"),
        ({"num_frames": 1}, "num_frames must be 2 to 64"),
        ({"basis_size": 0}, r"basis_size must be 1 to 7 \(below num_frames=8"),
        ({"basis_size": 8}, "basis_size must be 1 to 7"),
        ({"num_frames": 32, "basis_size": 17}, "basis_size must be 1 to 16"),
        ({"activations": ("sigmoid",)}, "activations must be two of sigmoid, tanh"),
        ({"activations": "sigmoid"}, "activations must be two of"),
        ({"activations": ("sigmoid", "gelu")}, "activations must be two of"),
        ({"activations": None}, "activations must be two of .* got None"),
        ({"activations": (["relu"], "relu")}, "activations must be two of"),
        ({"ridge": -1}, "ridge must be finite and at least 0, got -1"),
        ({"backend": "cppu"}, "backend must be one of reference, cpu, .* got 'cppu'"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}"):
        TemporalSqueezePool(**{"num_frames": 8, **options})
    with pytest.raises(TypeError, match=r"^basis_size must be an int, got float"):
        TemporalSqueezePool(8, 2.0)  # type: ignore[arg-type]


def test_a_clip_of_other_frames_is_refused() -> None:
    with pytest.raises(ValueError, match=r"x must be clips \(N, C, 8, H, W\), got \(1, 3, 9, 2, 2\)"):
        TemporalSqueezePool(8)(torch.rand(1, 3, 9, 2, 2))
    for wrong, text in (
        (torch.zeros(1, 3, 8, 2, 2, dtype=torch.uint8), "floating dtype, got torch.uint8"),
        (None, "Tensor, got None"),
    ):
        with pytest.raises(TypeError, match=f"^x must be .*{text}"):
            TemporalSqueezePool(8)(wrong)
