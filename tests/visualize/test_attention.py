"""Attention maps of a place of a video, and rows of maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("captum", reason="Grad-CAM needs captum")
pytest.importorskip("skimage", reason="the motion dataset needs scikit-image")
pytest.importorskip("av", reason="video files need av")

from vidops.cli import main
from vidops.layers import NonLocal, RegionNonLocal, insert_after
from vidops.models import create_model
from vidops.visualize import (
    MapRow,
    ShownFrames,
    attention_layers,
    attention_of,
    grad_cam,
    load_subject,
    map_rows,
    stretch_map,
)

CLIP = torch.rand(1, 3, 8, 64, 64, generator=torch.Generator().manual_seed(0))


class OneBlock(nn.Module):
    """A network that shows its block the clip itself."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, clip: Tensor) -> Tensor:
        return self.block(clip).mean((2, 3, 4))


def test_a_place_takes_what_the_softmax_of_its_products_says() -> None:
    net = OneBlock(NonLocal(3, embed=False)).eval()
    clip = CLIP[:, :, :3, :5, :6].contiguous()
    found = attention_of(net, clip, (1, 0.5, 0.99))
    position = clip[0, :, 1, 2, 5]
    expected = torch.einsum("c,cthw->thw", position, clip[0]).flatten().softmax(0).view(3, 5, 6)
    torch.testing.assert_close(found.heat, expected)
    assert found.layer == "block"
    assert found.place == (1, 0.5, 0.99)
    assert found.cell == pytest.approx((2 / 5, 5 / 6, 3 / 5, 1))


def test_maps_of_regions_and_of_pooled_keys() -> None:
    for block, size in ((RegionNonLocal(3, kernel_size=3), (3, 6, 6)), (NonLocal(3, pool=True), (3, 3, 3))):
        found = attention_of(OneBlock(block).eval(), CLIP[:, :, :3, :6, :6], (2, 1.0, 0.0))
        assert tuple(found.heat.shape) == size
        torch.testing.assert_close(found.heat.sum(), torch.tensor(1.0))


def test_blocks_are_found_by_what_they_follow() -> None:
    net = create_model("tiny_tsm").eval()
    insert_after(net, ["layer2.0", "layer3.0"], lambda width: RegionNonLocal(width, kernel_size=3))
    names = attention_layers(net)
    assert len(names) == 2
    assert attention_of(net, CLIP, (0, 0.5, 0.5)).layer == names[1]
    found = attention_of(net, CLIP, (0, 0.5, 0.5), layer="layer2.0")
    assert found.layer == names[0]
    assert tuple(found.heat.shape) == (8, 8, 8)
    with pytest.raises(ValueError, match=r"layer 'layer1': TSM has no such block; there are layer2\.0"):
        attention_of(net, CLIP, (0, 0.5, 0.5), layer="layer1")
    stage = nn.Sequential(*(NonLocal(3) for _ in range(2)))
    with pytest.raises(ValueError, match=r"has several blocks; there are block\.0, block\.1"):
        attention_of(OneBlock(stage), CLIP, (0, 0.5, 0.5), layer="block")
    with pytest.raises(ValueError, match="TSN has no non-local or region-based"):
        attention_of(create_model("tiny_tsn"), CLIP, (0, 0.5, 0.5))


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ((8, 0.5, 0.5), "name a frame from 0 to 7, got 8$"),
        ((-1, 0.5, 0.5), "name a frame from 0 to 7, got -1$"),
        ((0, 1.5, 0.25), r"0 to 1 down and 0 to 1 to the right in its frame, got 1\.5, 0\.25$"),
    ],
)
def test_places_outside_are_refused(place: Any, text: str) -> None:
    with pytest.raises(ValueError, match=f"^place must (be )?{text}"):
        attention_of(OneBlock(NonLocal(3)), CLIP, place)


def row(label: str, place: Any = None, frames: int = 8, factor: float = 1.0) -> MapRow:
    shown = ShownFrames(torch.zeros(frames, 10, 20, 3), np.arange(frames))
    return MapRow(shown, factor * torch.rand(frames, 2, 2), label, place)


