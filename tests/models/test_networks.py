from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.ops.common import EVERY_BACKEND, LAYOUTS, device_for, in_layout, interpreted
from vidops.layers import FoldTime
from vidops.models import create_model, list_models, model_card

TINY = list_models("tiny_*")
# The operator that decides where a network can run; without it there is none.
OPERATOR = {
    "tiny_bqn": "motion_band_pass",
    "tiny_btsnet": "pathway_select",
    "tiny_cpa": "depthwise_conv3d",
    "tiny_dan": "temporal_projection",
    "tiny_mbpm": "motion_band_pass",
    "tiny_mf_kpsem": "keypoint_shifts",
    "tiny_mstnet": "temporal_conv",
    "tiny_nl": "nonlocal_attention",
    "tiny_r3d_kpsem": "keypoint_shifts",
    "tiny_rnl": "nonlocal_attention",
    "tiny_st_slowfast": "nonlocal_attention",
    "tiny_tesnet": "temporal_projection",
    "tiny_tsm": "temporal_shift",
    "tiny_tsm_mobilenetv2": "temporal_shift",
    "tiny_x3d": "depthwise_conv3d",
}
# Nothing in these sees the order of frames.
ORDERLESS = {"tiny_i3d_actors", "tiny_tsn"}
TEMPORAL = [name for name in TINY if name != "tiny_tsn"]


def frames_of(name: str, segments: int | None = None) -> int:
    """T of the clips of a network, of its usual number of segments or of another."""
    card = model_card(name)
    return (card.num_segments if segments is None else segments) * card.frames_per_segment


def clips(
    n: int = 2,
    t: int | None = None,
    size: int = 32,
    dtype: torch.dtype = torch.float32,
    name: str = "tiny_tsn",
) -> Tensor:
    """Clips for a network, of its usual number of segments or of t."""
    return torch.randn(
        n, 3, frames_of(name, t), size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    ).to(dtype)


def tiny(name: str, **options: object) -> nn.Module:
    """A tiny network in fp64 whose head is large enough to compare its logits, and whose branches all count."""
    torch.manual_seed(0)
    net = awake(create_model(name, **options).double())
    nn.init.normal_(net.get_submodule(net.classifier_name).weight)
    return net


def awake(net: nn.Module) -> nn.Module:
    """Raise the batch norms and the weights that start at zero."""
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)) and not module.weight.any():
            nn.init.ones_(module.weight)
    for parameter in net.parameters():
        if parameter.ndim != 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return net


@pytest.mark.parametrize("name", list_models())
def test_forward_shape(name: str) -> None:
    segments = 8 if name == "r3d_kpsem" else 4  # two frames of res3
    net = create_model(name, num_classes=5, num_segments=segments).eval()
    with torch.no_grad():
        size = 112 if name.startswith("bqn") else 80 if "inception" in name else 32
        logits = net(clips(2, segments, size, name=name))
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()


@pytest.mark.parametrize("size", [(48, 48), (64, 64), (40, 56)])
@pytest.mark.parametrize("name", TINY)
def test_any_frame_size(name: str, size: tuple[int, int]) -> None:
    assert create_model(name)(torch.rand(2, 3, frames_of(name), *size)).shape == (2, 8)


@pytest.mark.parametrize("name", TINY)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    net = awake(create_model(name))
    nn.functional.cross_entropy(net(clips(4, name=name)), torch.tensor([0, 1, 2, 3])).backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().max() > 0, key


# Networks whose own layers hold no operator: what runs on a backend in them is tiny_tsm's shift, or nothing.
PLAIN = {"tiny_cbam", "tiny_gc", "tiny_i3d", "tiny_i3d_actors", "tiny_mfnet", "tiny_r3d", "tiny_se"}
# Minutes in Triton's interpreter: a depthwise convolution or attention, which the operators' own tests run there, and
# BQN, whose band-pass runs there in MBPM and whose resizing in the tests of the layer that joins its branches.
SLOW_IN_TRITON = {"tiny_bqn", "tiny_cpa", "tiny_nl", "tiny_rnl", "tiny_st_slowfast", "tiny_x3d"}


