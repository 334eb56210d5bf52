"""``vidops visualize``: pictures of videos, networks and runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from . import _attention, _busy, _keypoints, _pathways, _projection
from ._lists import add_list_options, list_options
from ._pictures import Actions, add_network, add_out, add_parser, as_typed, named, run_logs

if TYPE_CHECKING:
    from torch import Tensor

    from vidops.visualize import ShownFrames, Subject

HELP = (
    "draw pictures (frames, heatmap, gradcam, tsne, curves, gains, busy, kernels, filters, squeeze, appearance,"
    " schedule, scatter, attention, pairs, keypoints, examples, pathways)"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare one sub-command an action."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    own = (_add_frames, _add_heatmap, _add_gradcam, _add_tsne, _add_curves, _add_gains)
    later = (*_projection.ACTIONS, *_attention.ACTIONS, *_keypoints.ACTIONS, *_pathways.ACTIONS)
    for add in (*own, *_busy.ACTIONS, *later):
        add(actions)


def run(args: argparse.Namespace) -> int:
    """Draw the chosen picture."""
    from vidops._extras import require_all

    recipe = dict.fromkeys(("yaml", "pydantic"), "train") if getattr(args, "weights", None) else {}
    require_all({"matplotlib": "viz", **recipe})
    try:
        args.run_action(args)
    except ValueError as error:
        raise ValueError(as_typed(str(error), args.parser)) from error
    except FileNotFoundError as error:
        raise FileNotFoundError(as_typed(str(error), args.parser)) from error
    print(args.out)
    return 0


def _add_heat(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--layer", metavar="NAME", help="by the name it has in the network (default: the last residual stage)"
    )
    parser.add_argument("--columns", type=int, metavar="N", help="frames a row")
    parser.add_argument(
        "--animate", action="store_true", help="one frame after the other, in an animated .png or .gif"
    )
    parser.add_argument(
        "--fps", type=float, default=4.0, metavar="N", help="frames a second of an animation (default: 4)"
    )
    add_out(parser, ".png, .svg or .pdf; animated: .png or .gif")


def _add_frames(actions: Actions[argparse.ArgumentParser]) -> None:
    text = "the frames that make a clip of a video, with their numbers and times"
    parser = add_parser(actions, "frames", text, _frames)
    parser.add_argument("video", metavar="VIDEO")
    parser.add_argument(
        "--frames",
        type=int,
        metavar="N",
        help="centres of N equal segments (default: 8, or what the network sees)",
    )
    parser.add_argument("--columns", type=int, metavar="N", help="frames a row")
    add_network(parser, required=False)
    add_out(parser)


def _add_heatmap(actions: Actions[argparse.ArgumentParser]) -> None:
    text = (
        "a map over the frames of a video: one of your own, or where a layer of a network is active (mean square"
        " of its channels)"
    )
    parser = add_parser(actions, "heatmap", text, _heatmap)
    parser.add_argument("video", metavar="VIDEO")
    parser.add_argument(
        "--map",
        metavar="FILE.npy",
        help="array (T, h, w), drawn over the centres of T equal segments of the video",
    )
    add_network(parser, required=False)
    parser.add_argument(
        "--limits",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="ends of the scale (default: 0 and the greatest value)",
    )
    _add_heat(parser)


def _add_gradcam(actions: Actions[argparse.ArgumentParser]) -> None:
    text = "which places of a video speak for a class: Grad-CAM"
    parser = add_parser(actions, "gradcam", text, _gradcam)
    parser.add_argument("video", metavar="VIDEO")
    add_network(parser)
    parser.add_argument(
        "--class", dest="target", metavar="NAME|N", help="class, by name or number (default: the likeliest)"
    )
    _add_heat(parser)


def _add_tsne(actions: Actions[argparse.ArgumentParser]) -> None:
    text = "features before the classifier of many videos, laid out in the plane by t-SNE"
    parser = add_parser(actions, "tsne", text, _tsne)
    parser.add_argument("list", metavar="LIST", help="annotation list, or a folder with a sub-folder a class")
    add_list_options(parser)
    add_network(parser)
    parser.add_argument("--classes", metavar="A,B,...", help="only these classes, by name (default: all)")
    parser.add_argument(
        "--perplexity", type=float, metavar="P", help="default: 30, or a third of the other videos if less"
    )
    parser.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help="videos at a time (default: 8)"
    )
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes that decode (default: 0)"
    )
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cpu", help="where the network runs (default: cpu)"
    )
    add_out(parser)


def _add_curves(actions: Actions[argparse.ArgumentParser]) -> None:
    text = "loss and accuracy of runs over their epochs, in training and validation"
    parser = add_parser(actions, "curves", text, _curves)
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folder of a run of vidops train, or its metrics.csv; NAME=RUN gives it another name than its folder's",
    )
    parser.add_argument("--top5", action="store_true", help="top-5 in place of top-1 or of frame mAP")
    add_out(parser)


def _add_gains(actions: Actions[argparse.ArgumentParser]) -> None:
    text = "classes that gain most and lose most between two reports of vidops evaluate --json"
    parser = add_parser(actions, "gains", text, _gains)
    parser.add_argument("baseline", metavar="BASELINE.json", help="NAME=BASELINE.json names the network")
    parser.add_argument("other", metavar="OTHER.json", help="likewise")
    parser.add_argument(
        "--number", type=int, default=10, metavar="N", help="classes from each end (default: 10)"
    )
    add_out(parser)


def _frames(args: argparse.Namespace) -> None:
    from vidops.data import UniformSampling
    from vidops.visualize import check_picture, clip_grid, read_shown, save

    check_picture(args.out)
    title = Path(args.video).name
    if args.weights or args.model:
        if args.frames is not None:
            raise ValueError("--frames: the network says how many frames it sees")
        subject = _subject(args)
        _, shown = subject.read(args.video)
        title += f" as {subject.title} sees it"
    else:
        count = 8 if args.frames is None else args.frames
        if count < 1:
            raise ValueError(f"--frames must be at least 1, got {count}")
        shown = read_shown(args.video, UniformSampling(count, training=False))
    save(clip_grid(shown, title=title, columns=args.columns), args.out)


def _heatmap(args: argparse.Namespace) -> None:
    from vidops.data import UniformSampling
    from vidops.visualize import layer_energy, read_shown

    _check_heat(args)
    network = args.weights or args.model
    if bool(args.map) == bool(network):
        raise ValueError("give either --map or a network (--weights or --model)")
    title = Path(args.video).name
    if args.map:
        if args.layer:
            raise ValueError("--layer is for a network, not for --map")
        heat = _read_map(args.map)
        shown = read_shown(args.video, UniformSampling(len(heat), False))
        title, label = f"{title}: {Path(args.map).name}", "value"
    else:
        subject = _subject(args)
        clip, shown = subject.read(args.video)
        heat, layer = layer_energy(subject.net, clip, layer=args.layer)
        title, label = f"{title}: {layer} of {subject.title}", "mean square of the channels"
    limits = None if args.limits is None else (args.limits[0], args.limits[1])
    _write_heat(args, shown, heat, title, label, limits)


def _gradcam(args: argparse.Namespace) -> None:
    from vidops.visualize import grad_cam

    _check_heat(args)
    subject = _subject(args)
    target = None if args.target is None else subject.find_class(args.target)
    clip, shown = subject.read(args.video)
    found = grad_cam(subject.net, clip, target=target, layer=args.layer)
    title = (
        f"{Path(args.video).name}: Grad-CAM of {subject.classes[found.target]}"
        f" ({'the likeliest, ' if found.predicted else ''}{found.probability:.1%}) at {found.layer} of"
        f" {subject.title}"
    )
    if not found.heat.any():
        title += "; nothing speaks for the class"
    _write_heat(args, shown, found.heat, title, "Grad-CAM", None)


def _tsne(args: argparse.Namespace) -> None:
    from vidops.data import read_annotations
    from vidops.visualize import check_picture, features_of_videos, save, tsne_plot
    from vidops.visualize.embedding import check_labels

    check_picture(args.out)
    wanted = None if args.classes is None else [name.strip() for name in args.classes.split(",")]
    subject = _subject(args)
    features, labels, classes = features_of_videos(
        subject,
        read_annotations(args.list, **list_options(args, subject.folder)),
        classes=wanted,
        batch_size=args.batch_size,
        workers=args.workers,
        device=args.device,
        check=lambda labels: check_labels(labels, args.perplexity),
    )
    save(
        tsne_plot(features, labels, classes, title=subject.title, perplexity=args.perplexity, seed=args.seed),
        args.out,
    )


def _curves(args: argparse.Namespace) -> None:
    from vidops.visualize import check_picture, run_curves, save

    check_picture(args.out)
    save(run_curves(run_logs(args.runs), accuracy="top5" if args.top5 else None), args.out)


def _gains(args: argparse.Namespace) -> None:
    from vidops._titles import tell_apart
    from vidops.visualize import check_picture, gains_plot, read_report, save

    check_picture(args.out)
    reports, names, paths = [], [], []
    for text in (args.baseline, args.other):
        name, path = named(text)
        paths.append(path)
        reports.append(read_report(path))
        names.append(name or str(reports[-1].get("model", path.stem)))
    if names[0] == names[1]:
        names = tell_apart(names, paths)
    save(gains_plot(*reports, number=args.number, names=(names[0], names[1])), args.out)


def _subject(args: argparse.Namespace) -> Subject:
    from vidops.visualize import load_subject

    return load_subject(weights=args.weights, model=args.model, seed=args.seed)


def _check_heat(args: argparse.Namespace) -> None:
    from vidops.visualize import check_animation, check_picture

    if args.animate:
        check_animation(args.out, args.fps)
    else:
        check_picture(args.out)


def _write_heat(
    args: argparse.Namespace,
    shown: ShownFrames,
    heat: Tensor,
    title: str,
    label: str,
    limits: tuple[float, float] | None,
) -> None:
    from vidops.visualize import animate_heat_map, heat_map_grid, save

    if args.animate:
        animate_heat_map(shown, heat, args.out, title=title, label=label, limits=limits, fps=args.fps)
        return
    save(heat_map_grid(shown, heat, title=title, label=label, limits=limits, columns=args.columns), args.out)


def _read_map(path: str) -> Tensor:
    """Read a (T, h, w) array of numbers."""
    import numpy as np
    import torch

    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"map {path}: no such file") from None
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"map {path}: is no .npy file of numbers") from error
    if (
        not isinstance(array, np.ndarray)
        or array.ndim != 3
        or array.dtype.kind not in "fiub"
        or 0 in array.shape
    ):
        shape = getattr(array, "shape", type(array).__name__)
        raise ValueError(f"map {path}: must be numbers of shape (T, h, w), holds {shape}")
    return torch.from_numpy(array.astype(np.float32))
