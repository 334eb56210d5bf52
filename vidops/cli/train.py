"""``vidops train``: train a network as a recipe says."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "train a network as a recipe (YAML) says"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE",
        help="the recipe, for example configs/demo/tiny_mstnet.yaml",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="keys of the recipe to change, such as epochs=5 data.root=clips",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from last.ckpt in the output folder; start anew if there is none",
    )


def run(args: argparse.Namespace) -> int:
    """Train, and say where the files lie; under torchrun the first rank speaks for all."""
    from vidops.evaluation.ranks import rank_and_size
    from vidops.training import fit, load_config
    from vidops.training.task import task_of

    config = load_config(args.config, args.overrides)
    try:
        result = fit(config, resume=args.resume, out=sys.stdout)
    except KeyboardInterrupt:
        last = Path(config.output) / "last.ckpt"
        if last.exists():
            raise KeyboardInterrupt(f"--resume goes on from {last}") from None
        raise
    if rank_and_size()[0] > 0:
        return 0
    print(
        f"validation {task_of(config).score_name} {result.metrics[result.score]:.2%} after epoch {result.epochs},"
        f" best {result.best_score:.2%}; weights: {result.best}, {result.last.name}; curves:"
        f" {result.output / 'metrics.csv'}"
    )
    return 0
