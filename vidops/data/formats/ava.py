"""AVA's files: boxes with actions at key frames, excluded key frames, and label maps; `read_actors` joins them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..samples import AnnotationList
from ._format import Format, Request, first_line, number, read_rows, read_text

Box = tuple[float, float, float, float]

_LINE = re.compile(r"[^,]+,\s*\d+(\.\d*)?\s*(,\s*[-+0-9.e]*\s*){4},\s*\d*\s*(,[^,]*)?")
_TOKENS = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*)|(?P<open>\w+)\s*:?\s*\{|(?P<close>\})|"""
    r"""(?P<key>\w+)\s*:\s*(?P<value>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|[^\s"'{}]+)"""
)


@dataclass(frozen=True)
class Row:
    """One line of a list of boxes.

    Args:
        where: ``"file, line n"``.
        video: the video's name, without folder and suffix.
        timestamp: seconds.
        box: x1, y1, x2, y2 as shares of width and height; None says that the key frame shows nobody.
        action: id of an action, from 1; None where none is given.
        last: the eighth column, a person's id or a score, as it stands.
    """

    where: str
    video: str
    timestamp: float
    box: Box | None
    action: int | None
    last: str


def read_boxes(source: Path) -> Iterator[Row]:
    """Read lines ``video,timestamp,x1,y1,x2,y2,action,person or score``.

    The last column may be missing, action and last column may be empty, and so may all but the first two. A header
    that begins with video or video_id is passed over.

    Args:
        source: the csv file.

    Yields:
        The rows in the order of the file.

    Raises:
        ValueError: a line is wrong; the text names the file and the line.
    """
    place, video, timestamp = [""], "", 0.0
    box: Box | None = None
    for line, (where, cells) in enumerate(read_rows(source)):
        if line == 0 and cells[0].lower() in ("video", "video_id", "video_name"):
            continue
        if len(cells) not in (2, 7, 8):
            raise ValueError(
                f"{where}: expected 2, 7 or 8 columns (video,timestamp,x1,y1,x2,y2,action,person or score), found"
                f" {len(cells)}"
            )
        if cells[:6] != place:  # an actor's lines follow each other: read once what they have in common
            place = cells[:6]
            (video, timestamp), box = _key(cells, where), None
        if box is None and any(cells[2:]):
            box = parse_box(cells[2:6], where)
        if box is None:
            yield Row(where, video, timestamp, None, None, "")
            continue
        action = number(cells[6], "action id", where, least=1) if cells[6] else None
        yield Row(where, video, timestamp, box, action, cells[7] if len(cells) == 8 else "")


def _key(cells: list[str], where: str) -> tuple[str, float]:
    if not cells[0]:
        raise ValueError(f"{where}: the video's name is empty")
    return cells[0], real(cells[1], "timestamp", where, 0.0)


def parse_box(cells: list[str], where: str) -> Box:
    """Read the four edges of a box.

    Args:
        cells: x1, y1, x2, y2 as shares of width and height.
        where: the line, for the error.

    Returns:
        The edges.

    Raises:
        ValueError: one is no number in 0 to 1, or the box ends before it begins.
    """
    x1, y1, x2, y2 = (
        real(cell, name, where, 0.0, 1.0) for cell, name in zip(cells, ("x1", "y1", "x2", "y2"), strict=True)
    )
    if x2 < x1 or y2 < y1:
        raise ValueError(
            f"{where}: the box {','.join(cells)} ends before it begins (x1,y1,x2,y2 are expected)"
        )
    return x1, y1, x2, y2


def real(text: str, what: str, where: str, low: float = -math.inf, high: float = math.inf) -> float:
    """Read a number.

    Args:
        text: the number.
        what: what it is, for the error.
        where: the line, for the error.
        low: smallest allowed.
        high: largest allowed.

    Returns:
        The number.

    Raises:
        ValueError: no number, not finite, or out of range.
    """
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{where}: the {what} {text!r} is not a number") from None
    if not math.isfinite(value) or not low <= value <= high:
        allowed = f"in {low:g} to {high:g}" if high < math.inf else f"at least {low:g}"
        raise ValueError(f"{where}: {what} {text} is not {allowed}")
    return value


def read_excluded(source: Path) -> Iterator[tuple[str, str, float]]:
    """Read lines ``video,timestamp`` of key frames that are not evaluated.

    Args:
        source: the csv file; it may be empty.

    Yields:
        Place, video and seconds.

    Raises:
        ValueError: a line is wrong; the text names the file and the line.
    """
    for where, cells in read_rows(source):
        if len(cells) != 2:
            raise ValueError(f"{where}: expected 2 columns (video,timestamp), found {len(cells)}")
        yield where, *_key(cells, where)


def read_label_map(source: Path) -> dict[int, str]:
    """Read a label map, ``item { name: "..." id: 1 }`` or ``label { name: "..." label_id: 1 ... }`` and so on.

    Args:
        source: the pbtxt file.

    Returns:
        Name of each action by its id, in the order of the file.

    Raises:
        ValueError: the file is not of this form, or an id or a name stands there twice.
    """
    text = read_text(source)
    names: dict[int, str] = {}
    item: dict[str, str] | None = None
    place = 0
    while place < len(text):
        where = f"{source}, line {text.count(chr(10), 0, place) + 1}"
        token = _TOKENS.match(text, place)
        if token is None:
            raise ValueError(
                f"{where}: cannot be read as a label map ({text[place : place + 20].split(chr(10))[0]!r})"
            )
        place = token.end()
        if token["open"]:
            if item is not None:
                raise ValueError(f"{where}: an item within an item")
            item = {}
        elif token["key"]:
            if item is None:
                raise ValueError(f"{where}: {token['key']} stands outside an item")
            item[token["key"]] = token["value"]
        elif token["close"]:
            if item is None:
                raise ValueError(f"{where}: a bracket closes no item")
            _take(item, names, where)
            item = None
    if item is not None:
        raise ValueError(f"{source}: the last item has no end")
    if not names:
        raise ValueError(f"{source}: holds no actions")
    return names


def _take(item: dict[str, str], names: dict[int, str], where: str) -> None:
    """Add an item of a label map to the names."""
    text = item.get("label_id", item.get("id"))
    if text is None or "name" not in item:
        raise ValueError(f"{where}: the item that ends here has no {'id' if text is None else 'name'}")
    action, name = number(text, "id", where, least=1), re.sub(r"\\(.)", r"\1", item["name"].strip("\"'"))
    if action in names or name in names.values():
        raise ValueError(f"{where}: action {action}, {name!r}, is in the label map twice")
    names[action] = name


def _read(request: Request) -> AnnotationList:
    raise ValueError(
        f"{request.source}: lists boxes of actors at key frames, not one class a video; vidops.data.read_actors"
        " reads it"
    )


def _matches(source: Path) -> bool:
    return source.suffix.lower() == ".csv" and bool(_LINE.fullmatch(first_line(source)))


FORMAT = Format("ava", "a .csv with lines video,timestamp,x1,y1,x2,y2,action,person", _matches, _read)
