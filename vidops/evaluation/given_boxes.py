"""Files that say where actors stand, for a network to name what they do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vidops.data.formats._format import read_rows
from vidops.data.formats.ava import parse_box, real

Boxes = npt.NDArray[np.float32]

_FORMS = "timestamp,x1,y1,x2,y2[,score] or video,timestamp,x1,y1,x2,y2[,action[,score]]"


@dataclass(frozen=True)
class GivenBoxes:
    """Boxes of actors at some moments of one video or of several.

    Args:
        source: the file, for error texts.
        videos: of each video its timestamps, rising, with boxes (K, 4), x1, y1, x2, y2 as shares of width and height;
            the name None stands for any video.
    """

    source: str
    videos: Mapping[str | None, Mapping[float, Boxes]]

    def of(self, path: str) -> Mapping[float, Boxes]:
        """Find a video's boxes.

        Args:
            path: of the video; the file names it with or without folders and suffix.

        Returns:
            Its timestamps with boxes.

        Raises:
            ValueError: the file has none for it.
        """
        for name in (None, path, Path(path).name, Path(path).stem):
            if name in self.videos:
                return self.videos[name]
        raise ValueError(f"{path}: {self.source} has no boxes for it")


def read_given_boxes(source: str | Path, min_score: float = 0.0) -> GivenBoxes:
    """Read boxes of actors, each once however many actions or persons its lines name.

    Args:
        source: csv of lines ``timestamp,x1,y1,x2,y2``, maybe with a score, for any video; or
            ``video,timestamp,x1,y1,x2,y2``, maybe with an action, or with one (it may be empty) and a score, as AVA's
            files and detectors' proposals for it are. Boxes are shares of width and height. Six columns of numbers
            alone are taken for the first form. A headline that begins with video or timestamp is passed over.
        min_score: lines with a lower score are left out; an eighth column that anywhere is above 1 numbers persons, and
            is no score.

    Returns:
        The boxes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line reads otherwise, or no box is left; the text names the file.

    Example:
        >>> read_given_boxes("no/such/boxes.csv")
        Traceback (most recent call last):
        FileNotFoundError: boxes: no/such/boxes.csv is not a file
    """
    source = Path(source)
    if not source.is_file():
        raise FileNotFoundError(f"boxes: {source} is not a file")
    rows = list(read_rows(source))
    if rows and rows[0][1][0].lower() in ("video", "video_id", "video_name", "timestamp"):
        del rows[0]
    widths = {len(cells) for _, cells in rows}
    unnamed = widths <= {5, 6} and all(_is_number(cells[0]) for _, cells in rows)
    persons = any(len(cells) == 8 and _is_number(cells[7]) and float(cells[7]) > 1 for _, cells in rows)
    videos: dict[str | None, dict[float, dict[tuple[float, ...], None]]] = {}
    for where, cells in rows:
        if not unnamed and not any(cells[2:]):
            continue  # AVA's way to say that a key frame shows nobody
        if len(cells) not in ((5, 6) if unnamed else (6, 7, 8)):
            raise ValueError(f"{where}: must read {_FORMS}, found {len(cells)} columns")
        video = None if unnamed else cells[0]
        time, *edges = cells[:5] if unnamed else cells[1:6]
        scored = len(cells) == 6 if unnamed else len(cells) == 8 and not persons
        score = real(cells[-1], "score", where) if scored and cells[-1] else 1.0
        box = parse_box(edges, where)
        if score >= min_score:
            moments = videos.setdefault(video, {})
            moments.setdefault(real(time, "timestamp", where, 0.0), {})[box] = None
    if not videos:
        raise ValueError(f"boxes: {source} holds no box" + (f" of score {min_score:g}" if rows else ""))
    return GivenBoxes(
        str(source),
        {
            video: {time: np.array(list(moments[time]), np.float32) for time in sorted(moments)}
            for video, moments in videos.items()
        },
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
