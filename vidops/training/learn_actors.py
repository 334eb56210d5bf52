"""Does it learn? Tiny networks of actors trained on the synthetic detection set, with and without what sees time."""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from vidops.data import make_actors
from vidops.data._actor_scenes import ACTOR_PAIRS
from vidops.evaluation import ActorReport, evaluate_actors

from .config import Config, override
from .trainer import fit

# Frame mAP that a network whose attention sees time must reach, and of what the order of frames tells the share above
# chance that it must lose where every module sees a frame at a time.
LEAST, LOST = 0.8, 2 / 3
WITHOUT_TIME = {"ssfa": "fast", "tsfa": False}
# What any one frame tells, by networks in which nothing sees time.
LEAST_OF_LOOKS = 0.9
TIMELESS = frozenset({"tiny_i3d_actors"})


@dataclass(frozen=True)
class ActorsLearned:
    """What a network of actors learned.

    Args:
        name: of its recipe.
        boxes: validation boxes.
        frame_map: mean over the scored classes.
        precisions: average precision of each.
        ordered: mean over those that the order of frames tells.
        without_time: the same of the network without what sees time; None where it is not trained.
        precisions_without: of each class, likewise.
        requirement: what had to hold.
        passed: whether it held.
        seconds: of training and measuring.
    """

    name: str
    boxes: int
    frame_map: float
    precisions: dict[str, float]
    ordered: float
    without_time: float | None
    precisions_without: dict[str, float]
    requirement: str
    passed: bool
    seconds: float = 0.0


def learn_actors(
    name: str, config: Config, *, epochs_without: int | None = None, out: TextIO | None = None
) -> ActorsLearned:
    """Train a tiny network of actors and hold it against what it must reach.

    Args:
        name: of the recipe.
        config: the recipe, on the synthetic detection set, which is made if its folder does not exist. An earlier run
            in the recipe's output folder is replaced.
        epochs_without: of the network without what sees time; None for as many as the recipe has.
        out: where progress is shown; None shows nothing.

    Returns:
        The result.

    Raises:
        ValueError: the recipe is wrong, or its list has other classes.
        FileNotFoundError: a list is missing.
    """
    start = time.perf_counter()
    if not Path(config.data.root).exists():
        make_actors(config.data.root, progress=out is not None and out.isatty())
    report, other = _trained(config, out), None
    if name not in TIMELESS:
        changes = [f"model.options.{key}={json.dumps(value)}" for key, value in WITHOUT_TIME.items()]
        output = json.dumps(str(Path(config.output).with_name(f"{Path(config.output).name}_without_time")))
        changes += [f"output={output}", f"epochs={epochs_without or config.epochs}"]
        other = _trained(override(config, changes, name), out)
    return judge_actors(name, report, other, seconds=time.perf_counter() - start)


def _trained(config: Config, out: TextIO | None) -> ActorReport:
    shutil.rmtree(config.output, ignore_errors=True)
    return evaluate_actors(fit(config, out=out).last)


def judge_actors(
    name: str, report: ActorReport, without: ActorReport | None = None, *, seconds: float = 0.0
) -> ActorsLearned:
    """Hold a report on the synthetic detection set against what its network must reach.

    Args:
        name: of the network.
        report: of it.
        without: of the network without what sees time; None for one that sees none.
        seconds: that both took.

    Returns:
        The result.

    Raises:
        ValueError: a class of the set has no boxes.
    """
    found, boxes = _precisions(report), report.boxes
    ordered = _mean_of_ordered(found)
    if without is None:
        looks = _mean([p for label, p in found.items() if label not in _ordered()])
        passed = ordered <= 0.5 and looks >= LEAST_OF_LOOKS
        requirement = (
            f"AP of what one frame tells at least {LEAST_OF_LOOKS:.0%}, is {looks:.1%}, of what order tells at most"
            f" 50%, is {ordered:.1%}"
        )
        return ActorsLearned(
            name, boxes, report.frame_map, found, ordered, None, {}, requirement, passed, seconds
        )
    blind = _precisions(without)
    chance = _mean([count / boxes for label, count, _ in report.precisions if label in _ordered()])
    lost = (ordered - _mean_of_ordered(blind)) / (ordered - chance) if ordered > chance else math.nan
    requirement = (
        f"frame mAP at least {LEAST:.0%}, and of what order tells {LOST:.0%} of what is above chance, {chance:.1%},"
        f" lost without time, is {lost:.1%}"
    )
    passed = report.frame_map >= LEAST and lost >= LOST
    return ActorsLearned(
        *(
            name,
            boxes,
            report.frame_map,
            found,
            ordered,
            _mean_of_ordered(blind),
            blind,
            requirement,
            passed,
            seconds,
        )
    )


def actors_table(results: list[ActorsLearned]) -> str:
    """Lay results out for the terminal.

    Args:
        results: of networks of actors.

    Returns:
        Lines: of each network its average precisions by class, and whether it reached what it must.
    """
    lines = []
    for r in results:
        width = max(len(label) for label in r.precisions)
        lines += [
            "",
            f"{'class':{width}}   {r.name:>18}   {'without time' if r.precisions_without else '':>12}",
        ]
        for label, value in r.precisions.items():
            other = f"{r.precisions_without[label]:12.2%}" if r.precisions_without else ""
            lines.append(f"{label:{width}}   {value:18.2%}   {other}".rstrip())
        lines.append(
            f"{r.name}: frame mAP {r.frame_map:.2%} of {r.boxes:,} boxes in {r.seconds:.0f} s;"
            f" {r.requirement}: {'yes' if r.passed else 'NO'}"
        )
    return "\n".join(lines)


def _ordered() -> set[str]:
    return {label for pair in ACTOR_PAIRS.values() for label in pair}


def _precisions(report: ActorReport) -> dict[str, float]:
    found = {label: precision for label, _, precision in report.precisions}
    unseen = [label for label, precision in found.items() if precision is None]
    if unseen or not _ordered() <= set(found):
        raise ValueError(
            f"report: is not of the synthetic detection set, lacks {', '.join(unseen or sorted(_ordered()))}"
        )
    return {label: precision for label, precision in found.items() if precision is not None}


def _mean_of_ordered(precisions: dict[str, float]) -> float:
    return _mean([p for label, p in precisions.items() if label in _ordered()])


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
