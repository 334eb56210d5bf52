"""Lists of the TSN and TSM code: ``path num_frames label`` for frame folders, ``path label`` for videos."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from ..samples import AnnotationList
from . import ucf101
from ._format import Collector, Format, Request, first_line, label_of, number, read_lines

_THREE = re.compile(r"(.+?)\s+([+-]?\d+)\s+(\S+)")
_TWO = re.compile(r"(.+?)\s+(\S+)")


def read(request: Request) -> AnnotationList:
    """Read the lines, all of three columns or all of two; blanks in a path are allowed.

    With three columns a path is a folder of ``num_frames`` pictures, or a video file, whose own count then
    holds. With two it is a video file, or a folder whose pictures are counted.
    """
    lines = list(read_lines(request.source))
    three = bool(lines) and _THREE.fullmatch(lines[0][1]) is not None
    found = Collector(request)
    for where, line in lines:
        match = (_THREE if three else _TWO).fullmatch(line)
        if match is None:
            columns = "path num_frames label" if three else "path label"
            raise ValueError(f"{where}: expected {columns}, found {line!r}")
        path, label = request.root / match[1], label_of(match[match.re.groups], request, where)
        count = number(match[2], "number of frames", where, least=1) if three else None
        # With three columns what is not there is taken for a folder, as the format was made for those.
        folder = path.is_dir() or (three and not path.is_file())
        found.add(path, label, where, replace(request.frames, count=count) if folder else None)
    return found.finish(request.names)


def _matches(source: Path) -> bool:
    if source.suffix.lower() != ".txt" or ucf101.FORMAT.matches(source):
        return False
    return re.fullmatch(r"\S.*\s[+-]?\d+", first_line(source)) is not None


FORMAT = Format("tsm", "a .txt with lines path num_frames label, or path label", _matches, read)
