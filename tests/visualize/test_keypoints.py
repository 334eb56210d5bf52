"""Key points of a clip, and what is drawn of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.visualize.boxes import lies_in
from vidops.layers import AdaptiveRegionalShift
from vidops.models import create_model
from vidops.ops import keypoint_shifts
from vidops.visualize import ShownFrames, key_point_grid, key_points_of

CLIP = torch.rand(1, 3, 8, 48, 64, generator=torch.Generator().manual_seed(0))


class Inner(nn.Module):
    """A network that shows the clip itself to what finds its key points."""

    def __init__(self, *shifters: nn.Module) -> None:
        super().__init__()
        self.maps = nn.Identity()
        self.shifters = nn.ModuleList(shifters)

    def forward(self, clip: Tensor) -> Tensor:
        clip = self.maps(clip)
        return clip.mean((2, 3, 4)) + sum(shifter(clip).mean() for shifter in self.shifters)


def moved_lines(regions: int = 4, sets: int = 2) -> AdaptiveRegionalShift:
    torch.manual_seed(2)
    shifter = AdaptiveRegionalShift(3, regions, sets)
    nn.init.normal_(shifter.centre[-1].weight, std=3.0)
    nn.init.normal_(shifter.centre[-1].bias)
    return shifter


def blob(places: list[tuple[int, int]], height: int, width: int) -> Tensor:
    """A clip of one channel with one bright pixel (x, y) a frame."""
    clip = torch.zeros(1, 1, len(places), height, width)
    for t, (x, y) in enumerate(places):
        clip[0, 0, t, y, x] = 20.0
    return clip


def test_key_points_are_those_of_the_networks_own_layer() -> None:
    shifter = moved_lines(9)
    found = key_points_of(Inner(shifter).eval(), CLIP, set_number=1)
    shifts, points, _ = shifter.key_points(CLIP)
    assert torch.equal(found.points, points[0, 1])
    assert torch.equal(found.shifts, shifts[0, 1])
    assert found.size == (48, 64)
    assert found.layer == "shifters.0"
    lines = shifter.separators(CLIP)[0, 1].detach()
    torch.testing.assert_close(found.lines, lines.sort(-1).values.double())  # all are inside, and far apart
    assert lines.std(0).max() > 0.4  # each frame has its own


def test_a_layer_without_regions_is_split_equally() -> None:
    net = create_model("tiny_mfnet").eval()
    outputs: list[Tensor] = []
    net.conv3.register_forward_hook(lambda *call: outputs.append(call[2].clone()))
    found = key_points_of(net, CLIP[..., :48], layer="conv3", regions=9)
    maps = outputs[0]
    side = maps.shape[-1]
    grid = torch.tensor([side / 3, 2 * side / 3]).expand(1, 1, maps.shape[2], 2, 2)
    shifts, points, _ = keypoint_shifts(maps, grid, return_keypoints=True)
    assert torch.equal(found.points, points[0, 0])
    assert torch.equal(found.shifts, shifts[0, 0])
    assert (found.learned, found.size) == (False, (side, side))
    folded = key_points_of(create_model("tiny_tsn").eval(), CLIP[..., :48], layer="layer1")
    assert folded.points.shape[2] == 8  # frames that lie in the batch


def test_lines_are_drawn_where_they_were_used() -> None:
    """A line outside the frame is moved until every region has a pixel."""
    shifter = AdaptiveRegionalShift(3, 16)
    nn.init.constant_(shifter.centre[-1].bias, 9.0)  # a quarter of a frame to the right, and down
    found = key_points_of(Inner(shifter).eval(), CLIP)
    assert found.lines[0].tolist() == [[32, 48, 63], [24, 36, 47]]


def test_points_and_arrows_lie_where_the_map_says() -> None:
    """A map of 4 x 8 on frames of 40 x 80 and of 16 x 16: the middle of its pixel, and a pixel's size for each step."""
    net = Inner()
    found = key_points_of(net, blob([(1, 2), (2, 1), (5, 3)], 4, 8), layer="maps", regions=1)
    for height, width in ((40, 80), (16, 16)):
        shown = ShownFrames(torch.zeros(3, height, width, 3), np.arange(3))
        axes = key_point_grid(shown, found).axes
        x, y = width / 8, height / 4
        expected = [(1.5 * x, 2.5 * y), (2.5 * x, 1.5 * y), (5.5 * x, 3.5 * y)]
        for each, place in zip(axes, expected, strict=True):
            assert drawn_points(each) == [pytest.approx([place[0] - 0.5, place[1] - 0.5])]
        assert drawn_arrows(axes[0]) == [pytest.approx([x, -y])]
        assert drawn_arrows(axes[1]) == [pytest.approx([3 * x, 2 * y])]
        assert drawn_arrows(axes[2]) == []  # nothing comes after the last frame


