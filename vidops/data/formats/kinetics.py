"""Kinetics-400 and Mini-Kinetics: ``label,youtube_id,time_start,time_end,split``."""

from __future__ import annotations

from pathlib import Path

from ..samples import AnnotationList
from ._format import Collector, Format, Request, first_line, index_of, index_videos, number, read_rows

_COLUMNS = ("label", "youtube_id", "time_start", "time_end")
_TRAIN, _VAL, _TEST = {"train", "training"}, {"val", "valid", "validate", "validation"}, {"test", "testing"}


def read(request: Request) -> AnnotationList:
    """Read the csv and find each clip on disk, wherever below the root it lies.

    A clip is ``<id>_<start>_<end>`` with the seconds on six digits or bare, or ``<id>`` alone, with any suffix
    of a video. Where several files have the name, the one in the folder of the clip's class is meant (its
    name with blanks or underscores); what lies in another class's folder is never taken. Classes are the
    list's own, sorted, unless names are given. A list is filtered by the request's subset; where ``val``
    is asked for and the list has none, its test split is taken.
    """
    source = request.source
    rows = _rows(request)
    names = request.names_or_sorted({row["label"] for _, row in rows})
    index = {name: i for i, name in enumerate(names)}
    files = index_videos(request.root)
    folders: dict[str, set[str]] = {}
    for name in names:
        for folder in (name, name.replace(" ", "_")):
            folders.setdefault(folder, set()).add(name)
    found = Collector(request)
    for where, row in _of_subset(rows, request, source):
        label = index[row["label"]] if row["label"] in index else index_of(row["label"], names, where)
        found.add(_file(row, files, folders, request.root, where), label, where)
    return found.finish(names)


def _rows(request: Request) -> list[tuple[str, dict[str, str]]]:
    rows: list[tuple[str, dict[str, str]]] = []
    header: list[str] = []
    for where, cells in read_rows(request.source):
        if not header:
            header = [cell.lower() for cell in cells]
            lacking = [column for column in _COLUMNS if column not in header]
            if lacking:
                raise ValueError(f"{where}: the header lacks {', '.join(lacking)}")
            continue
        if len(cells) != len(header):
            raise ValueError(f"{where}: expected {len(header)} columns, found {len(cells)}")
        row = dict(zip(header, cells, strict=True))
        empty = [column for column in _COLUMNS if not row[column]]
        if empty:
            raise ValueError(f"{where}: the {empty[0]} is empty")
        rows.append((where, row))
    if not rows:
        raise ValueError(f"{request.source}: the list is empty")
    return rows


def _of_subset(
    rows: list[tuple[str, dict[str, str]]], request: Request, source: Path
) -> list[tuple[str, dict[str, str]]]:
    splits = {row.get("split", "").lower() for _, row in rows}
    if splits == {""} or request.subset == "all" or (len(splits) == 1 and request.subset is None):
        return rows
    if request.subset is None:
        raise ValueError(f"{source}: holds the splits {', '.join(sorted(splits))}; say which one is meant")
    for where, row in rows:
        if row["split"].lower() not in _TRAIN | _VAL | _TEST:
            raise ValueError(f"{where}: the split {row['split']!r} is none of train, val and test")
    wanted = _TRAIN if request.subset == "train" else _VAL if splits & _VAL else _TEST
    kept = [(where, row) for where, row in rows if row["split"].lower() in wanted]
    if not kept:
        raise ValueError(f"{source}: holds no {request.subset} split, only {', '.join(sorted(splits))}")
    return kept


def _file(
    row: dict[str, str], files: dict[str, list[Path]], folders: dict[str, set[str]], root: Path, where: str
) -> Path:
    video = row["youtube_id"]
    start, end = (round_seconds(row[column], column, where) for column in ("time_start", "time_end"))
    stem = f"{video}_{start:06d}_{end:06d}"
    for name in (stem, f"{video}_{start}_{end}", video):
        owned = [(path, _classes_of(path, folders, root)) for path in files.get(name, [])]
        own = [path for path, classes in owned if row["label"] in classes]
        candidates = own or [path for path, classes in owned if not classes]
        if len(candidates) > 1:
            raise ValueError(f"{where}: both {candidates[0]} and {candidates[1]} have the clip's name")
        if candidates:
            return candidates[0]
    return root / row["label"] / f"{stem}.mp4"


def _classes_of(path: Path, folders: dict[str, set[str]], root: Path) -> set[str]:
    """Return the classes whose folder a file lies in, the innermost one; none if it lies in no class's."""
    parts = path.relative_to(root).parts[:-1]
    return next((folders[part] for part in reversed(parts) if part in folders), set())


def round_seconds(text: str, what: str, where: str) -> int:
    """Read seconds, which some copies of the lists give as 12.0.

    Args:
        text: a whole number, with or without zeros after a point.
        what: the column.
        where: the line.

    Returns:
        The number.

    Example:
        >>> round_seconds("12.0", "time_start", "a.csv, line 2")
        12
    """
    whole, point, rest = text.partition(".")
    return number(whole if point and not rest.strip("0") else text, what, where)


def _matches(source: Path) -> bool:
    header = [cell.strip().lower() for cell in first_line(source).split(",")]
    return source.suffix.lower() == ".csv" and all(column in header for column in _COLUMNS)


FORMAT = Format("kinetics", "a .csv with the header label,youtube_id,time_start,time_end", _matches, read)
