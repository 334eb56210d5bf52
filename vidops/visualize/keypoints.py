"""Key points of a clip's channels and how they move, drawn on its frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import ops
from ..layers.adaptive_regional_shift import BANDS, AdaptiveRegionalShift
from ..reference.keypoint_shifts import borders
from .clips import ShownFrames, as_picture, new_grid
from .gradcam import default_layer, layer_output
from .hooks import inputs_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["KeyPoints", "key_point_grid", "key_points_of"]

MARKERS = ("o", "s", "^", "D", "v", "p")  # one a channel, where they suffice
USUAL_REGIONS = 4
ARROWS = {  # in the picture's pixels: a shift's end is where the arrow's is
    "angles": "xy",
    "scale_units": "xy",
    "scale": 1,
    "units": "dots",
    "width": 2.8,
    "headwidth": 4.5,
    "headlength": 5,
    "headaxislength": 4.5,
    "minlength": 0.1,
    "edgecolor": "black",
    "linewidth": 0.5,
    "zorder": 3,
}


@dataclass(frozen=True)
class KeyPoints:
    """Key points of one clip in one set of regions.

    Attributes:
        points: int16 (K, C, T', 2), pixels (x, y) of the map.
        shifts: (K, C, T'-1, 2), what `vidops.ops.keypoint_shifts` returns: weighted by region, in pixels of the map.
        lines: (T', 2, r-1), the lines between the regions where they were used, in pixels of the map.
        size: (h, w), pixels of the map.
        layer: name of what found them, or of the layer whose output they are of.
        learned: whether the network has the lines itself; else they are those of the equal grid.
    """

    points: Tensor
    shifts: Tensor
    lines: Tensor
    size: tuple[int, int]
    layer: str
    learned: bool

    def strongest(self, count: int) -> list[int]:
        """Number the channels whose key points move farthest, by the mean length of their shifts.

        Args:
            count: of channels, at most.

        Returns:
            Their numbers, the farthest first; of equal ones the lower number first.

        Raises:
            ValueError: ``count`` is below 1.

        Example:
            >>> shifts = torch.tensor([1.0, 3.0, 2.0]).view(1, 3, 1, 1).expand(1, 3, 1, 2)
            >>> points, lines = torch.zeros(1, 3, 2, 2, dtype=torch.int16), torch.zeros(2, 2, 0)
            >>> KeyPoints(points, shifts, lines, (4, 4), "", False).strongest(2)
            [1, 2]
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        lengths = self.shifts.double().norm(dim=-1).mean((0, 2))
        return lengths.argsort(descending=True, stable=True)[:count].tolist()


def key_points_of(
    net: nn.Module, clip: Tensor, *, layer: str | None = None, set_number: int = 0, regions: int | None = None
) -> KeyPoints:
    """Find the key points of a clip in a network's own regions, or those of any layer in the equal grid.

    Args:
        net: from clips (N, C, T, H, W) to logits; taken as it is, evaluation mode is the caller's.
        clip: one clip, (1, C, T, H, W).
        layer: name of a module: that of a `vidops.layers.AdaptiveRegionalShift` or of what holds one, such as
            ``"kpsem"``, or else of any whose output is a map of the clip; None for the last of the former, without
            any :func:`vidops.visualize.default_layer`'s.
        set_number: which set of regions, from 0; the equal grid has one.
        regions: K of the equal grid, 1, 4, 9 or 16; None for 4. A network's own regions have theirs.

    Returns:
        The key points and the layer that they are of.

    Raises:
        ValueError: an argument is out of range, the layer runs more than once a clip, or its map is of one frame.

    Source: KPSEM (Cao et al., Effective Action Recognition with Embedded Key Point Shifts), figure 10.

    Example:
        >>> from vidops.models import create_model
        >>> found = key_points_of(create_model("tiny_mf_kpsem").eval(), torch.rand(1, 3, 8, 64, 64))
        >>> found.layer, found.points.shape, found.shifts.shape
        ('kpsem.shifts', torch.Size([4, 32, 4, 2]), torch.Size([4, 32, 3, 2]))
    """
    name = _own(net, layer)
    if name is not None:
        if regions is not None:
            raise ValueError(f"regions: {name} has its own, they cannot be given")
        features, lines = _asked(net, clip, name)
        shifter: Any = net.get_submodule(name)
        if not 0 <= set_number < shifter.num_sets:
            raise ValueError(f"set_number must be one from 0 to {shifter.num_sets - 1}, got {set_number}")
        lines = lines[:, set_number : set_number + 1]
    else:
        name = default_layer(net) if layer is None else layer
        _, output = layer_output(net, clip, name)
        if set_number != 0:
            raise ValueError(f"set_number: {name} has no sets of regions of its own, got {set_number}")
        features = output if output.dim() == 5 else output.transpose(0, 1)[None]
        lines = _equal_grid(features, USUAL_REGIONS if regions is None else regions, name)
    if features.shape[2] < 2:
        raise ValueError(f"layer {name}: its map must be of at least 2 frames, is of {features.shape[2]}")
    shifts, points, _ = ops.keypoint_shifts(features, lines, return_keypoints=True)
    height, width = features.shape[3:]
    used = torch.stack(
        [borders(lines[0, 0, :, i].double(), side)[:, 1:-1] for i, side in ((0, width), (1, height))], 1
    )
    learned = isinstance(net.get_submodule(name), AdaptiveRegionalShift)
    return KeyPoints(points[0, 0], shifts[0, 0], used, (height, width), name, learned)


def key_point_grid(
    shown: ShownFrames,
    found: KeyPoints,
    *,
    channels: Sequence[int] | None = None,
    frames: int | None = None,
    columns: int | None = None,
    stretch: float | None = None,
    title: str = "",
) -> Figure:
    """Draw key points, their shifts to the next frame of the map and the lines between the regions on a clip's frames.

    Colours are regions, markers channels. The last frame of the map has no shifts.

    Args:
        shown: the frames of the clip, (T, H, W, 3), as the network saw them.
        found: key points in T' <= T frames of the map; each is drawn on the clip's frame that it is around.
        channels: numbers of those drawn; None for the three whose key points move farthest, one of more than four
            regions.
        frames: how many of the T' are shown, equally spaced in time; None for all.
        columns: frames a row; by default as :func:`vidops.visualize.clip_grid` does.
        stretch: length of an arrow over that of its shift at the frames' scale; None for K: shifts are weighted by
            region, and with equal weights K times a shift is the way itself.
        title: above all.

    Returns:
        The figure: an axes a frame, with points, arrows and lines in its pixels.

    Raises:
        ValueError: a number is out of range, or the clip has fewer frames than the map.

    Source: KPSEM (Cao et al.), figure 10; the lines are ours.

    Example:
        >>> from vidops.models import create_model
        >>> found = key_points_of(create_model("tiny_mf_kpsem").eval(), torch.rand(1, 3, 8, 64, 64))
        >>> figure = key_point_grid(ShownFrames(torch.zeros(8, 64, 64, 3), np.arange(8)), found)
        >>> [axes.get_title() for axes in figure.axes]
        ['frame 0', 'frame 2', 'frame 4', 'frame 6']
    """
    regions = len(found.points)
    channels = found.strongest(3 if regions <= 4 else 1) if channels is None else list(channels)
    for channel in channels or [-1]:
        if not 0 <= channel < found.points.shape[1]:
            raise ValueError(f"channels must be some from 0 to {found.points.shape[1] - 1}, got {channels}")
    stretch = float(regions if stretch is None else stretch)
    if not 0 < stretch < math.inf:
        raise ValueError(f"stretch must be above 0 and finite, got {stretch:g}")
    chosen = _chosen(found.points.shape[2], frames)
    at = _clip_frames(len(shown.frames), found.points.shape[2])[chosen]
    part = ShownFrames(shown.frames[at], shown.indices[at], None if shown.times is None else shown.times[at])
    figure, cells = new_grid(part, title, columns, size=2.6)
    for axes, frame, t in zip(cells, part.frames, chosen, strict=True):
        axes.imshow(as_picture(frame))
        _draw_lines(axes, found, t, frame)
        _draw_points(axes, found, t, channels, frame, stretch)
        height, width = frame.shape[:2]
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    longer = "" if stretch == 1 else f", {stretch:g} times as long"
    _draw_legend(figure, channels, f"shift of a key point{longer}")
    return figure


def _own(net: nn.Module, layer: str | None) -> str | None:
    """Name the module of a network that has regions of its own, below a layer."""
    names = [name for name, module in net.named_modules() if isinstance(module, AdaptiveRegionalShift)]
    if layer is not None:
        names = [name for name in names if name == layer or name.startswith(f"{layer}.")]
        if len(names) > 1:
            raise ValueError(f"layer {layer!r}: has several sets of regions; there are {', '.join(names)}")
    return names[-1] if names else None


def _asked(net: nn.Module, clip: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Run one clip; return the features that the shifts are of, and the lines (1, G, T', 2, r-1)."""
    if clip.dim() != 5 or clip.shape[0] != 1:
        raise ValueError(f"clip must be one, (1, C, T, H, W), got {tuple(clip.shape)}")
    shifter: Any = net.get_submodule(name)
    given = inputs_of(shifter, net, clip)
    if len(given) != 1:
        raise ValueError(f"layer {name}: must run once a clip, runs {len(given)} times")
    with torch.no_grad():
        return given[0], shifter.separators(given[0])


def _equal_grid(features: Tensor, regions: int, layer: str) -> Tensor:
    if regions not in BANDS:
        raise ValueError(f"regions must be one of {', '.join(map(str, BANDS))}, got {regions}")
    bands = BANDS[regions]
    height, width = features.shape[3:]
    if min(height, width) < 2 * bands:
        raise ValueError(
            f"layer {layer}: its map of {height} x {width} is too small for {regions} regions, whose key points would"
            " have nowhere to move; name an earlier layer, or fewer regions"
        )
    sides = torch.tensor(features.shape[:2:-1], dtype=features.dtype, device=features.device)  # W, H
    grid = torch.arange(1, bands, dtype=features.dtype, device=features.device) / bands
    return (sides[:, None] * grid).expand(1, 1, features.shape[2], 2, bands - 1)


def _chosen(count: int, frames: int | None) -> list[int]:
    if frames is None:
        return list(range(count))
    if frames < 1:
        raise ValueError(f"frames must be at least 1, got {frames}")
    return (
        [int((i + 0.5) * count / frames) for i in range(min(frames, count))]
        if frames < count
        else list(range(count))
    )


def _clip_frames(clip: int, maps: int) -> np.ndarray:
    """Number the frames of a clip around which those of a map lie: with a stride in time, every so many from 0."""
    if maps > clip:
        raise ValueError(f"shown must have at least the {maps} frames of the map, got {clip}")
    return np.minimum(np.arange(maps) * -(-clip // maps), clip - 1)


def _scale(found: KeyPoints, frame: Tensor) -> np.ndarray:
    """Pixels (x, y) of a frame that one of the map stands for."""
    return np.array([frame.shape[1] / found.size[1], frame.shape[0] / found.size[0]])


def _draw_lines(axes: Any, found: KeyPoints, t: int, frame: Tensor) -> None:
    x, y = (found.lines[t].numpy() * _scale(found, frame)[:, None]) - 0.5
    for draw, places in ((axes.axvline, x), (axes.axhline, y)):
        for place in places:
            draw(place, color="black", linewidth=1.8, alpha=0.6)
            draw(place, color="white", linewidth=0.9, linestyle=(0, (4, 2)))


def _draw_points(
    axes: Any, found: KeyPoints, t: int, channels: list[int], frame: Tensor, stretch: float
) -> None:
    """Draw the points of each channel with one marker, and an arrow from each along its shift."""
    scale = _scale(found, frame)
    colors = region_colors(len(found.points))
    for i, channel in enumerate(channels):
        # Pixel j of the map is [j, j+1]; matplotlib has the middle of the frame's first pixel at 0.
        x, y = ((found.points[:, channel, t].double().numpy() + 0.5) * scale - 0.5).T
        if t < found.shifts.shape[2]:  # the last frame has none
            u, v = (found.shifts[:, channel, t].double().numpy() * stretch * scale).T
            axes.quiver(x, y, u, v, color=colors, **ARROWS)
        style, size = _marker(channels, i)
        axes.scatter(x, y, size, colors, marker=style, edgecolor="black", linewidth=0.7, zorder=4)


def region_colors(count: int) -> list[Any]:
    """Give each region, row by row, a colour of its own."""
    from matplotlib import colormaps

    few, many = ["#56B4E9", "#F0E442", "#FF6A13", "#F2A6D2"], colormaps["tab20"]
    return few[:count] if count <= len(few) else [many(i) for i in range(count)]


def _marker(channels: list[int], i: int) -> tuple[str, float]:
    """Marker of the i-th channel and its area: where points of several meet, the smaller ones lie on top."""
    if len(channels) > len(MARKERS):
        return "X", 26.0
    return MARKERS[i], 58.0 - 34.0 * i / max(len(channels) - 1, 1)


def _draw_legend(figure: Figure, channels: list[int], text: str) -> None:
    from matplotlib.lines import Line2D

    look: dict[str, Any] = {"linestyle": "", "color": "0.75", "markeredgecolor": "black"}
    handles = []
    for i, channel in enumerate(channels if len(channels) <= len(MARKERS) else []):
        style, area = _marker(channels, i)
        handles.append(
            Line2D([], [], marker=style, markersize=math.sqrt(area), label=f"channel {channel}", **look)
        )
    if text:
        handles.append(
            Line2D(
                [],
                [],
                marker="$\\rightarrow$",
                markersize=11,
                label=text,
                **look | {"markeredgecolor": "0.3"},
            )
        )
    columns = min(len(handles), max(1, int(figure.get_figwidth() / 1.5)))  # the widest entry is the last
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
