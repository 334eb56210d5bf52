"""Curves of the scale schedule, and one loss against the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vidops.training import ScaleSchedule
from vidops.visualize import energy_scatter, schedule_curves

HEAD = "epoch,step,lr,train_loss,train_top1,val_loss,l1,alpha\n"


def log(folder: Path, rows: list[tuple[int, float, float]]) -> Path:
    """A log of steps (epoch, cross entropy, own loss), with a row that closes each epoch."""
    lines = [f"{e},{i},0.1,{loss},,,{own},0\n" for i, (e, loss, own) in enumerate(rows, 1)]
    closing = [f"{e},{len(rows)},0.1,9,0.5,9,9,0\n" for e in sorted({row[0] for row in rows})]
    path = folder / "metrics.csv"
    path.write_text(HEAD + "".join(lines + closing))
    return path


def test_curves_are_the_schedules() -> None:
    schedules = [ScaleSchedule(500, 0.1, 0.1), ScaleSchedule(40, 0.5, 0.3)]
    axes = schedule_curves(schedules, title="two").axes[0]
    assert len(axes.lines) == 4
    for i, schedule in enumerate(schedules):
        x, y = (np.asarray(values) for values in axes.lines[2 * i].get_data())
        steps = (x * schedule.steps).round().astype(int)
        assert {1, schedule.steps, round(schedule.gamma * schedule.steps)} <= set(steps.tolist())
        assert y.tolist() == pytest.approx([schedule(int(step)) for step in steps])
        assert axes.lines[2 * i + 1].get_data() == ([schedule.gamma], [schedule.lam])
    with pytest.raises(ValueError, match="schedules must be 1 to 6 in one picture, got 0"):
        schedule_curves([])


def test_points_are_the_steps_and_not_the_means(tmp_path: Path) -> None:
    rows = [(1, 2.0, 0.9), (1, 1.5, 0.8), (2, 1.2, 0.6), (3, 1.3, 0.5)]
    figure = energy_scatter({"a": log(tmp_path, rows)})
    panel = figure.axes[0]
    points = panel.collections[0]
    assert np.allclose(points.get_offsets(), [(own, loss) for _, loss, own in rows])
    assert np.asarray(points.get_array()).tolist() == [1, 1, 2, 3]
    told = np.corrcoef([own for _, _, own in rows], [loss for _, loss, _ in rows])[0, 1]
    assert panel.get_title() == f"a (correlation {told:.2f})"
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("own loss (l1)", "cross entropy")


def test_logs_that_cannot_be_drawn(tmp_path: Path) -> None:
    path = log(tmp_path, [(1, 2.0, 0.9), (1, 1.9, 0.9)])
    assert energy_scatter({"a": path}).axes[0].get_title() == "a (no correlation to tell)"
    with pytest.raises(ValueError, match="holds 1 steps with l1 and train_loss, it takes 2; runs with joint"):
        energy_scatter({"a": log(tmp_path, [(1, 2.0, 0.9)])})
    path.write_text("epoch,step,train_loss\n1,1,2.0\n1,2,2.0\n")
    with pytest.raises(ValueError, match="holds 0 steps"):
        energy_scatter({"a": path})
    with pytest.raises(ValueError, match="logs must be 1 to 6 in one picture, got 0"):
        energy_scatter({})
