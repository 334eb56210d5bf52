"""UCF101: ``trainlist0N.txt`` and ``testlist0N.txt`` beside ``classInd.txt``."""

from __future__ import annotations

import re
from pathlib import Path

from ..samples import AnnotationList
from ._format import Collector, Format, Request, first_present, index_of, number, read_lines


def read(request: Request) -> AnnotationList:
    """Read lines ``Class/v_Class_g01_c01.avi [number]``; a number counts from 1 and must be the class's.

    The videos lie in class folders below the root, or all in the root.
    """
    names = _class_ind(request)
    found = Collector(request)
    for where, line in read_lines(request.source):
        path, _, label = line.partition(" ")
        folder, slash, name = path.rpartition("/")
        if not slash or not name:
            raise ValueError(f"{where}: expected Class/video.avi and perhaps a number, found {line!r}")
        index = index_of(folder.rpartition("/")[2], names, where)
        if label and number(label.strip(), "label", where, least=1) != index + 1:
            raise ValueError(
                f"{where}: label {label.strip()} is not that of {names[index]!r}, which is {index + 1}"
            )
        found.add(first_present(request.root / path, request.root / name), index, where)
    return found.finish(names)


def _class_ind(request: Request) -> list[str]:
    file = request.source.parent / "classInd.txt"
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; it numbers the classes of {request.source.name}")
    names: list[str] = []
    for where, line in read_lines(file):
        position, _, name = line.partition(" ")
        if number(position, "number", where) != len(names) + 1 or not name.strip():
            raise ValueError(f"{where}: expected `{len(names) + 1} Name`, found {line!r}")
        names.append(name.strip())
    return request.class_names(names, file)


def _matches(source: Path) -> bool:
    return source.is_file() and re.fullmatch(r"(train|test)list0?\d\.txt", source.name) is not None


FORMAT = Format("ucf101", "trainlist01.txt or testlist01.txt beside classInd.txt", _matches, read)
