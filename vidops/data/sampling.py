"""Which frames of a video make a clip, or several."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def _check_whole(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def _runs(starts: Indices, length: int, num_frames: int) -> Indices:
    """Follow each start by the frames after it, ``length`` in all; past the video's end the last one repeats."""
    frames = starts[:, None] + np.arange(length, dtype=np.int64)
    return np.minimum(frames, num_frames - 1).reshape(-1)


class _Sampling:
    """What the samplings share: the checks, and the runs that their starts begin."""

    training: bool
    frames_per_segment: int

    def __post_init__(self) -> None:
        """Check the arguments."""
        for name in ("num_segments", "frames_per_segment", "clips"):
            _check_whole(name, getattr(self, name))

    def __call__(self, num_frames: int, generator: np.random.Generator | None = None) -> Indices:
        """Return the indices of the frames of the clips.

        Args:
            num_frames: frames of the video, at least 1.
            generator: source of randomness; needed in training only.

        Returns:
            int64 (clips * num_segments * frames_per_segment,), each in 0 ... num_frames-1.

        Raises:
            ValueError: num_frames is below 1, training without a generator, or a video that ``symmetric``
                sampling cannot do: an odd number of segments on an even number of places, which has no middle
                one, or a video shorter than a run.
        """
        if num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, got {num_frames}")
        if not self.training:
            generator = None
        elif generator is None:
            raise ValueError("generator: training needs a random generator")
        return _runs(self._starts(num_frames, generator), self.frames_per_segment, num_frames)

    def _starts(self, num_frames: int, generator: np.random.Generator | None) -> Indices:
        """Return the first frame of each run; a generator is given in training only."""
        raise NotImplementedError


@dataclass(frozen=True)
class UniformSampling(_Sampling):
    """Cut a video into equal segments and take one frame, or a run of consecutive frames, of each.

    With n frames, s segments and runs of l frames there are m = n - l + 1 places for a run to start; with
    d = m // s a run starts at:

    - training: i*d + randint(d) for segment i. Where d is 0, s places drawn from all m and sorted if n > s,
      and otherwise frame 0, as TSN and TSM do.
    - testing: the segments' centres, int(t/2 + t*i) with t = m/s, which repeats frames where m < s. The
      published code computes this in double precision, where a whole number may come out just below itself,
      and so does this.

    A run that reaches the video's end repeats its last frame. Test clips beyond the first are shifted by
    equal shares of a segment: clip c of C starts its runs at int(t*((1/2 - c/C) mod 1) + t*i). For two clips
    these are TSM's "twice sampled" ones, the centres and the segments' starts; more are our choice.

    With ``symmetric`` the runs of a test clip are mirror images in time (frames k and s*l-1-k add up to n-1),
    and a training clip of the video played backwards has the same distribution as the reversed training clip,
    so that the sampling adds no cue to the direction of time. Videos with m < s are then sampled as in
    testing; one shorter than a run is refused.

    Args:
        num_segments: segments s.
        training: random places instead of the centres.
        symmetric: see above.
        frames_per_segment: consecutive frames l of each segment; a clip has s*l frames.
        clips: test clips C of a video, one after the other in the indices.

    Raises:
        TypeError: a count is not a whole number.
        ValueError: a count is below 1, or several clips are asked for in training or with ``symmetric``.

    TSM's validation during training (its ``_get_val_indices``) differs for short videos: frame 0 for all
    segments where n <= s + l - 1 for runs of l frames. Here its rule of tests (``_get_test_indices``) holds for
    both, so that a network is followed by what it is then tested on.

    Source: Wang et al., Temporal Segment Networks, ECCV 2016 (``new_length`` of its code); Lin et al., TSM,
        ICCV 2019; Huang, thesis, 5.5.1 (3 frames a segment for BQN).

    Example:
        >>> UniformSampling(4, training=False)(16).tolist()
        [2, 6, 10, 14]
        >>> UniformSampling(4, training=False, symmetric=True)(16).tolist()
        [2, 6, 9, 13]
        >>> UniformSampling(2, training=False, frames_per_segment=3)(16).tolist()
        [3, 4, 5, 10, 11, 12]
    """

    num_segments: int
    training: bool
    symmetric: bool = False
    frames_per_segment: int = 1
    clips: int = 1

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        if self.clips > 1 and (self.training or self.symmetric):
            kind = "training" if self.training else "symmetric sampling"
            raise ValueError(f"clips must be 1 for {kind}, got {self.clips}")

    def _starts(self, num_frames: int, generator: np.random.Generator | None) -> Indices:
        places = num_frames - self.frames_per_segment + 1
        if self.symmetric and places < 1:
            raise ValueError(
                f"num_frames: symmetric sampling of runs of {self.frames_per_segment} frames needs at least as"
                f" many, got {num_frames}"
            )
        if generator is not None:
            return self._random(num_frames, places, generator)
        if self.symmetric:
            return self._mirrored(places)
        return np.concatenate([self._centres(places, c) for c in range(self.clips)])

    def _random(self, num_frames: int, places: int, generator: np.random.Generator) -> Indices:
        segments = self.num_segments
        length = places // segments
        if length < 1:
            if self.symmetric:
                return self._mirrored(places)
            if num_frames > segments and places > 0:
                return np.sort(generator.integers(places, size=segments))
            return np.zeros(segments, dtype=np.int64)
        jitter = generator.integers(length, size=segments)
        start = 0
        if self.symmetric:
            # The places left over go half before and half after; an odd one falls on either side at random.
            rest = places - length * segments
            start = (rest + int(generator.integers(2)) * (rest % 2)) // 2
        return start + np.arange(segments, dtype=np.int64) * length + jitter

    def _centres(self, places: int, clip: int) -> Indices:
        tick = places / float(self.num_segments)
        shift = tick * ((0.5 - clip / self.clips) % 1)
        # Below 0 only for a video shorter than a run, where the published code asks for frames before the first.
        return np.array([max(0, int(shift + tick * i)) for i in range(self.num_segments)], dtype=np.int64)

    def _mirrored(self, places: int) -> Indices:
        segments = self.num_segments
        if segments % 2 and places % 2 == 0:
            raise ValueError(
                f"num_segments: symmetric sampling of {places} frames (an even number) needs an even "
                f"number of segments, got {segments}"
            )
        centres = (2 * np.arange(segments, dtype=np.int64) + 1) * places // (2 * segments)
        half = segments // 2
        centres[segments - half :] = places - 1 - centres[:half][::-1]
        return centres


