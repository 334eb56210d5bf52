"""``vidops visualize keypoints`` and ``examples``: the pictures of KPSEM."""

from __future__ import annotations

import argparse
from pathlib import Path

from ._pictures import Actions, add_network, add_networks, add_out, add_parser, load_subjects, named


def _add_keypoints(actions: Actions[argparse.ArgumentParser]) -> None:
    text = "key points of a video's channels, by region, and where they move"
    parser = add_parser(actions, "keypoints", text, _keypoints)
    parser.add_argument("video", metavar="VIDEO")
    add_network(parser)
    parser.add_argument(
        "--layer",
        metavar="NAME",
        help="where the network finds key points, or any other layer, whose map is split into equal regions"
        " (default: the former, or the last residual stage)",
    )
    parser.add_argument(
        "--set", dest="set_number", type=int, default=0, metavar="N", help="of regions, from 0 (default: 0)"
    )
    parser.add_argument(
        "--regions",
        type=int,
        metavar="K",
        help="1, 4, 9 or 16 equal ones, where the network has none of its own",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--channels", metavar="A,B,...", help="numbers, from 0")
    which.add_argument(
        "--count",
        type=int,
        metavar="N",
        help="of channels, those whose key points move farthest (default: 3, of more than 4 regions 1)",
    )
    parser.add_argument("--frames", type=int, metavar="N", help="of the map, equally spaced (default: all)")
    parser.add_argument("--columns", type=int, metavar="N", help="frames a row")
    parser.add_argument(
        "--stretch",
        type=float,
        metavar="X",
        help="length of an arrow over that of its shift, which is weighted by region (default: number of regions)",
    )
    add_out(parser)


def _add_examples(actions: Actions[argparse.ArgumentParser]) -> None:
    text = "videos with the likeliest classes that one or several networks see in them"
    parser = add_parser(actions, "examples", text, _examples)
    parser.add_argument(
        "videos", nargs="+", metavar="VIDEO", help="CLASS=VIDEO, by name or number, gives the true class"
    )
    add_networks(parser, frames="4")
    parser.add_argument("--top", type=int, default=3, metavar="N", help="classes a network (default: 3)")
    add_out(parser)


ACTIONS = (_add_keypoints, _add_examples)


def _keypoints(args: argparse.Namespace) -> None:
    from vidops.visualize import check_picture, key_point_grid, key_points_of, load_subject, save

    check_picture(args.out)
    channels = None if args.channels is None else _numbers(args.channels)
    subject = load_subject(weights=args.weights, model=args.model, seed=args.seed)
    clip, shown = subject.read(args.video)
    found = key_points_of(
        subject.net, clip, layer=args.layer, set_number=args.set_number, regions=args.regions
    )
    if args.count is not None:
        channels = found.strongest(args.count)
    regions = (
        f"set {args.set_number} of {found.layer}" if found.learned else f"an equal grid at {found.layer}"
    )
    figure = key_point_grid(
        shown,
        found,
        channels=channels,
        frames=args.frames,
        columns=args.columns,
        stretch=args.stretch,
        title=f"{Path(args.video).name}: key points in regions of {regions}, {subject.title}",
    )
    save(figure, args.out)


def _examples(args: argparse.Namespace) -> None:
    from vidops.visualize import Example, check_picture, example_rows, likeliest, save

    check_picture(args.out)
    subjects = load_subjects(args)
    first_name, first = subjects[0]
    for name, subject in subjects:
        if subject.classes != first.classes:
            raise ValueError(f"{name}: its classes are not those of {first_name}")
    given = [named(text) for text in args.videos]
    truths = [first.classes[first.find_class(name)] if name else None for name, _ in given]
    examples = []
    for truth, (_, video) in zip(truths, given, strict=True):
        scores, frames = {}, []
        for name, subject in subjects:
            clip, shown = subject.read(video)
            frames.append(shown)
            scores[name] = likeliest(subject, clip, args.top)
        examples.append(Example(frames[0], scores, truth, video.name))
    save(example_rows(examples, frames=4 if args.frames is None else args.frames), args.out)


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise ValueError(f"--channels must be numbers such as 3,17, got {text!r}") from None
