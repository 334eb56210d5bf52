"""Maps over space and time drawn over the frames of a clip."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from .clips import ShownFrames, as_picture, fill, new_grid
from .figures import check_animation, new_figure, save_animation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["animate_heat_map", "heat_map_grid", "stretch_map"]

# Values near the lower end leave the frame as it is, the upper end covers it so far.
OPACITY = 0.75
COLOR_MAP = "inferno"


def stretch_map(heat: Tensor, frames: int, height: int, width: int) -> Tensor:
    """Stretch a map to the size of a clip, linearly in space and, where it has fewer or more steps, in time.

    Args:
        heat: (T', h, w), finite numbers.
        frames: T.
        height: H, pixels.
        width: W, pixels.

    Returns:
        float32 (T, H, W); each value of the map lies at the middle of the area it stands for
        (``align_corners=False``).

    Raises:
        ValueError: the map has another number of dimensions, is empty or not finite.

    Example:
        >>> import torch
        >>> stretch_map(torch.tensor([[[0.0, 1.0]]]), 1, 1, 4)
        tensor([[[0.0000, 0.2500, 0.7500, 1.0000]]])
    """
    if heat.dim() != 3 or 0 in heat.shape:
        raise ValueError(f"heat must have shape (T, h, w), got {tuple(heat.shape)}")
    heat = heat.detach().float().cpu()
    if not heat.isfinite().all():
        raise ValueError("heat must hold finite numbers, got some that are not")
    size = (frames, height, width)
    return F.interpolate(heat[None, None], size=size, mode="trilinear", align_corners=False)[0, 0]


def heat_map_grid(
    shown: ShownFrames,
    heat: Tensor,
    *,
    limits: tuple[float, float] | None = None,
    title: str = "",
    label: str = "",
    columns: int | None = None,
) -> Figure:
    """Draw a map over the frames of a clip, all on one scale.

    Args:
        shown: the frames, (T, H, W, 3).
        heat: (T', h, w), stretched over the clip by :func:`stretch_map`.
        limits: values at the ends of the scale; by default 0, or the least value if that is below, and the
            greatest value of the map before it is stretched.
        title: above the frames.
        label: at the colour bar, what the values are.
        columns: frames a row; by default as :func:`vidops.visualize.clip_grid` does.

    Returns:
        The figure: the frames' axes, then the colour bar's.

    Raises:
        ValueError: the map or a limit is out of range.

    Example:
        >>> import torch
        >>> shown = ShownFrames(torch.zeros(2, 8, 8, 3), np.arange(2))
        >>> figure = heat_map_grid(shown, torch.rand(2, 2, 2), limits=(0, 1))
        >>> len(figure.axes), figure.axes[0].images[1].get_clim()
        (3, (0.0, 1.0))
    """
    limits = find_limits(heat, limits)
    over = stretch_map(heat, *shown.frames.shape[:3])
    figure, cells = new_grid(shown, title, columns, room=0.75)
    for axes, frame, values in zip(cells, shown.frames, over, strict=True):
        axes.imshow(as_picture(frame))
        lay_map(axes, values, limits)
    draw_bar(figure, cells, limits, label, over)
    return figure


def animate_heat_map(
    shown: ShownFrames,
    heat: Tensor,
    path: str | Path,
    *,
    limits: tuple[float, float] | None = None,
    title: str = "",
    label: str = "",
    fps: float = 4.0,
) -> None:
    """Write frames with a map over them, one after the other on one scale, to an animated PNG or GIF.

    Args:
        shown: the frames, (T, H, W, 3).
        heat: as for :func:`heat_map_grid`.
        path: file name ending in .png or .gif; whole or not there.
        limits: as for :func:`heat_map_grid`.
        title: above the frame.
        label: at the colour bar.
        fps: frames shown a second.

    Raises:
        ValueError: the map, a limit, the name or ``fps`` is out of range.

    Example:
        >>> import tempfile, torch
        >>> shown = ShownFrames(torch.zeros(2, 8, 8, 3), np.arange(2))
        >>> animate_heat_map(shown, torch.rand(2, 2, 2), Path(tempfile.mkdtemp()) / "heat.gif")
    """
    check_animation(path, fps)
    limits = find_limits(heat, limits)
    count, height, width = shown.frames.shape[:3]
    over = stretch_map(heat, count, height, width)
    across = 4.2 if width >= height else 3.2
    title = fill(title, across + 0.8)
    lines = title.count("\n") + 1 if title else 0
    figure = new_figure(across + 0.8, across * height / width + 0.35 + 0.18 * lines)
    if title:
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    axes = figure.subplots()
    axes.set(xticks=[], yticks=[])
    labels = shown.labels
    text = axes.set_title(max(labels, key=len), fontsize=9)
    picture = axes.imshow(as_picture(shown.frames[0]))
    laid = lay_map(axes, over[0], limits)
    draw_bar(figure, [axes], limits, label, over)

    def draw(i: int) -> None:
        picture.set_data(as_picture(shown.frames[i]))
        laid.set_data(over[i].numpy())
        laid.set_alpha(_opacity(over[i], limits))
        text.set_text(labels[i])

    save_animation(figure, draw, count, path, fps=fps)


def find_limits(heat: Tensor, limits: tuple[float, float] | None) -> tuple[float, float]:
    """Check the ends of a scale, or take them from a map; one without a range gets 1 at the upper end."""
    if limits is None:
        low, high = (min(0.0, float(heat.min())), float(heat.max())) if heat.numel() else (0.0, 1.0)
        return low, high if high > low else low + 1.0
    if not (np.isfinite(limits).all() and limits[0] < limits[1]):
        raise ValueError(f"limits must be two finite numbers, the lower one first, got {limits}")
    return limits


def lay_map(axes: Any, values: Tensor, limits: tuple[float, float]) -> Any:
    """Lay one frame's map over it; the picture's array holds the values."""
    return axes.imshow(
        values.numpy(), cmap=COLOR_MAP, vmin=limits[0], vmax=limits[1], alpha=_opacity(values, limits)
    )


def _opacity(values: Tensor, limits: tuple[float, float]) -> np.ndarray:
    share = ((values - limits[0]) / (limits[1] - limits[0])).clamp(0, 1)
    return np.asarray(OPACITY * share)


def draw_bar(
    figure: Figure, cells: list[Any], limits: tuple[float, float], label: str, over: Tensor | None = None
) -> None:
    """Draw the scale, with a pointed end where values ``over`` the frames lie beyond it."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = ScalarMappable(Normalize(*limits), COLOR_MAP)
    below, above = (
        over is not None and bool(over.min() < limits[0]),
        over is not None and bool(over.max() > limits[1]),
    )
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get((below, above), "neither")
    bar = figure.colorbar(scale, ax=cells, fraction=0.05, pad=0.02, aspect=25, extend=extend)
    bar.ax.tick_params(labelsize=7)
    bar.set_label(label, fontsize=8)
