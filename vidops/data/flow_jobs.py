"""The flow of many videos, computed by several processes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from ._search import video_files
from ._workers import start_pool
from .flow_store import FlowStore
from .samples import Sample
from .video import VideoError


@dataclass(frozen=True)
class FlowResult:
    """What became of one video.

    Args:
        path: the video.
        computed: whether its flow had to be computed.
        error: why there is none, in one line that names the video; None where there is.
        warnings: damaged files that were made anew, a line each.
    """

    path: str
    computed: bool
    error: str | None = None
    warnings: tuple[str, ...] = ()


def compute_flow(store: FlowStore, samples: Sequence[Sample], *, workers: int = 1) -> Iterator[FlowResult]:
    """Compute the flow of videos, but of those whose flow is there and whole; a broken video stops no other.

    Args:
        store: the folder to fill.
        samples: the videos; labels do not matter.
        workers: processes; 1 computes in this one.

    Yields:
        One result a video, in the order in which they are done.

    Raises:
        ValueError: workers is below 1, or there are no videos.
        OSError: the folder cannot be written.
        RuntimeError: a worker was killed.

    Example:
        >>> next(compute_flow(None, [], workers=2))
        Traceback (most recent call last):
        ValueError: samples: there are no videos
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if not samples:
        raise ValueError("samples: there are no videos")
    store.sweep()
    workers = min(workers, len(samples))
    if workers == 1:
        for sample in samples:
            yield _compute(store, sample)
        return
    with start_pool(workers) as pool:
        futures = [pool.submit(_compute, store, sample) for sample in samples]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise RuntimeError(
                "a worker was killed, by want of memory or by a video that crashes the decoder, which `vidops"
                " dataset check` names; start again to go on with the others"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def find_videos(folder: str | os.PathLike[str]) -> list[Sample]:
    """Find the video files of a folder and of the folders in it.

    Args:
        folder: any folder; hidden files and folders are left out.

    Returns:
        One sample a video, sorted by path, with label 0.

    Raises:
        ValueError: there are none.

    Example:
        >>> find_videos("no/such/folder")
        Traceback (most recent call last):
        ValueError: no/such/folder: holds no video files
    """
    found = [str(path) for path in video_files(folder)]
    if not found:
        raise ValueError(f"{folder}: holds no video files")
    return [Sample(path, 0) for path in found]


def _compute(store: FlowStore, sample: Sample) -> FlowResult:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            computed, error = store.add(sample.path, sample.frames), None
        except VideoError as reason:
            computed, error = False, str(reason)
    return FlowResult(sample.path, computed, error, tuple(str(warning.message) for warning in caught))
