"""``vidops evaluate``: measure weights on a list of videos."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vidops.evaluation import Report

HELP = "measure a network on every video of a list"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help="checkpoint of vidops train, or bare weights"
    )
    parser.add_argument(
        "--config", metavar="FILE", help="recipe to measure with; by default the checkpoint's own"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="keys of the recipe to change (with --config)"
    )
    parser.add_argument(
        "--split", choices=["val", "train"], default="val", help="which list of the recipe (default: val)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the report, with the confusion matrix, to FILE")


def run(args: argparse.Namespace) -> int:
    """Measure and print the table."""
    from vidops.evaluation import evaluate
    from vidops.training import load_config

    if args.overrides and args.config is None:
        raise ValueError("key=value needs --config")
    config = load_config(args.config, args.overrides) if args.config else None
    report = evaluate(args.weights, config, split=args.split, json_path=args.json, out=sys.stderr)
    print(table(report))
    if args.json:
        print(f"report: {args.json}")
    return 0


def table(report: Report) -> str:
    """Lay a report out for the terminal.

    Args:
        report: what :func:`vidops.evaluation.evaluate` gave.

    Returns:
        Lines: one a class, worst confusions beside it, and the accuracies last.
    """
    width = max(len(name) for name in [*report.classes, "class"])
    lines = [f"{'class':{width}}   videos   top-1      most often taken for"]
    for i, (name, row, accuracy) in enumerate(
        zip(report.classes, report.confusion, report.class_accuracies, strict=True)
    ):
        others = row.copy()
        others[i] = 0
        worst = int(others.argmax())
        taken = f"{report.classes[worst]} ({int(others[worst])})" if others[worst] else ""
        shown = "-" if accuracy is None else f"{accuracy:.2%}"
        lines.append(f"{name:{width}}   {int(row.sum()):6d}   {shown:>7}    {taken}".rstrip())
    lines.append(
        f"{report.origin.get('model', 'network')}: top-1 {report.top1:.2%}, top-5 {report.top5:.2%}, mean"
        f" class {report.mean_class_accuracy:.2%}, loss {report.loss:.4f} on {report.samples:,} videos of"
        f" {report.origin.get('list', 'the list')}"
    )
    return "\n".join(lines)
