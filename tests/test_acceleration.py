from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vidops
from tests.models.test_networks import awake
from tests.ops.common import LAYOUTS, assert_close, in_layout
from vidops.acceleration import AccelerationReport, accelerate, restore
from vidops.layers import DepthwiseConv3d
from vidops.models import x3d


def depthwise(channels: int, kernel: object, **options: object) -> nn.Conv3d:
    return nn.Conv3d(channels, channels, kernel, groups=channels, **options)


class TemporalShift(nn.Module):
    """The shape of the module in TSM's release: a layer behind a shift of its 2-D activations."""

    def __init__(self, net: nn.Module, n_segment: int, fold_div: int = 8, later: int = 1) -> None:
        super().__init__()
        self.net, self.n_segment, self.fold_div, self.later = net, n_segment, fold_div, later

    def forward(self, x: Tensor) -> Tensor:
        frames = x.reshape(-1, self.n_segment, *x.shape[1:])
        fold = x.shape[1] // self.fold_div
        out = torch.zeros_like(frames)
        out[:, : -self.later, :fold] = frames[:, self.later :, :fold]
        out[:, 1:, fold : 2 * fold] = frames[:, :-1, fold : 2 * fold]
        out[:, :, 2 * fold :] = frames[:, :, 2 * fold :]
        return self.net(out.reshape(x.shape))