def drawn_points(axes: Any) -> list[list[float]]:
    from matplotlib.quiver import Quiver

    return [
        place
        for each in axes.collections
        if not isinstance(each, Quiver)
        for place in each.get_offsets().tolist()
    ]


def drawn_arrows(axes: Any) -> list[list[float]]:
    from matplotlib.quiver import Quiver

    return [
        list(way)
        for each in axes.collections
        if isinstance(each, Quiver)
        for way in zip(each.U, each.V, strict=True)
    ]


def test_regions_have_colours_and_lines() -> None:
    found = key_points_of(Inner(moved_lines()).eval(), CLIP)
    shown = ShownFrames(torch.rand(8, 24, 32, 3), np.arange(8))
    figure = key_point_grid(shown, found, channels=[2, 0], stretch=1.5)
    for t, axes in enumerate(figure.axes):
        points = torch.cat([found.points[:, 2, t], found.points[:, 0, t]]).double()
        assert drawn_points(axes) == pytest.approx(((points + 0.5) / 2 - 0.5).numpy())
        assert drawn_arrows(axes) == (
            [] if t == 7 else pytest.approx(torch.cat([found.shifts[:, c, t] for c in (2, 0)]).numpy() * 0.75)
        )
        across, down = (found.lines[t] / 2 - 0.5).tolist()
        places = (
            [line.get_xdata()[0] for line in axes.lines[:2]],
            [line.get_ydata()[0] for line in axes.lines[2:]],
        )
        assert places == (pytest.approx(across * 2), pytest.approx(down * 2))  # each twice, for its dark edge
        # What has one colour lies on one side of the lines.
        colors = np.concatenate([each.get_facecolor() for each in axes.collections[-1:]])
        assert len({tuple(color) for color in colors}) == 4
        for region, (x, y) in enumerate(drawn_points(axes)[:4]):
            assert (x > across[0], y > down[0]) == (region % 2 == 1, region >= 2)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "channel 2",
        "channel 0",
        "shift of a key point, 1.5 times as long",
    ]


def test_the_map_of_a_strided_network_lies_on_every_second_frame() -> None:
    found = key_points_of(create_model("tiny_mf_kpsem").eval(), CLIP[..., :48])
    shown = ShownFrames(torch.zeros(8, 48, 48, 3), np.arange(8) * 10, np.arange(8) / 4)
    titles = [axes.get_title() for axes in key_point_grid(shown, found).axes]
    assert titles == ["frame 0, 0.00 s", "frame 20, 0.50 s", "frame 40, 1.00 s", "frame 60, 1.50 s"]
    figure = key_point_grid(shown, found, frames=2, channels=[1])
    assert [axes.get_title() for axes in figure.axes] == [titles[1], titles[3]]
    assert drawn_points(figure.axes[0]) == pytest.approx(
        ((found.points[:, 1, 1] + 0.5) * 48 / 6 - 0.5).numpy()
    )


def test_the_strongest_channels_move_farthest() -> None:
    found = key_points_of(create_model("tiny_mf_kpsem").eval(), CLIP[..., :48])
    lengths = found.shifts.pow(2).sum(-1).sqrt().mean((0, 2))
    assert found.strongest(5) == lengths.topk(5).indices.tolist()
    shown = ShownFrames(torch.zeros(8, 48, 48, 3), np.arange(8))
    texts = [text.get_text() for text in key_point_grid(shown, found).legends[0].get_texts()]
    assert texts[:-1] == [f"channel {channel}" for channel in found.strongest(3)]


