"""Accuracy over the scale and the size of the motion band-pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .figures import new_figure, plain, series_colors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..training.sweep import Trial

__all__ = ["sweep_plot"]

STYLES = {"trained": ("-", "o", None), "fixed": ("--", "s", "white")}


def sweep_plot(trials: Sequence[Trial], *, title: str = "") -> Figure:
    """Draw what a sweep measured: a line each size of the filter, over its scale.

    Args:
        trials: what `vidops.training.sweep.sweep` returned, at least one.
        title: above.

    Returns:
        The figure: solid lines for networks whose band-pass was trained, dashed ones for those where it kept its
        initial values. Several runs of a setting are drawn as their mean, with a bar of their standard deviation.

    Raises:
        ValueError: there are no trials, or more than six sizes.

    Source: Huang's thesis, figure 5.3.

    Example:
        >>> from vidops.training.sweep import Trial
        >>> figure = sweep_plot([Trial(1.1, 9, "trained", 0, 0.9, 0.3), Trial(0.9, 9, "trained", 0, 0.8, 0.5)])
        >>> figure.axes[0].lines[0].get_xdata().tolist()
        [0.9, 1.1]
    """
    sizes = sorted({trial.kernel_size for trial in trials})
    colors = series_colors(len(sizes), "sizes")
    figure = new_figure(6.4, 4.2)
    axes = figure.subplots()
    for (color, size), (kind, (line, marker, face)) in (
        (a, b) for a in zip(colors, sizes, strict=True) for b in STYLES.items()
    ):
        chosen = [trial for trial in trials if (trial.kernel_size, trial.kind) == (size, kind)]
        sigmas = sorted({trial.sigma for trial in chosen})
        runs = [[100 * t.top1 for t in chosen if t.sigma == sigma] for sigma in sigmas]
        if not sigmas:
            continue
        spread = [float(np.std(values, ddof=1)) if len(values) > 1 else 0.0 for values in runs]
        axes.errorbar(
            sigmas,
            [float(np.mean(values)) for values in runs],
            yerr=spread if any(spread) else None,
            linestyle=line,
            marker=marker,
            markersize=4,
            markerfacecolor=face or color,
            color=color,
            linewidth=1.4,
            capsize=2,
            label=f"{size} x {size}, {kind}",
        )
    axes.set_xlabel("scale sigma, pixels", fontsize=9)
    axes.set_ylabel("top-1 accuracy, %", fontsize=9)
    axes.set_xticks(sorted({trial.sigma for trial in trials}))
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    plain(axes)
    if title:
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    return figure
