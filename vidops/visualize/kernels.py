"""Filters of a network: those of the motion band-pass before and after training, and those of the first layer."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..layers import MotionBandPass
from .clips import fill
from .figures import COLORS, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["filter_grid", "first_filters", "kernel_grid"]

COLOR_MAP = "RdBu_r"  # of values on both sides of zero
MOST = 6  # channels in one picture
NETWORKS = 4


def kernel_grid(band_pass: MotionBandPass, *, channels: int = 3, title: str = "") -> Figure:
    """Draw a motion band-pass before and after training.

    Before training its filters are those that the module makes when it is built.

    Args:
        band_pass: the trained module.
        channels: how many of its channels are shown, from the first on; at most six.
        title: above all.

    Returns:
        The figure. Rows: the k x k filters before training, after it, the difference, which has a scale of its own,
        and cuts through the middle row of both; the temporal taps are written below. A column each channel.

    Raises:
        ValueError: ``channels`` is below 1 or above 6.

    Source: Huang's thesis, figure 5.10.

    Example:
        >>> figure = kernel_grid(MotionBandPass.stem())
        >>> [axes.get_title() for axes in figure.axes[:3]]
        ['red', 'green', 'blue']
    """
    if not 1 <= channels <= MOST:
        raise ValueError(f"channels must be 1 to {MOST}, got {channels}")
    first = copy.deepcopy(band_pass)
    first.reset_parameters()
    count = min(channels, band_pass.channels)
    before, after = (m.spatial.detach().float().cpu()[:count] for m in (first, band_pass))
    taps = [m.temporal.detach().float().cpu()[:count] for m in (first, band_pass)]
    width = 1.9 * count + 1.4
    title = fill(title, width)
    figure = new_figure(width, 8.2 + 0.18 * title.count("\n"))
    if title:
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    axes = figure.subplots(4, count, squeeze=False)
    most = float(torch.stack([before, after]).abs().max())
    change = float((after - before).abs().max())
    _row(figure, axes[0], before, most, "before")
    _row(figure, axes[1], after, most, "after")
    _row(figure, axes[2], after - before, change, "after - before")
    names = ("red", "green", "blue") if band_pass.channels == 3 else ()
    for i in range(count):
        axes[0, i].set_title(names[i] if names else f"channel {i}", fontsize=8)
        _cut(axes[3, i], before[i], after[i])
        axes[3, i].set_xlabel(_taps("before", taps[0][i]) + "\n" + _taps("after", taps[1][i]), fontsize=6.5)
    axes[3, 0].set_ylabel("middle row", fontsize=8)
    axes[3, 0].legend(fontsize=6.5, frameon=False, loc="upper right")
    return figure


def _taps(when: str, taps: Tensor) -> str:
    return f"taps {when}: {', '.join(f'{tap:+.3f}' for tap in taps)}"


def _row(figure: Figure, row: Any, weights: Tensor, limit: float, name: str) -> None:
    """Draw a row of k x k filters on one scale, its bar at the right."""
    limit = limit or 1.0
    for axes, weight in zip(row, weights, strict=True):
        image = axes.imshow(weight.numpy(), cmap=COLOR_MAP, vmin=-limit, vmax=limit)
        axes.set(xticks=[], yticks=[])
    row[0].set_ylabel(name, fontsize=8)
    bar = figure.colorbar(image, ax=list(row), fraction=0.05, pad=0.02)
    bar.ax.tick_params(labelsize=6.5)


def _cut(axes: Any, before: Tensor, after: Tensor) -> None:
    reach = len(before) // 2
    places = np.arange(-reach, reach + 1)
    axes.axhline(0, color="0.8", linewidth=0.8)
    axes.plot(places, before[reach].numpy(), "--", color="0.4", linewidth=1.2, label="before")
    axes.plot(places, after[reach].numpy(), "o-", color=COLORS[1], markersize=2.5, label="after")
    axes.tick_params(labelsize=6.5)
    plain(axes)


def first_filters(net: nn.Module) -> dict[str, Tensor]:
    """Find the first convolutions of a network: one, or that of each pathway.

    Args:
        net: a network of vidops, or one whose pathways are such.

    Returns:
        Weights (O, C, ...) by the pathway's name in the network; the name is empty where there is only one.

    Raises:
        ValueError: neither the network nor a part of it names its first convolution.

    Example:
        >>> from vidops.models import create_model
        >>> {name: tuple(weight.shape) for name, weight in first_filters(create_model("tiny_tsn")).items()}
        {'': (16, 3, 3, 3)}
    """
    found: dict[str, Tensor] = {}
    seen = set()
    # A pathway is named by what holds it alone: the innermost part that names a convolution.
    for name, module in reversed(list(net.named_modules())):
        stem = getattr(module, "stem_name", None)
        if not isinstance(stem, str):
            continue
        weight = module.get_submodule(stem).weight
        if id(weight) not in seen:
            seen.add(id(weight))
            found[name] = weight.detach()
    if not found:
        raise ValueError(f"net: {type(net).__name__} does not name its first convolution")
    if len(found) == 1:
        return {"": next(iter(found.values()))}
    return dict(reversed(found.items()))


def filter_grid(filters: Mapping[str, Tensor], *, channel: int = 0, title: str = "") -> Figure:
    """Draw one input channel of the first layer's filters, of one network or of several beside each other.

    Each filter has its own scale, from red for its greatest magnitude through white for zero to blue.

    Args:
        filters: weights (O, C, h, w), or (O, C, t, h, w), of which the middle step is drawn, by the text above them.
        channel: which input channel; 0 is red.
        title: above all.

    Returns:
        The figure: a square of filters each network, row by row.

    Raises:
        ValueError: there are no networks or more than four, weights have another number of dimensions, or no such
            channel.

    Source: Huang's thesis, figure 5.11.

    Example:
        >>> figure = filter_grid({"one": torch.rand(64, 3, 7, 7)})
        >>> figure.axes[0].images[0].get_array().shape
        (63, 63)
    """
    if not 1 <= len(filters) <= NETWORKS:
        raise ValueError(f"filters must be of 1 to {NETWORKS} networks, got {len(filters)}")
    for name, weight in filters.items():
        if weight.dim() not in (4, 5) or 0 in weight.shape:
            raise ValueError(
                f"filters of {name!r} must be (O, C, h, w) or (O, C, t, h, w), got {tuple(weight.shape)}"
            )
        if not 0 <= channel < weight.shape[1]:
            raise ValueError(f"channel must be 0 to {weight.shape[1] - 1} for {name!r}, got {channel}")
    side = 3.4
    title = fill(title, side * len(filters))
    figure = new_figure(
        side * len(filters) + 0.2, side + 0.45 + (0.18 * (title.count("\n") + 1) if title else 0)
    )
    if title:
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    cells = figure.subplots(1, len(filters), squeeze=False)[0]
    for axes, (name, weight) in zip(cells, filters.items(), strict=True):
        axes.imshow(_mosaic(weight[:, channel]), cmap=COLOR_MAP, vmin=-1, vmax=1, interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(name, fontsize=9)
    return figure


def _mosaic(weight: Tensor) -> np.ndarray:
    """Lay filters (O, h, w), or (O, t, h, w), into a square with gaps of a pixel that are not a number."""
    if weight.dim() == 4:
        weight = weight[:, weight.shape[1] // 2]
    count, height, width = weight.shape
    largest = weight.abs().amax((1, 2), keepdim=True).clamp_min(1e-30)
    pictures = (weight / largest).float().cpu().numpy()
    columns = math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    laid = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1), np.nan)
    for i, picture in enumerate(pictures):
        top, left = i // columns * (height + 1), i % columns * (width + 1)
        laid[top : top + height, left : left + width] = picture
    return laid
