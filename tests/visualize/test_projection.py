"""Squeezed images and dynamic appearances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("av", reason="video files need av")

from tests.visualize.boxes import lies_in
from vidops.data import UniformSampling
from vidops.data.modalities import dynamic_image, squeezed_image
from vidops.layers import PixelwiseTemporalProjection, TemporalSqueezePool
from vidops.visualize import (
    Appearance,
    ShownFrames,
    Squeezed,
    appearance_grid,
    appearances,
    find_layer,
    fit_projection,
    read_shown,
    save,
    squeeze,
    squeezed_grid,
)
from vidops.visualize.projection import normalised

REAL = Path(__file__).parents[2].parent / "shared" / "videos"


def crossing(frames: int = 8, size: int = 24) -> torch.Tensor:
    """A bright square that crosses a textured ground; uint8."""
    ground = np.random.default_rng(0).integers(0, 100, (size, size, 3), dtype=np.uint8)
    clip = np.stack([ground] * frames)
    for t in range(frames):
        clip[t, 8:16, 2 * t : 2 * t + 6] = 220
    return torch.from_numpy(clip)


def shown(frames: torch.Tensor) -> ShownFrames:
    return ShownFrames(frames, np.arange(len(frames)) + 10, np.arange(len(frames)) / 4)


def pictures(figure: Any) -> list[np.ndarray]:
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


def texts_are_inside(figure: Any) -> bool:
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    texts = [text for axes in figure.axes for text in (axes.title, axes.yaxis.label)]
    return all(lies_in(t.get_window_extent(renderer), figure.bbox) for t in texts if t.get_text())


def test_a_layer_learns_the_frames_that_it_is_given() -> None:
    clip = normalised(crossing())[None]
    torch.manual_seed(0)
    pool, projection = TemporalSqueezePool(8, 2), PixelwiseTemporalProjection(4, descriptor_channels=6)
    for layer, share in (
        (pool, 0.97),
        (projection, 0.9),
    ):  # one basis for all pixels cannot follow the square
        losses = fit_projection(layer, clip, steps=15)
        assert len(losses) == 15
        assert losses[-1] < share * losses[0]
        assert not layer.training
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    assert fit_projection(layer, clip, steps=0) == []
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    with pytest.raises(ValueError, match="steps must be at least 0, got -1"):
        fit_projection(layer, clip, steps=-1)


def test_squeezed_images_are_the_layers() -> None:
    layer, clip = TemporalSqueezePool(8, 2), normalised(crossing())
    found = squeeze(layer, clip)
    images, losses = layer(clip[None], return_losses=True)
    torch.testing.assert_close(found.images, images[0].transpose(0, 1).detach())
    assert found.error == pytest.approx(losses["error"].item())
    drawn = found.pictures()
    assert drawn.shape == (2, 24, 24, 3)
    for picture, image in zip(drawn, found.images, strict=True):
        low, high = np.quantile(image.detach().numpy(), (0.005, 0.995))
        expected = ((image.permute(1, 2, 0).detach() - low) / (high - low)).clamp(0, 1)
        torch.testing.assert_close(picture, expected.float(), rtol=0, atol=1e-5)
    flow = Squeezed(torch.tensor([3.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 4, 5), 0.1)
    assert flow.pictures()[0, 2, 2].tolist() == [1, 0, 0]  # to the right


def test_the_grid_draws_the_same_frames_once() -> None:
    clip, other = crossing(), crossing().flip(0)
    found = {d: squeeze(TemporalSqueezePool(8, d), normalised(clip)) for d in (2, 3)}
    figure = squeezed_grid({"one": (clip, found[2]), "two": (clip, found[3]), "three": (other, found[2])})
    drawn = pictures(figure)
    assert len(drawn) == 8 + 2 + 3 + 8 + 2
    assert np.allclose(drawn[3], clip[3] / 255)
    assert np.allclose(drawn[8 + 2 + 3], other[0] / 255)
    assert np.allclose(drawn[9], found[2].pictures()[1])
    labels = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert labels == [
        f"{name}\nerror {found[d].error:.3g}" for name, d in (("one", 2), ("two", 3), ("three", 2))
    ]
    assert texts_are_inside(figure)
    with pytest.raises(ValueError, match="rows must be at least one, got none"):
        squeezed_grid({})


def test_appearances_are_the_layers() -> None:
    layer = PixelwiseTemporalProjection(4, descriptor_channels=6).eval()
    frames = shown(crossing())
    found = appearances(layer, frames)
    images, losses = layer(normalised(frames.frames)[None], return_losses=True)
    torch.testing.assert_close(found.dynamic, images[0].permute(1, 2, 3, 0).detach())
    assert found.energy == pytest.approx(losses["energy"].item())
    given = torch.rand(1, 3, 8, 24, 24)
    torch.testing.assert_close(appearances(layer, frames, given).dynamic, layer(given)[0].permute(1, 2, 3, 0))


def test_rows_of_appearances() -> None:
    frames = shown(crossing())
    unit = frames.frames / 255
    dynamic = torch.zeros(2, 24, 24, 3)
    dynamic[0, :12], dynamic[1, 12:] = 2.0, -1.0
    rows = ("appearance", "average", "squeezed_image", "dynamic_image", "flow")
    figure = appearance_grid([Appearance(frames, 4, dynamic, 0.25)], rows=rows, title="a clip")
    drawn = pictures(figure)
    assert len(drawn) == 10
    assert np.allclose(drawn[0][:12], 1)
    assert np.allclose(drawn[0][12:], 0.5)
    assert np.allclose(drawn[1][12:], 0.25)
    assert np.allclose(drawn[2], unit[:4].mean(0), atol=1e-6)
    assert np.allclose(drawn[5], squeezed_image(frames.frames, 4)[1] / 255)
    assert np.allclose(drawn[7], dynamic_image(frames.frames, 4)[1] / 255)
    assert drawn[8][9:15, 5:11].reshape(-1, 3).mean(0).argmax() == 0  # the square goes to the right: red
    assert figure.axes[0].get_title() == "frames 10 to 13, 0.00 s"
    assert figure.axes[1].get_title() == "frames 14 to 17, 1.00 s"
    assert figure.axes[0].get_ylabel().endswith("energy 0.25")
    assert texts_are_inside(figure)


def test_several_lengths_below_each_other() -> None:
    found = [
        Appearance(shown(crossing(2 * length)), length, torch.zeros(2, 24, 24, 3), 0.0) for length in (2, 4)
    ]
    figure = appearance_grid(found)
    assert [axes.get_ylabel().replace("\n", " ") for axes in figure.axes[::2]] == [
        "average of 2",
        "dynamic appearance energy 0",
        "average of 4",
        "dynamic appearance energy 0",
    ]
    for picture in pictures(figure)[2:4]:
        assert np.allclose(picture, 0.5)  # nothing moves: grey, and no rounding is stretched


def test_bad_arguments() -> None:
    one, two = (Appearance(shown(crossing(4 * n)), 4, torch.zeros(n, 24, 24, 3), 0.0) for n in (1, 2))
    for rows in ((), ("average", "average"), ("loud",)):
        with pytest.raises(ValueError, match="rows must be some of average, appearance, dynamic_image"):
            appearance_grid([one], rows=rows)
    with pytest.raises(ValueError, match=r"found must be appearances of as many segments each, got \[1, 2\]"):
        appearance_grid([one, two])
    with pytest.raises(ValueError, match=r"found must be .* got none"):
        appearance_grid([])
    with pytest.raises(ValueError, match="net: Linear holds no TemporalSqueezePool"):
        find_layer(nn.Linear(1, 1), TemporalSqueezePool)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is not there")
def test_a_real_video(tmp_path: Path) -> None:
    """In demo.mp4 people move, and its end is frozen: there is next to nothing to see there."""
    frames = read_shown(REAL / "demo.mp4", UniformSampling(4, False, frames_per_segment=4), short_side=64)
    torch.manual_seed(0)
    layer = PixelwiseTemporalProjection(4)
    fit_projection(layer, normalised(frames.frames)[None], steps=60)
    found = appearances(layer, frames)
    spread = found.dynamic.abs().mean((1, 2, 3))
    assert spread[3] < 0.5 * spread[:3].min()
    save(appearance_grid([found], title="demo.mp4"), tmp_path / "appearance.png")
    assert (tmp_path / "appearance.png").stat().st_size > 10_000
