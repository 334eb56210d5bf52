"""Parameter groups, schedules, frozen batch norms: what a recipe makes of the rates and decays."""

from __future__ import annotations

import math
import re
import warnings
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("lightning", reason="training needs lightning")
pytest.importorskip("skimage", reason="the motion dataset needs scikit-image")
pytest.importorskip("av", reason="video files need av")

from vidops.models import create_model
from vidops.training.config import Config
from vidops.training.module import Recognizer
from vidops.training.optim import build_optimizer, build_schedule, frozen_norms, parameter_kinds

THESIS = {
    "weight": {"lr": 1.0, "decay": 1.0},
    "bias": {"lr": 2.0, "decay": 0.0},
    "norm": {"lr": 1.0, "decay": 0.0},
    "classifier_weight": {"lr": 5.0, "decay": 5.0},
    "classifier_bias": {"lr": 10.0, "decay": 0.0},
}


def tiny() -> nn.Module:
    return create_model("tiny_mstnet", num_classes=4)


def multipliers(config: Config, net: nn.Module) -> dict[str, tuple[float, float]]:
    """Rate and decay of each parameter by name."""
    names = {id(p): name for name, p in net.named_parameters()}
    groups = build_optimizer(config, net).param_groups
    found = [
        (names[id(p)], (round(g["lr"], 9), round(g["weight_decay"], 9))) for g in groups for p in g["params"]
    ]
    assert len(found) == len(dict(found)), "a parameter in two groups"
    return dict(found)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_groups_of_the_thesis(make_config: Any, name: str) -> None:
    config = make_config(optimizer={"name": name, "lr": 0.01, "weight_decay": 1e-3, "groups": THESIS})
    net = tiny()
    found = multipliers(config, net)
    assert found.keys() == dict(net.named_parameters()).keys()
    assert found["fc.weight"] == (0.05, 0.005)
    assert found["fc.bias"] == (0.1, 0.0)
    assert found["bn1.weight"] == found["layer1.0.bn2.bias"] == (0.01, 0.0)
    assert found["conv1.weight"] == (0.01, 0.001)
    temporal = [value for key, value in found.items() if ".temporal." in key and key.endswith("weight")]
    assert temporal
    assert set(temporal) == {(0.01, 0.001)}
    assert len(build_optimizer(config, net).param_groups) == 4 + any(
        k.endswith("temporal.bias") for k in found
    )


def test_a_bias_that_is_not_of_a_norm_or_the_classifier(make_config: Any) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.LayerNorm(4), nn.Linear(4, 2))
    config = make_config(
        optimizer={"name": "sgd", "lr": 1.0, "weight_decay": 1.0, "groups": {"bias": {"lr": 2.0}}}
    )
    assert {name: rate for name, (rate, _) in multipliers(config, net).items()} == {
        "0.weight": 1,
        "0.bias": 2,
        "1.weight": 1,
        "1.bias": 1,
        "2.weight": 1,
        "2.bias": 2,
    }
    kinds = parameter_kinds(net)
    assert {kind: len(p) for kind, p in kinds.items()} == {
        "first_conv_weight": 1,
        "first_conv_bias": 1,
        "weight": 1,
        "bias": 1,
        "norm": 2,
    }


def test_the_first_convolution_learns_at_its_own_rate(make_config: Any) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, 2))
    groups = {
        "first_conv_weight": {"lr": 5.0},
        "first_conv_bias": {"lr": 10.0, "decay": 0.0},
        "bias": {"lr": 2.0},
    }
    config = make_config(optimizer={"name": "sgd", "lr": 1.0, "weight_decay": 1.0, "groups": groups})
    found = multipliers(config, net)
    assert (found["0.weight"], found["0.bias"]) == ((5, 1), (10, 0))
    assert (found["1.weight"], found["1.bias"]) == ((1, 1), (2, 1))
    assert (found["2.weight"], found["2.bias"]) == ((1, 1), (2, 1))
    assert multipliers(config, tiny())["conv1.weight"] == (5, 1)


def test_one_group_without_multipliers(make_config: Any) -> None:
    assert len(build_optimizer(make_config(), tiny()).param_groups) == 1


def test_a_classifier_group_needs_a_named_classifier(make_config: Any) -> None:
    config = make_config(optimizer={"name": "sgd", "lr": 1.0, "groups": {"classifier_bias": {"lr": 2.0}}})
    with pytest.raises(ValueError, match=r"^optimizer.groups.classifier_bias: Linear does not name its"):
        build_optimizer(config, nn.Linear(2, 2))


def test_the_rate_scales_with_the_step_only_where_the_recipe_says_so(make_config: Any) -> None:
    def rate(**changes: Any) -> float:
        optimizer = {"name": "sgd", "lr": 0.02, **changes}
        config = make_config(optimizer=optimizer, data__batch_size=8, accumulate=3)
        return build_optimizer(config, tiny()).param_groups[0]["lr"]

    assert rate() == 0.02
    assert rate(lr_batch=64) == pytest.approx(0.02 * 24 / 64)


