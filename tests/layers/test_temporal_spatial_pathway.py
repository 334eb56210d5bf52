from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vidops
from tests.ops.common import EVERY_BACKEND, LAYOUTS, device_for, in_layout
from vidops.layers import TemporalSpatialPathway, pathway_contributions, pathway_dilations

O2 = {
    2: [(1, 1, 1), (4, 1, 1)],
    3: [(1, 1, 1), (4, 1, 1), (1, 4, 4)],
    4: [(1, 1, 1), (4, 4, 4), (1, 4, 4), (4, 1, 1)],
    7: [(1, 1, 1), (3, 3, 3), (5, 5, 5), (1, 3, 3), (1, 5, 5), (3, 1, 1), (5, 1, 1)],
}


def clips(n: int = 2, c: int = 8, t: int = 4, h: int = 6, w: int = 5) -> Tensor:
    return torch.randn(n, c, t, h, w, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def made(*args: Any, **options: Any) -> TemporalSpatialPathway:
    """A layer in fp64 whose norms and logits are not those of a new one."""
    torch.manual_seed(1)
    layer = TemporalSpatialPathway(*args, **{"groups": 4, **options}).double()
    for module in layer.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm3d)):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor, std=0.3)
    nn.init.normal_(layer.fuse.conv2.weight)
    return layer.eval()


def normed(x: Tensor, norm: Any) -> Tensor:
    """Batch norm as it is written."""
    shape = (1, -1, *[1] * (x.dim() - 2))
    mean, var, weight, bias = (
        t.view(shape) for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (x - mean) / (var + norm.eps).sqrt() * weight + bias


@pytest.mark.parametrize("attention", ["TC", "C"])
def test_it_is_the_posters_formula(attention: str) -> None:
    """Split, fuse and select, V = sum Attn_m * U_m, written out with the layer's own weights."""
    layer = made(8, 12, 4, receptive_fields="O2", attention=attention, stride=(1, 2, 2))
    x = clips()
    paths = []
    for (dt, dh, dw), pathway in zip(O2[4], layer.pathways, strict=True):
        padded = F.pad(x, (dw, dw, dh, dh, dt, dt))
        taps = sum(
            F.conv3d(
                padded[:, :, i * dt :, j * dh :, k * dw :][:, :, : x.shape[2], : x.shape[3], : x.shape[4]],
                pathway.conv.weight[:, :, i, j, k][:, :, None, None, None],
                stride=(1, 2, 2),
                groups=4,
            )
            for i in range(3)
            for j in range(3)
            for k in range(3)
        )
        paths.append(normed(taps, pathway.bn).clamp(min=0))
    total = paths[0] + paths[1] + paths[2] + paths[3]
    pooled = total.flatten(3).mean(3) if attention == "TC" else total.flatten(2).mean(2, keepdim=True)
    hidden = normed(torch.einsum("dc,nct->ndt", layer.fuse.conv1.weight[..., 0], pooled), layer.fuse.bn1)
    assert hidden.shape[1] == 32  # max(12 / 16, 32)
    logits = torch.einsum("kd,ndt->nkt", layer.fuse.conv2.weight[..., 0], hidden.clamp(min=0))
    shares = logits.view(2, 4, 12, -1).exp()
    shares = shares / shares.sum(1, keepdim=True)
    expected = sum(shares[:, m, :, :, None, None] * paths[m] for m in range(4))
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-12)
    assert shares.std(1).mean() > 0.1  # the attention chooses


def test_the_sets_of_dilations() -> None:
    for count in range(1, 8):
        assert pathway_dilations(count) == tuple((i, i, i) for i in range(1, count + 1))
    for count, dilations in O2.items():
        assert pathway_dilations(count, "O2") == tuple(dilations)
    layer = TemporalSpatialPathway(8, groups=8, dilations=[1, [2, 1, 3]])
    assert layer.dilations == ((1, 1, 1), (2, 1, 3))
    assert [pathway.conv.dilation for pathway in layer.pathways] == [(1, 1, 1), (2, 1, 3)]
    assert TemporalSpatialPathway(8, groups=8).num_pathways == 3


