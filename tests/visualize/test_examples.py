"""Clips with what networks take them for."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from tests.visualize.boxes import lies_in
from vidops.visualize import Example, ShownFrames, example_rows, likeliest, load_subject
from vidops.visualize.examples import OTHER, PLAIN, RIGHT, WRONG


def shown(frames: int = 8) -> ShownFrames:
    values = torch.arange(frames).view(-1, 1, 1, 1).expand(frames, 6, 8, 3) / 10
    return ShownFrames(values, np.arange(frames))


FIRST = [("left", 0.75), ("up", 0.2), ("down", 0.05)]
SECOND = [("up", 0.5), ("right", 0.25), ("left", 0.125)]


def bars(axes: Any) -> list[tuple[float, str]]:
    return [(bar.get_width(), to_hex(bar.get_facecolor())) for bar in axes.patches]


def texts(axes: Any) -> list[tuple[str, str]]:
    return [(text.get_text(), text.get_weight()) for text in axes.texts]


def test_rows_of_clips_and_scores() -> None:
    rows = [
        Example(shown(), {"MFNet": FIRST, "MF-KPSEM": SECOND}, "up", "a.mp4"),
        Example(shown(2), {"MFNet": FIRST, "MF-KPSEM": SECOND}, None, "b.mp4"),
    ]
    figure = example_rows(rows, frames=4, title="two")
    cells = figure.axes
    assert len(cells) == 2 * (4 + 2)
    values = [
        [float(axes.images[0].get_array()[0, 0, 0]) for axes in cells[6 * i :][:n]]
        for i, n in ((0, 4), (1, 2))
    ]
    assert values[0] == pytest.approx([0.1, 0.3, 0.5, 0.7])
    assert values[1] == pytest.approx([0.0, 0.1])
    assert [part.get_suptitle() for part in figure.subfigs] == ["a.mp4, true class: up", "b.mp4"]
    assert [cells[i].get_title("left") for i in (4, 5)] == ["MFNet \N{BALLOT X}", "MF-KPSEM \N{CHECK MARK}"]
    assert [cells[i].get_title("left") for i in (10, 11)] == ["MFNet", "MF-KPSEM"]
    right, wrong, other, plain = (to_hex(color) for color in (RIGHT, WRONG, OTHER, PLAIN))
    assert bars(cells[4]) == [(0.75, wrong), (0.2, right), (0.05, other)]
    assert bars(cells[5]) == [(0.5, right), (0.25, other), (0.125, other)]
    assert [color for _, color in bars(cells[10])] == [plain] * 3
    assert texts(cells[4])[:4] == [("left", "normal"), ("75.0%", "normal"), ("up", "bold"), ("20.0%", "bold")]


def test_long_names_stay_in_their_places() -> None:
    long = "Pretending to put something underneath something and failing"
    scores = {
        f"{name}_with_a_long_name_of_its_own (runs/second)": [(long, 1.0), (long, 0.9)] for name in "ab"
    }
    tall = ShownFrames(shown().frames.transpose(1, 2), np.arange(8))
    figure = example_rows(
        [Example(each, scores, long, "v_ApplyEyeMakeup_g01_c01.avi") for each in (shown(), tall)]
    )
    figure.canvas.draw()
    for part in figure.subfigs:
        header = part._suptitle.get_window_extent()
        assert lies_in(header, figure.bbox)
        for axes in part.axes[4:]:
            column = axes.get_window_extent()
            title = (
                axes.title.get_window_extent() if axes.get_title() else axes._left_title.get_window_extent()
            )
            assert title.x1 <= column.x1
            assert not title.overlaps(header)
            boxes = [text.get_window_extent() for text in axes.texts]
            assert not any(a.overlaps(b) for a, b in itertools.combinations([title, *boxes], 2))
            assert all(lies_in(box, column) for box in boxes)
            assert [text.get_text().replace("\n", " ") for text in axes.texts[::2]] == [long, long]


@pytest.mark.parametrize(
    ("rows", "frames", "text"),
    [
        ([], 4, "examples must be at least one"),
        ([Example(shown(), {})], 4, "scores of at least one network"),
        ([Example(shown(), {"a": FIRST}), Example(shown(), {"b": FIRST})], 4, r"same networks, got \['b'\]"),
        ([Example(shown(), {"a": FIRST})], 0, "frames must be at least 1, got 0"),
        ([Example(shown(), {"a": []})], 4, "scores of at least one class"),
    ],
)
def test_rows_that_do_not_fit(rows: list[Example], frames: int, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        example_rows(rows, frames=frames)


def test_the_likeliest_classes_are_those_of_the_softmax() -> None:
    subject = load_subject(model="tiny_mf_kpsem")
    clip = torch.rand(1, 3, 8, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        values, numbers = subject.net(clip)[0].softmax(0).topk(3)
    found = likeliest(subject, clip)
    assert [name for name, _ in found] == [subject.classes[i] for i in numbers]
    assert [value for _, value in found] == pytest.approx(values.tolist())
    assert len(likeliest(subject, clip, top=99)) == 8
    with pytest.raises(ValueError, match="top must be at least 1"):
        likeliest(subject, clip, top=0)
    with pytest.raises(ValueError, match="clip must be one"):
        likeliest(subject, clip[0])


def test_the_command(tmp_path: Path, drawn: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("av", reason="video files need av")
    from tests.data._videos import write_video
    from vidops.cli import main

    video, out = write_video(tmp_path / "a.mp4"), tmp_path / "examples.png"
    networks = ("--model", "tiny_mfnet", "--model", "tiny_mf_kpsem")

    def call(*options: object) -> int:
        return main(["visualize", "examples", *map(str, (*options, "-o", out))])

    assert call(f"class 2={video}", video, *networks, "--top", 2, "--frames", 3) == 0
    cells = drawn[0].axes
    assert [part.get_suptitle() for part in drawn[0].subfigs] == ["a.mp4, true class: class 2", "a.mp4"]
    for i, name in ((3, "tiny_mfnet"), (4, "tiny_mf_kpsem")):
        subject = load_subject(model=name)
        scores = likeliest(subject, subject.read(video)[0], 2)
        assert [text for text, _ in texts(cells[i])] == [
            t for label, p in scores for t in (label, f"{p:.1%}")
        ]
        assert cells[i].get_title("left").split()[0] == name
    assert out.stat().st_size > 10_000
    out.unlink()
    for options, text in (
        ((f"none={video}", *networks), "class 'none': is not one of the 8 classes"),
        ((video,), "give a network: --weights or --model"),
        ((video, *networks, "--top", 0), "--top must be at least 1, got 0"),
    ):
        assert call(*options) != 0
        assert text in capsys.readouterr().err
        assert not out.exists()