@pytest.mark.parametrize("backend", [b for b in EVERY_BACKEND if b != "reference"])
@pytest.mark.parametrize("name", sorted(set(TEMPORAL) - PLAIN))
def test_equal_logits_and_gradients_on_every_backend(name: str, backend: str) -> None:
    device = device_for(backend, OPERATOR[name])
    size = 32 if name == "tiny_bqn" else 16
    if name in SLOW_IN_TRITON and interpreted(backend):
        pytest.skip("minutes in Triton's interpreter; other tests run its kernels there")
    results = []
    for b in ("reference", backend):
        net = tiny(name, backend=b, num_segments=4).to(device)
        logits = net(clips(2, 4, size, torch.float64, name).to(device))
        logits.square().sum().backward()
        grad = net.get_submodule(net.stem_name).weight.grad
        # Batch norms of one pixel of two clips make gradients of millions, whose small parts no fp64 can tell.
        results.append((logits.detach(), grad / grad.abs().max()))
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layout", LAYOUTS[:4])
@pytest.mark.parametrize("name", TINY)
def test_equal_logits_in_every_layout(name: str, layout: str) -> None:
    net = tiny(name).eval()
    clip = clips(dtype=torch.float64, name=name)
    torch.testing.assert_close(net(in_layout(clip, layout)), net(clip), rtol=1e-9, atol=1e-9)
    for parameter in net.parameters():  # `net.to` takes one of the two formats for all
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        if parameter.ndim in formats:
            parameter.data = parameter.data.to(memory_format=formats[parameter.ndim])
    torch.testing.assert_close(net(in_layout(clip, layout)), net(clip), rtol=1e-9, atol=1e-9)


# Inductor takes a minute or more for a network, so that one stands for its family: MSTNet for those that see frames,
# MBPM for BQN, which is two of it, RNL and CPA for attention, R3D-KPSEM for MF-KPSEM. It compiles a network as it is
# evaluated, with gradients: all of our operators, forward and backward. The other modes are Dynamo's and AOTAutograd's
# affair, which aot_eager shows.
SHOWN_BY_OTHERS = {"tiny_tsn", "tiny_tsm", "tiny_tsm_mobilenetv2", "tiny_bqn", "tiny_nl", "tiny_mf_kpsem"}
INDUCTOR = sorted(set(TINY) - SHOWN_BY_OTHERS - PLAIN)


