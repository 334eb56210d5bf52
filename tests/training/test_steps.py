"""What happens between two optimizer steps: accumulation, clipping, averaging."""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

pytest.importorskip("lightning", reason="training needs lightning")
pytest.importorskip("skimage", reason="the motion dataset needs scikit-image")
pytest.importorskip("av", reason="video files need av")

from tests.training.runs import rows
from vidops.evaluation import evaluate
from vidops.training import fit, read_checkpoint
from vidops.training.checkpoint import PREFIX, TRAINED
from vidops.training.module import Recognizer
from vidops.training.start import build_network

STILL = {"freeze_norms": "all", "model__options": {"dropout": 0.0}}


def trained(path: Path) -> dict[str, torch.Tensor]:
    state = torch.load(path, weights_only=True)[TRAINED]
    return {name.removeprefix(PREFIX): value for name, value in state.items()}


def test_two_batches_of_4_are_one_of_8(make_config: Any, tmp_path: Path) -> None:
    changes = {**STILL, "optimizer": {"name": "sgd", "lr": 0.05, "weight_decay": 1e-3}, "clip_norm": 1.0}
    whole = fit(make_config(output=str(tmp_path / "whole"), **changes))
    halves = fit(make_config(output=str(tmp_path / "halves"), data__batch_size=4, accumulate=2, **changes))
    first, second = rows(whole.output), rows(halves.output)
    assert [r["step"] for r in first] == [r["step"] for r in second]
    for key in ("train_loss", "lr", "train_top1", "val_loss", "val_top1"):
        assert [float(r[key]) for r in first if r[key]] == pytest.approx(
            [float(r[key]) for r in second if r[key]], abs=2e-5
        ), key
    ours, theirs = read_checkpoint(whole.last).weights, read_checkpoint(halves.last).weights
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=1e-5, rtol=1e-4)
    start = read_checkpoint(
        fit(make_config(output=str(tmp_path / "start"), epochs=1, **changes)).last
    ).weights
    assert (ours["fc.weight"] - start["fc.weight"]).abs().max() > 1e-2, (
        "the comparison must be of moved weights"
    )


