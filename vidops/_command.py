"""Bad settings that are found while vidops is imported: for its command line one line, not a traceback."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence

__all__ = ["is_command", "one_line"]


def is_command(argv: Sequence[str], original: Sequence[str]) -> bool:
    """Whether a process is ``vidops`` or ``python -m vidops``, and ``--traceback`` was not asked for.

    Args:
        argv: ``sys.argv``; its first word is ``-m`` while Python imports the package that ``-m`` names.
        original: ``sys.orig_argv``.

    Example:
        >>> is_command(["-m", "info"], ["python", "-m", "vidops", "info"]), is_command(["train.py"], ["python"])
        (True, False)
    """
    if "--traceback" in argv or not argv:
        return False
    if argv[0] == "-m":  # behind the module's name are the same words
        return original[-len(argv)].removeprefix("-m") == "vidops"
    return os.path.basename(argv[0]) == "vidops"


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """End the command line with a line and status 2 on ValueError; elsewhere let the error pass.

    Example:
        >>> with one_line():
        ...     print("a good setting")
        a good setting
    """
    try:
        yield
    except ValueError as error:
        if not is_command(sys.argv, sys.orig_argv):
            raise
        print(f"vidops: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
