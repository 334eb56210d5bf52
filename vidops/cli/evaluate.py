"""``vidops evaluate``: measure weights on a list of videos, or put saved results together."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vidops.evaluation import ActorReport, Report
    from vidops.training import Config

HELP = "measure a network on every video of a list; fuse the scores of several runs; average over splits"
EPILOG = """\
examples:
  vidops evaluate --weights runs/rgb/best.ckpt --report results/rgb
      measure on the validation list that the network was trained with; leave a report with pictures
  vidops evaluate --weights runs/rgb/best.ckpt --views 3x10 --scores rgb.npz
      look at each video 30 times (3 crops of each of 10 clips), keep the scores
  vidops evaluate --fuse rgb.npz flow.npz --fuse-weights 1 1.5
      average the scores of two networks on the same videos, the second one counting 1.5 times
  vidops evaluate --splits s1/report.json s2/report.json s3/report.json
      the mean over three splits, as UCF101 and HMDB51 are reported
  vidops evaluate --weights runs/rgb/best.ckpt data.root=elsewhere data.val=list.csv
      measure on other videos; classes.txt beside them names the same classes
  vidops evaluate --weights runs/st_slowfast/best.ckpt --report results/actors --detections found.csv
      of a network that classifies actors: frame mAP at key frames by AVA's official rules, what it was counted from
  vidops evaluate --weights runs/st_slowfast/best.ckpt data.actors.val_proposals=boxes.csv
      the same on boxes that a detector gave
  vidops evaluate --detected found.csv --config runs/st_slowfast/config.yaml
      frame mAP of detections that any program wrote in AVA's format; the recipe says what is true
  torchrun --nproc-per-node 2 -m vidops evaluate --weights runs/rgb/best.ckpt
      the same figures, computed by two processes
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    what = parser.add_argument_group("what to do (one of)").add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--weights", metavar="FILE", help="measure a checkpoint of vidops train, or bare weights"
    )
    what.add_argument(
        "--fuse", nargs="+", metavar="NPZ", help="average scores that --scores wrote, videos matched by name"
    )
    what.add_argument(
        "--splits",
        nargs="+",
        metavar="JSON",
        help="mean of the accuracies in reports that --json or --report wrote",
    )
    what.add_argument(
        "--detected",
        metavar="CSV",
        help="frame mAP of a file of detections in AVA's format, on the list of --config's recipe",
    )
    how = parser.add_argument_group("how to measure")
    how.add_argument(
        "--config", metavar="FILE", help="recipe to measure with; by default the checkpoint's own"
    )
    how.add_argument("overrides", nargs="*", metavar="key=value", help="keys of the recipe to change")
    how.add_argument(
        "--split", choices=["val", "train"], default="val", help="which list of the recipe (default: val)"
    )
    how.add_argument(
        "--views",
        metavar="CROPSxCLIPS",
        help="spatial crops (1, 3 or 10) x temporal clips of each video; default: the recipe's",
    )
    how.add_argument(
        "--average",
        choices=["logits", "softmax"],
        help="what is averaged, over views (default: the recipe's) or runs (default: softmax)",
    )
    how.add_argument(
        "--batch-size", type=int, metavar="N", help="clips computed at a time; default: the recipe's"
    )
    how.add_argument(
        "--fuse-weights", nargs="+", type=float, metavar="W", help="how much each run counts (with --fuse)"
    )
    files = parser.add_argument_group("what to write")
    files.add_argument("--report", metavar="DIR", help="report.json, report.md and pictures")
    files.add_argument("--json", metavar="FILE", help="the report alone, with the confusion matrix")
    files.add_argument(
        "--confusion", metavar="FILE", help="picture of the confusion matrix (.png, .svg, .pdf)"
    )
    files.add_argument("--scores", metavar="FILE", help="scores of each video (.npz), for --fuse")
    files.add_argument(
        "--detections", metavar="FILE", help="of actors: boxes, classes and scores in AVA's format (.csv)"
    )


