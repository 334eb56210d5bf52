"""Run a recipe: check everything, then train, log and keep checkpoints."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from vidops._files import write_text
from vidops.models import count_params, create_model, load_weights

from .callbacks import (
    BEST,
    LAST,
    METRICS,
    AtomicCheckpointIO,
    BestAndLast,
    BrokenVideos,
    MetricsLog,
    Terminal,
)
from .checkpoint import Checkpoint, read_checkpoint
from .checks import NonFiniteLossError
from .config import Config, differences, dump
from .loading import (
    build_dataset,
    derive_seed,
    evaluation_loader,
    fingerprint,
    on_gpu,
    read_list,
    training_loader,
)
from .module import Recognizer

CONFIG = "config.yaml"
PRECISIONS: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}

# A run may be resumed with other values of these: they change where and how fast, not what.
FREE = (
    "output",
    "accelerator",
    "backend",
    "log_every",
    "data.root",
    "data.workers",
    "data.cache",
    "data.eval_batch_size",
    "data.max_broken",
)


@dataclass(frozen=True)
class FitResult:
    """What a run came to.

    Args:
        output: its folder.
        epochs: epochs finished.
        metrics: ``val_loss``, ``val_top1``, ``val_top5`` after the last of them.
        best_top1: the highest validation top-1 of any epoch, that of ``best.ckpt``.
        broken: reasons why training videos were left out.
    """

    output: Path
    epochs: int
    metrics: dict[str, float]
    best_top1: float
    broken: list[str]

    @property
    def best(self) -> Path:
        """The checkpoint with the highest validation top-1."""
        return self.output / BEST

    @property
    def last(self) -> Path:
        """The checkpoint of the last finished epoch."""
        return self.output / LAST


def fit(config: Config, *, resume: bool = False, out: TextIO | None = None) -> FitResult:
    """Train a network as a recipe says.

    The output folder gets ``config.yaml``, ``metrics.csv``, ``best.ckpt``, ``last.ckpt`` and, with
    TensorBoard installed, its events in ``tensorboard``. Checkpoints are written at the end of an epoch;
    killed at any moment and resumed, a run ends with the weights of one that was never killed (fp32, same
    machine). Weights, crops, order and dropout are functions of the seed; torch's global generator is left as
    it was.

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
        ValueError: the recipe does not fit its data, or recipe or lists differ from those of the run to resume.
        NonFiniteLossError: a batch's loss is not finite; the last good checkpoint is kept.
        VideoError: too many training videos are broken, or one validation video.

    Example:
        >>> from vidops.training import load_config
        >>> fit(load_config("configs/demo/tiny_tsn.yaml", ["data.root=no/such/folder"]))
        Traceback (most recent call last):
        FileNotFoundError: no/such/folder/train.csv: no such annotation file or folder
    """
    earlier = find_run(config, resume=resume)
    if earlier is not None and earlier.epochs >= config.epochs:
        return _finished(earlier, config, out)
    start = earlier.epochs if earlier is not None else 0
    train, val, classes = _loaders(config, start)
    lists = {
        f"data.{name}": fingerprint(loader.dataset.dataset.annotations, config.data.root)  # type: ignore[attr-defined]
        for name, loader in (("train", train), ("val", val))
    }
    if earlier is not None:
        _refuse_other_lists(earlier, lists)
    output, videos = Path(config.output), len(train.dataset)  # type: ignore[arg-type]
    with torch.random.fork_rng(list(range(torch.cuda.device_count())) if on_gpu(config) else []):
        net = build_network(config, len(classes))
        _say(out, f"{config.model.name}: {count_params(net):,} parameters, {len(classes)} classes", end=", ")
        _say(out, f"{videos:,} training and {len(val.dataset):,} validation videos")  # type: ignore[arg-type]
        if start:
            _say(out, f"resuming {output} after epoch {start}")
        write_text(output / CONFIG, dump(config))
        for part in output.glob(".*.ckpt.*.tmp"):  # of a run killed while it wrote
            part.unlink()
        module = Recognizer(config, net, classes, len(train), lists)
        metrics = _open_log(output, start * len(train))
        best, broken = BestAndLast(output), BrokenVideos(videos, config.data.max_broken)
        try:
            with _quiet():
                trainer = _trainer(config, [broken, Terminal(metrics, every=config.log_every, out=out), best])
                _run(trainer, module, train, val, earlier)
        except NonFiniteLossError as error:
            last = output / LAST
            kept = f"{last} holds the last good epoch" if last.exists() else "no epoch was finished"
            raise NonFiniteLossError(f"{error}; {kept}") from None
        finally:
            metrics.close()
    if broken.broken:
        _say(out, f"{len(broken.broken)} of {videos:,} training videos were broken and left out")
    return FitResult(output, config.epochs, module.metrics, best.best, list(broken.broken.values()))


def find_run(config: Config, *, resume: bool) -> Checkpoint | None:
    """Look for an earlier run in a recipe's output folder.

    Args:
        config: the recipe.
        resume: whether the run may be continued.

    Returns:
        Its last checkpoint, or None to start at the beginning.

    Raises:
        FileExistsError: there is a run and ``resume`` is False, or the output is a file.
        ValueError: the run's recipe differs, or its checkpoint is damaged.
    """
    output = Path(config.output)
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"output: {output} is a file, not a folder")
    traces = [name for name in (CONFIG, LAST, BEST, METRICS) if (output / name).exists()]
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
    changed = differences(earlier.config, config, ignore=FREE)
    if changed:
        key, before, now = changed[0]
        more = f" (and {len(changed) - 1} more keys)" if len(changed) > 1 else ""
        raise ValueError(
            f"{key}: the run in {output} has {before!r}, not {now!r}{more}; a resumed run keeps its recipe"
        )
    return earlier


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
    torch.manual_seed(derive_seed(config.seed))
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


def _finished(earlier: Checkpoint, config: Config, out: TextIO | None) -> FitResult:
    output = Path(config.output)
    _say(out, f"{output}: finished already, {earlier.epochs} of {config.epochs} epochs")
    states = torch.load(earlier.path, map_location="cpu", weights_only=True)["callbacks"]
    best, broken = states[BestAndLast.__qualname__]["best"], states[BrokenVideos.__qualname__]["broken"]
    return FitResult(output, earlier.epochs, earlier.metrics, best, list(broken.values()))


def _loaders(config: Config, start: int) -> tuple[DataLoader[Any], DataLoader[Any], list[str]]:
    """Build the loaders of training, from epoch ``start``, and of validation, and find the classes."""
    if config.precision == "fp16" and not on_gpu(config):
        raise ValueError("precision: fp16 needs a GPU; use bf16 or fp32 on a CPU")
    train = read_list(config, "train")
    classes = list(train.classes or [])
    val = read_list(config, "val", classes)
    return (
        training_loader(config, build_dataset(config, train, training=True), epoch=start),
        evaluation_loader(config, build_dataset(config, val, training=False, views=False)),
        classes,
    )


def _refuse_other_lists(earlier: Checkpoint, lists: dict[str, str]) -> None:
    """Under other videos or labels, the epochs that are left would not be those of the run that began."""
    for key, now in lists.items():
        if earlier.lists.get(key) != now:
            raise ValueError(
                f"{key}: names other videos, labels or classes than when the run in {earlier.path.parent} began"
                f" ({earlier.lists.get(key)} then, {now} now)"
            )


def _trainer(config: Config, callbacks: list[pl.Callback]) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cuda" if on_gpu(config) else "cpu",
        devices=1,
        max_epochs=config.epochs,
        precision=PRECISIONS[config.precision],
        default_root_dir=config.output,
        logger=False,
        plugins=[AtomicCheckpointIO()],
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def _run(trainer: pl.Trainer, module: Recognizer, train: Any, val: Any, earlier: Checkpoint | None) -> None:
    """Fit, and turn Lightning's exit on Ctrl-C back into KeyboardInterrupt."""
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if in_main else None
    try:
        trainer.fit(module, train, val, ckpt_path=earlier.path if earlier is not None else None)
    except SystemExit:
        if not trainer.interrupted:
            raise
        raise KeyboardInterrupt from None
    finally:
        if handler is not None:
            signal.signal(signal.SIGINT, handler)


def _open_log(output: Path, steps: int) -> MetricsLog:
    """Open metrics.csv and, if TensorBoard is installed, its events, both cut off after ``steps``."""
    writer = None
    if importlib.util.find_spec("tensorboard") is not None:
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(output / "tensorboard", purge_step=steps + 1 if steps else None)
    return MetricsLog(output / METRICS, step=steps, tensorboard=writer)


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
