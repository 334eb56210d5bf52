"""What the commands that draw pictures share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from vidops._titles import shortest_names

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
