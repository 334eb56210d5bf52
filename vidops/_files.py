"""Output files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside ``path`` to write to and rename it to ``path`` once the block ends well.

    A reader sees the old file or the new one, never a part, whenever the writer is killed. The folder is made
    if need be; after an exception the temporary file is removed and ``path`` is as it was.

    Args:
        path: the file to write.

    Yields:
        The temporary name, in the same folder.

    Raises:
        OSError: the folder or file cannot be written.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "report.txt"
        >>> with replacing(target) as temporary:
        ...     _ = temporary.write_text("whole")
        >>> target.read_text(), [p.name for p in target.parent.iterdir()]
        ('whole', ['report.txt'])
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Threads of a process, and processes of several machines on one disk, have the same number.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: str | Path, what: str) -> Iterator[None]:
    """Keep other processes out of what a lock file stands for; the file stays, the lock goes with this process.

    Args:
        path: the lock file; its folder is made if need be.
        what: what is being written, for the error's text.

    Raises:
        ValueError: another process holds the lock.
        OSError: the file cannot be made.

    Example:
        >>> import tempfile
        >>> with locked(Path(tempfile.mkdtemp()) / ".lock", "the folder"):
        ...     print("alone")
        alone
    """
    import fcntl

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            # Of this process alone: a lock that forked workers share would outlive it for seconds.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{what}: another process is writing to it") from None
        yield


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole or not at all.

    Args:
        path: the file.
        text: its content, written as UTF-8.

    Raises:
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "new" / "notes.txt"
        >>> write_text(target, "whole")
        >>> target.read_text()
        'whole'
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
