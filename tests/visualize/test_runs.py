"""Curves of runs and gains of classes."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex

from tests.visualize.boxes import lies_in
from vidops.cli._pictures import run_logs
from vidops.evaluation import ActorReport, FrameMap, Report
from vidops.visualize import class_gains, gains_plot, read_report, run_curves
from vidops.visualize.training import read_epochs

HEAD = "epoch,step,lr,train_loss,train_top1,val_loss,val_top1,val_top5,seconds\n"


def write_log(path: Path, epochs: int, offset: float = 0.0) -> Path:
    rows = []
    for e in range(1, epochs + 1):
        rows.append(f"{e},{10 * e - 5},0.1,{9 + offset},,,,,")
        rows.append(f"{e},{10 * e},0.1,{2 / e + offset},{0.1 * e},{3 / e + offset},{0.05 * e},{0.08 * e},1.5")
    path.write_text(HEAD + "\n".join(rows) + "\n")
    return path


def test_curves_are_the_epochs_of_the_logs(tmp_path: Path) -> None:
    logs = {"TSN": write_log(tmp_path / "a.csv", 5), "MSTNet": write_log(tmp_path / "b.csv", 3, 1.0)}
    figure = run_curves(logs)
    loss, accuracy = figure.axes
    names = ["TSN, training", "TSN, validation", "MSTNet, training", "MSTNet, validation"]
    assert [line.get_label() for line in loss.lines] == names
    assert [line.get_label() for line in accuracy.lines] == names
    assert np.allclose(loss.lines[0].get_xydata(), [[e, 2 / e] for e in range(1, 6)])
    assert np.allclose(loss.lines[3].get_xydata(), [[e, 3 / e + 1] for e in range(1, 4)])
    assert np.allclose(accuracy.lines[1].get_xydata(), [[e, 5 * e] for e in range(1, 6)])
    assert np.allclose(accuracy.lines[2].get_xydata(), [[e, 10 * e] for e in range(1, 4)])
    assert [line.get_linestyle() for line in loss.lines] == ["--", "-", "--", "-"]
    colours = [line.get_color() for line in loss.lines]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == names[::2] + names[1::2]
    assert accuracy.get_title() == "top-1 accuracy, %"
    assert loss.get_xlabel() == "epoch"


def test_actors_have_a_frame_map(tmp_path: Path) -> None:
    log = tmp_path / "a.csv"
    head = "epoch,step,lr,train_loss,val_loss,val_map,seconds\n"
    log.write_text(head + "1,5,0.1,0.9,,,\n1,10,0.1,0.8,0.7,0.25,1.5\n2,20,0.1,0.6,0.5,0.5,1.5\n")
    figure = run_curves({"actors": log})
    loss, accuracy = figure.axes
    assert [line.get_label() for line in loss.lines] == ["actors, training", "actors, validation"]
    assert [line.get_label() for line in accuracy.lines] == ["actors, validation"]
    assert np.allclose(accuracy.lines[0].get_xydata(), [[1, 25], [2, 50]])
    assert (loss.get_title(), accuracy.get_title()) == ("binary cross-entropy loss", "frame mAP, %")
    with pytest.raises(ValueError, match=r"a\.csv: has no values of train_top1 or val_top1"):
        run_curves({"actors": log, "clips": write_log(tmp_path / "b.csv", 2)})


def test_the_legend_lies_beside_the_curves(tmp_path: Path) -> None:
    name = "mstnet_resnet101_with_a_long_name_of_its_own"
    log = write_log(tmp_path / "a.csv", 1)
    figure = run_curves({f"{name}_{i}": log for i in range(6)})
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert lies_in(box, figure.bbox)
    assert not any(box.overlaps(axes.get_tightbbox()) for axes in figure.axes)
    assert all(line.get_marker() == "o" for line in figure.axes[0].lines)  # one epoch is a point


def test_a_single_epochs_points_differ_between_training_and_validation(tmp_path: Path) -> None:
    training, validation = run_curves({"a": write_log(tmp_path / "a.csv", 1)}).axes[0].lines
    assert training.get_markerfacecolor() == "white"
    assert training.get_markeredgecolor() == validation.get_markerfacecolor() == validation.get_color()
    assert training.get_markersize() > validation.get_markersize()


def test_runs_of_one_folder_name_are_told_apart(tmp_path: Path) -> None:
    logs = [tmp_path / folder / "metrics.csv" for folder in ("nl/seed1", "nl/seed2", "rnl/seed1")]
    for log in logs:
        log.parent.mkdir(parents=True)
        write_log(log, 1)
    folders = [str(log.parent) for log in logs]
    assert list(run_logs(folders)) == ["nl/seed1", "nl/seed2", "rnl/seed1"]
    assert list(run_logs([folders[0], str(logs[2])])) == ["nl", "rnl"]
    assert list(run_logs([f"A={folders[0]}", folders[1], folders[2]])) == ["A", "seed2", "seed1"]
    with pytest.raises(ValueError, match="two runs are named 'seed1'; give names: NAME="):
        run_logs([folders[0], folders[0]])


def bands(axes: Any, line: Any) -> list[tuple[Any, float]]:
    """The covered segments of a line and the widths of their bands."""
    of_line = [each for each in axes.collections if to_hex(each.get_color()[0]) == to_hex(line.get_color())]
    assert all(each.get_zorder() < line.get_zorder() for each in of_line)
    found = [each for each in of_line if each.get_label() == f"_{line.get_label()}"]
    return [pair for each in found for pair in zip(each.get_segments(), each.get_linewidths(), strict=True)]


def test_a_run_is_seen_where_another_covers_it(tmp_path: Path) -> None:
    """The third log is the first; the second has its accuracies up to the third epoch."""
    logs = {name: write_log(tmp_path / f"{name}.csv", 5) for name in "abc"}
    head, *rows = (line.split(",") for line in logs["b"].read_text().splitlines())
    for row in rows:
        row[3], row[5] = "7", "8" if row[5] else ""
        row[6] = "0.9" if row[6] and int(row[0]) > 3 else row[6]
    logs["b"].write_text("".join(",".join(row) + "\n" for row in (head, *rows)))
    loss, accuracy = run_curves(logs).axes
    assert [len(bands(loss, line)) for line in loss.lines] == [4, 4, 0, 0, 0, 0]
    a, b, c = (bands(accuracy, line) for line in accuracy.lines[1::2])
    every = np.array([[[e, 5 * e], [e + 1, 5 * e + 5]] for e in range(1, 5)])
    assert np.allclose([segment for segment, _ in a], every)
    assert [width for _, width in a] == pytest.approx([9.4, 9.4, 5.4, 5.4])  # covered by two, then by one
    assert np.allclose([segment for segment, _ in b], every[:2])
    assert not c


def test_lines_that_cross_are_not_taken_for_covered(tmp_path: Path) -> None:
    logs = [tmp_path / name for name in "ab"]
    for log, values in zip(logs, ((1, 2, 3, 4), (4, 2, 1, 4)), strict=True):
        log.write_text(HEAD + "".join(f"{e},{e},0.1,,,{v},0.{v},,\n" for e, v in enumerate(values, 1)))
    assert not any(axes.collections for axes in run_curves({"a": logs[0], "b": logs[1]}).axes)


def test_single_points_at_one_place_are_seen(tmp_path: Path) -> None:
    loss, _ = run_curves({name: write_log(tmp_path / name, 1) for name in "ab"}).axes
    ((segment, width),) = bands(loss, loss.lines[1])
    assert segment.tolist() == [[1, 3], [1, 3]]  # drawn as a disc: its ends are round
    assert width == pytest.approx(5.4)


def test_top5_and_what_is_not_logged(tmp_path: Path) -> None:
    log = write_log(tmp_path / "a.csv", 2)
    accuracy = run_curves({"a": log}, accuracy="top5").axes[1]
    assert [line.get_label() for line in accuracy.lines] == ["a, validation"]
    assert np.allclose(accuracy.lines[0].get_ydata(), [8, 16])
    with pytest.raises(ValueError, match="accuracy must be top1, top5 or map, got 'top3'"):
        run_curves({"a": log}, accuracy="top3")


def test_a_run_that_was_killed_in_a_line(tmp_path: Path) -> None:
    log = write_log(tmp_path / "a.csv", 3)
    whole = log.read_text()
    log.write_text(whole + "4,35,0.1,1.2,,,,,\n4,40,0.1,0.5")
    assert [e for e, _ in read_epochs(log)["train_loss"]] == [1, 2, 3]


def test_bad_logs(tmp_path: Path) -> None:
    log = write_log(tmp_path / "a.csv", 2)
    with pytest.raises(ValueError, match="runs must be 1 to 6 in one picture, got 7"):
        run_curves({str(i): log for i in range(7)})
    with pytest.raises(ValueError, match="runs must be 1 to 6 in one picture, got 0"):
        run_curves({})
    with pytest.raises(FileNotFoundError, match=r"none\.csv: no such file"):
        run_curves({"a": log, "b": tmp_path / "none.csv"})
    log.write_text(HEAD + "1,5,0.1,9,,,,,\n")
    with pytest.raises(ValueError, match=r"a\.csv: holds no finished epoch"):
        run_curves({"a": log})
    log.write_text(HEAD + "1,5,0.1,9,0.5,,,,\n")
    with pytest.raises(ValueError, match=r"a\.csv: has no values of train_top5 or val_top5"):
        run_curves({"a": log}, accuracy="top5")
    log.write_text(HEAD + "1,5,0.1,9,0.5,x,,,\n")
    with pytest.raises(ValueError, match=r"a\.csv, line 2: holds no number"):
        run_curves({"a": log})
    log.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ValueError):
        run_curves({"a": log})


def report(model: str, right: dict[str, tuple[int, int]]) -> dict[str, Any]:
    """A report with (right, all) videos by class, those that are wrong taken for the next class."""
    confusion = np.zeros((len(right), len(right)), np.int64)
    for i, (correct, every) in enumerate(right.values()):
        confusion[i, i] = correct
        confusion[i, (i + 1) % len(right)] += every - correct
    return json.loads(json.dumps(Report(list(right), confusion, 1.0, 0.5, {"model": model}).as_dict()))


FIRST = report("tsn", {"a": (5, 10), "b": (10, 10), "c": (1, 4), "none": (0, 0), "d": (2, 10)})
SECOND = report("mstnet", {"a": (7, 10), "b": (6, 10), "c": (4, 4), "none": (0, 0), "d": (2, 10)})


def test_gains_are_differences_of_accuracies() -> None:
    assert class_gains(FIRST, SECOND) == [
        ("c", 0.25, 1.0, 4),
        ("a", 0.5, 0.7, 10),
        ("d", 0.2, 0.2, 10),
        ("b", 1.0, 0.6, 10),
    ]


def test_the_picture_of_gains() -> None:
    figure = gains_plot(FIRST, SECOND)
    bars, both = figure.axes
    assert [bar.get_width() for bar in bars.patches] == pytest.approx([75, 20, 0, -40])
    centres = [bar.get_y() + bar.get_height() / 2 for bar in bars.patches]
    assert centres == sorted(centres, reverse=True)  # the greatest gain on top
    assert [t.get_text() for t in bars.texts] == ["+75.0", "+20.0", "+0.0", "-40.0"]
    assert [t.get_text() for t in bars.get_yticklabels()] == ["c (4)", "a (10)", "d (10)", "b (10)"]
    assert list(bars.get_yticks()) == pytest.approx(centres)
    assert bars.patches[0].get_facecolor() != bars.patches[3].get_facecolor()
    first, second = both.lines
    assert list(first.get_xdata()) == pytest.approx([25, 50, 20, 100])
    assert list(second.get_xdata()) == pytest.approx([100, 70, 20, 60])
    assert bars.get_title() == "gain of mstnet over tsn, points"
    assert figure.get_suptitle() == "2 of 4 classes gain; number of videos in brackets"
    low, high = bars.get_xlim()
    assert low < -40 < 75 < high


def many(model: str, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    names = [
        f"Moving something and something so they collide with each other, variant {i}" for i in range(50)
    ]
    return report(model, {name: (int(rng.integers(0, 21)), 20) for name in names})


def test_only_the_ends_of_many_classes_are_shown() -> None:
    first, second = many("tsn", 0), many("tsn", 1)
    rows = class_gains(first, second)
    figure = gains_plot(first, second, number=3)
    bars = figure.axes[0]
    expected = [100 * (b - a) for _, a, b, _ in [*rows[:3], *rows[-3:]]]
    assert [bar.get_width() for bar in bars.patches] == pytest.approx(expected)
    assert expected == sorted(expected, reverse=True)
    gained = sum(b > a for _, a, b, _ in rows)
    assert figure.get_suptitle() == f"{gained} of 50 classes gain; 6 are shown; number of videos in brackets"
    assert bars.get_title() == "gain of tsn (2) over tsn (1), points"
    labels = [t.get_text().replace("\n", " ") for t in bars.get_yticklabels()]
    assert labels == [f"{name} (20)" for name, *_ in [*rows[:3], *rows[-3:]]]
    figure.canvas.draw()
    boxes = [t.get_window_extent() for t in bars.get_yticklabels()]
    assert all(box.x0 >= 0 for box in boxes)
    assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))
    assert len(gains_plot(first, second, number=25).axes[0].patches) == 50
    assert len(gains_plot(first, second, number=24).axes[0].patches) == 48


def test_where_nothing_is_gained_the_axis_is_of_points() -> None:
    bars = gains_plot(FIRST, FIRST).axes[0]
    assert [bar.get_width() for bar in bars.patches] == [0] * 4
    assert bars.get_xlim() == (-1, 1)


@pytest.mark.parametrize("sign", [1, -1])
def test_gains_of_one_sign_keep_their_numbers_in_the_picture(sign: int) -> None:
    low, high = report("a", {"x": (1, 10), "y": (2, 10)}), report("b", {"x": (9, 10), "y": (3, 10)})
    figure = gains_plot(*((low, high) if sign > 0 else (high, low)))
    figure.canvas.draw()
    bars = figure.axes[0]
    inside = bars.get_window_extent()
    assert all(lies_in(text.get_window_extent(), inside) for text in bars.texts)


def actors(model: str, **precisions: float | None) -> dict[str, Any]:
    """A report of average precisions; None where there is no ground truth."""
    values = {c: math.nan if p is None else p for c, p in enumerate(precisions.values())}
    counts = {c: 0 if math.isnan(p) else 10 + c for c, p in values.items()}
    measured = FrameMap(0.5, values, counts, counts)
    return json.loads(json.dumps(ActorReport(list(precisions), measured, 3, 9, {"model": model}).as_dict()))


def test_gains_of_average_precisions(tmp_path: Path) -> None:
    first = actors("baseline", sit=0.5, stand=0.25, none=None, run=0.75)
    second = actors("ours", sit=0.75, stand=0.5, none=None, run=0.5)
    (tmp_path / "r.json").write_text(json.dumps(second))
    assert read_report(tmp_path / "r.json") == second
    rows = [("sit", 0.5, 0.75, 10), ("stand", 0.25, 0.5, 11), ("run", 0.75, 0.5, 13)]
    assert class_gains(first, second) == rows
    figure = gains_plot(first, second)
    assert figure.get_suptitle() == "2 of 3 classes gain; number of boxes in brackets"
    assert figure.axes[1].get_title() == "average precision of the class, %"
    with pytest.raises(ValueError, match="one is of clips, the other of actors"):
        class_gains(FIRST, second)


def test_reports_that_do_not_belong_together() -> None:
    other = report("x", {"a": (5, 10), "b": (10, 10), "c": (1, 4), "none": (0, 0), "e": (2, 10)})
    with pytest.raises(ValueError, match="of different classes, only one has 'd'"):
        class_gains(FIRST, other)
    other = report("x", {"a": (5, 11), "b": (10, 10), "c": (1, 4), "none": (0, 0), "d": (2, 10)})
    with pytest.raises(ValueError, match="different videos, class 'a' has 10 in one and 11"):
        class_gains(FIRST, other)
    with pytest.raises(ValueError, match="no class has videos"):
        class_gains({"classes": []}, {"classes": []})
    with pytest.raises(ValueError, match="number must be at least 1"):
        gains_plot(FIRST, SECOND, number=0)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"classes": 3}', '{"classes": [{"name": "a"}]}', "\x00\x01"]
)
def test_files_that_are_no_reports(content: str, tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"report .*r\.json: (is no JSON|holds no figures)"):
        read_report(file)


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    file.write_text(json.dumps(FIRST))
    assert read_report(file) == FIRST
