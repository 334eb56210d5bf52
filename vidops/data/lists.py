"""Lists for one's own videos: a folder of classes split into training and validation."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from .._files import replacing
from .check import BrokenVideo, check_videos
from .formats._format import read_lines
from .formats.folder import class_folders
from .samples import Sample

NAMES = ("train.csv", "val.csv", "classes.txt")


@dataclass(frozen=True)
class Lists:
    """What `make_lists` wrote.

    Args:
        folder: where train.csv, val.csv and classes.txt lie.
        classes: class names.
        train: training videos of each class.
        val: validation videos of each class.
        broken: videos left out.
        copies: files left out, each with the one in a list that has the same bytes.
    """

    folder: Path
    classes: list[str]
    train: list[int]
    val: list[int]
    broken: list[BrokenVideo]
    copies: list[tuple[Path, Path]]


def make_lists(
    folder: str | os.PathLike[str],
    *,
    out_dir: str | os.PathLike[str] | None = None,
    share: float = 0.2,
    seed: int = 0,
    skip_broken: bool = False,
    full: bool = False,
    workers: int = 0,
    out: TextIO | None = None,
) -> Lists:
    """Split a folder with one sub-folder a class into ``train.csv`` and ``val.csv``, beside a ``classes.txt``.

    A class's videos lie in its folder, or in folders below it. Every class is split by itself: ``share`` of its
    videos, rounded, but at least one and not all, are validation videos: those whose hash of seed, class and
    file name is lowest, so that other classes change nothing and another file moves at most one or two to the
    other list. Classes are in alphabetical order, or in that of a classes.txt in the folder, which must name
    the same. Of files with the same bytes, which browsers and phones leave as "a (1).mp4", one alone stands in
    a list, that with the shortest name: apart, they would be trained and measured on. Each video is opened and
    its first frame decoded before anything is written; paths in the lists are relative to them.

    Args:
        folder: the class folders.
        out_dir: where the lists go; by default into ``folder``.
        share: of each class's videos that are for validation, above 0 and below 1.
        seed: of the split.
        skip_broken: leave videos out that cannot be read, instead of refusing.
        full: decode each video to its end, which finds those that are cut short or damaged, too.
        workers: processes that check the videos; 0 checks in this one.
        out: where progress is shown, as by `check_videos`.

    Returns:
        The numbers of videos, and which were left out and why.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: an argument is out of range, a list exists already, a class has fewer than two videos, or
            videos cannot be read, two classes hold files with the same bytes, or a name cannot stand in a
            list; nothing has been written.

    Example:
        >>> make_lists("no/such/folder")
        Traceback (most recent call last):
        FileNotFoundError: no/such/folder: no such folder
    """
    folder = Path(folder)
    target = Path(out_dir) if out_dir is not None else folder
    if not 0 < share < 1:
        raise ValueError(f"share must be above 0 and below 1, got {share:g}")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed must be a whole number of at least 0, got {seed!r}")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: {'is not a folder' if folder.exists() else 'no such folder'}")
    for name in NAMES[:2] if target == folder else NAMES:
        if (target / name).exists():
            raise ValueError(f"{target / name}: exists; move it away to make new lists")
    folders = class_folders(folder)
    _refuse_names(folder, folders, target)
    classes = _classes(folder, list(folders))
    empty = [name for name in classes if not folders[name]]
    if empty:
        raise ValueError(f"{folder}: no videos in the class folders {', '.join(empty)}")
    samples = [Sample(str(p), i) for i, name in enumerate(classes) for p in folders[name]]
    broken = check_videos(samples, workers, quick=not full, out=out)
    if broken and not skip_broken:
        raise ValueError(f"{len(broken)} of {len(samples)} videos are broken: {_first(broken)}")
    unusable = {video.path for video in broken}
    kept = [[p for p in folders[name] if str(p) not in unusable] for name in classes]
    kept, copies = _without_copies(kept)
    few = [f"{name} ({len(files)})" for name, files in zip(classes, kept, strict=True) if len(files) < 2]
    if few:
        raise ValueError(
            f"{folder}: a split needs two videos a class; fewer can be read of {', '.join(few)}"
            + (f"; broken: {_first(broken)}" if broken else "")
            + (f"; {len(copies)} are copies, first {copies[0][0]} of {copies[0][1]}" if copies else "")
        )
    parts = [_split(folder / name, files, share, seed) for name, files in zip(classes, kept, strict=True)]
    heading = "class_index" if any(name.isdigit() for name in classes) else "label"
    texts = {
        "train.csv": _csv([train for train, _ in parts], target, heading),
        "val.csv": _csv([val for _, val in parts], target, heading),
        "classes.txt": "".join(f"{name}\n" for name in classes),
    }
    with contextlib.ExitStack() as stack:  # all are written before any gets its name; train.csv is the last
        for name, text in texts.items():
            stack.enter_context(replacing(target / name)).write_text(text, encoding="utf-8")
    return Lists(target, classes, [len(a) for a, _ in parts], [len(b) for _, b in parts], broken, copies)


def _refuse_names(folder: Path, folders: dict[str, list[Path]], target: Path) -> None:
    """Refuse names that a list's reader would not give back: it takes blanks off, line by line, in UTF-8."""
    written = [(name, folder / name) for name in folders]
    written += [(_entry(path, target), path) for files in folders.values() for path in files]
    for text, path in written:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{str(path)!a}: the name is not in UTF-8; rename it") from None
        if text.strip() != text or len(text.splitlines()) != 1:
            raise ValueError(f"{str(path)!r}: a name with outer blanks or line breaks; rename it")


