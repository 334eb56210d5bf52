"""What was being read when a loader's process died, of which torch tells the number alone."""

from __future__ import annotations

import contextlib
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader

_SHOWN = 8  # files that an error names
_REPORT = 5.0  # seconds in which the end of a process is reported once its pipes are closed


@contextlib.contextmanager
def naming_lost_workers(place: Callable[[], tuple[str, DataLoader[Any], int]]) -> Iterator[None]:
    """Name the files in an error about a loader's process that died in a block.

    Args:
        place: gives, once it is asked, where the work is, for the text, the loader that is read, and how many
            batches of what its sampler gives are done.

    Raises:
        RuntimeError: a process of the loader died; any other error is left as it is.

    Example:
        >>> with naming_lost_workers(lambda: ("epoch 1", DataLoader([]), 0)):
        ...     raise RuntimeError("mine")
        Traceback (most recent call last):
        RuntimeError: mine
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        if not _of_a_lost_worker(error):
            raise
        where, loader, done = place()
        paths = _being_read(loader, done)
        more = f" and {len(paths) - _SHOWN:,} more" if len(paths) > _SHOWN else ""
        told = error if isinstance(error, RuntimeError) else _reported()
        reason = " ".join(str(told).split()).rstrip(".")
        raise RuntimeError(
            f"{where}, reading {', '.join(paths[:_SHOWN])}{more}: {reason}; memory was short, or a video crashes the"
            " decoder, which `vidops dataset check` names"
        ) from None


def _of_a_lost_worker(error: Exception) -> bool:
    """Whether torch says so, or could not take over what a process had sent before it died."""
    if isinstance(error, RuntimeError):
        return str(error).startswith("DataLoader worker (pid")
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(frame.f_globals.get("__name__") == "torch.multiprocessing.reductions" for frame in frames)


def _reported() -> RuntimeError:
    """Wait for what torch raises at the end of a process, whose pipes close earlier.

    Its handler raises wherever the main thread is: in a caller that has left this error behind, if not here. There may
    be none: a Lightning trainer takes away those that were set while it ran.
    """
    try:
        end = time.monotonic() + _REPORT
        while callable(signal.getsignal(signal.SIGCHLD)) and time.monotonic() < end:
            time.sleep(0.01)
    except RuntimeError as error:
        if not _of_a_lost_worker(error):
            raise
        return error
    return RuntimeError("DataLoader worker exited unexpectedly")


def _being_read(loader: DataLoader[Any], done: int) -> list[str]:
    """List the videos of the batches that the processes may have had in hand."""
    size, in_hand = loader.batch_size or 1, loader.num_workers * (loader.prefetch_factor or 0)
    keys = list(loader.sampler)[done * size : (done + 1 + in_hand) * size]  # and the one that is waited for
    samples = loader.dataset.dataset.samples  # type: ignore[attr-defined]
    return [samples[key[1] if isinstance(key, tuple) else key].path for key in keys]