def test_rows_show_the_frames_with_points_and_mark_them() -> None:
    figure = map_rows([row("a", (5, 0.5, 0.25)), row("b", (0, 0.5, 0.5))], frames=3)
    frames = [axes.get_title() for axes in figure.axes[:3]]
    assert frames == ["frame 0", "frame 5", "frame 6"]  # equally spaced they would be 1, 4 and 6
    marks = [[line.get_xydata()[0].tolist() for line in axes.lines] for axes in figure.axes[:6]]
    assert marks == [[], [[4.5, 4.5]], [], [[9.5, 4.5]], [], []]
    assert [axes.get_ylabel() for axes in figure.axes[:6]] == ["a", "", "", "b", "", ""]


def test_the_cell_of_a_point_is_outlined_in_its_frame() -> None:
    shown = ShownFrames(torch.zeros(8, 10, 20, 3), np.arange(8))
    figure = map_rows([MapRow(shown, torch.rand(8, 5, 4), "a", (3, 0.5, 0.3), (0.4, 0.25, 0.6, 0.5))])
    outlines = [[patch.get_bbox().extents.tolist() for patch in axes.patches] for axes in figure.axes[:8]]
    assert [len(found) for found in outlines] == [0, 0, 0, 2, 0, 0, 0, 0]
    assert outlines[3] == [pytest.approx([4.5, 3.5, 9.5, 5.5])] * 2


def test_each_row_has_its_scale_or_all_share_one() -> None:
    rows = [row("a"), row("b", factor=10.0)]
    own, shared = map_rows(rows, label="x"), map_rows(rows, label="x", shared=True)
    ends = [[figure.axes[i].images[1].get_clim()[1] for i in (0, 8)] for figure in (own, shared)]
    greatest = [float(r.heat.max()) for r in rows]
    assert ends == [greatest, [greatest[1]] * 2]
    assert [figure.axes[-1].get_ylabel() for figure in (own, shared)] == ["x, of each row's greatest", "x"]


