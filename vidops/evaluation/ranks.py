"""Work shared by the processes that torchrun starts, and brought together on all of them."""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist

T = TypeVar("T")

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Between the first rank to finish its part and the last one. A rank that dies is noticed at once all the same.
PATIENCE = timedelta(days=7)


def rank_and_size() -> tuple[int, int]:
    """Tell which of how many processes this is.

    Returns:
        Rank and number of ranks: of the process group if there is one, else as torchrun's environment says;
        (0, 1) without either.

    Raises:
        ValueError: this is one of several processes that something else than torchrun started; each would take
            itself for the only one.

    Example:
        >>> rank_and_size()
        (0, 1)
    """
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    if "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        refuse_lacking()
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if "RANK" not in os.environ and int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        raise ValueError(
            f"SLURM_STEP_NUM_TASKS={os.environ['SLURM_STEP_NUM_TASKS']}: each task of srun would do all the work;"
            " start one a node with torchrun, or take this variable away where each has work of its own"
        )
    return 0, 1


def refuse_lacking() -> None:
    """Refuse an environment that says there are several ranks, but not all that torchrun says.

    Raises:
        ValueError: names what lacks.

    Example:
        >>> refuse_lacking()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: RANK, WORLD_SIZE, ... are not set: start several processes with torchrun
    """
    lacking = [name for name in _VARIABLES if name not in os.environ]
    if lacking:
        verb = "are" if len(lacking) > 1 else "is"
        raise ValueError(f"{', '.join(lacking)} {verb} not set: start several processes with torchrun")


def gpu_of_rank() -> torch.device:
    """Give the GPU of this process: that of its local rank, counted around where there are fewer.

    Returns:
        A CUDA device.
    """
    local = int(os.environ.get("LOCAL_RANK", 0))
    return torch.device("cuda", local % max(1, torch.cuda.device_count()))


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Make a gloo process group for a block and take it down again, unless there is a group already.

    Gloo, as what is exchanged is small beside what is computed: the CPU carries it.

    Raises:
        Exception: the other ranks cannot be reached.

    Example:
        >>> with joined():  # without torchrun there is nobody to join
        ...     rank_and_size()
        (0, 1)
    """
    own_group = rank_and_size()[1] > 1 and not dist.is_initialized()
    if own_group:
        dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        if own_group:
            dist.destroy_process_group()


def on_all_ranks(work: Callable[[int, int], T]) -> list[T]:
    """Do a part of some work on each rank and give every rank all parts.

    Done in the process group that there is, else in one of its own, where the ranks wait days for each
    other. An error on one rank is raised on all of them.

    Args:
        work: called with rank and number of ranks; what it returns must be fit for pickle, tensors on the CPU.

    Returns:
        The parts in the order of the ranks; one part without torchrun.

    Raises:
        Exception: whatever ``work`` raised on the lowest rank on which it failed.

    Example:
        >>> on_all_ranks(lambda rank, size: (rank, size))
        [(0, 1)]
    """
    rank, size = rank_and_size()
    if size == 1:
        return [work(rank, size)]
    with joined():
        parts: list[object] = [None] * size
        try:
            part: object = work(rank, size)
        except Exception as error:
            part = _Failed(_sendable(error))
        dist.all_gather_object(parts, part)
    for found in parts:
        if isinstance(found, _Failed):
            raise found.error
    return cast("list[T]", parts)


def interleaved(own: Iterator[T], every: int) -> Iterator[T]:
    """Bring together, on all ranks, what each rank makes of every size-th item of one list, as it comes.

    Args:
        own: this rank's results, of the items rank, rank + size, ...
        every: results of a rank that are brought together at a time.

    Yields:
        The results of all items in their order.

    Raises:
        RuntimeError: the ranks have not shared one list.
        Exception: whatever a rank's results raised, on all ranks.

    Example:
        >>> list(interleaved(iter("abc"), every=2))
        ['a', 'b', 'c']
    """
    _, size = rank_and_size()
    if size == 1:
        yield from own
        return
    with joined():
        lengths = [every]
        while lengths[-1] == every:
            parts = on_all_ranks(lambda rank, size: list(itertools.islice(own, every)))
            lengths = [len(part) for part in parts]
            if lengths != sorted(lengths, reverse=True) or lengths[0] - lengths[-1] > 1:
                raise RuntimeError(f"the ranks share no list: they have {lengths} results of {every}")
            for row in itertools.zip_longest(*parts, fillvalue=_NONE):
                yield from (result for result in row if result is not _NONE)  # type: ignore[misc]


_NONE = object()


class _Failed:
    def __init__(self, error: Exception) -> None:
        self.error = error


def _sendable(error: Exception) -> Exception:
    """Give the error itself if pickle brings it over whole, else one with its text."""
    try:
        same = pickle.loads(pickle.dumps(error))
    except Exception:  # classes decide for themselves how pickling them fails
        same = None
    return error if str(same) == str(error) else RuntimeError(f"{type(error).__name__}: {error}")
