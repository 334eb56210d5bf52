"""Busy and quiet frames of a video: what the motion band-pass takes out, and what it leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from .. import ops
from ..layers import MotionBandPass
from .clips import ShownFrames, as_picture, fill
from .figures import new_figure
from .flow_colors import draw_wheel, flow_colors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BusyQuiet", "busy_grid", "find_band_pass", "split_frames"]

# What each row of the picture is called there.
ROWS = {
    "frames": "frames",
    "busy": "busy",
    "colors": "busy, flow colours",
    "quiet": "quiet",
    "flow": "TV-L1 flow",
}
SHARE = 0.995  # of the busy values that fit into the scale


@dataclass(frozen=True)
class BusyQuiet:
    """What :func:`split_frames` found.

    Args:
        middle: the T' frames that the busy and quiet ones stand for, with numbers and times.
        after: the T' frames after these, (T', H, W, 3), as ``middle.frames``.
        busy: float32 (T', H, W, 3), around 0; in units of the frames' range.
        quiet: float32 (T', H, W, 3), about in 0 ... 1.
        limit: magnitude of busy values at the end of the scale that they are drawn with.
    """

    middle: ShownFrames
    after: Tensor
    busy: Tensor
    quiet: Tensor
    limit: float


def find_band_pass(net: nn.Module, layer: str | None = None) -> tuple[str, MotionBandPass]:
    """Find a network's motion band-pass.

    Args:
        net: the network.
        layer: the module's name in it; None takes the first one of three channels, which sees the frames.

    Returns:
        Its name and the module.

    Raises:
        ValueError: the network has none, or none of that name.

    Example:
        >>> find_band_pass(nn.Sequential(nn.Identity(), MotionBandPass.stem()))[0]
        '1'
    """
    found = {name: module for name, module in net.named_modules() if isinstance(module, MotionBandPass)}
    if not found:
        raise ValueError(f"net: {type(net).__name__} holds no motion band-pass")
    if layer is not None:
        if layer not in found:
            raise ValueError(f"layer {layer!r}: is no motion band-pass; there are {', '.join(found)}")
        return layer, found[layer]
    stems = [(name, module) for name, module in found.items() if module.channels == 3]
    if not stems:
        raise ValueError(f"net: no motion band-pass of 3 channels; name a layer: {', '.join(found)}")
    return stems[0]


def split_frames(shown: ShownFrames, band_pass: MotionBandPass | None = None) -> BusyQuiet:
    """Split frames into busy and quiet ones.

    The filters see frames of values in 0 ... 1. A network's see normalised ones; as both filters are linear, that
    only changes the scale of the busy frames, and what they are of a still clip where taps have been trained away
    from a sum of zero.

    Args:
        shown: runs of consecutive frames one after another, as many in each as the module's stride.
        band_pass: a module of 3 channels with "valid" temporal padding; None for one with its initial values: k 9,
            sigma 1.1, one frame out of three.

    Returns:
        The busy and quiet frames, one for every stride of frames.

    Raises:
        ValueError: the module does not fit, or there are too few frames or pixels for it.

    Source: Huang's thesis, eq. 5.3 and 5.4, the latter before its down-sampling.

    Example:
        >>> split = split_frames(ShownFrames(torch.rand(6, 16, 16, 3), np.arange(6)))
        >>> split.busy.shape, split.middle.indices.tolist()
        (torch.Size([2, 16, 16, 3]), [1, 4])
    """
    layer = MotionBandPass.stem() if band_pass is None else band_pass
    if layer.channels != 3 or layer.temporal_padding != "valid":
        kind = f"{layer.channels} channels and {layer.temporal_padding!r} padding"
        raise ValueError(f"band_pass must have 3 channels and 'valid' padding to see frames, got {kind}")
    frames = shown.frames
    unit = frames.float() / 255 if frames.dtype == torch.uint8 else frames.float()
    clip = unit.permute(3, 0, 1, 2)[None]
    with torch.inference_mode():
        spatial, temporal = layer.spatial.float().cpu(), layer.temporal.float().cpu()
        busy, quiet = (
            part[0].permute(1, 2, 3, 0)
            for part in ops.motion_band_pass(clip, spatial, temporal, stride=layer.stride, quiet=True)
        )
        gain = float((spatial.abs().sum((1, 2)) * temporal.abs().sum(1)).max())
    middle = torch.arange(len(busy)) * layer.stride + 1
    chosen = ShownFrames(
        frames[middle],
        shown.indices[middle.numpy()],
        None if shown.times is None else shown.times[middle.numpy()],
    )
    # Below a step of the frames' 8 bits there is nothing to see but rounding.
    limit = max(float(np.quantile(busy.abs().numpy(), SHARE)), gain / 255)
    return BusyQuiet(chosen, frames[middle + 1], busy, quiet, limit)


def busy_grid(
    split: BusyQuiet, *, rows: Sequence[str] = ("frames", "busy", "colors", "quiet"), title: str = ""
) -> Figure:
    """Draw busy and quiet frames below the frames of a video that they come from, a column each.

    Grey stands for no busy value, black and white for the two ends of one scale over all columns. Flow colours take
    two numbers a place where busy frames have three, so the wheel's right is what becomes brighter, the mean of red,
    green and blue, and its lower end what becomes redder, half of red less blue; which two the thesis took, it does
    not say. Values beyond the scale, half a per cent, are cut.

    Args:
        split: what :func:`split_frames` found.
        rows: what is drawn, from the top: ``"frames"``, the middle one of each run; ``"busy"``; ``"colors"``, the busy
            frames in the colours of optical flow; ``"quiet"``; ``"flow"``, optical flow from the middle frame to
            the next one, to compare with.
        title: above all.

    Returns:
        The figure: the axes of each row from the left, then the wheels of ``"colors"`` and ``"flow"``.

    Raises:
        ValueError: a row has another name or comes twice, or there are none.
        ImportError: scikit-image, which computes the flow, is not installed.

    Source: Huang's thesis, figures 5.4 and 5.6 to 5.9, section 5.5.5.

    Example:
        >>> split = split_frames(ShownFrames(torch.rand(6, 16, 16, 3), np.arange(6)))
        >>> figure = busy_grid(split, rows=("frames", "busy"))
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['frames', '', 'busy', '']
    """
    if not rows or len(set(rows)) != len(rows) or not set(rows) <= set(ROWS):
        raise ValueError(
            f"rows must be some of {', '.join(ROWS)}, each once, got {', '.join(rows) or 'none'}"
        )
    count, height, width = split.busy.shape[:3]
    pictures, wheels = _pictures(split, rows)
    cell = 1.75 if width >= height else 1.25
    across = count * (cell + 0.06) + 0.3 + (1.5 if wheels else 0.0)
    title = fill(title, across)
    figure = new_figure(across, len(rows) * (cell * height / width + 0.08) + 0.5 + 0.18 * title.count("\n"))
    if title:
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    ratios = [cell] * count + ([1.2] if wheels else [])
    cells = figure.add_gridspec(len(rows), len(ratios), width_ratios=ratios)
    for i, name in enumerate(rows):
        for j in range(count):
            axes = figure.add_subplot(cells[i, j])
            axes.imshow(as_picture(pictures[name][j]))
            axes.set(xticks=[], yticks=[])
            if i == 0:
                axes.set_title(split.middle.labels[j], fontsize=7.5, pad=3)
            if j == 0:
                axes.set_ylabel(ROWS[name], fontsize=8)
    for name, words in wheels.items():
        draw_wheel(figure.add_subplot(cells[list(rows).index(name), count]), *words)
    return figure


def _pictures(
    split: BusyQuiet, rows: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, tuple[str, str, str, str]]]:
    """Make the colours of every row, and the words at the wheels of those that have one."""
    pictures = {
        "frames": split.middle.frames,
        "busy": 0.5 + split.busy / (2 * split.limit),
        "quiet": split.quiet,
    }
    wheels = {}
    if "colors" in rows:
        pair = torch.stack([split.busy.mean(-1), (split.busy[..., 0] - split.busy[..., 2]) / 2], dim=-1)
        pictures["colors"] = flow_colors(pair, split.limit)
        wheels["colors"] = ("brighter", "redder", "darker", "bluer")
    if "flow" in rows:
        flow = tvl1_fields(split.middle.frames, split.after)
        limit = max(float(np.quantile(flow.norm(dim=-1).numpy(), SHARE)), 0.5)  # pixels
        pictures["flow"] = flow_colors(flow, limit)
        wheels["flow"] = ("right", f"down\n(full colour: {limit:.1f} pixels)", "left", "up")
    return pictures, wheels


def tvl1_fields(first: Tensor, second: Tensor) -> Tensor:
    """Compute the TV-L1 flow from each of T frames (T, H, W, 3) to the frame of the same place in others.

    Example:
        >>> tvl1_fields(torch.rand(2, 16, 16, 3), torch.rand(2, 16, 16, 3)).shape
        torch.Size([2, 16, 16, 2])
    """
    from ..data.flow import tvl1_flow

    pairs = zip(_bytes(first), _bytes(second), strict=True)
    return torch.stack([torch.from_numpy(tvl1_flow(first, second)) for first, second in pairs])


def _bytes(frames: Tensor) -> np.ndarray:
    if frames.dtype != torch.uint8:
        frames = (frames * 255).round().clamp(0, 255).to(torch.uint8)
    return np.asarray(frames)
