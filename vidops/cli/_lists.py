"""The arguments of commands that go through many videos: a recipe, a list or a folder, and how a list is read."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidops.data import FrameFolder, Sample

KEYS = ("root", "format", "template", "first_frame", "split")


@dataclass(frozen=True)
class Source:
    """Videos, and where they come from.

    Args:
        samples: the videos, those that are missing included.
        root: folder that their paths start from.
        flow_root: where a recipe keeps the flow of its videos.
    """

    samples: list[Sample]
    root: str
    flow_root: str | None = None


def add_source(parser: argparse.ArgumentParser) -> None:
    """Declare the source of the videos, and the options of `add_list_options`."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a recipe (.yaml), whose two lists are read, a list, or a folder of videos",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="keys of the recipe to change, such as data.root=clips",
    )
    add_list_options(parser)


def add_list_options(parser: argparse.ArgumentParser) -> None:
    """Declare how a list is read: the keys of a recipe's section data that say so, and which part is meant."""
    options = parser.add_argument_group(
        "of a list", "as the keys of the same names in a recipe's section data"
    )
    options.add_argument(
        "--root", metavar="DIR", help="folder that paths start from (default: the list's own)"
    )
    options.add_argument("--format", help="format of the list (default: seen from its name and first line)")
    options.add_argument(
        "--template",
        metavar="NAME",
        help="names of the pictures in frame folders (default: {:05d}.jpg)",
    )
    options.add_argument(
        "--first-frame", type=int, choices=(0, 1), help="number of the first one (default: 1)"
    )
    options.add_argument("--split", type=int, choices=(1, 2, 3), help="which of HMDB51's splits (default: 1)")
    options.add_argument(
        "--subset",
        choices=("train", "val", "all"),
        default="all",
        help="of a list or recipe that holds both (default: all)",
    )


def list_options(args: argparse.Namespace, usual: FrameFolder | None = None) -> dict[str, Any]:
    """Return the options of `add_list_options` as arguments of `vidops.data.read_annotations`.

    Args:
        args: the parsed arguments.
        usual: how frames are named where the options do not say.
    """
    from vidops.data import FrameFolder

    usual = usual or FrameFolder()
    return {
        "root": args.root,
        "format": args.format or "auto",
        "split": args.split or 1,
        "subset": args.subset,
        "frames": FrameFolder(
            usual.template if args.template is None else args.template,
            usual.first if args.first_frame is None else args.first_frame,
        ),
    }


def read_source(args: argparse.Namespace) -> Source:
    """Find the videos of the arguments that `add_source` declares.

    Args:
        args: the parsed arguments.

    Returns:
        The videos; of a recipe those of both lists, of a folder every video file below it.

    Raises:
        FileNotFoundError: there is no such recipe, list or folder.
        ValueError: it cannot be read, or an argument does not fit it.
    """
    from vidops.data import read_annotations
    from vidops.data.actor_lists import list_videos
    from vidops.data.flow_jobs import find_videos
    from vidops.data.formats import find_format

    source = Path(args.source)
    if source.suffix in (".yaml", ".yml"):
        return _of_recipe(args)
    if args.overrides:
        raise ValueError(f"{args.overrides[0]}: keys are those of a recipe, {source} is none")
    options = list_options(args)
    own = str(source) if source.is_dir() else os.path.dirname(args.source) or "."
    format = find_format(source, options["format"]).name if source.exists() else ""
    if source.is_dir() and format == "folder":
        return Source(find_videos(source), args.root or own)
    if format == "ava":
        return Source(list_videos(source, args.root, options["frames"]), args.root or own)
    return Source(read_annotations(source, **options, missing="keep").samples, args.root or own)


def _of_recipe(args: argparse.Namespace) -> Source:
    from vidops.training import load_config
    from vidops.training.task import task_of

    for key in KEYS:
        if getattr(args, key) is not None:
            flag = "--" + key.replace("_", "-")
            raise ValueError(f"{flag}: is for lists; of a recipe change data.{key}")
    config = load_config(args.source, args.overrides)
    parts = ("train", "val") if args.subset == "all" else (args.subset,)
    task = task_of(config)
    samples = [sample for part in parts for sample in task.read(part, missing="keep").samples]
    return Source(samples, config.data.root, config.data.flow_root)