def test_batches_that_fill_no_step_are_left_out(make_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    step = Recognizer.training_step

    def training_step(self: Recognizer, data: Any, batch_idx: int) -> torch.Tensor:
        seen.append(len(data["index"]))
        return step(self, data, batch_idx)

    monkeypatch.setattr(Recognizer, "training_step", training_step)
    result = fit(make_config(data__batch_size=5, accumulate=2, epochs=2))  # of 24 clips: 2 steps of 10
    assert seen == [5] * 8
    assert [r["step"] for r in rows(result.output)] == ["1", "2", "2", "3", "4", "4"]


def test_a_step_larger_than_the_list_is_refused(make_config: Any) -> None:
    with pytest.raises(ValueError, match=r"^data.batch_size: 5 x accumulate 5 is more than the 24 training"):
        fit(make_config(data__batch_size=5, accumulate=5))


def test_clipping_bounds_a_step_over_all_its_batches(make_config: Any) -> None:
    optimizer = {"name": "sgd", "lr": 1.0, "momentum": 0.0}
    schedule = {"name": "steps", "milestones": [1], "gamma": 1e-9}
    moved = {}
    for norm in (None, 1e-3):
        config = make_config(
            output=f"{make_config().output}-{norm}",
            optimizer=optimizer,
            schedule=schedule,
            clip_norm=norm,
            data__batch_size=12,
            accumulate=2,
            epochs=2,
            **STILL,
        )
        with torch.random.fork_rng([]):
            before = dict(build_network(config, 4).named_parameters())
        after = read_checkpoint(fit(config).last).weights
        moved[norm] = torch.cat([(after[name] - p).detach().flatten() for name, p in before.items()]).norm()
    assert moved[None] > 0.05
    assert moved[1e-3] == pytest.approx(1e-3, rel=1e-3)


def test_average_by_hand_is_what_is_validated_and_stored(
    make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[dict[str, torch.Tensor]] = []
    end = Recognizer.on_train_batch_end

    def on_train_batch_end(self: Recognizer, outputs: Any, batch: Any, batch_idx: int) -> None:
        end(self, outputs, batch, batch_idx)
        kept.append({name: value.detach().clone() for name, value in self.model.state_dict().items()})

    monkeypatch.setattr(Recognizer, "on_train_batch_end", on_train_batch_end)
    result = fit(make_config(ema=0.75, data__batch_size=4, accumulate=2, epochs=2))
    steps = kept[1::2]  # the weights change with every second batch
    average = {name: value.clone() for name, value in steps[0].items()}
    for weights in steps[1:]:
        for name, value in weights.items():
            if value.is_floating_point():
                average[name] = 0.75 * average[name] + 0.25 * value
    last = read_checkpoint(result.last)
    assert len(steps) == 6
    for name, value in average.items():
        if value.is_floating_point():
            torch.testing.assert_close(last.weights[name], value)
    now = trained(result.last)
    assert all(torch.equal(now[name], value) for name, value in steps[-1].items())
    assert not torch.equal(now["fc.weight"], last.weights["fc.weight"])
    assert evaluate(result.last).loss == pytest.approx(result.metrics["val_loss"], rel=1e-5)
    best = read_checkpoint(result.best)
    assert evaluate(result.best).top1 == best.metrics["val_top1"] == result.best_score


@pytest.mark.parametrize("which", ["all", "all_but_first"])
def test_frozen_norms_are_as_they_were_after_a_run(make_config: Any, which: str) -> None:
    config = make_config(freeze_norms=which, epochs=2)
    with torch.random.fork_rng([]):
        before = build_network(config, 4).state_dict()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        after = read_checkpoint(fit(config).last).weights
    assert [str(w.message) for w in caught] == []
    norms = {name for name in before if re.search(r"(bn\d|downsample\.1)\.", name)}
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    first = {
        f"bn1.{part}" for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    assert len(norms) > 40
    assert moved & norms == (set() if which == "all" else first)
    assert {"conv1.weight", "layer4.0.conv2.weight", "fc.bias"} <= moved


def test_a_scaled_rate_is_said_and_used(make_config: Any) -> None:
    out = io.StringIO()
    optimizer = {"name": "sgd", "lr": 0.04, "lr_batch": 32}
    schedule = {"name": "steps", "milestones": [2]}
    result = fit(
        make_config(optimizer=optimizer, schedule=schedule, accumulate=2, data__batch_size=4), out=out
    )
    assert out.getvalue().splitlines()[1] == "learning rate 0.01 = 0.04 x 8 / 32 clips a step"
    assert {row["lr"] for row in rows(result.output)} == {"0.01", "0.001"}


def test_recipes_that_do_not_fit_the_network_are_refused_before_anything_is_written(make_config: Any) -> None:
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool3d(1), torch.nn.Flatten(), torch.nn.Linear(3, 4))
    groups = {"classifier_weight": {"lr": 5.0}}
    for changes, key in (
        ({"freeze_norms": "all"}, "freeze_norms"),
        ({"optimizer": {"name": "sgd", "lr": 0.1, "groups": groups}}, "optimizer.groups.classifier_weight"),
    ):
        config = make_config(**changes)
        with (
            mock.patch("vidops.training.start.create_model", return_value=net),
            pytest.raises(ValueError, match=f"^{key}: "),
        ):
            fit(config)
        assert not Path(config.output).exists()


def test_keys_that_a_resumed_run_may_change(make_config: Any) -> None:
    fit(make_config(epochs=1, checkpoint_every=1))
    assert fit(make_config(epochs=1, data__crops=3, log_every=5), resume=True).epochs == 1
    for changes, text in (
        ({"ema": 0.5}, "ema: the run in .* has None, not 0.5"),
        ({"accumulate": 2}, "accumulate: .* has 1, not 2"),
        ({"freeze_norms": "all"}, "freeze_norms: .* has 'none', not 'all'"),
    ):
        with pytest.raises(ValueError, match=text):
            fit(make_config(epochs=1, **changes), resume=True)
