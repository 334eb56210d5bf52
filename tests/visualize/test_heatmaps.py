"""Maps over frames: how they are stretched, their scale, the grid and the animation."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import colormaps

pytest.importorskip("PIL", reason="animations need pillow")

from PIL import Image

from vidops.visualize import ShownFrames, animate_heat_map, heat_map_grid, save_animation, stretch_map
from vidops.visualize.figures import new_figure

CLIP = ShownFrames(torch.full((4, 12, 16, 3), 0.5), np.array([2, 6, 10, 14]), np.array([0.1, 0.3, 0.5, 0.7]))


def test_a_map_is_stretched_bilinearly() -> None:
    heat = torch.tensor([[[0.0, 4.0], [8.0, 12.0]]])
    # Centres of the map's four areas lie at 0.5 and 2.5 of 4 pixels; beyond them values go on.
    steps = torch.tensor([0, 0.25, 0.75, 1])
    expected = 4 * steps[None, :] + 8 * steps[:, None]
    assert torch.equal(stretch_map(heat, 1, 4, 4), expected[None])


def test_steps_in_time_stay_apart_and_missing_ones_lie_between() -> None:
    heat = torch.tensor([1.0, 3.0]).view(2, 1, 1)
    assert stretch_map(heat, 2, 3, 5).flatten(1).unique(dim=1).flatten().tolist() == [1, 3]
    assert stretch_map(heat, 4, 1, 1).flatten().tolist() == [1, 1.5, 2.5, 3]


@pytest.mark.parametrize(
    ("heat", "text"),
    [
        (torch.zeros(4, 4), r"shape \(T, h, w\), got \(4, 4\)"),
        (torch.zeros(2, 0, 4), "shape"),
        (torch.tensor([[[float("nan")]]]), "finite"),
        (torch.tensor([[[float("inf")]]]), "finite"),
    ],
)
def test_bad_maps(heat: torch.Tensor, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        heat_map_grid(CLIP, heat)


@pytest.mark.parametrize("limits", [(1.0, 0.0), (0.0, 0.0), (0.0, float("nan")), (float("-inf"), 1.0)])
def test_bad_limits(limits: tuple[float, float], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="limits must be two finite numbers"):
        heat_map_grid(CLIP, torch.rand(4, 2, 2), limits=limits)
    with pytest.raises(ValueError, match="limits must be two finite numbers"):
        animate_heat_map(CLIP, torch.rand(4, 2, 2), tmp_path / "a.gif", limits=limits)
    assert not list(tmp_path.iterdir())


def test_frames_and_map_lie_on_one_scale() -> None:
    heat = torch.rand(4, 3, 5, generator=torch.Generator().manual_seed(0))
    heat[2] *= 7
    figure = heat_map_grid(CLIP, heat, title="a map", label="heat")
    *cells, bar = figure.axes
    over = stretch_map(heat, 4, 12, 16)
    assert [axes.get_title() for axes in cells] == CLIP.labels
    for axes, values in zip(cells, over, strict=True):
        frame, laid = axes.images
        assert np.array_equal(np.asarray(frame.get_array()), np.full((12, 16, 3), 0.5, np.float32))
        assert np.array_equal(np.asarray(laid.get_array()), values.numpy())
        assert laid.get_clim() == (0.0, float(heat.max()))
        assert np.allclose(laid.get_alpha(), 0.75 * values.numpy() / float(heat.max()))
    assert bar.get_ylim() == (0.0, pytest.approx(float(heat.max())))
    assert bar.get_ylabel() == "heat"


def test_limits_are_kept_and_what_lies_beyond_is_shown() -> None:
    heat = torch.tensor([-1.0, 0.0, 1.0, 5.0]).view(4, 1, 1)
    figure = heat_map_grid(CLIP, heat, limits=(0, 2))
    assert {axes.images[1].get_clim() for axes in figure.axes[:-1]} == {(0, 2)}
    assert [float(np.max(axes.images[1].get_alpha())) for axes in figure.axes[:-1]] == [0, 0, 0.375, 0.75]
    extend = figure.axes[-1]._colorbar.extend
    assert extend == "both"
    assert heat_map_grid(CLIP, heat).axes[0].images[1].get_clim() == (-1, 5)
    assert heat_map_grid(CLIP, heat).axes[-1]._colorbar.extend == "neither"


@pytest.mark.parametrize("value", [0.0, -2.0])
def test_a_map_without_a_range_has_a_scale(value: float) -> None:
    low, high = heat_map_grid(CLIP, torch.full((4, 1, 1), value)).axes[0].images[1].get_clim()
    assert low == value
    assert high > low


@pytest.mark.parametrize("suffix", [".gif", ".png"])
def test_every_moment_of_an_animation_is_drawn(suffix: str, tmp_path: Path) -> None:
    heat = torch.linspace(0, 1, 4).view(4, 1, 1)
    clip = ShownFrames(torch.zeros(4, 12, 16, 3), CLIP.indices, CLIP.times)
    path = tmp_path / f"heat{suffix}"
    animate_heat_map(clip, heat, path, fps=5, title="a map", limits=(0, 1))
    with Image.open(path) as picture:
        assert picture.n_frames == 4
        assert picture.info["loop"] == 0
        seen = []
        for i in range(4):
            picture.seek(i)
            assert picture.info["duration"] == 200
            seen.append(np.asarray(picture.convert("RGB"), int))
    # The middle of the picture: black frames under the map's colour.
    height, width = seen[0].shape[:2]
    for i, moment in enumerate(seen):
        colour = np.array(colormaps["inferno"](i / 3)[:3]) * 255 * 0.75 * i / 3
        assert moment[height // 2, width // 3] == pytest.approx(colour, abs=12)
    # Nothing but frame and label changes: the colour bar stays where it was.
    bars = [moment[:, int(width * 0.91) :] for moment in seen]
    assert np.abs(bars[0] - bars[3]).max() <= (90 if suffix == ".gif" else 0)  # a GIF's colours are mixed
    assert os.listdir(tmp_path) == [path.name]


def test_an_animation_is_whole_or_not_there(tmp_path: Path) -> None:
    def fail(i: int) -> None:
        if i == 2:
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        save_animation(new_figure(2, 1), fail, 4, tmp_path / "a.gif")
    for name, count, fps, text in (
        ("a.mp4", 2, 4, "must end in .png or .gif"),
        ("a.gif", 0, 4, "count must be at least 1"),
        ("a.gif", 2, 0, "fps must be above 0"),
        ("a.gif", 2, float("nan"), "fps must be above 0"),
        ("a.gif", 2, 51, "at most 50"),
    ):
        with pytest.raises(ValueError, match=text):
            save_animation(new_figure(2, 1), lambda i: None, count, tmp_path / name, fps=fps)
    assert not list(tmp_path.iterdir())
