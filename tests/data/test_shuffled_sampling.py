from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from vidops.data import DenseSampling, ShuffledSampling, UniformSampling


@pytest.mark.parametrize(
    "sampling",
    [
        UniformSampling(4, training=False, frames_per_segment=2, clips=2),
        UniformSampling(6, training=True),
        DenseSampling(8, training=False, clips=3, window=32),
    ],
)
def test_shuffled_clips_keep_their_frames(sampling):
    found = [ShuffledSampling(sampling)(40, np.random.default_rng(7)) for _ in range(2)]
    np.testing.assert_array_equal(*found)
    plain = sampling(40, np.random.default_rng(7)).reshape(sampling.clips, -1)
    clips = found[0].reshape(sampling.clips, -1)
    assert (clips != plain).any(axis=1).all()
    np.testing.assert_array_equal(np.sort(clips), np.sort(plain))


def test_every_order_of_shuffled_frames_is_as_likely():
    generator, shuffled = np.random.default_rng(0), ShuffledSampling(UniformSampling(3, training=False))
    orders = Counter(tuple(shuffled(3, generator).tolist()) for _ in range(6000))
    assert len(orders) == 6
    assert max(abs(count - 1000) for count in orders.values()) < 5 * (6000 / 6 * 5 / 6) ** 0.5


def test_an_order_at_random_needs_a_generator():
    with pytest.raises(ValueError, match="generator: an order at random needs a random"):
        ShuffledSampling(DenseSampling(8, False))(30)
