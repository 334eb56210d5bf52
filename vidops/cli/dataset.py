"""``vidops dataset``: make datasets."""

from __future__ import annotations

import argparse
import sys
import time

HELP = "make a dataset (make-motion), compute optical flow (flow)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare one sub-command an action."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_make_motion(actions)
    _add_flow(actions)


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


def _add_flow(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "compute the TV-L1 optical flow of every video once and keep it in a folder"
    parser = actions.add_parser(
        "flow",
        help=text,
        description=f"{text}; started again, it goes on where it was stopped. Broken videos are listed at the"
        " end, and the exit status is then 1.",
    )
    parser.add_argument("source", metavar="LIST|FOLDER", help="annotation list, or a folder of videos")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder that keeps the flow")
    parser.add_argument(
        "--root",
        metavar="DIR",
        help="folder that the list's paths start from, data.root of the recipe (default: the list's, or FOLDER)",
    )
    parser.add_argument("--format", default="auto", help="format of the list (default: seen from the list)")
    parser.add_argument(
        "--short-side", type=int, default=256, metavar="N", help="pixels frames are resized to (default: 256)"
    )
    parser.add_argument(
        "--bound", type=float, default=20.0, metavar="N", help="pixels of motion kept (default: 20)"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: 1)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run_action=_flow)


def _flow(args: argparse.Namespace) -> int:
    from pathlib import Path

    from vidops._extras import require
    from vidops.data import read_annotations
    from vidops.data.flow import FlowSettings
    from vidops.data.flow_jobs import compute_flow, find_videos
    from vidops.data.flow_store import FlowStore

    if args.workers < 1:
        raise ValueError(f"--workers must be at least 1, got {args.workers}")
    require("skimage", extra="motion")
    tqdm = require("tqdm", extra="train").tqdm
    source = Path(args.source)
    if source.is_dir() and args.format == "auto":
        samples, root = find_videos(source), args.root or source
    else:
        samples = read_annotations(source, root=args.root, format=args.format).samples
        root = args.root or (source if source.is_dir() else source.parent)
    settings = FlowSettings(short_side=args.short_side, bound=args.bound)
    store = FlowStore(args.out, videos=root, settings=settings)
    start, computed, broken = time.perf_counter(), 0, []
    with tqdm(total=len(samples), desc="flow", unit="video", disable=args.quiet) as bar:
        for result in compute_flow(store, samples, workers=args.workers):
            for line in result.warnings:
                bar.write(f"vidops dataset flow: {line}", file=sys.stderr)
            computed += result.computed
            if result.error is not None:
                broken.append(result.error)
            bar.update(1)
    seconds = time.perf_counter() - start
    kept = len(samples) - computed - len(broken)
    print(f"{args.out}: flow of {computed} videos computed in {seconds:.0f} s, of {kept} there already")
    for line in sorted(broken):
        print(f"broken: {line}", file=sys.stderr)
    if broken:
        print(f"{len(broken)} of {len(samples)} videos are broken and have no flow", file=sys.stderr)
    return 1 if broken else 0