def _first(broken: list[BrokenVideo]) -> str:
    return "; ".join(video.reason for video in broken[:10]) + ("; ..." if len(broken) > 10 else "")


def _classes(folder: Path, found: list[str]) -> list[str]:
    """Return the folders' names in the order of a classes.txt, which must name the same."""
    file = folder / "classes.txt"
    names = [line for _, line in read_lines(file)] if file.is_file() else found
    if sorted(names) != sorted(found):
        differing = ", ".join(sorted(set(names) ^ set(found))) or "a name given twice"
        raise ValueError(f"{file}: does not name the class folders beside it: {differing}")
    return names


def _without_copies(classes: list[list[Path]]) -> tuple[list[list[Path]], list[tuple[Path, Path]]]:
    """Take files out that have the bytes of another one, and pair each with that one."""
    sizes = Counter(path.stat().st_size for files in classes for path in files)
    first: dict[bytes, tuple[Path, int]] = {}
    copies: dict[Path, Path] = {}
    for label, files in enumerate(classes):
        for path in sorted(files, key=lambda path: (len(path.name), path)):
            if sizes[path.stat().st_size] == 1:
                continue
            same, other = first.setdefault(_digest(path), (path, label))
            if other != label:
                raise ValueError(f"{path}: has the bytes of {same}, which is of another class; remove one")
            if same != path:
                copies[path] = same
    return [[path for path in files if path not in copies] for files in classes], sorted(copies.items())


def _digest(path: Path) -> bytes:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()


def _split(folder: Path, files: list[Path], share: float, seed: int) -> tuple[list[Path], list[Path]]:
    """Return the training and the validation videos of a class, each in the order of the files."""
    count = min(max(1, round(share * len(files))), len(files) - 1)

    def rank(path: Path) -> bytes:
        return hashlib.sha256(os.fsencode(f"{seed}/{path.relative_to(folder.parent).as_posix()}")).digest()

    chosen = set(sorted(files, key=rank)[:count])
    return [p for p in files if p not in chosen], [p for p in files if p in chosen]


def _entry(path: Path, target: Path) -> str:
    return Path(os.path.relpath(path, target)).as_posix()


def _csv(files: list[list[Path]], target: Path, heading: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", heading])
    for label, paths in enumerate(files):
        writer.writerows([_entry(path, target), label] for path in paths)
    return text.getvalue()
