"""Measure a network on every video of a list, once each."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from vidops._files import write_text
from vidops.data import AnnotationList
from vidops.models import create_model, load_weights
from vidops.training.checkpoint import is_checkpoint, read_checkpoint, restore
from vidops.training.checks import check_finite, refuse_broken
from vidops.training.config import Config, differences
from vidops.training.loading import build_dataset, evaluation_loader, on_gpu, read_list

from .metrics import Counts, Report


def evaluate(
    weights: str | Path,
    config: Config | None = None,
    *,
    split: str = "val",
    json_path: str | Path | None = None,
    out: TextIO | None = None,
) -> Report:
    """Measure a checkpoint, or bare weights with a recipe, on a list of videos.

    Args:
        weights: a checkpoint of ``vidops train``, or a file of bare weights, which needs a recipe.
        config: the recipe that says what to measure on; None takes the checkpoint's own.
        split: ``"val"`` or ``"train"``, which of the recipe's lists; both are read with test sampling and
            crops.
        json_path: where to write the report as JSON; whole or not at all.
        out: where a progress bar may be shown; it is, if that is a terminal.

    Returns:
        The report; every sample of the list is counted once.

    Raises:
        FileNotFoundError: weights, list or a listed video are missing.
        ValueError: the weights are no checkpoint or another network's than the recipe's; the text names the
            file.
        VideoError: a video cannot be read.
        NonFiniteLossError: the network's output for a video is not finite.

    Example:
        >>> evaluate("no/such/best.ckpt")
        Traceback (most recent call last):
        FileNotFoundError: no/such/best.ckpt: no such file
    """
    net, config, annotations = _prepare(Path(weights), config, split)
    report = measure(net, config, annotations, out=out)
    measured = str(Path(config.data.root) / getattr(config.data, split))
    report = replace(report, origin={"model": config.model.name, "weights": str(weights), "list": measured})
    if json_path is not None:
        write_text(json_path, json.dumps(report.as_dict(), indent=1) + "\n")
    return report


def measure(
    net: nn.Module, config: Config, annotations: AnnotationList, *, out: TextIO | None = None
) -> Report:
    """Measure a network on a list of videos, with a recipe's sampling, test crops and precision.

    Args:
        net: from clips (N, 3, T, H, W) to logits (N, K).
        config: the recipe.
        annotations: videos, labels and K class names.
        out: where a progress bar may be shown; it is, if that is a terminal.

    Returns:
        The report.

    Raises:
        VideoError: a video cannot be read.
        NonFiniteLossError: the network's output for a video is not finite.
    """
    classes: Sequence[str] = annotations.classes or []
    loader = evaluation_loader(config, build_dataset(config, annotations, training=False))
    device = torch.device("cuda" if on_gpu(config) else "cpu")
    counts = Counts(len(classes), device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    shown = out is not None and out.isatty()
    net = net.to(device).eval()
    with torch.inference_mode(), autocast(config, device):
        for batch in tqdm(
            loader, desc="evaluate", unit="batch", leave=False, file=out or sys.stderr, disable=not shown
        ):
            refuse_broken(batch)
            logits = net(batch["clip"].to(device, non_blocking=True)).float()
            check_finite(logits, batch["path"])
            labels = batch["label"].to(device)
            counts.update(logits, labels)
            loss += F.cross_entropy(logits, labels, reduction="sum")
            kept.append((logits, batch["label"]))
    return Report(
        classes,
        counts.confusion,
        counts.top5,
        float(loss) / counts.samples,
        logits=torch.cat([logits for logits, _ in kept]).cpu().numpy(),
        labels=torch.cat([labels for _, labels in kept]).numpy(),
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


def _prepare(weights: Path, config: Config | None, split: str) -> tuple[nn.Module, Config, AnnotationList]:
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
        return net, config, read_list(config, split, checkpoint.classes)
    annotations = read_list(config, split)
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
