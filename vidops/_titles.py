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
    parts = [Path(file).with_suffix("").parts[::-1] if str(file) else () for file in files]
    for place in range(max(map(len, parts))):
        found = [path[place] if place < len(path) else "" for path in parts]
        if all(found) and len(set(found)) == len(found):
            break
    else:
        found = [str(i) for i in range(1, len(models) + 1)]
    return [f"{model} ({name})" for model, name in zip(models, found, strict=True)]
