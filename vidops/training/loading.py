"""From a recipe to batches: lists, datasets, and loaders whose order is a function of seed and epoch."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from vidops import data

from .config import Config
from .reading import build_dataset as build_dataset
from .reading import read_list as read_list

Collate = Callable[[Sequence[dict[str, Any]]], dict[str, Any]]

# Streams of random numbers drawn from one seed: (seed, stream, ...) never meet.
ORDER, SUBSTITUTE, STEP, WEIGHTS = 0, 1, 2, 3
ATTEMPTS = 8


def derive_seed(*key: int) -> int:
    """Derive a seed from a key of numbers, the same on every machine.

    Args:
        key: non-negative integers, such as seed, stream, epoch and index.

    Returns:
        A number below 2**63; keys that differ, be it by zeros at the end, give unrelated numbers.

    Example:
        >>> derive_seed(0, ORDER, 1) == derive_seed(0, ORDER, 1), derive_seed(0, 1) == derive_seed(1, 0)
        (True, False)
    """
    # Not numpy's SeedSequence, which takes (5,) and (5, 0), or (2**32 + 7, 3) and (7, 1, 3), for one key.
    digest = hashlib.sha256(",".join(str(int(number)) for number in key).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class EpochSampler(Sampler[tuple[int, int]]):
    """A rank's share of a permutation of a dataset that is a function of seed and epoch.

    It yields ``(epoch, index)``: the epoch travels with the index, so that workers kept alive over epochs and
    workers that fetch ahead draw the random numbers of the right epoch. The order is cut into batches of all
    ranks together, of which rank r takes the r-th part: which samples meet in a batch does not depend on the
    number of ranks. What does not fill a last group of batches is left out of the epoch.

    Args:
        length: number of samples.
        seed: of the run.
        epoch: the first epoch, that of a resumed run.
        batch: samples a batch over all ranks.
        group: batches an optimizer step; an epoch is a multiple of them.
        skip: batches of the first epoch that are done, and are not read again.
        rank: of this process.
        world_size: number of ranks, a divisor of ``batch``.

    Raises:
        ValueError: the ranks cannot share a batch evenly.

    Example:
        >>> sampler = EpochSampler(4, seed=0, epoch=2)
        >>> sorted(sampler), list(sampler) == list(sampler)
        ([(2, 0), (2, 1), (2, 2), (2, 3)], True)
        >>> parts = [list(EpochSampler(4, seed=0, epoch=2, batch=4, rank=r, world_size=2)) for r in (0, 1)]
        >>> parts[0] + parts[1] == list(sampler)
        True
    """

    def __init__(
        self,
        length: int,
        *,
        seed: int,
        epoch: int = 0,
        batch: int = 1,
        group: int = 1,
        skip: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch % world_size:
            raise ValueError(f"data.batch_size: {batch} clips cannot be shared evenly by {world_size} ranks")
        self.length, self.seed, self.epoch, self.first = length, seed, epoch, epoch
        self.batch, self.skip, self.rank, self.share = batch, skip, rank, batch // world_size
        self.batches = length // (batch * group) * group

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives.

        Args:
            epoch: counted from 0.
        """
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of this rank's samples in a whole epoch."""
        return self.batches * self.share

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Return the epoch's order, of the first epoch what is left of it."""
        epoch = self.epoch
        generator = torch.Generator().manual_seed(derive_seed(self.seed, ORDER, epoch))
        order = torch.randperm(self.length, generator=generator)[: self.batches * self.batch]
        mine = order.view(self.batches, self.batch)[:, self.rank * self.share :][:, : self.share]
        done = self.skip if epoch == self.first else 0
        return iter([(epoch, i) for i in mine[done:].flatten().tolist()])


