"""What a video's frames have in common and what moves in them: squeezed images and dynamic appearances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..data._progress import Progress
from ..data.modalities import dynamic_image, squeezed_image
from ..layers import PixelwiseTemporalProjection, TemporalSqueezePool
from .busy import tvl1_fields
from .clips import ShownFrames, as_picture, fill
from .figures import new_figure
from .flow_colors import flow_colors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Appearance",
    "Squeezed",
    "appearance_grid",
    "appearances",
    "find_layer",
    "fit_projection",
    "squeeze",
    "squeezed_grid",
]

Layer = TypeVar("Layer", TemporalSqueezePool, PixelwiseTemporalProjection)
MEAN = torch.tensor([0.485, 0.456, 0.406])
STD = torch.tensor([0.229, 0.224, 0.225])
SHARE = 0.995  # of the values that fit into a scale
# What each row of a picture of dynamic appearances is called there.
ROWS = {
    "average": "average of {}",
    "appearance": "dynamic\nappearance",
    "dynamic_image": "dynamic\nimage",
    "squeezed_image": "squeezed\nimage",
    "flow": "TV-L1 flow",
}


@dataclass(frozen=True)
class Squeezed:
    """Squeezed images of a clip.

    Args:
        images: float32 (D, C, H, W), the coefficients.
        error: eq. 3.5, what is lost.
    """

    images: Tensor
    error: float

    def pictures(self) -> Tensor:
        """Give (D, H, W, 3) in 0 ... 1: colours between the image's own extremes; of two channels those of flow."""
        images = self.images.permute(0, 2, 3, 1)
        if images.shape[-1] == 2:
            lengths = images.norm(dim=-1).flatten(1)
            limits = [max(float(np.quantile(each.numpy(), SHARE)), 1e-6) for each in lengths]
            drawn = [flow_colors(image, limit) for image, limit in zip(images, limits, strict=True)]
            return torch.stack(drawn)
        ends = np.quantile(images.flatten(1).numpy(), (1 - SHARE, SHARE), axis=1)
        low, high = torch.from_numpy(ends).float().view(2, -1, 1, 1, 1)
        return ((images - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)


@dataclass(frozen=True)
class Appearance:
    """Dynamic appearances of the segments of a video.

    Args:
        frames: of S segments of T frames, one after another; with numbers and times.
        length: T.
        dynamic: float32 (S, H, W, 3), around 0, in units of normalised colours.
        energy: eq. 3.13, what is left over.
    """

    frames: ShownFrames
    length: int
    dynamic: Tensor
    energy: float


def normalised(frames: Tensor) -> Tensor:
    """Turn frames (T, H, W, 3), uint8 or in 0 ... 1, into what networks see, (3, T, H, W).

    Example:
        >>> normalised(torch.zeros(4, 6, 8, 3)).shape
        torch.Size([3, 4, 6, 8])
    """
    unit = frames.float() / 255 if frames.dtype == torch.uint8 else frames.float()
    return ((unit - MEAN) / STD).permute(3, 0, 1, 2).contiguous()


def fit_projection(
    layer: Layer, clips: Tensor, *, steps: int = 100, lr: float = 1e-2, out: TextIO | None = None
) -> list[float]:
    """Train a layer on its own loss alone, without labels, on a few clips at a time.

    As the thesis does for its tables 3.1 and 3.13, but on whatever is given: on a single video the layer learns that
    video.

    Args:
        layer: trained in place, and left in evaluation mode.
        clips: (N, C, T, H, W), normalised; all of them make every step.
        steps: of AdamW, with a rate that falls to zero by a cosine.
        lr: rate at the start.
        out: where progress is shown; None shows nothing.

    Returns:
        The loss of every step, before it.

    Raises:
        ValueError: ``steps`` is below 0.

    Example:
        >>> losses = fit_projection(TemporalSqueezePool(6, 2), torch.rand(1, 3, 6, 8, 8), steps=5)
        >>> losses[-1] < losses[0]
        True
    """
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}")
    losses = []
    layer.train()
    optimizer = torch.optim.AdamW(layer.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    with Progress(steps, "training", "step", out) as progress:
        for _ in range(steps):
            _, own = layer(clips, return_losses=True)
            loss = torch.stack([each.mean() for each in own.values()]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            progress.update()
    layer.eval()
    return losses


def squeeze(layer: TemporalSqueezePool, clip: Tensor) -> Squeezed:
    """Squeeze a clip.

    Args:
        layer: of as many frames as the clip has.
        clip: (C, K, H, W), normalised.

    Returns:
        Its images and what they lose.

    Example:
        >>> squeeze(TemporalSqueezePool(10, 3), torch.rand(3, 10, 8, 8)).images.shape
        torch.Size([3, 3, 8, 8])
    """
    with torch.inference_mode():
        images, losses = layer(clip[None], return_losses=True)
    return Squeezed(images[0].transpose(0, 1).float().cpu(), float(losses["error"]))


def appearances(
    layer: PixelwiseTemporalProjection, frames: ShownFrames, clip: Tensor | None = None
) -> Appearance:
    """Compute the dynamic appearances of a video's segments.

    Args:
        layer: its ``num_frames`` are T.
        frames: S * T of them, runs of consecutive ones.
        clip: these as a network sees them, (1, 3, S * T, H, W); None for `normalised` ones.

    Returns:
        The S appearances.

    Example:
        >>> layer = PixelwiseTemporalProjection(4).eval()
        >>> appearances(layer, ShownFrames(torch.rand(8, 16, 16, 3), np.arange(8))).dynamic.shape
        torch.Size([2, 16, 16, 3])
    """
    with torch.inference_mode():
        dynamic, losses = layer(normalised(frames.frames)[None] if clip is None else clip, return_losses=True)
    images = dynamic[0].permute(1, 2, 3, 0).float().cpu()
    return Appearance(frames, layer.num_frames, images, float(losses["energy"].mean()))


def squeezed_grid(rows: Mapping[str, tuple[Tensor, Squeezed]], *, title: str = "") -> Figure:
    """Draw clips and, below each, the squeezed images that are made of it.

    Images that follow with the same frames, such as those of other activations, stand below one drawing of them.
    Each image has a scale of its own, from its darkest to its brightest values but for half a per cent at both ends.

    Args:
        rows: by name, the frames as pictures (K, H, W, 3), uint8 or in 0 ... 1, and what became of them.
        title: above all.

    Returns:
        The figure: axes of frames have no title, those of squeezed images their number.

    Raises:
        ValueError: there are no rows.

    Source: Huang's thesis, figures 3.5 to 3.8.

    Example:
        >>> clip = torch.rand(10, 16, 16, 3)
        >>> found = squeeze(TemporalSqueezePool(10, 3), normalised(clip))
        >>> len(squeezed_grid({"sigmoid + leaky_relu": (clip, found)}).axes)
        13
    """
    if not rows:
        raise ValueError("rows must be at least one, got none")
    shape = next(iter(rows.values()))[0].shape
    count, most = shape[0], max(len(found.images) for _, found in rows.values())
    aspect = shape[1] / shape[2]
    per_row = min(count, 16)
    across = max(7.7 if len(rows) <= 2 else 5.9, 0.8 * most + 0.5)
    small, large = across / per_row * aspect + 0.04, (across - 0.5) / most * aspect + 0.24
    parts: list[tuple[str, float]] = []
    before: Tensor | None = None
    for name, (frames, _) in rows.items():
        if before is None or frames is not before:
            parts.append(("", small * -(-len(frames) // per_row)))
        parts.append((name, large))
        before = frames
    title = fill(title, across)
    room = 0.24 * (title.count("\n") + 1) if title else 0.05
    figure = new_figure(across, sum(height for _, height in parts) + room)
    if title:
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    ratios = [height for _, height in parts]
    strips = iter(figure.subfigures(len(parts), 1, squeeze=False, height_ratios=ratios)[:, 0])
    before = None
    for name, (frames, found) in rows.items():
        if before is None or frames is not before:
            lines = -(-len(frames) // per_row)
            cells = next(strips).subplots(lines, per_row, squeeze=False).flat
            for i, axes in enumerate(cells):
                axes.set_axis_off()
                if i < len(frames):
                    axes.imshow(as_picture(frames[i]))
        before = frames
        for i, axes in enumerate(next(strips).subplots(1, most, squeeze=False)[0]):
            if i >= len(found.images):
                axes.remove()
                continue
            axes.imshow(as_picture(found.pictures()[i]))
            axes.set(xticks=[], yticks=[])
            axes.set_title(f"squeezed image {i + 1}", fontsize=7.5, pad=3)
            if i == 0:
                axes.set_ylabel(f"{name}\nerror {found.error:.3g}", fontsize=7.5)
    return figure


def appearance_grid(
    found: Sequence[Appearance], *, rows: Sequence[str] = ("average", "appearance"), title: str = ""
) -> Figure:
    """Draw what moves in the segments of a video beside what one sees of them otherwise, a column each segment.

    Grey stands for no dynamic appearance, black and white for the two ends of one scale over all segments of a length;
    values beyond it, half a per cent, are cut.

    Args:
        found: of one video with several lengths T, or of one length alone; all of as many segments.
        rows: what is drawn for each length, from the top: ``"average"`` of the T frames, ``"appearance"``, and to
            compare with, ``"dynamic_image"`` and ``"squeezed_image"`` as `vidops.data.modalities` makes them, and
            ``"flow"`` from a segment's middle frame to the next.
        title: above all.

    Returns:
        The figure, row by row.

    Raises:
        ValueError: there is nothing to draw, a row has another name or comes twice, or numbers of segments differ.
        ImportError: scikit-image, which computes the flow, is not installed.

    Source: Huang's thesis, figures 3.10 and 3.15 to 3.19.

    Example:
        >>> shown = ShownFrames(torch.rand(8, 16, 16, 3), np.arange(8))
        >>> figure = appearance_grid([appearances(PixelwiseTemporalProjection(4).eval(), shown)])
        >>> [axes.get_ylabel().split()[0] for axes in figure.axes[::2]]
        ['average', 'dynamic']
    """
    check_rows(rows)
    counts = {len(each.dynamic) for each in found}
    if len(counts) != 1:
        raise ValueError(
            f"found must be appearances of as many segments each, got {sorted(counts) or 'none'}"
        )
    count = counts.pop()
    height, width = found[0].dynamic.shape[1:3]
    cell = 1.9 if width >= height else 1.35
    across = count * (cell + 0.06) + 0.5
    title = fill(title, across)
    lines = len(rows) * len(found)
    figure = new_figure(across, lines * (cell * height / width + 0.08) + 0.35 + 0.18 * title.count("\n"))
    if title:
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    grid = figure.subplots(lines, count, squeeze=False)
    for i, each in enumerate(found):
        pictures = _pictures(each, rows)
        for j, row in enumerate(rows):
            line = grid[i * len(rows) + j]
            name = ROWS[row].format(each.length)
            name += f"\nenergy {each.energy:.3g}" if row == "appearance" else ""
            line[0].set_ylabel(name, fontsize=7.5)
            for axes, picture in zip(line, pictures[row], strict=True):
                axes.imshow(as_picture(picture))
                axes.set(xticks=[], yticks=[])
        for axes, first in zip(grid[i * len(rows)], range(0, count * each.length, each.length), strict=True):
            axes.set_title(_span(each.frames, first, first + each.length - 1), fontsize=7.5, pad=3)
    return figure


def check_rows(rows: Sequence[str]) -> None:
    """Raise unless these are rows of `appearance_grid`.

    Example:
        >>> check_rows(["average", "flow"])
    """
    if not rows or len(set(rows)) != len(rows) or not set(rows) <= set(ROWS):
        raise ValueError(
            f"rows must be some of {', '.join(ROWS)}, each once, got {', '.join(rows) or 'none'}"
        )


def _span(frames: ShownFrames, first: int, last: int) -> str:
    text = f"frames {frames.indices[first]} to {frames.indices[last]}"
    return text if frames.times is None else f"{text}, {frames.times[first]:.2f} s"


def _pictures(found: Appearance, rows: Sequence[str]) -> dict[str, Tensor]:
    frames, length = found.frames.frames, found.length
    unit = frames.float() / 255 if frames.dtype == torch.uint8 else frames.float()
    limit = max(float(np.quantile(found.dynamic.abs().numpy(), SHARE)), 1 / 255)
    pictures = {
        "average": unit.unflatten(0, (-1, length)).mean(1),
        "appearance": 0.5 + found.dynamic / (2 * limit),
    }
    if {"dynamic_image", "squeezed_image"} & set(rows):
        whole = (unit * 255).round().to(torch.uint8)
        pictures["dynamic_image"] = dynamic_image(whole, length)
        pictures["squeezed_image"] = squeezed_image(whole, length)
    if "flow" in rows:
        middle = torch.arange(len(found.dynamic)) * length + (length - 1) // 2
        flow = tvl1_fields(frames[middle], frames[middle + 1])
        most = max(float(np.quantile(flow.norm(dim=-1).numpy(), SHARE)), 0.5)  # pixels
        pictures["flow"] = flow_colors(flow, most)
    return pictures


def find_layer(net: nn.Module, kind: type[Layer]) -> Layer:
    """Find a network's first layer of a kind.

    Args:
        net: the network.
        kind: of the layer.

    Returns:
        The layer.

    Raises:
        ValueError: the network has none.

    Example:
        >>> find_layer(nn.Sequential(TemporalSqueezePool(10)), TemporalSqueezePool).num_frames
        10
    """
    for module in net.modules():
        if isinstance(module, kind):
            return module
    raise ValueError(f"net: {type(net).__name__} holds no {kind.__name__}")
