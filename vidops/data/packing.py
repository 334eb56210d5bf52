"""Packing videos into shards."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import TextIO

from .._files import replacing, write_text
from ._progress import Progress
from .formats.webdataset import shard_files
from .samples import AnnotationList, Sample
from .video import _find


def make_shards(
    annotations: AnnotationList,
    folder: str | os.PathLike[str],
    *,
    megabytes: float = 1000.0,
    out: TextIO | None = None,
) -> list[Path]:
    """Copy the videos of a list into WebDataset shards ``000000.tar``, ``000001.tar``, ..., beside a classes.txt.

    Sample ``<key>`` is ``<key>.mp4``, or what suffix the video has, ``<key>.cls`` with its class index and
    ``<key>.json`` with ``label``, ``class`` and the ``path`` it came from. They stand in the order of the list, which
    training need not care about: it draws from all shards. A shard is whole or not there.

    Args:
        annotations: the videos, in files or in other shards.
        folder: where the shards go.
        megabytes: a shard that has as many, of 10^6 bytes, is closed.
        out: where progress is shown: a bar if that is a terminal, else a line a minute.

    Returns:
        The shards.

    Raises:
        ValueError: an argument is out of range, the folder holds shards already, or a sample is a folder of frames.
        VideoError: a video is missing; nothing has been written.

    Example:
        >>> make_shards(AnnotationList([], None), "no/such/folder", megabytes=0)
        Traceback (most recent call last):
        ValueError: megabytes must be above 0, got 0
    """
    folder, samples = Path(folder), annotations.samples
    if not megabytes > 0:
        raise ValueError(f"megabytes must be above 0, got {megabytes:g}")
    there = shard_files(folder)
    if there:
        raise ValueError(f"{folder}: holds shards already, such as {there[0].name}; choose another folder")
    for sample in samples:
        if sample.frames is not None:
            raise ValueError(f"{sample.path}: is a folder of frames; shards hold video files")
        _find(sample.path)
    if annotations.classes is not None:
        write_text(folder / "classes.txt", "".join(f"{name}\n" for name in annotations.classes))
    written: list[Path] = []
    done = 0
    with Progress(len(samples), "pack", "video", out) as progress:
        while done < len(samples):
            written.append(folder / f"{len(written):06d}.tar")
            with replacing(written[-1]) as temporary, tarfile.open(temporary, "w") as tar:
                while done < len(samples) and tar.offset < 1e6 * megabytes:
                    _add(tar, f"{done:09d}", samples[done], annotations.classes)
                    done += 1
                    progress.update()
    return written


def _add(tar: tarfile.TarFile, key: str, sample: Sample, classes: list[str] | None) -> None:
    place = _find(sample.path)
    info = tarfile.TarInfo(key + Path(sample.path).suffix.lower())
    info.size = place.size
    with open(place.file, "rb") as file:
        file.seek(place.start)
        tar.addfile(info, file)
    content: dict[str, object] = {"label": sample.label, "path": sample.path}
    if classes is not None:
        content["class"] = classes[sample.label]
    for suffix, text in (("cls", str(sample.label)), ("json", json.dumps(content))):
        info = tarfile.TarInfo(f"{key}.{suffix}")
        info.size = len(text.encode())
        tar.addfile(info, io.BytesIO(text.encode()))
