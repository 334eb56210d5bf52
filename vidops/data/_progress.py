"""How far long work has come: a bar on a terminal, now and then a line in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, TextIO

from .._extras import require

SECONDS = 60.0  # between two lines in a log


class Progress:
    """Count what is done and show it; to be used in a ``with`` block.

    Args:
        total: how much there is to do.
        what: name of the work.
        unit: name of what is counted.
        out: where it is shown; None shows nothing.

    Raises:
        ImportError: ``out`` is a terminal and tqdm is not installed.

    Example:
        >>> with Progress(3, "check", "video") as progress:
        ...     progress.update(2)
        >>> progress.done
        2
    """

    def __init__(self, total: int, what: str, unit: str, out: TextIO | None = None) -> None:
        self.total, self.what, self.unit, self.out = total, what, unit, out
        self.done = 0
        self._said = time.monotonic()
        self._bar: Any = None
        if out is not None and out.isatty():
            tqdm = require("tqdm", extra="train").tqdm
            self._bar = tqdm(total=total, desc=what, unit=unit, leave=False, file=out, dynamic_ncols=True)

    def update(self, count: int = 1, note: str = "") -> None:
        """Count what is done.

        Args:
            count: how much more.
            note: what has been found so far, such as ``"2 broken"``.
        """
        self.done += count
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif self.out is not None and time.monotonic() - self._said >= SECONDS:
            self._said = time.monotonic()
            text = f"{self.what}: {self.done:,} of {self.total:,} {self.unit}s{', ' if note else ''}{note}"
            print(text, file=self.out, flush=True)

    def write(self, line: str) -> None:
        """Print a line on standard error, above the bar.

        Args:
            line: the text.
        """
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr)

    def __enter__(self) -> Progress:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
