"""A folder with one sub-folder a class."""

from __future__ import annotations

from pathlib import Path

from ..samples import VIDEO_SUFFIXES, AnnotationList, Sample
from . import hmdb51
from ._format import Format, Request


def class_folders(source: Path) -> dict[str, list[Path]]:
    """List the video files of every class folder.

    Args:
        source: the folder of class folders; hidden folders and files are left out.

    Returns:
        Folder name -> its video files, both in alphabetical order.

    Raises:
        ValueError: there are no folders.
    """
    folders = sorted(p for p in source.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise ValueError(f"{source}: holds no class folders")
    return {
        folder.name: sorted(
            p
            for p in folder.iterdir()
            if p.is_file() and p.suffix.lower() in VIDEO_SUFFIXES and not p.name.startswith(".")
        )
        for folder in folders
    }


def read(request: Request) -> AnnotationList:
    """Read the folders in the order of the classes, alphabetical unless names are given."""
    source, names = request.source, request.names
    folders = class_folders(source)
    if names is None:
        names = list(folders)
        if request.num_classes is not None and len(names) != request.num_classes:
            raise ValueError(
                f"{source}: holds {len(names)} class folders, num_classes is {request.num_classes}"
            )
    for folder in folders:
        if folder not in names:
            raise ValueError(f"{source / folder}: {folder!r} is not one of the {len(names)} classes")
    samples = [Sample(str(p), i) for i, name in enumerate(names) for p in folders.get(name, [])]
    if not samples:
        raise ValueError(f"{source}: its class folders hold no video files")
    return AnnotationList(samples, names)


def _matches(source: Path) -> bool:
    return source.is_dir() and not hmdb51.FORMAT.matches(source)


FORMAT = Format("folder", "a folder with one sub-folder a class", _matches, read, of_folder=True)
