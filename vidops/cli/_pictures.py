"""What the commands that draw pictures share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from vidops._titles import shortest_names, tell_apart

if TYPE_CHECKING:
    from vidops.visualize import Subject

Actions = argparse._SubParsersAction


def add_parser(
    actions: Actions[argparse.ArgumentParser],
    name: str,
    text: str,
    action: Callable[[argparse.Namespace], None],
) -> argparse.ArgumentParser:
    """Declare an action.

    Args:
        actions: of the command.
        name: on the command line.
        text: of its help.
        action: what draws the picture.

    Returns:
        The parser for its arguments.
    """
    parser = actions.add_parser(name, help=text, description=text)
    parser.set_defaults(run_action=action, parser=parser)
    return parser


def add_out(parser: argparse.ArgumentParser, kinds: str = ".png, .svg or .pdf") -> None:
    """Declare the picture's file.

    Args:
        parser: of the action.
        kinds: endings that its name may have, for the help.
    """
    parser.add_argument("--out", "-o", required=True, metavar="FILE.png", help=f"picture to write ({kinds})")


def add_network(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Declare the one network of a picture.

    Args:
        parser: of the action.
        required: whether there must be one.
    """
    network = parser.add_mutually_exclusive_group(required=required)
    network.add_argument("--weights", metavar="FILE", help="checkpoint of vidops train")
    network.add_argument("--model", metavar="NAME", help="a network of vidops models, with random weights")
    parser.add_argument("--seed", type=int, default=0, help="of random weights, and of t-SNE (default: 0)")


def add_networks(parser: argparse.ArgumentParser, needs: str = "", frames: str = "all") -> None:
    """Declare the networks of a picture that compares several, and how many frames of each clip it shows.

    Args:
        parser: of the action.
        needs: what their checkpoints must have, for the help.
        frames: how many are shown by default, for the help.
    """
    parser.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="FILE",
        help=f"checkpoint of vidops train{needs}; several are compared, NAME=FILE names one",
    )
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME",
        help="a network of vidops models, with random weights",
    )
    parser.add_argument("--seed", type=int, default=0, help="of random weights (default: 0)")
    parser.add_argument("--frames", type=int, metavar="N", help=f"shown of each clip (default: {frames})")


def as_typed(text: str, parser: argparse.ArgumentParser) -> str:
    """Let an error that begins with a function's argument begin with the option that it came from.

    Args:
        text: of the error.
        parser: of the action.

    Returns:
        The text, with ``--columns`` for ``columns`` if there is such an option.

    Example:
        >>> parser = argparse.ArgumentParser()
        >>> _ = parser.add_argument("--columns")
        >>> as_typed("columns must be at least 1, got 0", parser)
        '--columns must be at least 1, got 0'
    """
    word = text.replace(":", " ").partition(" ")[0]
    for option in parser._actions:
        flags = [flag for flag in option.option_strings if flag.startswith("--")]
        if flags and word in (option.dest, flags[0].strip("-").replace("-", "_")):
            return flags[0] + text.removeprefix(word)
    return text


def named(text: str) -> tuple[str, Path]:
    """Split NAME=PATH; a path that exists as it stands has no name.

    Args:
        text: of the command line.

    Returns:
        The name, empty if there is none, and the path.
    """
    name, equals, path = text.partition("=")
    if not equals or Path(text).exists():
        return "", Path(text)
    return name, Path(path)


def run_logs(runs: list[str]) -> dict[str, Path]:
    """Find the ``metrics.csv`` of runs.

    Args:
        runs: folders or files, NAME=PATH for another name than the folder's.

    Returns:
        The files by name; folders of one name are told apart by those that they lie in.

    Raises:
        ValueError: two have one name, or are one file.

    Example:
        >>> run_logs(["a=runs/x/metrics.csv"])
        {'a': PosixPath('runs/x/metrics.csv')}
    """
    given = [named(text) for text in runs]
    given = [(name, path / "metrics.csv" if path.is_dir() else path) for name, path in given]
    folders = [Path(os.path.abspath(path)).parent for name, path in given if not name]
    usual = [folder.name for folder in folders]
    if len(set(usual)) < len(usual):
        usual = shortest_names([folder / "metrics" for folder in folders]) or usual
    names = iter(usual)
    logs: dict[str, Path] = {}
    for name, path in given:
        name = name or next(names)
        if name in logs:
            raise ValueError(f"two runs are named {name!r}; give names: NAME={path}")
        logs[name] = path
    return logs


def load_subjects(args: argparse.Namespace) -> list[tuple[str, Subject]]:
    """Load the networks that `add_networks` declares.

    Args:
        args: the parsed arguments.

    Returns:
        Each with a short name; checkpoints of one model are told apart by their paths.

    Raises:
        ValueError: none is given.
    """
    from vidops.visualize import load_subject

    if not args.weights and not args.model:
        raise ValueError("give a network: --weights or --model")
    given = [named(text) for text in args.weights]
    subjects = [load_subject(weights=path) for _, path in given]
    unnamed = [i for i, (name, _) in enumerate(given) if not name]
    models = [subjects[i].title.partition(",")[0] for i in unnamed]
    titles = dict(
        zip(unnamed, tell_apart(models, [os.path.abspath(given[i][1]) for i in unnamed]), strict=True)
    )
    found = [(name or titles[i], subjects[i]) for i, (name, _) in enumerate(given)]
    return found + [(name, load_subject(model=name, seed=args.seed)) for name in args.model]
