"""Which videos are meant by files, folders, patterns and lists of them."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from vidops.data.folders import frame_numbers
from vidops.data.samples import VIDEO_SUFFIXES, FrameFolder
from vidops.data.shards import members


def find_videos(
    sources: Sequence[str | os.PathLike[str]],
    *,
    lists: Sequence[str | Path] = (),
    frames: FrameFolder | None = None,
) -> list[str]:
    """Find the videos that files, folders, patterns and lists stand for.

    A tar file stands for the videos in it, whose paths are ``<shard>.tar/<name>``. A folder stands for the
    video files in it and in its sub-folders; one without any that holds pictures named like frames is itself
    a video, written out frame by frame. Linked folders are entered, each folder once. Hidden files and folders
    are left out.

    Args:
        sources: files, folders, or patterns such as ``"clips/**/*.mp4"``; a file need not exist.
        lists: text files with one source a line, relative to the current folder; ``"-"`` is standard input.
        frames: how the pictures of a frame folder are named; None takes those of ``FrameFolder()``.

    Returns:
        Paths in the order of the sources, those of a folder or pattern by name, linked folders last; each
        once.

    Raises:
        FileNotFoundError: a list is missing.
        ValueError: a folder or tar file holds no video, a pattern matches nothing, or a list is no text.

    Example:
        >>> find_videos(["b.mp4", "a.mp4", "./b.mp4"])
        ['b.mp4', 'a.mp4']
    """
    found: dict[str, None] = {}
    named = [os.fspath(source) for source in sources] + [line for file in lists for line in _lines(file)]
    for source in named:
        for path in _expand(source, frames or FrameFolder()):
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


def _expand(source: str, frames: FrameFolder) -> list[str]:
    # A file whose name looks like a pattern is that file.
    if not os.path.lexists(source) and glob.has_magic(source):
        matches = sorted(glob.glob(source, recursive=True))
        videos = [video for match in matches for video in _expand_match(match, frames)]
        if not videos:
            raise ValueError(f"pattern {source}: matches no video")
        return videos
    if not os.path.isdir(source):
        return _of_shard(source) if _is_shard(source) else [source]
    videos = _walk(source, frames, set())
    if not videos:
        raise ValueError(f"{source}: the folder holds no video, nor frames named {frames.template}")
    return videos


def _expand_match(match: str, frames: FrameFolder) -> list[str]:
    if os.path.isdir(match):
        return _walk(match, frames, set())
    if _is_shard(match):
        return _of_shard(match)
    return [match] if _is_video(match) else []


def _is_shard(path: str) -> bool:
    return path.endswith(".tar") and os.path.isfile(path)


def _of_shard(shard: str) -> list[str]:
    videos = [os.path.join(shard, name) for name in members(shard) if _is_video(name)]
    if not videos:
        raise ValueError(f"{shard}: the shard holds no video")
    return videos


def _is_video(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def _walk(folder: str, frames: FrameFolder, entered: set[str]) -> list[str]:
    """Give a folder's videos: its own files by name, then those of its sub-folders."""
    real = os.path.realpath(folder)
    if real in entered:
        return []
    entered.add(real)
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not entry.name.startswith(".")]
    # A folder that is linked to from beside it goes by its own name.
    shown.sort(key=lambda entry: (entry.is_dir() and entry.is_symlink(), entry.name))
    names = [entry.name for entry in shown if entry.is_file()]
    videos = [os.path.join(folder, name) for name in names if _is_video(name)]
    for entry in shown:
        if entry.is_dir():
            videos += _walk(entry.path, frames, entered)
    if not videos and any(True for _ in frame_numbers(names, frames)):
        return [folder]
    return videos
