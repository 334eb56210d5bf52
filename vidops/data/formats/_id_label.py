"""Lines ``id;label`` with a file of labels beside them: Something-Something v1 and Jester."""

from __future__ import annotations

import re
from pathlib import Path

from ..samples import AnnotationList
from ._format import Collector, Request, first_line, read_lines


def without_brackets(template: str) -> str:
    """Take the brackets around placeholders off a template, which is then its label.

    Args:
        template: for example ``"Putting [something] on a table"``.

    Returns:
        The label.

    Example:
        >>> without_brackets("Putting [something] on a table")
        'Putting something on a table'
    """
    return template.replace("[", "").replace("]", "")


def one_labels_file(source: Path, pattern: str) -> Path:
    """Find the file of labels beside a list.

    Args:
        source: the list.
        pattern: shell-style, of the wanted file.

    Returns:
        The file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: there are several.
    """
    files = sorted(file for file in source.parent.glob(pattern) if file != source)
    if not files:
        raise FileNotFoundError(
            f"{source.parent}: holds no {pattern}, which numbers the classes of {source.name}"
        )
    if len(files) > 1:
        raise ValueError(f"{source.parent}: holds several {pattern}: {', '.join(f.name for f in files)}")
    return files[0]


def read(request: Request) -> AnnotationList:
    """Read lines ``id;label``; the frames of a video lie in the folder ``id`` below the root.

    Classes are numbered by the lines of the one ``*labels.csv`` beside the list.
    """
    labels = one_labels_file(request.source, "*labels.csv")
    names = request.class_names([without_brackets(line) for _, line in read_lines(labels)], labels)
    index = {name: i for i, name in enumerate(names)}
    found = Collector(request)
    for where, line in read_lines(request.source):
        video, semicolon, text = line.partition(";")
        if not semicolon:
            raise ValueError(f"{where}: expected id;label, found {line!r}; test lists hold no labels")
        name = without_brackets(text.strip())
        if name not in index:
            raise ValueError(f"{where}: {name!r} is not one of the {len(names)} classes of {labels.name}")
        found.add(request.root / video.strip(), index[name], where, request.frames)
    return found.finish(names)


def matches(source: Path, word: str) -> bool:
    """Whether a file starts with ``id;`` and says in its name whose it is."""
    named = word in source.name.lower()
    return named and source.suffix.lower() == ".csv" and re.match(r"\d+;", first_line(source)) is not None