class RankSampler(Sampler[int]):
    """Every ``world_size``-th index: the ranks' shares hold each index once, and no index twice.

    torch's DistributedSampler repeats samples until all shares are equally long; counts over such shares are
    wrong. Here shares differ in length by one at most, so nothing that all ranks wait for may be done a batch.

    Args:
        length: number of samples.
        rank: of this process.
        world_size: number of ranks.

    Raises:
        ValueError: there is no such rank.

    Example:
        >>> [list(RankSampler(5, rank, 2)) for rank in (0, 1)]
        [[0, 2, 4], [1, 3]]
    """

    def __init__(self, length: int, rank: int = 0, world_size: int = 1) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be at least 0 and below world_size={world_size}, got {rank}")
        self.indices = range(rank, length, world_size)

    def __len__(self) -> int:
        """Return the number of this rank's samples."""
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        """Return this rank's indices, rising."""
        return iter(self.indices)


class TrainingSet(Dataset[dict[str, Any]]):
    """A dataset read by ``(epoch, index)`` that puts another sample in a broken video's place.

    The substitute is a function of (seed, epoch, index), so batches keep their size and are the same whatever
    the number of workers. What was broken is reported in the item's ``"broken"``: a list of ``(index,
    reason)``.

    Args:
        dataset: takes ``(epoch, index)`` and raises `vidops.data.VideoError` for a broken video.
        seed: of the run.
    """

    def __init__(self, dataset: Any, *, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """Return the sample, or a substitute, or after several broken ones nothing but their list."""
        epoch, index = key
        broken: list[tuple[int, str]] = []
        substitutes = np.random.default_rng(derive_seed(self.seed, SUBSTITUTE, epoch, index))
        for _ in range(ATTEMPTS):
            try:
                return {**self.dataset[(epoch, index)], "broken": broken}
            except data.VideoError as error:
                broken.append((index, str(error)))
                index = int(substitutes.integers(len(self.dataset)))
        return {"broken": broken}


class EvaluationSet(Dataset[dict[str, Any]]):
    """A dataset that reports a broken video as data: an exception from a worker is no single line any more.

    Args:
        dataset: raises `vidops.data.VideoError` for a broken video.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return the sample, or the reason why there is none."""
        try:
            return {**self.dataset[index], "broken": []}
        except data.VideoError as error:
            return {"broken": [(index, str(error))]}


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Join samples to a batch.

    Args:
        items: samples with ``clip`` (3, T, H, W), or (V, 3, T, H, W) for several views, ``label``, ``index``,
            ``path`` and ``broken``; one without a clip is left out.

    Returns:
        ``clip`` (N, 3, T, H, W) or (N, V, 3, T, H, W), ``label`` and ``index`` (N,), ``path`` and ``broken``
        lists; without clips, ``path`` is empty and the tensors are missing.
    """
    whole = [item for item in items if "clip" in item]
    batch: dict[str, Any] = {
        "path": [item["path"] for item in whole],
        "broken": [b for i in items for b in i["broken"]],
    }
    if whole:
        batch.update(
            default_collate([{key: item[key] for key in ("clip", "label", "index")} for item in whole])
        )
    return batch


def fingerprint(
    annotations: Any,
    root: str | Path,
    identify: Callable[[Any, str], Any] = lambda sample, path: (path, sample.label),
    noun: str = "videos",
) -> str:
    """Sum up which videos a list names, in which order and with which labels, wherever its root folder lies.

    Args:
        annotations: the list.
        root: the folder that the paths of videos inside it are taken relative to.
        identify: called with a sample and its path from there, gives what makes it the one it is.
        noun: what the samples are called.

    Returns:
        The number of samples and a digest of paths, labels, order and classes, in one text.

    Example:
        >>> a, b = (data.AnnotationList([data.Sample(f"{r}/x.mp4", 0)], ["up"]) for r in ("old", "new"))
        >>> fingerprint(a, "old") == fingerprint(b, "new"), fingerprint(a, "old").split(",")[0]
        (True, '1 videos')
    """
    base = os.path.join(os.path.abspath(root), "")
    paths = [os.path.abspath(s.path) for s in annotations.samples]
    videos = [identify(s, p.removeprefix(base)) for p, s in zip(paths, annotations.samples, strict=True)]
    text = json.dumps([videos, annotations.classes])
    return f"{len(videos):,} {noun}, {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def training_loader(
    config: Config,
    dataset: Any,
    *,
    epoch: int = 0,
    skip: int = 0,
    rank: int = 0,
    world_size: int = 1,
    collate_fn: Collate = collate,
) -> DataLoader[dict[str, Any]]:
    """Build the loader of a rank's training batches.

    Args:
        config: the recipe.
        dataset: what :func:`build_dataset` gives.
        epoch: the first epoch to run.
        skip: batches of that epoch that are done; they are left out without reading a video.
        rank: of this process.
        world_size: number of ranks; each reads its share of every batch.
        collate_fn: joins samples to a batch.

    Returns:
        A loader whose ``sampler`` has ``set_epoch``; the batches of an epoch that do not make a whole
        optimizer step are dropped. Its length is that of a whole epoch.

    Raises:
        ValueError: there are fewer samples than one step takes, or the ranks cannot share a batch.
    """
    section = config.data
    step = section.batch_size * config.accumulate
    if len(dataset) < step:
        times = f" x accumulate {config.accumulate}" if config.accumulate > 1 else ""
        raise ValueError(
            f"data.batch_size: {section.batch_size}{times} is more than the {len(dataset)} training videos"
        )
    sampler = EpochSampler(
        len(dataset),
        seed=config.seed,
        epoch=epoch,
        batch=section.batch_size,
        group=config.accumulate,
        skip=skip,
        rank=rank,
        world_size=world_size,
    )
    return DataLoader(
        TrainingSet(dataset, seed=config.seed),
        batch_size=sampler.share,
        sampler=sampler,
        collate_fn=collate_fn,
        drop_last=True,
        persistent_workers=section.workers > 0,
        **worker_processes(section.workers),
        pin_memory=on_gpu(config),
        generator=torch.Generator(),  # a loader draws a number at every start: not from the global stream
    )


def evaluation_loader(
    config: Config, dataset: Any, *, rank: int = 0, world_size: int = 1, collate_fn: Collate = collate
) -> DataLoader[dict[str, Any]]:
    """Build the loader of a rank's evaluation batches: every sample once, in order, the last batch as it comes.

    Args:
        config: the recipe.
        dataset: what :func:`build_dataset` gives.
        rank: of this process.
        world_size: number of ranks; each reads the samples that :class:`RankSampler` gives it.
        collate_fn: joins samples to a batch.

    Returns:
        The loader.
    """
    section = config.data
    return DataLoader(
        EvaluationSet(dataset),
        batch_size=section.eval_batch_size or max(1, section.batch_size // world_size),
        sampler=RankSampler(len(dataset), rank, world_size),
        collate_fn=collate_fn,
        persistent_workers=section.workers > 0,
        **worker_processes(section.workers),
        pin_memory=on_gpu(config),
        generator=torch.Generator(),
    )


def worker_processes(workers: int) -> dict[str, Any]:
    """Give a loader's arguments about its worker processes, such that none outlives a process that is killed.

    A worker ends when its parent does. On Linux it is forked from this process, whatever Python's default: a
    forkserver would be the parent in its place, and may live on.

    Args:
        workers: how many; 0 loads in this process.

    Returns:
        ``num_workers`` and ``multiprocessing_context`` of a ``torch.utils.data.DataLoader``.

    Example:
        >>> worker_processes(0)
        {'num_workers': 0, 'multiprocessing_context': None}
    """
    fork = workers > 0 and sys.platform == "linux"
    return {"num_workers": workers, "multiprocessing_context": "fork" if fork else None}


def on_gpu(config: Config) -> bool:
    """Tell whether a recipe runs on a GPU here.

    Args:
        config: the recipe.

    Returns:
        True for ``accelerator: cuda``, and for ``auto`` where torch finds a GPU.

    Raises:
        ValueError: the recipe asks for a GPU and there is none.
    """
    if config.accelerator == "cuda" and not torch.cuda.is_available():
        raise ValueError("accelerator: is cuda, but torch finds no GPU")
    return config.accelerator != "cpu" and torch.cuda.is_available()
