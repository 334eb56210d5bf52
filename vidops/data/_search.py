"""The video files below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from .samples import VIDEO_SUFFIXES


def video_files(folder: str | os.PathLike[str], apart: Iterable[str | os.PathLike[str]] = ()) -> list[Path]:
    """Find the video files of a folder and of the folders in it, those that links lead to included.

    Args:
        folder: any folder; hidden files and folders are left out, and one that links lead to again is gone
            through once.
        apart: folders that are not entered, whichever way they are reached.

    Returns:
        The files in the order of their paths.

    Example:
        >>> video_files("no/such/folder")
        []
    """
    found: list[Path] = []
    seen = {os.path.realpath(other) for other in apart}
    for where, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(where, name)
            for name in files
            if os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES and not name.startswith(".")
        ]
    return sorted(path for path in found if path.is_file())
