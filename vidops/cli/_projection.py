"""``vidops visualize squeeze``, ``appearance``, ``schedule`` and ``scatter``: chapter 3 of Huang's thesis."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ._pictures import Actions, add_out, add_parser, run_logs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vidops.visualize import ShownFrames, Squeezed

CURVES = ((0.1, 0.1), (0.2, 0.3), (0.5, 0.3))  # gamma and lambda of the thesis' table 3.9


def _add_layer(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("video", metavar="VIDEO")
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help=f"checkpoint of vidops train whose {what}, frames and crop are taken (default: a layer that is trained"
        " on these frames alone, without labels)",
    )
    parser.add_argument("--steps", type=int, metavar="N", help="of that training (default: 100)")
    parser.add_argument(
        "--short-side", type=int, metavar="N", help="of the frames in pixels (default: the file's, up to 256)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the layer's first weights (default: 0)")


def _add_squeeze(actions: Actions[argparse.ArgumentParser]) -> None:
    text = "squeezed images: a run of frames as the few images that temporal squeeze pooling makes of it"
    parser = add_parser(actions, "squeeze", text, _squeeze)
    _add_layer(parser, "first squeeze pooling")
    parser.add_argument(
        "--frames", type=int, metavar="K", help="consecutive ones, in the middle of the video (default: 10)"
    )
    parser.add_argument("--images", type=int, metavar="D", help="squeezed images (default: 3)")
    parser.add_argument(
        "--activations",
        metavar="A+B,...",
        help="of the two layers, sigmoid, tanh, relu or leaky_relu, several to compare (default: sigmoid+leaky_relu)",
    )
    parser.add_argument("--flow", action="store_true", help="squeeze the frames' TV-L1 flow too")
    add_out(parser)


def _add_appearance(actions: Actions[argparse.ArgumentParser]) -> None:
    text = "dynamic appearances beside frame averages: what moves in the segments of a video"
    parser = add_parser(actions, "appearance", text, _appearance)
    _add_layer(parser, "temporal projection")
    parser.add_argument(
        "--lengths", metavar="T,...", help="frames of a segment, several to compare (default: 8)"
    )
    parser.add_argument("--segments", type=int, metavar="S", help="over the video (default: 4)")
    parser.add_argument("--basis-size", type=int, metavar="D", help="columns of the basis (default: 1)")
    parser.add_argument(
        "--rows",
        default="average,appearance",
        metavar="A,B,...",
        help="from the top: average, appearance, dynamic_image, squeezed_image, flow (default: average,appearance)",
    )
    add_out(parser)


def _add_schedule(actions: Actions[argparse.ArgumentParser]) -> None:
    text = "curves of the scale schedule of joint training"
    parser = add_parser(actions, "schedule", text, _schedule)
    parser.add_argument("--steps", type=int, default=10_000, metavar="M", help="of the run (default: 10000)")
    curves = " ".join(f"{gamma:g},{lam:g}" for gamma, lam in CURVES)
    parser.add_argument(
        "--curves", nargs="+", metavar="GAMMA,LAMBDA", help=f"one to six (default: {curves}, of table 3.9)"
    )
    add_out(parser)


def _add_scatter(actions: Actions[argparse.ArgumentParser]) -> None:
    text = "a network's own loss against the cross entropy over the steps of runs with joint in their recipe"
    parser = add_parser(actions, "scatter", text, _scatter)
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folder of a run of vidops train, or its metrics.csv; NAME=RUN gives it another name than its folder's",
    )
    add_out(parser)


ACTIONS = (_add_squeeze, _add_appearance, _add_schedule, _add_scatter)


def _squeeze(args: argparse.Namespace) -> None:
    from vidops.visualize import check_picture, save, squeezed_grid

    check_picture(args.out)
    rows, title = _squeezed_by_checkpoint(args) if args.weights else _squeezed_by_new_layers(args)
    save(squeezed_grid(rows, title=title), args.out)


def _squeezed_by_checkpoint(
    args: argparse.Namespace,
) -> tuple[dict[str, tuple[Tensor, Squeezed]], str]:
    """Squeeze what a network's first squeeze pooling is given."""
    from vidops.layers import TemporalSqueezePool
    from vidops.visualize import find_layer, flow_colors, load_subject, squeeze
    from vidops.visualize.hooks import inputs_of

    _refuse(args, "steps", "short_side", "frames", "images", "activations", "flow")
    subject = load_subject(weights=args.weights)
    layer = find_layer(subject.net, TemporalSqueezePool)
    clip, shown = subject.read(args.video)
    runs = inputs_of(layer, subject.net, clip)[0]
    if runs.shape[1] not in (2, 3):
        raise ValueError(
            f"{args.weights}: its first squeeze pooling sees {runs.shape[1]} feature maps, not frames"
        )
    frames = shown.frames
    if runs.shape[1] == 2:
        fields = runs.transpose(1, 2).flatten(0, 1).permute(0, 2, 3, 1)
        frames = flow_colors(fields, max(float(fields.norm(dim=-1).quantile(0.995)), 1e-6))
    parts = frames.unflatten(0, (len(runs), -1))
    names = [f"run {i + 1}" if len(runs) > 1 else subject.title.partition(",")[0] for i in range(len(runs))]
    rows = {name: (part, squeeze(layer, run)) for name, part, run in zip(names, parts, runs, strict=True)}
    return rows, f"{Path(args.video).name} as {subject.title} squeezes it"


