"""Judging what was learned, and one backend's loss curve against another's."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lightning", reason="training needs lightning")
pytest.importorskip("skimage", reason="the motion dataset needs scikit-image")
pytest.importorskip("av", reason="video files need av")

from vidops.data import MOTION_PAIRS, make_motion
from vidops.evaluation import Report
from vidops.ops.backends import BACKENDS
from vidops.training import fit
from vidops.training.learn import (
    beside_pathways,
    judge,
    learn,
    loss_curve,
    main,
    of_pair,
    within_pairs,
    without_order,
)
from vidops.training.start import build_network

CLASSES = [name for pair in list(MOTION_PAIRS.values())[:2] for name in pair]


def report(logits: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> Report:
    confusion = np.zeros((4, 4), np.int64)
    np.add.at(confusion, (labels, logits.argmax(1)), 1)
    return Report(CLASSES, confusion, 1.0, 0.0, {}, logits.astype(np.float32), labels)


def test_within_pairs_by_hand() -> None:
    labels = np.array([0, 1, 2, 3])
    logits = np.array([[1, 0, 9, 9], [0, 2, 9, 9], [9, 9, 1, 3], [9, 9, 2, 2]])
    assert within_pairs(report(logits, labels)) == (1 + 1 + 0 + 0.5) / 4
    with pytest.raises(ValueError, match=r"report: holds no logits"):
        within_pairs(Report(CLASSES, np.eye(4, dtype=np.int64), 1.0, 0.0))


@pytest.mark.parametrize(
    ("name", "right", "passed"),
    [
        ("tiny_mstnet", 388, True),
        ("tiny_mstnet", 387, False),
        ("tiny_tsm", 360, True),
        ("tiny_tsm", 359, False),
        ("tiny_tsn", 200, True),
        ("tiny_tsn", 230, True),
        ("tiny_tsn", 170, True),
        ("tiny_tsn", 231, False),
        ("tiny_tsn", 169, False),
    ],
)
def test_judgement_on_400_clips(name: str, right: int, passed: bool) -> None:
    labels = np.arange(400) % 4
    told = np.where(np.arange(400) < right, labels, labels ^ 1)
    result = judge(name, report(np.eye(4)[told], labels))
    assert (result.samples, result.top1, result.within_pairs) == (400, right / 400, right / 400)
    assert result.passed is passed


@pytest.mark.parametrize(("right", "passed"), [(360, True), (359, False)])
def test_a_squeezing_network_must_tell_pairs_alone(right: int, passed: bool) -> None:
    labels = np.arange(400) % 4
    told = np.where(
        np.arange(400) < right, labels ^ 1, labels ^ 2
    )  # the mirrored class, or one of the other pair
    result = judge("tiny_tesnet", report(np.eye(4)[told], labels))
    assert result.top1 == 0
    assert of_pair(report(np.eye(4)[told], labels)) == right / 400
    assert result.passed is passed
    assert result.requirement.endswith(f"is of {right / 400:.1%}")


@pytest.mark.parametrize(
    ("right", "passed"), [((392, 396, 300), True), ((391, 396, 300), False), ((391, 300, 396), False)]
)
def test_two_pathways_beside_each_alone(right: tuple[int, int, int], passed: bool) -> None:
    labels = np.arange(400) % 4
    told = [np.where(np.arange(400) < count, labels, labels ^ 1) for count in right]
    names = ("tiny_bqn", "tiny_mbpm", "tiny_mbpm_quiet")
    results = [judge(n, report(np.eye(4)[t], labels)) for n, t in zip(names, told, strict=True)]
    assert results[0].passed
    assert beside_pathways(results[0], results[:1]) == results[0]
    assert beside_pathways(results[1], results) == results[1]
    assert beside_pathways(results[0], results).passed is passed


@pytest.mark.parametrize(
    ("right", "shuffled", "passed"),
    [(400, 200, True), (400, 230, True), (400, 231, False), (400, 169, False), (359, 200, False)],
)
def test_shuffled_frames_leave_chance_within_pairs(right: int, shuffled: int, passed: bool) -> None:
    labels = np.arange(400) % 4
    reports = [
        report(np.eye(4)[np.where(np.arange(400) < count, labels, labels ^ 1)], labels)
        for count in (right, shuffled)
    ]
    result = without_order(judge("tiny_mf_kpsem", reports[0]), reports[1])
    assert (result.top1, result.shuffled, result.passed) == (right / 400, shuffled / 400, passed)
    assert result.requirement.endswith(f"frames shuffled 50 % +- 7.5% within pairs, is {shuffled / 400:.1%}")


@pytest.fixture(scope="module")
def motion_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set that networks are judged by: 2,400 clips and 400."""
    return make_motion(tmp_path_factory.mktemp("data") / "motion", progress=False)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "epochs"), [("tiny_mf_kpsem", 3), ("tiny_mstnet", 3), ("tiny_tsn", 1)])
