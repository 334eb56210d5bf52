"""Run a recipe: check everything, then train, log and keep checkpoints."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from vidops._files import locked, write_text
from vidops.evaluation.evaluator import fp32_of_gpus
from vidops.models import count_params

from .averaging import Averaging
from .callbacks import (
    BEST,
    LAST,
    AtomicCheckpointIO,
    BestAndLast,
    BrokenVideos,
    Place,
    Terminal,
)
from .checkpoint import Checkpoint
from .checks import NonFiniteLossError
from .config import Config, dump
from .loading import on_gpu
from .lost_workers import naming_lost_workers
from .metrics_log import METRICS, MetricsLog, log_columns
from .module import Recognizer
from .optim import scaled_rate
from .ranks import Ranks, join
from .start import CONFIG, Start, find_run, prepare, refuse_disagreement
from .task import task_of

LOCK = ".lock"
PRECISIONS: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


@dataclass(frozen=True)
class FitResult:
    """What a run came to.

    Args:
        output: its folder.
        epochs: epochs finished.
        metrics: validation figures after the last of them: of clips ``val_loss``, ``val_top1``, ``val_top5``; with
            ``joint`` in the recipe ``val_l1`` too, the network's own losses.
        score: the one of them that checkpoints are chosen by: of clips ``val_top1``.
        best_score: the highest of any epoch, that of ``best.ckpt``.
        broken: reasons why training videos were left out.
    """

    output: Path
    epochs: int
    metrics: dict[str, float]
    score: str
    best_score: float
    broken: list[str]

    @property
    def best(self) -> Path:
        """The checkpoint with the highest score, of several the one with the lowest loss."""
        return self.output / BEST

    @property
    def last(self) -> Path:
        """The checkpoint that a resumed run goes on from."""
        return self.output / LAST


def fit(config: Config, *, resume: bool = False, out: TextIO | None = None) -> FitResult:
    """Train a network as a recipe says.

    The output folder gets ``config.yaml``, ``metrics.csv``, ``best.ckpt``, ``last.ckpt`` and, with
    TensorBoard installed, its events in ``tensorboard``. Checkpoints are written at the end of an epoch and
    every ``checkpoint_every`` steps within it; killed at any moment and resumed, a run ends with the weights
    of one that was never killed (fp32 on the CPU, same machine, same number of ranks; not yet measured on a
    GPU). Weights, crops, order and dropout
    are functions of the seed; torch's global generator is left as it was.

    A checkpoint's ``state_dict`` holds the weights that were validated: with ``ema`` the averaged ones, while
    those that training goes on with are in ``trained_state_dict``.

    Under torchrun every rank calls this. They share each batch of ``data.batch_size`` clips evenly, so that a
    recipe trains the same on any number of ranks, but for the batch norms' statistics, which are of a rank's
    share, and dropout, whose random numbers are a rank's own. Rank 0 alone writes and shows anything; an error
    on one rank stops all.

    Args:
        config: the recipe, see :func:`~vidops.training.load_config`.
        resume: go on from ``last.ckpt`` of the output folder; without one, start at the beginning. A finished
            run is returned as it is.
        out: where progress is shown; None shows nothing.

    Returns:
        Folder and figures.

    Raises:
        FileNotFoundError: a list, a listed video or the initial weights are missing.
        FileExistsError: the output folder holds a run and ``resume`` is False.
        ValueError: the recipe does not fit its data, network or number of ranks; recipe, lists or number of
            ranks differ from those of the run to resume; the ranks do not find the same recipe, lists and
            checkpoint; another process trains in the output folder.
        NonFiniteLossError: a batch's loss or gradient is not finite; the last good checkpoint is kept.
        VideoError: too many training videos are broken, or one validation video; the validation list is
            checked before the first epoch.

    Example:
        >>> from vidops.training import load_config
        >>> fit(load_config("configs/demo/tiny_tsn.yaml", ["data.root=no/such/folder"]))
        Traceback (most recent call last):
        FileNotFoundError: no/such/folder/train.csv: no such annotation file or folder
    """
    ranks = join(on_gpu(config))
    out = out if ranks.first else None
    with torch.random.fork_rng(_gpus(config, ranks)):
        start = ranks.together(lambda: prepare(config, ranks, resume=resume, out=out))
        refuse_disagreement(start, config, ranks)
        if isinstance(start, Checkpoint):
            return _finished(start, config, out)
        with contextlib.ExitStack() as held:
            ranks.together(lambda: held.enter_context(_claimed(config, start, ranks, resume=resume)))
            return _train(config, ranks, start, out)


@contextlib.contextmanager
def _claimed(config: Config, start: Start, ranks: Ranks, *, resume: bool) -> Iterator[None]:
    """Hold the output folder for the first rank, and see that it is still as it was when the start was prepared.

    Two runs of one folder would mix their logs and checkpoints, and a checkpoint that another run has replaced
    since belongs to other batches than those of the loader.
    """
    if not ranks.first:
        yield
        return
    output = Path(config.output)
    with locked(output / LOCK, f"output: {output}"):
        found, earlier = find_run(config, resume=resume, ranks=ranks.size), start.earlier
        places = [(run.epochs, run.batches) if run is not None else None for run in (found, earlier)]
        if places[0] != places[1]:
            raise ValueError(f"output: {output}: another run has gone on there meanwhile; start again")
        yield


def _gpus(config: Config, ranks: Ranks) -> list[int]:
    """List the GPUs whose random numbers are to be left as they were: a rank touches none but its own."""
    if not on_gpu(config):
        return []
    return list(range(torch.cuda.device_count())) if ranks.alone else [torch.cuda.current_device()]


def _train(config: Config, ranks: Ranks, start: Start, out: TextIO | None) -> FitResult:
    """Run what has been prepared."""
    module, output = start.module, Path(config.output)
    videos = len(start.train.dataset)  # type: ignore[arg-type]
    _introduce(config, start, ranks, out)
    if ranks.first:
        write_text(output / CONFIG, dump(config))
        for part in output.glob(".*.ckpt.*.tmp"):  # of a run killed while it wrote
            part.unlink()
    metrics = _open_log(output, start.steps, writes=ranks.first, columns=log_columns(module.task))
    best = BestAndLast(output, every=config.checkpoint_every, accumulate=config.accumulate)
    broken = BrokenVideos(videos, config.data.max_broken)
    terminal = Terminal(
        metrics, every=config.log_every, accumulate=config.accumulate, done=start.batches, out=out
    )
    averaging = [Averaging(config.ema, config.accumulate)] if config.ema is not None else []
    try:
        with _quiet(), fp32_of_gpus(tf32=config.tf32):
            trainer = _trainer(config, ranks, module.model, [broken, *averaging, terminal, best])
            _run(trainer, module, start.train, start.val, start.earlier)
    except NonFiniteLossError as error:
        last = output / LAST
        good = "step" if config.checkpoint_every else "epoch"
        kept = f"{last} holds the last good {good}" if last.exists() else f"no {good} was finished"
        raise NonFiniteLossError(f"{error}; {kept}") from None
    finally:
        metrics.close()
    if broken.broken:
        _say(
            out, f"{len(broken.broken)} of {videos:,} training {module.task.samples} were broken and left out"
        )
    reasons = list(broken.broken.values())
    return FitResult(output, config.epochs, module.metrics, module.task.score, best.best, reasons)


def _introduce(config: Config, start: Start, ranks: Ranks, out: TextIO | None) -> None:
    """Say what is about to be trained."""
    module, earlier = start.module, start.earlier
    _say(out, f"{config.model.name}: {count_params(module.model):,} parameters", end=", ")
    _say(out, f"{len(module.classes)} classes, {len(start.train.dataset):,} training and", end=" ")  # type: ignore[arg-type]
    _say(out, f"{len(start.val.dataset):,} validation {module.task.samples}")  # type: ignore[arg-type]
    if not ranks.alone:
        _say(out, f"{ranks.size} ranks, {config.data.batch_size // ranks.size} clips a batch on each")
    if config.optimizer.lr_batch is not None:
        clips = config.data.batch_size * config.accumulate
        scale = f"{config.optimizer.lr:g} x {clips} / {config.optimizer.lr_batch} clips a step"
        _say(out, f"learning rate {scaled_rate(config):g} = {scale}")
    if earlier is not None:
        within = f" and {earlier.batches} of {len(start.train)} batches" if earlier.batches else ""
        _say(out, f"resuming {config.output} after epoch {earlier.epochs}{within}")


def _finished(earlier: Checkpoint, config: Config, out: TextIO | None) -> FitResult:
    output = Path(config.output)
    _say(out, f"{output}: finished already, {earlier.epochs} of {config.epochs} epochs")
    states = torch.load(earlier.path, map_location="cpu", weights_only=True)["callbacks"]
    best, broken = states[BestAndLast.__qualname__]["best"], states[BrokenVideos.__qualname__]["broken"]
    score = task_of(config).score
    return FitResult(output, earlier.epochs, earlier.metrics, score, best, list(broken.values()))


def _trainer(config: Config, ranks: Ranks, net: nn.Module, callbacks: list[pl.Callback]) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cuda" if on_gpu(config) else "cpu",
        max_epochs=config.epochs,
        precision=PRECISIONS[config.precision],
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.clip_norm,
        # Lightning keeps nothing of its own, and takes up no hpc_ckpt_1.ckpt that lies in the output folder.
        default_root_dir=os.devnull,
        logger=False,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **_placement(config, ranks, net),
    )


def _placement(config: Config, ranks: Ranks, net: nn.Module) -> dict[str, Any]:
    """Give the trainer's arguments about processes."""
    if ranks.alone:
        # In a SLURM job Lightning would write checkpoints of its own at SIGUSR1, and requeue the job.
        return {"devices": 1, "plugins": [AtomicCheckpointIO(), LightningEnvironment()]}
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    # Buffers are shared once an epoch by Recognizer: ranks run unequal numbers of validation batches. Looking
    # for unused parameters keeps DDP from sorting its buckets anew after the first backward pass of a process:
    # with three ranks or more a resumed run would add its gradients in another order than an unbroken one. Two
    # ranks add up alike in any order, and are spared the search and its warning. A network that leaves
    # parameters out of some steps says so by its attribute `unused_parameters`.
    strategy = DDPStrategy(
        cluster_environment=TorchElasticEnvironment(),
        process_group_backend="cpu:gloo,cuda:nccl" if on_gpu(config) else "gloo",
        broadcast_buffers=False,
        find_unused_parameters=ranks.size > 2 or getattr(net, "unused_parameters", False),
    )
    return {
        "devices": here,
        "num_nodes": ranks.size // here,
        "strategy": strategy,
        "plugins": [AtomicCheckpointIO()],
    }