def _squeezed_by_new_layers(
    args: argparse.Namespace,
) -> tuple[dict[str, tuple[Tensor, Squeezed]], str]:
    """Squeeze a run of frames by layers that are trained on it."""
    from vidops.visualize import flow_colors
    from vidops.visualize.busy import tvl1_fields
    from vidops.visualize.projection import normalised

    count = 10 if args.frames is None else args.frames
    images = 3 if args.images is None else args.images
    pairs = [tuple(text.strip().split("+")) for text in (args.activations or "sigmoid+leaky_relu").split(",")]
    _check_counts(("--frames", count, 2), ("--images", images, 1))
    # Checked before the video is read: the layer does it.
    layers = {pair: _new_squeeze(args, count, images, pair) for pair in pairs}
    shown = _read(args, 1, count + int(args.flow))
    frames = shown.frames[:count]
    clips = {"": (frames, normalised(frames))}
    if args.flow:
        fields = tvl1_fields(frames, shown.frames[1:])
        limit = max(float(fields.norm(dim=-1).flatten().quantile(0.995)), 0.5)
        clips["flow, "] = flow_colors(fields, limit), fields.permute(3, 0, 1, 2).contiguous()
    rows = {}
    for kind, (pictures, clip) in clips.items():
        for pair, layer in layers.items():
            own = layer if not kind else _new_squeeze(args, count, images, pair)
            rows[f"{kind}{' + '.join(pair)}"] = pictures, _fitted(args, own, clip)
    return rows, f"{Path(args.video).name}, {_trained(args)}"


def _new_squeeze(
    args: argparse.Namespace, count: int, images: int, activations: tuple[str, ...]
) -> nn.Module:
    import torch

    from vidops.layers import TemporalSqueezePool

    with torch.random.fork_rng([]):
        torch.manual_seed(args.seed)
        return TemporalSqueezePool(count, images, activations=activations)


def _fitted(args: argparse.Namespace, layer: nn.Module, clip: Tensor) -> Squeezed:
    from vidops.visualize import fit_projection, squeeze

    fit_projection(layer, clip[None], steps=_steps(args), out=sys.stderr)  # type: ignore[type-var]
    return squeeze(layer, clip)  # type: ignore[arg-type]


def _appearance(args: argparse.Namespace) -> None:
    import torch

    from vidops.layers import PixelwiseTemporalProjection
    from vidops.visualize import (
        appearance_grid,
        appearances,
        check_picture,
        find_layer,
        fit_projection,
        load_subject,
        save,
    )
    from vidops.visualize.projection import check_rows, normalised

    check_picture(args.out)
    rows = [name.strip() for name in args.rows.split(",")]
    check_rows(rows)
    if args.weights:
        _refuse(args, "steps", "short_side", "lengths", "segments", "basis_size")
        subject = load_subject(weights=args.weights)
        layer = find_layer(subject.net, PixelwiseTemporalProjection)
        clip, shown = subject.read(args.video)
        found = [appearances(layer, shown, clip)]
        title = f"{Path(args.video).name} as {subject.title} sees it"
        save(appearance_grid(found, rows=rows, title=title), args.out)
        return
    segments = 4 if args.segments is None else args.segments
    size = 1 if args.basis_size is None else args.basis_size
    lengths = _whole_numbers("--lengths", args.lengths or "8")
    _check_counts(("--segments", segments, 1))
    with torch.random.fork_rng([]):
        torch.manual_seed(args.seed)
        layers = [PixelwiseTemporalProjection(length, size) for length in lengths]
    found = []
    for layer in layers:
        shown = _read(args, segments, layer.num_frames)
        fit_projection(layer, normalised(shown.frames)[None], steps=_steps(args), out=sys.stderr)
        found.append(appearances(layer, shown))
    title = f"{Path(args.video).name}, {_trained(args)}"
    save(appearance_grid(found, rows=rows, title=title), args.out)


def _read(args: argparse.Namespace, segments: int, length: int) -> ShownFrames:
    """Read runs of frames at the centres of equal segments."""
    from vidops.data import UniformSampling
    from vidops.visualize import read_shown

    sampling = UniformSampling(segments, training=False, frames_per_segment=length)
    if args.short_side is not None:
        _check_counts(("--short-side", args.short_side, 16))
        return read_shown(args.video, sampling, short_side=args.short_side)
    shown = read_shown(args.video, sampling)
    large = min(shown.frames.shape[1:3]) > 256
    return read_shown(args.video, sampling, short_side=256) if large else shown


def _steps(args: argparse.Namespace) -> int:
    steps = 100 if args.steps is None else int(args.steps)
    _check_counts(("--steps", steps, 0))
    return steps


def _trained(args: argparse.Namespace) -> str:
    steps = _steps(args)
    return f"trained on these frames for {steps} steps" if steps else "first weights, not trained"


def _refuse(args: argparse.Namespace, *names: str) -> None:
    for name in names:
        if getattr(args, name) not in (None, False):
            raise ValueError(f"--{name.replace('_', '-')}: the network says it")


def _check_counts(*counts: tuple[str, int, int]) -> None:
    for name, count, least in counts:
        if count < least:
            raise ValueError(f"{name} must be at least {least}, got {count}")


def _whole_numbers(name: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{name} must be whole numbers such as 4,8,16, got {text!r}") from None


def _schedule(args: argparse.Namespace) -> None:
    from vidops.training import ScaleSchedule
    from vidops.visualize import check_picture, save, schedule_curves

    check_picture(args.out)
    curves = []
    for text in args.curves or [f"{gamma},{lam}" for gamma, lam in CURVES]:
        try:
            gamma, lam = (float(part) for part in text.split(","))
        except ValueError:
            raise ValueError(f"--curves must be two numbers each such as 0.2,0.3, got {text!r}") from None
        curves.append(ScaleSchedule(args.steps, gamma, lam))
    save(schedule_curves(curves), args.out)


def _scatter(args: argparse.Namespace) -> None:
    from vidops.visualize import check_picture, energy_scatter, save

    check_picture(args.out)
    save(energy_scatter(run_logs(args.runs)), args.out)
