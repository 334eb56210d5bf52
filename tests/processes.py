"""Real processes that need not import torch and Lightning anew: each is forked from one that has.

They have their own environment, folder and output, and can be killed. What is particular to a new interpreter, and
to torchrun itself, is tested with those.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["vidops.training.trainer", "vidops.evaluation.evaluator", "torch.utils.tensorboard", "tests.processes"]
)
SETTINGS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def start(
    function: Callable[..., Any],
    *args: Any,
    output: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> BaseProcess:
    """Begin a function of a test module in a process; ``output`` gets what it prints."""
    process = _CONTEXT.Process(target=_run, args=(function, args, output, {**SETTINGS, **(env or {})}, cwd))
    process.start()
    return process


def _run(
    function: Callable[..., Any],
    args: Sequence[Any],
    output: Path,
    env: Mapping[str, str],
    cwd: Path | None,
) -> None:
    import torch

    # As in a new interpreter: else data loaders here would have forkservers of their own, which outlive a SIGKILL.
    multiprocessing.set_start_method(None, force=True)
    os.environ.update(env)
    if cwd is not None:
        os.chdir(cwd)
    sys.stdout.flush()
    for name, stream in ((".out", sys.stdout), (".err", sys.stderr)):
        with open(f"{output}{name}", "w") as file:
            os.dup2(file.fileno(), stream.fileno())
    torch.set_num_threads(1)
    function(*args)


def command(*arguments: str) -> None:
    """Run ``vidops`` with these arguments."""
    from vidops.cli import main

    sys.exit(main(arguments))


def said(output: Path) -> tuple[str, str]:
    """Output and errors of a process that has ended."""
    return Path(f"{output}.out").read_text(), Path(f"{output}.err").read_text()


def finish(processes: Sequence[BaseProcess], timeout: float = 120) -> list[int | None]:
    """Wait for processes; one that has not ended by then is killed and fails the test."""
    end = time.monotonic() + timeout
    try:
        for process in processes:
            process.join(max(0.0, end - time.monotonic()))
        assert all(process.exitcode is not None for process in processes), "a process waits for ever"
        return [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.join()


@contextlib.contextmanager
def _free_port() -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        yield int(free.getsockname()[1])


def rank_environments(size: int) -> list[dict[str, str]]:
    """What torchrun tells each of ``size`` ranks of one machine."""
    with _free_port() as port:
        shared = {
            "WORLD_SIZE": str(size),
            "LOCAL_WORLD_SIZE": str(size),
            "GROUP_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_RUN_ID": "test",
        }
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]


def run_ranks(
    size: int, function: Callable[..., Any], *args: Any, folder: Path, timeout: float = 120
) -> list[tuple[int | None, str, str]]:
    """Run a function on ``size`` ranks; exit status, output and errors of each."""
    outputs = [folder / f"rank{rank}" for rank in range(size)]
    processes = [
        start(function, *args, output=output, env=env)
        for output, env in zip(outputs, rank_environments(size), strict=True)
    ]
    return [(code, *said(output)) for code, output in zip(finish(processes, timeout), outputs, strict=True)]
