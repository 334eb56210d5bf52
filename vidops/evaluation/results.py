"""Predictions as lines of JSON in a file that a killed run continues."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from ..data.shards import in_shard, locate
from .file_predictor import FileResult

_START = b'{"path": '
_State = tuple[int, float] | None  # bytes, and time of the last change in seconds


class ResultFile:
    """A file with a line of JSON a video: whole lines only.

    Opening it takes off the part of a line that a killed run left and reads which videos are done. Each line
    carries the ``size`` (bytes) and ``mtime`` (seconds since 1970) that the video had; of a folder of frames,
    the bytes of its files and the latest of their times and its own. A video that has changed since, or that
    was missing and is there, gets a new line below: the last line of a path is the one that counts. A broken
    video that is as it was is not tried again. A lock keeps a second process from writing at the same time.

    Attributes:
        done: whether its last line holds predictions, by path.
        errors: why it holds none, by path.

    Args:
        path: the file; made if need be.
        run: what the predictions depend on besides the video, see :attr:`Predictor.key`; every line carries it.

    Raises:
        ValueError: the file holds something else, or was made by another run; it is left as it is.
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> from vidops.evaluation import Prediction
        >>> file = Path(tempfile.mkdtemp()) / "predictions.jsonl"
        >>> with ResultFile(file, "0123456789ab") as results:
        ...     results.write(Prediction("a.mp4", [("left", 0.9)]))
        >>> with ResultFile(file, "0123456789ab") as results:
        ...     print(results.done)
        {'a.mp4': True}
    """

    def __init__(self, path: str | Path, run: str) -> None:
        self.path, self.run = Path(path), run
        self.done: dict[str, bool] = {}
        self.errors: dict[str, str] = {}
        self._states: dict[str, _State] = {}  # of the videos as their last lines say
        self._left: dict[str, _State] = {}  # of those that are to be done
        if self.path.is_dir():
            raise ValueError(f"{path}: is a folder")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            self._lock()
            self._resume()
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> ResultFile:
        """Return the file, open for writing."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Bring all lines to the disk and close the file."""
        try:
            os.fsync(self._file)
        finally:
            os.close(self._file)

    def left(self, paths: Iterable[str]) -> list[str]:
        """Choose the videos that are still to be done, to be asked before they are read.

        Args:
            paths: videos.

        Returns:
            Those that have no line, or have changed since their last one.
        """
        self._left = {}
        for path in paths:
            state = _state(path)
            if path not in self.done or state != self._states.get(path):
                self._left[path] = state
        return list(self._left)

    def write(self, prediction: FileResult) -> None:
        """Add a video's line.

        Args:
            prediction: of a video that has no line yet, or that is left to be done.

        Raises:
            ValueError: it has one.
            OSError: the line could not be written; what came of it is taken off again.
        """
        path = prediction.path
        if path in self.done and path not in self._left:
            raise ValueError(f"{self.path}: {path} has a line already")
        # As it was before it was read: if it changes meanwhile it is done again.
        state = self._left.pop(path) if path in self._left else _state(path)
        if prediction.error is not None and _state(path) is None:
            state = None  # it went away meanwhile, with its disk perhaps, and may come back as it was
        about = {} if state is None else {"size": state[0], "mtime": state[1]}
        line = json.dumps({**prediction.as_dict(), **about, "run": self.run}).encode() + b"\n"
        end = os.lseek(self._file, 0, os.SEEK_END)
        # One call: a process that is killed has written the line or not; what a full disk cut off is undone.
        written = os.write(self._file, line)
        if written != len(line):
            os.ftruncate(self._file, end)
            raise OSError(f"{self.path}: no space left for a line")
        self._note(path, prediction.error, state)

    def _lock(self) -> None:
        try:
            # Held by this process alone: a lock that forked workers share would outlive it for seconds.
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"{self.path}: another process is writing to it") from None

    def _resume(self) -> None:
        # Not by a second open: closing that would give up the lock.
        content, size = b"", os.fstat(self._file).st_size
        while len(content) < size and (block := os.pread(self._file, size - len(content), len(content))):
            content += block
        whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:whole].split(b"\n")[:-1], 1):
            self._take(line, f"{self.path}, line {number}")
        rest = content[whole:]
        if rest[: len(_START)] != _START[: len(rest)]:
            raise ValueError(f"{self.path}: its last line is no prediction; choose another file")
        os.ftruncate(self._file, whole)

    def _take(self, line: bytes, where: str) -> None:
        try:
            entry = json.loads(line)
            path, run = entry["path"], entry["run"]
            reason = None if "predictions" in entry else str(entry["error"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{where}: is no prediction; choose another file") from error
        if run != self.run:
            raise ValueError(f"{where}: was made with other weights, views or --top; choose another file")
        state = (entry["size"], entry["mtime"]) if "size" in entry and "mtime" in entry else None
        self._note(path, reason, state)

    def _note(self, path: str, error: str | None, state: _State) -> None:
        self.done[path], self._states[path] = error is None, state
        self.errors.pop(path, None)
        if error is not None:
            self.errors[path] = error


def _state(path: str) -> _State:
    """Give what tells a video from a changed one, None if it is not there."""
    try:
        if in_shard(path):
            place = locate(path)
            return place.size, place.changed / 1e9
        own = os.stat(path)
        if not stat.S_ISDIR(own.st_mode):
            return own.st_size, own.st_mtime
        with os.scandir(path) as entries:
            files = [entry.stat() for entry in entries if entry.is_file()]
    except (OSError, ValueError):
        return None
    return sum(file.st_size for file in files), max([own.st_mtime, *(file.st_mtime for file in files)])
