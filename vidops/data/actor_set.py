"""The synthetic detection set: several actors a clip with several labels, most of which need the order of frames."""

from __future__ import annotations

import os
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np

from .._extras import require
from ._actor_scenes import ACTOR_LOOKS, ACTOR_PAIRS, Actor, draw_actors, render_actors
from ._progress import Progress
from ._scenes import load_photos
from ._writing import check_drawing, check_out, encode, is_count, new_folder, run_threads

# A clip stands for the seconds 900 to 904 of a film, and its middle is AVA's first key frame.
_SECONDS, _KEY = 4, "0902"
_SPLITS = ("train", "val")


def make_actors(
    out_dir: str | os.PathLike[str],
    *,
    train: int = 600,
    val: int = 120,
    excluded: int = 4,
    frames: int = 8,
    size: int = 64,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Write a small set for action detection as real mp4 files with lists like AVA's.

    In each clip two or three patches of photographs, the actors, move before another photograph. An actor goes
    left or right, up or down, grows or shrinks, one or two of these at once (`ACTOR_PAIRS`), and is round or
    square, bright or dark (`ACTOR_LOOKS`). Of the clips 2k and 2k + 1 each is the other played backwards, with the
    same boxes and the other label of every pair: neither the key frame nor an average over time tells these.
    The two frames in the middle of a clip show the same, so that the key frame is in the middle for both.

    ``out_dir`` receives ``videos/<split>_<number>.mp4``, one key frame each, and, all in AVA's formats,
    ``train.csv``, ``val.csv``, ``labels.pbtxt``, ``scored.pbtxt`` (without bright and dark), ``excluded.csv``
    (validation clips whose actors are not annotated) and ``train_proposals.csv``, ``val_proposals.csv`` (boxes as
    a detector finds them: shifted a little, some of them wrong, with scores). Read them with `read_actors`; sample
    all frames of a clip, or an even number of consecutive ones. All is written to a temporary folder beside
    ``out_dir`` that is renamed at the end.

    Args:
        out_dir: folder to make; it must not exist or be empty.
        train: number of training clips, even.
        val: number of validation clips, even.
        excluded: number of further validation clips whose key frame is excluded, even, may be 0.
        frames: frames of a clip, even.
        size: height and width, pixels, even, at least 32.
        seed: the same seed gives the same frames, whatever the counts and the workers.
        workers: threads; by default one a core.
        progress: show progress on standard error: a bar if that is a terminal, else a line a minute.

    Returns:
        The folder.

    Raises:
        ValueError: an argument is out of range or ``out_dir`` is not empty; nothing has been written.
        ImportError: scikit-image, PyAV, Pillow or, for a bar, tqdm is not installed.

    Source: ours; the lists' formats are those of Gu et al., AVA, CVPR 2018.

    Example:
        >>> make_actors("actors", train=5)
        Traceback (most recent call last):
        ValueError: train must be an even number of at least 2, got 5
    """
    limits = {"train": (train, 2), "val": (val, 2), "excluded": (excluded, 0), "frames": (frames, 4)}
    for name, (count, least) in (limits | {"size": (size, 32)}).items():
        if not is_count(count) or count < least or count % 2:
            raise ValueError(f"{name} must be an even number of at least {least}, got {count!r}")
    workers = check_drawing(frames, size, seed, workers)
    out = check_out(out_dir)
    load_photos()
    require("av", extra="video")
    shown = Progress(train + val + excluded, "make-actors", "clip", sys.stderr if progress else None)

    drawn: dict[tuple[int, int], list[Actor]] = {}

    def work(job: tuple[int, int]) -> int:
        split, number = job
        scene = draw_actors(np.random.default_rng((seed, split, number)), size)
        drawn[job] = scene.actors
        clip = render_actors(scene, frames)
        for i, ordered in enumerate((clip, clip[::-1])):
            name = f"{_SPLITS[split]}_{2 * number + i:05d}.mp4"
            encode(partial / "videos" / name, ordered, Fraction(frames, _SECONDS))
        return 2

    with new_folder(out) as partial:
        (partial / "videos").mkdir()
        jobs = [(0, number) for number in range(train // 2)]
        jobs += [(1, number) for number in range((val + excluded) // 2)]
        with shown:
            run_threads(work, jobs, workers, shown)
        _write_labels(partial)
        _write_boxes(partial, drawn, (train, val), size, seed)
    return Path(out_dir)


def _labels() -> list[str]:
    """Return all labels in the order of their numbers, which begin at 1."""
    return [name for pair in (*ACTOR_PAIRS.values(), *ACTOR_LOOKS.values()) for name in pair]


def _write_labels(folder: Path) -> None:
    """Write the label maps of all labels and of those that are evaluated."""
    for file, left_out in (("labels.pbtxt", ()), ("scored.pbtxt", ACTOR_LOOKS["light"])):
        items = [
            f'item {{\n  name: "{name}"\n  id: {number}\n}}\n'
            for number, name in enumerate(_labels(), 1)
            if name not in left_out
        ]
        (folder / file).write_text("".join(items), encoding="utf-8")


def _write_boxes(
    folder: Path, drawn: dict[tuple[int, int], list[Actor]], counts: tuple[int, int], size: int, seed: int
) -> None:
    """Write the lists of both splits; clips past the counts are not annotated."""
    names = _labels()
    texts: dict[str, list[str]] = {"excluded": []}
    for split, name in enumerate(_SPLITS):
        rows, proposals = texts.setdefault(name, []), texts.setdefault(f"{name}_proposals", [])
        scenes = [actors for (of, _), actors in sorted(drawn.items()) if of == split]
        for number in range(2 * len(scenes)):
            key, actors = f"{name}_{number:05d},{_KEY}", scenes[number // 2]
            proposals += [f"{key},{row}" for row in _proposals(actors, size, (seed, split, number))]
            if number >= counts[split]:
                texts["excluded"].append(key)
                continue
            for person, actor in enumerate(actors):
                labels = [names.index(label) + 1 for label in actor.labels(backwards=number % 2 == 1)]
                rows += [f"{key},{_text(actor.box(), size)},{label},{person}" for label in labels]
    for file, lines in texts.items():
        (folder / f"{file}.csv").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _proposals(actors: list[Actor], size: int, key: tuple[int, ...]) -> list[str]:
    """Return what a detector might find: each actor a little off, and every second time one that is not there."""
    generator = np.random.default_rng((*key, 1))
    rows = []
    for actor in actors:
        box = np.array(actor.box()) + generator.uniform(-0.08, 0.08, size=4) * actor.side
        rows.append(f"{_text(box.tolist(), size)},,{generator.uniform(0.8, 1):.3f}")
    if generator.integers(2):
        side = generator.uniform(0.2, 0.4)
        x, y = generator.uniform(0, 1 - side, size=2)
        box = np.array([x, y, x + side, y + side]) * size
        rows.append(f"{_text(box.tolist(), size)},,{generator.uniform(0.05, 0.6):.3f}")
    return rows


def _text(box: tuple[float, ...] | list[float], size: int) -> str:
    """Return a box as shares of the picture, as AVA writes them."""
    return ",".join(f"{min(max(edge / size, 0), 1):.3f}" for edge in box)
