"""``vidops dataset``: make datasets, and what is done to whole ones."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

from ._lists import add_list_options, add_source, list_options, read_source

HELP = (
    "make datasets, lists and shards (make-motion, make-actors, make-list, make-shards), find broken videos (check),"
    " compute optical flow (flow)"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare one sub-command an action."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_make_motion(actions)
    _add_make_actors(actions)
    _add_make_list(actions)
    _add_make_shards(actions)
    _add_check(actions)
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
    _add_drawing(parser, size=48)
    parser.set_defaults(run_action=_make_motion)


def _add_drawing(parser: argparse.ArgumentParser, size: int) -> None:
    """Declare what the datasets that are drawn have in common."""
    parser.add_argument("--frames", type=int, default=8, help="frames of a clip (default: 8)")
    parser.add_argument(
        "--size", type=int, default=size, help=f"height and width in pixels (default: {size})"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="the same seed gives the same frames (default: 0)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="threads (default: one a core)")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


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


def _add_make_actors(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "write mp4 clips of several moving actors with boxes and labels in AVA's formats"
    parser = actions.add_parser(
        "make-actors",
        help=text,
        description=f"{text}: each goes left or right, up or down, grows or shrinks, which only the order of"
        " frames tells, and is round or square, bright or dark, which any frame tells.",
    )
    parser.add_argument("out", metavar="OUT", help="folder to make; must not exist or be empty")
    parser.add_argument("--train", type=int, default=600, help="training clips, even (default: 600)")
    parser.add_argument("--val", type=int, default=120, help="validation clips, even (default: 120)")
    parser.add_argument(
        "--excluded", type=int, default=4, help="further validation clips, not annotated (default: 4)"
    )
    _add_drawing(parser, size=64)
    parser.set_defaults(run_action=_make_actors)


def _make_actors(args: argparse.Namespace) -> int:
    from vidops.data import make_actors, read_actors

    start = time.perf_counter()
    out = make_actors(
        args.out,
        train=args.train,
        val=args.val,
        excluded=args.excluded,
        frames=args.frames,
        size=args.size,
        seed=args.seed,
        workers=args.workers,
        progress=not args.quiet,
    )
    val = read_actors(out / "val.csv", labels=out / "labels.pbtxt")
    seconds = time.perf_counter() - start
    print(f"{out}: {args.train} training and {args.val} validation clips in {seconds:.0f} s")
    print(f"labels: {', '.join(val.classes)}")
    return 0


def _add_make_list(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "split a folder with one sub-folder a class into train.csv and val.csv"
    parser = actions.add_parser(
        "make-list",
        help=text,
        description=f"{text}, with a classes.txt beside them. Every class is split by itself. The first frame of"
        " each video is decoded before anything is written; lists that exist are not replaced. Of files with"
        " the same bytes one alone is listed.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="folder of the class folders")
    parser.add_argument("--out", metavar="DIR", help="folder for the lists (default: FOLDER)")
    parser.add_argument(
        "--share", type=float, default=0.2, metavar="X", help="of each class for validation (default: 0.2)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split (default: 0)")
    parser.add_argument("--skip-broken", action="store_true", help="leave out videos that cannot be read")
    parser.add_argument("--full", action="store_true", help="decode each video to its end, as check does")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core)")
    parser.set_defaults(run_action=_make_list)


def _make_list(args: argparse.Namespace) -> int:
    from vidops.data.lists import make_lists

    lists = make_lists(
        args.folder,
        out_dir=args.out,
        share=args.share,
        seed=args.seed,
        skip_broken=args.skip_broken,
        full=args.full,
        workers=_workers(args.workers),
        out=sys.stderr,
    )
    for video in lists.broken:
        print(f"left out: {video.reason}", file=sys.stderr)
    for copy, same in lists.copies:
        print(f"left out: {copy}: has the bytes of {same}", file=sys.stderr)
    width = max(len(name) for name in lists.classes)
    for name, train, val in zip(lists.classes, lists.train, lists.val, strict=True):
        print(f"{name:<{width}}  {train:>6} training  {val:>6} validation")
    print(
        f"{lists.folder / 'train.csv'}: {sum(lists.train)} videos, {lists.folder / 'val.csv'}:"
        f" {sum(lists.val)} videos, {len(lists.classes)} classes"
    )
    return 0


def _workers(given: int | None) -> int:
    """Return the number of processes: as given, else one a core that this process may use."""
    if given is not None:
        return given
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _add_make_shards(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "copy the videos of a list into WebDataset shards, tar files that train as the list does"
    parser = actions.add_parser("make-shards", help=text, description=text)
    parser.add_argument("list", metavar="LIST", help="annotation list, or a folder with a sub-folder a class")
    add_list_options(parser)
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for the shards")
    parser.add_argument(
        "--megabytes", type=float, default=1000.0, metavar="N", help="of a shard, about (default: 1000)"
    )
    parser.set_defaults(run_action=_make_shards)


def _make_shards(args: argparse.Namespace) -> int:
    from vidops.data import make_shards, read_annotations

    annotations = read_annotations(args.list, **list_options(args))
    written = make_shards(annotations, args.out, megabytes=args.megabytes, out=sys.stderr)
    size = sum(path.stat().st_size for path in written) / 1e6
    print(
        f"{args.out}: {len(annotations)} videos of {annotations.num_classes} classes in {len(written)}"
        f" shard{'s'[: len(written) - 1]}, {size:.1f} MB"
    )
    return 0


def _add_check(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "decode every video of a list once and name those that are broken"
    parser = actions.add_parser(
        "check",
        help=text,
        description=f"{text}, missing ones included. The exit status is 1 if there are any. Damage inside coded"
        " pictures that the decoder does not notice is not found: such frames are decoded, with wrong pixels.",
    )
    add_source(parser)
    parser.add_argument("--quick", action="store_true", help="decode the first frame of each video only")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core)")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(run_action=_check)


def _check(args: argparse.Namespace) -> int:
    from vidops.data.check import check_videos

    samples = read_source(args).samples
    videos = len({sample.path for sample in samples})
    start = time.perf_counter()
    broken = check_videos(samples, _workers(args.workers), args.quick, out=sys.stderr)
    seconds = time.perf_counter() - start
    if args.json:
        found = [{"path": video.path, "reason": video.reason} for video in broken]
        print(json.dumps({"videos": videos, "quick": args.quick, "broken": found}, indent=1))
        return 1 if broken else 0
    for video in broken:
        print(video.reason)
    print(f"{args.source}: {len(broken)} of {videos} videos are broken ({seconds:.1f} s)")
    return 1 if broken else 0


def _add_flow(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "compute the TV-L1 optical flow of every video once and keep it in a folder"
    parser = actions.add_parser(
        "flow",
        help=text,
        description=f"{text}; started again, it goes on where it was stopped. Broken videos are listed at the"
        " end, and the exit status is then 1.",
    )
    add_source(parser)
    parser.add_argument(
        "--out", metavar="DIR", help="folder that keeps the flow (default: data.flow_root of the recipe)"
    )
    parser.add_argument(
        "--short-side", type=int, default=256, metavar="N", help="pixels frames are resized to (default: 256)"
    )
    parser.add_argument(
        "--bound", type=float, default=20.0, metavar="N", help="pixels of motion kept (default: 20)"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: 1)")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.set_defaults(run_action=_flow)


def _flow(args: argparse.Namespace) -> int:
    from vidops._extras import require
    from vidops.data._progress import Progress
    from vidops.data.flow import FlowSettings
    from vidops.data.flow_jobs import compute_flow
    from vidops.data.flow_store import FlowStore

    if args.workers < 1:
        raise ValueError(f"--workers must be at least 1, got {args.workers}")
    require("skimage", extra="motion")
    source = read_source(args)
    out = args.out or source.flow_root
    if out is None:
        raise ValueError("--out: say which folder keeps the flow")
    samples = list({sample.path: sample for sample in source.samples}.values())
    settings = FlowSettings(short_side=args.short_side, bound=args.bound)
    store = FlowStore(out, videos=source.root, settings=settings)
    start, computed = time.perf_counter(), 0
    broken: list[str] = []
    with Progress(len(samples), "flow", "video", None if args.quiet else sys.stderr) as progress:
        for result in compute_flow(store, samples, workers=args.workers):
            for line in result.warnings:
                progress.write(f"vidops dataset flow: {line}")
            computed += result.computed
            if result.error is not None:
                broken.append(result.error)
            progress.update(note=f"{len(broken)} broken" if broken else "")
    seconds = time.perf_counter() - start
    kept = len(samples) - computed - len(broken)
    print(f"{out}: flow of {computed} videos computed in {seconds:.0f} s, of {kept} there already")
    for line in sorted(broken):
        print(f"broken: {line}", file=sys.stderr)
    if broken:
        print(f"{len(broken)} of {len(samples)} videos are broken and have no flow", file=sys.stderr)
    return 1 if broken else 0
