"""Processes that work through many videos."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import BaseContext


def start_pool(workers: int) -> ProcessPoolExecutor:
    """Start processes that end at once with Ctrl-C, and with this process, even if that is killed.

    A forked copy of a process with threads may hang. They are therefore forked from a process without any, which
    is started once and has imported vidops, so that a pool does not wait for torch in each of its processes;
    where there is no fork they are spawned. Either way a script calls what uses them under
    ``if __name__ == "__main__":``.

    Args:
        workers: how many, at least 1.

    Returns:
        The pool, whose first process runs.

    Raises:
        RuntimeError: the processes cannot be started.
    """
    context: BaseContext
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["vidops.data"])
    else:
        context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        pool.submit(os.getpid).result()
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            raise RuntimeError(
                'workers: the processes do not start; a script needs `if __name__ == "__main__":` around its calls'
            ) from None
        raise
    return pool


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
