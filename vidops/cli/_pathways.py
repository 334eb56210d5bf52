"""``vidops visualize pathways``: the pictures of BTSNet."""

from __future__ import annotations

import argparse
from pathlib import Path

from ._pictures import Actions, add_network, add_out, add_parser


def _add_pathways(actions: Actions[argparse.ArgumentParser]) -> None:
    text = "which pathway of BTSNet's blocks counts most at each time step of a video, or how much each does on average"
    parser = add_parser(actions, "pathways", text, _pathways)
    parser.add_argument(
        "videos", nargs="+", metavar="VIDEO", help="one, or several whose averages are drawn with --averages"
    )
    add_network(parser)
    parser.add_argument(
        "--averages", action="store_true", help="normalized average weights of each block's pathways"
    )
    parser.add_argument("--frames", type=int, metavar="N", help="shown of the clip (default: up to 8)")
    add_out(parser)


ACTIONS = (_add_pathways,)


def _pathways(args: argparse.Namespace) -> None:
    from vidops.visualize import (
        check_picture,
        load_subject,
        pathway_averages,
        pathway_timeline,
        pathways_of,
        save,
    )

    check_picture(args.out)
    if args.averages and args.frames is not None:
        raise ValueError("--frames is for the time steps of one video, not for --averages")
    if not args.averages and len(args.videos) > 1:
        raise ValueError("give one VIDEO, or --averages for several")
    subject = load_subject(weights=args.weights, model=args.model, seed=args.seed)
    found = []
    for video in args.videos:
        clip, shown = subject.read(video)
        found.append(pathways_of(subject.net, clip))
    names = Path(args.videos[0]).name if len(args.videos) == 1 else f"{len(args.videos)} videos"
    if args.averages:
        figure = pathway_averages(found, title=f"{names}: pathways of {subject.title}")
    else:
        title = f"{names}: pathways with the greatest contribution, {subject.title}"
        figure = pathway_timeline(shown, found[0], frames=args.frames, title=title)
    save(figure, args.out)
