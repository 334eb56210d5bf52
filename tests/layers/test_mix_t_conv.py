from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.common import EVERY_BACKEND, device_for, interpreted
from vidops import ops
from vidops.layers import MixTConv


def by_hand(layer: MixTConv, x: Tensor) -> Tensor:
    """Eq. 1-2 of the slides, one output element at a time; groups as torch.tensor_split makes them."""
    n, c, t, h, w = x.shape
    reach = max((k - 1) // 2 * d for k, d in zip(layer.kernel_sizes, layer.dilations, strict=True))
    valid = layer.padding == "valid"
    centres = range(reach if valid else 0, t - reach if valid else t, layer.stride)
    y = torch.zeros(n, c, len(centres), h, w, dtype=x.dtype)
    taps = iter(layer.weight.detach().tolist())
    parts = torch.arange(c).tensor_split(len(layer.kernel_sizes))
    for channels, k, d in zip(parts, layer.kernel_sizes, layer.dilations, strict=True):
        for channel in channels.tolist():
            for j in range(k):
                tap = next(taps)
                for out, centre in enumerate(centres):
                    frame = centre + (j - (k - 1) // 2) * d
                    if layer.padding == "replicate":
                        frame = min(max(frame, 0), t - 1)
                    if 0 <= frame < t:
                        y[:, channel, out] += tap * x[:, channel, frame]
            if layer.bias is not None:
                y[:, channel] += layer.bias[channel].item()
    assert next(taps, None) is None
    return y


CONFIGURATIONS: list[dict[str, Any]] = [
    {"channels": 10},
    {"channels": 3},  # fewer channels than groups
    {"channels": 8, "kernel_sizes": (3,), "bias": True},
    {"channels": 7, "kernel_sizes": (3, 3, 3), "dilations": (1, 2, 3)},
    {
        "channels": 5,
        "kernel_sizes": (5, 1),
        "dilations": 2,
        "stride": 2,
        "padding": "replicate",
        "bias": True,
    },
    {"channels": 6, "kernel_sizes": (1, 3), "stride": 3, "padding": "valid"},
]


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize("options", CONFIGURATIONS, ids=str)
def test_is_the_definition(options: dict[str, Any], backend: str) -> None:
    device = device_for(backend, "temporal_conv")
    torch.manual_seed(0)
    layer = MixTConv(**options, init="kaiming", backend=backend).double()
    if layer.bias is not None:
        torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, options["channels"], 8, 2, 3, dtype=torch.float64)
    expected = by_hand(layer, x)
    torch.testing.assert_close(layer.to(device)(x.to(device)).cpu(), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("backend", ["reference", "cpu", "cuda", "triton"])
@pytest.mark.parametrize("options", CONFIGURATIONS, ids=str)
def test_gradients(options: dict[str, Any], backend: str) -> None:
    if interpreted(backend):
        pytest.skip("triton: gradcheck in the interpreter takes minutes")
    device = device_for(backend, "temporal_conv")
    torch.manual_seed(0)
    layer = MixTConv(**options, init="kaiming", backend=backend).to(device, torch.float64)
    x = torch.randn(1, options["channels"], 7, 1, 2, dtype=torch.float64, device=device, requires_grad=True)
    parameters = dict(layer.named_parameters())

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(parameters, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *(p.detach().requires_grad_() for p in parameters.values())))


def test_shift_init_on_a_ramp() -> None:
    """Frame t holds t + 1, so the output tells which frames a channel summed."""
    x = torch.arange(1.0, 9.0).view(1, 1, 8, 1, 1).expand(1, 64, 8, 1, 1)
    y = MixTConv(64, init="shift")(x)[0, :, :, 0, 0]
    identity = [1, 2, 3, 4, 5, 6, 7, 8]
    past = {3: [0, 1, 2, 3, 4, 5, 6, 7], 5: [0, 1, 3, 5, 7, 9, 11, 13], 7: [0, 1, 3, 6, 9, 12, 15, 18]}
    future = {3: [2, 3, 4, 5, 6, 7, 8, 0], 5: [5, 7, 9, 11, 13, 15, 8, 0], 7: [9, 12, 15, 18, 21, 15, 8, 0]}
    for m, k in enumerate((1, 3, 5, 7)):
        group = y[16 * m : 16 * (m + 1)].tolist()
        assert group[:2] == [past.get(k, identity)] * 2
        assert group[2:4] == [future.get(k, identity)] * 2
        assert group[4:] == [identity] * 12


def test_shift_init_of_3_taps_is_tsms_shift_with_the_directions_exchanged() -> None:
    x = torch.randn(2, 16, 5, 3, 3)
    exchanged = torch.cat([x[:, 2:4], x[:, :2], x[:, 4:]], 1)
    shifted = ops.temporal_shift(exchanged, 8)
    expected = torch.cat([shifted[:, 2:4], shifted[:, :2], shifted[:, 4:]], 1)
    torch.testing.assert_close(MixTConv(16, (3,))(x), expected, rtol=0, atol=0)


def test_kaiming_init_is_pytorchs_of_a_depthwise_convolution() -> None:
    torch.manual_seed(0)
    parts = MixTConv(4000, (1, 5), init="kaiming").weight.split([2000, 10000])
    for part, k in zip(parts, (1, 5), strict=True):
        bound = k**-0.5
        assert 0.98 * bound < part.abs().max() <= bound
        assert abs(part.mean().item()) < 0.05 * bound


def test_state_dict_keys_do_not_depend_on_the_backend() -> None:
    keys = {
        tuple(MixTConv(8, bias=True, backend=b).state_dict()) for b in (None, "reference", "cpu", "triton")
    }
    assert keys == {("weight", "bias")}
    assert tuple(MixTConv(8).state_dict()) == ("weight",)


@pytest.mark.parametrize(
    "options, argument",
    [
        ({"channels": 0}, "channels"),
        ({"kernel_sizes": ()}, "kernel_sizes"),
        ({"kernel_sizes": (1, 4)}, "kernel_sizes"),
        ({"kernel_sizes": (-1,)}, "kernel_sizes"),
        ({"dilations": 0}, "dilations"),
        ({"dilations": (1, 2)}, "dilations"),
        ({"stride": 0}, "stride"),
        ({"padding": "reflect"}, "padding"),
        ({"init": "zeros"}, "init"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], argument: str) -> None:
    with pytest.raises(ValueError, match=f"^{argument} must"):
        MixTConv(**{"channels": 8, **options})


def test_a_clip_of_other_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="channels"):
        MixTConv(8)(torch.rand(1, 9, 4, 2, 2))
