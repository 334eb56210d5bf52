"""WebDataset: a folder of tar files, each sample a video and its label under one name."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from ..samples import VIDEO_SUFFIXES, AnnotationList
from ..shards import members
from ._format import Collector, Format, Request, label_of

# WebDataset's own rule: what stands before the first dot of the file's name says which sample it is of.
_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)")


def read(request: Request) -> AnnotationList:
    """Read the shards of a folder in the order of their names, and the samples of each in its own.

    A sample is ``<key>.<suffix of a video>`` and ``<key>.cls``, a class index or name, or ``<key>.json`` with a
    ``label``. The names of classes are those of a classes.txt, where there is one.
    """
    found = Collector(request)
    for shard in shard_files(request.source):
        with open(shard, "rb") as file:
            for key, files in _samples(shard).items():
                where = f"{shard}, sample {key}"
                videos = [name for suffix, (name, _, _) in files.items() if _is_video(suffix)]
                if len(videos) != 1:
                    raise ValueError(f"{where}: has {len(videos) or 'no'} video{'s'[: len(videos)]}")
                texts: dict[str, bytes] = {}
                for suffix in ("cls", "json"):
                    if suffix in files:
                        _, start, size = files[suffix]
                        file.seek(start)
                        texts[suffix] = file.read(size)
                found.add(shard / videos[0], label_of(_label(texts, where), request, where), where)
    return found.finish(request.names)


def shard_files(folder: Path) -> list[Path]:
    """List the shards of a folder.

    Args:
        folder: any folder.

    Returns:
        Its tar files in the order of their names, hidden ones left out.

    Example:
        >>> shard_files(Path("no/such/folder"))
        []
    """
    return sorted(path for path in folder.glob("*.tar") if path.is_file() and not path.name.startswith("."))


def _samples(shard: Path) -> dict[str, dict[str, tuple[str, int, int]]]:
    """Gather key -> suffix -> name, first byte and size."""
    found: dict[str, dict[str, tuple[str, int, int]]] = {}
    for name, (start, size) in members(shard).items():
        match = _NAME.fullmatch(name)
        if match is not None and not os.path.basename(name).startswith("."):
            found.setdefault(match[1], {})[match[2].lower()] = name, start, size
    return found


def _is_video(suffix: str) -> bool:
    return "." + suffix.rpartition(".")[2] in VIDEO_SUFFIXES


def _label(texts: dict[str, bytes], where: str) -> str:
    """Return the text of a sample's label."""
    try:
        if "cls" in texts:
            label: object = texts["cls"].decode("utf-8-sig").strip()
        elif "json" in texts:
            content = json.loads(texts["json"])
            label = content.get("label") if isinstance(content, dict) else None
        else:
            raise ValueError(f"{where}: has no label, neither .cls nor .json")
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{where}: its label cannot be read ({error})") from None
    if isinstance(label, bool) or not isinstance(label, (int, str)) or label == "":
        raise ValueError(f"{where}: its label is {label!r}, not a class index or name")
    return str(label)


def _matches(source: Path) -> bool:
    # Beside folders a tar file is rather what these were unpacked from.
    if not source.is_dir() or not shard_files(source):
        return False
    return not any(path.is_dir() and not path.name.startswith(".") for path in source.iterdir())


FORMAT = Format(
    "webdataset", "a folder of tar files with <key>.mp4 and <key>.cls", _matches, read, of_folder=True
)
