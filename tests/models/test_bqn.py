"""The Busy-Quiet Net: its options, its pathways, and what it promises beside other networks."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.models.test_networks import awake, clips
from vidops.layers import LateralConnection, MotionBandPass
from vidops.models import create_model, load_weights, model_card

clip64 = functools.partial(clips, dtype=torch.float64, name="tiny_bqn")
OPTIONS: dict[str, list[Any]] = {
    "num_lateral": [0, 1, 2, 3, 4],
    "lateral": ["bplc", "lc1", "lc2", "lc3", "lc4", "lc5"],
    "lateral_index": ["connection", "block"],
    "phi": ["identity", "conv", "mlp"],
    "fusion": ["average", "max", "average_before_fc", "concatenate"],
    "quiet": ["complement", "frame"],
    "quiet_frames": [1, 3, 4],
    "norm": ["l1", "sum"],
    "share_classifier": [True, False],
    "trainable": [True, False],
    "quiet_size": [64, 40],
}


def tiny(**options: Any) -> nn.Module:
    """A tiny network in fp64, in evaluation mode, all of whose branches count."""
    torch.manual_seed(0)
    net = awake(create_model("tiny_bqn", num_segments=4, **options).double()).eval()
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight)
    return net


@pytest.mark.parametrize(("option", "value"), [(key, v) for key, values in OPTIONS.items() for v in values])
def test_each_option_runs_and_trains(option: str, value: Any) -> None:
    net = tiny(**{option: value}).train()
    logits = net(clip64(2, 4, 40))
    assert logits.shape == (2, 8)
    logits.square().sum().backward()
    frozen = [p for p in net.parameters() if p.grad is None]
    assert len(frozen) == (2 if option == "trainable" and not value else 0)
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


def test_options_change_the_logits() -> None:
    clip = clip64(2, 4, 40)
    plain = tiny()(clip)
    for option, values in OPTIONS.items():
        if option not in ("norm", "share_classifier", "trainable"):
            for value in values:
                same = (option, value) in {
                    ("num_lateral", 4), ("lateral", "bplc"), ("lateral", "lc4"), ("phi", "identity"),
                    ("fusion", "average"), ("quiet", "complement"), ("quiet_frames", 4), ("quiet_size", 40),
                }  # fmt: skip
                # Averaging before a linear classifier is averaging after it; and a new MBPM's results sum to zero
                # over time, so that behind the last block they are lost in the head's average.
                same |= (option, value) in {("fusion", "average_before_fc"), ("num_lateral", 3)}
                same |= option == "lateral_index"  # with one after every block the two are one
                close = torch.allclose(tiny(**{option: value})(clip), plain, rtol=1e-9, atol=1e-9)
                assert close == same, (option, value)


def test_new_lateral_connections_leave_both_pathways_alone() -> None:
    clip = clip64(2, 4, 48)
    torch.manual_seed(0)
    with_them = create_model("tiny_bqn", num_segments=4, lateral="lc3", phi="mlp").double()
    without = create_model("tiny_bqn", num_segments=4, num_lateral=0).double()
    without.load_state_dict(with_them.state_dict(), strict=False)
    for train in (True, False):
        found, alone = (net.train(train).forward_features(clip) for net in (with_them, without))
        assert all(torch.equal(a, b) for a, b in zip(found, alone, strict=True))
        assert torch.equal(with_them(clip), without(clip))


@pytest.mark.parametrize("fusion", ["average", "max"])
def test_without_connections_it_is_two_networks_fused(fusion: str) -> None:
    """Busy and quiet frames made by hand, one network each, with one classifier."""
    net, clip = tiny(num_lateral=0, fusion=fusion), clip64(2, 4, 64)
    busy, quiet = MotionBandPass.stem(quiet=True).double()(clip)
    images = quiet.transpose(1, 2).flatten(0, 1)
    small = nn.functional.interpolate(images, 40, mode="bilinear").unflatten(0, (2, 4)).transpose(1, 2)
    net.quiet.fc = net.busy.fc
    logits = [net.busy(busy), net.quiet(small)]
    expected = torch.maximum(*logits) if fusion == "max" else (logits[0] + logits[1]) / 2
    net.quiet.fc = nn.Identity()
    torch.testing.assert_close(net(clip), expected, rtol=1e-9, atol=1e-9)


def test_inputs_of_both_pathways() -> None:
    clip = clip64(1, 4, 64)
    busy, quiet = tiny(quiet_size=64).split(clip)
    torch.testing.assert_close(busy + quiet, clip.unflatten(2, (4, 3)).mean(3), rtol=1e-9, atol=1e-12)
    still = clip[:, :, :1].expand(clip.shape)
    assert tiny().split(still)[0].abs().max() < 1e-12
    frame = tiny(quiet="frame", quiet_size=64)
    assert torch.equal(frame.split(clip)[1], clip[:, :, ::3])
    shapes = [tuple(x.shape) for x in tiny(quiet_frames=3).split(clip64(1, 4, 48))]
    assert shapes == [(1, 3, 4, 48, 48), (1, 3, 3, 30, 30)]


def test_a_clip_of_another_size_keeps_the_ratio() -> None:
    net = tiny()
    assert net.split(torch.rand(1, 3, 12, 96, 80, dtype=torch.float64))[1].shape[3:] == (60, 50)


@pytest.mark.parametrize(
    ("name", "count", "places"),
    [
        ("bqn_tsm_resnet50", None, list(range(16))),
        ("bqn_tsm_resnet50", 16, list(range(16))),
        ("bqn_tsm_resnet50", 8, [1, 3, 5, 7, 9, 11, 13, 15]),
        ("bqn_tsm_resnet50", 4, [0, 3, 7, 13]),
        ("bqn_tsm_resnet50", 2, [0, 3]),
        ("bqn_tsm_resnet50", 0, []),
        ("bqn_x3d_m", 4, [0, 3, 8, 19]),
        ("bqn_x3d_m", 26, list(range(26))),
        ("bqn_tsm_mobilenetv2", 7, [0, 1, 3, 6, 10, 13, 16]),
    ],
)
def test_where_connections_stand(name: str, count: int | None, places: list[int]) -> None:
    with torch.device("meta"):
        net = create_model(name, num_lateral=count)
    assert [int(key) for key in net.lateral] == places
    for number, lateral in enumerate(net.lateral.values(), 1):
        assert (lateral.to_quiet is None) == (number % 2 == 0)
        assert (lateral.to_busy is None) == (number % 2 == 1)


@pytest.mark.parametrize(
    ("count", "to_quiet"),
    [(16, [True, False] * 8), (8, [False] * 8), (4, [True, False, False, False]), (0, [])],
)
def test_directions_by_the_number_of_the_block(count: int, to_quiet: list[bool]) -> None:
    """Equation 5.5 read literally: i is the residual block, here 1, 4, 8 and 14 of four connections."""
    with torch.device("meta"):
        net = create_model("bqn_tsm_resnet50", num_lateral=count, lateral_index="block")
    assert [layer.to_quiet is not None for layer in net.lateral.values()] == to_quiet
    assert [layer.to_busy is None for layer in net.lateral.values()] == to_quiet


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("bqn_tsm_resnet50", {256: 7, 512: 7, 1024: 7, 2048: 3}),
        ("bqn_x3d_m", {24: 7, 48: 7, 96: 7, 192: 3}),
        ("bqn_tsm_mobilenetv2", {16: 7, 24: 7, 32: 7, 64: 7, 96: 7, 160: 3, 320: 3}),
    ],
)
def test_kernel_sizes_and_sigmas(name: str, sizes: dict[int, int]) -> None:
    with torch.device("meta"):
        net = create_model(name, lateral="lc1")
    found = [m for m in net.lateral.modules() if isinstance(m, MotionBandPass)]
    assert {m.channels: m.kernel_size for m in found} == sizes
    assert {(m.sigma, m.stride, m.temporal_padding) for m in found} == {(0.9, 1, "replicate")}
    stem = net.band_pass
    assert (stem.sigma, stem.kernel_size, stem.stride, stem.temporal_padding) == (1.1, 9, 3, "valid")
    assert sum(p.numel() for p in stem.parameters()) == 252


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lateral_index": "stage"}, "lateral_index must be one of connection, block, got 'stage'"),
        ({"busy_size": 0}, "busy_size must be a whole number of at least 1, got 0"),
        ({"quiet_size": 80}, "quiet_size must be at most busy_size=64, got 80"),
        ({"quiet_size": 40.0}, "quiet_size must be a whole number"),
        ({"quiet_frames": 9}, "quiet_frames must be at most num_segments=8, got 9"),
        ({"quiet_frames": 0}, "quiet_frames must be a whole number of at least 1"),
        ({"num_lateral": 5}, r"num_lateral must be 0 to 4 \(after the first block .*, got 5"),
        ({"num_lateral": -1}, "num_lateral must be 0 to 4"),
        ({"lateral": "lc6"}, "lateral must be one of bplc, lc1"),
        ({"lateral": "lc6", "num_lateral": 0}, "lateral must be one of bplc, lc1"),
        ({"lateral_kernel_sizes": (3, 3)}, "lateral_kernel_sizes must be 4 odd numbers, one for each stage"),
        ({"lateral_kernel_sizes": (3, 3, 3, 2)}, "lateral_kernel_sizes must be 4 odd numbers"),
        ({"lateral_sigma": 0.0}, "sigma must be positive"),
        ({"fusion": "sum"}, "fusion must be one of average, max, average_before_fc, concatenate, got 'sum'"),
        ({"quiet": "loud"}, "quiet must be one of complement, frame, got 'loud'"),
        ({"phi": "tanh"}, "phi must be one of identity, conv, mlp, got 'tanh'"),
        ({"sigma": -1.0}, "sigma must be positive"),
        ({"kernel_size": 8}, "kernel_size must be odd"),
        ({"norm": "l2"}, "norm must be one of l1, sum"),
        ({"in_channels": 0}, "in_channels must be a whole number of at least 1"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        create_model("tiny_bqn", **options)
    if "component" not in options and set(options) & {"sigma", "kernel_size", "norm"}:
        with pytest.raises(ValueError, match=text):
            create_model("tiny_mbpm", **options)


def test_bad_component_is_named() -> None:
    with pytest.raises(ValueError, match="component must be one of busy, quiet, got 'both'"):
        create_model("tiny_mbpm", component="both")


@settings(
    max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "busy_size": st.sampled_from([32, 48, 64]),
            "quiet_size": st.sampled_from([1, 16, 33, 40, 64, 70]),
            "num_lateral": st.integers(-1, 6),
            "lateral": st.sampled_from(["bplc", "lc1", "lc3", "lc5", "none"]),
            "lateral_kernel_sizes": st.sampled_from([(7, 7, 7, 3), (3, 3, 1, 1), (3, 3), (1, 1, 1, 1)]),
            "quiet_frames": st.integers(0, 5),
            "fusion": st.sampled_from(OPTIONS["fusion"]),
            "phi": st.sampled_from(OPTIONS["phi"]),
            "kernel_size": st.sampled_from([1, 3, 6, 9]),
            "quiet": st.sampled_from(OPTIONS["quiet"]),
        },
    ),
    st.integers(1, 4),
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
)
def test_random_settings_run_or_name_what_is_wrong(
    options: dict[str, Any], segments: int, size: tuple[int, int]
) -> None:
    problem, logits = "", None
    try:
        net = create_model("tiny_bqn", num_classes=3, num_segments=segments, **options).eval()
        logits = net(torch.rand(2, 3, 3 * segments, *size))
    except ValueError as error:
        problem = str(error)
    if logits is None:
        assert problem.startswith(("clip", "spatial_padding", *model_card("tiny_bqn").options)), problem
    else:
        assert logits.shape == (2, 3)
        assert logits.isfinite().all()


def test_the_same_bits_again() -> None:
    gradients = []
    for _ in range(2):
        net = tiny(lateral="lc3", phi="conv", quiet_frames=3).float().train()
        clip = clip64(2, 4, 48).float().requires_grad_()
        net(clip).square().sum().backward()
        gradients.append([clip.grad, *(p.grad for p in net.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("how", ["autocast", "half"])
def test_sum_norm_in_fp16_does_not_overflow_silently(how: str) -> None:
    """A gain of 1589 takes frames of magnitude 100 past fp16's 65504: in fp32 under autocast, with a warning else."""
    net = create_model("tiny_bqn", num_segments=4, norm="sum")
    clip = clips(2, 4, 48, name="tiny_bqn")
    if how == "autocast":
        with torch.autocast("cpu", dtype=torch.float16):
            busy, _ = net.split(100 * clip)
            loss = nn.functional.cross_entropy(net(clip), torch.tensor([0, 1]))
        assert busy.dtype == torch.float32
        assert 65504 < busy.abs().max() < float("inf")
        loss.backward()
        assert all(p.grad.isfinite().all() for p in net.parameters())
    else:
        with pytest.warns(UserWarning, match="may overflow in float16"):
            net.half()
        busy, _ = net.split(100 * clip.half())
        assert not busy.isfinite().all()


