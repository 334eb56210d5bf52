"""Titles of runs, by which they are told apart."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def tell_apart(models: Sequence[str], files: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Name runs by their models, and where these are not all different, by their files or folders too.

    Args:
        models: of the runs.
        files: one of each run; empty where none is known.

    Returns:
        A title each, all different.

    Example:
        >>> tell_apart(["tsm", "tsm"], ["runs/rgb/best.ckpt", "runs/flow/best.ckpt"])
        ['tsm (rgb)', 'tsm (flow)']
        >>> tell_apart(["tsn", "tsm"], ["", ""]), tell_apart(["tsm", "tsm"], ["", ""])
        (['tsn', 'tsm'], ['tsm (1)', 'tsm (2)'])
    """
    if len(set(models)) == len(models):
        return list(models)
    names = shortest_names(files) or [str(i) for i in range(1, len(models) + 1)]
    return [f"{model} ({name})" for model, name in zip(models, names, strict=True)]


def shortest_names(files: Sequence[str | os.PathLike[str]]) -> list[str] | None:
    """Name files by the fewest parts of their paths that tell them apart, the last ones first; None where none do.

    Example:
        >>> shortest_names(["a/rgb/best.ckpt", "b/rgb/best.ckpt"]), shortest_names(["x/1.csv", "x/2.csv"])
        (['a', 'b'], ['1', '2'])
        >>> shortest_names(["a/1/best.ckpt", "a/2/best.ckpt", "b/1/best.ckpt"])
        ['a/1', 'a/2', 'b/1']
    """
    parts = [Path(file).with_suffix("").parts[::-1] if str(file) else () for file in files]
    depth = max(map(len, parts), default=0)
    for length in range(1, depth + 1):
        for place in range(depth - length + 1):
            found = ["/".join(path[place : place + length][::-1]) for path in parts]
            if all(found) and len(set(found)) == len(found):
                return found
    return None