@pytest.mark.parametrize(
    ("rows", "options", "text"),
    [
        ([], {}, "rows must be at least one"),
        ([row("a"), row("b", frames=4)], {}, "as many frames, got \\[4, 8\\]"),
        ([row("a", (9, 0.5, 0.5))], {}, "place must name a frame from 0 to 7"),
        ([row("a")], {"frames": 0}, "frames must be at least 1"),
        (
            [row("a", (1, 0.5, 0.5)), row("a", (2, 0.5, 0.5))],
            {"frames": 1},
            "at least the 2 that hold a point",
        ),
    ],
)
def test_rows_that_do_not_fit_are_refused(rows: list[MapRow], options: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        map_rows(rows, **options)


def call(*arguments: object) -> int:
    return main(["visualize", *map(str, arguments)])


def test_attention_of_networks_below_each_other(video: Path, tmp_path: Path, drawn: list[Any]) -> None:
    points = ("--point", "2,0.3,0.5", "--point", "5,0.7,0.4")
    out = tmp_path / "attention.png"
    assert (
        call(
            "attention", video, "--model", "tiny_rnl", "--model", "tiny_nl", *points, "--frames", 4, "-o", out
        )
        == 0
    )
    assert out.stat().st_size > 1000
    axes = drawn[0].axes
    assert [axes[4 * i].get_ylabel() for i in range(4)] == ["tiny_rnl", "tiny_rnl", "tiny_nl", "tiny_nl"]
    assert sum(len(each.lines) for each in axes[:16]) == 4
    assert drawn[0].get_suptitle() == "val_00000.mp4: attention of the red point's cell behind layer3.0"


def test_the_point_of_the_command_line_is_that_of_the_operator(
    video: Path, tmp_path: Path, drawn: list[Any]
) -> None:
    """T,Y,X, the order of attention_map's (t, y, x): a point near the top at the right."""
    assert (
        call("attention", video, "--model", "tiny_rnl", "--point", "1,0.1,0.9", "-o", tmp_path / "a.png") == 0
    )
    marks = [axes.lines[0].get_xydata()[0] for axes in drawn[0].axes if axes.lines]
    assert len(marks) == 1
    assert marks[0] == pytest.approx([0.9 * 64 - 0.5, 0.1 * 64 - 0.5])


def test_one_point_stands_at_one_place_whatever_the_map(
    video: Path, tmp_path: Path, drawn: list[Any]
) -> None:
    for layer in ("layer2", "layer3"):
        options = ("--point", "2,0.3,0.6", "--layer", layer, "-o", tmp_path / "a.png")
        assert call("attention", video, "--model", "tiny_rnl", *options) == 0
    marked = [axes for figure in drawn for axes in figure.axes if axes.lines]
    assert marked[0].lines[0].get_xydata().tolist() == marked[1].lines[0].get_xydata().tolist()
    cells = [axes.patches[0].get_bbox() for axes in marked]
    assert cells[0].width < cells[1].width
    for axes, cell in zip(marked, cells, strict=True):
        assert cell.contains(*axes.lines[0].get_xydata()[0])


def test_checkpoints_of_one_name_are_told_apart_by_their_folders(
    video: Path, checkpoint: Path, tmp_path: Path, drawn: list[Any]
) -> None:
    files = []
    for folder in ("first/seed1", "first/seed2", "second/seed1"):
        files.append(tmp_path / folder / "best.ckpt")
        files[-1].parent.mkdir(parents=True)
        files[-1].symlink_to(checkpoint)
    weights = [word for file in files for word in ("--weights", file)]
    assert call("pairs", video, *weights, "--frames", 1, "-o", tmp_path / "pairs.png") == 0
    labels = [axes.get_ylabel().split("\n")[0] for axes in drawn[0].axes[:3]]
    model = labels[0].partition(" ")[0]
    assert labels == [f"{model} ({name})" for name in ("first/seed1", "first/seed2", "second/seed1")]


def test_grad_cam_of_two_networks_is_of_one_class(
    video: Path, checkpoint: Path, tmp_path: Path, drawn: list[Any]
) -> None:
    weights = ("--weights", f"first={checkpoint}", "--weights", f"second={checkpoint}")
    assert call("pairs", video, video, *weights, "--frames", 2, "-o", tmp_path / "pairs.png") == 0
    labels = [axes.get_ylabel() for axes in drawn[0].axes[:8:2]]
    assert [label.split("\n")[0] for label in labels] == ["first", "second"] * 2
    assert len({label.split("\n")[1] for label in labels}) == 1


def test_grad_cam_with_and_without_key_points(video: Path, tmp_path: Path, drawn: list[Any]) -> None:
    """Figure 9 of KPSEM: the network without in the upper row, maps of half as many frames over all of them."""
    networks = ("tiny_mfnet", "tiny_mf_kpsem")
    models = [word for name in networks for word in ("--model", name)]
    assert call("pairs", video, *models, "--class", 3, "-o", tmp_path / "pairs.png") == 0
    for i, name in enumerate(networks):
        subject = load_subject(model=name)
        clip, shown = subject.read(video)
        found = grad_cam(subject.net, clip, target=3)
        assert (len(found.heat), found.layer) == (4, "conv5.B01")
        assert found.heat.any()
        row = drawn[0].axes[8 * i : 8 * i + 8]
        laid = np.array([axes.images[1].get_array() for axes in row])
        assert np.array_equal(laid, stretch_map(found.heat, *shown.frames.shape[:3]))
        assert row[0].get_ylabel() == f"{name}\nclass 3 ({found.probability:.1%})"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("attention", "v.mp4"), "give a network: --weights or --model"),
        (
            ("attention", "v.mp4", "--model", "tiny_rnl", "--point", "1,2"),
            "--point must be T,Y,X, a frame and two numbers",
        ),
        (("pairs", "v.mp4", "--model", "tiny_rnl", "--class", "none"), "class 'none'"),
    ],
)
def test_bad_options_are_named(
    arguments: tuple[str, ...], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments, "-o", tmp_path / "x.png") != 0
    assert text in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


def test_points_outside_name_the_option(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("attention", video, "--model", "tiny_rnl", "--point", "99,0,0", "-o", tmp_path / "x.png") != 0
    assert "tiny_rnl: --point must name a frame from 0 to 7, got 99" in capsys.readouterr().err
