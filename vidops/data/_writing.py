"""Datasets that are drawn: a folder that is whole or not there, filled by threads with small mp4 files."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from .._extras import require
from ._progress import Progress
from .video import Frames

Job = TypeVar("Job")


def is_count(value: object) -> bool:
    """Say whether a value is a whole number and no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_drawing(frames: int, size: int, seed: int, workers: int | None) -> int:
    """Check the arguments that drawn datasets share.

    Args:
        frames: of a clip.
        size: height and width, pixels.
        seed: at least 0.
        workers: threads, or None.

    Returns:
        The number of threads, by default one a core.

    Raises:
        ValueError: an argument is out of range.
    """
    check_shape(frames, size)
    if size % 2:
        raise ValueError(f"size must be even, got {size}")
    if not is_count(seed) or seed < 0:
        raise ValueError(f"seed must be a whole number of at least 0, got {seed!r}")
    if workers is None:
        affinity = getattr(os, "sched_getaffinity", None)
        return len(affinity(0)) if affinity else os.cpu_count() or 1
    if not is_count(workers) or workers < 1:
        raise ValueError(f"workers must be a whole number of at least 1, got {workers!r}")
    return workers


def check_shape(frames: int, size: int) -> None:
    """Raise ValueError where a clip has too few frames or its pictures are too small or too large."""
    if not is_count(frames) or frames < 2:
        raise ValueError(f"frames must be a whole number of at least 2, got {frames!r}")
    if not is_count(size) or not 16 <= size <= 1024:
        raise ValueError(f"size must be a whole number from 16 to 1024, got {size!r}")


def check_out(out_dir: str | os.PathLike[str]) -> Path:
    """Return a folder's absolute path; ValueError if it exists and holds anything."""
    out = Path(os.path.abspath(out_dir))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out_dir: {out_dir} exists and is not an empty folder")
    return out


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``out`` to fill, and rename it to ``out`` once the block ends well.

    Args:
        out: what `check_out` returned.

    Yields:
        The temporary folder; after an exception it is gone, and ``out`` is as it was.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def run_threads(work: Callable[[Job], int], jobs: Sequence[Job], workers: int, shown: Progress) -> None:
    """Do all jobs in threads: PyAV and torch release the interpreter while they work.

    Args:
        work: does one job and returns how many clips it wrote.
        jobs: what there is to do.
        workers: threads.
        shown: is told of the clips.
    """
    # Not worth several torch threads each. The setting outlives the pool, so put it back.
    torch_threads = torch.get_num_threads()
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = [pool.submit(work, job) for job in jobs]
        try:
            for future in futures:
                shown.update(future.result())
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        finally:
            torch.set_num_threads(torch_threads)


def encode(path: Path, clip: Frames, rate: Fraction | int) -> None:
    """Write frames as H.264 in mp4, every frame a key frame with the same quantiser.

    Args:
        path: the file.
        clip: uint8 (T, H, W, 3) RGB.
        rate: frames a second.
    """
    av = require("av", extra="video")
    reformatter = av.video.reformatter.VideoReformatter()
    # Opening the encoder is most of the work; a small mvrange spares it tables that key frames never use.
    x264 = "keyint=1:scenecut=0:mvrange=32:threads=1:lookahead-threads=1"
    options = {"preset": "ultrafast", "tune": "zerolatency", "qp": "14", "x264-params": x264}
    with av.open(str(path), "w") as container:
        try:
            stream = container.add_stream("libx264", rate=rate, options=options)
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