def rates(config: Config, steps: int, groups: int = 1) -> list[list[float]]:
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(groups)]
    lr = config.optimizer.lr
    optimizer = torch.optim.SGD([{"params": [p], "lr": lr * (i + 1)} for i, p in enumerate(parameters)])
    schedule = build_schedule(config, optimizer, steps // config.epochs)
    found = []
    for _ in range(steps):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return found


def test_cosine_with_warm_up_by_hand(make_config: Any) -> None:
    config = make_config(schedule={"name": "cosine", "warmup_epochs": 0.5}, epochs=2, optimizer__lr=1.0)
    found = rates(config, 20)
    warm = [(i + 1) / 6 for i in range(5)]
    after = [(1 + math.cos(math.pi * i / 15)) / 2 for i in range(15)]
    assert [r for (r,) in found] == pytest.approx([*warm, *after])


def test_steps_with_warm_up_by_hand(make_config: Any) -> None:
    schedule = {"name": "steps", "milestones": [1, 3], "gamma": 0.5, "warmup_epochs": 1}
    config = make_config(schedule=schedule, epochs=4, optimizer__lr=1.0)
    assert [r for (r,) in rates(config, 12)] == pytest.approx([0.25, 0.5, 0.75, *[0.5] * 6, *[0.25] * 3])
    schedule["milestones"] = [2, 3]
    config = make_config(schedule=schedule, epochs=4, optimizer__lr=1.0)
    assert [r for (r,) in rates(config, 12)] == pytest.approx(
        [0.25, 0.5, 0.75, *[1] * 3, *[0.5] * 3, *[0.25] * 3]
    )


@pytest.mark.parametrize(("warmup", "steps"), [(0.5, 2), (0.25, 4), (0.1, 10), (0.2, 5), (0.3, 3), (0.3, 1)])
def test_one_cycle_with_a_warm_up_of_one_step_or_less(make_config: Any, warmup: float, steps: int) -> None:
    schedule = {"name": "one_cycle", "warmup": warmup}
    found = [r for (r,) in rates(make_config(schedule=schedule, epochs=1, optimizer__lr=1.0), steps)]
    if warmup * steps == 1:
        assert found[0] == pytest.approx(1.0), "the full rate is reached at once"
        by_hand = [(1 + math.cos(math.pi * i / (steps - 1))) / 2 for i in range(steps)]
        assert found == pytest.approx(by_hand, abs=1e-5)
    assert found == sorted(found, reverse=True)
    assert found[-1] == pytest.approx(1 / 25 / 1e4)


@pytest.mark.parametrize(
    "schedule",
    [
        {"name": "one_cycle"},
        {"name": "cosine", "warmup_epochs": 1},
        {"name": "steps", "milestones": [1, 2], "warmup_epochs": 1},
    ],
    ids=lambda s: s["name"],
)
def test_groups_keep_the_ratio_of_their_rates(make_config: Any, schedule: dict[str, Any]) -> None:
    found = rates(make_config(schedule=schedule, optimizer__lr=0.1), 12, groups=3)
    assert len({first for first, _, _ in found}) > 2
    for first, second, third in found:
        assert (second, third) == pytest.approx((2 * first, 3 * first))


@pytest.mark.parametrize(("which", "moving"), [("none", None), ("all", 0), ("all_but_first", 1)])
def test_frozen_norms_stay_frozen_through_mode_changes(
    make_config: Any, which: str, moving: int | None
) -> None:
    net = tiny()
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    module = Recognizer(make_config(freeze_norms=which, model__name="tiny_mstnet"), net, ["a"] * 4, 3)
    free = len(norms) if moving is None else moving
    for mode in (True, False, True):
        module.train(mode)
        assert [m.training for m in norms] == [mode] * free + [False] * (len(norms) - free)
    before = [m.running_mean.clone() for m in norms if m.running_mean is not None]
    net(torch.rand(2, 3, 8, 32, 32)).sum().backward()
    for i, norm in enumerate(norms):
        assert norm.running_mean is not None
        assert torch.equal(norm.running_mean, before[i]) is (i >= free)
        assert (norm.weight.grad is None) is (i >= free)
    trained = multipliers(make_config(), net)
    assert sum(".bn" in name or name.startswith("bn") for name in trained) <= 2 * free
    assert ("bn1.weight" in trained) is (free > 0)


def test_norms_to_freeze_have_to_be_there(make_config: Any) -> None:
    with pytest.raises(ValueError, match=re.escape("freeze_norms: is all, but Linear has no batch norm")):
        frozen_norms(nn.Linear(2, 2), "all")


def test_the_first_norm_of_each_pathway_stays_free() -> None:
    """Each pathway is a network with an input of its own."""
    net = create_model("tiny_bqn", num_classes=4)
    free = {n for n, m in net.named_modules() if isinstance(m, (nn.BatchNorm2d, nn.BatchNorm3d))} - {
        n for n, m in net.named_modules() if m in frozen_norms(net, "all_but_first")
    }
    assert free == {"busy.bn1", "quiet.bn1"}
    assert len(frozen_norms(net, "all")) == len(frozen_norms(net, "all_but_first")) + 2


def test_frozen_norms_of_weight_zero_are_told(make_config: Any) -> None:
    """What stands behind them would never pass anything on."""
    config = make_config(freeze_norms="all_but_first", model__name="tiny_bqn")
    net = create_model("tiny_bqn", num_classes=4)
    with pytest.warns(UserWarning, match=r"freeze_norms: .* weight zero.*: lateral\.0\.to_quiet\.norm"):
        Recognizer(config, net, ["a"] * 4, 3)
    for norm in frozen_norms(net, "all"):
        nn.init.ones_(norm.weight)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Recognizer(config, net, ["a"] * 4, 3)
