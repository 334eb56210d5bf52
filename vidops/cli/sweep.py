"""``vidops sweep``: train tiny networks over scales and sizes of the motion band-pass."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "train tiny networks over scales and sizes of the motion band-pass, draw their accuracies"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        "Figure 5.3 of Huang's thesis on the motion dataset: a tiny network fed with busy frames is trained once for"
        " each scale sigma and size k x k of the motion band-pass, with and without training its filters. OUT gets"
        " sweep.csv and sweep.png after each of them. Started again, it goes on where it stopped."
    )
    parser.add_argument(
        "--out",
        "-o",
        required=True,
        metavar="OUT",
        help="folder for the table, the picture, the runs and the dataset",
    )
    parser.add_argument(
        "--sigmas",
        type=_numbers,
        default=[0.5, 0.7, 0.9, 1.1, 1.3, 1.5],
        metavar="S,S,...",
        help="scales in pixels (default: 0.5,0.7,0.9,1.1,1.3,1.5)",
    )
    parser.add_argument(
        "--kernels",
        type=_whole_numbers,
        default=[3, 5, 7, 9, 11],
        metavar="K,K,...",
        help="odd sizes (default: 3,5,7,9,11)",
    )
    parser.add_argument(
        "--kinds",
        type=lambda text: ["trained", "fixed"] if text == "both" else text.split(","),
        default=["trained", "fixed"],
        metavar="A,B",
        help="trained, fixed or both: whether the filters learn (default: both)",
    )
    parser.add_argument(
        "--runs", type=int, default=1, metavar="N", help="networks for each setting, averaged (default: 1)"
    )
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="motion dataset (default: OUT/motion, made if need be)",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="keys of configs/demo/tiny_mbpm.yaml to change"
    )


def run(args: argparse.Namespace) -> int:
    """Train, and say where the picture is."""
    from vidops._extras import require

    for module, extra in (("av", "video"), ("matplotlib", "viz"), ("lightning", "train")):
        require(module, extra=extra)
    from vidops.training.sweep import PICTURE, TABLE, sweep

    trials = sweep(
        args.out,
        data=args.data,
        sigmas=args.sigmas,
        kernel_sizes=args.kernels,
        kinds=args.kinds,
        runs=args.runs,
        overrides=args.overrides,
        out=sys.stdout,
    )
    best = max(trials, key=lambda trial: trial.top1)
    equal = sum(trial.top1 == best.top1 for trial in trials)
    among = f" ({equal} of {len(trials)} settings; the first)" if equal > 1 else ""
    print(
        f"highest top-1 {best.top1:.2%}{among}: sigma {best.sigma:g}, {best.kernel_size} x {best.kernel_size},"
        f" {best.kind}; table: {Path(args.out) / TABLE}; picture: {Path(args.out) / PICTURE}"
    )
    return 0


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _whole_numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]
