"""The processes of a run that torchrun starts, and what they tell each other besides gradients."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vidops.evaluation.ranks import PATIENCE, gpu_of_rank, on_all_ranks, rank_and_size, refuse_lacking

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """Which process this is, and what all of them have in common.

    Every method but ``alone`` and ``first`` is to be called by all ranks or by none. With one rank they
    return at once.

    Args:
        rank: of this process, from 0.
        size: number of ranks.

    Example:
        >>> ranks = Ranks()
        >>> ranks.any(True), ranks.gather("a"), ranks.sum(torch.ones(2)).tolist()
        (True, ['a'], [1.0, 1.0])
    """

    rank: int = 0
    size: int = 1

    @property
    def alone(self) -> bool:
        """Whether there is one rank."""
        return self.size == 1

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes files and speaks to the user."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Tell whether the flag is set on any rank.

        Args:
            flag: this rank's.

        Returns:
            The same on all ranks.
        """
        if self.alone:
            return flag
        flags = torch.tensor([flag], dtype=torch.uint8)
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags.item())

    def sum(self, values: Tensor) -> Tensor:
        """Add up a tensor over the ranks.

        Args:
            values: of any shape, the same on all ranks.

        Returns:
            A new tensor.
        """
        total = values.clone()
        if not self.alone:
            dist.all_reduce(total)
        return total

    def gather(self, value: T) -> list[T]:
        """Collect a value of each rank.

        Args:
            value: plain Python values, fit for pickle.

        Returns:
            One a rank, in their order.
        """
        if self.alone:
            return [value]
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, value)
        return parts

    def together(self, work: Callable[[], T]) -> T:
        """Do some work that may fail; if it fails on one rank it fails on all, so that none waits for ever.

        Args:
            work: what to do; it must not wait for other ranks.

        Returns:
            What this rank's work returned.

        Raises:
            Exception: what it raised on the lowest rank on which it failed.
        """
        results: list[T] = []
        on_all_ranks(lambda rank, size: results.append(work()))
        return results[0]

    def share_buffers(self, net: nn.Module) -> None:
        """Give every rank the first one's buffers: statistics of batch norms are of each rank's own batches.

        Args:
            net: whose buffers are overwritten.
        """
        if not self.alone:
            for buffer in net.buffers():
                dist.broadcast(buffer, 0)


def join(gpu: bool) -> Ranks:
    """Join the other processes that torchrun started; without torchrun there is one.

    Args:
        gpu: gradients lie on GPUs, one a rank, and go over NCCL; what lies on the CPU goes over gloo.

    Returns:
        This process' place.

    Raises:
        ValueError: there are fewer GPUs than ranks on this machine, or torchrun has not started the ranks.

    Example:
        >>> join(gpu=False)
        Ranks(rank=0, size=1)
    """
    rank, size = rank_and_size()
    if size == 1:
        return Ranks()
    refuse_lacking()
    if gpu:
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        if local > torch.cuda.device_count():
            raise ValueError(
                f"accelerator: {local} ranks need {local} GPUs, {torch.cuda.device_count()} found"
            )
        torch.cuda.set_device(gpu_of_rank())
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=PATIENCE)
        atexit.register(_leave)
    return Ranks(rank, size)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
