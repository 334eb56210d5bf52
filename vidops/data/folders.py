"""Frame-exact reading of folders of pictures with Pillow: a video whose frames were written out."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .._extras import require
from .samples import FrameFolder
from .video import Frames, VideoError, _check_indices, _Info, scaled_size


def count_frames(path: str | os.PathLike[str], frames: FrameFolder) -> int:
    """Count the frames of a folder: as its list says, else by its pictures, which must have no gap.

    Args:
        path: the folder.
        frames: how its pictures are named.

    Returns:
        The number of frames, at least 1.

    Raises:
        VideoError: the folder is missing or empty, or a number between the first and the last is missing.

    Example:
        >>> count_frames("no/such/folder", FrameFolder())
        Traceback (most recent call last):
        vidops.data.video.VideoError: no/such/folder: no such folder
    """
    folder = Path(path)
    if not folder.is_dir():
        raise VideoError(f"{folder}: {'is not a folder' if folder.exists() else 'no such folder'}")
    if frames.count is not None:
        return frames.count
    with os.scandir(folder) as entries:
        names = {entry.name for entry in entries}
    numbers = sorted(set(frame_numbers(names, frames)))
    if not numbers:
        raise VideoError(f"{folder}: holds no frames named {frames.template}")
    expected = range(frames.first, frames.first + len(numbers))
    for number, wanted in zip(numbers, expected, strict=True):
        if number < frames.first:
            raise VideoError(
                f"{folder}: holds {frames.template.format(number)}, but frames are numbered from {frames.first}"
            )
        if number != wanted:
            raise VideoError(f"{folder / frames.template.format(wanted)}: the frame is missing")
    return len(numbers)


def frame_numbers(names: Iterable[str], frames: FrameFolder) -> Iterator[int]:
    """Read the numbers of those files that are named like frames.

    Args:
        names: file names without their folder.
        frames: how pictures are named.

    Yields:
        The number in each name that the template gives, in the order of the names.

    Example:
        >>> list(frame_numbers(["00002.jpg", "poster.jpg", "00001.png"], FrameFolder()))
        [2]
    """
    for name in names:
        for digits in re.findall(r"\d+", name):
            if frames.template.format(int(digits)) == name:
                yield int(digits)


def sample_folder(
    path: str | os.PathLike[str],
    frames: FrameFolder,
    choose: Callable[[_Info], Sequence[int] | npt.NDArray[np.int64]],
    short_side: int | None = None,
) -> tuple[Frames, npt.NDArray[np.int64]]:
    """Read the frames of a folder that ``choose`` picks once their number is known.

    Args:
        path: the folder.
        frames: how its pictures are named and how many they are.
        choose: given number and size of the frames, returns the wanted indices.
        short_side: resize so that the shorter side has this many pixels; None keeps the pictures' size.

    Returns:
        The frames, uint8 (n, H, W, 3) RGB, and their indices, int64 (n,).

    Raises:
        VideoError: a wanted picture is missing, broken or of another size than the first.
        ValueError: ``choose`` returned an index outside the folder.

    Example:
        >>> sample_folder("no/such/folder", FrameFolder(), lambda info: [0])
        Traceback (most recent call last):
        vidops.data.video.VideoError: no/such/folder: no such folder
    """
    folder = Path(path)
    count = count_frames(folder, frames)
    first = _read_picture(folder / frames.name(0))
    height, width = first.shape[:2]
    size = (height, width) if short_side is None else scaled_size(height, width, short_side, str(folder))
    indices = np.asarray(choose(_Info(count, *size)), dtype=np.int64)
    wanted = _check_indices(indices)
    if max(wanted) >= count:
        raise ValueError(
            f"indices: frame {max(wanted)} is past the end of {folder}, which has {count} frames"
        )
    pictures: dict[int, Frames] = {}
    for i in sorted(set(wanted)):
        file = folder / frames.name(i)
        picture = first if i == 0 else _read_picture(file)
        _same_size(file, picture, first)
        pictures[i] = _resized(picture, size)
    return np.stack([pictures[i] for i in wanted]), indices


def check_folder(path: str | os.PathLike[str], frames: FrameFolder, *, quick: bool = False) -> None:
    """Read every picture of a folder, or with ``quick`` the first one.

    Args:
        path: the folder.
        frames: how its pictures are named and how many they are.
        quick: read the first picture only.

    Raises:
        VideoError: a picture is missing, broken or of another size than the first.

    Example:
        >>> check_folder("no/such/folder", FrameFolder())
        Traceback (most recent call last):
        vidops.data.video.VideoError: no/such/folder: no such folder
    """
    count = count_frames(path, frames)
    first = _read_picture(Path(path) / frames.name(0))
    for i in range(1, 1 if quick else count):
        file = Path(path) / frames.name(i)
        _same_size(file, _read_picture(file), first)


def _read_picture(file: Path) -> Frames:
    """Read a picture upright as uint8 (H, W, 3) RGB."""
    image = require("PIL.Image", extra="video")
    upright = require("PIL.ImageOps", extra="video").exif_transpose
    try:
        with image.open(file) as picture:
            if picture.mode[0] in "IF":  # Pillow would clip them at 255
                raise ValueError(f"its pixels have more than 8 bits, mode {picture.mode}")
            return np.array(upright(picture).convert("RGB"))
    except FileNotFoundError:
        raise VideoError(f"{file}: the frame is missing") from None
    except Exception as error:  # Pillow raises whatever its decoders meet: OSError, SyntaxError, struct.error
        if isinstance(error, MemoryError):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise VideoError(f"{file}: cannot be read ({reason.replace(repr(str(file)), 'the file')})") from error


def _same_size(file: Path, picture: Frames, first: Frames) -> None:
    (height, width), (h, w) = first.shape[:2], picture.shape[:2]
    if (height, width) != (h, w):
        raise VideoError(f"{file}: is {w}x{h}, the first frame {width}x{height}")


def _resized(picture: Frames, size: tuple[int, int]) -> Frames:
    if picture.shape[:2] == size:
        return picture
    image: Any = require("PIL.Image", extra="video")
    resized = image.fromarray(picture).resize((size[1], size[0]), image.Resampling.BICUBIC)
    return np.array(resized)
