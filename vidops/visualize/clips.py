"""Frames of clips side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["frame_grid"]


def frame_grid(
    clips: Sequence[Tensor], titles: Sequence[str], *, frames: int = 8, average: bool = False
) -> Figure:
    """Show clips as rows of frames, equally spaced in time.

    Args:
        clips: ``(T, H, W, 3)`` each, uint8, or floats in [0, 1]; T may differ.
        titles: one a clip.
        frames: frames shown of each clip, at most.
        average: show the average of all frames behind them too.

    Returns:
        The figure.

    Raises:
        ValueError: there is no clip, a shape is another, or there are more or fewer titles than clips.

    Example:
        >>> figure = frame_grid([torch.zeros(8, 16, 16, 3, dtype=torch.uint8)], ["nothing"])
        >>> len(figure.axes)
        8
    """
    if not clips or len(clips) != len(titles):
        raise ValueError(
            f"clips must be at least one and have a title each, got {len(clips)} and {len(titles)} titles"
        )
    for clip in clips:
        if clip.dim() != 4 or clip.shape[-1] != 3 or clip.shape[0] < 1:
            raise ValueError(f"clips must have shape (T, H, W, 3), got {tuple(clip.shape)}")
    columns = min(frames, max(len(clip) for clip in clips))
    width = columns + int(average)
    figure = new_figure(1.05 * width + 0.2, 1.3 * len(clips))
    rows = figure.subfigures(len(clips), 1, squeeze=False)[:, 0]
    for row, clip, title in zip(rows, clips, titles, strict=True):
        row.suptitle(title, fontsize=9, x=0.01, ha="left")
        axes = row.subplots(1, width, squeeze=False)[0]
        chosen = np.linspace(0, len(clip) - 1, columns).round().astype(int)
        for axis, index in zip(axes, chosen, strict=False):
            axis.imshow(_picture(clip[int(index)]))
            axis.set_xlabel(f"frame {index}", fontsize=7)
        if average:
            axes[-1].imshow(_picture(_unit(clip).mean(0)))
            axes[-1].set_xlabel("average", fontsize=7)
        for axis in axes:
            axis.set(xticks=[], yticks=[])
    return figure


def _unit(picture: Tensor) -> Tensor:
    return picture.float() / 255 if picture.dtype == torch.uint8 else picture.float()


def _picture(frame: Tensor) -> np.ndarray:
    return np.asarray(_unit(frame).clamp(0, 1).cpu())
