from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from vidops.data.transforms import (
    Compose,
    Normalize,
    TrainCrops,
    crop_positions,
    crop_sizes,
    resize,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def noise(frames=4, height=60, width=80) -> np.ndarray:
    return rng(1).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def ramp(frames=3, height=64, width=64) -> np.ndarray:
    """Every pixel tells its column (red), row (green) and frame (blue)."""
    out = np.zeros((frames, height, width, 3), np.uint8)
    out[..., 0] = np.arange(width)
    out[..., 1] = np.arange(height)[:, None]
    out[..., 2] = np.arange(frames)[:, None, None]
    return out


# By hand, 256x340 frames: 256, 224, 192, 168; neighbours only.
def test_crop_sizes_by_hand():
    assert crop_sizes(256, 224, (1, 0.875, 0.75, 0.66)) == [
        (256, 256), (256, 224),
        (224, 256), (224, 224), (224, 192),
        (192, 224), (192, 192), (192, 168),
        (168, 192), (168, 168),
    ]  # fmt: skip


def test_a_crop_close_to_the_input_size_is_made_that_size():
    assert crop_sizes(258, 224, (0.875,)) == [(224, 224)]  # 225
    assert crop_sizes(50, 48, (1, 0.96)) == [(48, 48)] * 4
    assert crop_sizes(46, 48, (1,)) == [(46, 46)]  # never larger than the frame


# By hand, 240x320 frames, 224x192 crops: steps of (240-224)/4 = 4 and (320-192)/4 = 32.
def test_crop_positions_by_hand():
    assert set(crop_positions(240, 320, 224, 192)) == {
        (0, 0), (0, 128), (16, 0), (16, 128), (8, 64),
        (8, 0), (8, 128), (16, 64), (0, 64),
        (4, 32), (4, 96), (12, 32), (12, 96),
    }  # fmt: skip


def test_training_crops_reach_every_size_and_position_and_stay_inside():
    crops = TrainCrops(64, flip=False, scales=(1, 0.5))
    frames = ramp(1, 64, 96)
    seen = Counter()
    for seed in range(400):
        out = crops(frames, rng(seed)).float()
        assert out.shape == (1, 64, 64, 3)
        left, right = out[0, 0, 0, 0].item(), out[0, 0, -1, 0].item()
        top, bottom = out[0, 0, 0, 1].item(), out[0, -1, 0, 1].item()
        assert 0 <= left < right <= 95
        assert 0 <= top < bottom <= 63
        seen[round((right - left + 1) / 32), round((bottom - top + 1) / 32), round(left), round(top)] += 1
    assert {(w, h) for w, h, *_ in seen} == {(1, 1), (1, 2), (2, 1), (2, 2)}
    assert len({place[2:] for place in seen if place[:2] == (1, 1)}) == 13


def test_all_frames_share_the_crop_and_the_flip():
    frames = np.repeat(noise(1), 5, axis=0)
    crops = TrainCrops(48, flip=True)
    for seed in range(20):
        out = crops(frames, rng(seed))
        assert (out == out[:1]).all()


def test_flip():
    frames = ramp()
    plain, flips = TrainCrops(32, flip=False, scales=(0.5,)), TrainCrops(32, flip=True, scales=(0.5,))
    mirrored = 0
    for seed in range(200):
        a, b = plain(frames, rng(seed)), flips(frames, rng(seed))
        assert a[0, 0, 0, 0] < a[0, 0, -1, 0]  # never mirrored
        if not torch.equal(a, b):
            assert torch.equal(a.flip(2), b)
            mirrored += 1
    assert abs(mirrored - 100) < 3 * 50**0.5


@pytest.mark.parametrize("height, width", [(30, 40), (17, 23), (120, 100)])
def test_resize_agrees_with_pillow(height, width):
    frames = noise()
    ours = resize(torch.from_numpy(frames), height, width).numpy().astype(int)
    theirs = [Image.fromarray(f).resize((width, height), Image.Resampling.BILINEAR) for f in frames]
    assert np.abs(ours - np.stack([np.asarray(t) for t in theirs]).astype(int)).max() <= 1


def test_normalize_by_hand():
    frames = np.zeros((2, 1, 1, 3), np.uint8)
    frames[1, 0, 0] = [255, 51, 102]
    clip = Normalize([0.5, 0.2, 0.0], [0.5, 0.1, 0.2])(frames, rng())
    assert clip.shape == (3, 2, 1, 1)
    assert clip.dtype == torch.float32
    assert clip.is_contiguous()
    torch.testing.assert_close(clip[:, 0, 0, 0], torch.tensor([-1.0, -2.0, 0.0]))
    torch.testing.assert_close(clip[:, 1, 0, 0], torch.tensor([1.0, 0.0, 2.0]))


def test_compose_is_deterministic_and_leaves_its_input_alone():
    frames = noise()
    before = frames.copy()
    transform = Compose([TrainCrops(48, flip=True), Normalize([0.5] * 3, [0.25] * 3)])
    assert torch.equal(transform(frames, rng(3)), transform(torch.from_numpy(frames), rng(3)))
    assert not torch.equal(transform(frames, rng(3)), transform(frames, rng(4)))
    np.testing.assert_array_equal(frames, before)


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: TrainCrops(0, flip=False), "size must be a whole number of at least 1, got 0"),
        (lambda: TrainCrops(8, flip=False, scales=()), "scales must lie in"),
        (lambda: TrainCrops(8, flip=False, scales=(1.2,)), "scales must lie in"),
        (lambda: Normalize([0.5], [0.5]), "three numbers each"),
        (lambda: Normalize([0.5] * 3, [0.5, 0, 1]), "std must be above 0"),
        (
            lambda: TrainCrops(8, flip=False)(np.zeros((8, 8, 3), np.uint8), rng()),
            r"shape \(T, H, W, 3\), got \(8, 8, 3\)",
        ),
        (lambda: TrainCrops(8, flip=False)(np.zeros((0, 8, 8, 3), np.uint8), rng()), "shape"),
    ],
)
def test_wrong_values(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_wrong_types():
    with pytest.raises(TypeError, match=r"frames must be a uint8 array .* got float32"):
        TrainCrops(8, flip=False)(np.zeros((2, 8, 8, 3), np.float32), rng())
    with pytest.raises(TypeError, match="got list"):
        TrainCrops(8, flip=False)([1, 2], rng())