def test_hidden_channels() -> None:
    assert TemporalSpatialPathway(1024).fuse.conv1.out_channels == 64
    assert TemporalSpatialPathway(128).fuse.conv1.out_channels == 32
    assert TemporalSpatialPathway(32, 1024).fuse.conv1.out_channels == 64  # a share of C, not of C'
    assert TemporalSpatialPathway(32, hidden_channels=5).fuse.conv1.out_channels == 5


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize(
    "options", [{"num_pathways": 2, "stride": 2}, {"attention": "C", "dilations": [1, 2, (2, 1, 1)]}], ids=str
)
def test_gradients(backend: str, options: dict[str, Any]) -> None:
    device_for(backend, "pathway_select")
    layer = made(4, groups=2, hidden_channels=3, backend=backend, **options)
    layer.train()
    names, values = zip(*layer.named_parameters(), strict=True)

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    for module in layer.modules():  # gradcheck runs it many times
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm3d)):
            module.momentum = 0.0
    x = clips(2, 4, 3, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(run, (x, *values), fast_mode=True)


@pytest.mark.parametrize("backend", [b for b in EVERY_BACKEND if b != "reference"])
@pytest.mark.parametrize("attention", ["TC", "C"])
def test_every_backend_gives_the_same(attention: str, backend: str) -> None:
    device = device_for(backend, "pathway_select")
    plain = made(8, attention=attention, backend="reference").to(device)
    layer = made(8, attention=attention, backend=backend).to(device)
    assert list(layer.state_dict()) == list(plain.state_dict())
    layer.load_state_dict(plain.state_dict())
    results = []
    for one in (plain, layer):
        x = clips().to(device).requires_grad_()
        y = one(x)
        y.square().sum().backward()
        results.append((y.detach(), x.grad, one.fuse.conv2.weight.grad))
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layout", LAYOUTS[:4])
def test_every_layout_gives_the_same(layout: str) -> None:
    layer, x = made(8), clips()
    torch.testing.assert_close(layer(in_layout(x, layout)), layer(x), rtol=1e-9, atol=1e-9)


def test_one_pathway_is_a_convolution() -> None:
    layer, x = made(8, num_pathways=1), clips()
    torch.testing.assert_close(layer(x), layer.pathways[0](x), rtol=0, atol=0)


def test_contributions_are_the_mean_attention() -> None:
    net = nn.Sequential(made(8, num_pathways=2), made(8, num_pathways=3, attention="C", stride=(2, 1, 1)))
    x = clips(2, t=5)
    found = pathway_contributions(net, x)
    assert list(found) == ["0", "1"]
    first = net[0].weigh(net[0].split(x)).softmax(1).mean(2)
    assert found["0"].shape == (2, 2, 5)
    torch.testing.assert_close(found["0"].double(), first.detach(), rtol=1e-5, atol=1e-6)
    y = net[0](x)
    second = net[1].weigh(net[1].split(y)).softmax(1).mean(2)
    assert found["1"].shape == (2, 3, 3)  # the same at all three time steps
    torch.testing.assert_close(
        found["1"].double(), second.detach()[..., None].expand(-1, -1, 3), rtol=1e-5, atol=1e-6
    )
    assert not any(module._forward_hooks for module in net.modules())
    shared = made(8)
    with pytest.raises(ValueError, match="net: 0 must run once a clip, runs more often"):
        pathway_contributions(nn.Sequential(shared, shared), x)
    assert not any(module._forward_hooks for module in shared.modules())


def test_a_single_value_cannot_train_the_fuse() -> None:
    layer = made(8, attention="C").train()
    with pytest.raises(
        ValueError, match=r"^x: a single clip cannot train the batch norm of TemporalSpatialPathway"
    ):
        layer(clips(1))
    layer(clips(2))
    made(8).train()(clips(1))  # as many values as frames
    layer.fuse.bn1.eval()
    layer(clips(1))
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(made(8, attention="C")).train()
    with pytest.raises(ValueError, match=r"^Expected more than 1 value per channel"):  # PyTorch's
        synced(clips(1))


def test_accelerate_exchanges_the_selection_alone() -> None:
    layer = made(8, backend="reference")
    x = clips()
    expected = layer(x)
    plain = copy.deepcopy(layer)
    report = vidops.accelerate(layer)
    assert [(entry.was, entry.now) for entry in report.swapped] == [
        ("TemporalSpatialPathway on reference", "TemporalSpatialPathway")
    ]
    assert all("not depthwise: 4 groups of 2 channels" in entry.reason for entry in report.skipped)
    torch.testing.assert_close(layer(x), expected, rtol=1e-9, atol=1e-9)
    assert list(layer.state_dict()) == list(plain.state_dict())
    vidops.acceleration.restore(layer)
    assert layer.backend == "reference"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"in_channels": 0}, "in_channels must be a whole number of at least 1, got 0"),
        ({"in_channels": 6}, "in_channels must be a multiple of groups, 4, got 6"),
        ({"out_channels": 6}, "out_channels must be a multiple of groups, 4, got 6"),
        ({"groups": 0}, "groups must be a whole number of at least 1, got 0"),
        ({"num_pathways": 0}, "num_pathways must be a whole number of at least 1, got 0"),
        ({"num_pathways": 8}, "num_pathways must be 1 to 7 with receptive_fields 'O1', got 8; dilations="),
        (
            {"num_pathways": 5, "receptive_fields": "O2"},
            "num_pathways must be one of 2, 3, 4, 7 with receptive_fields 'O2', got 5; dilations=",
        ),
        ({"receptive_fields": "O3"}, "receptive_fields must be one of O1, O2, got 'O3'"),
        ({"dilations": []}, r"dilations must be a list of 1 to 8, got \[\]"),
        ({"dilations": [1] * 9}, "dilations must be a list of 1 to 8, got"),
        ({"dilations": [1, 0]}, "dilations must be at least 1, got 0"),
        ({"dilations": [(1, 2)]}, r"dilations must be an int or three ints \(time, height, width\), got \(1, 2\)"),
        ({"dilations": [1, 2], "num_pathways": 3}, "num_pathways must be that of dilations, 2, or None, got 3"),
        ({"stride": 0}, "stride must be at least 1, got 0"),
        ({"stride": (1, 2)}, r"stride must be an int or three ints \(time, height, width\), got \(1, 2\)"),
        ({"attention": "T"}, "attention must be one of TC, C, got 'T'"),
        ({"hidden_channels": 0}, "hidden_channels must be a whole number of at least 1, got 0"),
        ({"backend": "cppu"}, "backend must be one of reference, cpu, .* got 'cppu'"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}"):
        TemporalSpatialPathway(**{"in_channels": 8, "groups": 4, **options})


@pytest.mark.parametrize(
    ("x", "error", "text"),
    [
        (clips(2, 6), ValueError, r"x must be a clip \(N, 8, T, H, W\), got \(2, 6, 4, 6, 5\)"),
        (clips(2)[0], ValueError, r"x must be a clip \(N, 8, T, H, W\), got \(8, 4, 6, 5\)"),
        (clips(2).int(), TypeError, "x must be of a floating dtype, got torch.int32"),
        ([1.0], TypeError, "x must be a Tensor, got list"),
    ],
    ids=str,
)
def test_bad_clips_are_named(x: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^{text}"):
        made(8)(x)
