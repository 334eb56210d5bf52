"""``vidops visualize busy``, ``kernels`` and ``filters``: the motion band-pass and what comes of it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ._pictures import Actions, add_out, add_parser, named

if TYPE_CHECKING:
    from vidops.layers import MotionBandPass
    from vidops.visualize import ShownFrames

FRAMES = 4


def _add_busy(actions: Actions[argparse.ArgumentParser]) -> None:
    text = "busy and quiet frames of a video: what the motion band-pass takes out of it, and what it leaves"
    parser = add_parser(actions, "busy", text, _busy)
    parser.add_argument("video", metavar="VIDEO")
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="checkpoint of vidops train whose band-pass, frames and crop are taken",
    )
    parser.add_argument(
        "--sigma", type=float, metavar="S", help="scale of the filter in pixels (default: 1.1)"
    )
    parser.add_argument("--kernel-size", type=int, metavar="K", help="of the filter, odd (default: 9)")
    parser.add_argument(
        "--frames", type=int, metavar="N", help=f"from the centres of N equal segments (default: {FRAMES})"
    )
    parser.add_argument(
        "--rows",
        default="frames,busy,colors,quiet",
        metavar="A,B,...",
        help="from the top: frames, busy, colors (of optical flow), quiet, flow (default: frames,busy,colors,quiet)",
    )
    add_out(parser)


def _add_kernels(actions: Actions[argparse.ArgumentParser]) -> None:
    text = "filters of a network's motion band-pass before and after training"
    parser = add_parser(actions, "kernels", text, _kernels)
    parser.add_argument("weights", metavar="CHECKPOINT", help="of vidops train")
    parser.add_argument(
        "--layer",
        metavar="NAME",
        help="by the name it has in the network (default: the one that sees the frames)",
    )
    parser.add_argument(
        "--channels", type=int, default=3, metavar="N", help="how many are drawn, up to 6 (default: 3)"
    )
    add_out(parser)


def _add_filters(actions: Actions[argparse.ArgumentParser]) -> None:
    text = "filters of the first convolution of networks, of each pathway where there are two"
    parser = add_parser(actions, "filters", text, _filters)
    parser.add_argument(
        "weights",
        nargs="+",
        metavar="CHECKPOINT",
        help="of vidops train; NAME=CHECKPOINT gives the network another name than its own",
    )
    parser.add_argument(
        "--channel", type=int, default=0, metavar="C", help="of the input, from 0 for red (default: 0)"
    )
    add_out(parser)


ACTIONS = (_add_busy, _add_kernels, _add_filters)


def _busy(args: argparse.Namespace) -> None:
    from vidops.visualize import busy_grid, check_picture, save, split_frames

    check_picture(args.out)
    shown, band_pass, title = _of_checkpoint(args) if args.weights else _of_filter(args)
    rows = [name.strip() for name in args.rows.split(",")]
    save(busy_grid(split_frames(shown, band_pass), rows=rows, title=title), args.out)


def _of_checkpoint(args: argparse.Namespace) -> tuple[ShownFrames, MotionBandPass, str]:
    """Take the frames that a network sees, and its filters."""
    from vidops.visualize import find_band_pass, load_subject

    for name in ("sigma", "kernel_size", "frames"):
        if getattr(args, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')}: the network says it")
    subject = load_subject(weights=args.weights)
    _, band_pass = find_band_pass(subject.net)
    _, shown = subject.read(args.video)
    return shown, band_pass, f"{Path(args.video).name} as {subject.title} splits it"


def _of_filter(args: argparse.Namespace) -> tuple[ShownFrames, MotionBandPass, str]:
    """Take frames from all over the video, and filters that nothing has trained."""
    from vidops.data import UniformSampling
    from vidops.layers import MotionBandPass
    from vidops.visualize import read_shown

    count = FRAMES if args.frames is None else args.frames
    if count < 1:
        raise ValueError(f"--frames must be at least 1, got {count}")
    options = {
        name: getattr(args, name) for name in ("sigma", "kernel_size") if getattr(args, name) is not None
    }
    band_pass = MotionBandPass.stem(**options)
    sampling = UniformSampling(count, training=False, frames_per_segment=band_pass.stride)
    kind = f"sigma {band_pass.sigma:g}, {band_pass.kernel_size} x {band_pass.kernel_size}"
    return read_shown(args.video, sampling), band_pass, f"{Path(args.video).name}, {kind}"


def _kernels(args: argparse.Namespace) -> None:
    from vidops.visualize import check_picture, find_band_pass, kernel_grid, load_subject, save

    check_picture(args.out)
    subject = load_subject(weights=args.weights)
    name, band_pass = find_band_pass(subject.net, args.layer)
    save(kernel_grid(band_pass, channels=args.channels, title=f"{name} of {subject.title}"), args.out)


def _filters(args: argparse.Namespace) -> None:
    from vidops.visualize import check_picture, filter_grid, first_filters, load_subject, save

    check_picture(args.out)
    filters = {}
    for text in args.weights:
        name, path = named(text)
        subject = load_subject(weights=path)
        for part, weight in first_filters(subject.net).items():
            title = f"{name or subject.title}{f', {part}' if part else ''}"
            if title in filters:
                raise ValueError(f"two networks are named {title!r}; give names: NAME={path}")
            filters[title] = weight
    save(filter_grid(filters, channel=args.channel), args.out)
