"""What scale and size the motion band-pass should have: figure 5.3 of Huang's thesis, on the motion dataset."""

from __future__ import annotations

import csv
import io
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from vidops._files import write_text
from vidops.data import make_motion
from vidops.models import create_model

from .config import Config, load_config, shipped_recipes
from .trainer import fit

KINDS = ("trained", "fixed")
RECIPE = "tiny_mbpm"
TABLE, PICTURE = "sweep.csv", "sweep.png"


@dataclass(frozen=True)
class Trial:
    """One trained network.

    Args:
        sigma: scale of the Laplacian of Gaussian, pixels.
        kernel_size: its size k.
        kind: ``"trained"``, or ``"fixed"`` where the band-pass kept its initial values.
        seed: of the run.
        top1: validation accuracy after the last epoch, a share of one.
        loss: validation loss after it.
    """

    sigma: float
    kernel_size: int
    kind: str
    seed: int
    top1: float
    loss: float


def sweep(
    output: str | Path,
    *,
    data: str | Path | None = None,
    sigmas: Sequence[float],
    kernel_sizes: Sequence[int],
    kinds: Sequence[str] = KINDS,
    runs: int = 1,
    overrides: Sequence[str] = (),
    out: TextIO | None = None,
) -> list[Trial]:
    """Train the tiny network fed with busy frames once for each scale and size of its band-pass.

    After each network ``sweep.csv`` and ``sweep.png`` in the output folder hold what has been measured. Started again
    with the same arguments it goes on where it stopped, within a network too; with more scales or sizes it trains
    those that are missing.

    Args:
        output: folder for the table, the picture and a folder each network.
        data: folder of the motion dataset; None for ``motion`` in the output
            folder. Made, with four pairs, 2,400 and 400 clips, if it does not exist.
        sigmas: scales in pixels.
        kernel_sizes: odd sizes.
        kinds: ``"trained"``, ``"fixed"``, or both.
        runs: networks for each setting, with the seeds 0, 1, ...; the picture has their mean.
        overrides: ``key=value`` texts for the recipe, ``configs/demo/tiny_mbpm.yaml``.
        out: where progress is shown; None shows nothing.

    Returns:
        A trial each network: by seed, then size, then kind, then scale.

    Raises:
        ValueError: an argument is out of range or twice there, or a recipe differs from that of the run to go on with.

    Source: Huang's thesis, figure 5.3 and section 5.5.2.

    Example:
        >>> sweep("runs/sweep", sigmas=[1.1], kernel_sizes=[4])
        Traceback (most recent call last):
        ValueError: kernel_sizes must be odd and at least 1, got 4
    """
    _check(sigmas, kernel_sizes, kinds, runs)
    output = Path(output)
    data = output / "motion" if data is None else Path(data)
    settings = list(itertools.product(range(runs), kernel_sizes, kinds, sigmas))
    configs = [_recipe(data, output, *setting, overrides) for setting in settings]
    if not data.exists():
        make_motion(data, progress=out is not None and out.isatty())
    trials: list[Trial] = []
    seconds: list[float] = []
    for i, (setting, config) in enumerate(zip(settings, configs, strict=True)):
        seed, kernel_size, kind, sigma = setting
        _say(
            out,
            f"[{i + 1}/{len(settings)}] sigma {sigma:g}, {kernel_size} x {kernel_size}, {kind}, seed {seed}",
        )
        start, whole = time.perf_counter(), not Path(config.output).exists()
        metrics = fit(config, resume=True, out=out).metrics
        trials.append(Trial(sigma, kernel_size, kind, seed, metrics["val_top1"], metrics["val_loss"]))
        _write(output, trials)
        if whole:  # a run that was gone on with says nothing about the time of the others
            seconds.append(time.perf_counter() - start)
            left = (len(settings) - i - 1) * sum(seconds) / len(seconds)
            _say(out, f"top-1 {metrics['val_top1']:.2%}; about {left / 60:.0f} minutes left")
    return trials


def read_trials(path: str | Path) -> list[Trial]:
    """Read the table that a sweep wrote.

    Args:
        path: ``sweep.csv``.

    Returns:
        Its rows.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else.

    Example:
        >>> read_trials("no/such/sweep.csv")
        Traceback (most recent call last):
        FileNotFoundError: table no/such/sweep.csv: no such file
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"table {path}: no such file")
    with open(path, newline="", encoding="utf-8") as file:
        try:
            return [
                Trial(
                    float(row["sigma"]),
                    int(row["kernel_size"]),
                    row["kind"],
                    int(row["seed"]),
                    float(row["top1"]),
                    float(row["loss"]),
                )
                for row in csv.DictReader(file)
            ]
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"table {path}: is not the sweep.csv of vidops sweep") from None


def _check(sigmas: Sequence[float], kernel_sizes: Sequence[int], kinds: Sequence[str], runs: int) -> None:
    for name, values in (("sigmas", sigmas), ("kernel_sizes", kernel_sizes), ("kinds", kinds)):
        if not values or len(set(values)) != len(values):
            raise ValueError(f"{name} must be given, each once, got {', '.join(map(str, values)) or 'none'}")
    for size in kernel_sizes:
        if size < 1 or size % 2 == 0:
            raise ValueError(f"kernel_sizes must be odd and at least 1, got {size}")
    for sigma in sigmas:
        if not 0 < sigma < float("inf"):
            raise ValueError(f"sigmas must be above 0, got {sigma}")
    if not set(kinds) <= set(KINDS):
        raise ValueError(f"kinds must be some of {', '.join(KINDS)}, got {', '.join(kinds)}")
    if runs < 1:
        raise ValueError(f"runs must be at least 1, got {runs}")


def _recipe(
    data: Path, output: Path, seed: int, kernel_size: int, kind: str, sigma: float, overrides: Sequence[str]
) -> Config:
    """Make the recipe of one network, and see that it can be built."""
    folder = output / "runs" / f"sigma{sigma:g}_k{kernel_size}_{kind}_{seed}"
    config = load_config(
        shipped_recipes() / "demo" / f"{RECIPE}.yaml",
        [
            f"data.root={json.dumps(str(data))}",  # a JSON text is YAML whatever characters a path holds
            *overrides,
            f"output={json.dumps(str(folder))}",
            f"seed={seed}",
            f"model.options.sigma={sigma}",
            f"model.options.kernel_size={kernel_size}",
            f"model.options.trainable={json.dumps(kind == 'trained')}",
        ],
    )
    create_model(config.model.name, num_segments=config.model.num_segments, **config.model.options)
    return config


def _write(output: Path, trials: Sequence[Trial]) -> None:
    from vidops.visualize import save, sweep_plot

    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, list(asdict(trials[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(trial) for trial in trials)
    write_text(output / TABLE, table.getvalue())
    save(sweep_plot(trials), output / PICTURE)


def _say(out: TextIO | None, text: str) -> None:
    if out is not None:
        print(text, file=out, flush=True)
