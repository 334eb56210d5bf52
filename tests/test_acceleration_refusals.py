"""What accelerate leaves alone, refuses, or will not undo, and why."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from tests.test_acceleration import TemporalShift, depthwise, kinds
from vidops.acceleration import accelerate, restore
from vidops.layers import DepthwiseConv3d


@pytest.mark.parametrize(
    "module, reason",
    [
        (TemporalShift(nn.Identity(), 4, later=2), "named as TSM's, but shifts otherwise"),
        (
            TemporalShift(nn.Identity(), 4, fold_div=0),
            "named as TSM's, but trying it failed: ZeroDivisionError",
        ),
        (type("TemporalShift", (nn.Module,), {})(), "named as TSM's, but without its attributes"),
        (nn.LazyConv3d(8, 3, groups=8), "it has no weights yet: run a clip first"),
        (parametrizations.weight_norm(depthwise(4, 3)), "it is parametrized: accelerate first"),
        (depthwise(4, 3).to(torch.float8_e4m3fn), "weights of torch.float8_e4m3fn"),
    ],
)
def test_left_alone(module: nn.Module, reason: str) -> None:
    before = type(module)
    (entry,) = accelerate(nn.Sequential(module)).entries
    assert entry.reason.startswith(reason)
    assert type(module) is before


def test_replaced_forwards_are_left_alone() -> None:
    conv, shift = depthwise(4, 3), TemporalShift(nn.Identity(), 4)
    for module in (conv, shift):
        module.forward = lambda x: x
    report = accelerate(nn.Sequential(conv, shift))
    assert {e.reason for e in report.entries} == {"its forward was replaced"}


def test_what_changed_since_is_not_undone() -> None:
    net = nn.Sequential(depthwise(4, 3), depthwise(4, 1))
    report = accelerate(net)
    parametrizations.weight_norm(net[0])
    assert net(torch.rand(1, 4, 3, 3, 3)).shape == (1, 4, 1, 1, 1)
    for back in (report.undo, lambda: restore(net)):
        with pytest.raises(RuntimeError, match="0 was exchanged for DepthwiseConv3d and is Parametrized"):
            back()
    assert type(net[1]) is DepthwiseConv3d
    torch.nn.utils.parametrize.remove_parametrizations(net[0], "weight")
    report.undo()
    assert kinds(net)[1:] == [nn.Conv3d] * 2


def test_weight_norm_by_hooks() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        conv = torch.nn.utils.weight_norm(depthwise(4, 3))
    net, x = nn.Sequential(conv), torch.randn(1, 4, 5, 6, 6)
    expected = net(x)
    assert accelerate(net).swapped
    torch.testing.assert_close(net(x), expected)
    net(x).sum().backward()
    assert conv.weight_g.grad.abs().sum() > 0


def test_what_is_compiled_or_scripted_is_refused() -> None:
    net = nn.Sequential(depthwise(4, 3))
    with pytest.raises(TypeError, match=r"model is compiled: accelerate it before torch\.compile"):
        accelerate(torch.compile(net, backend="eager"))
    with pytest.raises(TypeError, match=r"1 is compiled"):
        accelerate(nn.Sequential(nn.ReLU(), torch.compile(net, backend="eager")))
    inside = nn.Sequential(depthwise(4, 3))
    inside[0].compile(backend="eager")
    with pytest.raises(TypeError, match="0 is compiled"):
        accelerate(inside)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(net)
    with pytest.raises(TypeError, match="model is scripted"):
        accelerate(scripted)
    (entry, other) = accelerate(nn.Sequential(scripted, depthwise(4, 3))).entries
    assert entry.reason.startswith("scripted")
    assert other.now
    with pytest.raises(TypeError, match=r"model must be an nn\.Module, got list"):
        accelerate([net])
