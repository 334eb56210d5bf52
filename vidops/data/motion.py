"""The motion dataset: classes in mirrored pairs that only the order of the frames tells apart.

Every motion is a cycle run through at a steady speed from a random phase: a patch of a photograph crosses
the picture and comes in again on the other side, turns, or grows to its largest size and starts small again.
A phase that is uniform at the start is uniform in every frame, so a single frame has the same distribution in
both classes of a pair, wherever in the clip it stands. A clip of the second class is a clip of the first
played backwards, frame for frame, so an average over time has the same distribution too. The files keep this:
every frame is coded alone, as a key frame, at the same quality.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .._extras import require
from ._progress import Progress
from ._scenes import MOTION_PAIRS, draw_scene, load_photos, render
from ._writing import check_drawing, check_out, check_shape, encode, is_count, new_folder, run_threads
from .video import Frames

_SPLITS = ("train", "val")
_RATE = 10  # frames a second of the files


def motion_clip(
    class_name: str, generator: np.random.Generator, *, frames: int = 8, size: int = 48
) -> Frames:
    """Draw one clip of the motion dataset.

    With generators in the same state, the clips of the two classes of a pair are each other's reversal.

    Args:
        class_name: one of the classes of ``MOTION_PAIRS``.
        generator: source of all randomness: textures, place, size, speed, phase.
        frames: number of frames.
        size: height and width, pixels.

    Returns:
        uint8 array (frames, size, size, 3), RGB.

    Raises:
        ValueError: there is no such class, or frames or size is too small.
        ImportError: scikit-image or Pillow is not installed.

    Example:
        >>> "left" in MOTION_PAIRS["horizontal"]
        True
    """
    check_shape(frames, size)
    for pair, (first, second) in MOTION_PAIRS.items():
        if class_name in (first, second):
            clip = render(draw_scene(pair, generator, frames, size), size)
            return clip if class_name == first else np.ascontiguousarray(clip[::-1])
    known = ", ".join(name for names in MOTION_PAIRS.values() for name in names)
    raise ValueError(f"class_name: no motion class {class_name!r}; there are {known}")


def make_motion(
    out_dir: str | os.PathLike[str],
    *,
    pairs: Sequence[str] | int = 4,
    train: int = 2400,
    val: int = 400,
    frames: int = 8,
    size: int = 48,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Write the motion dataset as real mp4 files with annotation lists.

    ``out_dir`` receives ``train.csv``, ``val.csv`` (``path,label``), ``classes.txt`` and
    ``videos/<class>/<split>_<number>.mp4``. The classes are equally frequent, and the clips of a pair's two
    classes that have the same number are each other's reversal, so an average over time learns nothing within
    a pair. Sample them with ``UniformSampling(..., symmetric=True)`` and do not flip them. All is written to
    a temporary folder beside ``out_dir`` that is renamed at the end.

    Args:
        out_dir: folder to make; it must not exist or be empty.
        pairs: names from ``MOTION_PAIRS``, or how many of them from the first on.
        train: number of training clips, a multiple of the number of classes.
        val: number of validation clips, likewise.
        frames: frames of a clip.
        size: height and width, pixels, even.
        seed: the same seed gives the same frames, whatever the other counts and the workers.
        workers: threads; by default one a core.
        progress: show progress on standard error: a bar if that is a terminal, else a line a minute.

    Returns:
        The folder.

    Raises:
        ValueError: an argument is out of range or ``out_dir`` is not empty; nothing has been written.
        ImportError: scikit-image, PyAV, Pillow or, for a bar, tqdm is not installed.

    Example:
        >>> make_motion("motion", pairs=["sideways"])
        Traceback (most recent call last):
        ValueError: pairs: no pair 'sideways'; there are horizontal, vertical, zoom, rotation, diagonal, \
antidiagonal, fade
    """
    names = _check_pairs(pairs)
    classes = [name for pair in names for name in MOTION_PAIRS[pair]]
    for name, count in (("train", train), ("val", val)):
        if not is_count(count) or count < 1 or count % len(classes):
            raise ValueError(
                f"{name} must be a multiple of the number of classes ({len(classes)}) above 0, got {count!r}"
            )
    workers = check_drawing(frames, size, seed, workers)
    out = check_out(out_dir)
    load_photos()
    require("av", extra="video")
    shown = Progress(train + val, "make-motion", "clip", sys.stderr if progress else None)

    with new_folder(out) as partial:
        jobs = _prepare(partial, names, {"train": train, "val": val}, classes)
        with shown:
            _write_clips(partial, jobs, frames, size, seed, workers, shown)
    return Path(out_dir)


def _check_pairs(pairs: Sequence[str] | int) -> list[str]:
    if isinstance(pairs, int):
        if not is_count(pairs) or not 1 <= pairs <= len(MOTION_PAIRS):
            raise ValueError(f"pairs must be 1 to {len(MOTION_PAIRS)} or a list of names, got {pairs!r}")
        return list(MOTION_PAIRS)[:pairs]
    names = [pairs] if isinstance(pairs, str) else list(pairs)
    for name in names:
        if name not in MOTION_PAIRS:
            raise ValueError(f"pairs: no pair {name!r}; there are {', '.join(MOTION_PAIRS)}")
    if not names or len(set(names)) != len(names):
        raise ValueError(f"pairs must name each pair once, got {names!r}")
    return names


@dataclass(frozen=True)
class _Job:
    """One scene and the two files it becomes, relative to the dataset's folder."""

    pair: str
    key: tuple[int, int, int]  # split, pair, number
    files: tuple[str, str]


def _prepare(folder: Path, pairs: list[str], counts: dict[str, int], classes: list[str]) -> list[_Job]:
    """Make the folders and the lists, and return what is to be drawn."""
    for name in classes:
        (folder / "videos" / name).mkdir(parents=True)
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
    jobs = []
    for split, count in counts.items():
        each = count // len(classes)
        lines = ["path,label"]
        for label, name in enumerate(classes):
            lines += [f"videos/{name}/{split}_{number:05d}.mp4,{label}" for number in range(each)]
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for pair in pairs:
            first, second = (f"videos/{name}/{split}_" for name in MOTION_PAIRS[pair])
            for number in range(each):
                key = (_SPLITS.index(split), list(MOTION_PAIRS).index(pair), number)
                jobs.append(_Job(pair, key, (f"{first}{number:05d}.mp4", f"{second}{number:05d}.mp4")))
    return jobs


def _write_clips(
    folder: Path, jobs: list[_Job], frames: int, size: int, seed: int, workers: int, shown: Progress
) -> None:
    """Draw and encode all clips in threads."""

    def work(job: _Job) -> int:
        generator = np.random.default_rng((seed, *job.key))
        clip = render(draw_scene(job.pair, generator, frames, size), size)
        for file, ordered in zip(job.files, (clip, clip[::-1]), strict=True):
            encode(folder / file, ordered, _RATE)
        return len(job.files)

    run_threads(work, jobs, workers, shown)
