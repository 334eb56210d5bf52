"""Frame-exact reading of video files with PyAV.

Frame ``i`` of a file is the ``i``-th frame that a decoder running from the start of the file puts out. Time
stamps are not asked (some AVI files hold them in the wrong order) and nothing seeks: decoding forward while
counting is the one way that is exact for every container, and only the wanted frames are converted to RGB.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .._extras import require
from ._matroska import promised_bytes
from .shards import Place, locate

Frames = npt.NDArray[np.uint8]
Choose = Callable[[int], Sequence[int] | npt.NDArray[np.int64]]

# While a file is counted its frames are held up to this many bytes, so that most files are decoded once.
_HOLD_BYTES = 64 << 20


class VideoError(ValueError):
    """A video file that is missing, damaged or empty; the text is one line that names the file.

    What is raised is what the container or the decoder notices. Damage inside a coded picture that leaves it
    decodable is not seen: the frame comes out with wrong pixels.

    Args:
        message: one line, ``path: what is wrong``.

    Example:
        >>> str(VideoError("clips/a.mp4: no such file"))
        'clips/a.mp4: no such file'
    """

    def __init__(self, message: str) -> None:
        # A loader's worker hands its error on as the text of its whole traceback, whose last line is ours.
        super().__init__(message.rstrip().rsplit("VideoError: ", 1)[-1])


def num_frames(path: str | os.PathLike[str]) -> int:
    """Count the frames of a video file by decoding it; the container's own count is not trusted.

    The count is remembered for as long as the file's size and time of change stay the same. Damage that the
    decoder does not notice is not seen here either, see `VideoError`.

    Args:
        path: a video file.

    Returns:
        The number of frames that a decoder puts out, at least 1.

    Raises:
        VideoError: the file is missing, empty, damaged, cut short, or holds no video.

    Example:
        >>> num_frames("no_such_file.mp4")
        Traceback (most recent call last):
        vidops.data.video.VideoError: no_such_file.mp4: no such file
    """
    path = os.fspath(path)
    key = _key(path)
    if key not in _COUNTS:
        _COUNTS[key] = sum(1 for _ in _decode(path, whole=True))
    return _COUNTS[key]


def read_frames(
    path: str | os.PathLike[str],
    indices: Sequence[int] | npt.NDArray[np.int64],
    *,
    short_side: int | None = None,
) -> Frames:
    """Read the frames of a video file that have the given indices, exactly.

    Args:
        path: a video file.
        indices: frame numbers from 0, in any order, repeats allowed.
        short_side: resize so that the shorter side has this many pixels; None keeps the file's size.

    Returns:
        uint8 array (len(indices), H, W, 3), RGB, turned upright where the file says how.

    Raises:
        VideoError: the file is missing, empty, damaged up to the last wanted frame, or holds no video.
        ValueError: an index is negative or past the last frame.

    Example:
        >>> read_frames("no_such_file.mp4", [0])
        Traceback (most recent call last):
        vidops.data.video.VideoError: no_such_file.mp4: no such file
    """
    path = os.fspath(path)
    _check_indices(indices)
    return _collect(path, lambda size: indices, _Converter(short_side))[0]


def sample_frames(
    path: str | os.PathLike[str], choose: Choose, *, short_side: int | None = None
) -> tuple[Frames, npt.NDArray[np.int64]]:
    """Read the frames that ``choose`` picks once the number of frames is known, decoding most files once.

    Args:
        path: a video file.
        choose: given the number of frames, returns the wanted indices (for example a sampling).
        short_side: resize so that the shorter side has this many pixels; None keeps the file's size.

    Returns:
        The frames, uint8 (n, H, W, 3) RGB, and their indices, int64 (n,).

    Raises:
        VideoError: the file is missing, empty, damaged, cut short, or holds no video.
        ValueError: ``choose`` returned an index outside the file.

    Example:
        >>> sample_frames("no_such_file.mp4", lambda num_frames: [0, num_frames - 1])
        Traceback (most recent call last):
        vidops.data.video.VideoError: no_such_file.mp4: no such file
    """
    return _sample(os.fspath(path), lambda info: choose(info.num_frames), short_side)


@dataclass(frozen=True)
class _Info:
    """What is known of a file before its frames are chosen: the sizes are those after the resize."""

    num_frames: int
    height: int
    width: int


# (path, size, time of change) -> number of frames
_COUNTS: dict[tuple[str, int, int], int] = {}


def _sample(
    path: str, choose: Callable[[_Info], Sequence[int] | npt.NDArray[np.int64]], short_side: int | None
) -> tuple[Frames, npt.NDArray[np.int64]]:
    key = _key(path)
    convert = _Converter(short_side)
    if key in _COUNTS:
        return _collect(path, lambda size: choose(_Info(_COUNTS[key], *size)), convert)
    held: list[Any] | None = []
    size = count = 0
    for frame in _decode(path, whole=True):
        convert.see(frame, path)
        count += 1
        if held is not None:
            size += sum(plane.buffer_size for plane in frame.planes)
            held.append(frame)
            if size > _HOLD_BYTES:
                held = None
    _COUNTS[key] = count
    indices = np.asarray(choose(_Info(count, *convert.out_size)), dtype=np.int64)
    if held is None:
        return _collect(path, lambda size: indices, convert)
    wanted = _check_indices(indices)
    if max(wanted) >= count:
        raise _past_end(path, max(wanted), count)
    frames = {i: convert(held[i]) for i in set(wanted)}
    return np.stack([frames[i] for i in wanted]), indices


def _collect(
    path: str,
    choose: Callable[[tuple[int, int]], Sequence[int] | npt.NDArray[np.int64]],
    convert: _Converter,
) -> tuple[Frames, npt.NDArray[np.int64]]:
    """Decode up to the last wanted frame; they are chosen when the first is there and the size is known."""
    frames: dict[int, Frames] = {}
    indices = np.empty(0, np.int64)
    remaining: set[int] = set()
    count = 0
    for frame in _decode(path):
        convert.see(frame, path)
        if count == 0:
            indices = np.asarray(choose(convert.out_size))
            remaining = set(_check_indices(indices))
        if count in remaining:
            frames[count] = convert(frame)
            remaining.discard(count)
        count += 1
        if not remaining:
            break
    if remaining:
        raise _past_end(path, max(remaining), count)
    return np.stack([frames[int(i)] for i in indices]), indices.astype(np.int64)


def _past_end(path: str, index: int, count: int) -> ValueError:
    return ValueError(f"indices: frame {index} is past the end of {path}, which has {count} frames")


def _check_indices(indices: Sequence[int] | npt.NDArray[np.int64]) -> list[int]:
    array = np.asarray(indices)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        raise ValueError(f"indices must be a non-empty list of whole numbers, got {indices!r}")
    if array.min() < 0:
        raise ValueError(f"indices must not be negative, got {int(array.min())}")
    return [int(i) for i in array]


def _key(path: str) -> tuple[str, int, int]:
    place = _find(path)
    return os.path.abspath(path), place.size, place.changed


def _find(path: str) -> Place:
    """Find the bytes of a video, in a file of its own or in a shard."""
    try:
        return locate(path)
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise VideoError(f"{path}: {reason}") from error


@dataclass
class _Opened:
    """A file's video while it is decoded, and how much of it was, for the error's text."""

    container: Any
    stream: Any
    place: Place
    packets: int = 0
    frames: int = 0
    since: str = ""  # what the frames are counted from, where that is not the file's beginning

    def decode(self, packet: Any, path: str) -> Iterator[Any]:
        """Yield the frames that a packet completes, in the decoder's order."""
        if packet.is_corrupt:
            raise VideoError(f"{path}: damaged or cut short after frame {self.frames}{self.since}")
        self.packets += bool(packet.size)
        for frame in packet.decode():
            if frame.is_corrupt:
                raise VideoError(f"{path}: frame {self.frames}{self.since} is damaged")
            yield frame
            self.frames += 1


