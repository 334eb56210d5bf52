"""``vidops predict``: classes of video files."""

from __future__ import annotations

import argparse
import json
import sys

HELP = "name the likeliest classes of video files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        f"{HELP}. A missing or broken file is one line on standard error; the other files are predicted all"
        " the same, and the exit status is then 1."
    )
    parser.add_argument("videos", nargs="+", metavar="VIDEO")
    parser.add_argument("--weights", required=True, metavar="FILE", help="checkpoint of vidops train")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="classes a video (default: 5)")
    parser.add_argument("--json", action="store_true", help="one line of JSON a video instead of a table")
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes that decode (default: none but this)"
    )
    parser.add_argument("--accelerator", choices=["auto", "cpu", "cuda"], help="default: the recipe's")
    parser.add_argument(
        "--backend", choices=["reference", "cpu", "cuda", "triton"], help="default: the recipe's"
    )


def run(args: argparse.Namespace) -> int:
    """Predict, print as results come, and say by the exit status whether all files could be read."""
    from vidops.evaluation import predict

    failed = 0
    found = predict(
        args.videos,
        args.weights,
        top=args.top,
        workers=args.workers,
        accelerator=args.accelerator,
        backend=args.backend,
        out=sys.stderr if sys.stderr.isatty() and not sys.stdout.isatty() else None,
    )
    for prediction in found:
        if prediction.error is not None:
            failed += 1
            print(f"vidops predict: error: {prediction.error}", file=sys.stderr)
        if args.json:
            print(json.dumps(prediction.as_dict()), flush=True)
        elif prediction.error is None:
            print(prediction.path)
            for name, probability in prediction.scores:
                print(f"  {probability:7.2%}  {name}", flush=True)
    return 1 if failed else 0
