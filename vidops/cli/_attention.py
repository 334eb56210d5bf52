"""``vidops visualize attention`` and ``pairs``: chapter 4 of Huang's thesis."""

from __future__ import annotations

import argparse
from pathlib import Path

from ._pictures import Actions, add_networks, add_out, add_parser, load_subjects


def _add_attention(actions: Actions[argparse.ArgumentParser]) -> None:
    text = "what places of a video take from all others in a non-local or region-based non-local block"
    parser = add_parser(actions, "attention", text, _attention)
    parser.add_argument("video", metavar="VIDEO")
    add_networks(parser, " with such a block")
    parser.add_argument(
        "--point",
        action="append",
        metavar="T,Y,X",
        help="frame of the clip from 0, then how far down and how far to the right in it, 0 to 1: the order of"
        " attention_map's (t, y, x); the block's cell that holds it is taken, and outlined; several are"
        " shown below each other (default: the middle of the middle frame)",
    )
    parser.add_argument(
        "--layer", metavar="NAME", help="the block, or the module that it follows (default: the last block)"
    )
    add_out(parser)


def _add_pairs(actions: Actions[argparse.ArgumentParser]) -> None:
    text = "Grad-CAM of several networks below each other, for one class"
    parser = add_parser(actions, "pairs", text, _pairs)
    parser.add_argument("videos", nargs="+", metavar="VIDEO")
    add_networks(parser, "")
    parser.add_argument(
        "--class", dest="target", metavar="NAME|N", help="class (default: the likeliest of the first network)"
    )
    parser.add_argument("--layer", metavar="NAME", help="as for gradcam (default: the last residual stage)")
    add_out(parser)


ACTIONS = (_add_attention, _add_pairs)


def _attention(args: argparse.Namespace) -> None:
    from vidops.visualize import MapRow, attention_of, check_picture, map_rows, save

    check_picture(args.out)
    points = None if args.point is None else [_point(text) for text in args.point]
    rows, layers = [], set()
    for name, subject in load_subjects(args):
        clip, shown = subject.read(args.video)
        middle = (len(shown.frames) // 2, 0.5, 0.5)
        for point in points or [middle]:
            try:
                found = attention_of(subject.net, clip, point, layer=args.layer)
            except ValueError as error:
                raise ValueError(f"{name}: {str(error).replace('place must', '--point must')}") from error
            rows.append(MapRow(shown, found.heat, name, found.place, found.cell))
            layers.add(found.layer.partition(".attention")[0])  # what insert_after calls a block's
    where = f"behind {layers.pop()}" if len(layers) == 1 else "in the last blocks"
    title = f"{Path(args.video).name}: attention of the red point's cell {where}"
    save(map_rows(rows, title=title, label="weight", frames=args.frames), args.out)


def _pairs(args: argparse.Namespace) -> None:
    from vidops.visualize import MapRow, check_picture, grad_cam, map_rows, save

    check_picture(args.out)
    subjects = load_subjects(args)
    _, first = subjects[0]
    for name, subject in subjects:
        if subject.classes != first.classes:
            raise ValueError(f"{name}: its classes are not those of {subjects[0][0]}")
    asked = None if args.target is None else first.find_class(args.target)
    rows = []
    for video in args.videos:
        target = asked
        for name, subject in subjects:
            clip, shown = subject.read(video)
            found = grad_cam(subject.net, clip, target=target, layer=args.layer)
            target = found.target  # of the first network, where none is asked for
            label = f"{name}\n{subject.classes[target]} ({found.probability:.1%})"
            rows.append(MapRow(shown, found.heat, label))
    title = f"Grad-CAM: {', '.join(Path(video).name for video in args.videos)}"
    save(map_rows(rows, title=title, label="Grad-CAM", frames=args.frames), args.out)


def _point(text: str) -> tuple[int, float, float]:
    try:
        t, y, x = text.split(",")
        return int(t), float(y), float(x)
    except ValueError:
        raise ValueError(
            f"--point must be T,Y,X, a frame and two numbers from 0 to 1 such as 4,0.5,0.3, got {text!r}"
        ) from None
