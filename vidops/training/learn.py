"""Does it learn? Tiny networks trained on the synthetic datasets, and loss curves of one backend against another.

    python -m vidops.training.learn [NETWORK ...] --data runs/motion --actors runs/actors --output runs/learn

trains each recipe of ``configs/demo`` (or those named), measures it and exits with 1 if one falls short.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import numpy as np
import numpy.typing as npt
import torch

from vidops.data import MOTION_PAIRS, make_motion
from vidops.evaluation import Report, evaluate

from .config import Config, load_config, override, shipped_recipes
from .learn_actors import actors_table, learn_actors
from .loading import STEP, derive_seed, training_loader
from .optim import build_optimizer, build_schedule
from .ranks import Ranks
from .start import build_network
from .task import task_of
from .trainer import fit

# What a network must reach on the motion dataset; one that sees no order must stay at chance within pairs.
REQUIRED = {"tiny_mstnet": 0.97}
REQUIRED_OF_OTHERS = 0.90
ORDERLESS = frozenset({"tiny_tsn"})
# One that squeezes a clip to few images loses its order, but not which pair the motion is of.
SQUEEZING = frozenset({"tiny_tesnet"})
# A network of two pathways, trained beside each of them alone, falls at most so far behind the better one.
PATHWAYS = {"tiny_bqn": ("tiny_mbpm", "tiny_mbpm_quiet")}
BEHIND = 0.01
# What these know of a direction in time they must have from the frames' order: at chance within pairs without it.
SHUFFLED = frozenset({"tiny_mf_kpsem", "tiny_r3d_kpsem"})
SAMPLES = 400


@dataclass(frozen=True)
class Learned:
    """What a network learned.

    Args:
        name: of the network and its recipe.
        samples: validation clips.
        top1: accuracy over all classes.
        within_pairs: accuracy when only a clip's class and its mirrored class are asked.
        requirement: what had to hold.
        passed: whether it held.
        seconds: of training and measuring.
        shuffled: ``within_pairs`` when each clip's frames stand in random order; None where it is not measured.
    """

    name: str
    samples: int
    top1: float
    within_pairs: float
    requirement: str
    passed: bool
    seconds: float
    shuffled: float | None = None


def learn(
    names: Sequence[str] = (),
    *,
    data: str | Path,
    output: str | Path,
    configs: str | Path | None = None,
    overrides: Sequence[str] = (),
    out: TextIO | None = None,
) -> list[Learned]:
    """Train tiny networks on the motion dataset and hold each against what it must reach.

    Args:
        names: recipes in ``configs`` for clips, by name; none for all of them.
        data: folder of the motion dataset; made, with four pairs, 2,400 and 400 clips, if it does not exist.
        output: folder for the runs, one folder a network; an earlier run of the same network is replaced.
        configs: folder of recipes; None takes the ``configs/demo`` that come with vidops.
        overrides: ``key=value`` texts for every recipe.
        out: where progress is shown; None shows nothing.

    Returns:
        One result a network.

    Raises:
        FileNotFoundError: there is no such recipe.
        ValueError: a recipe is wrong, or the dataset has too few validation clips to tell.

    Example:
        >>> learn(["no_net"], data="runs/motion", output="runs/learn", configs="configs/demo")
        Traceback (most recent call last):
        FileNotFoundError: config configs/demo/no_net.yaml: no such file
    """
    folder = shipped_recipes() / "demo" if configs is None else Path(configs)
    data, output = Path(data), Path(output)
    names = list(names) or sorted(path.stem for path in folder.glob("tiny_*.yaml") if not of_actors(path))
    recipes = [_recipe(folder / f"{n}.yaml", data, output, overrides) for n in names]
    if not data.exists():
        make_motion(data, progress=out is not None and out.isatty())
    results = []
    for name, config in zip(names, recipes, strict=True):
        start = time.perf_counter()
        shutil.rmtree(config.output, ignore_errors=True)
        last = fit(config, out=out).last
        result = judge(name, evaluate(last))
        if name in SHUFFLED:
            mixed = override(config, ["data.shuffle_frames=true"], name)
            result = without_order(result, evaluate(last, mixed))
        results.append(replace(result, seconds=time.perf_counter() - start))
    return [beside_pathways(result, results) for result in results]


def of_actors(recipe: Path) -> bool:
    """Tell whether a recipe trains a network of actors, which `learn_actors` does.

    Args:
        recipe: the YAML file.
    """
    return load_config(recipe).data.format == "ava"


def _recipe(path: Path, data: Path, output: Path, overrides: Sequence[str] = ()) -> Config:
    # A JSON text is YAML whatever characters a path holds.
    places = [f"data.root={json.dumps(str(data))}", f"output={json.dumps(str(output / path.stem))}"]
    return load_config(path, [*places, *overrides])


def beside_pathways(result: Learned, results: Sequence[Learned]) -> Learned:
    """Hold a network of two pathways against each of them alone, where those were trained too.

    Args:
        result: of any network.
        results: of all networks.

    Returns:
        The result; not passed where it is more than a point below the better pathway.
    """
    alone = [other.top1 for other in results if other.name in PATHWAYS.get(result.name, ())]
    if not alone:
        return result
    least = max(alone) - BEHIND
    requirement = f"{result.requirement}, and {least:.2%} by its better pathway"
    passed = result.passed and result.top1 >= least - 1e-9
    return replace(result, requirement=requirement, passed=passed)


def without_order(result: Learned, report: Report) -> Learned:
    """Hold a network against chance on clips whose frames are shuffled.

    Args:
        result: of the network on clips as they are.
        report: of the same network on shuffled ones, with logits.

    Returns:
        The result; not passed where the network still tells a motion from its mirror image in time.
    """
    sigma = math.sqrt(0.25 / report.samples)
    pairs = within_pairs(report)
    requirement = (
        f"{result.requirement}, frames shuffled 50 % +- {3 * sigma:.1%} within pairs, is {pairs:.1%}"
    )
    passed = result.passed and abs(pairs - 0.5) <= 3 * sigma
    return replace(result, requirement=requirement, passed=passed, shuffled=pairs)


def judge(name: str, report: Report) -> Learned:
    """Hold a report on the motion dataset against what its network must reach.

    Args:
        name: of the network.
        report: with logits, on at least 400 clips.

    Returns:
        The result.

    Raises:
        ValueError: there are too few clips to tell.
    """
    if report.samples < SAMPLES:
        raise ValueError(
            f"{name}: {report.samples} validation clips are too few to judge by, it takes {SAMPLES}"
        )
    pairs = within_pairs(report)
    if name in ORDERLESS:
        sigma = math.sqrt(0.25 / report.samples)
        passed, requirement = abs(pairs - 0.5) <= 3 * sigma, f"50 % +- {3 * sigma:.1%} within pairs"
    elif name in SQUEEZING:
        pair = of_pair(report)
        passed, requirement = (
            pair >= REQUIRED_OF_OTHERS,
            f"pair told of {REQUIRED_OF_OTHERS:.0%} of clips, is of {pair:.1%}",
        )
    else:
        least = REQUIRED.get(name, REQUIRED_OF_OTHERS)
        passed, requirement = report.top1 >= least, f"top-1 at least {least:.0%}"
    return Learned(name, report.samples, report.top1, pairs, requirement, passed, 0.0)


def within_pairs(report: Report) -> float:
    """Measure how well a network tells a motion from its mirror image in time.

    Args:
        report: on classes of the motion dataset, with logits.

    Returns:
        Share of clips whose class has a higher logit than its mirrored class; equal logits count half.

    Raises:
        ValueError: the report has no logits, or a class has no mirrored class in it.

    Example:
        >>> scores = np.array([[2.0, 1.0], [2.0, 1.0]], np.float32)
        >>> labels = np.array([0, 1])
        >>> within_pairs(Report(["right", "left"], np.array([[1, 0], [1, 0]]), 1.0, 0.1, {}, scores, labels))
        0.5
    """
    own, other = _own_and_mirrored(report)
    return float(np.mean((own > other) + 0.5 * (own == other)))


def of_pair(report: Report) -> float:
    """Measure how well a network tells which pair of mirrored motions a motion is of.

    Args:
        report: on classes of the motion dataset, with logits.

    Returns:
        Share of clips of whose pair one class has the highest logit of all.

    Raises:
        ValueError: the report has no logits, or a class has no mirrored class in it.

    Example:
        >>> scores = np.array([[2.0, 1.0, 0.0, 0.0], [2.0, 1.0, 3.0, 0.0]], np.float32)
        >>> labels = np.array([1, 1])
        >>> of_pair(Report(["right", "left", "up", "down"], np.eye(4, dtype=np.int64), 1.0, 0.1, {}, scores, labels))
        0.5
    """
    best = np.maximum(*_own_and_mirrored(report))
    assert report.logits is not None
    return float(np.mean(best >= report.logits.max(1)))


def _own_and_mirrored(report: Report) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Look up every clip's logits of its class and of its mirrored class."""
    if report.logits is None or report.labels is None:
        raise ValueError("report: holds no logits")
    mirrored = {a: b for pair in MOTION_PAIRS.values() for a, b in itertools.permutations(pair)}
    alone = [name for name in report.classes if mirrored.get(name) not in report.classes]
    if alone:
        raise ValueError(f"report: class {alone[0]!r} has no mirrored class in it")
    partner = np.array([list(report.classes).index(mirrored[name]) for name in report.classes])
    rows = np.arange(len(report.labels))
    return report.logits[rows, report.labels], report.logits[rows, partner[report.labels]]


