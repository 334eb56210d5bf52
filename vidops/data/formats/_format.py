"""What the readers of annotation formats share: the request, reading text, labels, missing videos."""

from __future__ import annotations

import csv
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from .._search import video_files
from ..samples import AnnotationList, FrameFolder, Sample
from ..shards import in_shard

log = logging.getLogger("vidops.data")

_DIGITS = re.compile(r"[+-]?[0-9]+")
_SHOWN = 3  # missing videos that an error names


@dataclass(frozen=True)
class Request:
    """What is to be read.

    Args:
        source: the list, or the folder that holds it.
        root: folder that the videos' paths start from.
        names: class names that the caller or a classes.txt gives.
        num_classes: bound of the labels where there are no names.
        subset: ``"train"``, ``"val"`` or ``"all"`` of a source that holds several; None asks which.
        split: 1, 2 or 3, of the formats with three splits in one folder.
        missing: ``"error"``, ``"skip"`` (left out and logged) or ``"keep"`` for videos that are not there.
        frames: how the pictures of a frame folder are named.
    """

    source: Path
    root: Path
    names: list[str] | None = None
    num_classes: int | None = None
    subset: str | None = None
    split: int = 1
    missing: str = "error"
    frames: FrameFolder = field(default_factory=FrameFolder)

    @cached_property
    def index(self) -> dict[str, int]:
        """Class name -> its index, of the given names."""
        return {name: i for i, name in enumerate(self.names or [])}

    @cached_property
    def numbers(self) -> dict[int, str]:
        """Number -> the given name that is this number; the last one of names such as 1 and 01."""
        return {int(name): name for name in self.names or [] if _DIGITS.fullmatch(name)}

    def class_names(self, own: Sequence[str], where: Path) -> list[str]:
        """Return a format's own class names, which nothing else may contradict."""
        names = list(own)
        if not names:
            raise ValueError(f"{where}: no class names")
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{where}: class {twice!r} is named twice")
        if self.names is not None and self.names != names:
            raise ValueError(
                f"{where}: its {len(names)} classes are not the {len(self.names)} that are given"
            )
        if self.num_classes is not None and self.num_classes != len(names):
            raise ValueError(f"{where}: names {len(names)} classes, num_classes is {self.num_classes}")
        return names

    def names_or_sorted(self, seen: set[str]) -> list[str]:
        """Return the given class names, or those of a list without an order of its own, sorted."""
        return self.names if self.names is not None else self.class_names(sorted(seen), self.source)


@dataclass(frozen=True)
class Format:
    """One annotation format; a module of this package that has a ``FORMAT`` is found by itself.

    Args:
        name: what ``data.format`` says.
        about: what the source looks like, for errors and help.
        matches: whether a source is surely of this format, by its name and first line.
        read: reads it.
        of_folder: the source is a folder, not a file.
    """

    name: str
    about: str
    matches: Callable[[Path], bool]
    read: Callable[[Request], AnnotationList]
    of_folder: bool = False

    def check_kind(self, source: Path) -> None:
        """Raise if the source is a folder and the format a file, or the other way round.

        Args:
            source: an existing file or folder.

        Raises:
            ValueError: names the source and what it should be.
        """
        if source.is_dir() != self.of_folder:
            kind = "folder" if source.is_dir() else "file"
            raise ValueError(f"{source}: is a {kind}, the format {self.name} is {self.about}")


class Collector:
    """Gathers samples and what is missing of them.

    Args:
        request: says what to do about missing videos.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.samples: list[Sample] = []
        self.missing: list[str] = []
        self._labels: dict[str, tuple[int, str]] = {}  # path -> label and the line that gave it
        self._again: list[str] = []  # lines that name a video once more

    def add(self, path: Path, label: int, where: str, frames: FrameFolder | None = None) -> None:
        """Take a video, present or not.

        Args:
            path: video file, or folder of frames.
            label: class index.
            where: the line, for the error.
            frames: names of a folder's frames.

        Raises:
            ValueError: an earlier line gives the same video another label.
        """
        before, line = self._labels.setdefault(os.path.normpath(path), (label, where))
        if line != where:
            self._again.append(f"{where}: {path}, as in {line}")
        if before != label:
            raise ValueError(f"{where}: label {label} for {path}, which has label {before} in {line}")
        if frames is None:
            present, kind = path.is_file() or in_shard(path), "file"
        else:
            present, kind = path.is_dir(), "folder"
        if not present:
            self.missing.append(f"{where}: no such {kind} {path}")
            if self.request.missing != "keep":
                return
        self.samples.append(Sample(str(path), label, frames))

    def finish(self, classes: list[str] | None) -> AnnotationList:
        """Return the list; that a video is listed more than once is logged.

        Args:
            classes: class names, or None.

        Raises:
            FileNotFoundError: videos are missing and may not be, or all are.
            ValueError: the list is empty.
        """
        source = self.request.source
        report_missing(source, self.missing, len(self.samples), self.request.missing)
        if not self.samples:
            raise ValueError(f"{source}: the list is empty")
        if self._again:
            log.warning(
                "%s: %d of %d lines name a video once more, which then counts twice: %s%s",
                source,
                len(self._again),
                len(self._labels) + len(self._again),
                "; ".join(self._again[:_SHOWN]),
                "; ..." if len(self._again) > _SHOWN else "",
            )
        return AnnotationList(self.samples, classes)


def report_missing(source: Path, missing: Sequence[str], present: int, rule: str) -> None:
    """Raise or log that videos of a list are not there.

    Args:
        source: the list.
        missing: a line of each missing video.
        present: number of those that are there.
        rule: ``"error"``, ``"skip"`` (they were left out, which is logged) or ``"keep"``.

    Raises:
        FileNotFoundError: videos are missing and may not be, or all are.
    """
    if not missing or rule == "keep":
        return
    named = "; ".join(missing[:_SHOWN]) + ("; ..." if len(missing) > _SHOWN else "")
    text = f"{source}: {len(missing)} of {present + len(missing)} videos are missing: {named}"
    if rule == "error" or not present:
        raise FileNotFoundError(missing[0] if len(missing) == 1 else text)
    log.warning("left out: %s", text)


def read_text(file: Path) -> str:
    """Read a text file in UTF-8.

    Args:
        file: the file, with or without a byte order mark.

    Returns:
        Its text.

    Raises:
        ValueError: the file is not in UTF-8; the text names it.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file}: not a text file in UTF-8 ({error.reason} at byte {error.start})"
        ) from error


