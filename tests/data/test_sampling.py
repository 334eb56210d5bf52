from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidops.data import DenseSampling, UniformSampling

SIZES = st.integers(1, 200)


# Worked by hand: floor((2i + 1) n / 2s), the centre of the i-th of s segments of n frames.
@pytest.mark.parametrize(
    "frames, segments, expected",
    [
        (8, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (16, 8, [1, 3, 5, 7, 9, 11, 13, 15]),
        (100, 8, [6, 18, 31, 43, 56, 68, 81, 93]),
        (10, 3, [1, 5, 8]),
        (32, 3, [5, 16, 26]),
        (7, 1, [3]),
        (5, 8, [0, 0, 1, 2, 2, 3, 4, 4]),  # shorter than its segments: frames repeat
        (1, 4, [0, 0, 0, 0]),
        (9, 6, [0, 2, 3, 5, 6, 8]),  # 0.75 2.25 3.75 5.25 6.75 8.25
    ],
)
def test_centres(frames, segments, expected):
    assert UniformSampling(segments, training=False)(frames).tolist() == expected


# Worked by hand: the first half as above, the second its mirror image n-1-i.
@pytest.mark.parametrize(
    "frames, segments, expected",
    [
        (8, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (16, 8, [1, 3, 5, 7, 8, 10, 12, 14]),
        (10, 4, [1, 3, 6, 8]),
        (9, 3, [1, 4, 7]),
        (11, 3, [1, 5, 9]),
        (3, 4, [0, 1, 1, 2]),
        (1, 2, [0, 0]),
    ],
)
def test_symmetric_centres(frames, segments, expected):
    assert UniformSampling(segments, training=False, symmetric=True)(frames).tolist() == expected


def test_an_even_video_has_no_middle_frame():
    with pytest.raises(ValueError, match=r"symmetric sampling of 8 frames .* even number of segments, got 3"):
        UniformSampling(3, training=False, symmetric=True)(8)


@given(frames=SIZES, segments=SIZES, symmetric=st.booleans())
def test_centres_stay_inside_in_order_and_mirror(frames, segments, symmetric):
    if symmetric and segments % 2 and frames % 2 == 0:
        segments += 1
    indices = UniformSampling(segments, training=False, symmetric=symmetric)(frames)
    assert indices.shape == (segments,)
    assert indices.dtype == np.int64
    assert indices[0] >= 0
    assert indices[-1] < frames
    assert (np.diff(indices) >= 0).all()
    if symmetric:
        np.testing.assert_array_equal(indices + indices[::-1], np.full(segments, frames - 1))


@given(frames=SIZES, segments=st.integers(1, 40), seed=st.integers(0, 5))
def test_training_takes_one_frame_of_each_segment(frames, segments, seed):
    indices = UniformSampling(segments, training=True)(frames, np.random.default_rng(seed))
    length = frames // segments
    if length == 0:
        assert indices.tolist() == [0] * segments  # the published rule for short videos
    else:
        assert (indices // length).tolist() == list(range(segments))


def counts(frames: int, segments: int, symmetric: bool) -> Counter[tuple[int, ...]]:
    rng = np.random.default_rng(0)
    sampling = UniformSampling(segments, training=True, symmetric=symmetric)
    return Counter(tuple(sampling(frames, rng).tolist()) for _ in range(6000))


def test_training_covers_each_choice_equally():
    found = counts(7, 2, symmetric=False)  # d = 3: {0,1,2} x {3,4,5}, frame 6 is never used
    assert set(found) == {(i, j) for i in range(3) for j in range(3, 6)}
    assert all(abs(n - 6000 / 9) < 4 * (6000 / 9) ** 0.5 for n in found.values())


def test_symmetric_training_is_equally_likely_backwards():
    found = counts(7, 2, symmetric=True)
    assert set(found) == {(i, j) for i in range(3) for j in range(3, 6)} | {
        (i, j) for i in range(1, 4) for j in range(4, 7)
    }
    for (i, j), n in found.items():
        mirrored = found[(6 - j, 6 - i)]
        assert abs(n - mirrored) < 4 * (n + mirrored) ** 0.5


@pytest.mark.parametrize("frames", [3, 5])
def test_symmetric_training_of_short_videos(frames):
    sampling = UniformSampling(8, training=True, symmetric=True)
    indices = sampling(frames, np.random.default_rng(0))
    np.testing.assert_array_equal(indices + indices[::-1], np.full(8, frames - 1))


def test_wrong_arguments():
    with pytest.raises(ValueError, match="num_segments must be at least 1, got 0"):
        UniformSampling(0, training=True)
    for wrong in (1.5, True, "8"):
        with pytest.raises(TypeError, match="num_segments must be a whole number"):
            UniformSampling(wrong, training=True)
    with pytest.raises(ValueError, match="num_frames must be at least 1, got 0"):
        UniformSampling(8, training=False)(0)
    with pytest.raises(ValueError, match="training needs a random generator"):
        UniformSampling(8, training=True)(20)


class Script:
    """A generator that gives the numbers it was told and notes the bound of each draw."""

    def __init__(self, *numbers: int) -> None:
        self.numbers, self.bounds = list(numbers), []

    def integers(self, high: int, size: int | None = None):
        self.bounds.append(high)
        taken = [self.numbers.pop(0) for _ in range(size or 1)]
        assert all(0 <= n < high for n in taken)
        return np.array(taken) if size else taken[0]


def run3(*starts: int) -> list[int]:
    return [start + i for start in starts for i in range(3)]


# Worked by hand from the published rule (new_length l): m = n - l + 1 places, d = m // s, i*d + draw of d; for
# d = 0 and n > s sorted draws of m; else 0. A run repeats the last frame past the end.
@pytest.mark.parametrize(
    "frames, segments, length, draws, expected",
    [
        (20, 4, 1, [0, 4, 2, 3], [0, 9, 12, 18]),  # d = 5
        (23, 4, 1, [4, 4, 4, 4], [4, 9, 14, 19]),  # the three frames left over are never drawn
        (4, 4, 1, [0, 0, 0, 0], [0, 1, 2, 3]),
        (3, 4, 1, [], [0, 0, 0, 0]),
        (20, 4, 3, [0, 3, 1, 2], run3(0, 7, 9, 14)),  # m = 18, d = 4
        (6, 4, 3, [0, 0, 0, 0], run3(0, 1, 2, 3)),  # m = 4, d = 1
        (5, 4, 3, [2, 0, 1, 0], run3(0, 0, 1, 2)),  # m = 3: sorted draws
        (4, 4, 3, [], run3(0, 0, 0, 0)),  # m = 2, but not more frames than segments
        (3, 2, 3, [0, 0], run3(0, 0)),  # m = 1
        (2, 4, 3, [], [0, 1, 1] * 4),  # shorter than a run
        (1, 2, 3, [], [0] * 6),
        (6, 4, 8, [], [0, 1, 2, 3, 4, 5, 5, 5] * 4),  # m < 0, where the published code stops
    ],
)
def test_training_by_hand(frames, segments, length, draws, expected):
    script = Script(*draws)
    sampling = UniformSampling(segments, training=True, frames_per_segment=length)
    assert sampling(frames, script).tolist() == expected
    assert script.numbers == []


# Worked by hand: starts int(t/2 + t i) with t = m / s.
@pytest.mark.parametrize(
    "frames, segments, length, expected",
    [
        (20, 4, 3, run3(2, 6, 11, 15)),  # t = 4.5: 2.25 6.75 11.25 15.75
        (6, 4, 3, run3(0, 1, 2, 3)),  # t = 1: 0.5 1.5 2.5 3.5
        (5, 4, 3, run3(0, 1, 1, 2)),  # t = 0.75: 0.375 1.125 1.875 2.625
        (3, 2, 3, run3(0, 0)),  # t = 0.5: 0.25 0.75
        (2, 2, 3, [0, 1, 1, 0, 1, 1]),  # t = 0
        (
            4,
            4,
            2,
            [0, 1, 1, 2, 1, 2, 2, 3],
        ),  # t = 0.75; TSM's _get_val_indices has frame 0 for all, n <= s + l - 1
        (1, 2, 3, [0, 0, 0, 0, 0, 0]),  # t = -0.5: -0.25 -0.75, which truncate to 0
        (2, 2, 8, [0, 1, 1, 1, 1, 1, 1, 1] * 2),  # t = -2.5: -1.25 -3.75, taken as 0
        (120, 8, 8, [s + i for s in (7, 21, 35, 49, 63, 77, 91, 105) for i in range(8)]),  # t = 14.125
    ],
)
def test_runs_at_the_centres_by_hand(frames, segments, length, expected):
    sampling = UniformSampling(segments, training=False, frames_per_segment=length)
    assert sampling(frames).tolist() == expected


# Worked by hand: d = m // s, r = m - d s places left over, half of them before the first segment (of an odd number
# one more if the second draw is 1); too short for s places: the mirrored centres, floor((2i+1) m / 2s) and back.
@pytest.mark.parametrize(
    "frames, segments, length, draws, expected",
    [
        (8, 4, 1, [0, 1, 1, 0, 0], [0, 3, 5, 6]),  # d = 2, r = 0
        (10, 4, 1, [0, 1, 1, 0, 1], [1, 4, 6, 7]),  # d = 2, r = 2
        (11, 4, 1, [0, 1, 1, 0, 0], [1, 4, 6, 7]),  # d = 2, r = 3: 1 before
        (11, 4, 1, [0, 1, 1, 0, 1], [2, 5, 7, 8]),  # 2 before
        (4, 4, 1, [0, 0, 0, 0, 1], [0, 1, 2, 3]),
        (3, 4, 1, [], [0, 1, 1, 2]),  # 0.375 1.125, then 2 - those
        (13, 4, 3, [1, 0, 1, 0, 0], run3(2, 3, 6, 7)),  # m = 11, d = 2, r = 3
        (5, 4, 3, [], run3(0, 1, 1, 2)),  # m = 3
    ],
)
def test_symmetric_training_by_hand(frames, segments, length, draws, expected):
    script = Script(*draws)
    sampling = UniformSampling(segments, training=True, symmetric=True, frames_per_segment=length)
    assert sampling(frames, script).tolist() == expected
    assert script.numbers == []


# Worked by hand: the mirrored centres of the m = n - l + 1 places.
@pytest.mark.parametrize(
    "frames, segments, expected",
    [
        (18, 4, run3(2, 6, 9, 13)),  # m = 16: 2 6, then 15 - those
        (11, 3, run3(1, 4, 7)),  # m = 9: 1.5 4.5, 8 - 1
        (6, 4, run3(0, 1, 2, 3)),  # m = 4
        (4, 4, run3(0, 0, 1, 1)),  # m = 2: 0.25 0.75
        (3, 2, run3(0, 0)),  # m = 1
    ],
)
def test_symmetric_runs_by_hand(frames, segments, expected):
    sampling = UniformSampling(segments, training=False, symmetric=True, frames_per_segment=3)
    assert sampling(frames).tolist() == expected


def test_centres_are_those_of_the_published_arithmetic():
    """At n = 6, s = 7 the fourth centre is 3, but the published doubles give 2.9999999999999996."""
    assert UniformSampling(7, training=False)(6).tolist() == [0, 1, 2, 2, 3, 4, 5]
    for frames in range(1, 150):
        for segments in (3, 5, 7, 8, 25):
            tick = frames / float(segments)
            expected = [int(tick / 2.0 + tick * x) for x in range(segments)]
            assert UniformSampling(segments, training=False)(frames).tolist() == expected


# Worked by hand: the centres, then int(t i); for more clips starts shifted by equal shares of a segment.
@pytest.mark.parametrize(
    "frames, segments, clips, expected",
    [
        (20, 4, 2, [[2, 7, 12, 17], [0, 5, 10, 15]]),
        (10, 4, 2, [[1, 3, 6, 8], [0, 2, 5, 7]]),  # t = 2.5
        (4, 4, 2, [[0, 1, 2, 3], [0, 1, 2, 3]]),
        (3, 4, 2, [[0, 1, 1, 2], [0, 0, 1, 2]]),  # t = 0.75
        (32, 4, 4, [[4, 12, 20, 28], [2, 10, 18, 26], [0, 8, 16, 24], [6, 14, 22, 30]]),
    ],
)
def test_several_clips_by_hand(frames, segments, clips, expected):
    sampling = UniformSampling(segments, training=False, clips=clips)
    assert sampling(frames).reshape(clips, segments).tolist() == expected


# Worked by hand: t = m / s, clip c starts its runs at int(t ((1/2 - c/C) mod 1) + t i).
@pytest.mark.parametrize(
    "frames, segments, clips, expected",
    [
        (18, 2, 2, [run3(4, 12), run3(0, 8)]),  # t = 8
        (4, 2, 2, [run3(0, 1), run3(0, 1)]),  # t = 1
        (3, 2, 2, [run3(0, 0), run3(0, 0)]),  # t = 0.5
        (2, 2, 2, [[0, 1, 1] * 2] * 2),  # t = 0
        (20, 3, 3, [run3(3, 9, 15), run3(1, 7, 13), run3(5, 11, 17)]),  # t = 6: shares 1/2, 1/6, 5/6
    ],
)
def test_runs_of_several_clips_by_hand(frames, segments, clips, expected):
    sampling = UniformSampling(segments, training=False, clips=clips, frames_per_segment=3)
    assert sampling(frames).reshape(clips, -1).tolist() == expected


# Worked by hand: (start + i * (64 // s)) mod n from ten starts, equally spaced from 0 to n - 64.
@pytest.mark.parametrize(
    "frames, segments, starts, first, last",
    [
        (
            100,
            8,
            [0, 4, 8, 12, 16, 20, 24, 28, 32, 36],
            [0, 8, 16, 24, 32, 40, 48, 56],
            [36, 44, 52, 60, 68, 76, 84, 92],
        ),
        (
            70,
            8,
            [0, 0, 1, 2, 2, 3, 4, 4, 5, 6],
            [0, 8, 16, 24, 32, 40, 48, 56],
            [6, 14, 22, 30, 38, 46, 54, 62],
        ),
        (64, 8, [0] * 10, [0, 8, 16, 24, 32, 40, 48, 56], [0, 8, 16, 24, 32, 40, 48, 56]),
        (40, 8, [0] * 10, [0, 8, 16, 24, 32, 0, 8, 16], [0, 8, 16, 24, 32, 0, 8, 16]),
        (10, 5, [0] * 10, [0, 2, 4, 6, 8], [0, 2, 4, 6, 8]),  # stride 12
        (1, 5, [0] * 10, [0] * 5, [0] * 5),
        (300, 3, [0, 26, 52, 78, 104, 131, 157, 183, 209, 236], [0, 21, 42], [236, 257, 278]),
    ],
)
def test_dense_clips_by_hand(frames, segments, starts, first, last):
    clips = DenseSampling(segments, training=False, clips=10)(frames).reshape(10, segments).tolist()
    assert [clip[0] for clip in clips] == starts
    assert clips[0] == first
    assert clips[-1] == last


# The published draw is randint(0, n - 64), whose upper end is never drawn, and none where n <= 64.
@pytest.mark.parametrize(
    "frames, draws, bounds, expected",
    [
        (100, [35], [36], [35, 51, 67, 83]),
        (66, [1], [2], [1, 17, 33, 49]),
        (65, [0], [1], [0, 16, 32, 48]),
        (64, [], [], [0, 16, 32, 48]),
        (20, [], [], [0, 16, 12, 8]),
    ],
)
def test_dense_training_by_hand(frames, draws, bounds, expected):
    script = Script(*draws)
    assert DenseSampling(4, training=True)(frames, script).tolist() == expected
    assert script.bounds == bounds


# Worked by hand: as above with a window of 8, a stride of 8 // 3 = 2, and runs that end with the video.
@pytest.mark.parametrize(
    "frames, clips, draws, expected",
    [
        (12, None, [3], run3(3, 5, 7)),  # longer: drawn of 4
        (8, None, [], run3(0, 2, 4)),  # as long as the window
        (5, None, [], [0, 1, 2, 2, 3, 4, 4, 4, 4]),  # shorter: frame 4, then the last again
        (3, None, [], [0, 1, 2, 2, 2, 2, 1, 2, 2]),  # frames 0, 2 and 4 mod 3
        (12, 1, [], run3(2, 4, 6)),
        (12, 3, [], [*run3(0, 2, 4), *run3(2, 4, 6), *run3(4, 6, 8)]),
        (9, 2, [], [*run3(0, 2, 4), *run3(1, 3, 5)]),
        (8, 2, [], run3(0, 2, 4) * 2),
        (5, 2, [], [0, 1, 2, 2, 3, 4, 4, 4, 4] * 2),
    ],
)
def test_dense_runs_by_hand(frames, clips, draws, expected):
    script = Script(*draws)
    sampling = DenseSampling(3, clips is None, frames_per_segment=3, clips=clips or 1, window=8)
    assert sampling(frames, script).tolist() == expected
    assert script.bounds == [4] * len(draws)


def test_dense_runs_and_single_clip():
    assert DenseSampling(2, training=False, frames_per_segment=3)(66).tolist() == run3(1, 33)
    assert DenseSampling(2, training=False, frames_per_segment=3)(34).tolist() == [0, 1, 2, 32, 33, 33]
    assert DenseSampling(8, training=False)(100).tolist() == [18, 26, 34, 42, 50, 58, 66, 74]
    assert DenseSampling(4, training=False, window=8)(20).tolist() == [6, 8, 10, 12]


@given(frames=SIZES, segments=st.integers(1, 20), length=st.integers(1, 12), seed=st.integers(0, 3))
def test_every_sampling_stays_inside(frames, segments, length, seed):
    for kind in (UniformSampling, DenseSampling):
        for clips in (None, 1, 3):
            sampling = kind(segments, clips is None, frames_per_segment=length, clips=clips or 1)
            indices = sampling(frames, np.random.default_rng(seed))
            assert indices.shape == ((clips or 1) * segments * length,)
            assert indices.dtype == np.int64
            assert 0 <= indices.min() <= indices.max() < frames
            # a run is consecutive until the video ends
            runs = indices.reshape(-1, length)
            expected = np.minimum(runs[:, :1] + np.arange(length), frames - 1)
            np.testing.assert_array_equal(runs, expected)


@given(frames=SIZES, segments=st.integers(1, 20), length=st.integers(1, 12))
def test_symmetric_runs_mirror(frames, segments, length):
    sampling = UniformSampling(2 * segments, training=False, symmetric=True, frames_per_segment=length)
    if frames < length:
        with pytest.raises(ValueError, match="needs at least as many"):
            sampling(frames)
        return
    indices = sampling(frames)
    np.testing.assert_array_equal(indices + indices[::-1], np.full(len(indices), frames - 1))


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: UniformSampling(8, True, clips=2), "clips must be 1 for training, got 2"),
        (
            lambda: UniformSampling(8, False, symmetric=True, clips=2),
            "clips must be 1 for symmetric sampling",
        ),
        (lambda: UniformSampling(8, False, frames_per_segment=0), "frames_per_segment must be at least 1"),
        (lambda: DenseSampling(8, True, clips=10), "clips must be 1 for training, got 10"),
        (lambda: DenseSampling(65, True), "num_segments must be at most the window's 64 frames, got 65"),
        (lambda: DenseSampling(8, True)(30), "training needs a random generator"),
        (lambda: DenseSampling(8, False)(0), "num_frames must be at least 1"),
    ],
)
def test_wrong_combinations(make, match):
    with pytest.raises(ValueError, match=match):
        make()
