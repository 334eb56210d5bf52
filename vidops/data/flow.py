"""TV-L1 optical flow between neighbouring frames, as numbers of pixels and as the bytes that are stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from .._extras import require
from .modalities import FLOW_ZERO
from .video import Frames

LEVELS = 127  # steps from no motion to the bound


@dataclass(frozen=True)
class FlowSettings:
    """How flow is computed; a folder holds flow of one kind.

    Args:
        short_side: frames are resized so before; None keeps the file's size. The fields keep this size, and
            their values are pixels of it.
        bound: motion in pixels that is clipped to; 20 in TSN and TSM.
        attachment: weight of the data term, of grey values in 0 ... 1.
        tightness: of the coupling between data and smoothness.
        num_warp: warps a pyramid level.
        num_iter: iterations a warp.
        tol: tolerance that ends a level.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> FlowSettings(bound=0)
        Traceback (most recent call last):
        ValueError: bound must be above 0, got 0
    """

    short_side: int | None = 256
    bound: float = 20.0
    attachment: float = 15.0
    tightness: float = 0.3
    num_warp: int = 5
    num_iter: int = 10
    tol: float = 1e-4

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, value in asdict(self).items():
            if name == "short_side" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ValueError(f"{name} must be above 0, got {value!r}")


def tvl1_flow(
    first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8], settings: FlowSettings | None = None
) -> npt.NDArray[np.float32]:
    """Compute the optical flow from one frame to another with scikit-image's TV-L1.

    Args:
        first: uint8 (H, W, 3).
        second: uint8 (H, W, 3), the later frame.
        settings: of the algorithm; ``short_side`` and ``bound`` are not used here.

    Returns:
        float32 (H, W, 2): how far what stands at a point of the first frame moves right and down, pixels.

    Raises:
        ImportError: scikit-image is not installed.
        ValueError: the frames are not two of one shape.

    Source: Zach, Pock and Bischof, A Duality Based Approach for Realtime TV-L1 Optical Flow, DAGM 2007; grey is
    Rec. 601 luma.

    Example:
        >>> still = np.zeros((16, 16, 3), np.uint8)
        >>> float(np.abs(tvl1_flow(still, still)).max())
        0.0
    """
    return _grey_flow(_grey(first), _grey(second), settings or FlowSettings())


def encode_flow(flow: npt.NDArray[np.float32], bound: float = 20.0) -> Frames:
    """Clip flow to the bound and store it as bytes, 128 for zero.

    A step is bound/127 pixels, so that zero is exact and mirroring, 256 - value, too; -bound is 1, +bound 255.

    Args:
        flow: float (..., 2), pixels.
        bound: pixels.

    Returns:
        uint8 of the same shape.

    Example:
        >>> encode_flow(np.array([-99.0, -20.0, 0.0, 10.0, 20.0], np.float32)).tolist()
        [1, 1, 128, 192, 255]
    """
    steps = np.rint(np.clip(flow, -bound, bound) * (LEVELS / bound))
    return (steps + FLOW_ZERO).astype(np.uint8)


def decode_flow(stored: Frames, bound: float = 20.0) -> npt.NDArray[np.float32]:
    """Turn stored flow back into pixels.

    Args:
        stored: uint8, 128 for zero.
        bound: pixels, as for `encode_flow`.

    Returns:
        float32 of the same shape, off by at most half a step, bound/254, within the bound.

    Example:
        >>> decode_flow(np.array([1, 128, 255], np.uint8)).tolist()
        [-20.0, 0.0, 20.0]
    """
    return ((stored.astype(np.float32) - FLOW_ZERO) * np.float32(bound / LEVELS)).astype(np.float32)


def _grey(frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    frame = np.asarray(frame)
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"a frame must be uint8 (H, W, 3), got {frame.dtype} {frame.shape}")
    red, green, blue = (frame[..., c].astype(np.float32) for c in range(3))
    return (0.299 * red + 0.587 * green + 0.114 * blue) / np.float32(255)


def _grey_flow(
    first: npt.NDArray[np.float32], second: npt.NDArray[np.float32], settings: FlowSettings
) -> npt.NDArray[np.float32]:
    if first.shape != second.shape:
        raise ValueError(f"second must have the shape of first, {first.shape}, got {second.shape}")
    down, right = require("skimage.registration", extra="motion").optical_flow_tvl1(
        first,
        second,
        attachment=settings.attachment,
        tightness=settings.tightness,
        num_warp=settings.num_warp,
        num_iter=settings.num_iter,
        tol=settings.tol,
    )
    return np.stack([right, down], axis=-1).astype(np.float32)


def video_flow(frames: Iterable[Frames], settings: FlowSettings) -> Iterator[Frames]:
    """Compute the stored fields of a video, one after the other.

    Args:
        frames: uint8 (H, W, 3), of one size.
        settings: of the algorithm.

    Yields:
        uint8 (2, H, W) for each pair of neighbours, x then y; for a single frame one field without motion.

    Example:
        >>> [field.shape for field in video_flow([np.zeros((8, 9, 3), np.uint8)], FlowSettings())]
        [(2, 8, 9)]
    """
    shape, count = (0, 0), 0

    def greys() -> Iterator[npt.NDArray[np.float32]]:
        nonlocal shape, count
        for frame in frames:
            shape, count = frame.shape[:2], count + 1
            yield _grey(frame)

    for first, second in pairwise(greys()):
        flow = _grey_flow(first, second, settings)
        yield np.ascontiguousarray(encode_flow(flow, settings.bound).transpose(2, 0, 1))
    if count == 1:
        yield np.full((2, *shape), FLOW_ZERO, np.uint8)