def loss_curve(config: Config, steps: int = 20) -> list[float]:
    """Run a recipe's first training steps in this process, on the CPU, without logs or files.

    Called with recipes that differ in ``backend`` alone, it shows whether two backends train alike. A step is one
    batch here: ``accumulate``, ``clip_norm``, ``freeze_norms``, ``ema`` and ``joint`` are left aside.

    Args:
        config: the recipe.
        steps: how many.

    Returns:
        The loss of each step.

    Raises:
        ValueError: the recipe does not fit its data.
    """
    task = task_of(config)
    annotations = task.read("train")
    dataset = task.dataset(annotations, training=True)
    loader = training_loader(config, dataset, collate_fn=task.collate)
    losses: list[float] = []
    with torch.random.fork_rng([]):
        net = build_network(config, len(annotations.classes or [])).train()
        optimizer = build_optimizer(config, net)
        schedule = build_schedule(config, optimizer, len(loader))
        for epoch in range(config.epochs):
            loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
            for i, batch in enumerate(loader):
                if len(losses) == steps:
                    return losses
                torch.manual_seed(derive_seed(config.seed, STEP, epoch, i))
                loss, _ = task.loss(net(*task.inputs(batch)), batch, Ranks())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
    return losses


def main(argv: Sequence[str] | None = None) -> int:
    """Train, print a table, and tell by the exit status whether all networks reached what they must.

    Args:
        argv: arguments; None takes those of the command line.

    Returns:
        0, or 1 if a network fell short.
    """
    parser = argparse.ArgumentParser(prog="python -m vidops.training.learn")
    parser.description = "Train tiny networks on the synthetic datasets and check what they reach."
    parser.add_argument("names", nargs="*", metavar="NETWORK", help="recipes in configs/demo (default: all)")
    parser.add_argument("--data", default="runs/motion", help="motion dataset, made if it is not there")
    parser.add_argument("--actors", default="runs/actors", help="detection set, made if it is not there")
    parser.add_argument(
        "--output", default="runs/learn", help="folder for the runs; earlier ones are replaced"
    )
    args = parser.parse_args(argv)
    folder = shipped_recipes() / "demo"
    names = args.names or sorted(path.stem for path in folder.glob("tiny_*.yaml"))
    actors = [name for name in names if of_actors(folder / f"{name}.yaml")]
    clips = [name for name in names if name not in actors]
    results = learn(clips, data=args.data, output=args.output, out=sys.stdout) if clips else []
    recipes = [_recipe(folder / f"{name}.yaml", Path(args.actors), Path(args.output)) for name in actors]
    found = [learn_actors(name, config, out=sys.stdout) for name, config in zip(actors, recipes, strict=True)]
    if results:
        _print(results)
    if found:
        print(actors_table(found))
    return 0 if all([r.passed for r in results] + [r.passed for r in found]) else 1


def _print(results: Sequence[Learned]) -> None:
    width = max(len(r.name) for r in results)
    print(f"\n{'network':{width}}    clips     top-1   in pairs      time   required")
    for r in results:
        figures = f"{r.samples:6d}   {r.top1:7.2%}   {r.within_pairs:8.2%}   {r.seconds:5.0f} s"
        print(f"{r.name:{width}}   {figures}   {r.requirement}: {'yes' if r.passed else 'NO'}")


if __name__ == "__main__":
    sys.exit(main())
