"""``vidops predict``: classes of video files, or of the actors in them."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vidops.evaluation import ActorPrediction, Prediction
    from vidops.evaluation.file_predictor import FilePredictor, FileResult

    AnyPredictor = FilePredictor[Prediction] | FilePredictor[ActorPrediction]

HELP = "name the likeliest classes of video files, or of the actors in them"
EPILOG = """\
examples:
  vidops predict clip.mp4 --weights runs/tiny/best.ckpt
      a table for one video or a few
  vidops predict videos/ 'more/**/*.webm' --weights runs/tiny/best.ckpt --workers 4 --out predictions.jsonl
      every video of a folder and of a pattern, one line of JSON each; called again after it was killed,
      the command goes on where it stopped; videos that have changed since are done again, and the last
      line of a video is the one that counts
  vidops predict clip.mp4 --weights runs/st_slowfast/best.ckpt --boxes boxes.csv --threshold 0.3 --draw actors.mp4
      of a network that classifies actors: what each one does in the boxes of a file, and a video with both drawn;
      without --boxes the whole frame, once a second
  torchrun --nproc-per-node 2 -m vidops predict videos/ --weights runs/tiny/best.ckpt --out predictions.jsonl
      the same on two GPUs, or in two processes: each predicts its share
"""
FEW = 20  # videos up to which each gets a table of its own


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        f"{HELP}. A missing or broken file is one line on standard error;\n"
        "the other files are predicted all the same, and the exit status is then 1."
    )
    parser.epilog = EPILOG
    parser.add_argument(
        "videos",
        nargs="*",
        metavar="VIDEO",
        help="file, shard (.tar), folder (with its sub-folders; one that holds frames and no video is one) or quoted"
        " pattern",
    )
    parser.add_argument(
        "--list",
        action="append",
        default=[],
        metavar="FILE",
        help="text file with one VIDEO a line; - is standard input",
    )
    parser.add_argument("--weights", required=True, metavar="FILE", help="checkpoint of vidops train")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="classes a video (default: 5)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--json", action="store_true", help="one line of JSON a video instead of a table")
    where.add_argument(
        "--out",
        metavar="FILE",
        help="write the lines of JSON to FILE; videos that it holds are done again only if they have changed",
    )
    parser.add_argument(
        "--views",
        metavar="CROPSxCLIPS",
        help="crops (1, 3 or 10) x clips of each video; default: the recipe's",
    )
    parser.add_argument(
        "--average", choices=["logits", "softmax"], help="what is averaged over views; default: the recipe's"
    )
    actors = parser.add_argument_group("of actors (where the network classifies these)")
    actors.add_argument(
        "--boxes",
        metavar="FILE",
        help="boxes to classify, csv: timestamp,x1,y1,x2,y2[,score] or video,timestamp,x1,y1,x2,y2[,action[,score]],"
        " as shares of width and height",
    )
    actors.add_argument("--min-score", type=float, metavar="P", help="leave out boxes of a lower score")
    actors.add_argument(
        "--start-time",
        type=float,
        metavar="S",
        help="timestamp of a video's first frame in the boxes file (default: 0; AVA's: 900)",
    )
    actors.add_argument(
        "--every", type=float, metavar="S", help="without --boxes: seconds between two moments (default: 1)"
    )
    actors.add_argument(
        "--threshold", type=float, metavar="P", help="name no class of a lower probability (default: 0)"
    )
    actors.add_argument("--draw", metavar="FILE", help="one video again, boxes and classes drawn (.mp4)")
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes that decode (default: none but this)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help="clips computed at a time (default: 8)"
    )
    parser.add_argument("--accelerator", choices=["auto", "cpu", "cuda"], help="default: the recipe's")
    parser.add_argument(
        "--backend", choices=["reference", "cpu", "cuda", "triton"], help="default: the recipe's"
    )


def run(args: argparse.Namespace) -> int:
    """Predict, print or write as results come, and say by the exit status whether all files could be read.

    Under torchrun rank 0 alone finds the videos, speaks and writes.
    """
    from vidops.evaluation.ranks import joined, rank_and_size

    if not args.videos and not args.list:
        raise ValueError("VIDEO: no video is given")
    rank, _ = rank_and_size()
    with joined():
        try:
            predictor, paths = _prepare(args)
            if args.out is not None:
                return _to_file(predictor, paths, args.out)
            return _to_screen(predictor, paths, as_json=args.json, draw=args.draw)
        except Exception:
            if rank:
                return 0  # all that is done is done together: rank 0 has the error too, shows it and fails
            raise


def _prepare(args: argparse.Namespace) -> tuple[AnyPredictor, list[str]]:
    """Load the network on each rank, and find the videos on the first."""
    from vidops.data import FrameFolder
    from vidops.evaluation import find_videos
    from vidops.evaluation.ranks import on_all_ranks

    loaded: list[AnyPredictor] = []

    def prepare(rank: int, size: int) -> list[str]:
        loaded.append(_load(args))
        if rank:
            return []
        data = loaded[0].config.data
        frames = FrameFolder(data.template, data.first_frame)
        paths = find_videos(args.videos, lists=args.list, frames=frames)
        if args.draw is not None and len(paths) > 1:
            raise ValueError(f"--draw: draws one video, {len(paths):,} are given")
        return paths

    paths = on_all_ranks(prepare)[0]
    return loaded[0], paths


def _load(args: argparse.Namespace) -> AnyPredictor:
    """Load the network that classifies clips, or actors, and refuse options of the other."""
    from vidops.evaluation import ActorPredictor, Predictor
    from vidops.evaluation.recipe import classifies_actors
    from vidops.training import read_checkpoint

    if args.draw is not None:
        from vidops.visualize import check_actor_video

        check_actor_video(args.draw)
        if args.out is not None:
            raise ValueError("--draw: cannot be had with --out, which goes on where it stopped")
    own = {key: getattr(args, key) for key in ("boxes", "min_score", "start_time", "every", "threshold")}
    given = {key: value for key, value in own.items() if value is not None}
    options = {
        key: getattr(args, key)
        for key in ("top", "batch_size", "workers", "views", "average", "accelerator", "backend")
    }
    if not classifies_actors(read_checkpoint(args.weights).config):
        for key in [*given, *(["draw"] if args.draw is not None else [])]:
            raise ValueError(f"--{key.replace('_', '-')}: {args.weights} classifies clips, not actors")
        return Predictor(args.weights, **options)
    if args.boxes is None:
        for key in {"min_score", "start_time"} & set(given):
            raise ValueError(f"--{key.replace('_', '-')}: needs --boxes")
    elif args.every is not None:
        raise ValueError("--every: the moments are those of --boxes")
    return ActorPredictor(args.weights, **given, **options)


def _to_screen(predictor: AnyPredictor, paths: list[str], *, as_json: bool, draw: str | None) -> int:
    """Print the predictions; on the other ranks, take part in them."""
    from vidops.evaluation.ranks import rank_and_size

    bar = sys.stderr if sys.stderr.isatty() and not sys.stdout.isatty() else None
    predictions = predictor.run(paths, out=bar)
    if rank_and_size()[0]:
        return _take_part(predictions)
    failed = 0
    for prediction in _named_errors(predictions):
        failed += prediction.error is not None
        if as_json:
            print(json.dumps(prediction.as_dict()), flush=True)
        elif prediction.error is None:
            _show(prediction, few=len(paths) <= FEW)
        if draw is not None and prediction.error is None:
            _draw(predictor, prediction, draw)
    return 1 if failed else 0


def _to_file(predictor: AnyPredictor, paths: list[str], target: str) -> int:
    """Predict what the file does not hold yet."""
    from vidops.evaluation import ResultFile
    from vidops.evaluation.ranks import on_all_ranks

    with contextlib.ExitStack() as stack:
        opened: list[ResultFile] = []

        def choose(rank: int, size: int) -> list[str]:
            if rank:
                return []
            opened.append(stack.enter_context(ResultFile(target, predictor.key)))
            return opened[0].left(paths)

        left = on_all_ranks(choose)[0]
        predictions = predictor.run(left, out=sys.stderr) if left else iter(())
        if not opened:
            return _take_part(predictions)
        results = opened[0]
        again = sum(path in results.done for path in left)
        for path in sorted(set(paths) & set(results.errors) - set(left)):
            print(f"vidops predict: error: {results.errors[path]} (as before)", file=sys.stderr)
        for prediction in _named_errors(predictions):
            results.write(prediction)
        failed = sum(not results.done[path] for path in paths)
    earlier = f", {len(paths) - len(left):,} of them earlier" if len(left) < len(paths) else ""
    changed = f", {again:,} again since they changed" if again else ""
    errors = f", {failed:,} could not be read" if failed else ""
    print(f"{target}: {len(paths):,} videos{earlier}{changed}{errors}")
    return 1 if failed else 0


def _take_part(predictions: Iterable[FileResult]) -> int:
    """Predict this rank's share; the first one shows it."""
    for _ in predictions:
        pass
    return 0


