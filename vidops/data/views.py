"""Several views of a test video: spatial crops of several temporal clips."""

from __future__ import annotations

import numpy as np
import torch

from .boxes import Placement, transform_boxes
from .transforms import Mirror, Transform, _as_frames, _positive, flip_frames, resize
from .video import Frames, scaled_size

CROPS = (1, 3, 10)


def usual_short_side(size: int) -> int:
    """Return the short side that frames are resized to before crops of a size are cut, where none is given.

    Args:
        size: side of the crops, pixels.

    Returns:
        8/7 of it, rounded: 256 for 224.

    Example:
        >>> usual_short_side(224)
        256
    """
    return round(size * 8 / 7)


class SpatialCrops:
    """Resize the short side and cut one, three or ten squares.

    1: the centre. 3: both ends and the middle along the long side, in the middle of the short one. 10: the
    corners and the centre, then these five mirrored.

    Args:
        size: side of the squares, pixels.
        short_side: pixels of the short side before the cut; at least ``size``.
        crops: 1, 3 or 10.
        mirror: how frames are flipped; `modalities.flip_flow` for flow.

    Raises:
        ValueError: size is below 1 or larger than short_side, or there is no such number of crops.

    Source: 3 as Feichtenhofer et al., SlowFast, ICCV 2019; 10 as Simonyan and Zisserman, Two-Stream
        Convolutional Networks, NIPS 2014.

    Example:
        >>> crops = SpatialCrops(48, 56, crops=3)
        >>> [crop.shape for crop in crops(np.zeros((8, 60, 80, 3), np.uint8))][0]
        torch.Size([8, 48, 48, 3])
    """

    def __init__(self, size: int, short_side: int, crops: int = 1, mirror: Mirror = flip_frames) -> None:
        self.size = _positive("size", size)
        self.short_side = _positive("short_side", short_side)
        if size > short_side:
            raise ValueError(f"size ({size}) must not be larger than short_side ({short_side})")
        if crops not in CROPS:
            raise ValueError(f"crops must be 1, 3 or 10, got {crops!r}")
        self.crops, self.mirror = crops, mirror

    def __call__(self, frames: Frames | torch.Tensor) -> list[torch.Tensor]:
        """Return the crops, each uint8 (T, size, size, 3)."""
        return [crop for crop, _ in self.place(frames)]

    def place(self, frames: Frames | torch.Tensor) -> list[tuple[torch.Tensor, Placement]]:
        """Return the crops, each uint8 (T, size, size, 3) with where the frames lie in it."""
        frames = _as_frames(frames)
        height, width = scaled_size(frames.shape[1], frames.shape[2], self.short_side)
        scale = height / frames.shape[1], width / frames.shape[2]
        frames = resize(frames, height, width)
        made = []
        for mirrored in (False, True)[: 2 if self.crops == 10 else 1]:
            for top, left in self._places(height, width):
                cut = frames[:, top : top + self.size, left : left + self.size]
                placement = Placement((self.size,) * 2, scale, (top, left), mirrored)
                made.append((self.mirror(cut) if mirrored else cut, placement))
        return made

    def _places(self, height: int, width: int) -> list[tuple[int, int]]:
        """Return top and left of the crops that are not mirrored."""
        bottom, right = height - self.size, width - self.size
        centre = (bottom // 2, right // 2)
        if self.crops == 3:
            ends = (
                [(0, centre[1]), (bottom, centre[1])]
                if height > width
                else [(centre[0], 0), (centre[0], right)]
            )
            return [ends[0], centre, ends[1]]
        if self.crops == 10:
            return [(0, 0), (0, right), (bottom, 0), (bottom, right), centre]
        return [centre]


class Views:
    """Turn the frames of all clips of a test video into views.

    Args:
        crops: cuts the squares.
        clips: temporal clips that the sampling put one after the other.
        then: turns the frames of one view into network input, for example ``Normalize``.

    Raises:
        ValueError: clips is below 1.

    Example:
        >>> from vidops.data.transforms import Normalize
        >>> views = Views(SpatialCrops(48, 56, crops=3), 2, Normalize([0.5] * 3, [0.25] * 3))
        >>> views(np.zeros((16, 60, 80, 3), np.uint8), np.random.default_rng(0)).shape
        torch.Size([6, 3, 8, 48, 48])
    """

    def __init__(self, crops: SpatialCrops, clips: int, then: Transform) -> None:
        self.crops, self.clips, self.then = crops, _positive("clips", clips), then

    def __call__(self, frames: Frames | torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        """Return one view (C, T, H, W), or several (V, C, T, H, W): all crops of the first clip first."""
        return self.with_boxes(frames, torch.zeros(0, 4), generator)[0]

    def with_boxes(
        self, frames: Frames | torch.Tensor, boxes: torch.Tensor, generator: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the views as a call does, and the boxes (K, 4), or (V, K, 4) of several views, in their pixels."""
        frames = _as_frames(frames)
        if len(frames) % self.clips:
            raise ValueError(f"frames: {len(frames)} frames do not make {self.clips} equal clips")
        # Cropped before they are split, so that the frames are resized once.
        placed = [(cut.chunk(self.clips), placement(boxes)) for cut, placement in self.crops.place(frames)]
        views = [
            transform_boxes(self.then, cut[clip], inside, generator)
            for clip in range(self.clips)
            for cut, inside in placed
        ]
        if len(views) == 1:
            return views[0]
        return torch.stack([view for view, _ in views]), torch.stack([inside for _, inside in views])
