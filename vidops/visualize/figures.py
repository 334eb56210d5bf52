"""What pictures share: a figure without global state, colours, and files that are whole or not there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._extras import require
from .._files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLORS", "check_picture", "new_figure", "save"]

# Okabe and Ito's palette: distinct for the colour-blind too.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
SUFFIXES = (".png", ".svg", ".pdf")


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
