"""Counts against other libraries; tables, Markdown and pictures of 2 to 400 classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("torchmetrics", reason="torchmetrics is the independent computation")
pytest.importorskip("matplotlib", reason="pictures need matplotlib")

import matplotlib.image
import torchmetrics.functional.classification as other

from vidops.evaluation import Report
from vidops.evaluation.recipe import describe_views
from vidops.evaluation.report import markdown, save_confusion, text_table, write_report
from vidops.training.config import DataConfig
from vidops.visualize import class_accuracy_bars, confusion_matrix, save


def made(classes: int, count: int, seed: int = 0) -> Report:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    logits = torch.randn(count, classes, generator=generator)
    logits[torch.arange(count), labels] += 1.5
    return Report.of([f"class {i}" for i in range(classes)], logits, labels, origin={"model": "net"})


@pytest.mark.parametrize("classes, count", [(2, 50), (4, 1), (6, 333), (174, 400), (400, 3000)])
def test_figures_are_those_of_torchmetrics(classes: int, count: int) -> None:
    report = made(classes, count)
    logits, labels = torch.from_numpy(report.logits), torch.from_numpy(report.labels)
    expected = other.multiclass_confusion_matrix(logits, labels, classes).numpy()
    assert (report.confusion == expected).all()
    assert report.samples == count
    top1 = other.multiclass_accuracy(logits, labels, classes, average="micro")
    assert report.top1 == pytest.approx(float(top1), abs=1e-6)
    top5 = other.multiclass_accuracy(logits, labels, classes, average="micro", top_k=min(5, classes))
    assert report.top5 == pytest.approx(float(top5), abs=1e-6)
    recall = other.multiclass_accuracy(logits, labels, classes, average="none").numpy()
    occurs = np.bincount(report.labels, minlength=classes) > 0  # type: ignore[arg-type]
    assert report.classes_seen == occurs.sum()
    assert report.mean_class_accuracy == pytest.approx(recall[occurs].mean(), abs=1e-6)
    for i, accuracy in enumerate(report.class_accuracies):
        assert accuracy == (pytest.approx(recall[i], abs=1e-6) if occurs[i] else None)
    loss = torch.nn.functional.nll_loss(logits.double().log_softmax(1), labels)
    assert report.loss == pytest.approx(float(loss), rel=1e-12)


def test_most_frequent_confusion_by_hand() -> None:
    confusion = np.array([[9, 3, 3, 0], [0, 4, 0, 0], [1, 2, 0, 7], [0, 0, 0, 0]])
    report = Report(["a", "b", "c", "d"], confusion, 1.0, 0.0)
    assert report.confusions == [(1, 3), None, (3, 7), None]
    assert confusion[0, 0] == 9  # the matrix itself is not touched


def test_tables_say_what_the_mean_is_over() -> None:
    report = Report(
        ["up", "do|wn"], np.array([[3, 1], [0, 0]]), 1.0, 0.5, {"model": "net", "list": "val.csv"}
    )
    assert "mean class 75.00% (over 1 of 2 classes)" in text_table(report).splitlines()[-1]
    text = markdown(report)
    assert "| mean class accuracy | 75.00% (over 1 of 2 classes) |" in text
    assert "| up | 4 | 3 | 75.00% | do\\|wn (1) |" in text
    assert "| do\\|wn | 0 | 0 | - |  |" in text
    both = Report(["up", "down"], np.array([[3, 1], [0, 1]]), 1.0, 0.5)
    assert "classes)" not in text_table(both) + markdown(both)


def test_the_last_line_names_views_that_are_not_the_plain_one() -> None:
    plain = DataConfig(root="motion", train="train.csv", val="val.csv")
    for changes, end in (
        ({}, "videos of val.csv"),
        ({"shuffle_frames": True}, "videos of val.csv, views 1x1, frames shuffled"),
        ({"crops": 3, "shuffle_frames": True}, "of val.csv, views 3x1, mean of logits, frames shuffled"),
    ):
        views = describe_views(plain.model_copy(update=changes))
        report = Report(["up"], np.array([[4]]), 1.0, 0.5, {"list": "val.csv", "views": views})
        assert text_table(report).endswith(end)


def test_a_folder_of_a_report(tmp_path: Path) -> None:
    report = made(5, 60)
    folder = tmp_path / "new" / "report"
    write_report(report, folder)
    assert sorted(p.name for p in folder.iterdir()) == [
        "classes.png",
        "confusion.png",
        "report.json",
        "report.md",
    ]
    assert json.loads((folder / "report.json").read_text()) == report.as_dict()
    text = (folder / "report.md").read_text()
    assert text.startswith(f"# net: top-1 {100 * report.top1:.2f} % of 60 videos\n")
    for name in ("confusion.png", "classes.png"):
        assert f"({name})" in text
        assert matplotlib.image.imread(folder / name).std() > 0.05


def test_a_report_that_could_not_be_written_has_no_summary(tmp_path: Path) -> None:
    write_report(made(3, 9), tmp_path)
    (tmp_path / "report.json").unlink()
    (tmp_path / "report.json").mkdir()
    with pytest.raises(OSError):
        write_report(made(3, 9), tmp_path)
    assert not (tmp_path / "report.md").exists()


@pytest.mark.parametrize("classes", [1, 2, 15, 16, 138, 139, 400])
def test_confusion_picture(classes: int, tmp_path: Path) -> None:
    names = [f"Pretending to put something behind number {i}" for i in range(classes)]
    confusion = made(classes, 5 * classes).confusion.copy()
    confusion[0] = 0
    figure = confusion_matrix(confusion, names, title="net")
    axes = figure.axes[0]
    shares = axes.images[0].get_array()
    assert np.ma.getmaskarray(shares)[0].all()
    totals = confusion[1:].sum(1, keepdims=True)
    drawn = shares[1:].filled(np.nan)
    expected = np.where(totals > 0, confusion[1:] / np.maximum(totals, 1), np.nan)
    np.testing.assert_allclose(drawn, expected, atol=1e-7)
    labels = [label for label in axes.get_yticklabels() if label.get_text()]
    assert len(axes.texts) == ((confusion > 0).sum() if classes <= 15 else 0)
    target = tmp_path / "confusion.png"
    save(figure, target)
    assert target.stat().st_size > 2000
    width, height = figure.get_size_inches()
    assert max(width, height) < 16
    if classes <= 138:
        assert len({label.get_text() for label in labels}) == classes
        places = sorted(label.get_window_extent().y0 for label in labels)
        heights = [label.get_window_extent().height for label in labels]
        if classes > 1:
            assert min(np.diff(places)) > 0.8 * max(heights)  # lines do not run into each other
    else:  # names would be too small to read
        assert len(labels) < 20
        assert not any("Pretending" in label.get_text() for label in labels)
        assert axes.get_ylabel() == "class number"


def test_pictures_refuse_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"confusion: must be a square matrix, got the shape \(2, 3\)"):
        confusion_matrix(np.zeros((2, 3), int), ["a", "b"])
    with pytest.raises(ValueError, match="classes: 1 names for 2 classes"):
        confusion_matrix(np.eye(2, dtype=int), ["a"])
    with pytest.raises(ValueError, match="square matrix"):
        confusion_matrix(np.zeros((0, 0), int), [])
    with pytest.raises(ValueError, match="no class has videos"):
        class_accuracy_bars([None, None], ["a", "b"])
    with pytest.raises(ValueError, match="must end in"):
        save_confusion(made(2, 4), tmp_path / "a.jpg")
    assert list(tmp_path.iterdir()) == []


def test_bars_of_many_classes() -> None:
    accuracies = [i / 100 for i in range(100)] + [None]
    figure = class_accuracy_bars(accuracies, [f"c{i}" for i in range(101)])
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [f"c{i}" for i in [*range(99, 79, -1), *range(19, -1, -1)]]
    assert "60 classes between" in [text.get_text() for text in figure.axes[0].texts]
    lengths = [bar.get_width() for bar in figure.axes[0].patches]
    assert lengths == [accuracies[int(name[1:])] for name in labels]
    assert figure.axes[0].get_legend().get_texts()[0].get_text() == "mean 49.5%"
    few = class_accuracy_bars(accuracies[:40], [f"c{i}" for i in range(40)])
    assert len(few.axes[0].patches) == 40
