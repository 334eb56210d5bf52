"""Annotation lists: which video files there are and which class each shows."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

VIDEO_SUFFIXES = frozenset(
    [".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp", ".ogv"]
)

_PATH_HEADERS = frozenset({"path", "video", "file", "filename", "video_path"})
_LABEL_HEADERS = frozenset({"label", "class", "class_name", "class_index"})


@dataclass(frozen=True)
class Sample:
    """One video file and the index of its class.

    Args:
        path: the video file.
        label: class index, from 0.

    Example:
        >>> Sample("clips/a.mp4", 3).label
        3
    """

    path: str
    label: int


@dataclass(frozen=True)
class AnnotationList:
    """The samples of a dataset and, where they are known, the names of its classes.

    Args:
        samples: the samples in the order of the list.
        classes: name of class 0, 1, ...; None where labels are bare numbers.

    Example:
        >>> AnnotationList([Sample("a.mp4", 2)], None).num_classes
        3
    """

    samples: list[Sample]
    classes: list[str] | None

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    @property
    def num_classes(self) -> int:
        """The number of class names, or where there are none the highest label plus one."""
        return len(self.classes) if self.classes is not None else 1 + max(s.label for s in self.samples)


def read_annotations(
    source: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    num_classes: int | None = None,
    classes: Sequence[str] | None = None,
) -> AnnotationList:
    """Read a folder with one sub-folder a class, or a csv file with the columns ``path,label``.

    In a csv file a label is a class index or a class name, a header line and blank lines are allowed, and
    paths are relative to ``root`` or, without it, to the csv's own folder. Class names are taken from
    ``classes``, else from ``classes.txt`` (one name a line) beside the csv, in ``root`` or in the folder of
    classes; a folder without it has its sub-folders as classes in alphabetical order. The video files are not
    opened here.

    Args:
        source: the folder or the csv file.
        root: folder that relative paths of a csv start from.
        num_classes: the number of classes that labels must stay below; by default as many as there are names.
        classes: class names in the order of their indices.

    Returns:
        The samples, folders in the order of class and file name, csv files in the order of their lines.

    Raises:
        FileNotFoundError: ``source``, ``root`` or a listed file does not exist.
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
    folder = source if source.is_dir() else source.parent
    names = _class_names(classes, [folder] if root is None else [folder, Path(root)])
    if num_classes is not None:
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        if names is not None and len(names) != num_classes:
            raise ValueError(f"{source}: num_classes is {num_classes} but {len(names)} classes are named")
    if source.is_dir():
        if root is not None:
            raise ValueError(f"root is for csv files, {source} is a folder of classes")
        return _read_folder(source, names, num_classes)
    return _read_csv(source, Path(root) if root is not None else folder, names, num_classes)


def _refuse_other_names(classes: list[str], folders: Iterable[Path]) -> None:
    """Labels are numbers of the names in classes.txt: under other names they would be silently wrong."""
    for folder in folders:
        file = folder / "classes.txt"
        if file.is_file():
            own = [line.strip() for line in _read_text(file).splitlines() if line.strip()]
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
        classes = [line.strip() for line in _read_text(file).splitlines() if line.strip()]
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


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file}: not a text file in UTF-8 ({error.reason} at byte {error.start})"
        ) from error


def _read_folder(source: Path, names: list[str] | None, num_classes: int | None) -> AnnotationList:
    folders = sorted(p.name for p in source.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise ValueError(f"{source}: holds no class folders")
    if names is None:
        names = folders
        if num_classes is not None and len(names) != num_classes:
            raise ValueError(f"{source}: holds {len(names)} class folders, num_classes is {num_classes}")
    samples = []
    for folder in folders:
        if folder not in names:
            raise ValueError(f"{source / folder}: {folder!r} is not one of the {len(names)} classes")
        label = names.index(folder)
        files = sorted(
            str(p)
            for p in (source / folder).iterdir()
            if p.is_file() and p.suffix.lower() in VIDEO_SUFFIXES and not p.name.startswith(".")
        )
        samples += [(label, Sample(file, label)) for file in files]
    if not samples:
        raise ValueError(f"{source}: its class folders hold no video files")
    samples.sort(key=lambda item: item[0])  # stable: file order within a class is kept
    return AnnotationList([sample for _, sample in samples], names)


def _read_csv(source: Path, root: Path, names: list[str] | None, num_classes: int | None) -> AnnotationList:
    limit = num_classes if num_classes is not None else len(names) if names is not None else None
    index = {name: i for i, name in enumerate(names or [])}
    samples: list[Sample] = []
    first = True
    reader = csv.reader(_read_text(source).splitlines(keepends=True), skipinitialspace=True, strict=True)
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            where = f"{source}, line {reader.line_num}"
            header, first = first and _is_header(cells), False
            if header:
                continue
            if len(cells) != 2:
                raise ValueError(f"{where}: expected 2 columns (path,label), found {len(cells)}")
            path, text = cells
            if not path or not text:
                raise ValueError(f"{where}: the {'label' if path else 'path'} is empty")
            label = _label(text, index, limit, where, named=names is not None)
            file = root / path
            if not file.is_file():
                raise FileNotFoundError(f"{where}: no such file {file}")
            samples.append(Sample(str(file), label))
    except csv.Error as error:
        raise ValueError(f"{source}, line {reader.line_num}: {error}") from error
    if not samples:
        raise ValueError(f"{source}: the list is empty")
    return AnnotationList(samples, names)


def _is_header(cells: list[str]) -> bool:
    return len(cells) == 2 and cells[0].lower() in _PATH_HEADERS and cells[1].lower() in _LABEL_HEADERS


def _label(text: str, index: dict[str, int], limit: int | None, where: str, named: bool) -> int:
    """Return the class index that a label's text stands for; digits are always an index."""
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        if text in index:
            return index[text]
        if named:
            raise ValueError(f"{where}: {text!r} is not one of the {len(index)} classes")
        raise ValueError(
            f"{where}: label {text!r} is a name, but no classes.txt beside the list (nor classes=) numbers the names"
        )
    label = int(text)
    if label < 0:
        raise ValueError(f"{where}: label {label} is negative")
    if limit is not None and label >= limit:
        raise ValueError(f"{where}: label {label} is past the last of {limit} classes (0 to {limit - 1})")
    return label
