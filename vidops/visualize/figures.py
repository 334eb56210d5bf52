"""What pictures share: a figure without global state, colours, and files that are whole or not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._extras import require
from .._files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLORS", "check_animation", "check_picture", "new_figure", "save", "save_animation"]

# Okabe and Ito's palette: distinct for the colour-blind too.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
SUFFIXES = (".png", ".svg", ".pdf")
ANIMATED = (".png", ".gif")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, drawn by the Agg canvas.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> figure = new_figure(4, 3)
    """
    require("matplotlib", extra="viz")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plain(axes: Any) -> None:
    """Leave out the frame's upper and right sides."""
    axes.spines[["top", "right"]].set_visible(False)


def check_picture(path: str | Path) -> None:
    """Check, before anything long runs, that a picture could be written there.

    Args:
        path: file name of the picture.

    Raises:
        ValueError: the name does not end in .png, .svg or .pdf.
        ImportError: matplotlib is not installed.

    Example:
        >>> check_picture("curves.jpg")
        Traceback (most recent call last):
        ValueError: picture curves.jpg: the name must end in .png, .svg or .pdf
    """
    if Path(path).suffix not in SUFFIXES:
        raise ValueError(f"picture {path}: the name must end in .png, .svg or .pdf")
    require("matplotlib", extra="viz")


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure to a file, whole or not at all.

    Args:
        figure: what one of this package's functions returned.
        path: file name ending in .png, .svg or .pdf.

    Raises:
        ValueError: the name ends otherwise.

    Example:
        >>> import tempfile
        >>> save(new_figure(2, 1), Path(tempfile.mkdtemp()) / "empty.png")
    """
    check_picture(path)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=Path(path).suffix[1:], dpi=150, facecolor="white")


def check_animation(path: str | Path, fps: float = 1.0) -> None:
    """Check, before anything long runs, that an animation could be written there.

    Args:
        path: file name of the animation.
        fps: pictures a second.

    Raises:
        ValueError: the name does not end in .png or .gif, or fps is not in (0, 50].
        ImportError: matplotlib is not installed.

    Example:
        >>> check_animation("heat.mp4")
        Traceback (most recent call last):
        ValueError: animation heat.mp4: the name must end in .png or .gif
    """
    if Path(path).suffix not in ANIMATED:
        raise ValueError(f"animation {path}: the name must end in .png or .gif")
    if not 0 < fps <= 50:  # viewers of GIF files slow down what is faster
        raise ValueError(f"fps must be above 0 and at most 50, got {fps:g}")
    require("matplotlib", extra="viz")


def save_animation(
    figure: Figure,
    draw: Callable[[int], None],
    count: int,
    path: str | Path,
    *,
    fps: float = 4.0,
    dpi: int = 100,
) -> None:
    """Write a figure that changes with time to an animated PNG or GIF, whole or not at all.

    The layout is made once, so that nothing moves but what ``draw`` changes.

    Args:
        figure: what is drawn.
        draw: called with 0 ... count-1, changes the figure to that moment.
        count: moments, at least 1.
        path: file name ending in .png or .gif; it plays for ever.
        fps: moments a second.
        dpi: pixels an inch.

    Raises:
        ValueError: the name ends otherwise, or ``count`` or ``fps`` is out of range.

    Example:
        >>> import tempfile
        >>> figure = new_figure(2, 1)
        >>> text = figure.text(0.5, 0.5, "")
        >>> path = Path(tempfile.mkdtemp()) / "count.gif"
        >>> save_animation(figure, lambda i: text.set_text(str(i)), 3, path)
    """
    check_animation(path, fps)
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    image = require("PIL.Image", extra="viz")
    kind = Path(path).suffix[1:].upper()
    figure.set_dpi(dpi)
    pictures = []
    for i in range(count):
        draw(i)
        canvas: Any = figure.canvas
        canvas.draw()
        figure.set_layout_engine("none")
        picture = image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        if kind == "GIF":  # its 256 colours chosen for each moment, and mixed where they do not do
            picture = picture.quantize(palette=picture.quantize(256), dither=image.Dither.FLOYDSTEINBERG)
        pictures.append(picture)
    with replacing(path) as temporary:
        pictures[0].save(
            temporary,
            format=kind,
            save_all=True,
            append_images=pictures[1:],
            duration=round(1000 / fps),
            loop=0,
        )


def series_colors(count: int, what: str) -> tuple[str, ...]:
    """Colours of some series, one each.

    Args:
        count: of series.
        what: their name, for the error text.

    Raises:
        ValueError: there are none, or more than there are colours.

    Example:
        >>> series_colors(7, "runs")
        Traceback (most recent call last):
        ValueError: runs must be 1 to 6 in one picture, got 7
    """
    if not 1 <= count <= len(COLORS):
        raise ValueError(f"{what} must be 1 to {len(COLORS)} in one picture, got {count}")
    return COLORS[:count]