@contextlib.contextmanager
def _opened(path: str) -> Iterator[_Opened]:
    """Open a file's video, and turn what the container or the decoder meets into a `VideoError`."""
    av = require("av", extra="video")
    place = _find(path)
    if place.size == 0:
        raise VideoError(f"{path}: the file is empty")
    opened = None
    try:
        with av.open(place.url, metadata_errors="replace") as container:
            stream = _video_stream(av, path, container)
            # One thread a file: loaders run one process a core, and threads would not survive their fork.
            stream.codec_context.thread_type = "NONE"
            stream.codec_context.thread_count = 1
            if stream.codec_context.name == "mjpeg":
                # It otherwise fills what it cannot decode with what the memory held before, unmarked.
                stream.codec_context.options = {"err_detect": "explode"}
            opened = _Opened(container, stream, place)
            yield opened
    except VideoError:
        raise
    except (av.FFmpegError, OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        where = f" after frame {opened.frames}{opened.since}" if opened and opened.packets else ""
        raise VideoError(f"{path}: cannot be decoded{where} ({reason})") from error


def _decode(path: str, whole: bool = False) -> Iterator[Any]:
    """Yield every frame in the decoder's order; with ``whole``, check at the end that nothing was cut off."""
    with _opened(path) as opened:
        stream, place = opened.stream, opened.place
        indexed = _indexed_packets(opened.container, stream) if whole else 0
        ends = 0.0
        for packet in opened.container.demux(stream):
            if packet.size and packet.pts is not None:
                ends = max(ends, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            yield from opened.decode(packet, path)
        if opened.frames == 0:
            raise VideoError(f"{path}: holds no video frames")
        if opened.packets < indexed:
            raise VideoError(f"{path}: cut short, {opened.packets} of {indexed} coded frames are there")
        promised = promised_bytes(place.file, place.start) if whole else None
        if place.size < (promised or 0):
            raise VideoError(f"{path}: cut short, {place.size} of {promised} bytes are there")
        if whole and ends < _tagged_duration(stream) - 2 / float(stream.average_rate or 1):
            raise VideoError(f"{path}: cut short after {ends:.2f} s")


def _video_stream(av: Any, path: str, container: Any) -> Any:
    """Return the first stream that is a video and not an album's cover picture."""
    cover = av.stream.Disposition.attached_pic
    for stream in container.streams.video:
        if stream.disposition & cover:
            continue
        if stream.codec_context is None:
            raise VideoError(f"{path}: damaged, or coded in a way that FFmpeg has no decoder for")
        return stream
    raise VideoError(f"{path}: holds no video")


def _indexed_packets(container: Any, stream: Any) -> int:
    """Return how many coded frames the file's index promises, 0 where it has none.

    MP4 and AVI hold a complete index; for others it is a sparse list of key frames, which a whole file
    always reaches. An AVI that was cut short has lost its index, which stands at the end, but not its
    header's count.
    """
    indexed = sum(1 for entry in stream.index_entries if entry.size > 0)
    if container.format.name == "avi" and indexed <= 1:
        return int(stream.frames)
    return indexed


def _tagged_duration(stream: Any) -> float:
    """Return the seconds that a Matroska or WebM file's tag gives for this stream, 0 without one."""
    parts = stream.metadata.get("DURATION", "").split(":")
    try:
        hours, minutes, seconds = (float(part) for part in parts)
    except ValueError:
        return 0.0
    return hours * 3600 + minutes * 60 + seconds


class _Converter:
    """Decoded frames to upright RGB arrays of one size: that of the first frame, or a given short side."""

    def __init__(self, short_side: int | None) -> None:
        if short_side is not None and (not isinstance(short_side, int) or short_side < 1):
            raise ValueError(f"short_side must be a positive whole number or None, got {short_side!r}")
        self.short_side = short_side
        self.stored: tuple[int, int] | None = None  # (height, width) before the frame is turned upright
        self.flips = (False, False, False)
        self.reformatter = require("av", extra="video").video.reformatter.VideoReformatter()

    def see(self, frame: Any, path: str | os.PathLike[str]) -> None:
        """Take size and orientation from the first frame of a file."""
        if self.stored is not None:
            return
        height, width = frame.height, frame.width
        if self.short_side is not None:
            height, width = scaled_size(height, width, self.short_side, os.fspath(path))
        self.stored = (height, width)
        self.flips = _orientation(frame)

    @property
    def out_size(self) -> tuple[int, int]:
        """(height, width) of the arrays."""
        assert self.stored is not None
        height, width = self.stored
        return (width, height) if self.flips[0] else (height, width)

    def __call__(self, frame: Any) -> Frames:
        assert self.stored is not None
        height, width = self.stored
        scaler = None if self.short_side is None else "BICUBIC"
        rgb = self.reformatter.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=scaler, threads=1
        )
        array = rgb.to_ndarray()
        transpose, flip_x, flip_y = self.flips
        if transpose:
            array = array.transpose(1, 0, 2)
        if flip_x:
            array = array[:, ::-1]
        if flip_y:
            array = array[::-1]
        return np.ascontiguousarray(array)


def scaled_size(height: int, width: int, short_side: int, where: str = "frames") -> tuple[int, int]:
    """Return (height, width) scaled so that the shorter side is ``short_side`` and the shape is kept.

    Args:
        height: pixels.
        width: pixels.
        short_side: wanted pixels of the shorter side.
        where: the video, for the error.

    Returns:
        The new height and width; the longer side is rounded to the nearest pixel.

    Raises:
        VideoError: the longer side would be more than 16 times the shorter: no picture of a camera is, and a
            strip of 2 x 2048 pixels would come to gigabytes.

    Example:
        >>> scaled_size(240, 320, 120)
        (120, 160)
    """
    short = min(height, width)
    long = (2 * max(height, width) * short_side + short) // (2 * short)
    if long > 16 * short_side:
        raise VideoError(
            f"{where}: has frames of {width} x {height} pixels, the longer side is more than 16 times the shorter"
        )
    return (short_side, long) if height <= width else (long, short_side)


def _orientation(frame: Any) -> tuple[bool, bool, bool]:
    """Return (transpose, then flip x, then flip y) from the file's display matrix.

    The matrix (a b; c d) sends the point (x, y) to (a x + c y, b x + d y). Only quarter turns and mirrors are
    honoured; a file turned by another angle is read as it is stored.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return False, False, False
    a, b, _, c, d = (int(v) for v in np.frombuffer(bytes(data), dtype=np.int32)[:5])
    if b == c == 0 and a and d:
        return False, a < 0, d < 0
    if a == d == 0 and b and c:
        return True, c < 0, b < 0
    return False, False, False
