"""What each pathway counts in a clip, and what is drawn of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from torch import nn

from tests.visualize.boxes import lies_in
from vidops.layers import TemporalSpatialPathway
from vidops.models import create_model
from vidops.visualize import Pathways, ShownFrames, pathway_averages, pathway_timeline, pathways_of

ONE, ALL, SPACE, TIME = (1, 1, 1), (4, 4, 4), (1, 4, 4), (4, 1, 1)
CLIP = torch.rand(1, 3, 8, 48, 48, generator=torch.Generator().manual_seed(0))


def shown(count: int = 8, height: int = 8, width: int = 8) -> ShownFrames:
    return ShownFrames(torch.zeros(count, height, width, 3), np.arange(count) * 10, np.arange(count) / 4)


def by_hand() -> Pathways:
    """Two blocks, of four time steps and of one."""
    first = torch.tensor(
        [[0.7, 0.1, 0.1, 0.2], [0.1, 0.7, 0.1, 0.3], [0.1, 0.1, 0.7, 0.1], [0.1, 0.1, 0.1, 0.4]]
    )
    second = torch.tensor([[0.2], [0.1], [0.3], [0.4]])
    dilations = (ONE, ALL, SPACE, TIME)
    return Pathways({"a": first, "b": second}, {"a": dilations, "b": dilations})


def bars(figure: Any) -> list[tuple[float, float, float, str]]:
    """Row, left and right edge, colour."""
    return [
        (bar.get_y() + bar.get_height() / 2, bar.get_x(), bar.get_x() + bar.get_width(), to_hex(bar.get_facecolor()))
        for bar in figure.axes[-1].patches
    ]  # fmt: skip


def test_they_are_the_networks_own() -> None:
    net = create_model("tiny_btsnet", num_pathways=4, receptive_fields="O2").eval()
    found = pathways_of(net, CLIP)
    for name, weights in net.pathway_contributions(CLIP).items():
        assert torch.equal(found.weights[name], weights[0])
        assert found.dilations[name] == (ONE, ALL, SPACE, TIME)
    assert list(found.weights) == ["layer1.0", "layer2.0", "layer3.0"]


def test_blocks_of_other_names_keep_them() -> None:
    made = [TemporalSpatialPathway(4, num_pathways=m, groups=2) for m in (2, 3)]
    found = pathways_of(nn.Sequential(*made).eval(), torch.rand(1, 4, 3, 5, 5))
    assert {name: tuple(weights.shape) for name, weights in found.weights.items()} == {
        "0": (2, 3),
        "1": (3, 3),
    }
    averages = pathway_averages([found]).axes[0]
    assert np.isnan(averages.lines[3].get_ydata()[0])  # the third pathway is the second block's alone
    assert averages.lines[0].get_ydata().tolist() == pytest.approx([1 / 2, 1 / 3])


def test_time_steps_have_the_posters_colours_where_they_are() -> None:
    figure = pathway_timeline(shown(), by_hand(), frames=4)
    red, cyan, blue, magenta = (to_hex(name) for name in ("red", "cyan", "blue", "magenta"))
    assert bars(figure) == [
        (0, -0.5, 1, red),  # around frames 0, 2, 4 and 6 of the 8
        (0, 1, 3, cyan),
        (0, 3, 5, blue),
        (0, 5, 7.5, magenta),
        (1, -0.5, 7.5, magenta),
    ]
    assert [axes.get_title() for axes in figure.axes[:-1]] == [
        "frame 10\n0.25 s", "frame 30\n0.75 s", "frame 50\n1.25 s", "frame 70\n1.75 s",
    ]  # fmt: skip
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == [
        "[1, 1, 1]",
        "[4, 4, 4]",
        "[1, 4, 4]",
        "[4, 1, 1]",
    ]
    assert [to_hex(patch.get_facecolor()) for patch in legend.get_patches()] == [red, cyan, blue, magenta]


@pytest.mark.parametrize(
    ("frames", "steps", "centre"),
    [(30, 15, 2), (30, 8, 4), (30, 4, 8), (5, 1, 5), (20, 3, 8), (12, 2, 8), (9, 3, 4), (9, 9, 1), (7, 3, 3)],
)
def test_steps_lie_around_the_frames_that_they_are_made_of(frames: int, steps: int, centre: int) -> None:
    found = Pathways({"a": torch.ones(1, steps)}, {"a": (ONE,)})
    edges = [(left, right) for _, left, right, _ in bars(pathway_timeline(shown(frames), found))]
    assert edges[0][0] == -0.5
    assert edges[-1][1] == frames - 0.5
    for i, (left, right) in enumerate(edges):
        assert left <= i * centre <= right
        assert i == 0 or left == edges[i - 1][1] == (i - 0.5) * centre


@pytest.mark.parametrize("frame", [(8, 24), (24, 8), (8, 8)])
def test_frames_stand_above_their_time(frame: tuple[int, int]) -> None:
    figure = pathway_timeline(shown(8, *frame), by_hand(), title="a long title of a video " * 6)
    figure.canvas.draw()
    below = figure.axes[-1]
    for i, axes in enumerate(figure.axes[:-1]):
        middle = below.transData.transform((i, 0))[0]
        box = axes.get_window_extent()
        assert abs((box.x0 + box.x1) / 2 - middle) < 0.06 * (figure.bbox.width / 8)
        assert lies_in(box, figure.bbox)
    assert lies_in(figure.legends[0].get_window_extent(), figure.bbox)


def test_averages_are_over_time_and_clips() -> None:
    other = Pathways({"a": torch.full((4, 4), 0.25), "b": torch.full((4, 1), 0.25)}, by_hand().dilations)
    lines = pathway_averages([by_hand(), other]).axes[0].lines
    assert [to_hex(line.get_color()) for line in lines[1:]] == [
        to_hex(c) for c in ("red", "cyan", "blue", "magenta")
    ]
    expected = [[0.2625, 0.225], [0.275, 0.175], [0.25, 0.275], [0.2125, 0.325]]
    assert [line.get_ydata() for line in lines[1:]] == [pytest.approx(pair) for pair in expected]
    assert lines[0].get_ydata().tolist() == [0.25, 0.25]


def test_every_field_of_a_set_has_its_own_colour() -> None:
    for options in (
        {"num_pathways": 7},
        {"num_pathways": 7, "receptive_fields": "O2"},
        {"dilations": [*range(1, 9)]},
    ):
        net = create_model("tiny_btsnet", **options).eval()
        lines = pathway_averages([pathways_of(net, CLIP)]).axes[0].lines[1:]
        assert len({to_hex(line.get_color()) for line in lines}) == len(lines) >= 7


def test_bad_questions() -> None:
    net = create_model("tiny_btsnet").eval()
    with pytest.raises(ValueError, match=r"clip must be one, \(1, C, T, H, W\), got \(2, 3, 8, 48, 48\)"):
        pathways_of(net, CLIP.expand(2, -1, -1, -1, -1))
    with pytest.raises(ValueError, match="TSN has no temporal-spatial pathway block"):
        pathways_of(create_model("tiny_tsn"), CLIP)
    with pytest.raises(ValueError, match="frames must be at least 1, got 0"):
        pathway_timeline(shown(), by_hand(), frames=0)
    with pytest.raises(ValueError, match="shown must have at least the 4 frames of a, got 3"):
        pathway_timeline(shown(3), by_hand())
    with pytest.raises(ValueError, match="found must be of at least one clip"):
        pathway_averages([])
    with pytest.raises(ValueError, match=r"found must be of .* networks with the same blocks"):
        pathway_averages([by_hand(), pathways_of(net, CLIP)])


def test_the_command(tmp_path: Path, drawn: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("av", reason="video files need av")
    from tests.data._videos import write_video
    from vidops.cli import main
    from vidops.visualize import load_subject

    video = str(write_video(tmp_path / "a.mp4"))
    out = tmp_path / "pathways.png"

    def call(*options: object) -> int:
        return main(["visualize", "pathways", *map(str, (*options, "--model", "tiny_btsnet", "-o", out))])

    assert call(video, "--frames", 3) == 0
    subject = load_subject(model="tiny_btsnet")
    found = pathways_of(subject.net, subject.read(video)[0])
    assert bars(drawn[0]) == bars(pathway_timeline(subject.read(video)[1], found))
    assert len(drawn[0].axes) == 4
    assert drawn[0].get_suptitle().replace("\n", " ") == (
        "a.mp4: pathways with the greatest contribution, tiny_btsnet with random weights"
    )
    assert out.stat().st_size > 5_000
    assert call(video, video, "--averages") == 0
    assert drawn[1].axes[0].lines[1].get_ydata() == pytest.approx(
        [float(weights[0].mean()) for weights in found.weights.values()]
    )
    assert drawn[1].get_suptitle().startswith("2 videos: pathways of tiny_btsnet")
    out.unlink()
    for options, text in (
        ((video, video), "give one VIDEO, or --averages for several"),
        ((video, "--averages", "--frames", 2), "--frames is for the time steps of one video"),
        ((video, "--frames", 0), "--frames must be at least 1, got 0"),
    ):
        assert call(*options) != 0
        assert text in capsys.readouterr().err
        assert not out.exists()
