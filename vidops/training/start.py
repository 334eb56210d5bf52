"""The start of a run: everything that can be checked is, before anything is written."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import nn
from torch.utils.data import DataLoader

from vidops.data import VideoError
from vidops.data.check import check_videos
from vidops.models import create_model, load_weights

from .callbacks import BEST, LAST
from .checkpoint import FORMAT, Checkpoint, read_checkpoint
from .config import Config, differences
from .loading import (
    WEIGHTS,
    derive_seed,
    evaluation_loader,
    fingerprint,
    on_gpu,
    training_loader,
)
from .metrics_log import METRICS
from .module import Recognizer
from .optim import build_optimizer, build_schedule
from .ranks import Ranks
from .reading import refuse_common
from .task import task_of

CONFIG = "config.yaml"

# A run may be resumed with other values of these: they change where and how fast, not what.
FREE = (
    "output",
    "accelerator",
    "backend",
    "log_every",
    "checkpoint_every",
    "data.root",
    "data.flow_root",
    "data.workers",
    "data.cache",
    "data.eval_batch_size",
    "data.max_broken",
    # of vidops evaluate: the validation after an epoch takes the centre crop of one clip
    "data.crops",
    "data.clips",
    "data.average",
)

# These may differ from rank to rank: where a machine keeps its files, and how it reads them.
OWN = ("output", "data.root", "data.flow_root", "data.workers", "data.cache")


@dataclass(frozen=True)
class Start:
    """All that a run needs, checked, with nothing written yet.

    Args:
        module: with the network at its initial weights.
        train: loader of this rank's training batches.
        val: loader of this rank's validation batches.
        earlier: checkpoint to go on from, or None.
    """

    module: Recognizer
    train: DataLoader[Any]
    val: DataLoader[Any]
    earlier: Checkpoint | None

    @property
    def batches(self) -> int:
        """Batches of the first epoch that are done."""
        return self.earlier.batches if self.earlier is not None else 0

    @property
    def steps(self) -> int:
        """Optimizer steps that are done."""
        epochs = self.earlier.epochs if self.earlier is not None else 0
        return epochs * self.module.steps_per_epoch + self.batches // self.module.config.accumulate


def prepare(config: Config, ranks: Ranks, *, resume: bool, out: TextIO | None = None) -> Start | Checkpoint:
    """Check all that can be checked and build network and loaders.

    Args:
        config: the recipe.
        ranks: the processes that train together.
        resume: whether an earlier run may be continued.
        out: where progress may be shown.

    Returns:
        What a run needs, or the last checkpoint of a run that is finished already. torch's global generator
        is seeded.

    Raises:
        FileExistsError: see `find_run`.
        FileNotFoundError: a list, a listed video or the initial weights are missing.
        ValueError: recipe, data, network and ranks do not fit each other or the run to resume.
        VideoError: a validation video cannot be read.
    """
    earlier = find_run(config, resume=resume, ranks=ranks.size)
    if earlier is not None and earlier.epochs >= config.epochs:
        return earlier
    if config.precision == "fp16" and not on_gpu(config):
        raise ValueError("precision: fp16 needs a GPU; use bf16 or fp32 on a CPU")
    task = task_of(config)
    task.check()
    train_list = task.read("train")
    classes = list(train_list.classes or [])
    val_list = task.read("val", classes)
    if len(val_list) < ranks.size:
        raise ValueError(f"data.val: {len(val_list)} {task.samples} are fewer than the {ranks.size} ranks")
    refuse_common(train_list, val_list, task.samples)
    lists = {
        f"data.{name}": fingerprint(annotations, config.data.root, task.identify, task.samples)
        for name, annotations in (("train", train_list), ("val", val_list))
    }
    if earlier is not None:
        _refuse_other_lists(earlier, lists)
    train = training_loader(
        config,
        task.dataset(train_list, training=True),
        epoch=earlier.epochs if earlier is not None else 0,
        skip=earlier.batches if earlier is not None else 0,
        rank=ranks.rank,
        world_size=ranks.size,
        collate_fn=task.collate,
    )
    val = evaluation_loader(
        config,
        task.dataset(val_list, training=False, views=False),
        rank=ranks.rank,
        world_size=ranks.size,
        collate_fn=task.collate,
    )
    net = build_network(config, len(classes))
    module = Recognizer(config, net, classes, len(train), lists, ranks, val_list)
    build_schedule(config, build_optimizer(config, net), module.steps_per_epoch)
    if earlier is None:
        _refuse_broken_validation(config, val, out)
    return Start(module, train, val, earlier)


def refuse_disagreement(start: Start | Checkpoint, config: Config, ranks: Ranks) -> None:
    """Compare what the ranks have prepared, each from the files that it sees.

    Args:
        start: what `prepare` returned on this rank.
        config: its recipe.
        ranks: the processes that train together; all have to call this.

    Raises:
        ValueError: a rank would train on other samples or from another checkpoint than the first; the text,
            the same on all ranks, names it.
    """
    if ranks.alone:
        return
    found = ranks.gather((config, _position(start), {} if isinstance(start, Checkpoint) else _data(start)))
    recipe, position, data = found[0]
    for rank, (other, place, read) in enumerate(found):
        for key, here, there in differences(recipe, other, ignore=OWN):
            raise ValueError(
                f"{key}: is {here!r} on rank 0, {there!r} on rank {rank}; the ranks share a recipe"
            )
        if place != position:
            raise ValueError(
                f"output: rank 0 starts {position}, rank {rank} {place}; the ranks go on from one {LAST}"
            )
        for key, there in read.items():
            if data[key] != there:
                raise ValueError(f"{key}: rank 0 reads {data[key]}, rank {rank} {there}")


def _position(start: Start | Checkpoint) -> str:
    earlier = start if isinstance(start, Checkpoint) else start.earlier
    if earlier is None:
        return "at the beginning"
    digest = hashlib.sha256(earlier.path.read_bytes()).hexdigest()[:12]
    return f"after epoch {earlier.epochs} and {earlier.batches} batches (file {digest})"


def _data(start: Start) -> dict[str, str]:
    return {**start.module.lists, "data.batch_size": f"{len(start.train)} batches an epoch"}


def find_run(config: Config, *, resume: bool, ranks: int = 1) -> Checkpoint | None:
    """Look for an earlier run in a recipe's output folder.

    Args:
        config: the recipe.
        resume: whether the run may be continued.
        ranks: processes that train together.

    Returns:
        Its last checkpoint, or None to start at the beginning.

    Raises:
        FileExistsError: there is a run and ``resume`` is False, or the output is a file.
        ValueError: the run's recipe or its number of ranks differs, or its checkpoint is damaged.
    """
    output = Path(config.output)
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"output: {output} is a file, not a folder")
    traces = [name for name in (CONFIG, LAST, BEST, METRICS) if (output / name).exists()]
    if not resume and not {LAST, BEST} & set(traces) and not _has_rows(output / METRICS):
        return None  # what was begun there has trained nothing
    if not resume:
        if traces:
            raise FileExistsError(
                f"output: {output} holds a run already ({', '.join(traces)}); continue it with --resume, or"
                " choose another folder with output=..."
            )
        return None
    if not (output / LAST).exists():
        return None
    earlier = read_checkpoint(output / LAST)
    if earlier.format != FORMAT and earlier.epochs < config.epochs:
        raise ValueError(
            f"{output / LAST}: is of another version of vidops (format {earlier.format}, not {FORMAT}), which draws"
            " other samples; it can be measured, but not resumed"
        )
    changed = differences(earlier.config, config, ignore=FREE)
    if changed:
        key, before, now = changed[0]
        more = f" (and {len(changed) - 1} more keys)" if len(changed) > 1 else ""
        raise ValueError(
            f"{key}: the run in {output} has {before!r}, not {now!r}{more}; a resumed run keeps its recipe"
        )
    if earlier.ranks != ranks and earlier.epochs < config.epochs:
        raise ValueError(
            f"{output / LAST}: is of a run on {earlier.ranks} rank{'s' * (earlier.ranks > 1)}, not {ranks}; a"
            " resumed run keeps their number"
        )
    return earlier


def _has_rows(log: Path) -> bool:
    """Whether a step has been noted below the heading of metrics.csv."""
    return log.is_file() and log.read_text(encoding="utf-8", errors="replace").count("\n") > 1


def build_network(config: Config, num_classes: int) -> nn.Module:
    """Build a recipe's network with initial weights that are a function of its seed.

    Args:
        config: the recipe.
        num_classes: classes of the head.

    Returns:
        The network on the CPU. torch's global generator is seeded.

    Raises:
        FileNotFoundError: ``model.weights`` is missing.
        ValueError: no model has that name, or the weights are another network's.
    """
    torch.manual_seed(derive_seed(config.seed, WEIGHTS))
    model = config.model
    net = create_model(
        model.name,
        num_classes=num_classes,
        num_segments=model.num_segments,
        backend=config.backend,
        **model.options,
    )
    if model.weights is not None:
        load_weights(net, model.weights, part=model.part)
    return net


def _refuse_other_lists(earlier: Checkpoint, lists: dict[str, str]) -> None:
    """Under other videos or labels, the epochs that are left would not be those of the run that began."""
    for key, now in lists.items():
        if earlier.lists.get(key) != now:
            raise ValueError(
                f"{key}: names other videos, labels or classes, or in another order, than when the run in"
                f" {earlier.path.parent} began ({earlier.lists.get(key, 'not recorded')} then, {now} now)"
            )


def _refuse_broken_validation(config: Config, val: DataLoader[Any], out: TextIO | None) -> None:
    """Open every validation video, each rank its share: a broken one would stop the end of the first epoch.

    In threads: processes would ask for a guard in every script that calls ``fit``.
    """
    samples = val.dataset.dataset.samples  # type: ignore[attr-defined]
    mine = [samples[index] for index in val.sampler]
    broken = check_videos(mine, config.data.workers, quick=True, threads=True, out=out)
    if broken:
        number = "a video is" if len(broken) == 1 else f"{len(broken)} videos are"
        raise VideoError(f"data.val: {number} broken: {'; '.join(video.reason for video in broken)}")
