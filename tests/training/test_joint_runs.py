"""Recipes with `joint`: what is logged, killed and resumed, and which weights move."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("lightning", reason="training needs lightning")
pytest.importorskip("skimage", reason="the motion dataset needs scikit-image")
pytest.importorskip("av", reason="video files need av")

from tests.training.runs import Killed, kill_at, rows
from tests.training.test_resume import assert_same_run
from vidops.training import ScaleSchedule, fit, read_checkpoint
from vidops.training.config import load_config
from vidops.training.objective import Objective
from vidops.training.start import build_network

RULES: dict[str, dict[str, Any]] = {
    "mgda": {"name": "mgda"},
    "constant": {"name": "constant", "alpha": 0.3},
    "schedule": {"name": "schedule", "gamma": 0.4, "lam": 0.3},
    "separate": {"name": "separate", "epochs": 1},
    "sum": {"name": "sum", "weight": 0.5},
}
SGD = {"name": "sgd", "lr": 0.05, "weight_decay": 1e-3}


class Made(nn.Module):
    """Takes from every frame what a convolution makes of it, and classifies what is left."""

    projection_name = "projection"
    classifier_name = "fc"

    def __init__(self, num_classes: int, *, dropout: float = 0.0, **options: Any) -> None:
        super().__init__()
        self.projection = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.GELU(), nn.Conv2d(4, 3, 1)
        )
        self.conv, self.norm = nn.Conv2d(3, 8, 5, stride=4), nn.BatchNorm2d(8)
        self.dropout, self.fc = nn.Dropout(dropout), nn.Linear(8, num_classes)

    def forward(self, clip: Tensor, return_losses: bool = False) -> Any:
        frames = clip.transpose(1, 2).flatten(0, 1)
        left = frames - self.projection(frames)
        features = self.norm(self.conv(left)).relu().mean((2, 3)).unflatten(0, (len(clip), -1)).mean(1)
        logits = self.fc(self.dropout(features))
        if not return_losses:
            return logits
        return logits, {"energy": left.unflatten(0, (len(clip), -1)).square().mean((1, 2, 3, 4))}


@pytest.fixture(autouse=True)
def made() -> Iterator[None]:
    with mock.patch("vidops.training.start.create_model", lambda name, num_classes, **o: Made(num_classes)):
        yield


def values(output: Path, column: str) -> list[float]:
    """A column's values of the steps, without those of the epochs' ends."""
    return [float(row[column]) for row in rows(output) if row[column] and not row["val_loss"]]


def first(config: Any) -> dict[str, Tensor]:
    with torch.random.fork_rng([]):
        return build_network(config, 4).state_dict()


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("rule", RULES)
def test_what_is_logged(make_config: Any, rule: str) -> None:
    config = make_config(joint=RULES[rule], optimizer=SGD)
    result = fit(config)
    energies, alphas = values(result.output, "l1"), values(result.output, "alpha")
    assert len(energies) == 9
    assert max(energies) - min(energies) > 1e-3
    expected = {"schedule": [ScaleSchedule(9, 0.4, 0.3)(m) for m in range(1, 10)]}
    expected["separate"], expected["constant"] = [1.0] * 3 + [0.0] * 6, [0.3] * 9
    if rule == "mgda":
        assert all(0 <= alpha <= 1 for alpha in alphas)
        assert len(set(alphas)) > 3
    else:
        assert alphas == pytest.approx(expected.get(rule, []), abs=1e-5)
    ends = [row for row in rows(result.output) if row["val_loss"]]
    for epoch, row in enumerate(ends):
        mean = sum(energies[3 * epoch : 3 * epoch + 3]) / 3
        assert float(row["l1"]) == pytest.approx(mean, rel=1e-4)
        if alphas:
            assert float(row["alpha"]) == pytest.approx(sum(alphas[3 * epoch :][:3]) / 3, abs=1e-5)
    assert float(ends[-1]["val_l1"]) == pytest.approx(result.metrics["val_l1"], rel=1e-5)


@pytest.mark.parametrize(("rule", "kill"), [("mgda", (1, 3)), ("schedule", (1, 2)), ("separate", (1, 2))])
def test_a_killed_run_ends_as_an_unbroken_one(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str, kill: tuple[int, int]
) -> None:
    rich = {"data__batch_size": 4, "accumulate": 2, "checkpoint_every": 1, "joint": RULES[rule], "ema": 0.9}
    whole = fit(make_config(output=str(tmp_path / "whole"), **rich))
    config = make_config(**rich)
    with monkeypatch.context() as patch:
        kill_at(patch, *kill)
        with pytest.raises(Killed):
            fit(config)
    torch.manual_seed(1)
    assert_same_run(whole.output, fit(config, resume=True).output)


def test_separate_moves_the_projection_and_then_the_rest(make_config: Any, tmp_path: Path) -> None:
    config = make_config(joint={"name": "separate", "epochs": 1}, optimizer=SGD, checkpoint_every=1, epochs=2)
    seen = []
    with mock.patch(
        "vidops.training.module.Recognizer.on_train_batch_end",
        lambda self, *args: seen.append({k: v.clone() for k, v in self.model.state_dict().items()}),
    ):
        fit(config)
    assert moved(first(config), seen[2]) == {"projection"}  # statistics of batch norms and all
    assert moved(seen[2], seen[5]) == {"conv", "norm", "fc"}


def test_two_batches_of_4_are_one_of_8(make_config: Any, tmp_path: Path) -> None:
    changes = {"optimizer": SGD, "freeze_norms": "all", "joint": RULES["mgda"]}
    whole = fit(make_config(output=str(tmp_path / "whole"), **changes))
    halves = fit(make_config(output=str(tmp_path / "halves"), data__batch_size=4, accumulate=2, **changes))
    for column in ("train_loss", "l1", "alpha"):
        assert values(whole.output, column) == pytest.approx(values(halves.output, column), abs=2e-5), column
    ours, theirs = read_checkpoint(whole.last).weights, read_checkpoint(halves.last).weights
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=1e-5, rtol=1e-4)


def test_bf16_runs(make_config: Any) -> None:
    result = fit(make_config(joint=RULES["mgda"], precision="bf16", optimizer=SGD, epochs=2, clip_norm=1.0))
    assert all(0 <= alpha <= 1 for alpha in values(result.output, "alpha"))


def test_the_sum_of_cross_entropy_and_own_losses(make_config: Any) -> None:
    config = make_config(joint={"name": "sum", "weight": 10.0})
    net = Made(4)
    objective = Objective(config, net, 3)
    clip, label = torch.rand(2, 3, 4, 16, 16), torch.tensor([1, 3])
    logits, own = objective.run(clip)
    assert own is not None
    loss = F.cross_entropy(logits, label)
    total = objective.join(loss, own, step=0, last=True)
    again, losses = net(clip, return_losses=True)
    torch.testing.assert_close(total, F.cross_entropy(again, label) + 10 * losses["energy"].mean())
    assert torch.equal(logits, again)


def test_a_loss_that_is_no_number_is_told_before_its_gradients(make_config: Any) -> None:
    from vidops.training import NonFiniteLossError

    forward = Made.forward

    def broken(self: Made, clip: Tensor, return_losses: bool = False) -> Any:
        found = forward(self, clip, return_losses)
        return (found[0], {"energy": found[1]["energy"] / 0}) if return_losses else found

    with (
        mock.patch.object(Made, "forward", broken),
        pytest.raises(NonFiniteLossError, match="the loss is inf in epoch 1, batch 1, of: "),
    ):
        fit(make_config(joint=RULES["mgda"]))


@pytest.mark.parametrize(
    ("joint", "lacking", "text"),
    [
        ({"name": "mgda"}, "losses", "^joint: Linear has no losses of its own"),
        (
            {"name": "mgda"},
            "projection",
            "^joint.name: mgda is for a network with a projection; Made has losses",
        ),
        (
            {"name": "schedule", "gamma": 0.01, "lam": 0.5},
            "",
            r"^joint.gamma: must leave more than a step on both",
        ),
    ],
)
def test_networks_that_do_not_fit_are_refused(make_config: Any, joint: Any, lacking: str, text: str) -> None:
    net: nn.Module = nn.Linear(1, 1) if lacking == "losses" else Made(4)
    if lacking == "projection":
        net.projection_name = None  # type: ignore[assignment]
    config = make_config(joint=joint)
    with (
        mock.patch("vidops.training.start.create_model", return_value=net),
        pytest.raises(ValueError, match=text),
    ):
        fit(config)
    assert not Path(config.output).exists()


@pytest.mark.parametrize(("model", "frames", "wanted"), [("tiny_dan", 4, 3), ("tiny_tsm", 3, 1)])
def test_runs_that_the_network_does_not_take_are_refused(
    make_config: Any, model: str, frames: int, wanted: int
) -> None:
    config = make_config(model={"name": model, "num_segments": 2}, data__frames_per_segment=frames)
    with pytest.raises(
        ValueError, match=rf"^data.frames_per_segment: must be {wanted} for {model} .* got {frames}$"
    ):
        fit(config)
    assert not Path(config.output).exists()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("{name: mdga}", "joint.name: must be one of 'sum', 'separate', .* got 'mdga'"),
        ("{name: constant}", "joint.alpha: is missing"),
        ("{name: constant, alpha: 2}", "joint.alpha: must be less than or equal to 1, got 2"),
        ("{name: sum, weight: 0}", "joint.weight: must be greater than 0, got 0"),
        ("{name: schedule, gamma: 0.2, lamb: 1}", r"joint.lamb: is no known key \(did you mean lam\?\)"),
        ("{name: separate, epochs: 9}", "joint.epochs: must be below epochs=4, got 9"),
        ("mgda", "joint: must be keys, got 'mgda'"),
    ],
)
def test_keys_that_are_wrong(value: str, text: str) -> None:
    demo = Path(__file__).parents[2] / "configs" / "demo" / "tiny_tsn.yaml"
    with pytest.raises(ValueError, match=text):
        load_config(demo, ["epochs=4", f"joint={value}"])
