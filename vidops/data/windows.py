"""The frames about a moment of a video: windows around key frames."""

from __future__ import annotations

import math
import os
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from .._extras import require
from .folders import sample_folder
from .samples import FrameFolder
from .video import Frames, VideoError, _find, _sample, _video_stream


def read_window(
    path: str | os.PathLike[str],
    time: float,
    num_frames: int,
    frame_step: int = 1,
    *,
    frames: FrameFolder | None = None,
    frame_rate: float = 30.0,
    short_side: int | None = None,
) -> Frames:
    """Read the frames about a moment, at the frame rate of the file.

    The key frame is the one nearest to the moment; of the frames that are read, number i stands
    ``(i - num_frames // 2) * frame_step`` frames after it. At the ends of the file its first or last frame is
    repeated.

    Args:
        path: a video file, or a folder of frames.
        time: seconds from the first frame.
        num_frames: frames of the window.
        frame_step: frames of the file from one to the next.
        frames: how the pictures of a folder are named; None for a file.
        frame_rate: frames a second of a folder.
        short_side: resize so that the shorter side has this many pixels; None keeps the file's size.

    Returns:
        uint8 array (num_frames, H, W, 3), RGB.

    Raises:
        VideoError: the file is missing, empty or damaged, or has no frame at that moment.

    Source: the place of the key frame is that of Feichtenhofer et al., SlowFast, ICCV 2019, on AVA.

    Example:
        >>> read_window("no_such_file.mp4", 2.0, 32)
        Traceback (most recent call last):
        vidops.data.video.VideoError: no_such_file.mp4: no such file
    """
    path = os.fspath(path)
    rate = Fraction(frame_rate) if frames is not None else _rate(path)
    key = math.floor(float(rate) * time + 0.5)

    def choose(count: int) -> npt.NDArray[np.int64]:
        if not 0 <= key <= count:  # a file may end within half a frame of the moment
            raise VideoError(
                f"{path}: has no frame at {time:g} s, it is {count} frames at {float(rate):g} a second"
            )
        return window(key, num_frames, frame_step, count)

    if frames is not None:
        return sample_folder(path, frames, lambda info: choose(info.num_frames), short_side)[0]
    return _sample(path, lambda info: choose(info.num_frames), short_side)[0]


def window(key: int, num_frames: int, frame_step: int, count: int) -> npt.NDArray[np.int64]:
    """Return the indices of the frames about a key frame.

    Args:
        key: index of the key frame.
        num_frames: frames of the window.
        frame_step: from one to the next.
        count: frames of the file; what lies outside becomes its first or last frame.

    Returns:
        int64 (num_frames,).

    Example:
        >>> window(3, 4, 2, 100).tolist()
        [0, 1, 3, 5]
    """
    indices = key + (np.arange(num_frames, dtype=np.int64) - num_frames // 2) * frame_step
    return np.clip(indices, 0, count - 1)


def _rate(path: str) -> Fraction:
    av = require("av", extra="video")
    place = _find(path)
    try:
        with av.open(place.url, metadata_errors="replace") as container:
            rate = _video_stream(av, path, container).average_rate
    except VideoError:
        raise
    except (av.FFmpegError, OSError, UnicodeError) as error:
        raise VideoError(
            f"{path}: cannot be decoded ({getattr(error, 'strerror', None) or error})"
        ) from error
    if not rate:
        raise VideoError(f"{path}: does not say its frame rate")
    return Fraction(rate)
