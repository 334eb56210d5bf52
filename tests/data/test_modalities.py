from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from vidops.data import SpatialCrops
from vidops.data.modalities import (
    DynamicImages,
    SqueezedImages,
    StackDifferences,
    StackFlow,
    dynamic_image,
    flip_flow,
    frames_per_segment,
    input_channels,
    rank_pooling_coefficients,
    rgb_difference,
    squeezed_image,
    stack_flow,
)
from vidops.data.transforms import RandomResizeCrop, TrainCrops


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    "length, by_hand",
    [
        (1, [0]),
        (2, [Fraction(-1, 2), Fraction(1, 2)]),
        (3, [Fraction(-4, 3), Fraction(2, 3), Fraction(2, 3)]),
        (4, [Fraction(-29, 12), Fraction(7, 12), Fraction(13, 12), Fraction(3, 4)]),
    ],
)
def test_coefficients_by_hand(length, by_hand):
    assert rank_pooling_coefficients(length).tolist() == pytest.approx([float(x) for x in by_hand], abs=1e-12)


@pytest.mark.parametrize("length", [2, 5, 6, 16, 300])
def test_coefficients_are_the_formula_and_the_sums_of_the_release(length):
    found = rank_pooling_coefficients(length)
    harmonic = [sum((Fraction(1, i) for i in range(1, t + 1)), Fraction(0)) for t in range(length + 1)]
    for t in range(1, length + 1):
        formula = 2 * (length - t + 1) - (length + 1) * (harmonic[length] - harmonic[t - 1])
        sums = sum((Fraction(2 * k - length - 1, k) for k in range(t, length + 1)), Fraction(0))
        assert formula == sums
        assert found[t - 1] == pytest.approx(float(formula), abs=1e-9)
    assert found.sum() == pytest.approx(0, abs=1e-9)


def test_dynamic_image_by_loops():
    frames = noise(3, 4, 5, 3)
    pooled = np.zeros((4, 5, 3))
    for weight, frame in zip((-4 / 3, 2 / 3, 2 / 3), frames, strict=True):
        pooled += weight * frame
    expected = np.rint((pooled - pooled.min()) / (pooled.max() - pooled.min()) * 255)
    found = dynamic_image(frames)
    assert found.dtype == torch.uint8
    assert found.shape == (1, 4, 5, 3)
    assert np.abs(found[0].numpy() - expected).max() <= 1e-6
    assert (int(found.min()), int(found.max())) == (0, 255)


def test_each_segment_has_its_own_dynamic_image():
    frames = noise(12, 6, 7, 3)
    frames[6:] //= 16  # less contrast, which the rescaling must bring back
    both = dynamic_image(frames, 6)
    assert torch.equal(both, torch.cat([dynamic_image(frames[:6]), dynamic_image(frames[6:])]))
    assert both.flatten(1).amax(1).tolist() == [255, 255]


@pytest.mark.parametrize("length", [2, 6, 64])
def test_frames_that_do_not_change_give_nothing_and_not_amplified_rounding(length):
    still = np.repeat(noise(1, 9, 7, 3), length, axis=0)
    assert int(dynamic_image(still).max()) == 0
    still[-1, 0, 0, 0] ^= 1  # the least change there can be
    assert int(dynamic_image(still).max()) == 255


def test_time_reversed_dynamic_image_is_another():
    frames = noise(6, 8, 8, 3)
    assert not torch.equal(dynamic_image(frames), dynamic_image(frames[::-1].copy()))


def test_squeezed_image_restores_its_frames_best():
    frames = noise(5, 6, 7, 3)
    flat = frames.reshape(5, -1).astype(float)
    left, values, right = np.linalg.svd(flat, full_matrices=False)
    image = values[0] * right[0] * np.sign(left[:, 0].sum())
    expected = np.rint((image - image.min()) / (image.max() - image.min()) * 255).reshape(6, 7, 3)
    found = squeezed_image(frames)
    assert found.shape == (1, 6, 7, 3)
    assert np.abs(found[0].numpy() - expected).max() <= 1e-6
    other = np.random.default_rng(5).normal(size=(5, 1))
    for column, best in ((left[:, :1], True), (other, False)):  # any other column leaves more
        coefficients = np.linalg.lstsq(column, flat, rcond=None)[0]
        rest = np.square(flat - column @ coefficients).sum()
        assert (rest <= np.square(values[1:]).sum() * (1 + 1e-9)) == best


