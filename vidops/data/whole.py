"""Whole videos: their rate, how long they are, and all their frames in turn."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction

from .folders import count_frames, sample_folder
from .samples import FrameFolder
from .video import Frames, VideoError, _Converter, _decode, _opened, num_frames


def mean_rate(
    path: str | os.PathLike[str], *, frames: FrameFolder | None = None, frame_rate: float = 30.0
) -> Fraction:
    """Tell a video's mean frame rate.

    Args:
        path: a video file, or a folder of frames.
        frames: how the pictures of a folder are named; None for a file.
        frame_rate: frames a second of a folder.

    Returns:
        Frames a second.

    Raises:
        VideoError: the file is missing, is no video, or does not tell its frame rate.

    Example:
        >>> mean_rate("folder", frames=FrameFolder(), frame_rate=25)
        Fraction(25, 1)
    """
    if frames is not None:
        return Fraction(frame_rate).limit_denominator(1001)
    path = os.fspath(path)
    with _opened(path) as opened:
        rate = opened.stream.average_rate
        if not rate:
            raise VideoError(f"{path}: does not tell its frame rate")
        return Fraction(rate)


def seconds_long(
    path: str | os.PathLike[str], *, frames: FrameFolder | None = None, frame_rate: float = 30.0
) -> float:
    """Tell how long a video is: its frames, counted by decoding them, over its mean frame rate.

    Args:
        path: a video file, or a folder of frames.
        frames: how the pictures of a folder are named; None for a file.
        frame_rate: frames a second of a folder.

    Returns:
        Seconds.

    Raises:
        VideoError: the file is missing, empty, damaged, or does not tell its frame rate.

    Example:
        >>> seconds_long("no_such_file.mp4")
        Traceback (most recent call last):
        vidops.data.video.VideoError: no_such_file.mp4: no such file
    """
    count = num_frames(path) if frames is None else count_frames(path, frames)
    return float(count / mean_rate(path, frames=frames, frame_rate=frame_rate))


def all_frames(path: str | os.PathLike[str], *, frames: FrameFolder | None = None) -> Iterator[Frames]:
    """Read all frames of a video, one after the other, in the memory of one.

    Args:
        path: a video file, or a folder of frames.
        frames: how the pictures of a folder are named; None for a file.

    Yields:
        uint8 arrays (H, W, 3), RGB.

    Raises:
        VideoError: the file is missing, empty or damaged.

    Example:
        >>> next(all_frames("no_such_file.mp4"))
        Traceback (most recent call last):
        vidops.data.video.VideoError: no_such_file.mp4: no such file
    """
    if frames is not None:
        for i in range(count_frames(path, frames)):
            yield sample_folder(path, frames, lambda info, i=i: [i])[0][0]  # type: ignore[misc]
        return
    path = os.fspath(path)
    convert = _Converter(None)
    for frame in _decode(path):
        convert.see(frame, path)
        yield convert(frame)
