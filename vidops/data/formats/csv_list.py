"""``path,label``: the plainest list."""

from __future__ import annotations

import re
from pathlib import Path

from ..samples import AnnotationList
from . import ava, kinetics
from ._format import Collector, Format, Request, first_line, label_of, read_rows

_PATH_HEADERS = frozenset({"path", "video", "file", "filename", "video_path"})
_LABEL_HEADERS = {"label": None, "class": None, "class_name": "name", "class_index": "index"}


def read(request: Request) -> AnnotationList:
    """Read lines ``path,label``, the label an index or a name; a header and blank lines are allowed.

    The header ``path,class_name`` says that digits are names, ``path,class_index`` that they are indices. A path
    may also be a folder of frames, whose pictures are counted.
    """
    found = Collector(request)
    kind: str | None = None
    for line, (where, cells) in enumerate(read_rows(request.source)):
        if line == 0 and _is_header(cells):
            kind = _LABEL_HEADERS[cells[1].lower()]
            continue
        if len(cells) != 2:
            raise ValueError(f"{where}: expected 2 columns (path,label), found {len(cells)}")
        path, text = cells
        if not path or not text:
            raise ValueError(f"{where}: the {'label' if path else 'path'} is empty")
        video = request.root / path
        frames = request.frames if video.is_dir() else None
        found.add(video, label_of(text, request, where, kind), where, frames)
    return found.finish(request.names)


def _is_header(cells: list[str]) -> bool:
    return len(cells) == 2 and cells[0].lower() in _PATH_HEADERS and cells[1].lower() in _LABEL_HEADERS


def _matches(source: Path) -> bool:
    if not source.is_file() or source.suffix.lower() != ".csv":
        return False
    return not re.match(r"\d+;", first_line(source)) and not any(
        other.FORMAT.matches(source) for other in (ava, kinetics)
    )


FORMAT = Format("csv", "a .csv with lines path,label", _matches, read)
