"""What torch.fx and torch.jit make of accelerated networks, and what trying a module leaves behind."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.test_acceleration import TemporalShift, depthwise
from vidops.acceleration import accelerate, restore
from vidops.layers import DepthwiseConv3d, MixTConv, MotionBandPass
from vidops.layers import TemporalShift as Shift


def clip_net() -> nn.Module:
    """Of every padding, and one convolution that stands twice."""
    again = depthwise(6, 3, padding=1)
    return nn.Sequential(
        depthwise(6, (3, 1, 1), padding="same"), again, nn.BatchNorm3d(6), nn.ReLU(), again,
        depthwise(6, (3, 5, 5), stride=(1, 2, 2), padding="valid", bias=False),
    ).eval()  # fmt: skip


class Unfolded(nn.Module):
    """Clips without their axis, as nn.Conv3d takes them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = depthwise(6, 3, padding=1)

    def forward(self, x):  # torch.fx saves no annotation that is a string, as they are here
        return torch.stack([self.conv(x[0]), self.conv(x[1])])


@pytest.fixture(params=[clip_net, Unfolded], ids=["clips", "unfolded"])
def net(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    build: Callable[[], nn.Module] = request.param
    return build()


def a_clip(seed: int = 0, frames: int = 4) -> Tensor:
    return torch.randn(2, 6, frames, 9, 9, generator=torch.Generator().manual_seed(seed))


def test_fx_traces_what_it_traced_before(net: nn.Module) -> None:
    """Also for clips of another size, with gradients, saved, and traced again."""
    assert accelerate(net).swapped
    traced = torch.fx.symbolic_trace(net)
    calls = [n for n in traced.graph.nodes if n.op == "call_function" and "convolve" in str(n.target)]
    assert len(calls) == (4 if isinstance(net, nn.Sequential) else 2)
    again = torch.fx.symbolic_trace(traced)
    file = io.BytesIO()
    torch.save(traced, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    for frames in (4, 7):
        for module in (traced, again, loaded):
            assert torch.equal(module(a_clip(1, frames)), net(a_clip(1, frames)))
    traced(a_clip()).square().sum().backward()
    found = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    net(a_clip()).square().sum().backward()
    assert all(torch.equal(a, p.grad) for a, p in zip(found, net.parameters(), strict=True))


def test_fx_of_a_layer_alone_and_of_tsm() -> None:
    layer = DepthwiseConv3d(6, 6, 3, padding="same")
    assert torch.equal(torch.fx.symbolic_trace(layer)(a_clip()), layer(a_clip()))
    shift = nn.Sequential(TemporalShift(nn.Conv2d(16, 16, 1), 4))
    assert accelerate(shift).swapped
    x = torch.randn(8, 16, 5, 5)
    assert torch.equal(torch.fx.symbolic_trace(shift)(x), shift(x))


class Counting(TemporalShift):
    """A shift that counts its calls, by several means."""

    def __init__(self, later: int) -> None:
        super().__init__(nn.Conv2d(16, 16, 1), 4, later=later)
        self.register_buffer("calls", torch.zeros(()))
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.sizes.append(len(x))
        return super().forward(x)


Counting.__name__ = "TemporalShift"


@pytest.mark.parametrize("later", [1, 2], ids=["exchanged", "left alone"])
def test_trying_a_shift_leaves_it_as_it_was(later: int) -> None:
    shift = Counting(later)
    shift(torch.randn(8, 16, 5, 5))
    net = shift.net
    assert len(accelerate(shift).swapped) == (later == 1)
    assert shift.calls == 1
    assert shift.sizes == [8]
    assert shift.net is net


def test_fx_of_operators_in_layers() -> None:
    """Whoever calls an operator by ``vidops.ops`` traces it as one call."""
    net = nn.Sequential(Shift(3), MixTConv(6), MotionBandPass.features(6, kernel_size=3))
    assert torch.equal(torch.fx.symbolic_trace(net)(a_clip()), net(a_clip()))


@pytest.mark.parametrize("grad", [True, False])
def test_jit_trace(net: nn.Module, grad: bool) -> None:
    accelerate(net)
    with torch.set_grad_enabled(grad), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(net, a_clip())
    assert torch.equal(traced(a_clip(1)), net(a_clip(1)))
    traced(a_clip()).square().sum().backward()
    found = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    net(a_clip()).square().sum().backward()
    assert all(torch.equal(a, p.grad) for a, p in zip(found, net.parameters(), strict=True))


def test_jit_script_after_restore(net: nn.Module) -> None:
    accelerate(net)
    restore(net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(net)
    assert torch.equal(scripted(a_clip()), net(a_clip()))
