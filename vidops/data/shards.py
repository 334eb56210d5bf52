"""Videos inside tar files, the shards of WebDataset: where each lies, and what FFmpeg is given to open it.

A shard is a tar file that is not compressed. A video in it has the path ``<shard>.tar/<name>`` wherever a video's
path is asked for, and is read in place: FFmpeg sees its bytes of the shard alone, nothing is unpacked. A shard's
table of contents is read once in each process. So videos in shards are found, ordered, shuffled, shared among ranks
and resumed as files are, while a disk or a network holds some thousands of large files in place of millions.
"""

from __future__ import annotations

import os
import stat
import tarfile
from dataclasses import dataclass

BLOCK = 512  # of a tar file


@dataclass(frozen=True)
class Place:
    """Where the bytes of a video are.

    Args:
        url: what FFmpeg opens.
        file: the file that holds them, the video's own or a shard.
        start: first byte in that file.
        size: how many there are.
        changed: when the file was, in nanoseconds.
    """

    url: str
    file: str
    start: int
    size: int
    changed: int


def locate(path: str) -> Place:
    """Find a video's bytes.

    Args:
        path: a video file, or ``<shard>.tar/<name>``.

    Returns:
        Where they are.

    Raises:
        OSError: there is no such file, or no such name in the shard.
        ValueError: it is no file, or the shard is damaged.

    Example:
        >>> locate("no_such_file.mp4")
        Traceback (most recent call last):
        FileNotFoundError: [Errno 2] No such file or directory: 'no_such_file.mp4'
    """
    full = os.path.abspath(path)
    try:
        status = os.stat(path)
    except NotADirectoryError:
        shard, name = _split(full)
        if shard is None:
            raise
        status = os.stat(shard)
        if name not in members(shard):
            raise FileNotFoundError(f"{shard} holds no {name}") from None
        start, size = members(shard)[name]
        return Place(
            f"subfile,,start,{start},end,{start + size},,:{shard}", shard, start, size, status.st_mtime_ns
        )
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a file")
    # An absolute path, so that a name such as "data:1.mp4" is never taken for a protocol.
    return Place(full, full, 0, status.st_size, status.st_mtime_ns)


def in_shard(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path is that of something inside a shard that is there.

    Args:
        path: any path.

    Raises:
        ValueError: the shard is damaged.

    Example:
        >>> in_shard("clips/a.mp4")
        False
    """
    shard, name = _split(os.path.abspath(path))
    return shard is not None and name in members(shard)


# (shard, size, time of change) -> name -> first byte, size
_CONTENTS: dict[tuple[str, int, int], dict[str, tuple[int, int]]] = {}


def members(shard: str | os.PathLike[str]) -> dict[str, tuple[int, int]]:
    """Read the table of contents of a shard; it is remembered for as long as the file does not change.

    Args:
        shard: a tar file.

    Returns:
        Name -> first byte and size, in the order of the shard.

    Raises:
        OSError: there is no such file.
        ValueError: it is no tar file, compressed, damaged or cut short.

    Example:
        >>> members("no_such_file.tar")
        Traceback (most recent call last):
        FileNotFoundError: [Errno 2] No such file or directory: 'no_such_file.tar'
    """
    shard = os.fspath(shard)
    status = os.stat(shard)
    key = os.path.abspath(shard), status.st_size, status.st_mtime_ns
    if key not in _CONTENTS:
        _CONTENTS[key] = _read_contents(shard)
    return _CONTENTS[key]


def _read_contents(shard: str) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    try:
        with open(shard, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            while (info := tar.next()) is not None:
                if info.isreg():
                    found[os.path.normpath(info.name)] = info.offset_data, info.size
                tar.members = []  # type: ignore[attr-defined]  # it would keep them all
            # Reading ends without a word where a file is cut or no longer makes sense; a whole one ends with zeros.
            file.seek(tar.offset)
            whole = file.read(BLOCK) == bytes(BLOCK)
    except tarfile.TarError as error:
        raise ValueError(f"{shard}: is no whole tar file ({error}); shards are not compressed") from None
    if not whole:
        raise ValueError(f"{shard}: is no whole tar file (cut short or damaged after {len(found)} files)")
    return found


def _split(path: str) -> tuple[str | None, str]:
    """Return the shard that a path leads into, None without one, and the name inside."""
    at = path.find(".tar/")
    while at >= 0:
        if os.path.isfile(path[: at + 4]):
            return path[: at + 4], path[at + 5 :]
        at = path.find(".tar/", at + 1)
    return None, ""
