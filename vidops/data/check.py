"""Read every video of a list once and say which are broken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TextIO

from ._progress import Progress
from ._workers import start_pool
from .folders import check_folder
from .samples import Sample
from .video import num_frames, read_frames


@dataclass(frozen=True)
class BrokenVideo:
    """A video that cannot be read.

    Args:
        path: the file or folder.
        reason: what is wrong, in one line that names the file.
    """

    path: str
    reason: str


def check_videos(
    samples: Sequence[Sample],
    workers: int = 0,
    quick: bool = False,
    *,
    threads: bool = False,
    out: TextIO | None = None,
) -> list[BrokenVideo]:
    """Decode every video of a list from its first frame to its last, or with ``quick`` only its first frame.

    Damage that the decoder does not notice is not found, see `VideoError`. A file that is listed twice is read
    once. A file that brings a worker process down is named like any other broken one.

    Args:
        samples: the videos.
        workers: processes that decode; 0 decodes in this one, where a decoder's crash is not survived. A script
            that asks for some calls this under ``if __name__ == "__main__":``.
        quick: open each file and decode one frame, which finds missing, foreign and headless files but no
            damage further in.
        threads: the workers are threads of this process. They need no such guard and start at once, but do not
            survive a decoder's crash.
        out: where progress is shown: a bar if that is a terminal, else a line a minute.

    Returns:
        The broken videos in the order of the list.

    Raises:
        ValueError: workers is negative.
        RuntimeError: the processes cannot be started.

    Example:
        >>> check_videos([Sample("no/such/a.mp4", 0)])
        [BrokenVideo(path='no/such/a.mp4', reason='no/such/a.mp4: no such file')]
    """
    if workers < 0:
        raise ValueError(f"workers must be at least 0, got {workers}")
    first: dict[str, Sample] = {}
    for sample in samples:
        first.setdefault(sample.path, sample)
    videos = list(first.values())
    reasons: dict[int, str] = {}
    with Progress(len(videos), "check", "video", out) as progress:
        for i, reason in _check_all(videos, workers, quick, threads):
            if reason is not None:
                reasons[i] = reason
            progress.update(note=f"{len(reasons)} broken")
    return [BrokenVideo(videos[i].path, reasons[i]) for i in sorted(reasons)]


def _check_all(
    videos: Sequence[Sample], workers: int, quick: bool, threads: bool
) -> Iterator[tuple[int, str | None]]:
    """Yield (position, what is wrong or None) as results come."""
    if workers == 0:
        for i, video in enumerate(videos):
            yield i, _check_one(video, quick)
        return
    waiting = list(range(len(videos)))[::-1]
    while waiting:
        suspects: list[int] = []
        pool = ThreadPoolExecutor(workers) if threads else start_pool(min(workers, len(waiting)))
        yield from _check_pool(pool, videos, waiting, suspects, 2 * workers, quick)
        # One of those that were being read has brought its process down: each again, alone.
        for i in suspects:
            alone: list[int] = []
            yield from _check_pool(start_pool(1), videos, [i], alone, 1, quick)
            if alone:
                yield i, f"{videos[i].path}: crashes the decoder"


def _check_pool(
    pool: Executor, videos: Sequence[Sample], waiting: list[int], lost: list[int], ahead: int, quick: bool
) -> Iterator[tuple[int, str | None]]:
    """Take positions off ``waiting`` until none is left or a process dies, which puts those it ran in ``lost``."""
    with pool:
        running: dict[Future[str | None], int] = {}
        try:
            while waiting or running:
                while waiting and len(running) < ahead:
                    running[pool.submit(_check_one, videos[waiting[-1]], quick)] = waiting[-1]
                    waiting.pop()
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    reason = done.result()
                    yield running.pop(done), reason
        except BrokenProcessPool:
            for future, i in running.items():
                if future.done() and future.exception() is None:
                    yield i, future.result()
                else:
                    lost.append(i)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _check_one(video: Sample, quick: bool) -> str | None:
    """Return what is wrong with a video, in one line."""
    try:
        if video.frames is not None:
            check_folder(video.path, video.frames, quick=quick)
        elif quick:
            read_frames(video.path, [0])
        else:
            num_frames(video.path)
    except Exception as error:  # whatever a damaged file leads to is a finding, not the end of the check
        text = " ".join(str(error).split())
        return text if text.startswith(video.path) else f"{video.path}: {type(error).__name__}: {text}"
    return None