def _named_errors(
    predictions: Iterable[Prediction | ActorPrediction],
) -> Iterable[Prediction | ActorPrediction]:
    """Say what is wrong with a video as soon as it is known, above a progress bar if there is one."""
    from tqdm import tqdm

    for prediction in predictions:
        if prediction.error is not None:
            tqdm.write(f"vidops predict: error: {prediction.error}", file=sys.stderr)
        yield prediction


def _draw(predictor: AnyPredictor, prediction: Prediction | ActorPrediction, out: str) -> None:
    """Write the video again with what its actors do."""
    import os

    from vidops.data import FrameFolder
    from vidops.evaluation import ActorPrediction, ActorPredictor
    from vidops.visualize import save_actor_video

    assert isinstance(prediction, ActorPrediction)
    assert isinstance(predictor, ActorPredictor)
    data, path = predictor.config.data, prediction.path
    folder = FrameFolder(data.template, data.first_frame) if os.path.isdir(path) else None
    save_actor_video(path, prediction.actors, out, frames=folder, frame_rate=predictor.frame_rate)
    print(f"drawn: {out}", file=sys.stderr)


def _show(prediction: Prediction | ActorPrediction, *, few: bool) -> None:
    from vidops.evaluation import ActorPrediction

    if isinstance(prediction, ActorPrediction):
        print(prediction.path)
        for actor in prediction.actors:
            box = " ".join(f"{edge:.3f}" for edge in actor.box)
            scores = ", ".join(f"{name} {probability:.1%}" for name, probability in actor.scores)
            print(f"  {round(actor.timestamp, 3):8g} s  [{box}]  {scores or '-'}", flush=True)
    elif few:
        print(prediction.path)
        for name, probability in prediction.scores:
            print(f"  {probability:7.2%}  {name}", flush=True)
    else:
        scores = ", ".join(f"{name} {probability:.1%}" for name, probability in prediction.scores)
        print(f"{prediction.path}: {scores}", flush=True)
