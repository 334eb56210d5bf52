"""Frames to network input: crops, flips, resizing and normalisation, the same for all frames of a clip.

A transform is called with the frames, uint8 (T, H, W, 3), and a ``numpy.random.Generator``. The crops return
frames of the same kind; ``Normalize`` comes last and turns them into the float clip (3, T, H, W).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .boxes import Placement, Placing, transform_boxes
from .video import Frames, scaled_size

Transform = Callable[[Any, np.random.Generator], torch.Tensor]
Mirror = Callable[[torch.Tensor], torch.Tensor]


def flip_frames(frames: torch.Tensor) -> torch.Tensor:
    """Mirror pictures left and right.

    Args:
        frames: (T, H, W, C).

    Returns:
        The same shape.

    Example:
        >>> flip_frames(torch.arange(3).reshape(1, 1, 3, 1)).flatten().tolist()
        [2, 1, 0]
    """
    return frames.flip(2)


class Compose:
    """Apply several transforms one after the other.

    Args:
        transforms: each called as ``transform(frames, generator)``.

    Example:
        >>> frames = np.zeros((8, 60, 80, 3), np.uint8)
        >>> train = Compose([TrainCrops(48, flip=True), Normalize([0.5] * 3, [0.25] * 3)])
        >>> train(frames, np.random.default_rng(0)).shape
        torch.Size([3, 8, 48, 48])
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = list(transforms)

    def __call__(self, frames: Frames | torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        """Return the frames after every transform."""
        out = _as_frames(frames)
        for transform in self.transforms:
            out = transform(out, generator)
        return out

    def with_boxes(
        self, frames: Frames | torch.Tensor, boxes: torch.Tensor, generator: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the frames and the boxes after every transform, as `boxes.transform_boxes`."""
        out = _as_frames(frames)
        for transform in self.transforms:
            out, boxes = transform_boxes(transform, out, boxes, generator)
        return out, boxes


class TrainCrops(Placing):
    """Multi-scale crops at 13 fixed positions, resized to a square and flipped at random.

    The crop's height and width are two entries of ``scales``, at most one step apart, times the short side.
    It lies at one of 13 positions: the corners, the middles of the sides, the centre, and the four points
    halfway between the centre and the corners.

    Args:
        size: side of the square that comes out, pixels.
        flip: mirror left and right in half of the clips; must be off where left and right are classes.
        scales: shares of the short side.
        mirror: how frames are flipped; `modalities.flip_flow` for flow.

    Raises:
        ValueError: size is below 1, or a scale is not in (0, 1].

    Source: Wang et al., Temporal Segment Networks, ECCV 2016, section 4.1 (scale jittering, corner cropping).

    Example:
        >>> crops = TrainCrops(48, flip=False)
        >>> crops(np.zeros((8, 60, 80, 3), np.uint8), np.random.default_rng(0)).shape
        torch.Size([8, 48, 48, 3])
    """

    def __init__(
        self,
        size: int,
        flip: bool,
        scales: Sequence[float] = (1, 0.875, 0.75, 0.66),
        mirror: Mirror = flip_frames,
    ) -> None:
        self.size = _positive("size", size)
        self.flip, self.mirror = bool(flip), mirror
        self.scales = tuple(float(scale) for scale in scales)
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError(f"scales must lie in (0, 1], got {scales!r}")

    def place(
        self, frames: Frames | torch.Tensor, generator: np.random.Generator
    ) -> tuple[torch.Tensor, Placement]:
        """Return uint8 frames (T, size, size, 3) and where the given ones lie in them."""
        frames = _as_frames(frames)
        height, width = frames.shape[1:3]
        pairs = crop_sizes(min(height, width), self.size, self.scales)
        crop_height, crop_width = pairs[int(generator.integers(len(pairs)))]
        places = crop_positions(height, width, crop_height, crop_width)
        top, left = places[int(generator.integers(len(places)))]
        # Drawn also where it is not used, so that the crops do not depend on ``flip``.
        mirrored = bool(generator.integers(2)) and self.flip
        out = resize(frames[:, top : top + crop_height, left : left + crop_width], self.size, self.size)
        scale = self.size / crop_height, self.size / crop_width
        start = top * scale[0], left * scale[1]
        return self.mirror(out) if mirrored else out, Placement((self.size,) * 2, scale, start, mirrored)


class RandomResizeCrop(Placing):
    """Resize to a random short side, cut a square at a random place, flip at random.

    Args:
        size: side of the square that comes out, pixels.
        short_side: smallest and largest short side in pixels, each whole number between equally likely; the
            smallest is at least ``size``.
        flip: mirror left and right in half of the clips; must be off where left and right are classes.
        mirror: how frames are flipped; `modalities.flip_flow` for flow.

    Raises:
        ValueError: size is below 1, or the range is empty or starts below size.

    Source: Wang et al., Non-local Neural Networks, CVPR 2018, section 4.1 (256 to 320 pixels, crops of 224).

    Example:
        >>> crops = RandomResizeCrop(48, (56, 64), flip=False)
        >>> crops(np.zeros((8, 60, 80, 3), np.uint8), np.random.default_rng(0)).shape
        torch.Size([8, 48, 48, 3])
    """

    def __init__(
        self, size: int, short_side: tuple[int, int], flip: bool, mirror: Mirror = flip_frames
    ) -> None:
        self.size = _positive("size", size)
        low, high = (_positive("short_side", side) for side in short_side)
        if not size <= low <= high:
            raise ValueError(
                f"short_side must be a range from at least size ({size}) up, got {low} to {high}"
            )
        self.short_side = low, high
        self.flip, self.mirror = bool(flip), mirror

    def place(
        self, frames: Frames | torch.Tensor, generator: np.random.Generator
    ) -> tuple[torch.Tensor, Placement]:
        """Return uint8 frames (T, size, size, 3) and where the given ones lie in them."""
        frames = _as_frames(frames)
        low, high = self.short_side
        short = int(generator.integers(low, high + 1))
        height, width = scaled_size(frames.shape[1], frames.shape[2], short)
        top, left = (int(generator.integers(side - self.size + 1)) for side in (height, width))
        # Drawn also where it is not used, so that the crops do not depend on ``flip``.
        mirrored = bool(generator.integers(2)) and self.flip
        out = resize(frames, height, width)[:, top : top + self.size, left : left + self.size]
        scale = height / frames.shape[1], width / frames.shape[2]
        return self.mirror(out) if mirrored else out, Placement(
            (self.size,) * 2, scale, (top, left), mirrored
        )


class ResizeFrames(Placing):
    """Resize whole frames to a square, whatever their shape, so that no actor is cut off; flip at random.

    Args:
        size: side of the square that comes out, pixels.
        flip: mirror left and right in half of the clips, for training; must be off where left and right are
            classes.
        mirror: how frames are flipped; `modalities.flip_flow` for flow.

    Raises:
        ValueError: size is below 1.

    Source: ours; the sources of AVA's networks keep the shape of the frames and pad them to batches, or do not say.

    Example:
        >>> whole = ResizeFrames(48)
        >>> whole(np.zeros((8, 60, 80, 3), np.uint8), np.random.default_rng(0)).shape
        torch.Size([8, 48, 48, 3])
    """

    def __init__(self, size: int, flip: bool = False, mirror: Mirror = flip_frames) -> None:
        self.size = _positive("size", size)
        self.flip, self.mirror = bool(flip), mirror

    def place(
        self, frames: Frames | torch.Tensor, generator: np.random.Generator
    ) -> tuple[torch.Tensor, Placement]:
        """Return uint8 frames (T, size, size, 3) and where the given ones lie in them."""
        frames = _as_frames(frames)
        scale = self.size / frames.shape[1], self.size / frames.shape[2]
        mirrored = self.flip and bool(generator.integers(2))
        out = resize(frames, self.size, self.size)
        placement = Placement((self.size,) * 2, scale, mirrored=mirrored)
        return self.mirror(out) if mirrored else out, placement


class Normalize:
    """Turn uint8 frames (T, H, W, 3) into a float clip (3, T, H, W), (value/255 - mean) / std.

    Args:
        mean: of each channel, on the scale 0 to 1.
        std: of each channel, on the same scale.

    Raises:
        ValueError: not three numbers each, or a std that is not above 0.

    Example:
        >>> white = np.full((8, 4, 4, 3), 255, np.uint8)
        >>> float(Normalize([0.5] * 3, [0.25] * 3)(white, np.random.default_rng(0)).mean())
        2.0
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        if len(mean) != 3 or len(std) != 3:
            raise ValueError(f"mean and std must be three numbers each, got {mean!r} and {std!r}")
        if not all(value > 0 for value in std):
            raise ValueError(f"std must be above 0, got {std!r}")
        self.mean = torch.tensor(mean, dtype=torch.float32).view(3, 1, 1, 1)
        self.std = torch.tensor(std, dtype=torch.float32).view(3, 1, 1, 1)

    def __call__(self, frames: Frames | torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        """Return a contiguous float32 clip (3, T, H, W)."""
        clip = _as_frames(frames).permute(3, 0, 1, 2).contiguous().float()
        return clip.div_(255.0).sub_(self.mean).div_(self.std)


def crop_sizes(short_side: int, size: int, scales: Sequence[float]) -> list[tuple[int, int]]:
    """Return the (height, width) pairs of the multi-scale crops.

    Args:
        short_side: the shorter side of the frames, pixels.
        size: side of the network's input; a crop within 2 pixels of it is made exactly that.
        scales: shares of the short side, from large to small.

    Returns:
        Every pair of two scales that are at most one step apart, in pixels.

    Example:
        >>> crop_sizes(256, 224, (1, 0.875))
        [(256, 256), (256, 224), (224, 256), (224, 224)]
    """
    sides = [max(1, int(short_side * scale)) for scale in scales]
    sides = [size if abs(side - size) < 3 and size <= short_side else side for side in sides]
    steps = range(len(sides))
    return [(sides[i], sides[j]) for i in steps for j in steps if abs(i - j) <= 1]


def crop_positions(height: int, width: int, crop_height: int, crop_width: int) -> list[tuple[int, int]]:
    """Return the 13 fixed (top, left) positions of a crop.

    Args:
        height: of the frames, pixels.
        width: of the frames, pixels.
        crop_height: of the crop, at most height.
        crop_width: of the crop, at most width.

    Returns:
        On a grid of quarters of the free space: the nine points with even coordinates (corners, sides,
        centre), then the four with odd ones.

    Example:
        >>> crop_positions(240, 320, 224, 224)[:3]
        [(0, 0), (0, 48), (0, 96)]
    """
    down, right = (height - crop_height) // 4, (width - crop_width) // 4
    even = [(i, j) for i in (0, 2, 4) for j in (0, 2, 4)]
    odd = [(i, j) for i in (1, 3) for j in (1, 3)]
    return [(i * down, j * right) for i, j in even + odd]


def resize(frames: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize uint8 frames (T, H, W, 3) bilinearly with antialiasing.

    Args:
        frames: uint8 (T, H, W, 3).
        height: wanted height, pixels.
        width: wanted width, pixels.

    Returns:
        uint8 frames (T, height, width, 3); the input itself where it has that size already.

    Example:
        >>> resize(torch.zeros(8, 60, 80, 3, dtype=torch.uint8), 30, 40).shape
        torch.Size([8, 30, 40, 3])
    """
    if tuple(frames.shape[1:3]) == (height, width):
        return frames
    # channels-last in memory, for which torch has a vectorised uint8 path
    pictures = frames.permute(0, 3, 1, 2)
    out = F.interpolate(pictures, size=(height, width), mode="bilinear", antialias=True, align_corners=False)
    return out.permute(0, 2, 3, 1)


def _positive(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    return value


def _as_frames(frames: Frames | torch.Tensor) -> torch.Tensor:
    tensor = torch.from_numpy(frames) if isinstance(frames, np.ndarray) else frames
    if not isinstance(tensor, torch.Tensor) or tensor.dtype != torch.uint8:
        kind = getattr(frames, "dtype", type(frames).__name__)
        raise TypeError(f"frames must be a uint8 array or tensor (T, H, W, 3), got {kind}")
    if tensor.ndim != 4 or tensor.shape[3] != 3 or 0 in tensor.shape:
        raise ValueError(f"frames must have the shape (T, H, W, 3), got {tuple(tensor.shape)}")
    return tensor