def read_lines(file: Path) -> Iterator[tuple[str, str]]:
    """Yield (``"file, line n"``, stripped line) for each line that is not blank.

    Args:
        file: a text file in UTF-8.

    Yields:
        Place and text.
    """
    for number, line in enumerate(read_text(file).splitlines(), 1):
        if line.strip():
            yield f"{file}, line {number}", line.strip()


def read_rows(file: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield (``"file, line n"``, stripped cells) for each row of a csv file that is not blank.

    Args:
        file: a csv file in UTF-8 with commas.

    Yields:
        Place and cells.
    """
    reader = csv.reader(read_text(file).splitlines(keepends=True), skipinitialspace=True, strict=True)
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield f"{file}, line {reader.line_num}", cells
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num}: {error}") from error


def first_line(source: Path) -> str:
    """Return the first line of a file that is not blank, whatever its encoding; empty for a folder.

    Args:
        source: a file or folder.

    Returns:
        The stripped line, at most its first 64 KiB.
    """
    if not source.is_file():
        return ""
    with open(source, encoding="utf-8-sig", errors="replace") as file:
        for _ in range(1000):
            line = file.readline(1 << 16)
            if line.strip() or not line:
                return line.strip()
    return ""


def number(text: str, what: str, where: str, least: int = 0) -> int:
    """Read a whole number.

    Args:
        text: digits.
        what: what it is, for the error.
        where: the line, for the error.
        least: smallest number allowed.

    Returns:
        The number.

    Raises:
        ValueError: no number, or too small.
    """
    if not _DIGITS.fullmatch(text):
        raise ValueError(f"{where}: the {what} {text!r} is not a whole number")
    value = int(text)
    if value < least:
        raise ValueError(f"{where}: {what} {value} is {'negative' if least == 0 else f'below {least}'}")
    return value


def label_of(text: str, request: Request, where: str, kind: str | None = None) -> int:
    """Return the class index that a label's text stands for; digits are an index.

    Args:
        text: a class name or an index.
        request: gives names and their number.
        where: the line, for the error.
        kind: ``"index"`` or ``"name"`` where the list says which it is.

    Returns:
        The index.

    Raises:
        ValueError: the name is none of the classes, the index is out of range, or digits are an index of one
            class and the name of another.
    """
    names = request.names
    limit = request.num_classes if request.num_classes is not None else len(names) if names else None
    if kind == "name" or not _DIGITS.fullmatch(text):
        if kind == "index":
            raise ValueError(f"{where}: the class index {text!r} is not a whole number")
        if names is None:
            raise ValueError(
                f"{where}: label {text!r} is a name, but no classes.txt beside the list (nor classes=)"
                " numbers the names"
            )
        return request.index[text] if text in request.index else index_of(text, names, where)
    label = number(text, "label", where)
    named = request.numbers.get(label) if kind is None else None
    if named is not None and names is not None and request.index[named] != label:
        index = f"{names[label]!r}, the class of index {label}" if label < len(names) else "an index"
        raise ValueError(
            f"{where}: the label {text} may be {index}, or the class named {named!r}; a csv with the header"
            " path,class_index or path,class_name says which"
        )
    if limit is not None and label >= limit:
        raise ValueError(f"{where}: label {label} is past the last of {limit} classes (0 to {limit - 1})")
    return label


def index_of(name: str, names: Sequence[str], where: str) -> int:
    """Return the index of a class name.

    Args:
        name: the name.
        names: all names.
        where: the line, for the error.

    Returns:
        Index from 0.

    Raises:
        ValueError: there is no such class.
    """
    try:
        return names.index(name)
    except ValueError:
        raise ValueError(f"{where}: {name!r} is not one of the {len(names)} classes") from None


def first_present(*candidates: Path) -> Path:
    """Return the first path that exists, else the first.

    Args:
        candidates: paths a video may lie at.

    Returns:
        One of them.
    """
    return next((path for path in candidates if path.exists()), candidates[0])


def index_videos(root: Path) -> dict[str, list[Path]]:
    """Find every video file below a folder.

    Args:
        root: the folder; hidden folders and files are left out, and a folder that links lead to again is
            gone through once.

    Returns:
        Stem of the file name -> the files that have it, sorted.
    """
    found: dict[str, list[Path]] = {}
    for path in video_files(root):
        found.setdefault(path.stem, []).append(path)
    return found
