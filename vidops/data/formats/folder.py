"""A folder with one sub-folder a class; what lies deeper belongs to the class too."""

from __future__ import annotations

from pathlib import Path

from .._search import video_files
from ..samples import AnnotationList, Sample
from . import hmdb51, webdataset
from ._format import Format, Request

_PARTS = {"train", "training", "val", "valid", "validate", "validation", "test", "testing"}


def class_folders(source: Path) -> dict[str, list[Path]]:
    """List the video files of every class folder, those in its sub-folders included.

    Args:
        source: the folder of class folders; hidden folders and files are left out. A link to another class's
            folder is not followed.

    Returns:
        Folder name -> its video files, both in alphabetical order.

    Raises:
        ValueError: there are no folders, or they are those of a split and not of classes.
    """
    folders = sorted(p for p in source.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise ValueError(f"{source}: holds no class folders")
    names = [folder.name for folder in folders]
    if _PARTS.issuperset(name.lower() for name in names):
        raise ValueError(
            f"{source}: its folders are {', '.join(names)}, the parts of a split; expected one folder a class"
        )
    return {
        folder.name: video_files(folder, apart=[source, *(other for other in folders if other != folder)])
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
    others = hmdb51.FORMAT, webdataset.FORMAT
    return source.is_dir() and not any(other.matches(source) for other in others)


FORMAT = Format("folder", "a folder with one sub-folder a class", _matches, read, of_folder=True)
