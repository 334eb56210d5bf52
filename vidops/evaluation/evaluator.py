"""Measure a network on every video of a list, once each."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from vidops.data import AnnotationList
from vidops.models import create_model, load_weights
from vidops.training.checkpoint import is_checkpoint, read_checkpoint, restore
from vidops.training.checks import check_finite, refuse_broken
from vidops.training.config import Config, differences
from vidops.training.loading import build_dataset, evaluation_loader, on_gpu
from vidops.training.lost_workers import naming_lost_workers
from vidops.training.task import task_of

from .metrics import Report
from .ranks import gpu_of_rank, on_all_ranks, rank_and_size
from .recipe import classifies_actors, clips_at_a_time, describe_views, with_data, with_views
from .report import write_json
from .views import video_scores


def evaluate(
    weights: str | Path,
    config: Config | None = None,
    *,
    split: str = "val",
    views: str | None = None,
    average: str | None = None,
    batch_size: int | None = None,
    json_path: str | Path | None = None,
    out: TextIO | None = None,
) -> Report:
    """Measure a checkpoint, or bare weights with a recipe, on a list of videos.

    Under torchrun every rank measures its share of the videos, each video on one rank, and every rank returns
    the report of all of them; rank 0 alone writes and shows anything.

    Args:
        weights: a checkpoint of ``vidops train``, or a file of bare weights, which needs a recipe.
        config: the recipe that says what to measure on; None takes the checkpoint's own.
        split: ``"val"`` or ``"train"``, which of the recipe's lists; both are read with test sampling and
            crops.
        views: spatial crops x temporal clips of each video, such as ``"3x10"``; None takes the recipe's.
        average: what is averaged over the views, ``"logits"`` or ``"softmax"``; None takes the recipe's.
        batch_size: clips that run through the network at a time, on each rank; None takes the recipe's.
        json_path: where to write the report as JSON; whole or not at all.
        out: where a progress bar may be shown; it is, if that is a terminal.

    Returns:
        The report; every sample of the list is counted once. Its paths are relative to the root of the data.

    Raises:
        FileNotFoundError: weights, list or a listed video are missing.
        ValueError: the weights are no checkpoint or another network's than the recipe's; the text names the
            file. Or views, average or batch size are none, or the recipe is of actors, which
            :func:`vidops.evaluation.evaluate_actors` measures.
        VideoError: a video cannot be read.
        NonFiniteLossError: the network's output for a video is not finite.

    Example:
        >>> evaluate("no/such/best.ckpt")
        Traceback (most recent call last):
        FileNotFoundError: no/such/best.ckpt: no such file
    """
    origin: dict[str, str] = {}
    classes: list[str] = []

    def work(rank: int, size: int) -> _Part:
        net, used, annotations = prepare(Path(weights), config, split)
        if classifies_actors(used):
            raise ValueError(f"{weights}: classifies actors at key frames, which evaluate_actors measures")
        used = with_views(used, views=views, average=average, batch_size=batch_size)
        classes.extend(annotations.classes or [])
        origin.update(describe_run(used, weights, split))
        part = _measure_part(net, used, annotations, rank, size, out)
        return replace(part, paths=[_relative(path, used.data.root) for path in part.paths])

    report = _join(on_all_ranks(work), classes, origin)
    if json_path is not None and rank_and_size()[0] == 0:
        write_json(report, json_path)
    return report


def measure(
    net: nn.Module, config: Config, annotations: AnnotationList, *, out: TextIO | None = None
) -> Report:
    """Measure a network on a list of videos, with a recipe's sampling, test crops, views and precision.

    Args:
        net: from clips (N, 3, T, H, W) to logits (N, K); each rank its own.
        config: the recipe.
        annotations: videos, labels and K class names.
        out: where a progress bar may be shown; it is, if that is a terminal.

    Returns:
        The report, on every rank that of all videos.

    Raises:
        VideoError: a video cannot be read.
        NonFiniteLossError: the network's output for a video is not finite.
    """
    parts = on_all_ranks(lambda rank, size: _measure_part(net, config, annotations, rank, size, out))
    return _join(parts, annotations.classes or [], {})


@dataclass(frozen=True)
class _Part:
    """One rank's share of all ``videos``: indices, logits and labels on the CPU, and paths."""

    videos: int
    indices: Tensor
    logits: Tensor
    labels: Tensor
    paths: list[str]


