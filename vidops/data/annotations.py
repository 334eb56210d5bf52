"""Annotation lists: which videos there are and which class each shows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from .formats import Request, find_format
from .formats._format import read_text
from .samples import VIDEO_SUFFIXES, AnnotationList, FrameFolder, Sample

__all__ = ["VIDEO_SUFFIXES", "AnnotationList", "FrameFolder", "Sample", "read_annotations"]


def read_annotations(
    source: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    format: str = "auto",
    num_classes: int | None = None,
    classes: Sequence[str] | None = None,
    subset: str | None = None,
    split: int = 1,
    missing: str = "error",
    frames: FrameFolder | None = None,
) -> AnnotationList:
    """Read the list of a dataset as its makers give it; the formats are those of ``vidops.data.formats``.

    Paths are relative to ``root`` or, without it, to the list's own folder. Where a format has no class names
    of its own they are taken from ``classes``, else from ``classes.txt`` (one name a line) beside the list, in
    ``root`` or in the folder of classes; a folder without it has its sub-folders as classes in alphabetical
    order. A label of a csv is a class index or a name. The videos are not opened here.

    Args:
        source: the list, or a folder with one sub-folder a class, or HMDB51's folder of split files.
        root: folder that the videos' paths start from.
        format: name of a format; ``"auto"`` looks at the name and the first line and says so if it cannot tell.
        num_classes: the number of classes that labels must stay below; by default as many as there are names.
        classes: class names in the order of their indices.
        subset: ``"train"``, ``"val"`` or ``"all"``, for a list that holds both (HMDB51, some of Kinetics).
        split: 1, 2 or 3, which of HMDB51's splits.
        missing: what to do about videos that are not there: ``"error"``, ``"skip"`` (left out and logged) or
            ``"keep"``.
        frames: names of the pictures in frame folders; by default 00001.jpg, 00002.jpg, ...

    Returns:
        The samples in the order of the list; folders in the order of class and file name.

    Raises:
        FileNotFoundError: ``source``, ``root`` or a listed video does not exist.
        ValueError: the list is empty or a line is wrong; the text names the file and the line.

    Example:
        >>> read_annotations("no/such/list.csv")
        Traceback (most recent call last):
        FileNotFoundError: no/such/list.csv: no such annotation file or folder
    """
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such annotation file or folder")
    if root is not None and not Path(root).is_dir():
        raise FileNotFoundError(f"root: {root} is not a folder")
    for name, value, known in (
        ("subset", subset, (None, "train", "val", "all")),
        ("split", split, (1, 2, 3)),
        ("missing", missing, ("error", "skip", "keep")),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(map(str, known))}, got {value!r}")
    reader = find_format(source, format)
    reader.check_kind(source)
    folder = source if source.is_dir() else source.parent
    names = _class_names(classes, [folder] if root is None else [folder, Path(root)])
    if num_classes is not None:
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        if names is not None and len(names) != num_classes:
            raise ValueError(f"{source}: num_classes is {num_classes} but {len(names)} classes are named")
    if reader.name == "folder" and root is not None:
        raise ValueError(f"root is for lists, {source} is a folder of classes")
    return reader.read(
        Request(
            source=source,
            root=Path(root) if root is not None else folder,
            names=names,
            num_classes=num_classes,
            subset=subset,
            split=split,
            missing=missing,
            frames=frames or FrameFolder(),
        )
    )


def _refuse_other_names(classes: list[str], folders: Iterable[Path]) -> None:
    """Labels are numbers of the names in classes.txt: under other names they would be silently wrong."""
    for folder in folders:
        file = folder / "classes.txt"
        if file.is_file():
            own = [line.strip() for line in read_text(file).splitlines() if line.strip()]
            if own != classes:
                raise ValueError(
                    f"{file}: names {', '.join(own)}; expected {', '.join(classes)}, in this order"
                )
            return


def _class_names(classes: Sequence[str] | None, folders: Iterable[Path]) -> list[str] | None:
    """Return the given names, else those of the first classes.txt, else None."""
    where = "classes"
    if classes is None:
        files = [folder / "classes.txt" for folder in folders]
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            return None
        where = str(file)
        classes = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    elif isinstance(classes, str):
        raise TypeError(f"classes must be a list of names, got the text {classes!r}")
    else:
        _refuse_other_names(list(classes), folders)
    names = list(classes)
    if not names:
        raise ValueError(f"{where}: no class names")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{where}: class {twice!r} is named twice")
    return names
