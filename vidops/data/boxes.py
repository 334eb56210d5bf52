"""Boxes that go with frames through crops, resizes and flips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch


@dataclass(frozen=True)
class Placement:
    """Where a transform puts what it is given: out = in * scale - start along each axis, then mirrored.

    Args:
        size: (height, width) of what comes out, pixels.
        scale: of the height and of the width.
        start: (top, left) of the cut in the scaled frame, pixels.
        mirrored: left and right are exchanged.

    Example:
        >>> right_half = Placement((4, 4), start=(0, 4))
        >>> right_half(torch.tensor([[4.0, 0.0, 6.0, 3.0]])).tolist()
        [[0.0, 0.0, 2.0, 3.0]]
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    start: tuple[float, float] = (0.0, 0.0)
    mirrored: bool = False

    def __call__(self, boxes: torch.Tensor) -> torch.Tensor:
        """Return boxes (..., 4) x1, y1, x2, y2 in pixels of what comes out; they may reach past its edges."""
        scale = boxes.new_tensor([self.scale[1], self.scale[0]] * 2)
        start = boxes.new_tensor([self.start[1], self.start[0]] * 2)
        out = boxes * scale - start
        if not self.mirrored:
            return out
        x1, y1, x2, y2 = out.unbind(-1)
        return torch.stack([self.size[1] - x2, y1, self.size[1] - x1, y2], -1)


class Placing:
    """What transforms share that move pixels: `place` says where to, so that boxes can follow."""

    def place(self, frames: Any, generator: np.random.Generator) -> tuple[torch.Tensor, Placement]:
        """Return the frames that come out, and where in them the given frames lie.

        Args:
            frames: uint8 (T, H, W, 3).
            generator: source of randomness.

        Returns:
            uint8 frames (T, height, width, 3) and their placement.
        """
        raise NotImplementedError

    def __call__(self, frames: Any, generator: np.random.Generator) -> torch.Tensor:
        """Return the frames that come out, uint8 (T, height, width, 3)."""
        return self.place(frames, generator)[0]

    def with_boxes(
        self, frames: Any, boxes: torch.Tensor, generator: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the frames that come out and the boxes (K, 4) in their pixels, not cut at their edges."""
        out, placement = self.place(frames, generator)
        return out, placement(boxes)


@runtime_checkable
class CarriesBoxes(Protocol):
    """A transform that boxes can follow."""

    def with_boxes(
        self, frames: Any, boxes: torch.Tensor, generator: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the transform makes of the frames, and the boxes in its pixels."""
        ...


def transform_boxes(
    transform: Any, frames: Any, boxes: torch.Tensor, generator: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply a transform to frames and to the boxes in them.

    Args:
        transform: any of `vidops.data.transforms` or `vidops.data.Views`; one that knows nothing of boxes must
            leave the frames' height and width alone.
        frames: uint8 (T, H, W, 3).
        boxes: float (K, 4) x1, y1, x2, y2 in pixels of the frames.
        generator: source of randomness.

    Returns:
        What the transform makes of the frames and the boxes in its pixels, (K, 4), or of V views (V, K, 4); they
        may reach past the edges.

    Raises:
        TypeError: the transform changes height or width and does not say where the boxes go.

    Example:
        >>> from vidops.data.transforms import ResizeFrames
        >>> frames, boxes = np.zeros((8, 60, 80, 3), np.uint8), torch.tensor([[0.0, 0.0, 80.0, 60.0]])
        >>> transform_boxes(ResizeFrames(48), frames, boxes, np.random.default_rng(0))[1].tolist()
        [[0.0, 0.0, 48.0, 48.0]]
    """
    if isinstance(transform, CarriesBoxes):
        return transform.with_boxes(frames, boxes, generator)
    out = transform(frames, generator)
    if frame_size(out) != frame_size(frames):
        name = getattr(transform, "__name__", type(transform).__name__)
        raise TypeError(
            f"transform: {name} turns frames of {frame_size(frames)} pixels into {frame_size(out)} and has no"
            " with_boxes, which says where the boxes go"
        )
    return out, boxes


def frame_size(frames: Any) -> tuple[int, int]:
    """Return (height, width) of uint8 frames (T, H, W, 3) or of float clips (..., T, H, W)."""
    shape = tuple(frames.shape)
    whole = frames.dtype in (torch.uint8, np.dtype(np.uint8))
    return (shape[-3], shape[-2]) if whole else (shape[-2], shape[-1])


def clip_boxes(boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Cut boxes at the edges of a picture.

    Args:
        boxes: float (..., 4) x1, y1, x2, y2, pixels.
        size: (height, width) of the picture, pixels.

    Returns:
        The same shape; a box outside the picture becomes an empty one on its edge.

    Example:
        >>> clip_boxes(torch.tensor([[-2.0, 1.0, 5.0, 9.0]]), (8, 4)).tolist()
        [[0.0, 1.0, 4.0, 8.0]]
    """
    height, width = size
    limit = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limit)


def areas(boxes: torch.Tensor) -> torch.Tensor:
    """Return the areas (...) of boxes (..., 4).

    Args:
        boxes: x1, y1, x2, y2.

    Example:
        >>> areas(torch.tensor([[1.0, 1.0, 3.0, 4.0]])).tolist()
        [6.0]
    """
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


def overlaps(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the intersection over union of every box with every other.

    Args:
        first: float (K, 4) x1, y1, x2, y2.
        second: float (L, 4) in the same units.

    Returns:
        (K, L), 0 where both boxes are empty.

    Example:
        >>> overlaps(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]])).round(decimals=3).tolist()
        [[0.3330000042915344]]
    """
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    common = (high - low).clamp(min=0).prod(-1)
    union = areas(first)[:, None] + areas(second)[None] - common
    return torch.where(union > 0, common / union, torch.zeros_like(common))
