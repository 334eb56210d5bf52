"""HMDB51: a folder of ``<class>_test_splitN.txt``, each line a video and 1 (train), 2 (test) or 0 (unused)."""

from __future__ import annotations

import re
from pathlib import Path

from ..samples import AnnotationList
from ._format import Collector, Format, Request, first_present, index_of, read_lines

_FILE = re.compile(r"(.+)_test_split([123])\.txt")
_FLAGS = {"train": {"1"}, "val": {"2"}, "all": {"1", "2"}}


def read(request: Request) -> AnnotationList:
    """Read the files of one split; the videos lie in class folders below the root, or all in the root."""
    source = request.source
    if request.subset is None:
        raise ValueError(f"{source}: the HMDB51 split files hold both subsets; say train or val")
    files = {}
    for file in sorted(source.iterdir()):
        match = _FILE.fullmatch(file.name)
        if match and int(match[2]) == request.split:
            files[match[1]] = file
    if not files:
        raise ValueError(f"{source}: holds no files <class>_test_split{request.split}.txt")
    names = request.names_or_sorted(set(files))
    found = Collector(request)
    for name, file in files.items():
        index = index_of(name, names, str(file))
        for where, line in read_lines(file):
            video, _, flag = line.rpartition(" ")
            if flag not in ("0", "1", "2") or not video:
                raise ValueError(f"{where}: expected `video.avi` and 0, 1 or 2, found {line!r}")
            if flag in _FLAGS[request.subset]:
                path = video.strip()
                found.add(first_present(request.root / name / path, request.root / path), index, where)
    return found.finish(names)


def _matches(source: Path) -> bool:
    return source.is_dir() and any(_FILE.fullmatch(file.name) for file in source.glob("*_test_split?.txt"))


FORMAT = Format("hmdb51", "the folder of the files <class>_test_split1.txt", _matches, read, of_folder=True)