def _run(trainer: pl.Trainer, module: Recognizer, train: Any, val: Any, earlier: Checkpoint | None) -> None:
    """Fit, and turn Lightning's exit on Ctrl-C back into KeyboardInterrupt."""
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if in_main else None
    progress = Place(train, val)
    trainer.callbacks.append(progress)  # type: ignore[attr-defined]
    try:
        with naming_lost_workers(lambda: progress.place):
            trainer.fit(module, train, val, ckpt_path=earlier.path if earlier is not None else None)
    except SystemExit:
        if not trainer.interrupted:
            raise
        raise KeyboardInterrupt from None
    finally:
        if handler is not None:
            signal.signal(signal.SIGINT, handler)


def _open_log(output: Path, steps: int, *, writes: bool, columns: list[str]) -> MetricsLog:
    """Open metrics.csv and, if TensorBoard is installed, its events, both cut off after ``steps``."""
    writer, events = None, output / "tensorboard"
    if writes and importlib.util.find_spec("tensorboard") is not None:
        from torch.utils.tensorboard import SummaryWriter

        earlier = [int(path.name.split(".")[3]) for path in events.glob("events.out.tfevents.*.*")]
        # TensorBoard reads a folder's files in the order of their names, which begin with the second.
        wait = max(earlier, default=0) + 1 - time.time()
        if 0 < wait <= 1:
            time.sleep(wait)
        writer = SummaryWriter(events, purge_step=steps + 1 if earlier else None)
    return MetricsLog(output / METRICS, step=steps, tensorboard=writer, writes=writes, columns=columns)


def _say(out: TextIO | None, text: str, end: str = "\n") -> None:
    if out is not None:
        print(text, file=out, flush=True, end=end)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's tips and hints off the terminal: they are about options that are decided here."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        logger.setLevel(level)
