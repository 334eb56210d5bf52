"""Colours of optical flow: the direction is the hue, the length the saturation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["draw_wheel", "flow_colors"]

# The wheel's corners, and how many of its 55 hues lie between each and the next: red, yellow, green, cyan, blue,
# magenta. The eye tells more hues from red to yellow than from yellow to green.
CORNERS = np.array([(1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1), (1, 0, 0)], np.float64)
STEPS = np.array([15, 6, 4, 11, 13, 6])
BEYOND = 0.75  # what is longer than the limit is darker by this factor


def flow_colors(field: Tensor, limit: float) -> Tensor:
    """Turn pairs of numbers into colours as optical flow is drawn: white for none, full colour at the limit.

    Args:
        field: (..., 2), any floating dtype: the parts to the right and down.
        limit: length that gets the full colour; longer ones are darker.

    Returns:
        float32 (..., 3) in 0 ... 1.

    Raises:
        ValueError: the last dimension is not 2, a number is not finite, or the limit is not above 0.

    Source: Baker et al., A Database and Evaluation Methodology for Optical Flow, IJCV 2011, section 3.

    Example:
        >>> field = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
        >>> flow_colors(field, 1.0).mul(255).int().tolist()  # white, red, and between cyan and blue
        [[255, 255, 255], [255, 0, 0], [0, 197, 255]]
    """
    if field.dim() < 1 or field.shape[-1] != 2:
        raise ValueError(f"field must have shape (..., 2), got {tuple(field.shape)}")
    if not field.isfinite().all():
        raise ValueError("field must hold finite numbers, got some that are not")
    if not limit > 0:
        raise ValueError(f"limit must be above 0, got {limit}")
    right, down = field.detach().double().cpu().numpy().reshape(-1, 2).T / limit
    length = np.hypot(right, down)[:, None]
    turn = np.arctan2(down, right) / (2 * np.pi) % 1
    places = np.concatenate([[0], np.cumsum(STEPS)]) / STEPS.sum()
    hue = np.stack([np.interp(turn, places, corner) for corner in CORNERS.T], axis=-1)
    color = np.where(length <= 1, 1 - length * (1 - hue), BEYOND * hue)
    return torch.from_numpy(color).float().reshape(*field.shape[:-1], 3)


def draw_wheel(axes: Any, right: str, down: str, left: str, up: str) -> None:
    """Draw the disc of colours and what its four directions mean.

    Args:
        axes: of matplotlib.
        right: the word at the right end; then those at the lower, the left and the upper end.
        down: see above.
        left: see above.
        up: see above.
    """
    axis = torch.linspace(-1, 1, 101)
    field = torch.stack([axis.expand(101, 101), axis[:, None].expand(101, 101)], dim=-1)
    inside = field.norm(dim=-1, keepdim=True) <= 1
    axes.imshow(np.concatenate([flow_colors(field, 1.0).numpy(), inside.float().numpy()], axis=-1))
    axes.set_axis_off()
    for text, place, across, along in (
        (right, (104, 50), "left", "center"),
        (down, (50, 106), "center", "top"),
        (left, (-4, 50), "right", "center"),
        (up, (50, -6), "center", "bottom"),
    ):
        axes.annotate(text, place, ha=across, va=along, fontsize=7, annotation_clip=False)
