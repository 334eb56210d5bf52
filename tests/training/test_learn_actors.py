"""Judging what networks of actors learned, and one that is trained with and without what sees time."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

pytest.importorskip("lightning", reason="training needs lightning")
pytest.importorskip("skimage", reason="the detection set needs scikit-image")
pytest.importorskip("av", reason="video files need av")

from vidops.evaluation import ActorReport, FrameMap
from vidops.ops.backends import BACKENDS
from vidops.training.config import load_config, shipped_recipes
from vidops.training.learn import main
from vidops.training.learn_actors import actors_table, judge_actors, learn_actors

CLASSES = ["move right", "move left", "move down", "move up", "grow", "shrink", "round", "square"]


def report(ordered: float, looks: float) -> ActorReport:
    """Of 100 boxes, each of which has every label of order a quarter of the time."""
    precisions = dict(enumerate([ordered] * 6 + [looks] * 2))
    known = [p for p in precisions.values() if not math.isnan(p)]
    found = FrameMap(
        sum(known) / len(known), precisions, dict.fromkeys(range(8), 25), dict.fromkeys(range(8), 100)
    )
    return ActorReport(CLASSES, found, 40, 100)


@pytest.mark.parametrize(
    ("ordered", "without", "lost", "passed"),
    [
        (0.85, 0.40, 0.75, True),
        (0.85, 0.46, 0.65, False),
        (0.70, 0.25, 1.0, False),
        (0.25, 0.25, math.nan, False),
    ],
)
def test_what_is_lost_without_time(ordered: float, without: float, lost: float, passed: bool) -> None:
    result = judge_actors("tiny_st_slowfast", report(ordered, 1.0), report(without, 1.0))
    assert (result.ordered, result.without_time) == (pytest.approx(ordered), pytest.approx(without))
    assert result.frame_map == pytest.approx((6 * ordered + 2) / 8)
    assert result.requirement.endswith(f"is {lost:.1%}")
    assert result.passed is passed
    text = actors_table([result])
    assert f"{ordered:.2%}" in text.splitlines()[2]
    assert f"{without:.2%}" in text.splitlines()[2]
    assert text.endswith("yes" if passed else "NO")


@pytest.mark.parametrize(
    ("ordered", "looks", "passed"), [(0.5, 0.95, True), (0.51, 0.95, False), (0.4, 0.89, False)]
)
def test_a_network_that_sees_no_time(ordered: float, looks: float, passed: bool) -> None:
    result = judge_actors("tiny_i3d_actors", report(ordered, looks))
    assert result.without_time is None
    assert result.passed is passed


def test_reports_of_other_sets_are_refused() -> None:
    with pytest.raises(
        ValueError, match="report: is not of the synthetic detection set, lacks round, square"
    ):
        judge_actors("x", report(0.5, math.nan))


def test_a_small_run_with_and_without_time(tmp_path: Path) -> None:
    """Whatever it reaches in two steps: data, both networks and figures are there."""
    from vidops.data import make_actors

    root = make_actors(tmp_path / "actors", train=16, val=24, excluded=0, frames=8, size=32, progress=False)
    config = load_config(
        shipped_recipes() / "demo" / "tiny_st_slowfast.yaml",
        [f"data.root={root}", f"output={tmp_path / 'run'}", "data.size=32", "epochs=1", "accelerator=cpu"],
    )
    result = learn_actors("tiny_st_slowfast", config, epochs_without=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["actors", "run", "run_without_time"]
    assert list(result.precisions) == list(result.precisions_without) == CLASSES
    other = load_config(tmp_path / "run_without_time" / "config.yaml")
    assert other.model.options == {**config.model.options, "ssfa": "fast", "tsfa": False}
    assert (config.epochs, other.epochs) == (1, 2)
    assert result.precisions != result.precisions_without


def test_learn_checks_names_before_it_makes_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no_net.yaml: no such file"):
        main(["no_net", "tiny_st_slowfast"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_st_slowfast_learns_and_loses_order_without_time(tmp_path: Path) -> None:
    """Without time it is trained until it tells what one frame tells: that it could learn nothing else, not no more."""
    if BACKENDS["cpu"].missing:
        pytest.skip(BACKENDS["cpu"].missing)
    config = load_config(
        shipped_recipes() / "demo" / "tiny_st_slowfast.yaml",
        [f"data.root={tmp_path / 'actors'}", f"output={tmp_path / 'run'}", "backend=cpu", "accelerator=cpu"],
    )
    result = learn_actors("tiny_st_slowfast", config, epochs_without=4)
    assert result.passed, result.requirement
    assert result.frame_map >= 0.8
    assert result.without_time is not None
    assert result.without_time <= 0.5
    assert min(result.precisions_without[label] for label in ("round", "square")) >= 0.85
