"""Boxes go where the pixels go: marked rectangles are found again in what every transform makes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidops.data import modalities
from vidops.data.boxes import Placement, areas, clip_boxes, overlaps, transform_boxes
from vidops.data.transforms import Compose, Normalize, RandomResizeCrop, ResizeFrames, TrainCrops
from vidops.data.views import SpatialCrops, Views

SIZE = 40
NORMALIZE = Normalize([0.0] * 3, [1.0] * 3)
TRANSFORMS = {
    "crops": TrainCrops(SIZE, flip=False),
    "crops, flips": TrainCrops(SIZE, flip=True),
    "resized crops": RandomResizeCrop(SIZE, (SIZE, 2 * SIZE), flip=False),
    "resized crops, flips": RandomResizeCrop(SIZE, (SIZE + 3, 2 * SIZE), flip=True),
    "whole": ResizeFrames(SIZE),
    "whole, flips": ResizeFrames(SIZE, flip=True),
    "several": Compose(
        [
            ResizeFrames(2 * SIZE, flip=True),
            TrainCrops(SIZE + 7, flip=True),
            RandomResizeCrop(SIZE, (SIZE, SIZE + 9), flip=True),
        ]
    ),
    **{f"{n} views": Views(SpatialCrops(SIZE, SIZE + 8, n), 1, NORMALIZE) for n in (1, 3, 10)},
    "10 views of 2 clips": Views(SpatialCrops(SIZE, SIZE, 10), 2, NORMALIZE),
    "views of whole frames": Views(SpatialCrops(SIZE, 2 * SIZE), 1, Compose([ResizeFrames(SIZE // 2), NORMALIZE])),
}  # fmt: skip


def drawn(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """Two black frames with a white box, pixels x1 to x2 - 1 and y1 to y2 - 1."""
    frames = np.zeros((2, height, width, 3), np.uint8)
    x1, y1, x2, y2 = box
    frames[:, y1:y2, x1:x2] = 255
    return frames


def found(picture: torch.Tensor) -> torch.Tensor:
    """Edges x1, y1, x2, y2 of what is light in (H, W), 0 to 1, by how far the sums along each axis reach."""
    edges = []
    for axis in (0, 1):
        line = picture.amax(axis)  # of each column, then of each row
        light = torch.nonzero(line > 0.5).flatten()
        edges.append((float(light[0]), float(light[-1]) + 1))
    (x1, x2), (y1, y2) = edges
    return torch.tensor([x1, y1, x2, y2])


@st.composite
def scenes(draw):
    height, width = draw(st.integers(30, 90)), draw(st.integers(30, 90))
    x1, y1 = draw(st.integers(0, width - 12)), draw(st.integers(0, height - 12))
    x2, y2 = draw(st.integers(x1 + 10, width)), draw(st.integers(y1 + 10, height))
    return height, width, (x1, y1, x2, y2), draw(st.integers(0, 1000))


@pytest.mark.parametrize("name", TRANSFORMS)
@settings(max_examples=40, deadline=None)
@given(scene=scenes())
def test_boxes_follow_the_pixels(name, scene):
    """Each edge inside the picture lies where the pixels turn from dark to light, within a pixel of resampling."""
    height, width, box, seed = scene
    frames = drawn(height, width, box)
    boxes = torch.tensor([box], dtype=torch.float32)
    out, inside = transform_boxes(TRANSFORMS[name], frames, boxes, np.random.default_rng(seed))
    plain = TRANSFORMS[name](frames, np.random.default_rng(seed))
    torch.testing.assert_close(out, plain)  # the same random numbers with boxes and without
    light = out[..., 0] / 255.0 if out.dtype == torch.uint8 else out.select(-4, 0)
    light = light.reshape(
        -1, 2 if out.dtype == torch.uint8 or "2 clips" not in name else 1, *light.shape[-2:]
    )
    inside = inside.reshape(-1, 4)
    assert len(light) == len(inside)
    size = tuple(light.shape[-2:])
    cut = clip_boxes(inside, size)
    for picture, edges in zip(light[:, 0], cut, strict=True):
        if min(edges[2] - edges[0], edges[3] - edges[1]) < 3:
            continue
        torch.testing.assert_close(found(picture), edges, rtol=0, atol=1)


@settings(max_examples=40, deadline=None)
@given(scene=scenes())
def test_boxes_are_exact_where_nothing_is_resampled(scene):
    height, width, box, _seed = scene
    frames = drawn(height, width, box)
    short = min(height, width)
    views = SpatialCrops(short - 4, short, 10)
    for picture, placement in views.place(frames):
        edges = clip_boxes(placement(torch.tensor([box], dtype=torch.float32)), (short - 4, short - 4))[0]
        if min(edges[2] - edges[0], edges[3] - edges[1]) >= 1:
            assert found(picture[0, :, :, 0] / 255).tolist() == edges.tolist()


@pytest.mark.parametrize("height, width, out", [(31, 47, (40, 61)), (47, 31, (61, 40))])
def test_sides_are_scaled_to_whole_pixels(height, width, out):
    """The longer side is rounded, 60.6 to 61, and with it the boxes on it."""
    frames, whole = np.zeros((2, height, width, 3), np.uint8), torch.tensor([[0.0, 0, width, height]])
    places = [place for _, place in SpatialCrops(40, 40, 3).place(frames)]
    places.append(RandomResizeCrop(40, (40, 40), flip=False).place(frames, np.random.default_rng(0))[1])
    for place in places:
        assert (place(whole)[0, 2:] - place(whole)[0, :2]).tolist() == [out[1], out[0]]
        assert place(whole)[0, :2].tolist() == [-float(place.start[1]), -float(place.start[0])]


@pytest.mark.parametrize("mirror", [False, True])
def test_a_placement(mirror):
    place = Placement((10, 20), scale=(0.5, 2.0), start=(1, 4), mirrored=mirror)
    boxes = torch.tensor([[3.0, 4, 6, 8], [0, 0, 1, 1]], dtype=torch.float64)
    expected = [[2.0, 1, 8, 3], [-4, -1, -2, -0.5]]
    if mirror:
        expected = [[12.0, 1, 18, 3], [22, -1, 24, -0.5]]
    assert place(boxes).tolist() == expected
    assert place(boxes).dtype == torch.float64
    assert place(boxes[:0]).shape == (0, 4)
    torch.testing.assert_close(place(boxes.expand(3, 2, 4)), torch.tensor(expected).double().expand(3, 2, 4))


def test_what_leaves_pixels_where_they_are_needs_to_know_nothing_of_boxes():
    frames, boxes = np.zeros((15, 30, 40, 3), np.uint8), torch.rand(3, 4)
    for transform in (
        modalities.StackDifferences(4),
        NORMALIZE,
        lambda frames, generator: torch.from_numpy(frames),
    ):
        assert transform_boxes(transform, frames, boxes, np.random.default_rng(0))[1] is boxes


def test_what_moves_pixels_has_to_say_where_boxes_go():
    def halved(frames, generator):
        return torch.from_numpy(frames[:, ::2, ::2].copy())

    with pytest.raises(
        TypeError, match=r"halved turns .* \(30, 40\) pixels into \(15, 20\) and has no with_boxes"
    ):
        transform_boxes(
            halved, np.zeros((4, 30, 40, 3), np.uint8), torch.zeros(0, 4), np.random.default_rng(0)
        )


def test_cut_boxes_areas_and_overlaps():
    boxes = torch.tensor([[-2.0, -2, 2, 2], [8, 8, 20, 20], [30, 30, 40, 40], [3, 3, 3, 9]])
    assert clip_boxes(boxes, (10, 12)).tolist() == [
        [0, 0, 2, 2],
        [8, 8, 12, 10],
        [12, 10, 12, 10],
        [3, 3, 3, 9],
    ]
    assert areas(boxes).tolist() == [16, 144, 100, 0]
    shares = overlaps(boxes, torch.tensor([[0.0, 0, 2, 2], [3, 3, 3, 9]]))
    assert shares.tolist() == [[0.25, 0], [0, 0], [0, 0], [0, 0]]
    assert overlaps(boxes[:0], boxes).shape == (0, 4)
