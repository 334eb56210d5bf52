"""Where texts lie in a drawn figure."""

from __future__ import annotations

from matplotlib.transforms import BboxBase


def lies_in(box: BboxBase, edge: BboxBase) -> bool:
    """Whether nothing of a box is outside an area."""
    return edge.x0 <= box.x0 <= box.x1 <= edge.x1 and edge.y0 <= box.y0 <= box.y1 <= edge.y1