@pytest.mark.parametrize("share", [True, False])
def test_weights_of_the_backbone_start_both_pathways(share: bool, tmp_path: Any) -> None:
    torch.manual_seed(0)
    tsm = create_model("tiny_tsm", num_classes=5)
    torch.save(tsm.state_dict(), tmp_path / "tsm.pt")
    net = create_model("tiny_bqn", share_classifier=share)
    classifier = net.busy.fc.weight.clone()
    load_weights(net, tmp_path / "tsm.pt", part="backbone")
    own = net.state_dict()
    for key, value in tsm.state_dict().items():
        if not key.startswith("fc."):
            assert torch.equal(own[f"busy.{key}"], value)
            assert torch.equal(own[f"quiet.{key}"], value)
    assert torch.equal(net.busy.fc.weight, classifier)
    torch.save(net.state_dict(), tmp_path / "bqn.pt")
    other = create_model("tiny_bqn", num_classes=3, share_classifier=share)
    assert any(
        k.startswith("band_pass.") for k in load_weights(other, tmp_path / "bqn.pt", part="features").loaded
    )
    single = create_model("tiny_mbpm")
    load_weights(single, tmp_path / "tsm.pt", part="backbone")
    assert torch.equal(single.layer1[0].conv1.weight, tsm.layer1[0].conv1.weight)