@dataclass(frozen=True)
class DenseSampling(_Sampling):
    """Take frames at a fixed stride out of a window of the video, as I3D and TSM do on Kinetics.

    With n frames, s segments and a window of w frames the stride is w // s and the window may start at the
    frames 0 ... n-w. Frame i of a clip is (start + i*stride) mod n, so that a video shorter than the window
    is gone through again from its beginning. The start is:

    - training: randint(n-w), which as in the published code never draws the last place; 0 where n <= w.
    - testing: ``clips`` equally spaced places from the first to the last, rounded down; TSM takes 10. For a
      single clip it is the middle place, (n-w) // 2, which is our choice: the published rule for one would
      be the first, and the published validation draws at random.

    Args:
        num_segments: frames s of a clip, or runs with ``frames_per_segment``.
        training: a random window instead of equally spaced ones.
        frames_per_segment: consecutive frames from each place on; past the end the last one repeats.
        clips: test clips of a video, one after the other in the indices.
        window: frames w.

    Raises:
        TypeError: a count is not a whole number.
        ValueError: a count is below 1, there are more segments than frames in the window, or several clips
            are asked for in training.

    Source: Lin et al., TSM, ICCV 2019, and its code (``dense_sample``).

    Example:
        >>> DenseSampling(4, training=False)(100).tolist()
        [18, 34, 50, 66]
        >>> DenseSampling(4, training=False, clips=2)(100).tolist()
        [0, 16, 32, 48, 36, 52, 68, 84]
    """

    num_segments: int
    training: bool
    frames_per_segment: int = 1
    clips: int = 1
    window: int = 64

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        _check_whole("window", self.window)
        if self.num_segments > self.window:
            raise ValueError(
                f"num_segments must be at most the window's {self.window} frames, got {self.num_segments}"
            )
        if self.clips > 1 and self.training:
            raise ValueError(f"clips must be 1 for training, got {self.clips}")

    def _starts(self, num_frames: int, generator: np.random.Generator | None) -> Indices:
        last = max(0, num_frames - self.window)
        if generator is not None:
            starts = [int(generator.integers(last)) if last else 0]
        elif self.clips == 1:
            starts = [last // 2]
        else:
            starts = np.linspace(0, last, num=self.clips, dtype=int).tolist()
        steps = np.arange(self.num_segments, dtype=np.int64) * (self.window // self.num_segments)
        return np.concatenate([(steps + start) % num_frames for start in starts])


@dataclass(frozen=True)
class ShuffledSampling:
    """Take the frames of another sampling, those of each clip in an order drawn at random.

    A control: what a network still tells of such clips it tells from single frames. On the motion dataset, whose pairs
    of classes are each other's reversal, any network must fall to chance within pairs.

    Args:
        sampling: which frames are taken, in training or in testing.

    Source: ours.

    Example:
        >>> shuffled = ShuffledSampling(UniformSampling(4, training=False))
        >>> sorted(shuffled(16, np.random.default_rng(0)).tolist())
        [2, 6, 10, 14]
    """

    sampling: UniformSampling | DenseSampling

    def __call__(self, num_frames: int, generator: np.random.Generator | None = None) -> Indices:
        """Return the indices of the frames of the clips, as the sampling does but for their order.

        Args:
            num_frames: frames of the video, at least 1.
            generator: source of randomness, needed in testing too.

        Returns:
            int64 (clips * num_segments * frames_per_segment,), each in 0 ... num_frames-1.

        Raises:
            ValueError: there is no generator, or the sampling refuses the video.
        """
        if generator is None:
            raise ValueError("generator: an order at random needs a random generator")
        clips = self.sampling(num_frames, generator).reshape(self.sampling.clips, -1)
        return generator.permuted(clips, axis=1).reshape(-1)
