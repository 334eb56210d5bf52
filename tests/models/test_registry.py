from __future__ import annotations

import pytest
import torch

from vidops.models import create_model, is_model, list_models, model_card, register_model
from vidops.models.tsn import TSN, tiny_tsn

NAMES = [
    "bqn_tsm_mobilenetv2",
    "bqn_tsm_resnet101",
    "bqn_tsm_resnet50",
    "bqn_x3d_m",
    "cbam_tsm_resnet50",
    "cpa_tsm_resnet50",
    "dan_tsm_resnet50",
    "dan_x3d_m",
    "dan_x3d_xs",
    "gc_tsm_resnet50",
    "i3d_resnet50",
    "i3d_resnet50_actors",
    "inception_resnet_v2",
    "mbpm_tsm_mobilenetv2",
    "mbpm_tsm_resnet50",
    "mbpm_x3d_m",
    "mfnet",
    "mstnet_resnet101",
    "mstnet_resnet50",
    "nl_tsm_resnet50",
    "r3d_resnet50",
    "rnl_tsm_resnet101",
    "rnl_tsm_resnet50",
    "se_tsm_resnet50",
    "st_slowfast_i3d_resnet50",
    "tesnet_inception_resnet_v2",
    "tiny_bqn",
    "tiny_cbam",
    "tiny_cpa",
    "tiny_dan",
    "tiny_gc",
    "tiny_i3d",
    "tiny_i3d_actors",
    "tiny_mbpm",
    "tiny_mfnet",
    "tiny_mstnet",
    "tiny_nl",
    "tiny_r3d",
    "tiny_rnl",
    "tiny_se",
    "tiny_st_slowfast",
    "tiny_tesnet",
    "tiny_tsm",
    "tiny_tsm_mobilenetv2",
    "tiny_tsn",
    "tiny_x3d",
    "tsm_mobilenetv2",
    "tsm_resnet101",
    "tsm_resnet50",
    "tsn_inception_resnet_v2",
    "tsn_resnet101",
    "tsn_resnet50",
    "x3d_l",
    "x3d_m",
    "x3d_s",
    "x3d_xs",
]


def test_names_and_patterns() -> None:
    assert set(NAMES) <= set(list_models())
    assert list_models("tsm_*") == ["tsm_mobilenetv2", "tsm_resnet101", "tsm_resnet50"]
    assert list_models("nothing*") == []
    assert is_model("tiny_tsm")
    assert not is_model("tiny")


def test_unknown_name_suggests_close_ones() -> None:
    with pytest.raises(ValueError, match=r"no model is named 'mstnet_resnet5'; did you mean mstnet_resnet50"):
        create_model("mstnet_resnet5")
    with pytest.raises(ValueError, match=r"did you mean tesnet_inception_resnet_v2\?$"):
        create_model("tesnet")
    with pytest.raises(ValueError, match=r"did you mean dan_tsm_resnet50 or dan_x3d_m or dan_x3d_xs\?$"):
        create_model("dan")
    with pytest.raises(
        ValueError, match=r"no model is named 'qqqq'; known are bqn_tsm_mobilenetv2, .*x3d_xs"
    ):
        model_card("qqqq")


def test_unknown_option_is_named() -> None:
    with pytest.raises(
        TypeError, match=r"tiny_tsm has no option 'kernel_sizes'; its options are fold_div, dropout"
    ):
        create_model("tiny_tsm", kernel_sizes=(1, 3))
    with pytest.raises(TypeError, match=r"no option 'width'"):
        create_model("mstnet_resnet50", width=32)


@pytest.mark.parametrize("argument", ["num_classes", "num_segments"])
def test_sizes_are_checked(argument: str) -> None:
    with pytest.raises(ValueError, match=f"^{argument} must be at least 1, got 0"):
        create_model("tiny_tsn", **{argument: 0})


@pytest.mark.parametrize(
    "options, argument",
    [
        ({"position": "tail"}, "position"),
        ({"ordinary": True}, "ordinary"),
        ({"kernel_sizes": (2,)}, "kernel_sizes"),
    ],
)
def test_option_values_are_checked(options: dict, argument: str) -> None:
    with pytest.raises(ValueError, match=argument):
        create_model("tiny_mstnet", **options)


def test_options_reach_the_network() -> None:
    net = create_model(
        "tiny_mstnet",
        num_classes=5,
        num_segments=4,
        backend="reference",
        kernel_sizes=(3, 3),
        dilations=(1, 2),
        dropout=0.3,
    )
    layer = net.layer2[0].temporal.layer
    assert (net.fc.out_features, net.dropout.p, net.layer2[0].temporal.num_segments) == (5, 0.3, 4)
    assert (layer.kernel_sizes, layer.dilations, layer.backend) == ((3, 3), (1, 2), "reference")
    assert create_model("tiny_tsm", fold_div=8, backend="cpu").layer1[0].temporal.layer.fold_div == 8


@pytest.mark.parametrize("name", NAMES)
def test_cards(name: str) -> None:
    card = model_card(name)
    with torch.device("meta"):
        net = create_model(name)
    assert net.get_submodule(net.classifier_name).out_features == card.num_classes
    assert net.num_segments == card.num_segments
    assert card.num_params == sum(p.numel() for p in net.parameters())
    assert card.gmacs > 0
    assert len(card.mean) == len(card.std) == card.input_size[0] == 3
    assert card.paper
    assert card.source
    assert card.build.__doc__


def test_registering_twice_or_against_the_card_fails() -> None:
    with pytest.raises(ValueError, match="'tiny_tsn' is registered already"):
        register_model(TSN, paper="p", source="s", input_size=(3, 8, 64, 64))(tiny_tsn)

    def other(
        num_classes: int = 8, num_segments: int = 4, *, backend: str | None = None, **options: object
    ) -> TSN:
        raise AssertionError

    with pytest.raises(ValueError, match="num_segments defaults to 4, its card's input_size has 8"):
        register_model(TSN, paper="p", source="s", input_size=(3, 8, 64, 64))(other)
    assert not is_model("other")


@pytest.mark.parametrize("option", ["num_classes", "num_segments"])
@pytest.mark.parametrize("value", ["10", 2.5, True])
def test_numbers_of_another_kind_are_named(option: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"{option} must be an int, got {type(value).__name__}"):
        create_model("tiny_tsn", **{option: value})
