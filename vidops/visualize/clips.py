"""Frames of clips side by side, with their numbers and times."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .._extras import require
from ..data import FrameFolder, num_frames, sample_frames
from ..data.folders import sample_folder
from ..data.shards import locate
from .figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ShownFrames", "clip_grid", "frame_grid", "frame_times", "read_shown"]


@dataclass(frozen=True)
class ShownFrames:
    """Frames of one video, with what is written beside them.

    Args:
        frames: (T, H, W, 3), uint8, or floats in [0, 1].
        indices: of the frames in the video, int64 (T,).
        times: of the frames in seconds from the first one of the video, (T,); None where they are not known.

    Raises:
        ValueError: the shapes do not belong together.

    Example:
        >>> shown = ShownFrames(torch.zeros(2, 4, 6, 3), np.array([3, 9]), np.array([0.1, 0.3]))
        >>> shown.labels
        ['frame 3, 0.10 s', 'frame 9, 0.30 s']
    """

    frames: Tensor
    indices: npt.NDArray[np.int64]
    times: npt.NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        """Check the shapes."""
        shape = tuple(self.frames.shape)
        if len(shape) != 4 or shape[-1] != 3 or 0 in shape:
            raise ValueError(f"frames must have shape (T, H, W, 3), got {shape}")
        for name, values in (("indices", self.indices), ("times", self.times)):
            if values is not None and values.shape != (shape[0],):
                raise ValueError(f"{name} must be one a frame, ({shape[0]},), got shape {values.shape}")

    @property
    def labels(self) -> list[str]:
        """A line of text a frame."""
        if self.times is None:
            return [f"frame {i}" for i in self.indices]
        return [f"frame {i}, {t:.2f} s" for i, t in zip(self.indices, self.times, strict=True)]


def read_shown(
    path: str | os.PathLike[str],
    choose: Callable[[int], Sequence[int] | npt.NDArray[np.int64]],
    *,
    short_side: int | None = None,
    folder: FrameFolder | None = None,
) -> ShownFrames:
    """Read frames of a video to be shown.

    Args:
        path: a video file, or a folder of frames.
        choose: given the number of frames, returns the wanted indices (for example a sampling).
        short_side: resize so that the shorter side has this many pixels; None keeps the file's size.
        folder: how the pictures of a folder are named; None for ``00001.jpg``, ``00002.jpg``, ...

    Returns:
        The frames, their indices and their times; a folder has no times.

    Raises:
        VideoError: the file is missing, empty, damaged, cut short, or holds no video.
        ValueError: ``choose`` returned an index outside the file.

    Example:
        >>> read_shown("no_such_file.mp4", lambda count: [0])
        Traceback (most recent call last):
        vidops.data.video.VideoError: no_such_file.mp4: no such file
    """
    if os.path.isdir(path):
        pictures = folder or FrameFolder()
        frames, indices = sample_folder(path, pictures, lambda info: choose(info.num_frames), short_side)
    else:
        frames, indices = sample_frames(path, choose, short_side=short_side)
    return ShownFrames(torch.from_numpy(frames), indices, frame_times(path, indices))


def frame_times(
    path: str | os.PathLike[str], indices: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64] | None:
    """Look up when frames of a video file are shown.

    The file's own stamps are taken where there is one a frame and no two are the same; else the average frame
    rate counts.

    Args:
        path: a video file that can be decoded.
        indices: frame numbers, (T,).

    Returns:
        Seconds from the first frame, (T,); None for what has neither stamps nor a rate, such as a folder of
        pictures.

    Raises:
        VideoError: the file cannot be decoded.

    Example:
        >>> frame_times(".", np.array([0])) is None  # a folder
        True
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        return None
    count = num_frames(path)
    av = require("av", extra="video")
    cover = av.stream.Disposition.attached_pic
    with av.open(locate(path).url, metadata_errors="replace") as container:
        stream: Any = next(s for s in container.streams.video if not s.disposition & cover)
        packets = [p for p in container.demux(stream) if p.size and not p.is_discard]
        rate = stream.average_rate
        stamps = sorted({p.pts * p.time_base for p in packets if p.pts is not None})
    if len(stamps) == len(packets) == count:
        return np.array([float(stamps[i] - stamps[0]) for i in indices])
    return np.asarray(indices) / float(rate) if rate else None


def clip_grid(shown: ShownFrames, *, title: str = "", columns: int | None = None) -> Figure:
    """Show the frames of a clip in reading order, each with its number and time.

    Args:
        shown: the frames.
        title: above them.
        columns: frames a row; by default four, more for more than 16 frames, so that the grid is about square.

    Returns:
        The figure; empty places at the end of the last row stay white.

    Raises:
        ValueError: ``columns`` is below 1.

    Example:
        >>> figure = clip_grid(ShownFrames(torch.zeros(3, 4, 6, 3), np.arange(3)), columns=2)
        >>> [axes.get_title() for axes in figure.axes]
        ['frame 0', 'frame 1', 'frame 2']
    """
    figure, cells = new_grid(shown, title, columns)
    for axes, frame in zip(cells, shown.frames, strict=True):
        axes.imshow(as_picture(frame))
    return figure


def new_grid(
    shown: ShownFrames, title: str, columns: int | None, room: float = 0.0, size: float = 1.9
) -> tuple[Figure, list[Any]]:
    """Make a figure with one labelled, empty place a frame, ``size`` inches wide; ``room`` is left at the right."""
    count, height, width = shown.frames.shape[:3]
    if columns is None:
        columns = max(4, math.isqrt(count - 1) + 1)
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    columns = min(columns, count)
    rows = -(-count // columns)
    cell = size if width >= height else size * max(0.71, math.sqrt(width / height))
    across = columns * (cell + 0.08) + room
    title = fill(title, across)
    lines = title.count("\n") + 1 if title else 0
    figure = new_figure(across, rows * (cell * height / width + 0.27) + 0.18 * lines + 0.1)
    if title:
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    cells = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in cells[count:]:
        axes.remove()
    for axes, label in zip(cells[:count], shown.labels, strict=True):
        axes.set(xticks=[], yticks=[])
        axes.set_title(label, fontsize=7.5, pad=3)
    return figure, cells[:count]


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
            axis.imshow(as_picture(clip[int(index)]))
            axis.set_xlabel(f"frame {index}", fontsize=7)
        if average:
            axes[-1].imshow(as_picture(_unit(clip).mean(0)))
            axes[-1].set_xlabel("average", fontsize=7)
        for axis in axes:
            axis.set(xticks=[], yticks=[])
    return figure


def _unit(picture: Tensor) -> Tensor:
    return picture.float() / 255 if picture.dtype == torch.uint8 else picture.float()


def as_picture(frame: Tensor) -> np.ndarray:
    """Turn a frame into what matplotlib draws."""
    return np.asarray(_unit(frame).clamp(0, 1).cpu())


def fill(title: str, width: float) -> str:
    """Break a title of 9 points into lines that fit ``width`` inches."""
    return "\n".join(textwrap.wrap(title, max(10, int(width / 0.078))))
