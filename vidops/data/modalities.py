"""Inputs other than RGB frames: RGB differences, dynamic and squeezed images, stacked optical flow.

A network gets one input of C channels a segment, clip (C, T, H, W) with T the number of segments. Each input is
made from several consecutive frames, which a sampling with `frames_per_segment` picks:

| modality | frames a segment | C | made by |
|---|---|---|---|
| ``rgb`` | 1 | 3 | `transforms.Normalize` |
| ``rgb_diff`` | k + 1 | 3k | crops, then `StackDifferences` |
| ``dynamic_image`` | k | 3 | `DynamicImages`, then crops and `transforms.Normalize` |
| ``squeezed_image`` | k | 3 | `SqueezedImages`, then crops and `transforms.Normalize` |
| ``flow`` | k flow fields | 2k | crops with ``mirror=flip_flow``, then `StackFlow`; the fields are `FlowStore`'s |

k is ``stack``. Flow of k = 1 may be sampled in runs of several fields, a time step each. Flow fields travel as
pictures of three channels, x, y and a blank one, as TSM's release stores them, so that every crop works on them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from .transforms import _as_frames, _positive
from .video import Frames

MODALITIES = ("rgb", "rgb_diff", "flow", "dynamic_image", "squeezed_image")
STACKS = {"rgb": 1, "rgb_diff": 5, "flow": 5, "dynamic_image": 6, "squeezed_image": 6}
FLOW_ZERO = 128
MEAN_STD = 0.226  # of ImageNet's three channels, the std of single-channel inputs in TSN and TSM


def frames_per_segment(modality: str, stack: int) -> int:
    """Return how many consecutive frames, or flow fields, a segment's input is made from.

    Args:
        modality: one of `MODALITIES`.
        stack: k, the differences, flow fields or frames in one input; 1 for RGB.

    Returns:
        1 for RGB, k + 1 for RGB differences, else k.

    Raises:
        ValueError: the modality is unknown or the stack is out of range.

    Example:
        >>> frames_per_segment("rgb_diff", 5), frames_per_segment("flow", 5)
        (6, 5)
    """
    _check(modality, stack)
    return stack + 1 if modality == "rgb_diff" else stack


def input_channels(modality: str, stack: int) -> int:
    """Return the channels of a segment's input.

    Args:
        modality: one of `MODALITIES`.
        stack: k, see `frames_per_segment`.

    Returns:
        3 for RGB, dynamic and squeezed images, 3k for RGB differences, 2k for flow.

    Raises:
        ValueError: the modality is unknown or the stack is out of range.

    Example:
        >>> input_channels("flow", 5), input_channels("rgb_diff", 5), input_channels("dynamic_image", 6)
        (10, 15, 3)
    """
    _check(modality, stack)
    return {"rgb_diff": 3 * stack, "flow": 2 * stack}.get(modality, 3)


def _check(modality: str, stack: int) -> None:
    if modality not in MODALITIES:
        raise ValueError(f"modality must be one of {', '.join(MODALITIES)}, got {modality!r}")
    least = 2 if modality in ("dynamic_image", "squeezed_image") else 1
    if isinstance(stack, bool) or not isinstance(stack, int) or stack < least:
        raise ValueError(f"stack must be a whole number of at least {least} for {modality}, got {stack!r}")
    if modality == "rgb" and stack != 1:
        raise ValueError(f"stack must be 1 for rgb, got {stack}")


def rgb_difference(frames: Frames | torch.Tensor, stack: int) -> torch.Tensor:
    """Subtract each frame from the next and stack the differences of a segment.

    Args:
        frames: uint8 (T * (stack + 1), H, W, 3), stack + 1 consecutive frames a segment.
        stack: k, differences a segment.

    Returns:
        int16 (T, H, W, 3k) in -255 ... 255, the differences in the order of time.

    Raises:
        TypeError: the frames are not uint8.
        ValueError: their number is not a multiple of stack + 1.

    Source: Wang et al., Temporal Segment Networks, ECCV 2016, section 3.2 (stacked RGB difference).

    Example:
        >>> frames = np.stack([np.full((2, 2, 3), value, np.uint8) for value in (10, 13, 11)])
        >>> rgb_difference(frames, 2)[0, 0, 0].tolist()
        [3, 3, 3, -2, -2, -2]
    """
    segments = _segments(_as_frames(frames), _positive("stack", stack) + 1).to(torch.int16)
    return (segments[:, 1:] - segments[:, :-1]).permute(0, 2, 3, 1, 4).flatten(3)


def rank_pooling_coefficients(length: int) -> npt.NDArray[np.float64]:
    """Return the weights of approximate rank pooling.

    Args:
        length: T, frames that are pooled.

    Returns:
        float64 (T,): alpha_t = 2 (T - t + 1) - (T + 1) (H_T - H_(t-1)) for t = 1 ... T, with H_t the harmonic
        numbers and H_0 = 0. They add up to zero.

    Raises:
        ValueError: length is below 1.

    Source: Bilen et al., Dynamic Image Networks for Action Recognition, CVPR 2016, eq. 2.

    Example:
        >>> rank_pooling_coefficients(3).round(4).tolist()
        [-1.3333, 0.6667, 0.6667]
    """
    t = np.arange(1, _positive("length", length) + 1)
    harmonic = np.concatenate([[0.0], np.cumsum(1 / t)])
    return 2.0 * (length - t + 1) - (length + 1) * (harmonic[-1] - harmonic[:-1])


def dynamic_image(frames: Frames | torch.Tensor, length: int | None = None) -> torch.Tensor:
    """Sum up consecutive frames in one picture whose values grow with what comes late and fall with what goes.

    Each picture is rescaled so that its smallest value over all pixels and channels becomes 0 and its largest
    255, as the authors' release does; a segment without any change gives 0 everywhere.

    Args:
        frames: uint8 (T * length, H, W, 3).
        length: consecutive frames that make one picture; None makes one of all.

    Returns:
        uint8 (T, H, W, 3), rounded.

    Raises:
        TypeError: the frames are not uint8.
        ValueError: their number is not a multiple of ``length``, or that is below 2.

    Source: Bilen et al., CVPR 2016, section 3 (approximate rank pooling applied to the pixels).

    Example:
        >>> frames = np.zeros((3, 1, 2, 3), np.uint8)
        >>> frames[0, 0, 0], frames[2, 0, 1] = 100, 100  # one point goes, another comes
        >>> dynamic_image(frames)[0, 0, :, 0].tolist()
        [0, 255]
    """
    segments = _pictures(frames, length)
    weights = torch.from_numpy(rank_pooling_coefficients(segments.shape[1]))
    return torch.stack([_pooled(segment, weights) for segment in segments])


def squeezed_image(frames: Frames | torch.Tensor, length: int | None = None) -> torch.Tensor:
    """Sum up consecutive frames in the one picture from which they can best be restored, each by a factor of its own.

    The temporal squeeze pooling of D = 1 column A' in closed form: of all columns a the one whose residuals
    x - a y have the least sum of squares, which is the first singular vector of the frames, and its coefficients
    y = a'x. The trained layer, `TemporalSqueezePool`, learns to predict such columns, with the loss of eq. 3.5, which
    is not squared. Each picture is rescaled as `dynamic_image` does; frames of one value alone give 0 everywhere.

    Args:
        frames: uint8 (T * length, H, W, 3).
        length: consecutive frames that make one picture; None makes one of all.

    Returns:
        uint8 (T, H, W, 3), rounded; brighter where the frames are.

    Raises:
        TypeError: the frames are not uint8.
        ValueError: their number is not a multiple of ``length``, or that is below 2.

    Source: Huang's thesis, eq. 3.4 and 3.5, with one squeezed image as in table 3.12.

    Example:
        >>> frames = np.zeros((2, 1, 3, 3), np.uint8)
        >>> frames[:, 0, 1], frames[:, 0, 2] = 100, 200  # nothing moves: the frame itself
        >>> squeezed_image(frames)[0, 0, :, 0].tolist()
        [0, 128, 255]
    """
    return torch.stack([_squeezed(segment) for segment in _pictures(frames, length)])


def _squeezed(frames: torch.Tensor) -> torch.Tensor:
    flat = frames.flatten(1).double()
    column = torch.linalg.eigh(flat @ flat.T).eigenvectors[:, -1]  # of the largest eigenvalue
    return _pooled(frames, column * column.sum().sign())


def _pictures(frames: Frames | torch.Tensor, length: int | None) -> torch.Tensor:
    """Check frames of which one picture a segment is made, and divide them into segments."""
    frames = _as_frames(frames)
    length = len(frames) if length is None else length
    if length < 2:
        raise ValueError(f"length must be at least 2, got {length}")
    return _segments(frames, length)


def _pooled(frames: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    image = torch.einsum("t,thwc->hwc", weights, frames.double())
    low, high = image.aminmax()
    # Of frames that do not change the sum is rounding error alone, about 1e-13 a frame.
    if high - low < 1e-6:
        return torch.zeros_like(image, dtype=torch.uint8)
    return ((image - low) * (255 / (high - low))).round().to(torch.uint8)


def stack_flow(fields: Frames | torch.Tensor, stack: int) -> torch.Tensor:
    """Stack consecutive flow fields along the channels: x and y of the first, x and y of the second, ...

    Args:
        fields: uint8 (T * stack, H, W, 3): x, y and a blank channel.
        stack: k, fields a segment.

    Returns:
        uint8 (T, H, W, 2k).

    Raises:
        TypeError: the fields are not uint8.
        ValueError: their number is not a multiple of ``stack``.

    Source: Simonyan and Zisserman, Two-Stream Convolutional Networks, NeurIPS 2014, eq. 1; TSN's layout.

    Example:
        >>> stack_flow(np.arange(6, dtype=np.uint8).reshape(2, 1, 1, 3), 2).flatten().tolist()
        [0, 1, 3, 4]
    """
    segments = _segments(_as_frames(fields), _positive("stack", stack))
    return segments[..., :2].permute(0, 2, 3, 1, 4).flatten(3)


def _segments(frames: torch.Tensor, length: int) -> torch.Tensor:
    if len(frames) % length:
        raise ValueError(f"frames: {len(frames)} are no multiple of the {length} that a segment takes")
    return frames.unflatten(0, (-1, length))


class _ImageOfSegments:
    """Replaces the frames of each segment by one picture made of them; stands before the crops."""

    modality: str
    _image: Callable[[Frames | torch.Tensor, int], torch.Tensor]

    def __init__(self, length: int) -> None:
        _check(self.modality, length)
        self.length = length

    def __call__(self, frames: Frames | torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        """Return uint8 pictures (T, H, W, 3) of frames (T * length, H, W, 3)."""
        return self._image(frames, self.length)


class DynamicImages(_ImageOfSegments):
    """Replace the frames of each segment by their `dynamic_image`; stands before the crops.

    Args:
        length: consecutive frames a segment, at least 2.

    Example:
        >>> DynamicImages(6)(np.zeros((12, 4, 5, 3), np.uint8), np.random.default_rng(0)).shape
        torch.Size([2, 4, 5, 3])
    """

    modality = "dynamic_image"
    _image = staticmethod(dynamic_image)


class SqueezedImages(_ImageOfSegments):
    """Replace the frames of each segment by their `squeezed_image`; stands before the crops.

    Args:
        length: consecutive frames a segment, at least 2.

    Example:
        >>> SqueezedImages(6)(np.zeros((12, 4, 5, 3), np.uint8), np.random.default_rng(0)).shape
        torch.Size([2, 4, 5, 3])
    """

    modality = "squeezed_image"
    _image = staticmethod(squeezed_image)


class StackDifferences:
    """Turn cropped frames into a clip of RGB differences, difference / 255 / std; comes last.

    Frames that were mirrored by a crop give the mirrored difference, so a flip needs no care here, unlike that
    of flow.

    Args:
        stack: k, differences a segment.
        std: what the differences, -1 ... 1 after the division by 255, are divided by. The default of 0.452 is
            the figure that the networks of TSN's and TSM's code name for differences, twice the mean std of
            ImageNet's channels. Their training scripts do not divide by it: ``std=1`` is what they do.

    Raises:
        ValueError: stack is below 1, or std is not above 0.

    Example:
        >>> StackDifferences(5)(np.zeros((12, 4, 5, 3), np.uint8), np.random.default_rng(0)).shape
        torch.Size([15, 2, 4, 5])
    """

    def __init__(self, stack: int, std: float = 2 * MEAN_STD) -> None:
        self.stack, self.std = _positive("stack", stack), _std(std)

    def __call__(self, frames: Frames | torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        """Return a float32 clip (3k, T, H, W) of frames (T * (k + 1), H, W, 3)."""
        clip = rgb_difference(frames, self.stack).permute(3, 0, 1, 2).contiguous().float()
        return clip.div_(255.0 * self.std)


def flip_flow(fields: Frames | torch.Tensor) -> torch.Tensor:
    """Mirror flow fields left and right and negate their x component: the ``mirror`` of crops for flow.

    Mirrored pictures of an unchanged x would show motion the wrong way.

    Args:
        fields: uint8 (T, H, W, 3): x, y and a blank channel, 128 for zero.

    Returns:
        uint8 (T, H, W, 3).

    Raises:
        TypeError: the fields are not uint8.

    Example:
        >>> field = np.array([[[[138, 120, 128], [128, 128, 128]]]], np.uint8)  # 10 right and 8 up, in steps
        >>> flip_flow(field)[0, 0].tolist()
        [[128, 128, 128], [118, 120, 128]]
    """
    out = _as_frames(fields).flip(2)
    out[..., 0] = (2 * FLOW_ZERO - out[..., 0].to(torch.int16)).clamp(max=255).to(torch.uint8)
    return out


class StackFlow:
    """Turn cropped flow fields into a clip of stacked flow, (value - 128) / 255 / std; comes last.

    Args:
        stack: k, fields a segment.
        std: on the scale 0 to 1; that of TSM's release by default, the mean of ImageNet's.

    Raises:
        ValueError: stack is below 1, or std is not above 0.

    Example:
        >>> zero = np.full((10, 4, 5, 3), 128, np.uint8)
        >>> clip = StackFlow(5)(zero, np.random.default_rng(0))
        >>> clip.shape, float(clip.abs().max())
        (torch.Size([10, 2, 4, 5]), 0.0)
    """

    def __init__(self, stack: int, std: float = MEAN_STD) -> None:
        self.stack, self.std = _positive("stack", stack), _std(std)

    def __call__(self, fields: Frames | torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        """Return a float32 clip (2k, T, H, W) of fields (T * k, H, W, 3)."""
        clip = stack_flow(fields, self.stack).permute(3, 0, 1, 2).contiguous().float()
        return clip.sub_(float(FLOW_ZERO)).div_(255.0 * self.std)


def _std(std: float) -> float:
    if not std > 0:
        raise ValueError(f"std must be above 0, got {std!r}")
    return float(std)