def _measure_part(
    net: nn.Module, config: Config, annotations: AnnotationList, rank: int, size: int, out: TextIO | None
) -> _Part:
    """Run the network on the videos of one rank."""
    average = config.data.average
    clips, videos = clips_at_a_time(config.data)
    dataset = build_dataset(config, annotations, training=False)
    loader = evaluation_loader(with_data(config, eval_batch_size=videos), dataset, rank=rank, world_size=size)
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    paths: list[str] = []

    def measure_batch(batch: dict[str, Any], device: torch.device) -> None:
        logits = video_scores(net, batch["clip"].to(device, non_blocking=True), average=average, chunk=clips)
        check_finite(logits, batch["path"])
        kept.append((batch["index"], logits, batch["label"]))
        paths.extend(batch["path"])

    run_batches(net, config, loader, measure_batch, out=None if rank else out)
    if not kept:  # more ranks than videos
        empty = torch.empty(0, dtype=torch.int64)
        return _Part(len(dataset), empty, torch.empty(0, len(annotations.classes or [])), empty, [])
    indices, logits, labels = (torch.cat(column) for column in zip(*kept, strict=True))
    return _Part(len(dataset), indices, logits.cpu(), labels, paths)


def run_batches(
    net: nn.Module,
    config: Config,
    loader: DataLoader[dict[str, Any]],
    work: Callable[[dict[str, Any], torch.device], None],
    *,
    out: TextIO | None = None,
) -> None:
    """Go through the batches of a measurement, in the recipe's precision and without gradients.

    Args:
        net: is moved to the recipe's device and set to evaluate.
        config: the recipe.
        loader: of the batches.
        work: what is done with each one, given the device too.
        out: where a progress bar may be shown; it is, if that is a terminal.

    Raises:
        VideoError: a video of a batch is broken.
    """
    device = gpu_of_rank() if on_gpu(config) else torch.device("cpu")
    net.to(device).eval()
    done = 0
    lost = naming_lost_workers(lambda: ("evaluate", loader, done))
    with lost, torch.inference_mode(), autocast(config, device), fp32_of_gpus(tf32=config.tf32):
        hidden = out is None or not out.isatty()
        for batch in tqdm(
            loader, desc="evaluate", unit="batch", leave=False, file=out or sys.stderr, disable=hidden
        ):
            refuse_broken(batch)
            work(batch, device)
            done += 1


def _join(parts: Sequence[_Part], classes: Sequence[str], origin: dict[str, str]) -> Report:
    """Put the shares of all ranks in the order of the list and count."""
    indices = torch.cat([part.indices for part in parts])
    order = indices.argsort()
    if not torch.equal(indices[order], torch.arange(parts[0].videos)):
        raise RuntimeError("evaluate: the ranks did not measure each video once")
    paths = [path for part in parts for path in part.paths]
    return Report.of(
        classes,
        torch.cat([part.logits for part in parts])[order],
        torch.cat([part.labels for part in parts])[order],
        paths=[paths[i] for i in order.tolist()],
        origin=origin,
    )


