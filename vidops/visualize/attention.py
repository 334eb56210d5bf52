"""Where attention looks from a place of a video, and maps of several networks below each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..layers.non_local import AttentionBlock
from .clips import ShownFrames, as_picture, fill
from .figures import new_figure
from .heatmaps import draw_bar, find_limits, lay_map, stretch_map
from .hooks import inputs_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["AttentionMap", "MapRow", "Place", "attention_layers", "attention_of", "map_rows"]

# (t, y, x) as everywhere: frame of the clip from 0; from the top and from the left of it, 0 to 1
Place = tuple[int, float, float]
# top, left, bottom and right of a part of a frame, 0 to 1
Cell = tuple[float, float, float, float]


@dataclass(frozen=True)
class AttentionMap:
    """What one place of a clip takes from every other.

    Attributes:
        heat: (T', h, w), the weights of an attention block's values.
        layer: name of the block.
        place: that was asked for.
        cell: what the block's position covers that holds it.
    """

    heat: Tensor
    layer: str
    place: Place
    cell: Cell


@dataclass(frozen=True)
class MapRow:
    """One row of :func:`map_rows`.

    Args:
        shown: the frames, (T, H, W, 3).
        heat: (T', h, w), stretched over them.
        label: at the left.
        place: a point to mark, in one of the frames; None for none.
        cell: a part to outline in the point's frame.
    """

    shown: ShownFrames
    heat: Tensor
    label: str = ""
    place: Place | None = None
    cell: Cell | None = None


def attention_layers(net: nn.Module) -> list[str]:
    """Name the blocks of a network that have attention maps, in the order in which they were built.

    Args:
        net: any network.

    Returns:
        Names of its `vidops.layers.NonLocal` and `vidops.layers.RegionNonLocal`.

    Example:
        >>> from vidops.models import create_model
        >>> len(attention_layers(create_model("tiny_rnl")))
        2
    """
    return [name for name, module in net.named_modules() if isinstance(module, AttentionBlock)]


def attention_of(net: nn.Module, clip: Tensor, place: Place, *, layer: str | None = None) -> AttentionMap:
    """Compute how much a place of a clip takes from all others in an attention block.

    Args:
        net: from clips (N, C, T, H, W) to logits; taken as it is, evaluation mode is the caller's.
        clip: one clip, (1, C, T, H, W).
        place: (t, y, x): frame from 0, and how far down and to the right in it, from 0 to 1; the block's position that
            holds it is taken. `vidops.ops.attention_map` takes the position itself, in the same order.
        layer: name of a block, or of a module with one in it; None for the last.

    Returns:
        The map, of the block's keys.

    Raises:
        ValueError: the network has no such block, it runs more than once a clip, or the place is outside the clip.

    Source: Huang's thesis, figures 4.1 and 4.8 to 4.10.

    Example:
        >>> from vidops.models import create_model
        >>> net = create_model("tiny_rnl").eval()
        >>> attention_of(net, torch.rand(1, 3, 8, 64, 64), (4, 0.5, 0.5)).heat.shape
        torch.Size([8, 4, 4])
    """
    if clip.dim() != 5 or clip.shape[0] != 1:
        raise ValueError(f"clip must be one, (1, C, T, H, W), got {tuple(clip.shape)}")
    _check_place(place, clip.shape[2])
    name = _find(net, layer)
    block: Any = net.get_submodule(name)
    given = inputs_of(block, net, clip)
    if len(given) != 1 or len(given[0]) != 1:
        raise ValueError(f"layer {name}: must run once a clip, on one clip; ran {len(given)} times")
    frames, height, width = given[0].shape[2:]
    t = min(int((place[0] + 0.5) * frames / clip.shape[2]), frames - 1)
    y, x = min(int(place[1] * height), height - 1), min(int(place[2] * width), width - 1)
    with torch.no_grad():
        heat = block.attention_map(given[0], (t, y, x))[0]
    cell = (y / height, x / width, (y + 1) / height, (x + 1) / width)
    return AttentionMap(heat.float(), name, place, cell)


def map_rows(
    rows: Sequence[MapRow],
    *,
    title: str = "",
    label: str = "",
    frames: int | None = None,
    shared: bool = False,
) -> Figure:
    """Draw maps over the frames of clips, a row each.

    Args:
        rows: from the top; all with as many frames.
        title: above all.
        label: at the colour bar, what the values are.
        frames: how many to show, equally spaced in time and with those that a row marks; None for all.
        shared: one scale for all rows; else each has its own, and the bar tells shares of a row's greatest value.

    Returns:
        The figure: the axes of each row from the left, then the colour bar's.

    Raises:
        ValueError: there are no rows, they differ in their number of frames, or a number or map is out of range.

    Source: Huang's thesis, figures 4.1 and 4.8 to 4.11.

    Example:
        >>> import numpy as np
        >>> shown = ShownFrames(torch.zeros(2, 8, 8, 3), np.arange(2))
        >>> figure = map_rows([MapRow(shown, torch.rand(2, 2, 2), "RNL", (1, 0.5, 0.5))])
        >>> [axes.get_ylabel() for axes in figure.axes][:2]
        ['RNL', '']
    """
    counts = {len(row.shown.frames) for row in rows}
    if len(counts) != 1:
        raise ValueError(
            f"rows must be at least one, all with as many frames, got {sorted(counts) or 'none'}"
        )
    for row in rows:
        if row.place is not None:
            _check_place(row.place, len(row.shown.frames))
    chosen = _chosen(rows, frames)
    common = find_limits(torch.cat([row.heat.flatten() for row in rows]), None) if shared else None
    across, heights = _sizes(rows, len(chosen))
    title = fill(title, across)
    lines = title.count("\n") + 1 if title else 0
    figure = new_figure(across, sum(heights) + 0.18 * lines + 0.1)
    if title:
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    cells = figure.subplots(len(rows), len(chosen), squeeze=False, height_ratios=heights)
    for row, line in zip(rows, cells, strict=True):
        _draw_row(line, row, chosen, common or find_limits(row.heat, None))
    bar = (0.0, 1.0) if common is None else common
    draw_bar(
        figure, list(cells.flat), bar, label if shared else f"{label}, of each row's greatest".strip(", ")
    )
    return figure


def _check_place(place: Place, frames: int) -> None:
    t, y, x = place
    if not 0 <= t < frames:
        raise ValueError(f"place must name a frame from 0 to {frames - 1}, got {t}")
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise ValueError(f"place must be 0 to 1 down and 0 to 1 to the right in its frame, got {y:g}, {x:g}")


def _find(net: nn.Module, layer: str | None) -> str:
    blocks = attention_layers(net)
    if not blocks:
        raise ValueError(f"{type(net).__name__} has no non-local or region-based non-local block")
    if layer is None:
        return blocks[-1]
    found = [name for name in blocks if name == layer or name.startswith(f"{layer}.")]
    if len(found) != 1:
        what = "has several blocks" if found else "has no such block"
        raise ValueError(
            f"layer {layer!r}: {type(net).__name__} {what}; there are {', '.join(found or blocks)}"
        )
    return found[0]


def _chosen(rows: Sequence[MapRow], frames: int | None) -> list[int]:
    """Numbers of the frames that are shown: what a row marks takes the place of the one that is nearest."""
    count = len(rows[0].shown.frames)
    if frames is None:
        return list(range(count))
    if frames < 1:
        raise ValueError(f"frames must be at least 1, got {frames}")
    marked = sorted({row.place[0] for row in rows if row.place is not None})
    if len(marked) > frames:
        raise ValueError(f"frames must be at least the {len(marked)} that hold a point, got {frames}")
    even = [int((i + 0.5) * count / frames) for i in range(min(frames, count))]
    for t in marked:
        if t not in even:
            free = [i for i in even if i not in marked]
            even[even.index(min(free, key=lambda i: abs(i - t)))] = t
    return sorted(even)


def _sizes(rows: Sequence[MapRow], columns: int) -> tuple[float, list[float]]:
    """Width of the figure and heights of its rows, in inches."""
    shapes = [row.shown.frames.shape[1:3] for row in rows]
    cell = 1.75 if all(width >= height for height, width in shapes) else 1.25
    return columns * (cell + 0.06) + 1.1, [cell * height / width + 0.25 for height, width in shapes]


def _draw_row(line: Any, row: MapRow, chosen: list[int], limits: tuple[float, float]) -> None:
    over = stretch_map(row.heat, *row.shown.frames.shape[:3])
    height, width = row.shown.frames.shape[1:3]
    for axes, i in zip(line, chosen, strict=True):
        axes.imshow(as_picture(row.shown.frames[i]))
        lay_map(axes, over[i], limits)
        axes.set(xticks=[], yticks=[])
        axes.set_title(row.shown.labels[i], fontsize=7.5, pad=3)
        if row.place is not None and row.place[0] == i:
            x, y = row.place[2] * width - 0.5, row.place[1] * height - 0.5
            axes.plot([x], [y], "o", color="red", markersize=5, markeredgecolor="white", markeredgewidth=0.8)
            if row.cell is not None:
                _outline(axes, row.cell, height, width)
    line[0].set_ylabel(row.label, fontsize=8)


def _outline(axes: Any, cell: Cell, height: int, width: int) -> None:
    """Draw the edge of a part of a frame, red within white."""
    from matplotlib.patches import Rectangle

    top, left, bottom, right = cell
    for color, line in (("white", 2.4), ("red", 1.2)):
        corner = left * width - 0.5, top * height - 0.5
        size = (right - left) * width, (bottom - top) * height
        axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=color, linewidth=line))