def run(args: argparse.Namespace) -> int:
    """Measure or combine, print the table, write the files; under torchrun rank 0 alone speaks."""
    from vidops._extras import require_all
    from vidops.evaluation.ranks import joined, rank_and_size

    reading = args.weights is not None or args.detected is not None
    measuring = dict.fromkeys(("yaml", "pydantic", "tqdm"), "train") if reading else {}
    require_all(measuring | ({"matplotlib": "viz"} if args.report or args.confusion else {}))
    rank, _ = rank_and_size()
    if args.weights is None:
        return 0 if rank else _combine(args)
    with joined():
        try:
            report = _measure(args)
        except Exception:
            if rank:
                return 0  # all that is done is done together: rank 0 has the error too, shows it and fails
            raise
        if rank == 0:
            _write(args, report)
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse, before anything long runs, options that do not go together and files that cannot be."""
    recipe = {"--config": args.config, "key=value": args.overrides}
    network = {"--views": args.views, "--batch-size": args.batch_size, "--detections": args.detections}
    if args.weights is None:
        _refuse("--weights", network if args.detected is not None else {**recipe, **network})
    if args.detected is not None:
        if args.config is None:
            raise ValueError("--detected needs --config, a recipe of actors")
        clips = {"--average": args.average, "--confusion": args.confusion, "--scores": args.scores}
        _refuse("--weights or --fuse", clips)
    if args.fuse is None:
        _refuse("--fuse", {"--fuse-weights": args.fuse_weights})
    if args.splits is not None:
        others = {"--report": args.report, "--confusion": args.confusion, "--scores": args.scores}
        _refuse("--weights or --fuse", {**others, "--average": args.average})
    if args.scores is not None:
        from vidops.evaluation.scores import check_scores_name

        check_scores_name(args.scores)
    if args.confusion is not None or args.report is not None:
        from vidops.visualize import check_picture

        check_picture(args.confusion if args.confusion is not None else "report.png")
    if args.report is not None and Path(args.report).exists() and not Path(args.report).is_dir():
        raise ValueError(f"--report {args.report}: is a file, not a folder")
    for option in ("json", "confusion", "scores", "detections"):
        path = getattr(args, option)
        if path is not None and Path(path).is_dir():
            raise ValueError(f"--{option} {path}: is a folder")
    for option in ("report", "json", "confusion", "scores", "detections"):
        path = getattr(args, option)
        if path is not None:
            _check_writable(f"--{option} {path}", Path(path) if option == "report" else Path(path).parent)


def _check_writable(what: str, folder: Path) -> None:
    """Make a file without a name in the folder, or in the nearest one above it that there is."""
    folder = folder.absolute()
    while not os.path.lexists(folder):
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{what}: cannot write to {folder} ({error.strerror})") from error


def _refuse(needed: str, given: dict[str, object]) -> None:
    for option, value in given.items():
        if value not in (None, []):
            raise ValueError(f"{option} needs {needed}")


def _refuse_for_task(args: argparse.Namespace, *, actors: bool) -> None:
    """Refuse what is written of clips alone, or of actors alone."""
    if actors:
        _refuse("a network that classifies clips", {"--confusion": args.confusion, "--scores": args.scores})
    else:
        _refuse("a network that classifies actors", {"--detections": args.detections})


def _measure(args: argparse.Namespace) -> Report | ActorReport:
    from vidops.evaluation import evaluate, evaluate_actors
    from vidops.evaluation.ranks import on_all_ranks
    from vidops.evaluation.recipe import classifies_actors
    from vidops.training import load_config, read_checkpoint
    from vidops.training.config import override

    def prepare(rank: int, size: int) -> tuple[Config | None, bool]:
        if rank == 0:
            _check(args)
        if args.config:
            config = load_config(args.config, args.overrides)
        else:
            config = read_checkpoint(args.weights).config
            if args.overrides:
                config = override(config, args.overrides, f"recipe of {args.weights}")
        actors = classifies_actors(config)
        _refuse_for_task(args, actors=actors)
        return config if args.config or args.overrides else None, actors

    config, actors = on_all_ranks(prepare)[0]
    return (evaluate_actors if actors else evaluate)(
        args.weights,
        config,
        split=args.split,
        views=args.views,
        average=args.average,
        batch_size=args.batch_size,
        out=sys.stderr,
    )


def _combine(args: argparse.Namespace) -> int:
    _check(args)
    if args.splits is not None:
        return _average_splits(args)
    _write(args, _fuse(args) if args.fuse is not None else _measure_file(args))
    return 0


def _measure_file(args: argparse.Namespace) -> ActorReport:
    from vidops.evaluation import evaluate_detections
    from vidops.training import load_config

    return evaluate_detections(args.detected, load_config(args.config, args.overrides), split=args.split)


def _fuse(args: argparse.Namespace) -> Report:
    from vidops.evaluation import fuse, read_scores

    runs = [read_scores(path) for path in args.fuse]
    return fuse(runs, args.fuse_weights, average=args.average or "softmax", names=args.fuse)


def _average_splits(args: argparse.Namespace) -> int:
    from vidops.evaluation import average_splits
    from vidops.evaluation.report import splits_table, write_json

    splits = average_splits(args.splits)
    print(splits_table(splits))
    if args.json:
        write_json(splits, args.json)
        print(f"report: {args.json}")
    return 0


def _write(args: argparse.Namespace, report: Report | ActorReport) -> None:
    from vidops.evaluation import Report

    if isinstance(report, Report):
        _write_clips(args, report)
    else:
        _write_actors(args, report)


def _write_actors(args: argparse.Namespace, report: ActorReport) -> None:
    from vidops.evaluation import write_detections
    from vidops.evaluation.actor_report import actor_table, write_actor_report
    from vidops.evaluation.report import SUMMARY, write_json

    print(actor_table(report))
    if args.detections and report.detections is not None:
        write_detections(report.detections, args.detections)
        print(f"detections: {args.detections}")
    if args.json:
        write_json(report, args.json)
        print(f"report: {args.json}")
    if args.report:
        write_actor_report(report, args.report)
        print(f"report: {Path(args.report) / SUMMARY}")


def _write_clips(args: argparse.Namespace, report: Report) -> None:
    from vidops.evaluation import save_scores
    from vidops.evaluation.report import SUMMARY, save_confusion, text_table, write_json, write_report

    print(text_table(report))
    if args.scores:
        save_scores(report, args.scores)
        print(f"scores: {args.scores}")
    if args.json:
        write_json(report, args.json)
        print(f"report: {args.json}")
    if args.confusion:
        save_confusion(report, args.confusion)
        print(f"confusion matrix: {args.confusion}")
    if args.report:
        write_report(report, args.report)
        print(f"report: {Path(args.report) / SUMMARY}")
