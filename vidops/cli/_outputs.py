"""Files that a command writes after long work: looked at before it."""

from __future__ import annotations

import os
from pathlib import Path


def writable(option: str, text: str, *, new_folder: bool = False) -> Path:
    """The file to write, checked before anything is measured.

    Args:
        option: the option that names it, for the error's text.
        text: the path.
        new_folder: whether its folder may still have to be made.

    Raises:
        ValueError: it is a folder, lies in none, or cannot be written.
    """
    path = Path(text)
    if path.is_dir():
        raise ValueError(f"{option} {path} is a folder; name a file")
    folder = path.absolute().parent
    if new_folder:
        while not folder.exists():
            folder = folder.parent
    if not folder.is_dir():
        raise ValueError(f"{option}: there is no folder {folder}")
    if not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise ValueError(f"{option} {path} cannot be written")
    return path
