"""Several views of a test video: spatial crops of several temporal clips."""

from __future__ import annotations

import numpy as np
import torch

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
        frames = _as_frames(frames)
        frames = resize(frames, *scaled_size(frames.shape[1], frames.shape[2], self.short_side))
        bottom, right = (side - self.size for side in frames.shape[1:3])
        centre = (bottom // 2, right // 2)
        places = [centre]
        if self.crops == 3:
            tall = frames.shape[1] > frames.shape[2]
            ends = [(0, centre[1]), (bottom, centre[1])] if tall else [(centre[0], 0), (centre[0], right)]
            places = [ends[0], centre, ends[1]]
        elif self.crops == 10:
            places = [(0, 0), (0, right), (bottom, 0), (bottom, right), centre]
        cuts = [frames[:, top : top + self.size, left : left + self.size] for top, left in places]
        return cuts + [self.mirror(cut) for cut in cuts] if self.crops == 10 else cuts


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
        frames = _as_frames(frames)
        if len(frames) % self.clips:
            raise ValueError(f"frames: {len(frames)} frames do not make {self.clips} equal clips")
        # Cropped before they are split, so that the frames are resized once.
        cuts = [cut.chunk(self.clips) for cut in self.crops(frames)]
        views = [self.then(cut[clip], generator) for clip in range(self.clips) for cut in cuts]
        return views[0] if len(views) == 1 else torch.stack(views)
