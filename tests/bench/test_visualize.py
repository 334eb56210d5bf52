"""Pictures: what is drawn, what is refused, files that are whole."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("matplotlib")

from vidops import visualize
from vidops.visualize.benchmarks import _columns
from vidops.visualize.figures import new_figure
from vidops.visualize.training import read_curves

LOG = "epoch,step,train_loss,val_top1\n1,10,2.0,\n1,20,1.5,0.25\n2,30,1.0,\n2,40,0.5,0.75\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    file = tmp_path / "metrics.csv"
    file.write_text(LOG)
    return file


def clip(frames: int = 8, value: int = 0) -> torch.Tensor:
    return torch.full((frames, 6, 8, 3), value, dtype=torch.uint8)


def test_frames_are_shown_in_order() -> None:
    ramp = torch.arange(12, dtype=torch.uint8).view(12, 1, 1, 1).expand(12, 4, 4, 3)
    figure = visualize.frame_grid([ramp, ramp.flip(0)], ["up", "down"], frames=4, average=True)
    shown = [float(axes.images[0].get_array()[0, 0, 0]) * 255 for axes in figure.axes]
    assert shown == pytest.approx([0, 4, 7, 11, 5.5, 11, 7, 4, 0, 5.5], abs=1e-3)
    assert [axes.get_xlabel() for axes in figure.axes[:5]] == [
        "frame 0",
        "frame 4",
        "frame 7",
        "frame 11",
        "average",
    ]


def test_shorter_clips_are_stretched() -> None:
    figure = visualize.frame_grid([clip(1), clip(8)], ["one", "eight"])
    assert len(figure.axes) == 16


@pytest.mark.parametrize(
    ("clips", "titles", "text"),
    [
        ([], [], "clips must be at least one"),
        ([clip()], ["a", "b"], "got 1 and 2 titles"),
        ([torch.zeros(8, 3, 6, 6)], ["a"], r"shape \(T, H, W, 3\), got \(8, 3, 6, 6\)"),
        ([clip(0)], ["a"], "shape"),
    ],
)
def test_bad_clips(clips: list[torch.Tensor], titles: list[str], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        visualize.frame_grid(clips, titles)


def test_curves_are_the_logs(log: Path) -> None:
    figure = visualize.training_curves({"a": log, "b": log}, chance=0.125)
    loss, accuracy = figure.axes
    assert loss.lines[0].get_xydata().tolist() == [[10, 2.0], [30, 1.0]]
    assert accuracy.lines[1].get_xydata().tolist() == [[20, 25.0], [40, 75.0]]
    assert [text.get_text() for text in accuracy.get_legend().get_texts()] == ["a", "b", "guessing"]


def test_bad_logs(tmp_path: Path, log: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"log .*none\.csv: no such file"):
        read_curves(tmp_path / "none.csv")
    with pytest.raises(ValueError, match=r"metrics\.csv: has no values of val_top5"):
        visualize.training_curves({"a": log}, accuracy="val_top5")
    log.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="has no column named step"):
        read_curves(log)
    log.write_text("step,train_loss\n1,2\n2,much\n")
    with pytest.raises(ValueError, match="line 3: holds no number"):
        read_curves(log)


def test_accuracies_are_bars() -> None:
    values = {"tsn": {"all": 0.125, "pairs": 0.5}, "mstnet": {"all": 0.99, "pairs": 1.0}}
    figure = visualize.accuracy_bars(values, chance={"all": 0.125, "pairs": 0.5})
    assert [bar.get_height() for bar in figure.axes[0].patches] == pytest.approx([12.5, 50, 99, 100])
    for bad in ({}, {"a": {}}, {"a": {"x": 1.0}, "b": {"y": 1.0}}):
        with pytest.raises(ValueError, match="same kinds"):
            visualize.accuracy_bars(bad)


def test_a_report_without_floors_is_not_drawn() -> None:
    with pytest.raises(ValueError, match="no kernel with a floor"):
        visualize.benchmark_bars({"results": []})


def test_bars_begin_at_one_and_say_what_they_are() -> None:
    def record(variant: str, floor: float, ratio: float, **more: Any) -> dict[str, Any]:
        return {
            **{
                "kind": "kernel",
                "operator": "op",
                "workload": "w",
                "dtype": "bfloat16",
                "direction": "forward",
            },
            **{
                "variant": variant,
                "layout": "NTHWC",
                "threads": None,
                "floor_multiple": floor,
                "targets": [],
            },
            **{
                "best": {"eager": {"variant": "cat", "ratio": ratio}},
                "ratios": {"cat": ratio, "sdpa": 9.0, "a": 8.0},
            },
            **more,
        }

    target = {"metric": "floor", "limit": 1.5}
    records = [
        record("cuda", 2.0, 3.0, targets=[target]),
        record("triton", 0.9, 0.5),
        record("fused", 4.0, 1.6, operator="network", direction="training"),
        record("another", 4.0, 1.6, best={}, ratios={}),
    ]
    machine = {"gpu": {"name": "NVIDIA Y"}, "versions": {"torch": "2.11.0"}}
    figure = visualize.benchmark_bars({"results": records, "machine": machine, "date": "then"})
    ends = [[bar.get_x() + bar.get_width() for bar in axes.patches] for axes in figure.axes]
    # A block an operator, of floors and speed-ups.
    assert [pytest.approx(own) for own in ends] == [[2.0, 0.9, 4.0], [3.0, 0.5, 1.0], [4.0], [1.6]]
    assert {axes.get_xscale() for axes in figure.axes} == {"log"}
    left, right, other, _ = figure.axes
    assert [text.get_text() for text in right.texts] == [
        "3.0 x cat, 8.0 x a",
        "0.5 x cat, 8.0 x a",
        "no baseline ran",
    ]
    assert left.get_title() == "op: time in multiples of the floor"
    heads = [text.get_text() for text in left.texts + other.texts if text.get_weight() == "bold"]
    assert heads == ["w bf16 forward", "w bf16 training"]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["cuda", "triton", "fused", "another", "target"]


def test_blocks_that_are_many_stand_in_columns() -> None:
    names = {"workload": "w", "dtype": "float32", "direction": "forward"}
    blocks = {
        name: [{"operator": name, **names}] * rows
        for name, rows in (("a", 60), ("b", 60), ("c", 300), ("d", 100))
    }
    columns = [[block[0]["operator"] for block in column] for column in _columns(blocks)]
    assert columns == [["c"], ["d", "a", "b"]]  # none taller than the tallest block
    del blocks["c"]
    columns = [[block[0]["operator"] for block in column] for column in _columns(blocks)]
    assert columns == [["d"], ["a", "b"]]


def test_roofline_has_a_point_a_size() -> None:
    def record(threads: int, seconds: float, **more: Any) -> dict[str, Any]:
        figures = {"bytes": 8e9, "products": 16e9, "copy_bytes_per_second": 1e10, "products_ceiling": 1e11}
        rates = {"products_per_second": 16e9 / seconds, "bytes_per_second": 8e9 / seconds}
        name = {
            "operator": "op",
            "workload": "w",
            "dtype": "float32",
            "device": "cpu",
            "direction": "forward",
        }
        own = {"kind": "kernel", "status": "ok", "threads": threads, "seconds": seconds}
        return {**name, **own, **figures, **rates, **more}

    records = [
        record(1, 1.0),
        record(2, 3.0),
        record(2, 2.0),  # the fastest on most threads
        record(2, 1.0, kind="eager"),
        record(2, 1.0, status="wrong"),
        record(2, 4.0, direction="backward", products=0, products_per_second=0.0),
    ]
    points = visualize.roofline_points({"results": records})
    assert [(p["direction"], p["intensity"], p["rate"], p["bandwidth"]) for p in points] == [
        ("forward", 2.0, 8e9, 4e9),
        ("backward", 0.0, 0.0, 2e9),
    ]
    machine = {"gpu": None, "cpu": "X", "cores": 2, "versions": {"torch": "2.11.0"}}
    for some, scales in ((records, ["linear", "log"]), (records[:1], ["log"]), (records[-1:], ["linear"])):
        figure = visualize.roofline({"results": some, "machine": machine, "date": "then"})
        assert [axes.get_xscale() for axes in figure.axes] == scales  # no panel without points
        legend = [text.get_text() for text in figure.legends[0].get_texts()]
        assert legend == ["op", "forward", "backward"]


def test_an_operator_has_one_colour() -> None:
    def record(operator: str, products: float) -> dict[str, Any]:
        names = {"workload": "w", "dtype": "float32", "device": "cpu", "direction": "forward"}
        figures = {"bytes": 8e9, "copy_bytes_per_second": 1e10, "products_ceiling": 1e11}
        rates = {"products": products, "products_per_second": products, "bytes_per_second": 8e9}
        own = {"kind": "kernel", "status": "ok", "threads": 1, "seconds": 1.0, "operator": operator}
        return {**names, **figures, **rates, **own}

    records = [record(f"op{i}", 16e9 * (i % 2)) for i in range(10)]
    machine = {"gpu": None, "cpu": "X", "cores": 2, "versions": {"torch": "2.11.0"}}
    figure = visualize.roofline({"results": records, "machine": machine, "date": "then"})
    drawn = [line.get_color() for axes in figure.axes for line in axes.lines if line.get_marker() == "o"]
    assert len(drawn) == len(set(drawn)) == 10


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_files_are_whole(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / "new" / f"a{suffix}"
    visualize.save(new_figure(2, 1), file)
    assert file.stat().st_size > 500
    assert [p.name for p in file.parent.iterdir()] == [file.name]
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_other_file_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.jpg: the name must end in"):
        visualize.save(new_figure(2, 1), tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())