def test_networks_learn_what_they_can_see_of_motion(
    motion_set: Path, tmp_path: Path, name: str, epochs: int
) -> None:
    if BACKENDS["cpu"].missing:
        pytest.skip(BACKENDS["cpu"].missing)
    overrides = [f"epochs={epochs}", "backend=cpu", "accelerator=cpu"]
    (result,) = learn([name], data=motion_set, output=tmp_path / "runs", overrides=overrides)
    assert result.passed, result.requirement
    assert result.top1 >= {"tiny_mf_kpsem": 0.9, "tiny_mstnet": 0.97, "tiny_tsn": 0.4}[name]
    if name == "tiny_tsn":  # it tells which of the four pairs, so that it has learned
        assert abs(result.within_pairs - 0.5) <= 0.075
    if name == "tiny_mf_kpsem":
        assert abs(result.shuffled - 0.5) <= 0.075


def test_the_table_and_the_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = np.arange(400) % 4
    right, wrong = (
        judge(name, report(np.eye(4)[told], labels))
        for name, told in (("tiny_mstnet", labels), ("tiny_tsm", labels ^ 1))
    )
    for results, status in (([right], 0), ([right, wrong], 1)):
        monkeypatch.setattr("vidops.training.learn.learn", lambda *args, results=results, **keywords: results)
        assert main(["tiny_mstnet", "--data", str(tmp_path)]) == status
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[:4] == ["tiny_mstnet", "400", "100.00%", "100.00%"]
    assert lines[2].endswith("top-1 at least 97%: yes")
    assert lines[-1].endswith("top-1 at least 90%: NO")


def test_too_few_clips_to_judge() -> None:
    labels = np.arange(399) % 4
    with pytest.raises(ValueError, match=r"399 validation clips are too few"):
        judge("tiny_tsn", report(np.eye(4)[labels], labels))


def test_learn_checks_names_before_it_makes_data(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no_net.yaml: no such file"):
        learn(["no_net"], data=tmp_path / "motion", output=tmp_path / "runs")
    assert list(tmp_path.iterdir()) == []


# The first steps of a long one-cycle run: at high rates rounding alone drives two runs apart. The backends
# agree to 2e-7 there, so the limit can be ten times narrower than the 1e-4 that is asked for; the control
# below shows that a wrong gradient is seen.
CURVE = {"epochs": 75, "optimizer__lr": 2e-3, "data__size": 32}
LIMIT = 1e-5


@pytest.mark.parametrize("model", ["tiny_tsm", "tiny_mstnet"])
def test_loss_curves_of_reference_and_cpu_are_the_same(make_config: Any, model: str) -> None:
    if BACKENDS["cpu"].missing:
        pytest.skip(BACKENDS["cpu"].missing)
    reference, cpu = (
        np.array(loss_curve(make_config(backend=b, model__name=model, **CURVE))) for b in ("reference", "cpu")
    )
    assert reference.shape == (20,)
    assert (reference != reference[0]).any()
    assert np.abs(cpu / reference - 1).max() <= LIMIT


def test_loss_curves_show_a_wrong_gradient(make_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(backend="reference", model__name="tiny_mstnet", **CURVE)
    right = np.array(loss_curve(config))

    def build(*args: Any) -> torch.nn.Module:
        net = build_network(*args)
        for name, parameter in net.named_parameters():
            if "temporal" in name:
                parameter.register_hook(torch.neg)
        return net

    monkeypatch.setattr("vidops.training.learn.build_network", build)
    assert np.abs(np.array(loss_curve(config)) / right - 1).max() > 5 * LIMIT


def test_loss_curve_is_that_of_a_run(make_config: Any) -> None:
    config = make_config(epochs=2)
    result = fit(config)
    with (result.output / "metrics.csv").open() as file:
        logged = [float(row["train_loss"]) for row in csv.DictReader(file) if row["seconds"] == ""]
    assert loss_curve(config, 20) == pytest.approx(logged, rel=1e-5)
