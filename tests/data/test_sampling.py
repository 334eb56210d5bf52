from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidops.data import UniformSampling

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
