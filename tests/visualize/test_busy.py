"""Busy and quiet frames, and the colours they are drawn in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("av", reason="video files need av")

from tests.visualize.boxes import lies_in
from vidops.data import UniformSampling
from vidops.layers import MotionBandPass
from vidops.visualize import (
    ShownFrames,
    busy_grid,
    find_band_pass,
    flow_colors,
    read_shown,
    save,
    split_frames,
)

REAL = Path(__file__).parents[2].parent / "shared" / "videos"
SIZE, SQUARE, REACH = 48, 20, 4


def shown(frames: torch.Tensor) -> ShownFrames:
    return ShownFrames(frames, np.arange(len(frames)))


def crossing(step: int, frames: int = 6) -> ShownFrames:
    """A grey square on a textured ground, so many pixels further right in each frame; uint8."""
    ground = np.random.default_rng(0).integers(0, 60, (SIZE, SIZE, 3), dtype=np.uint8)
    clip = np.stack([ground] * frames)
    for t in range(frames):
        left = 10 + step * t
        clip[t, 14 : 14 + SQUARE, left : left + SQUARE] = 200
    return shown(torch.from_numpy(clip))


def drawn(figure: object, axes: int) -> np.ndarray:
    return np.asarray(figure.axes[axes].images[0].get_array())  # type: ignore[attr-defined]


def test_a_still_clip_is_drawn_grey() -> None:
    split = split_frames(crossing(0))
    assert float(split.busy.abs().max()) < 1e-6
    figure = busy_grid(split)
    assert np.abs(drawn(figure, 2) - 0.5).max() < 1e-3  # busy: grey, as rounding is not stretched
    assert drawn(figure, 4).min() > 0.99  # flow colours: white
    assert np.abs(drawn(figure, 6) - drawn(figure, 0)).max() < 1e-5  # quiet: the frame itself


def test_a_moving_edge_lights_up_along_its_boundary() -> None:
    split = split_frames(crossing(2))
    assert split.middle.indices.tolist() == [1, 4]
    lit = (torch.from_numpy(drawn(busy_grid(split), 2)) - 0.5).abs().amax(-1)
    left = 10 + 2  # of the square in the middle frame
    rows = slice(14 + REACH, 14 + SQUARE - REACH)
    for edge in (left, left + SQUARE):
        assert (
            float(lit[rows, edge - 2 : edge + 2].amax(1).min()) > 0.4
        )  # all along, near an end of the scale
    inside = lit[rows, left + 2 + REACH : left + SQUARE - 2 - REACH]
    outside = lit[:, : left - 2 - REACH]
    assert float(inside.max()) < 1e-3
    assert float(outside.max()) < 1e-3  # the texture stands still


def test_busy_and_quiet_are_those_of_the_module_and_add_up_to_the_mean() -> None:
    module = MotionBandPass.stem(kernel_size=5, sigma=0.8)
    frames = torch.rand(9, 12, 14, 3)
    split = split_frames(shown(frames), module)
    busy = module(frames.permute(3, 0, 1, 2)[None])[0].permute(1, 2, 3, 0)
    torch.testing.assert_close(split.busy, busy.detach())
    torch.testing.assert_close(split.busy + split.quiet, frames.unflatten(0, (3, 3)).mean(1))
    assert torch.equal(split.middle.frames, frames[1::3])
    assert torch.equal(split.after, frames[2::3])


def test_the_rows_and_their_order() -> None:
    split = split_frames(crossing(2, frames=9))
    figure = busy_grid(split, rows=("quiet", "flow", "busy", "colors", "frames"), title="a clip")
    assert [axes.get_ylabel() for axes in figure.axes[:15:3]] == [
        "quiet",
        "TV-L1 flow",
        "busy",
        "busy, flow colours",
        "frames",
    ]
    assert len(figure.axes) == 5 * 3 + 2  # two wheels
    right = drawn(figure, 3)[18:30, 18:28].reshape(-1, 3)  # inside the square, which moves right: red
    assert right[:, 0].min() > right[:, 1:].max()
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    texts = [text for axes in figure.axes for text in (axes.title, axes.yaxis.label, *axes.texts)]
    assert all(lies_in(t.get_window_extent(renderer), figure.bbox) for t in texts if t.get_text())


def test_brighter_and_darker_have_opposite_colours() -> None:
    """The middle frame alone is brighter, then alone darker, in one point."""
    frames = torch.full((6, 15, 15, 3), 0.5)
    frames[1, 7, 7], frames[4, 7, 7] = 1.0, 0.0
    figure = busy_grid(split_frames(shown(frames)), rows=("colors",))
    brighter, darker = (drawn(figure, i)[7, 7] for i in (0, 1))
    assert brighter[0] > brighter[1:].max() + 0.3  # red
    assert darker[0] < darker[1:].min() - 0.3  # cyan


def test_flow_colors() -> None:
    angles = torch.arange(8) * torch.pi / 4
    ring = torch.stack([angles.cos(), angles.sin()], dim=-1).double() * (1 - 1e-6)  # within the limit
    colors = flow_colors(ring.view(2, 4, 2), 1.0)
    assert colors.shape == (2, 4, 3)
    flat = colors.view(8, 3)
    torch.testing.assert_close(flat.amax(-1), torch.ones(8), rtol=0, atol=1e-5)
    torch.testing.assert_close(flat.amin(-1), torch.zeros(8), rtol=0, atol=1e-5)
    assert len({tuple(color) for color in flat.mul(100).round().tolist()}) == 8
    half = flow_colors(ring / 2, 1.0)
    torch.testing.assert_close(half, (1 + flat) / 2, rtol=0, atol=1e-5)
    torch.testing.assert_close(flow_colors(3 * ring, 1.0), 0.75 * flat, rtol=0, atol=1e-5)
    assert flow_colors(torch.zeros(2), 5.0).tolist() == [1, 1, 1]


def test_the_band_pass_of_a_network_is_found() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lateral = MotionBandPass.features(8, kernel_size=3)
            self.stem = MotionBandPass.stem()

    net = Net()
    assert find_band_pass(net) == ("stem", net.stem)
    assert find_band_pass(net, "lateral") == ("lateral", net.lateral)
    with pytest.raises(ValueError, match="layer 'x': is no motion band-pass; there are lateral, stem"):
        find_band_pass(net, "x")
    with pytest.raises(ValueError, match="Linear holds no motion band-pass"):
        find_band_pass(nn.Linear(1, 1))
    del net.stem
    with pytest.raises(ValueError, match="no motion band-pass of 3 channels; name a layer: lateral"):
        find_band_pass(net)


def test_bad_arguments() -> None:
    split = split_frames(crossing(1, frames=3))
    for rows in ((), ("busy", "busy"), ("loud",)):
        with pytest.raises(ValueError, match="rows must be some of frames, busy, colors, quiet, flow"):
            busy_grid(split, rows=rows)
    with pytest.raises(ValueError, match="band_pass must have 3 channels and 'valid' padding"):
        split_frames(crossing(1), MotionBandPass.features(3, kernel_size=3))
    with pytest.raises(ValueError, match=r"field must have shape \(..., 2\)"):
        flow_colors(torch.zeros(4, 3), 1.0)
    with pytest.raises(ValueError, match="field must hold finite numbers"):
        flow_colors(torch.tensor([0.0, torch.nan]), 1.0)
    with pytest.raises(ValueError, match="limit must be above 0"):
        flow_colors(torch.zeros(2), 0.0)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is not there")
def test_a_real_video(tmp_path: Path) -> None:
    """What moves in demo.mp4, people and the camera, is busy; its frozen end is not."""
    frames = read_shown(REAL / "demo.mp4", UniformSampling(4, False, frames_per_segment=3), short_side=128)
    split = split_frames(frames)
    spread = split.busy.abs().amax((1, 2, 3))
    assert (spread[:3] > 0.05).all()
    assert spread[3] < 0.01
    save(busy_grid(split, title="demo.mp4"), tmp_path / "busy.png")
    assert (tmp_path / "busy.png").stat().st_size > 10_000
