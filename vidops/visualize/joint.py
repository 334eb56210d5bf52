"""Two losses trained together: curves of the scale schedule, and one loss against the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .figures import new_figure, plain, series_colors
from .training import read_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..training.joint import ScaleSchedule

__all__ = ["energy_scatter", "schedule_curves"]


def schedule_curves(schedules: Sequence[ScaleSchedule], *, title: str = "") -> Figure:
    """Draw how the share of the projection's loss falls over a run.

    Args:
        schedules: one to six.
        title: above.

    Returns:
        The figure: alpha over the share of the run that is done, a dot where a schedule turns.

    Raises:
        ValueError: there are no schedules, or more than six.

    Source: Huang's thesis, figure 3.12.

    Example:
        >>> from vidops.training import ScaleSchedule
        >>> figure = schedule_curves([ScaleSchedule(1000, 0.2, 0.3)])
        >>> figure.axes[0].lines[0].get_label()
        'gamma 0.2, lambda 0.3, 1,000 steps'
    """
    colors = series_colors(len(schedules), "schedules")
    figure = new_figure(5.6, 3.6)
    axes = figure.subplots()
    for color, schedule in zip(colors, schedules, strict=True):
        # Every step where there are few; else more of them where the curve falls fast, at its two beginnings.
        turn = schedule.gamma * schedule.steps
        close = np.geomspace(1, schedule.steps, 600)
        steps = np.unique(np.concatenate([close, turn + close]).round().astype(int))
        steps = steps[steps <= schedule.steps]
        label = f"gamma {schedule.gamma:g}, lambda {schedule.lam:g}, {schedule.steps:,} steps"
        alphas = [schedule(int(step)) for step in steps]
        axes.plot(steps / schedule.steps, alphas, color=color, linewidth=1.5, label=label)
        axes.plot([schedule.gamma], [schedule.lam], "o", color=color, markersize=4)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.set_xlabel("share of the run's steps", fontsize=9)
    axes.set_ylabel("alpha", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    plain(axes)
    if title:
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    return figure


def energy_scatter(logs: Mapping[str, str | Path]) -> Figure:
    """Draw the network's own loss against the cross entropy, a point each logged step.

    Args:
        logs: ``metrics.csv`` of each run, by the name above its points; of runs with ``joint`` in their recipe.
            ``joint: {name: constant, alpha: 0}`` trains on the cross entropy alone, as in the thesis' figure.

    Returns:
        The figure: a panel each run, later epochs darker, with Pearson's correlation of the two losses.

    Raises:
        FileNotFoundError: a log does not exist.
        ValueError: there are no logs or more than six, or a log has fewer than two steps with both losses.

    Source: Huang's thesis, figure 3.13.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "metrics.csv"
        >>> _ = file.write_text("epoch,step,train_loss,l1\\n1,1,2.0,0.9\\n1,2,1.5,0.8\\n2,3,1.2,0.6\\n")
        >>> energy_scatter({"tiny_dan": file}).axes[0].get_title()
        'tiny_dan (correlation 0.94)'
    """
    series_colors(len(logs), "logs")
    found = {name: _losses(path) for name, path in logs.items()}
    figure = new_figure(3.9 * len(found) + 0.4, 3.6)
    from matplotlib.ticker import MaxNLocator

    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (name, (epochs, own, loss)) in zip(panels, found.items(), strict=True):
        spread = own.std() > 0 and loss.std() > 0
        told = f"correlation {np.corrcoef(own, loss)[0, 1]:.2f}" if spread else "no correlation to tell"
        points = axes.scatter(
            own, loss, c=epochs, cmap="viridis_r", vmin=1, vmax=max(2, epochs.max()), s=9, linewidths=0
        )
        axes.set_title(f"{name} ({told})", fontsize=9)
        axes.set_xlabel("own loss (l1)", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        plain(axes)
        bar = figure.colorbar(points, ax=axes, fraction=0.05, pad=0.02)
        bar.set_label("epoch", fontsize=8)
        bar.ax.tick_params(labelsize=7)
        bar.locator = MaxNLocator(integer=True)
        bar.update_ticks()
    panels[0].set_ylabel("cross entropy", fontsize=9)
    return figure


def _losses(path: str | Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read epoch, own loss and cross entropy of the steps; a row that closes an epoch has means, and is left out."""
    rows = [
        (row.get("epoch"), row.get("l1"), row.get("train_loss"))
        for row in read_rows(path)
        if row.get("val_loss") is None
    ]
    whole = [row for row in rows if None not in row]
    if len(whole) < 2:
        raise ValueError(
            f"log {path}: holds {len(whole)} steps with l1 and train_loss, it takes 2; runs with joint have them"
        )
    epochs, own, loss = np.array(whole, float).T
    return epochs, own, loss
