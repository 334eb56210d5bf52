"""Views of a test video, crops of random size, classes that mirror each other."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from vidops.data import MOTION_PAIRS, SpatialCrops, Views, mirrored_classes
from vidops.data.transforms import Normalize, RandomResizeCrop
from vidops.data.views import usual_short_side


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def grid(frames: int, height: int, width: int) -> np.ndarray:
    """Pixels that say where they are: (frame, row, column)."""
    t, y, x = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    return np.stack([t, y, x], -1).astype(np.uint8)


def corner(crop: torch.Tensor) -> tuple[int, int]:
    """Row and column of the crop's first pixel in the frame."""
    return int(crop[0, 0, 0, 1]), int(crop[0, 0, 0, 2])


def cuts(height: int, width: int, size: int, crops: int) -> list[tuple[int, int]]:
    found = SpatialCrops(size, min(height, width), crops)(grid(2, height, width))
    for crop in found:
        assert crop.shape == (2, size, size, 3)
        step = crop[0, 0, 1, 2].int() - crop[0, 0, 0, 2].int()
        assert (crop[..., 2].int().diff(dim=2) == step).all()
        assert (crop[..., 1].int().diff(dim=1) == 1).all()
        assert crop[1, 0, 0, 0] == 1
    return [corner(crop) for crop in found]


# Worked by hand, (top, left).
@pytest.mark.parametrize(
    "height, width, size, crops, expected",
    [
        (30, 40, 20, 1, [(5, 10)]),
        (30, 41, 20, 3, [(5, 0), (5, 10), (5, 21)]),
        (41, 30, 20, 3, [(0, 5), (10, 5), (21, 5)]),
        (20, 20, 20, 3, [(0, 0)] * 3),
        (20, 33, 20, 3, [(0, 0), (0, 6), (0, 13)]),
        (
            30,
            40,
            20,
            10,
            [(0, 0), (0, 20), (10, 0), (10, 20), (5, 10), (0, 19), (0, 39), (10, 19), (10, 39), (5, 29)],
        ),
    ],
)
def test_crops_by_hand(height, width, size, crops, expected):
    assert cuts(height, width, size, crops) == expected


def test_the_short_side_is_resized_before_the_cut():
    (crop,) = SpatialCrops(32, 64)(grid(2, 128, 192))
    assert crop.shape == (2, 32, 32, 3)
    # of 64 x 96 the crop starts at (16, 32): in the whole frame between 32 and 33, and 64 and 65
    assert corner(crop) in {(y, x) for y in (32, 33) for x in (64, 65)}
    (crop,) = SpatialCrops(20, 30)(grid(2, 90, 61))
    assert crop.shape == (2, 20, 20, 3)
    assert usual_short_side(224) == 256
    assert usual_short_side(48) == 55


def test_last_five_of_ten_are_the_first_five_mirrored():
    found = SpatialCrops(12, 16, 10)(rng().integers(0, 256, (2, 16, 24, 3), dtype=np.uint8))
    for crop, mirrored in zip(found[:5], found[5:], strict=True):
        assert torch.equal(crop.flip(2), mirrored)


@pytest.mark.parametrize("crops, clips", [(1, 1), (1, 4), (3, 1), (3, 2), (10, 5)])
def test_views_are_clip_by_clip(crops, clips):
    cut, normalize = SpatialCrops(8, 8, crops), Normalize([0.0] * 3, [1.0] * 3)
    frames = rng().integers(0, 256, (3 * clips, 8, 12, 3), dtype=np.uint8)
    got = Views(cut, clips, normalize)(frames, rng())
    alone = [normalize(crop, rng()) for c in range(clips) for crop in cut(frames[3 * c : 3 * c + 3])]
    assert got.shape == ((3, 3, 8, 8) if crops * clips == 1 else (crops * clips, 3, 3, 8, 8))
    assert torch.equal(got.reshape(-1, 3, 3, 8, 8), torch.stack(alone))


