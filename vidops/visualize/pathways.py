"""Which pathway of a network counts most at each time step of a clip, and how much each counts on average."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..layers import TemporalSpatialPathway, pathway_contributions
from ..layers.clips import Triple
from .clips import ShownFrames, as_picture, fill
from .figures import new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Pathways", "pathway_averages", "pathway_timeline", "pathways_of"]

# The poster's colours, by dilations along time, height and width.
POSTER: dict[Triple, str] = {(1, 1, 1): "red", (4, 4, 4): "cyan", (1, 4, 4): "blue", (4, 1, 1): "magenta"}
# Ours for what it does not show, apart from those and from each other.
OTHERS = ("#2ca02c", "#ff8c00", "#7f4f24", "#9e9e9e", "#c5c000", "#4b0082", "#f4a6b8", "#00694a")
MARKERS = "osD^vP*X"
MOST_SHOWN = 8  # frames, unless told


@dataclass(frozen=True)
class Pathways:
    """How much each pathway of a network counts in a clip.

    Attributes:
        weights: by block, in the order they run in: (M, T'), shares that sum to 1 over the M pathways.
        dilations: of each block's pathways, (t, h, w).
    """

    weights: dict[str, Tensor]
    dilations: dict[str, tuple[Triple, ...]]

    def top(self, block: str) -> list[int]:
        """Number the pathway that counts most at each time step of a block; of equal ones the first.

        Example:
            >>> Pathways({"a": torch.tensor([[0.7, 0.4], [0.3, 0.6]])}, {"a": ((1, 1, 1), (2, 2, 2))}).top("a")
            [0, 1]
        """
        return self.weights[block].argmax(0).tolist()


def pathways_of(net: nn.Module, clip: Tensor) -> Pathways:
    """Find how much each pathway of a network counts in a clip.

    Args:
        net: any with `vidops.layers.TemporalSpatialPathway`, such as BTSNet; taken as it is, evaluation mode is the
            caller's.
        clip: one clip, (1, C, T, H, W).

    Returns:
        The attention of each block, averaged over channels; blocks of one name within all that hold them, as BTSNet's
        ``conv2``, are named by the latter.

    Raises:
        ValueError: there is not one clip, or the network has no such block.

    Source: Hong and Choi, BTSNet's poster.

    Example:
        >>> from vidops.models import create_model
        >>> found = pathways_of(create_model("tiny_btsnet").eval(), torch.rand(1, 3, 8, 64, 64))
        >>> {name: weights.shape for name, weights in found.weights.items()}
        {'layer1.0': torch.Size([3, 4]), 'layer2.0': torch.Size([3, 2]), 'layer3.0': torch.Size([3, 1])}
    """
    if clip.dim() != 5 or clip.shape[0] != 1:
        raise ValueError(f"clip must be one, (1, C, T, H, W), got {tuple(clip.shape)}")
    if not any(isinstance(module, TemporalSpatialPathway) for module in net.modules()):
        raise ValueError(f"{type(net).__name__} has no temporal-spatial pathway block")
    weights = {name: found[0].cpu() for name, found in pathway_contributions(net, clip).items()}
    short = _names(weights)
    blocks: dict[str, Any] = {short[name]: net.get_submodule(name) for name in weights}
    return Pathways(
        {short[name]: found for name, found in weights.items()},
        {name: block.dilations for name, block in blocks.items()},
    )


def pathway_timeline(
    shown: ShownFrames, found: Pathways, *, frames: int | None = None, title: str = ""
) -> Figure:
    """Draw which pathway counts most at each time step of every block, below the frames of the clip.

    A time step stands below the frames that it is around; with a stride along time it is several frames wide.

    Args:
        shown: the frames of the clip, (T, H, W, 3), as the network saw them.
        found: of that clip; each block has T' <= T time steps.
        frames: how many are shown, equally spaced in time; None for 8, or all of fewer.
        title: above all.

    Returns:
        The figure: the axes of the frames, then one with a row a block, its time steps in the poster's colours.

    Raises:
        ValueError: ``frames`` is below 1, or the clip has fewer frames than a block has time steps.

    Source: Hong and Choi, BTSNet's poster, "pathways have top-1 contribution at each timestep".

    Example:
        >>> import numpy as np
        >>> from vidops.models import create_model
        >>> found = pathways_of(create_model("tiny_btsnet").eval(), torch.rand(1, 3, 8, 64, 64))
        >>> figure = pathway_timeline(ShownFrames(torch.zeros(8, 64, 64, 3), np.arange(8)), found)
        >>> [label.get_text() for label in figure.axes[-1].get_yticklabels()]
        ['layer1.0', 'layer2.0', 'layer3.0']
    """
    from matplotlib.ticker import MaxNLocator

    count, height, width = shown.frames.shape[:3]
    if frames is not None and frames < 1:
        raise ValueError(f"frames must be at least 1, got {frames}")
    chosen = min(MOST_SHOWN if frames is None else frames, count)
    for block, weights in found.weights.items():
        if weights.shape[1] > count:
            raise ValueError(
                f"shown must have at least the {weights.shape[1]} frames of {block}, got {count}"
            )
    colors = _colors(found.dilations.values())
    cell, rows = 1.1, len(found.weights)
    across, heights = max(4.6, cell * chosen + 1.0), (cell * height / width + 0.35, 0.24 * rows + 0.45)
    title = fill(title, across)
    figure = new_figure(across, sum(heights) + 0.18 * (title.count("\n") + 1) + 0.5)
    if title:
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    grid = figure.add_gridspec(2, chosen, height_ratios=heights)
    for i in range(chosen):  # each above the middle of the frames that it stands for
        _draw_frame(figure.add_subplot(grid[0, i]), shown, int((i + 0.5) * count / chosen))
    below = figure.add_subplot(grid[1, :])
    for row, block in enumerate(found.weights):
        spans = _spans(count, found.weights[block].shape[1])
        for (left, right), m in zip(spans, found.top(block), strict=True):
            color = colors[found.dilations[block][m]]
            below.barh(row, right - left, 0.86, left, color=color, edgecolor="white", lw=0.8)
    below.set(xlim=(-0.5, count - 0.5), ylim=(rows - 0.5, -0.5))
    below.set_yticks(range(rows), list(found.weights), fontsize=7.5)
    below.set_xlabel("frame of the clip", fontsize=8)
    below.tick_params(axis="x", labelsize=7.5)
    below.tick_params(axis="y", length=0)
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    plain(below)
    _add_legend(figure, colors, "greatest share, by dilation [T, H, W]")
    return figure


def pathway_averages(found: Sequence[Pathways], *, title: str = "") -> Figure:
    """Draw the share that each pathway has on average in every block.

    Args:
        found: of one clip or several, of networks with the same blocks.
        title: above all.

    Returns:
        The figure: one axes, a line a pathway over the blocks in the order they run in; means over channels, time
        steps and clips, which sum to 1 in each block. A dashed line is where all pathways of a block count alike.

    Raises:
        ValueError: there is no clip, or the clips' blocks differ.

    Source: Hong and Choi, BTSNet's poster, "normalized average weights".

    Example:
        >>> from vidops.models import create_model
        >>> found = pathways_of(create_model("tiny_btsnet").eval(), torch.rand(1, 3, 8, 64, 64))
        >>> len(pathway_averages([found]).axes[0].get_xticklabels())
        3
    """
    if not found or any(one.dilations != found[0].dilations for one in found):
        raise ValueError("found must be of at least one clip, all of networks with the same blocks")
    dilations = found[0].dilations
    colors = _colors(dilations.values())
    blocks = list(dilations)
    means = {name: torch.stack([one.weights[name].mean(1) for one in found]).mean(0) for name in blocks}
    across = max(4.6, 0.42 * len(blocks) + 1.6)
    title = fill(title, across)
    figure = new_figure(across, 3.1 + 0.18 * (title.count("\n") + 1))
    if title:
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    axes = figure.subplots()
    equal = [1 / len(dilations[name]) for name in blocks]
    axes.step(range(len(blocks)), equal, where="mid", color="0.5", linestyle="--", linewidth=1, zorder=1)
    for i, (dilation, color) in enumerate(colors.items()):
        shares = [
            float(means[name][dilations[name].index(dilation)])
            if dilation in dilations[name]
            else float("nan")
            for name in blocks
        ]
        axes.plot(
            shares, marker=MARKERS[i % len(MARKERS)], color=color, markersize=6, linewidth=1.2,
            markeredgecolor="black", markeredgewidth=0.6,
        )  # fmt: skip
    axes.set_xticks(range(len(blocks)), blocks, fontsize=7.5, rotation=90 if len(blocks) > 6 else 0)
    axes.margins(y=0.12)  # not from 0: shares of many pathways differ little
    axes.set_ylabel("normalized average weight", fontsize=8)
    axes.tick_params(axis="y", labelsize=7.5)
    axes.grid(axis="y", alpha=0.25)
    plain(axes)
    _add_legend(figure, colors, "dilation [T, H, W]; dashed: all alike", points=True)
    return figure


def _names(names: Iterable[str]) -> dict[str, str]:
    """Shorten names that all end in one and the same part."""
    parted = {name: name.rpartition(".") for name in names}
    same = len({last for *_, last in parted.values()}) == 1 and all(first for first, *_ in parted.values())
    return {name: first if same else name for name, (first, *_) in parted.items()}


def _colors(dilations: Iterable[Sequence[Triple]]) -> dict[Triple, str]:
    """A colour for every receptive field, in the order in which they come first."""
    different = dict.fromkeys(dilation for block in dilations for dilation in block)
    others = iter(OTHERS * (len(different) // len(OTHERS) + 1))
    return {dilation: POSTER.get(dilation) or next(others) for dilation in different}


def _spans(frames: int, steps: int) -> list[tuple[float, float]]:
    """Edges of the time steps of a block in frames of the clip: around every so many from 0.

    Several strides may give as many steps: a power of two is taken, as networks have, where one does.
    """
    stride = least = -(-frames // steps)
    power = 1 << (least - 1).bit_length()
    if (steps - 1) * power < frames:
        stride = power
    return [
        (max((i - 0.5) * stride, -0.5), min((i + 0.5) * stride, frames - 0.5) if i < steps - 1 else frames - 0.5)
        for i in range(steps)
    ]  # fmt: skip


def _draw_frame(axes: Any, shown: ShownFrames, i: int) -> None:
    axes.imshow(as_picture(shown.frames[i]))
    axes.set(xticks=[], yticks=[])
    axes.set_title(shown.labels[i].replace(", ", "\n"), fontsize=7, pad=3)


def _add_legend(figure: Figure, colors: dict[Triple, str], title: str, points: bool = False) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    for i, (dilation, color) in enumerate(colors.items()):
        label = f"[{', '.join(map(str, dilation))}]"
        if points:
            marker = MARKERS[i % len(MARKERS)]
            line = Line2D([], [], color=color, label=label, marker=marker)
            line.set(markeredgecolor="black", markeredgewidth=0.6)
            handles.append(line)
        else:
            handles.append(Patch(color=color, label=label))
    columns = max(1, min(len(handles), int(figure.get_size_inches()[0] / 0.95)))
    figure.legend(
        handles=handles, title=title, loc="outside lower center", ncols=columns, fontsize=7.5, title_fontsize=7.5,
        frameon=False, handlelength=1.4, columnspacing=1.2,
    )  # fmt: skip
