"""Videos with boxes around the actors and what they do written at them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .._extras import require
from .._files import replacing
from ..data.samples import FrameFolder
from ..data.whole import all_frames, mean_rate
from .figures import COLORS

if TYPE_CHECKING:
    from ..evaluation.actor_predictor import Actor

__all__ = ["check_actor_video", "draw_actors", "save_actor_video"]

Frame = npt.NDArray[np.uint8]
_SHORT = 240  # pixels: smaller pictures are enlarged, so that words can be read on them

Place = tuple[float, float, float, float]  # left, top, right, bottom in pixels


def check_actor_video(path: str | Path) -> None:
    """Check, before anything long runs, that a video could be written there.

    Args:
        path: file name of the video.

    Raises:
        ValueError: the name does not end in .mp4.
        ImportError: PyAV or Pillow is not installed.

    Example:
        >>> check_actor_video("actors.avi")
        Traceback (most recent call last):
        ValueError: video actors.avi: the name must end in .mp4
    """
    if Path(path).suffix != ".mp4":
        raise ValueError(f"video {path}: the name must end in .mp4")
    require("av", extra="video")
    require("PIL", extra="video")


def draw_actors(frame: Frame, actors: Sequence[Actor]) -> Frame:
    """Draw boxes on a frame and write the classes of each at it, with their probabilities.

    A frame whose shorter side is below 240 pixels is enlarged by a whole number. Words stand above the box, or where
    there is no room within it, at its foot or below it, and where that can be had not over another box's words.

    Args:
        frame: uint8 (H, W, 3), RGB.
        actors: boxes with classes; the colours go round in their order.

    Returns:
        uint8 (H', W', 3), RGB.

    Raises:
        ImportError: Pillow is not installed.

    Example:
        >>> draw_actors(np.zeros((120, 160, 3), np.uint8), []).shape
        (240, 320, 3)
    """
    image, draw_on, font = (
        require(f"PIL.{name}", extra="video") for name in ("Image", "ImageDraw", "ImageFont")
    )
    times = math.ceil(_SHORT / min(frame.shape[:2]))
    height, width = (side * times for side in frame.shape[:2])
    picture = image.fromarray(frame).resize((width, height), image.Resampling.NEAREST)
    letters = font.load_default(max(11, round(height / 26)))
    pen = draw_on.Draw(picture)
    line = max(2, round(height / 150))
    boxes: list[Place] = []
    for i, actor in enumerate(actors):
        x1, y1, x2, y2 = (v * side for v, side in zip(actor.box, (width, height) * 2, strict=True))
        right, bottom = width - 1.0, height - 1.0
        boxes.append((min(x1, right), min(y1, bottom), min(x2, right), min(y2, bottom)))
        pen.rectangle(boxes[i], outline=COLORS[i % len(COLORS)], width=line)
    taken: list[Place] = []
    for i, (actor, box) in enumerate(zip(actors, boxes, strict=True)):
        text = "\n".join(f"{name} {share:.0%}" for name, share in actor.scores)
        if text:
            _write(pen, text, letters, COLORS[i % len(COLORS)], box, taken, (width, height))
    drawn: Frame = np.asarray(picture)
    return drawn


def save_actor_video(
    path: str | Path,
    actors: Sequence[Actor],
    out: str | Path,
    *,
    frames: FrameFolder | None = None,
    frame_rate: float = 30.0,
) -> None:
    """Write a video again with boxes and classes drawn, whole or not at all; it has no sound.

    On each frame are the boxes of the nearest moment, as far as it is no farther than half the widest gap between two
    moments, or half a second where there is but one.

    Args:
        path: the video, or a folder of frames.
        actors: what `vidops.evaluation.ActorPredictor` says of it.
        out: file name ending in .mp4; H.264.
        frames: how the pictures of a folder are named; None for a file.
        frame_rate: frames a second of a folder.

    Raises:
        ValueError: the name ends otherwise.
        VideoError: the video is missing or damaged.
        ImportError: PyAV or Pillow is not installed.

    Example:
        >>> save_actor_video("no_such_file.mp4", [], "actors.mp4")
        Traceback (most recent call last):
        vidops.data.video.VideoError: no_such_file.mp4: no such file
    """
    check_actor_video(out)
    rate = mean_rate(path, frames=frames, frame_rate=frame_rate)
    _encode(_drawn(all_frames(path, frames=frames), actors, rate), out, rate)


def shown_at(actors: Sequence[Actor], time: float) -> list[Actor]:
    """Choose what is drawn at a time: the actors of the nearest moment, of two the earlier.

    Args:
        actors: of a video.
        time: seconds from its first frame.

    Returns:
        Those of one moment, or none where all are too far.
    """
    moments = sorted({actor.time for actor in actors})
    if not moments:
        return []
    reach = max((b - a for a, b in itertools.pairwise(moments)), default=1.0) / 2
    nearest = min(moments, key=lambda moment: abs(moment - time))
    if abs(nearest - time) > reach + 1e-6:
        return []
    return [actor for actor in actors if actor.time == nearest]


def _drawn(frames: Iterable[Frame], actors: Sequence[Actor], rate: Fraction) -> Iterator[Frame]:
    for i, frame in enumerate(frames):
        yield draw_actors(frame, shown_at(actors, float(i / rate)))


def _write(
    pen: Any,
    text: str,
    letters: Any,
    color: str,
    box: Place,
    taken: list[Place],
    size: tuple[int, int],
) -> None:
    """Write a box's words where there is room, on a ground of its colour."""
    _, _, right, bottom = pen.multiline_textbbox((0, 0), text, font=letters, spacing=2)
    width, height = math.ceil(right) + 6, math.ceil(bottom) + 5
    x = min(max(0.0, box[0]), max(0.0, size[0] - width))
    tops = (box[1] - height, box[1], box[3] - height, box[3])
    inside = [y for y in tops if y >= 0 and y + height <= size[1]] or [max(0.0, box[1])]
    places = [(x, y, x + width, y + height) for y in inside]
    place = next((p for p in places if not any(_meet(p, other) for other in taken)), places[0])
    taken.append(place)
    pen.rectangle(place, fill=color)
    pen.multiline_text((place[0] + 3, place[1] + 1), text, fill="white", font=letters, spacing=2)


def _meet(first: Place, second: Place) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def _encode(frames: Iterator[Frame], out: str | Path, rate: Fraction) -> None:
    """Write frames of any number as H.264 in mp4."""
    av = require("av", extra="video")
    with replacing(out) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = None
        for array in frames:
            even = array[
                : array.shape[0] // 2 * 2, : array.shape[1] // 2 * 2
            ]  # as the colours' halved size wants it
            if stream is None:
                stream = container.add_stream("libx264", rate=rate, options={"crf": "20"})
                stream.height, stream.width = even.shape[:2]
                stream.pix_fmt = "yuv420p"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode(None))