@pytest.mark.parametrize(
    ("name", "compiler", "modes"),
    [
        *((name, "aot_eager", "train") for name in INDUCTOR),
        *((name, "aot_eager", "train and eval") for name in sorted(SHOWN_BY_OTHERS)),
        *(
            pytest.param(name, "aot_eager", "train and eval", marks=pytest.mark.slow)
            for name in sorted(PLAIN)
        ),
        *(pytest.param(name, "inductor", "eval", marks=pytest.mark.slow) for name in INDUCTOR),
    ],
)
def test_compiles_whole(name: str, compiler: str, modes: str) -> None:
    net = tiny(name)
    torch._dynamo.reset()
    compiled = torch.compile(tiny(name), fullgraph=True, backend=compiler)
    clip = clips(dtype=torch.float64, name=name)
    for mode in modes.split(" and "):
        net.train(mode == "train")
        compiled.train(mode == "train")
        expected, logits = net(clip), compiled(clip)
        torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    logits.sum().backward()
    expected.sum().backward()
    for (key, a), b in zip(net.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(
            b.grad, a.grad, rtol=1e-8, atol=1e-8, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.parametrize("name", TINY)
def test_exports(name: str) -> None:
    net = tiny(name).eval()
    clip = clips(dtype=torch.float64, name=name)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(net, (clip,), dynamic_shapes={"clip": {0: batch}})
    for n in (2, 3):
        other = clips(n, dtype=torch.float64, name=name)
        torch.testing.assert_close(program.module()(other), net(other), rtol=1e-9, atol=1e-9)


def test_order_of_frames() -> None:
    """TSN cannot see it, nor the actors' network whose kernels are flat in time; the others must."""
    for name in TINY:
        clip = clips(dtype=torch.float64, name=name)
        net = tiny(name).eval()
        difference = (net(clip) - net(clip.flip(2))).abs().max() / net(clip).abs().max()
        if name in ORDERLESS:
            assert difference < 1e-12
        else:
            assert difference > 1e-3, name


def test_logits_are_averaged_before_softmax() -> None:
    net = tiny("tiny_tsn").eval()
    clip = clips(dtype=torch.float64)
    single = tiny("tiny_tsn", num_segments=1).eval()
    single.load_state_dict(net.state_dict())
    frames = torch.stack([single(clip[:, :, t : t + 1]) for t in range(8)], 1)
    torch.testing.assert_close(net(clip), frames.mean(1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "shape, text",
    [
        ((3, 8, 32, 32), r"clip must be \(N, 3, T, H, W\), got 4 dimensions"),
        ((1, 1, 8, 32, 32), "clip must have 3 channels"),
        ((1, 8, 3, 32, 32), "clip must have 3 channels"),
        ((1, 3, 16, 32, 32), "clip must have T = {frames} frames as the network was built for, got 16"),
    ],
)
@pytest.mark.parametrize("name", TINY)
def test_wrong_clip_is_named(name: str, shape: tuple[int, ...], text: str) -> None:
    with pytest.raises(ValueError, match=text.replace("{frames}", str(frames_of(name)))):
        create_model(name)(torch.rand(*shape))


def test_integer_clip_is_named() -> None:
    with pytest.raises(TypeError, match=r"clip must be of a floating dtype, normalised, got torch\.uint8"):
        create_model("tiny_tsn")(torch.zeros(1, 3, 8, 32, 32, dtype=torch.uint8))


@pytest.mark.parametrize("name", TINY)
def test_losses_are_given_or_refused(name: str) -> None:
    net = create_model(name)
    if net.own_losses:
        _, losses = net(clips(name=name), return_losses=True)
        assert tuple(losses) == net.own_losses
        return
    with pytest.raises(TypeError, match=rf"^return_losses: {type(net).__name__} has no losses of its own"):
        net(clips(name=name), return_losses=True)


def places(name: str, **options: object) -> list[str]:
    with torch.device("meta"):
        net = create_model(name, **options)
    return [key for key, module in net.named_modules() if isinstance(module, FoldTime)]


def test_where_temporal_layers_stand() -> None:
    every = [f"layer{s}.{b}.temporal" for s, n in enumerate((3, 4, 6, 3), 1) for b in range(n)]
    assert places("tsn_resnet50") == []
    assert places("tsm_resnet50") == places("mstnet_resnet50") == every
    second = [f"layer{s}.{b}.temporal" for s, n in enumerate((3, 4, 23, 3), 1) for b in range(0, n, 2)]
    assert places("tsm_resnet101") == second
    assert len(second) == 18
    assert len(places("mstnet_resnet101")) == 33


@pytest.mark.parametrize("ordinary", [False, True])
def test_head_and_inner(ordinary: bool) -> None:
    """The head's layer sees a block's input, the inner one what conv1 made of it."""
    for position, channels in (("head", (64, 256, 256, 256)), ("inner", (64, 64, 64, 128))):
        options = {"kernel_sizes": (3,), "position": position, "ordinary": ordinary}
        with torch.device("meta"):
            net = create_model("mstnet_resnet50", **options)
        blocks = [*net.layer1, net.layer2[0]]
        weights = [block.temporal.layer.weight.numel() for block in blocks]
        assert weights == [3 * c * (c if ordinary else 1) for c in channels]


@pytest.mark.parametrize("position", ["head", "inner"])
def test_ordinary_starts_as_tsn(position: str) -> None:
    tsn = tiny("tiny_tsn").eval()
    net = tiny("tiny_mstnet", kernel_sizes=(3,), ordinary=True, position=position).eval()
    missing, unexpected = net.load_state_dict(tsn.state_dict(), strict=False)
    assert missing
    assert not unexpected
    clip = clips(dtype=torch.float64)
    torch.testing.assert_close(net(clip), tsn(clip), rtol=1e-9, atol=1e-9)


def test_dropout_only_in_training() -> None:
    net = tiny("tiny_tsn", dropout=0.5).eval()
    clip = clips(dtype=torch.float64)
    assert torch.equal(net(clip), net(clip))
    net.train()
    assert not torch.equal(net(clip), net(clip))