def test_the_legend_of_a_narrow_picture_has_rows() -> None:
    found = key_points_of(Inner(), CLIP.repeat(1, 2, 1, 1, 1), layer="maps")
    figure = key_point_grid(
        ShownFrames(torch.zeros(8, 40, 20, 3), np.arange(8)), found, channels=[0, 1, 2, 3, 4, 5], columns=2
    )
    figure.canvas.draw()
    assert lies_in(figure.legends[0].get_window_extent(), figure.bbox)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"set_number": 2}, "^set_number must be one from 0 to 1, got 2"),
        ({"regions": 4}, r"^regions: shifters\.0 has its own"),
        ({"layer": "maps", "regions": 5}, "^regions must be one of 1, 4, 9, 16, got 5"),
        ({"layer": "maps", "set_number": 1}, "^set_number: maps has no sets"),
        ({"layer": "none"}, "^layer 'none': Inner has no such module"),
    ],
)
def test_bad_questions(options: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        key_points_of(Inner(moved_lines()).eval(), CLIP, **options)


def test_what_has_no_shifts_is_refused() -> None:
    with pytest.raises(ValueError, match=r"layer layer4: its map of 1 x 1 is too small for 4 regions"):
        key_points_of(create_model("tiny_tsn").eval(), CLIP[..., :32, :32])
    with pytest.raises(ValueError, match="clip must be one"):
        key_points_of(Inner(moved_lines()), CLIP.expand(2, -1, -1, -1, -1))
    with pytest.raises(ValueError, match="layer maps: its map must be of at least 2 frames, is of 1"):
        key_points_of(Inner(), CLIP[:, :, :1], layer="maps")
    shared = moved_lines()
    with pytest.raises(ValueError, match=r"layer shifters\.0: must run once a clip, runs 2 times"):
        key_points_of(Inner(shared, shared), CLIP)
    with pytest.raises(ValueError, match=r"layer 'shifters': has several sets of regions"):
        key_points_of(Inner(moved_lines(), moved_lines()), CLIP, layer="shifters")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"channels": [3]}, r"channels must be some from 0 to 2, got \[3\]"),
        ({"channels": []}, "channels must be some"),
        ({"frames": 0}, "frames must be at least 1, got 0"),
        ({"stretch": 0.0}, "stretch must be above 0 and finite, got 0"),
    ],
)
def test_bad_numbers(options: Any, text: str) -> None:
    found = key_points_of(Inner(), CLIP, layer="maps")
    with pytest.raises(ValueError, match=text):
        key_point_grid(ShownFrames(torch.zeros(8, 8, 8, 3), np.arange(8)), found, **options)
    with pytest.raises(ValueError, match="shown must have at least the 8 frames of the map, got 7"):
        key_point_grid(ShownFrames(torch.zeros(7, 8, 8, 3), np.arange(7)), found)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        found.strongest(0)


def test_the_command(tmp_path: Path, drawn: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("av", reason="video files need av")
    from tests.data._videos import write_video
    from vidops.cli import main
    from vidops.visualize import load_subject

    video = write_video(tmp_path / "a.mp4")
    out = tmp_path / "keypoints.png"

    def call(*options: object) -> int:
        return main(
            ["visualize", "keypoints", *map(str, (video, "--model", "tiny_mf_kpsem", *options, "-o", out))]
        )

    assert call("--set", 1, "--channels", "7,2", "--frames", 3) == 0
    subject = load_subject(model="tiny_mf_kpsem")
    clip, _ = subject.read(video)
    found = key_points_of(subject.net, clip, set_number=1)
    places = torch.cat([found.points[:, 7, 0], found.points[:, 2, 0]]).double()
    assert drawn_points(drawn[0].axes[0]) == pytest.approx(((places + 0.5) * 64 / 8 - 0.5).numpy())
    assert drawn[0].get_suptitle().replace("\n", " ") == (
        "a.mp4: key points in regions of set 1 of kpsem.shifts, tiny_mf_kpsem with random weights"
    )
    assert out.stat().st_size > 10_000
    out.unlink()
    for options, text in (
        (("--channels", "a"), "--channels must be numbers such as 3,17, got 'a'"),
        (("--set", 2), "--set must be one from 0 to 1, got 2"),
        (("--count", 0), "--count must be at least 1, got 0"),
    ):
        assert call(*options) != 0
        assert text in capsys.readouterr().err
        assert not out.exists()
