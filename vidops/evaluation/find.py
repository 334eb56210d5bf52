"""Which videos are meant by files, folders, patterns and lists of them."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from vidops.data.samples import VIDEO_SUFFIXES

PICTURE_SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".bmp", ".webp"])


def find_videos(sources: Sequence[str | os.PathLike[str]], *, lists: Sequence[str | Path] = ()) -> list[str]:
    """Find the videos that files, folders, patterns and lists stand for.

    A folder stands for the video files in it and in its sub-folders; one that holds pictures and no video
    file is itself a video, written out frame by frame. Hidden files and folders are left out.

    Args:
        sources: files, folders, or patterns such as ``"clips/**/*.mp4"``; a file need not exist.
        lists: text files with one source a line, relative to the current folder; ``"-"`` is standard input.

    Returns:
        Paths in the order of the sources, those of a folder or pattern by name; each once.

    Raises:
        FileNotFoundError: a list is missing.
        ValueError: a folder holds no video, a pattern matches nothing, or a list is no text.

    Example:
        >>> find_videos(["b.mp4", "a.mp4", "./b.mp4"])
        ['b.mp4', 'a.mp4']
    """
    found: dict[str, None] = {}
    named = [os.fspath(source) for source in sources] + [line for file in lists for line in _lines(file)]
    for source in named:
        for path in _expand(source):
            found.setdefault(os.path.normpath(path))
    return list(found)


def _lines(file: str | Path) -> list[str]:
    if str(file) == "-":
        return [line.strip() for line in sys.stdin if line.strip()]
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(
            f"list {path}: no such file" if not path.exists() else f"list {path}: is no file"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"list {path}: not a text file in UTF-8 (byte {error.start})") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"list {path}: names no video")
    return lines


def _expand(source: str) -> Iterable[str]:
    # A file whose name looks like a pattern is that file.
    if not os.path.lexists(source) and glob.has_magic(source):
        matches = sorted(glob.glob(source, recursive=True))
        videos = [video for match in matches if _may_be_video(match) for video in _expand(match)]
        if not videos:
            raise ValueError(f"pattern {source}: matches no video")
        return videos
    if not os.path.isdir(source):
        return [source]
    videos = list(_walk(source))
    if not videos:
        raise ValueError(f"{source}: the folder holds no video")
    return videos


def _may_be_video(match: str) -> bool:
    if os.path.isdir(match):
        return any(_walk(match))
    return os.path.splitext(match)[1].lower() in VIDEO_SUFFIXES


def _walk(folder: str) -> Iterator[str]:
    """Give a folder's videos: its own files by name, then those of its sub-folders."""
    with os.scandir(folder) as entries:
        shown = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)
    files = [entry for entry in shown if entry.is_file()]
    videos = [e.path for e in files if os.path.splitext(e.name)[1].lower() in VIDEO_SUFFIXES]
    if not videos and any(os.path.splitext(e.name)[1].lower() in PICTURE_SUFFIXES for e in files):
        yield folder
        return
    yield from videos
    for entry in shown:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path)