def autocast(config: Config, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Give the context in which a recipe's network runs forward.

    Args:
        config: the recipe.
        device: where the network is.

    Returns:
        Autocast to the recipe's precision; nothing for fp32, nor for fp16 on a CPU.
    """
    if config.precision == "fp32" or (config.precision == "fp16" and device.type == "cpu"):
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if config.precision == "bf16" else torch.float16)


@contextlib.contextmanager
def fp32_of_gpus(*, tf32: bool) -> Iterator[None]:
    """Say for a block what GPUs make of fp32; convolutions are rounded to TF32 where nobody asks them not to.

    Args:
        tf32: round to TF32; else compute in fp32.

    Example:
        >>> with fp32_of_gpus(tf32=False):
        ...     torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        ('highest', False)
    """
    backends: Any = torch.backends  # torch's annotations lack cudnn.conv
    places = (backends.cuda.matmul, backends.mkldnn.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    before = [place.fp32_precision for place in places]
    try:
        # By torch's older settings: Lightning and inductor ask for their values, and torch has none to give after
        # the newer ones alone have been changed.
        _set_fp32(matmul=tf32, convolutions=tf32)
        yield
    finally:
        _set_fp32(matmul=before[0] == "tf32", convolutions=before[2] == "tf32")
        for place, value in zip(places, before, strict=True):
            place.fp32_precision = value


def _set_fp32(*, matmul: bool, convolutions: bool) -> None:
    torch.set_float32_matmul_precision("high" if matmul else "highest")
    torch.backends.cudnn.allow_tf32 = convolutions


def describe_run(config: Config, weights: str | Path, split: str) -> dict[str, str]:
    """Say what is measured.

    Args:
        config: the recipe.
        weights: file.
        split: ``"val"`` or ``"train"``.

    Returns:
        Model, weights, list and views.
    """
    origin = {"model": config.model.name, "weights": str(weights), "list": describe_list(config, split)}
    return {**origin, "views": describe_views(config.data)}


def describe_list(config: Config, split: str) -> str:
    """Say which list a recipe is measured on.

    Args:
        config: the recipe.
        split: ``"val"`` or ``"train"``.

    Returns:
        Its file, of HMDB51 with the split.
    """
    data = config.data
    source = str(Path(data.root) / getattr(data, split))
    # HMDB51's three splits lie in one folder.
    return f"{source}, split {data.split}" if data.format == "hmdb51" or data.split != 1 else source


def _relative(path: str, root: str) -> str:
    """Give a path from the root of the data, so that runs on several machines name a video alike."""
    if not Path(path).is_relative_to(root):
        return path
    return os.path.relpath(path, root).replace(os.sep, "/")


def _refuse_lost_list(weights: Path, config: Config, split: str) -> None:
    """A recipe's relative paths start from the folder that training was started in: say so elsewhere."""
    root = Path(config.data.root)
    source = root / getattr(config.data, split)
    if source.exists() or root.is_absolute():
        return
    raise FileNotFoundError(
        f"{source.absolute()}: no such annotation file or folder; {weights} has data.root={config.data.root}, which"
        " starts from the folder that training was started in: go there, or give the recipe and the videos' place"
        f" with --config {weights.parent / 'config.yaml'} data.root=..."
    )


def prepare(weights: Path, config: Config | None, split: str) -> tuple[nn.Module, Config, Any]:
    """Build a network and read the list that it is to be measured on.

    Args:
        weights: a checkpoint, or a file of bare weights.
        config: the recipe; None takes the checkpoint's own.
        split: ``"val"`` or ``"train"``.

    Returns:
        Network, recipe, and the list as the recipe's task reads it.

    Raises:
        FileNotFoundError: weights, list or a listed video are missing.
        ValueError: the weights are no checkpoint or another network's than the recipe's.
    """
    if split not in ("train", "val"):
        raise ValueError(f"split must be train or val, got {split!r}")
    if config is None or is_checkpoint(weights):
        checkpoint = read_checkpoint(weights)
        if config is None:
            config = checkpoint.config
        for key, there, here in differences(checkpoint.config, config):
            if key == "model.name" or key == "model.num_segments" or key.startswith("model.options"):
                raise ValueError(
                    f"{weights}: is a checkpoint of another network: {key} is {there!r}, not {here!r}"
                )
        net = restore(checkpoint, backend=config.backend)
        _refuse_lost_list(weights, config, split)
        return net, config, task_of(config).read(split, checkpoint.classes)
    annotations = task_of(config).read(split)
    model = config.model
    net = create_model(
        model.name,
        num_classes=len(annotations.classes or []),
        num_segments=model.num_segments,
        backend=config.backend,
        **model.options,
    )
    load_weights(net, weights)
    return net, config, annotations
