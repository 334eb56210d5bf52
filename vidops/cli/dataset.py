"""``vidops dataset``: make datasets."""

from __future__ import annotations

import argparse
import time

HELP = "make a dataset (make-motion)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare one sub-command an action."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_make_motion(actions)


def run(args: argparse.Namespace) -> int:
    """Run the chosen action."""
    action: int = args.run_action(args)
    return action


def _add_make_motion(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = (
        "write mp4 clips of moving photographs, in mirrored classes that only the order of frames tells apart"
    )
    parser = actions.add_parser("make-motion", help=text, description=text)
    parser.add_argument("out", metavar="OUT", help="folder to make; must not exist or be empty")
    parser.add_argument(
        "--pairs",
        type=_pairs,
        default=4,
        metavar="N|NAMES",
        help="how many pairs of classes, or their names with commas between: horizontal, vertical, zoom, "
        "rotation, diagonal, antidiagonal, fade (default: 4)",
    )
    parser.add_argument("--train", type=int, default=2400, help="training clips (default: 2400)")
    parser.add_argument("--val", type=int, default=400, help="validation clips (default: 400)")
    parser.add_argument("--frames", type=int, default=8, help="frames of a clip (default: 8)")
    parser.add_argument("--size", type=int, default=48, help="height and width in pixels (default: 48)")
    parser.add_argument(
        "--seed", type=int, default=0, help="the same seed gives the same frames (default: 0)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="threads (default: one a core)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run_action=_make_motion)


def _pairs(text: str) -> int | list[str]:
    try:
        return int(text)
    except ValueError:
        return [name.strip() for name in text.split(",")]


def _make_motion(args: argparse.Namespace) -> int:
    from vidops.data import make_motion, read_annotations

    start = time.perf_counter()
    out = make_motion(
        args.out,
        pairs=args.pairs,
        train=args.train,
        val=args.val,
        frames=args.frames,
        size=args.size,
        seed=args.seed,
        workers=args.workers,
        progress=not args.quiet,
    )
    classes = read_annotations(out / "val.csv").classes or []
    seconds = time.perf_counter() - start
    print(f"{out}: {args.train} training and {args.val} validation clips in {seconds:.0f} s")
    print(f"classes: {', '.join(classes)}")
    return 0
