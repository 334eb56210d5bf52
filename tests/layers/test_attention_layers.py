"""What holds of every attention layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.layers.attention import LAYERS, WITH_PAIRS, clips, stirred
from tests.ops.common import assert_close, device_for, in_layout
from vidops.layers import (
    AttentionChain,
    CBAM3d,
    ConvPyramidAttention,
    GlobalContext,
    NonLocal,
    RegionNonLocal,
    SqueezeExcite3d,
)

each = pytest.mark.parametrize("name", LAYERS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@each
def test_a_new_layer_returns_what_it_is_given(name: str, dtype: torch.dtype) -> None:
    layer = LAYERS[name](8).to(dtype)
    for layout in ("NCTHW", "NTCHW", "NTHWC"):
        x = in_layout(clips(3, t=5, dtype=dtype), layout)
        for train in (True, False):
            y = layer.train(train)(x)
            assert torch.equal(y, x)
            assert y.stride() == x.stride()


@each
def test_layouts_and_batches(name: str) -> None:
    layer, x = stirred(LAYERS[name](8)), clips(3)
    y = layer(x)
    assert (y - x).abs().max() > 1e-3
    for layout in ("NTCHW", "NTHWC", "strided", "offset"):
        torch.testing.assert_close(layer(in_layout(x, layout)), y, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer(x[1:2]), y[1:2], rtol=1e-12, atol=1e-12)
    assert layer(x[:0]).shape == x[:0].shape


@each
def test_backends_agree_and_have_the_same_keys(name: str) -> None:
    device_for("cpu", "nonlocal_attention" if name in WITH_PAIRS else "depthwise_conv3d")
    x = clips()
    layers = [stirred(LAYERS[name](8, backend=backend)) for backend in ("reference", "cpu")]
    assert list(layers[0].state_dict()) == list(layers[1].state_dict())
    torch.testing.assert_close(layers[1](x), layers[0](x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@each
def test_gradients(name: str, backend: str) -> None:
    device_for(backend, "nonlocal_attention" if name in WITH_PAIRS else "depthwise_conv3d")
    torch.manual_seed(0)
    layer, x = stirred(LAYERS[name](4, backend=backend)), clips(2, 4, 2, 3, 3).requires_grad_()
    names = dict(layer.named_parameters())

    def call(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    parameters = tuple(p.detach().requires_grad_() for p in names.values())
    assert torch.autograd.gradcheck(call, (x, *parameters), fast_mode=True)


@each
def test_a_new_layer_learns(name: str) -> None:
    """What starts at zero holds no gradient back for good."""
    torch.manual_seed(0)
    layer, x = LAYERS[name](8), clips(4, dtype=torch.float32)
    target = x * torch.rand(1, 8, 4, 6, 5)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    losses = []
    for _ in range(15):
        loss = (layer(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    still = [key for key, p in layer.named_parameters() if not p.grad.abs().max() > 0]
    assert not still


@pytest.mark.parametrize("h, w, t", [(1, 1, 1), (1, 7, 3), (5, 1, 2)])
@each
def test_small_clips(name: str, h: int, w: int, t: int) -> None:
    layer = stirred(LAYERS[name](8))
    x = clips(2, t=t, h=h, w=w).requires_grad_()
    y = layer(x)
    y.sum().backward()
    assert y.shape == x.shape
    assert y.isfinite().all()
    assert x.grad.isfinite().all()


@each
def test_bad_clips_are_told(name: str) -> None:
    layer = LAYERS[name](8)
    with pytest.raises(ValueError, match=r"^x must be a clip \(N, (8|C), T, H, W\), got \(2, 8, 4, 6\)"):
        layer(torch.rand(2, 8, 4, 6))
    with pytest.raises(TypeError, match=r"^x must be of a floating dtype, got torch\.uint8"):
        layer(torch.zeros(2, 8, 4, 6, 6, dtype=torch.uint8))
    if name != "CPA":
        with pytest.raises(ValueError, match=r"^x must be a clip \(N, 8, T, H, W\), got \(2, 6, 4, 6, 6\)"):
            layer(torch.rand(2, 6, 4, 6, 6))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: SqueezeExcite3d(0), "channels must be a whole number of at least 1, got 0"),
        (lambda: SqueezeExcite3d(8, 0), "reduction must be a whole number of at least 1, got 0"),
        (lambda: SqueezeExcite3d(8, form="multiply"), "form must be one of add, gate, got 'multiply'"),
        (lambda: SqueezeExcite3d(8, backend="cppu"), "backend must be one of"),
        (lambda: AttentionChain(True, GlobalContext(8)), "channels must be a whole number"),
        (
            lambda: CBAM3d(8, kernel_size=(7, 6, 7)),
            r"kernel_size must be odd and at most 9, one int or three, got \(7, 6, 7\)",
        ),
        (lambda: CBAM3d(8, kernel_size=True), "kernel_size must be odd and at most 9, one int or three"),
        (lambda: CBAM3d(8, scale=2), "scale must be True or False, got 2"),
        (lambda: SqueezeExcite3d(8, norm="no"), "norm must be True or False, got 'no'"),
        (lambda: ConvPyramidAttention(scale=None), "scale must be True or False, got None"),
        (lambda: NonLocal(8, pool=2), "pool must be True or False, got 2"),
        (lambda: NonLocal(8, embed="no"), "embed must be True or False, got 'no'"),
        *(
            (lambda scale=scale: NonLocal(8, scale=scale), "scale must be a finite number or None, got")
            for scale in ("a", float("nan"), float("inf"), True)
        ),
        (lambda: RegionNonLocal(8, scale="a"), "scale must be a finite number or None, got 'a'"),
        (lambda: RegionNonLocal(8, kernel_size="333"), "kernel_size must be odd and at most 9, one int or"),
        (lambda: RegionNonLocal(8, kernel_size=None), "kernel_size must be odd and at most 9, one int or"),
        (lambda: GlobalContext(8, 0.5), "reduction must be a whole number of at least 1, got 0.5"),
        (lambda: NonLocal(8, "softmax"), "kind must be one of gaussian, dot, cosine, concatenation, got"),
        (lambda: NonLocal(8, inner_channels=0), "inner_channels must be a whole number of at least 1, got 0"),
        (lambda: NonLocal(8, "dot", scale=0.5), "scale must be None with kind 'dot', got 0.5"),
        (lambda: RegionNonLocal(8, aggregate="mean"), "aggregate must be one of conv, avg, max, got 'mean'"),
        (lambda: RegionNonLocal(8, aggregate="avg", kernel_size=4), "kernel_size must be odd and at most 9"),
        (lambda: RegionNonLocal(8, backend="gpu"), "backend must be one of"),
    ],
)
def test_bad_arguments_are_named(make: Any, text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}"):
        make()


@pytest.mark.parametrize(
    ("attention", "text"),
    [(GlobalContext, "got the class GlobalContext: make one$"), ("RNL", "got 'RNL'$"), (None, "got None$")],
)
def test_a_chain_takes_a_module(attention: Any, text: str) -> None:
    with pytest.raises(TypeError, match=rf"^attention must be a module, such as RegionNonLocal\(8\), {text}"):
        AttentionChain(8, attention)


def test_a_single_clip_does_not_train_a_norm_over_clips() -> None:
    x = clips(1, dtype=torch.float32)
    with pytest.raises(ValueError, match="a single clip cannot train the batch norm of SqueezeExcite3d"):
        SqueezeExcite3d(8)(x)
    assert SqueezeExcite3d(8, norm=False)(x).shape == x.shape
    frozen = SqueezeExcite3d(8)
    frozen.norm.eval()
    assert torch.equal(frozen(x), x)
    synchronised = torch.nn.SyncBatchNorm.convert_sync_batchnorm(SqueezeExcite3d(8))
    seen = []
    synchronised.norm.register_forward_pre_hook(lambda norm, inputs: seen.append(inputs[0].shape))
    with pytest.raises(
        ValueError, match="Expected more than 1 value per channel"
    ):  # PyTorch's own: one rank here
        synchronised(x)
    assert seen == [(1, 4)]


def test_an_unused_convolution_of_regions_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidops.layers.region_non_local.DepthwiseConv3d", None)
    assert RegionNonLocal(8, aggregate="avg", kernel_size=(3, 5, 7)).kernel_size == (3, 5, 7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", WITH_PAIRS)
def test_large_values_in_half_precision(name: str, dtype: torch.dtype) -> None:
    """Products of +-80 and more reach the softmax as they are: no farther off than the reference in the same dtype."""
    x = (4 * clips(2)).to(dtype)
    found, same = (stirred(LAYERS[name](8, backend=b)).to(dtype)(x) for b in (None, "reference"))
    exact = stirred(LAYERS[name](8)).to(dtype).double()(x.double())
    assert found.isfinite().all()
    assert_close(found, same, exact, name)


@each
def test_autocast(name: str) -> None:
    """No farther off than the reference that is in bf16 altogether."""
    x = clips(3, dtype=torch.float32)
    layer = LAYERS[name](8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), x)
    exact = stirred(layer)(x.double())
    same = stirred(LAYERS[name](8, backend="reference")).bfloat16()(x.bfloat16()).float()
    layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x.requires_grad_())
        found.square().sum().backward()
    assert_close(found, same, exact, name)
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@each
def test_gradients_in_half_precision(name: str, dtype: torch.dtype) -> None:
    """Those of the clip and of every parameter, no farther off than with the reference in the same dtype."""
    given, grad = clips(2).to(dtype), clips(3)[1:].to(dtype)
    runs = []
    for backend, wide in ((None, dtype), ("reference", dtype), ("reference", torch.float64)):
        layer = stirred(LAYERS[name](8, backend=backend)).to(dtype).to(wide)
        x = given.to(wide).requires_grad_()
        leaves = {"x": x, **dict(layer.named_parameters())}
        found = torch.autograd.grad(layer(x), list(leaves.values()), grad.to(wide))
        runs.append(dict(zip(leaves, found, strict=True)))
    for key, exact in runs[2].items():
        assert_close(runs[0][key], runs[1][key], exact, f"{name}: {key}")