def test_a_squeezed_still_is_the_frame_and_black_stays_black():
    frame = noise(1, 8, 9, 3)
    frame[0, 0, 0], frame[0, 0, 1] = 0, 255
    assert torch.equal(squeezed_image(np.repeat(frame, 4, axis=0))[0], torch.from_numpy(frame[0]))
    assert int(squeezed_image(np.zeros((4, 3, 3, 3), np.uint8)).max()) == 0
    both = squeezed_image(np.concatenate([noise(6, 4, 4, 3), noise(6, 4, 4, 3) // 2]), 6)
    assert both.flatten(1).amax(1).tolist() == [255, 255]


@pytest.mark.parametrize("stack, segments", [(1, 1), (2, 3), (5, 2)])
def test_rgb_difference_by_loops(stack, segments):
    frames = noise(segments * (stack + 1), 3, 4, 3)
    found = rgb_difference(frames, stack)
    assert found.shape == (segments, 3, 4, 3 * stack)
    for segment in range(segments):
        for k in range(stack):
            at = segment * (stack + 1) + k
            expected = frames[at + 1].astype(int) - frames[at].astype(int)
            assert np.array_equal(found[segment, ..., 3 * k : 3 * k + 3].numpy(), expected)


def test_stacked_differences_are_scaled_and_reach_both_ends():
    frames = np.zeros((3, 2, 2, 3), np.uint8)
    frames[1] = 255
    clip = StackDifferences(2, std=0.5)(frames, np.random.default_rng(0))
    assert clip.dtype == torch.float32
    assert clip.shape == (6, 1, 2, 2)
    assert clip.is_contiguous()
    assert clip[:, 0, 0, 0].tolist() == [2.0, 2.0, 2.0, -2.0, -2.0, -2.0]


def test_stacked_flow_interleaves_x_and_y_by_frame():
    fields = noise(10, 3, 4, 3)
    clip = StackFlow(5, std=1.0)(fields, np.random.default_rng(0))
    assert clip.shape == (10, 2, 3, 4)
    for segment in range(2):
        for k in range(5):
            for axis in range(2):
                expected = (fields[5 * segment + k, ..., axis].astype(np.float32) - 128) / 255
                assert np.allclose(clip[2 * k + axis, segment], expected, atol=1e-7)
    assert torch.equal(stack_flow(fields, 1), torch.from_numpy(fields[..., :2]))


def test_flip_negates_x_alone_and_undoes_itself():
    fields = noise(4, 5, 6, 3)
    fields[..., 0] = np.maximum(fields[..., 0], 1)  # what encode_flow gives
    flipped = flip_flow(fields)
    assert torch.equal(flipped[..., 0].int() - 128, 128 - torch.from_numpy(fields).flip(2)[..., 0].int())
    assert torch.equal(flipped[..., 1:], torch.from_numpy(fields).flip(2)[..., 1:])
    assert torch.equal(flip_flow(flipped), torch.from_numpy(fields))
    foreign = np.zeros((1, 1, 1, 3), np.uint8)
    assert flip_flow(foreign)[0, 0, 0, 0] == 255  # a value that encode_flow does not give, clipped


@pytest.mark.parametrize("kind", ["multi_scale", "random_resize"])
def test_training_crops_mirror_flow_as_flow(kind):
    """Half of the clips are the crop, half are the crop mirrored with x negated, drawn as for pictures."""
    fields = noise(4, 20, 26, 3)
    fields[..., 0] = np.maximum(fields[..., 0], 1)

    def crop(flip: bool, seed: int, **mirror) -> torch.Tensor:
        made = (
            TrainCrops(16, flip=flip, **mirror)
            if kind == "multi_scale"
            else RandomResizeCrop(16, (16, 20), flip=flip, **mirror)
        )
        return made(fields, np.random.default_rng(seed))

    mirrored = 0
    for seed in range(100):
        plain, out, as_picture = crop(False, seed), crop(True, seed, mirror=flip_flow), crop(True, seed)
        if torch.equal(as_picture, plain):
            assert torch.equal(out, plain)
        else:
            mirrored += 1
            assert torch.equal(out, flip_flow(plain))
    assert 30 < mirrored < 70


def test_ten_test_crops_mirror_flow_as_flow():
    fields = noise(4, 20, 26, 3)
    cuts = SpatialCrops(16, 20, 10, mirror=flip_flow)(fields)
    for plain, mirrored in zip(cuts[:5], cuts[5:], strict=True):
        assert torch.equal(mirrored, flip_flow(plain))


def test_transforms_to_one_picture_a_segment():
    frames = noise(12, 5, 6, 3)
    assert torch.equal(DynamicImages(6)(frames, np.random.default_rng(0)), dynamic_image(frames, 6))
    assert torch.equal(SqueezedImages(6)(frames, np.random.default_rng(0)), squeezed_image(frames, 6))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: rgb_difference(noise(5, 2, 2, 3), 5), ValueError, "frames: 5 are no multiple of the 6"),
        (lambda: stack_flow(noise(6, 2, 2, 3), 5), ValueError, "frames: 6 are no multiple of the 5"),
        (lambda: dynamic_image(noise(7, 2, 2, 3), 6), ValueError, "frames: 7 are no multiple of the 6"),
        (lambda: dynamic_image(noise(1, 2, 2, 3)), ValueError, "length must be at least 2, got 1"),
        (lambda: squeezed_image(noise(7, 2, 2, 3), 6), ValueError, "frames: 7 are no multiple of the 6"),
        (lambda: SqueezedImages(1), ValueError, "at least 2 for squeezed_image, got 1"),
        (lambda: rgb_difference(noise(6, 2, 2, 3).astype(float), 5), TypeError, "frames must be a uint8"),
        (lambda: rgb_difference(noise(6, 2, 2, 2), 5), ValueError, r"shape \(T, H, W, 3\)"),
        (lambda: rank_pooling_coefficients(0), ValueError, "length must be a whole number of at least 1"),
        (
            lambda: DynamicImages(1),
            ValueError,
            "stack must be a whole number of at least 2 for dynamic_image",
        ),
        (lambda: StackFlow(0), ValueError, "stack must be a whole number of at least 1"),
        (lambda: StackFlow(5, std=0.0), ValueError, "std must be above 0"),
        (lambda: StackDifferences(5, std=float("nan")), ValueError, "std must be above 0"),
        (lambda: input_channels("depth", 1), ValueError, "modality must be one of rgb, rgb_diff, flow"),
        (lambda: frames_per_segment("rgb", 2), ValueError, "stack must be 1 for rgb, got 2"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