def test_views_refuse_unequal_clips():
    with pytest.raises(ValueError, match="7 frames do not make 2 equal clips"):
        Views(SpatialCrops(8, 8), 2, Normalize([0.0] * 3, [1.0] * 3))(grid(7, 8, 8), rng())


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: SpatialCrops(8, 8, 2), "crops must be 1, 3 or 10, got 2"),
        (lambda: SpatialCrops(9, 8), r"size \(9\) must not be larger than short_side \(8\)"),
        (
            lambda: Views(SpatialCrops(8, 8), 0, Normalize([0.0] * 3, [1.0] * 3)),
            "clips must be a whole number",
        ),
        (lambda: RandomResizeCrop(8, (7, 9), flip=False), r"from at least size \(8\) up, got 7 to 9"),
        (lambda: RandomResizeCrop(8, (9, 8), flip=False), "got 9 to 8"),
        (lambda: RandomResizeCrop(8, (8.5, 9), flip=False), "short_side must be a whole number"),
    ],
)
def test_wrong_values(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_random_resize_covers_sizes_places_and_mirrors():
    """Of frames 20 x 30 with a short side of exactly 20 the crop shows where it was cut."""
    crops = RandomResizeCrop(16, (20, 20), flip=True)
    frames = grid(2, 20, 30)
    generator = rng()
    found: Counter[tuple[int, int, bool]] = Counter()
    for _ in range(3000):
        out = crops(frames, generator)
        assert out.shape == (2, 16, 16, 3)
        mirrored = bool(out[0, 0, 0, 2] > out[0, 0, 1, 2])
        upright = out.flip(2) if mirrored else out
        top, left = corner(upright)
        cut = torch.from_numpy(frames)[:, top : top + 16, left : left + 16]
        assert torch.equal(upright, cut)
        found[(top, left, mirrored)] += 1
    assert set(found) == {(t, x, m) for t in range(5) for x in range(15) for m in (False, True)}
    assert abs(sum(n for (_, _, m), n in found.items() if m) - 1500) < 4 * 750**0.5


def test_random_resize_scales_the_short_side():
    """A ramp of one grey level a pixel rises by 20/s a pixel once the short side is s."""
    frames = np.broadcast_to((np.arange(60) * 4)[None, None, :, None], (1, 20, 60, 3)).astype(np.uint8)
    steps = set()
    for seed in range(200):
        row = RandomResizeCrop(16, (20, 40), flip=False)(frames, rng(seed))[0, 8, :, 0].float()
        steps.add(round(80 / float((row[-1] - row[0]) / 15)))
    assert min(steps) in (19, 20, 21)
    assert max(steps) in (38, 39, 40, 41, 42)
    assert len(steps) > 15


def test_random_crops_do_not_depend_on_flip():
    frames = rng().integers(0, 256, (2, 30, 40, 3), dtype=np.uint8)
    for seed in range(20):
        plain = RandomResizeCrop(16, (20, 30), flip=False)(frames, rng(seed))
        maybe = RandomResizeCrop(16, (20, 30), flip=True)(frames, rng(seed))
        assert torch.equal(plain, maybe) or torch.equal(plain, maybe.flip(2))


@pytest.mark.parametrize(
    "classes, expected",
    [
        (["Pushing something from left to right", "Pushing something from right to left"], True),
        (["Swiping Left", "Swiping Right"], True),
        (["turning_hand_clockwise", "turning_hand_counterclockwise"], True),
        (["Turning Hand Clockwise", "Turning Hand Anti-Clockwise"], True),
        (["left", "right"], True),
        (["SwipeLeft", "SwipeRight"], True),
        (["swipeLeft2", "swipeRight2"], True),
        (["LeftTurn", "RightTurn"], True),
        (["Leftward", "Rightward"], True),
        (["moving leftwards", "moving rightwards"], True),
        (["lefthand wave", "righthand wave"], True),
        (["LeftHanded", "right-handed"], True),
        (["rotate CW", "rotate CCW"], True),
        (["RotateCW", "rotate_ccw"], True),
        (["TurnClockWise", "TurnCounterClockWise"], True),
        (["Bright", "Bleft"], False),
        (["copyright", "copyleft"], False),
        (["rightful", "leftful"], False),
        (MOTION_PAIRS["antidiagonal"], False),
        (MOTION_PAIRS["vertical"], False),
        (["bright", "bleft"], False),
        (["left hook", "right cross"], False),
        (["left", "left"], False),
        ([], False),
    ],
)
def test_classes_that_mirror_each_other(classes, expected):
    found = mirrored_classes(classes)
    assert found == (tuple(classes) if expected else None)
