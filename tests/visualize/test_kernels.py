"""Filters of the motion band-pass before and after training, and those of first layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.visualize.boxes import lies_in
from vidops.layers import MotionBandPass
from vidops.models import create_model
from vidops.visualize import filter_grid, first_filters, kernel_grid


def trained(**options: object) -> MotionBandPass:
    module = MotionBandPass.stem(**options)
    with torch.no_grad():
        module.spatial.mul_(torch.tensor([1.0, 1.5, 2.0]).view(3, 1, 1))
        module.temporal[0] = torch.tensor([-0.25, 0.75, -0.5])
    return module


def test_kernels_before_and_after_training() -> None:
    module = trained(kernel_size=5, sigma=0.9)
    figure = kernel_grid(module, title="a network")
    first = MotionBandPass.stem(kernel_size=5, sigma=0.9).spatial.detach()
    images = [np.asarray(axes.images[0].get_array()) for axes in figure.axes[:9]]
    for i in range(3):
        assert np.array_equal(images[i], first[i])
        assert np.array_equal(images[3 + i], module.spatial[i].detach())
        assert np.array_equal(images[6 + i], (module.spatial[i] - first[i]).detach())
    limits = [axes.images[0].get_clim() for axes in figure.axes[:9]]
    most = float(2 * first.max())
    assert limits[0] == limits[5] == pytest.approx((-most, most))
    assert limits[6] == pytest.approx((-most / 2, most / 2))
    before, after = figure.axes[9].lines[1:]
    assert np.array_equal(before.get_ydata(), first[0, 2])
    assert np.array_equal(after.get_xdata(), [-2, -1, 0, 1, 2])
    assert figure.axes[9].get_xlabel() == (
        "taps before: -0.333, +0.667, -0.333\ntaps after: -0.250, +0.750, -0.500"
    )
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    labels = [axes.xaxis.label.get_window_extent(renderer) for axes in figure.axes[9:12]]
    assert all(lies_in(box, figure.bbox) for box in labels)
    assert not labels[0].overlaps(labels[1])


def test_the_module_stays_as_it_is() -> None:
    module = trained()
    state = {key: value.clone() for key, value in module.state_dict().items()}
    kernel_grid(module)
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())


def test_some_channels_of_a_lateral_connection() -> None:
    figure = kernel_grid(MotionBandPass.features(64), channels=2)
    assert [axes.get_title() for axes in figure.axes[:2]] == ["channel 0", "channel 1"]
    assert len(kernel_grid(MotionBandPass.features(1), channels=2).axes) == 4 + 3
    for channels in (0, 7):
        with pytest.raises(ValueError, match="channels must be 1 to 6"):
            kernel_grid(MotionBandPass.features(64), channels=channels)


def test_first_filters_of_a_network_and_of_its_pathways() -> None:
    one = create_model("tiny_tsn")
    assert torch.equal(first_filters(one)[""], one.conv1.weight)
    both = nn.ModuleDict({"busy": create_model("tiny_tsn"), "quiet": create_model("tiny_x3d")})
    found = first_filters(both)
    assert list(found) == ["busy", "quiet"]
    assert torch.equal(found["busy"], both["busy"].conv1.weight)
    assert torch.equal(found["quiet"], both["quiet"].blocks[0].conv.conv_t.weight)
    with pytest.raises(ValueError, match="Linear does not name its first convolution"):
        first_filters(nn.Linear(1, 1))


def test_filters_are_laid_out_in_order_each_on_its_own_scale() -> None:
    weight = torch.randn(7, 3, 2, 3)
    figure = filter_grid({"a": weight, "b": torch.randn(64, 3, 5, 7, 7)}, channel=1, title="first layers")
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]
    laid = figure.axes[0].images[0].get_array()
    assert laid.shape == (3 * 3 - 1, 3 * 4 - 1)  # 3 x 3 places of 2 x 3 points, a gap between
    for i in range(7):
        top, left = i // 3 * 3, i % 3 * 4
        shown = np.asarray(laid[top : top + 2, left : left + 3])
        assert np.allclose(shown, weight[i, 1] / weight[i, 1].abs().max())
    assert np.isnan(laid.filled(np.nan)[:, 3]).all()
    assert np.isnan(laid.filled(np.nan)[6:, 4:]).all()


def test_the_middle_step_of_filters_over_time_is_drawn() -> None:
    weight = torch.randn(4, 3, 3, 2, 2)
    laid = filter_grid({"x": weight}).axes[0].images[0].get_array()
    assert np.allclose(laid[3:, :2], weight[2, 0, 1] / weight[2, 0, 1].abs().max())


def test_bad_filters() -> None:
    with pytest.raises(ValueError, match="filters must be of 1 to 4 networks, got 0"):
        filter_grid({})
    with pytest.raises(ValueError, match=r"filters of 'a' must be \(O, C, h, w\)"):
        filter_grid({"a": torch.zeros(3, 4)})
    with pytest.raises(ValueError, match="channel must be 0 to 2 for 'a', got 3"):
        filter_grid({"a": torch.zeros(4, 3, 7, 7)}, channel=3)
