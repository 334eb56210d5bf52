"""Something-Something v2: json lists and webm files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..samples import AnnotationList
from ._format import Collector, Format, Request, number, read_text
from ._id_label import one_labels_file, without_brackets


def read(request: Request) -> AnnotationList:
    """Read a list of ``{"id": ..., "template": ...}`` and the ``*labels.json`` beside it.

    The label of a video is its template without the brackets around placeholders. The videos are
    ``<id>.webm`` below the root, or where that is not there but a folder ``<id>`` is, its frames.
    """
    source = request.source
    labels = one_labels_file(source, "*labels.json")
    names = _names(request, labels)
    index = {name: i for i, name in enumerate(names)}
    entries = _json(source)
    if not isinstance(entries, list):
        raise ValueError(f"{source}: expected a list of videos")
    found = Collector(request)
    for position, entry in enumerate(entries):
        where = f"{source}, entry {position}"
        if not isinstance(entry, dict) or not entry.get("id"):
            raise ValueError(f"{where}: expected an id and a template")
        text = entry.get("template")
        if not isinstance(text, str):
            raise ValueError(f"{where}: has no template; test lists hold no labels")
        name = without_brackets(text)
        if name not in index:
            raise ValueError(f"{where}: {name!r} is not one of the {len(names)} classes of {labels.name}")
        video, folder = request.root / f"{entry['id']}.webm", request.root / str(entry["id"])
        if not video.exists() and folder.is_dir():
            found.add(folder, index[name], where, request.frames)
        else:
            found.add(video, index[name], where)
    return found.finish(names)


def _names(request: Request, labels: Path) -> list[str]:
    content = _json(labels)
    if not isinstance(content, dict):
        raise ValueError(f"{labels}: expected a number for each label")
    numbers = {
        without_brackets(name): number(str(i), "number", f"{labels}, {name!r}") for name, i in content.items()
    }
    if sorted(numbers.values()) != list(range(len(content))):
        raise ValueError(f"{labels}: its numbers are not 0 to {len(content) - 1}, each once")
    return request.class_names(sorted(numbers, key=lambda name: numbers[name]), labels)


def _json(file: Path) -> Any:
    try:
        return json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}, line {error.lineno}: is not JSON ({error.msg})") from None


def _matches(source: Path) -> bool:
    return source.is_file() and source.suffix.lower() == ".json" and not source.name.endswith("labels.json")


FORMAT = Format(
    "something_v2", "a .json of id and template, labels.json beside it, webm files", _matches, read
)
