"""Boxes of actors with a class each, at key frames of videos: ground truth and detections alike, and their files."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vidops._files import replacing

Row = tuple[str, float, Sequence[float], int, float]
_COLUMNS = "video,timestamp,x1,y1,x2,y2,action_id,score"


@dataclass(frozen=True)
class LabelledBoxes:
    """Boxes with one class each; a box of several classes is several rows.

    Args:
        frames: (video, timestamp in seconds) of the key frames, each once.
        frame: index in ``frames`` of each row, int64 (N,).
        boxes: x1, y1, x2, y2 as shares of the frame's width and height, float64 (N, 4).
        classes: class index of each row, int64 (N,); in files it is one more.
        scores: float64 (N,); 1 for ground truth.

    Raises:
        ValueError: the arrays do not fit together, a number is not finite or a class below 0, or a key frame is
            given twice.

    Example:
        >>> boxes = LabelledBoxes.of([("a", 902, [0, 0, 0.5, 1], 0, 1.0), ("a", 902, [0, 0, 0.5, 1], 7, 1.0)])
        >>> len(boxes), boxes.frames, boxes.classes.tolist()
        (2, [('a', 902)], [0, 7])
    """

    frames: Sequence[tuple[str, float]]
    frame: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float64]
    classes: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        """Check that the arrays fit together."""
        count = len(self.frame)
        shapes = {"boxes": (count, 4), "classes": (count,), "scores": (count,)}
        for name, shape in shapes.items():
            found = getattr(self, name)
            if found.shape != shape:
                raise ValueError(f"{name}: must be {shape} for {count} rows, got {found.shape}")
            if not np.isfinite(found).all():
                raise ValueError(f"{name}: holds a number that is not finite")
        if len(set(self.frames)) < len(self.frames):
            raise ValueError("frames: holds a key frame twice")
        if count and (self.frame.min() < 0 or self.frame.max() >= len(self.frames)):
            raise ValueError(f"frame: holds an index outside the {len(self.frames)} key frames")
        if count and self.classes.min() < 0:
            raise ValueError("classes: holds an index below 0")

    @classmethod
    def of(cls, rows: Iterable[Row]) -> LabelledBoxes:
        """Gather rows.

        Args:
            rows: video, timestamp, box (x1, y1, x2, y2), class index and score of each.

        Returns:
            The boxes, in the order of the rows.

        Raises:
            ValueError: a number is not finite, or a class is below 0.
        """
        numbers: dict[tuple[str, float], int] = {}
        table, classes = [], []
        for video, timestamp, box, label, score in rows:
            number = numbers.setdefault((video, timestamp), len(numbers))
            table.append((number, *box, score))
            classes.append(label)
        values = np.array(table, dtype=np.float64).reshape(len(classes), 6)
        return cls(
            list(numbers),
            values[:, 0].astype(np.int64),
            values[:, 1:5],
            np.array(classes, dtype=np.int64),
            values[:, 5],
        )

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.frame)

    def __getitem__(self, rows: npt.NDArray[np.integer[Any]] | npt.NDArray[np.bool_]) -> LabelledBoxes:
        """Return some of the rows, by their indices or a mask; the key frames stay as they are."""
        return LabelledBoxes(
            self.frames, self.frame[rows], self.boxes[rows], self.classes[rows], self.scores[rows]
        )


def read_detections(path: str | Path) -> LabelledBoxes:
    """Read a file of detections as the official evaluation of AVA takes it.

    Args:
        path: rows ``video,timestamp,x1,y1,x2,y2,action_id,score``, boxes as shares of width and height, action_id
            from 1; no headline.

    Returns:
        The detections in the order of the file, classes counted from 0.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row reads otherwise; the text names file and line.

    Example:
        >>> read_detections("no/such/detections.csv")
        Traceback (most recent call last):
        FileNotFoundError: no/such/detections.csv: no such file
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with open(path, newline="", encoding="utf-8-sig") as file:  # spreadsheets write a mark in front
        return LabelledBoxes.of(_rows(path, file))


def write_detections(boxes: LabelledBoxes, path: str | Path) -> None:
    """Write detections for the official evaluation of AVA, whole or not at all.

    Args:
        boxes: the detections, classes counted from 0.
        path: file name; it gets rows ``video,timestamp,x1,y1,x2,y2,action_id,score``. Numbers are written such that
            reading them gives the same ones; whole seconds have four digits, as in AVA's files.

    Raises:
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "detections.csv"
        >>> write_detections(LabelledBoxes.of([("a", 902, [0, 0.25, 0.5, 1], 0, 0.75)]), file)
        >>> file.read_text()
        'a,0902,0.0,0.25,0.5,1.0,1,0.75\\n'
    """
    places = [f"{_quoted(video)},{format_timestamp(timestamp)}" for video, timestamp in boxes.frames]
    columns = (boxes.frame, boxes.boxes, boxes.classes + 1, boxes.scores)
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        last, start = None, ""
        for frame, box, action, score in zip(*(column.tolist() for column in columns), strict=True):
            if (frame, box) != last:  # a box has a row of each class
                last, start = (frame, box), ",".join((places[frame], *map(repr, box)))
            file.write(f"{start},{action},{score!r}\n")


def format_timestamp(timestamp: float) -> str:
    """Write a timestamp as AVA's files do: whole seconds with four digits, others as they are.

    Args:
        timestamp: in seconds.

    Returns:
        The text.

    Example:
        >>> format_timestamp(902.0), format_timestamp(1.5)
        ('0902', '1.5')
    """
    return f"{int(timestamp):04d}" if float(timestamp).is_integer() else repr(float(timestamp))


def _quoted(name: str) -> str:
    """Write a name such that it is one cell of a csv file."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow([name])
    return buffer.getvalue()


def _rows(path: Path, file: Iterable[str]) -> Iterable[Row]:
    for number, row in enumerate(csv.reader(file), 1):
        if not row:
            continue
        try:
            video, timestamp, *box, action, score = row
            values = [float(value) for value in (timestamp, *box, score)]
            label = int(action) - 1
            if len(box) != 4 or label < 0 or not all(map(math.isfinite, values)):
                raise ValueError
        except ValueError:
            raise ValueError(f"{path}, line {number}: must read {_COLUMNS}, found {','.join(row)}") from None
        yield video, values[0], values[1:5], label, values[5]