class Scaled(nn.Conv3d):
    """A convolution with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Named(nn.Conv3d):
    """A convolution of another class, all else inherited."""


class ThirdParty(nn.Module):
    """A network as somebody else might write it."""

    def __init__(self) -> None:
        super().__init__()
        c = 16
        self.frames = nn.Sequential(nn.Conv2d(3, c, 3, padding=1), TemporalShift(nn.Conv2d(c, c, 1), 4))
        self.stem = depthwise(c, (5, 1, 1), padding=(2, 0, 0), bias=False)
        self.mix = nn.Conv3d(c, c, 1)
        self.twice = depthwise(c, 3, padding="same", dilation=(1, 2, 1))
        self.same = nn.ModuleDict({"again": self.twice})
        self.strided = depthwise(c, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3))
        self.wide = nn.Conv3d(c, 2 * c, 3, padding=1, groups=c)
        self.grouped = nn.Conv3d(2 * c, c, 1, groups=4)
        self.even = depthwise(c, (2, 1, 1), padding=(1, 0, 0))
        self.edge = depthwise(c, 3, padding=1, padding_mode="replicate")
        self.large = depthwise(c, (1, 11, 11), padding=(0, 5, 5))
        self.scaled = Scaled(c, c, 3, padding=1, groups=c)
        self.named = Named(c, c, 1, groups=c)
        self.fc = nn.Linear(c, 5)

    def forward(self, clip: Tensor) -> Tensor:
        x = self.frames(clip.transpose(1, 2).flatten(0, 1))
        x = F.silu(self.stem(x.unflatten(0, (-1, clip.shape[2])).transpose(1, 2)))
        x = F.relu(self.twice(self.mix(x))) + self.same["again"](x)
        x = self.grouped(self.wide(self.strided(x)))
        x = self.large(self.edge(self.even(x))) + self.named(self.scaled(self.even(x)))
        return self.fc(x.mean((2, 3, 4)))


@pytest.fixture
def plain_x3d(monkeypatch: pytest.MonkeyPatch) -> Callable[[], nn.Module]:
    """An X3D as PyTorchVideo has it, of nothing but nn.Conv3d."""

    def plain(*args: object, backend: object = None, **options: object) -> nn.Conv3d:
        return nn.Conv3d(*args, groups=args[0], **options)

    def build() -> nn.Module:
        with monkeypatch.context() as context:
            context.setattr(x3d, "DepthwiseConv3d", plain)
            return awake(vidops.create_model("tiny_x3d", num_segments=4))

    return build


@pytest.fixture(params=["third party", "x3d"])
def build(request: pytest.FixtureRequest, plain_x3d: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    made = ThirdParty if request.param == "third party" else plain_x3d

    def seeded() -> nn.Module:
        torch.manual_seed(0)
        return made()

    return seeded


def a_clip() -> Tensor:
    return torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(3))


def results(net: nn.Module, clip: Tensor) -> list[Tensor]:
    """What it puts out, and the gradients of the clip and of every parameter."""
    leaf = clip.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    logits = net(leaf)
    gradients = torch.autograd.grad(logits.square().sum(), [leaf, *net.parameters()])
    return [logits.detach(), *gradients]


@pytest.mark.parametrize("layout", LAYOUTS[:3])
def test_networks_compute_what_they_did(build: Callable[[], nn.Module], layout: str) -> None:
    net, clip = build().double(), in_layout(a_clip().double(), layout)
    if layout == "NTHWC":
        for module in net.modules():
            if isinstance(module, nn.Conv3d):
                module.to(memory_format=torch.channels_last_3d)
    before = results(net, clip)
    report = accelerate(net)
    for a, b in zip(results(net, clip), before, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    report.undo()
    assert all(torch.equal(a, b) for a, b in zip(results(net, clip), before, strict=True))


def test_modules_are_within_the_bound(build: Callable[[], nn.Module]) -> None:
    """Each exchanged module in fp32, on what the network gives it, against fp64."""
    net, given = build(), {}
    exchanged = [net.get_submodule(entry.name) for entry in accelerate(copy.deepcopy(net)).swapped]
    keep = lambda module, inputs: given.__setitem__(module, inputs[0].detach())  # noqa: E731
    hooks = [module.register_forward_pre_hook(keep) for module in exchanged]
    net(a_clip())
    for hook in hooks:
        hook.remove()
    before = {module: results(module, x) for module, x in given.items()}
    exact = {module: results(copy.deepcopy(module).double(), x.double()) for module, x in given.items()}
    entries = accelerate(net).swapped
    assert len(entries) >= 4
    for entry in entries:
        after = results(entry.module, given[entry.module])
        for i, (y, b, e) in enumerate(zip(after, before[entry.module], exact[entry.module], strict=True)):
            assert_close(y, b, e, f"{entry.name}, result {i}")


def test_report() -> None:
    net = ThirdParty()
    report = accelerate(net)
    assert {e.name: (e.was, e.now, e.also) for e in report.swapped} == {
        "frames.1": ("TemporalShift", "ShiftedModule", ()),
        "stem": ("Conv3d 5x1x1, 16 channels", "DepthwiseConv3d", ()),
        "twice": ("Conv3d 3x3x3, 16 channels", "DepthwiseConv3d", ("same.again",)),
        "strided": ("Conv3d 3x7x7, 16 channels", "DepthwiseConv3d", ()),
    }
    assert {e.name: e.reason for e in report.skipped} == {
        "mix": "not depthwise: one group",
        "wide": "2 outputs a channel, the operator has one",
        "grouped": "not depthwise: 4 groups of 8 channels",
        "even": "kernel 2x1x1, the operator takes odd sizes up to 9",
        "edge": "padding_mode 'replicate', the operator pads with zeros",
        "large": "kernel 1x11x11, the operator takes odd sizes up to 9",
        "scaled": "a class of its own, with its own forward",
        "named": "a class of its own",
    }
    text = str(report)
    assert "twice, same.again  Conv3d 3x3x3, 16 channels    DepthwiseConv3d" in text
    assert "left alone: padding_mode 'replicate'" in text
    assert "4 exchanged, 8 left alone" in text
    assert text.splitlines()[0].split() == ["module", "was", "now"]


def test_every_depthwise_convolution_of_an_x3d(plain_x3d: Callable[[], nn.Module]) -> None:
    net = plain_x3d()
    report = accelerate(net)
    assert len(report.swapped) == 6
    assert {e.now for e in report.swapped} == {"DepthwiseConv3d"}
    assert {e.reason for e in report.skipped} == {"not depthwise: one group"}
    assert "25 more" in str(report)


def test_objects_stay(build: Callable[[], nn.Module]) -> None:
    net = build().half().train()
    net.requires_grad_(False)
    modules, parameters = dict(net.named_modules()), dict(net.named_parameters())
    keys, modes = list(net.state_dict()), [m.training for m in net.modules()]
    accelerate(net)
    assert all(net.get_submodule(name) is module for name, module in modules.items())
    assert all(net.get_parameter(name) is parameter for name, parameter in parameters.items())
    assert (list(net.state_dict()), [m.training for m in net.modules()]) == (keys, modes)
    assert not any(p.requires_grad for p in net.parameters())


def test_optimizers_and_hooks_keep_working() -> None:
    net = ThirdParty()
    optimizer, calls = torch.optim.SGD(net.parameters(), 0.1), []
    net.stem.register_forward_hook(lambda *call: calls.append(call[2].shape))
    net.stem.register_full_backward_hook(lambda *call: calls.append(call[2][0].shape))
    accelerate(net)
    before = net.stem.weight.detach().clone()
    net(a_clip()).square().sum().backward()
    optimizer.step()
    assert calls == [(2, 16, 4, 32, 32)] * 2
    assert not torch.equal(net.stem.weight, before)


def kinds(net: nn.Module) -> list[type]:
    return [type(module) for module in net.modules()]


def test_undo_and_restore(build: Callable[[], nn.Module]) -> None:
    net = build()
    before, attributes = kinds(net), [set(m.__dict__) for m in net.modules()]
    report = accelerate(net)
    twin = copy.deepcopy(net)
    assert kinds(net) == kinds(twin) != before
    report.undo()
    report.undo()
    assert kinds(net) == before
    assert [set(m.__dict__) for m in net.modules()] == attributes
    assert kinds(twin) != before
    assert restore(twin) == [entry.name for entry in report.swapped]
    assert restore(twin) == []
    assert kinds(twin) == before


def test_a_second_time_changes_nothing() -> None:
    net = ThirdParty()
    first = accelerate(net)
    now = kinds(net)
    second = accelerate(net)
    assert second.swapped == []
    assert {e.name for e in second.skipped if e.reason == "accelerated already"} == {
        e.name for e in first.swapped
    }
    second.undo()
    assert kinds(net) == now


def test_checkpoints_and_whole_networks_move() -> None:
    net, other = ThirdParty().eval(), ThirdParty().eval()
    accelerate(net)
    other.load_state_dict(net.state_dict())
    stream = io.BytesIO()
    torch.save(net, stream)
    stream.seek(0)
    whole = torch.load(stream, weights_only=False)
    clip = a_clip()
    torch.testing.assert_close(other(clip), net(clip))
    assert torch.equal(whole(clip), net(clip))
    assert len(restore(whole)) == 4


def test_the_model_itself_may_be_the_convolution() -> None:
    conv = depthwise(4, 3)
    report = accelerate(conv)
    assert type(conv) is DepthwiseConv3d
    assert str(report).splitlines()[1].startswith("(the model)")
    assert conv(torch.rand(4, 5, 6, 7)).shape == (4, 3, 4, 5)


def test_layers_without_an_operator_are_not_exchanged() -> None:
    for name in ("tiny_se", "tiny_cbam", "tiny_gc"):
        report = accelerate(vidops.create_model(name, backend="reference"))
        assert {e.was for e in report.swapped} == {"TemporalShift on reference"}
    report = accelerate(vidops.create_model("tiny_rnl", backend="reference", chain=True))
    assert {e.now for e in report.swapped} == {"TemporalShift", "RegionNonLocal", "DepthwiseConv3d"}


def test_layers_built_on_reference() -> None:
    net = vidops.create_model("tiny_mstnet", backend="reference")
    report = accelerate(net)
    assert {(e.was, e.now) for e in report.swapped} == {("MixTConv on reference", "MixTConv")}
    assert net.layer1[0].temporal.layer.backend is None
    report.undo()
    assert net.layer1[0].temporal.layer.backend == "reference"
    assert accelerate(vidops.create_model("tiny_mstnet")).entries == []


def test_backend_of_the_exchanged() -> None:
    net = ThirdParty()
    report = accelerate(net, backend="triton")
    assert {e.now for e in report.swapped} == {"DepthwiseConv3d on triton", "ShiftedModule on triton"}
    assert net.stem.backend == net.frames[1].backend == "triton"
    for wrong in ("reference", "cudnn"):
        with pytest.raises(
            ValueError, match=f"backend must be one of cpu, cuda, triton(, cuda_host)?, got '{wrong}'"
        ):
            accelerate(net, backend=wrong)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_backend_that_is_not_here() -> None:
    net = ThirdParty()
    with pytest.raises(RuntimeError, match="backend 'cuda' cannot run here: "):
        accelerate(net, backend="cuda")
    assert type(net.stem) is nn.Conv3d


def test_mmaction_calls_the_attributes_otherwise() -> None:
    def init(self: nn.Module) -> None:
        nn.Module.__init__(self)
        self.net, self.num_segments, self.shift_div = nn.Conv2d(8, 8, 1), 4, 4

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return self.net(TemporalShift(nn.Identity(), self.num_segments, self.shift_div)(x))

    shift, x = (
        type("TemporalShift", (nn.Module,), {"__init__": init, "forward": forward})(),
        torch.randn(8, 8, 5, 5),
    )
    before = shift(x)
    assert accelerate(shift).swapped[0].now == "ShiftedModule"
    assert torch.equal(shift(x), before)


def test_compiles_afterwards(build: Callable[[], nn.Module]) -> None:
    net, clip = build().eval(), a_clip()
    accelerate(net)
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(clip), net(clip))


def test_nothing_to_do() -> None:
    report = accelerate(nn.Linear(2, 2))
    assert isinstance(report, AccelerationReport)
    assert report.entries == []
    assert "0 exchanged, 0 left alone" in str(report)