@pytest.mark.parametrize("part", ["all", "features"])
def test_weights_of_one_pathway_are_told_how_to_load(part: str, tmp_path: Any) -> None:
    net = create_model("tiny_bqn", num_segments=4)
    torch.save(net.busy.state_dict(), tmp_path / "one.pt")
    with pytest.raises(
        ValueError, match=r"not weights of this BusyQuietNet.*part='backbone' loads it into each"
    ):
        load_weights(net, tmp_path / "one.pt", part=part)
    assert not load_weights(net, tmp_path / "one.pt", part="backbone").missing
    torch.save({"other": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"unexpected other$"):
        load_weights(net, tmp_path / "other.pt", part=part)


def test_a_pathway_by_itself() -> None:
    """`component` shows a network the frames that BQN's pathways see."""
    clip = clip64(1, 4, 64)
    net = tiny(quiet_size=64)
    for component, expected in zip(("busy", "quiet"), net.split(clip), strict=True):
        single = create_model("tiny_mbpm", num_segments=4, component=component).double()
        torch.testing.assert_close(
            single.enter(clip), expected.transpose(1, 2).flatten(0, 1), rtol=1e-12, atol=1e-12
        )


def test_lateral_connections_of_the_released_network_are_layers() -> None:
    net = tiny()
    assert all(isinstance(m, LateralConnection) for m in net.lateral.values())


def test_clip_is_a_tensor_of_three_frames_a_segment() -> None:
    with pytest.raises(ValueError, match=r"clip must have T = 12 frames .*, got 4"):
        tiny()(Tensor(1, 3, 4, 48, 48))
