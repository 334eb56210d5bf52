"""The frames about a moment of a video: windows around key frames.

A film of a quarter of an hour holds hundreds of key frames, so that a window is not reached by decoding from the
start. Where a file tells the time of every frame (MP4, MOV, Matroska, WebM), decoding begins at the last coded
picture before the window that needs no other, and the frames are found by their times; nothing depends on where
it began. Other files, and those whose times go back, are decoded from the start and their frames counted, as
everywhere else.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from .folders import count_frames, sample_folder
from .samples import FrameFolder
from .video import Frames, VideoError, _Converter, _Opened, _opened

_TIMED = frozenset({"mp4", "mov", "matroska", "webm"})
_BACK = 0.5  # seconds: what the start of decoding is moved back by, doubled each time it was not enough

_Timed = tuple[float, Any]  # seconds from the file's first frame, and the frame


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
    """Read the frames about a moment, at the mean frame rate of the file.

    The key frame is the one nearest to the moment, of two the later; of the frames that are read, number i stands
    ``(i - num_frames // 2) * frame_step`` frames, or as much time, after it. At the ends of the file its first or
    last frame is repeated.

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
        ValueError: the time is below 0 or not finite.
        VideoError: the file is missing or empty, damaged up to the window's last frame, has no frame at that
            moment, or does not tell its frame rate.

    Source: the place of the key frame is that of Feichtenhofer et al., SlowFast, ICCV 2019, on AVA.

    Example:
        >>> read_window("no_such_file.mp4", 2.0, 32)
        Traceback (most recent call last):
        vidops.data.video.VideoError: no_such_file.mp4: no such file
    """
    path = os.fspath(path)
    if not 0 <= time < math.inf:
        raise ValueError(f"time must be at least 0 and finite, got {time}")
    if frames is not None:
        counted = _counted(path, frames)
        key = _nearest(time, frame_rate)
        _check_end(path, key, counted.count or 0, time, frame_rate)
        return sample_folder(
            path, counted, lambda info: window(key, num_frames, frame_step, info.num_frames), short_side
        )[0]
    convert = _Converter(short_side)
    try:
        return _by_time(path, time, num_frames, frame_step, convert)
    except _UntimedError:
        return _by_count(path, time, num_frames, frame_step, convert)


def window(key: int, num_frames: int, frame_step: int, count: int | None = None) -> npt.NDArray[np.int64]:
    """Return the indices of the frames about a key frame.

    Args:
        key: index of the key frame.
        num_frames: frames of the window.
        frame_step: from one to the next.
        count: frames of the file, if known; what lies outside becomes its first or last frame.

    Returns:
        int64 (num_frames,).

    Example:
        >>> window(3, 4, 2, 100).tolist()
        [0, 1, 3, 5]
    """
    indices = key + (np.arange(num_frames, dtype=np.int64) - num_frames // 2) * frame_step
    return np.clip(indices, 0, None if count is None else count - 1)


class _UntimedError(Exception):
    """The file does not tell the times of its frames, or tells them wrong."""


def _by_time(path: str, time: float, num_frames: int, frame_step: int, convert: _Converter) -> Frames:
    """Read a window by the times of the frames."""
    begin, back = math.inf, _BACK
    while True:
        with _opened(path) as opened:
            if not _TIMED & set(opened.container.format.name.split(",")):
                raise _UntimedError
            rate = _rate(path, opened)
            wanted = [max(0.0, time + (i - num_frames // 2) * frame_step / rate) for i in range(num_frames)]
            begin = min(begin, wanted[0] - 1 / rate)
            stream = _frames_from(path, opened, begin)
            first = next(stream, None)
            if first is not None and (first[0] <= wanted[0] or begin <= 0):
                return _select(path, first, stream, wanted, time, rate, convert)
        if begin <= 0:
            raise VideoError(f"{path}: holds no video frames")
        begin, back = begin - back, 2 * back  # it began too late


def _frames_from(path: str, opened: _Opened, begin: float) -> Iterator[_Timed]:
    """Yield (time, frame) from a picture on that needs no other, at or before ``begin`` if the file has one."""
    stream, start = opened.stream, opened.stream.start_time
    if start is None or stream.time_base is None:
        raise _UntimedError
    if begin > 0:
        opened.container.seek(start + math.floor(begin / stream.time_base), stream=stream, backward=True)
        opened.since = f" from {begin:.2f} s on"
    earliest = last = None
    for packet in opened.container.demux(stream):
        if earliest is None:
            if not packet.size or not (packet.is_keyframe or begin <= 0):
                continue
            earliest = packet.pts
        for frame in opened.decode(packet, path):
            if frame.pts is None or earliest is None:
                raise _UntimedError
            if frame.pts < earliest and begin > 0:
                continue  # shown before the picture it began at, and made from ones before that
            if last is not None and frame.pts <= last:
                raise _UntimedError
            last = frame.pts
            yield float((frame.pts - start) * stream.time_base), frame


def _select(
    path: str,
    first: _Timed,
    rest: Iterator[_Timed],
    wanted: list[float],
    time: float,
    rate: float,
    convert: _Converter,
) -> Frames:
    """Convert the frame nearest to each of the wanted times, which rise."""
    convert.see(first[1], path)
    pictures: list[Frames] = []
    before, shown = first, None  # the last frame that was decoded, and its picture once it is wanted

    def take() -> None:
        nonlocal shown
        shown = convert(before[1]) if shown is None else shown
        pictures.append(shown)

    for after in rest:
        # A thousandth of a frame for the rounding of times to the file's clock.
        half = (before[0] + after[0]) / 2 - 1e-3 / rate
        while len(pictures) < len(wanted) and wanted[len(pictures)] < half:
            take()
        before, shown = after, None
        if len(pictures) == len(wanted):
            break
    if time > before[0] + 1.5 / rate:
        raise VideoError(f"{path}: ends at {before[0] + 1 / rate:.2f} s, before the key frame at {time:g} s")
    while len(pictures) < len(wanted):
        take()
    return np.stack(pictures)


def _by_count(path: str, time: float, num_frames: int, frame_step: int, convert: _Converter) -> Frames:
    """Read a window by counting frames from the start."""
    with _opened(path) as opened:
        rate = _rate(path, opened)
        key = _nearest(time, rate)
        indices = window(key, num_frames, frame_step)
        wanted = set(indices.tolist())
        pictures: dict[int, Frames] = {}
        frame: Any = None
        for packet in opened.container.demux(opened.stream):
            for frame in opened.decode(packet, path):
                convert.see(frame, path)
                if opened.frames in wanted:
                    pictures[opened.frames] = convert(frame)
            if opened.frames > indices[-1]:
                break
        count = opened.frames
    if frame is None:
        raise VideoError(f"{path}: holds no video frames")
    _check_end(path, key, count, time, rate)
    if indices[-1] >= count and count - 1 not in pictures:
        pictures[count - 1] = convert(frame)
    return np.stack([pictures[min(int(i), count - 1)] for i in indices])


def _nearest(time: float, rate: float) -> int:
    """Return the index of the frame nearest to a time, of two the later."""
    return math.floor(time * rate + 0.5 + 1e-3)


def _check_end(path: str, key: int, count: int, time: float, rate: float) -> None:
    if key > count:  # a file may end within a frame of the moment
        raise VideoError(f"{path}: ends at {count / rate:.2f} s, before the key frame at {time:g} s")


def _rate(path: str, opened: _Opened) -> float:
    rate: Fraction | None = opened.stream.average_rate
    if not rate:
        raise VideoError(f"{path}: does not tell its frame rate")
    return float(rate)


# (folder, time of change, how its pictures are named) -> number of frames
_COUNTS: dict[tuple[str, int, FrameFolder], int] = {}


def _counted(path: str, frames: FrameFolder) -> FrameFolder:
    """Return a folder's naming with the number of its frames, which is counted once."""
    if frames.count is not None or not os.path.isdir(path):
        return FrameFolder(frames.template, frames.first, count_frames(path, frames))
    key = (os.path.abspath(path), os.stat(path).st_mtime_ns, frames)
    if key not in _COUNTS:
        _COUNTS[key] = count_frames(path, frames)
    return FrameFolder(frames.template, frames.first, _COUNTS[key])
