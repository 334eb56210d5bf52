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
import shutil
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .._extras import require
from ._progress import Progress
from ._scenes import MOTION_PAIRS, draw_scene, load_photos, render
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
    _check_shape(frames, size)
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
        if not _is_count(count) or count < 1 or count % len(classes):
            raise ValueError(
                f"{name} must be a multiple of the number of classes ({len(classes)}) above 0, got {count!r}"
            )
    _check_shape(frames, size)
    if size % 2:
        raise ValueError(f"size must be even, got {size}")
    if not _is_count(seed) or seed < 0:
        raise ValueError(f"seed must be a whole number of at least 0, got {seed!r}")
    if workers is None:
        workers = _cores()
    elif not _is_count(workers) or workers < 1:
        raise ValueError(f"workers must be a whole number of at least 1, got {workers!r}")
    out = Path(os.path.abspath(out_dir))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out_dir: {out_dir} exists and is not an empty folder")
    load_photos()
    require("av", extra="video")
    shown = Progress(train + val, "make-motion", "clip", sys.stderr if progress else None)

    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    try:
        jobs = _prepare(partial, names, {"train": train, "val": val}, classes)
        with shown:
            _write_clips(partial, jobs, frames, size, seed, workers, shown)
        partial.chmod(0o777 & ~_umask())
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return Path(out_dir)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_pairs(pairs: Sequence[str] | int) -> list[str]:
    if isinstance(pairs, int):
        if not _is_count(pairs) or not 1 <= pairs <= len(MOTION_PAIRS):
            raise ValueError(f"pairs must be 1 to {len(MOTION_PAIRS)} or a list of names, got {pairs!r}")
        return list(MOTION_PAIRS)[:pairs]
    names = [pairs] if isinstance(pairs, str) else list(pairs)
    for name in names:
        if name not in MOTION_PAIRS:
            raise ValueError(f"pairs: no pair {name!r}; there are {', '.join(MOTION_PAIRS)}")
    if not names or len(set(names)) != len(names):
        raise ValueError(f"pairs must name each pair once, got {names!r}")
    return names


def _check_shape(frames: int, size: int) -> None:
    if not _is_count(frames) or frames < 2:
        raise ValueError(f"frames must be a whole number of at least 2, got {frames!r}")
    if not _is_count(size) or not 16 <= size <= 1024:
        raise ValueError(f"size must be a whole number from 16 to 1024, got {size!r}")


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


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
    """Draw and encode all clips in threads: PyAV and torch release the interpreter while they work."""

    def work(job: _Job) -> None:
        generator = np.random.default_rng((seed, *job.key))
        clip = render(draw_scene(job.pair, generator, frames, size), size)
        for file, ordered in zip(job.files, (clip, clip[::-1]), strict=True):
            _encode(folder / file, ordered)

    # Not worth several torch threads each. The setting outlives the pool, so put it back.
    torch_threads = torch.get_num_threads()
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = [pool.submit(work, job) for job in jobs]
        try:
            for future in futures:
                future.result()
                shown.update(2)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        finally:
            torch.set_num_threads(torch_threads)


def _encode(path: Path, clip: Frames) -> None:
    """Write frames as H.264 in mp4, every frame a key frame with the same quantiser."""
    av = require("av", extra="video")
    reformatter = av.video.reformatter.VideoReformatter()
    # Opening the encoder is most of the work; a small mvrange spares it tables that key frames never use.
    x264 = "keyint=1:scenecut=0:mvrange=32:threads=1:lookahead-threads=1"
    options = {"preset": "ultrafast", "tune": "zerolatency", "qp": "14", "x264-params": x264}
    with av.open(str(path), "w") as container:
        try:
            stream = container.add_stream("libx264", rate=_RATE, options=options)
        except av.FFmpegError as error:
            raise RuntimeError(
                "PyAV was built without libx264; its wheels have it: pip install av"
            ) from error
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 1
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        for array in clip:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
            container.mux(stream.encode(reformatter.reformat(frame, format="yuv420p", threads=1)))
        container.mux(stream.encode(None))
