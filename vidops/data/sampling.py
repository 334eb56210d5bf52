"""Which frames of a video make a clip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class UniformSampling:
    """Cut a video into equal segments and take one frame of each.

    With n frames and s segments, d = n // s:

    - training: frame i*d + randint(d) of segment i; all frames are frame 0 where n < s, as TSN and TSM do.
    - testing: the segments' centres, floor((2i + 1) n / 2s), which repeats frames where n < s.

    With ``symmetric`` the frames i and s-1-i of a test clip are mirror images in time (they add up to n-1),
    and a training clip of the video played backwards has the same distribution as the reversed training clip,
    so that the sampling adds no cue to the direction of time. Videos shorter than s are then sampled as in
    testing.

    Args:
        num_segments: segments s, the number of frames of a clip.
        training: random frames instead of the centres.
        symmetric: see above.

    Raises:
        TypeError: num_segments is not a whole number.
        ValueError: num_segments is below 1.

    Source: Wang et al., Temporal Segment Networks, ECCV 2016; Lin et al., TSM, ICCV 2019.

    Example:
        >>> UniformSampling(4, training=False)(16).tolist()
        [2, 6, 10, 14]
        >>> UniformSampling(4, training=False, symmetric=True)(16).tolist()
        [2, 6, 9, 13]
    """

    num_segments: int
    training: bool
    symmetric: bool = False

    def __post_init__(self) -> None:
        """Check the arguments."""
        if isinstance(self.num_segments, bool) or not isinstance(self.num_segments, int):
            raise TypeError(f"num_segments must be a whole number, got {self.num_segments!r}")
        if self.num_segments < 1:
            raise ValueError(f"num_segments must be at least 1, got {self.num_segments}")

    def __call__(
        self, num_frames: int, generator: np.random.Generator | None = None
    ) -> npt.NDArray[np.int64]:
        """Return the indices of the frames of a clip.

        Args:
            num_frames: frames of the video, at least 1.
            generator: source of randomness; needed in training only.

        Returns:
            int64 (num_segments,), not decreasing, each in 0 ... num_frames-1.

        Raises:
            ValueError: num_frames is below 1, training without a generator, or ``symmetric`` with an odd
                number of segments on an even number of frames, which has no middle frame.
        """
        if num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, got {num_frames}")
        if not self.training:
            return self._centres(num_frames)
        if generator is None:
            raise ValueError("generator: training needs a random generator")
        length = num_frames // self.num_segments
        if length == 0:
            if self.symmetric:
                return self._centres(num_frames)
            return np.zeros(self.num_segments, dtype=np.int64)
        jitter = generator.integers(length, size=self.num_segments)
        start = 0
        if self.symmetric:
            # The frames left over go half before and half after; an odd one falls on either side at random.
            rest = num_frames - length * self.num_segments
            start = (rest + int(generator.integers(2)) * (rest % 2)) // 2
        return start + np.arange(self.num_segments, dtype=np.int64) * length + jitter

    def _centres(self, num_frames: int) -> npt.NDArray[np.int64]:
        segments = self.num_segments
        centres = (2 * np.arange(segments, dtype=np.int64) + 1) * num_frames // (2 * segments)
        if self.symmetric:
            if segments % 2 and num_frames % 2 == 0:
                raise ValueError(
                    f"num_segments: symmetric sampling of {num_frames} frames (an even number) needs an even "
                    f"number of segments, got {segments}"
                )
            half = segments // 2
            centres[segments - half :] = num_frames - 1 - centres[:half][::-1]
        return centres
