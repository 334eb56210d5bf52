"""Saved scores, their fusion, and means over splits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="scikit-learn is the independent computation")
pytest.importorskip("pydantic", reason="the command reads recipes")

import scipy.special
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss, top_k_accuracy_score

from vidops.cli import main
from vidops.evaluation import Report, Scores, average_splits, fuse, read_scores, save_scores
from vidops.evaluation.report import markdown, text_table

CLASSES = [f"class {i}" for i in range(7)]


def scores(seed: int, count: int = 60, suffix: str = ".mp4", **changes: Any) -> Scores:
    generator = np.random.default_rng(seed)
    labels = np.arange(count) * 5 % 6  # class 6 has no videos
    logits = generator.normal(size=(count, 7)).astype(np.float32) * 3
    logits[np.arange(count), labels] += 2
    paths = [f"videos/{i:03d}{suffix}" for i in range(count)]
    return Scores(**({"logits": logits, "labels": labels, "paths": paths, "classes": CLASSES} | changes))


def shuffled(run: Scores, seed: int = 9) -> Scores:
    order = np.random.default_rng(seed).permutation(len(run.paths))
    return Scores(run.logits[order], run.labels[order], [run.paths[i] for i in order], run.classes)


def report_of(run: Scores) -> Report:
    return Report.of(run.classes, torch.from_numpy(run.logits), torch.from_numpy(run.labels), paths=run.paths)


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    run = scores(0)
    report = Report.of(
        run.classes,
        torch.from_numpy(run.logits),
        torch.from_numpy(run.labels),
        paths=["videos/\u00e9\u00e8 \u5f20.mp4", *run.paths[1:]],
        origin={"model": "net", "list": "val.csv"},
    )
    save_scores(report, tmp_path / "new" / "a.npz")
    back = read_scores(tmp_path / "new" / "a.npz")
    assert np.array_equal(back.logits, run.logits)
    assert back.logits.dtype == np.float32
    assert np.array_equal(back.labels, run.labels)
    assert back.paths == report.paths
    assert back.classes == CLASSES
    assert back.origin == report.origin
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.npz"]
    with np.load(tmp_path / "new" / "a.npz", allow_pickle=False) as content:  # NumPy alone reads it
        assert set(content.files) == {"logits", "labels", "paths", "classes", "origin"}


@pytest.mark.parametrize("average", ["softmax", "logits"])
@pytest.mark.parametrize("weights", [None, [1, 1.5, 0.25]])
def test_fusion_against_scikit_learn(average: str, weights: list[float] | None) -> None:
    runs = [scores(0), scores(1), scores(2)]
    report = fuse([runs[0], shuffled(runs[1]), shuffled(runs[2], 10)], weights, average=average)
    parts = [run.logits.astype(float) for run in runs]
    parts = [scipy.special.softmax(part, axis=1) for part in parts] if average == "softmax" else parts
    mean = np.average(parts, axis=0, weights=weights)
    shares = mean if average == "softmax" else scipy.special.softmax(mean, axis=1)
    labels, best = runs[0].labels, mean.argmax(1)
    assert report.paths == runs[0].paths
    assert report.top1 == accuracy_score(labels, best)
    assert report.top5 == top_k_accuracy_score(labels, mean, k=5, labels=range(7))
    with pytest.warns(UserWarning, match="not in y_true"):
        assert report.mean_class_accuracy == pytest.approx(balanced_accuracy_score(labels, best), abs=1e-12)
    assert report.loss == pytest.approx(log_loss(labels, shares, labels=range(7)), rel=1e-9)
    assert report.logits is not None
    np.testing.assert_allclose(scipy.special.softmax(report.logits, axis=1), shares, atol=1e-12)
    assert report.top1 > max(report_of(run).top1 for run in runs)  # what fusing is for


def test_runs_of_one_model_are_told_apart() -> None:
    runs = [replace(scores(seed), origin={"model": "net"}) for seed in (0, 1)]
    assert fuse(runs, names=["a/rgb.npz", "a/flow.npz"]).origin["model"] == "net (rgb) + net (flow)"
    assert fuse(runs, names=["rgb/s.npz", "flow/s.npz"]).origin["model"] == "net (rgb) + net (flow)"


def test_top5_is_said_of_more_than_five_classes() -> None:
    assert len(CLASSES) > 5
    few = Report(["a", "b"], np.eye(2, dtype=int), 1.0, 0.5)
    for write in (text_table, markdown):
        assert "top-5" in write(report_of(scores(0)))
        assert "top-5" not in write(few)


def test_one_run_alone_keeps_its_figures() -> None:
    run = scores(3)
    alone, fused = report_of(run).as_dict(), fuse([run]).as_dict()
    assert fused["confusion"] == alone["confusion"]
    assert fused["loss"] == pytest.approx(alone["loss"], rel=1e-12)


def test_only_the_ratio_of_weights_counts() -> None:
    runs = [scores(0), scores(1)]
    one, other = fuse(runs, [1, 1.5]).logits, fuse(runs, [20, 30]).logits
    assert one is not None
    assert other is not None
    np.testing.assert_allclose(one, other, atol=1e-12)
    assert not np.allclose(one, fuse(runs).logits)  # type: ignore[arg-type]


def test_a_file_matches_the_folder_of_its_flow() -> None:
    rgb, flow = scores(0, suffix=".webm"), scores(1, suffix="")
    expected = fuse([rgb, scores(1, suffix=".webm")])
    assert fuse([rgb, shuffled(flow)]).as_dict()["confusion"] == expected.as_dict()["confusion"]


def test_suffixes_tell_videos_apart_where_they_must() -> None:
    names = ["a.mp4", "a.avi"]
    one = scores(0, 2, paths=names)
    other = scores(1, 2, paths=names)
    assert fuse([one, shuffled(other, 1)]).paths == names
    with pytest.raises(ValueError, match=r"run 2: lacks|run 2: its videos differ .* nothing but suffixes"):
        fuse([one, scores(1, 2, paths=["a.mkv", "a.mov"])])


@pytest.mark.parametrize(
    "other, message",
    [
        (scores(1, 57), r"b.npz: lacks 3 of the videos of a.npz, such as videos/057"),
        (scores(1, 61), r"b.npz: has 1 that a.npz has not, such as videos/060"),
        (
            scores(1, paths=[f"other/{i}" for i in range(60)]),
            r"b.npz: lacks 60 of the videos of a.npz, such as videos/000 and has 60 that a.npz has not",
        ),
        (scores(1, paths=["videos/000.mp4"] * 60), r"b.npz: .*b.npz names videos/000.mp4 60 times"),
        (scores(1, labels=np.arange(60) % 6), r"b.npz: labels videos/001.mp4 and \d+ more unlike a.npz"),
        (scores(1, classes=[*CLASSES[:-1], "x"]), r"b.npz: has other classes than a.npz: class 6 is 'x'"),
        (scores(1, classes=CLASSES[:-1]), r"b.npz: has other classes than a.npz: 6, not 7"),
    ],
)
def test_lists_that_differ(other: Scores, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        fuse([scores(0), other], names=["a.npz", "b.npz"])
    assert "\n" not in str(caught.value)


def test_bad_weights_and_averages() -> None:
    runs = [scores(0), scores(1)]
    with pytest.raises(ValueError, match="weights: 1 are given for 2 files"):
        fuse(runs, [1])
    for weights in ([1, 0], [1, -2], [1, float("nan")], [1, float("inf")]):
        with pytest.raises(ValueError, match="weights: must be numbers above 0"):
            fuse(runs, weights)
    with pytest.raises(ValueError, match="average must be"):
        fuse(runs, average="max")
    with pytest.raises(ValueError, match="no scores are given"):
        fuse([])


def test_files_that_hold_no_scores(tmp_path: Path) -> None:
    run = scores(0)
    good = {
        "logits": run.logits,
        "labels": run.labels,
        "paths": np.array(run.paths),
        "classes": np.array(CLASSES),
    }
    bad_logits = run.logits.copy()
    bad_logits[3, 2] = np.nan
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "lacks": ({k: v for k, v in good.items() if k != "labels"}, "it has no labels"),
        "short": (good | {"labels": run.labels[:-1]}, r"60 rows of logits, but labels \(59,\)"),
        "wide": (good | {"classes": np.array(CLASSES[:-1])}, "7 columns of logits"),
        "label": (good | {"labels": run.labels + 2}, "a label outside its 7 classes"),
        "negative": (good | {"labels": run.labels - 1}, "a label outside its 7 classes"),
        "nan": (good | {"logits": bad_logits}, "logits that are not finite"),
        "flat": (good | {"logits": run.logits[:, 0]}, r"logits must be numbers \(N, K\)"),
        "empty": (good | {"logits": run.logits[:0]}, r"logits must be numbers \(N, K\)"),
        "pickle": (good | {"paths": np.array(run.paths, dtype=object)}, "is no file of scores"),
    }
    for name, (content, message) in cases.items():
        path = tmp_path / f"{name}.npz"
        np.savez(path, **content)
        with pytest.raises(ValueError, match=rf"{name}.npz: .*{message}") as caught:
            read_scores(path)
        assert "\n" not in str(caught.value)
    save_scores(report_of(run), tmp_path / "good.npz")
    data = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.npz").write_text("no scores")
    (tmp_path / "flipped.npz").write_bytes(data[:200] + bytes(b ^ 255 for b in data[200:400]) + data[400:])
    for name in ("cut", "text", "flipped"):
        with pytest.raises(ValueError, match=rf"{name}.npz: is no file of scores"):
            read_scores(tmp_path / f"{name}.npz")
    with pytest.raises(FileNotFoundError, match="is not a file"):
        read_scores(tmp_path)
    with pytest.raises(ValueError, match=r"must end in \.npz"):
        save_scores(report_of(run), tmp_path / "scores.txt")


def write_split(folder: Path, name: str, top1: float, **changes: Any) -> str:
    content = {
        "list": f"{name}.txt",
        "model": "tsn_resnet50",
        "views": "1x1",
        "samples": 10,
        "top1": top1,
        "top5": top1 / 2 + 0.5,
        "mean_class_accuracy": top1 / 2,
        "classes": [{"name": c} for c in CLASSES],
    }
    (folder / f"{name}.json").write_text(json.dumps(content | changes))
    return str(folder / f"{name}.json")


def test_three_splits_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [
        write_split(tmp_path, f"s{i}", top1, samples=10 * i) for i, top1 in ((1, 0.5), (2, 0.75), (3, 0.4))
    ]
    splits = average_splits(paths)
    # every split weighs the same: 10, 20 and 30 videos
    assert splits.means == pytest.approx({"top1": 0.55, "top5": 0.775, "mean_class_accuracy": 0.275})
    target = tmp_path / "mean.json"
    assert main(["evaluate", "--splits", *paths, "--json", str(target)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[4].split() == ["mean", "of", "3", "60", "55.00%", "77.50%", "27.50%"]
    written = json.loads(target.read_text())
    assert written["top1"] == pytest.approx(0.55)
    assert [s["top1"] for s in written["splits"]] == [0.5, 0.75, 0.4]


def test_reports_that_are_no_splits(tmp_path: Path) -> None:
    one = write_split(tmp_path, "one", 0.5)
    for other, message in (
        (one, "one.json is given twice"),
        (
            write_split(tmp_path, "same", 0.5, list="one.txt"),
            "same.json: measures the same list as .*one.json",
        ),
        (write_split(tmp_path, "less", 0.5, classes=[{"name": "x"}]), "less.json: has other classes than"),
        (
            write_split(tmp_path, "percent", 55.0),
            "percent.json: holds an accuracy that is not between 0 and 1",
        ),
        (
            write_split(tmp_path, "net", 0.5, model="mstnet_resnet50"),
            "net.json: model mstnet_resnet50, but that of .*one.json is tsn_resnet50",
        ),
        (write_split(tmp_path, "views", 0.5, views="3x10, mean of logits"), "views.json: views 3x10, mean"),
        (write_split(tmp_path, "kind", 0.5, classes=3), "kind.json: is no report"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            average_splits([one, other])
        assert "\n" not in str(caught.value)
    for name, text in (("text", "hello"), ("list", "[1]"), ("empty", "")):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=rf"{name}: is no report"):
            average_splits([tmp_path / name])
    with pytest.raises(ValueError, match="no report is given"):
        average_splits([])


def test_commands_that_do_not_go_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["--splits", "a.json", "--scores", "b.npz"], "--scores needs --weights or --fuse"),
        (["--splits", "a.json", "--average", "softmax"], "--average needs --weights or --fuse"),
        (["--fuse", "a.npz", "--views", "3x1"], "--views needs --weights"),
        (["--fuse", "a.npz", "--config", "x.yaml"], "--config needs --weights"),
        (["--weights", "w.ckpt", "--fuse-weights", "1"], "--fuse-weights needs --fuse"),
        (["--weights", "w.ckpt", "--scores", "b.csv"], "scores b.csv: the name must end in .npz"),
        (["--weights", "w.ckpt", "--confusion", "b.jpg"], "picture b.jpg: the name must end in"),
        (["--weights", "w.ckpt", "--json", str(tmp_path)], f"--json {tmp_path}: is a folder"),
        (["--fuse", "a.npz", "--report", __file__], f"--report {__file__}: is a file, not a folder"),
    ):
        assert main(["evaluate", *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith(f"vidops evaluate: error: {message}")
    for arguments in ([], ["--weights", "w.ckpt", "--fuse", "a.npz"]):
        with pytest.raises(SystemExit):
            main(["evaluate", *arguments])


def test_command_fuses_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [scores(0), shuffled(scores(1))]
    paths = [str(tmp_path / f"{name}.npz") for name in "ab"]
    for run, path in zip(runs, paths, strict=True):
        save_scores(report_of(run), path)
    expected = fuse(runs, [1, 1.5])
    fused = tmp_path / "fused.npz"
    arguments = ["evaluate", "--fuse", *paths, "--fuse-weights", "1", "1.5", "--scores", str(fused)]
    assert main([*arguments, "--json", str(tmp_path / "fused.json")]) == 0
    assert f"top-1 {expected.top1:.2%}" in capsys.readouterr().out
    assert json.loads((tmp_path / "fused.json").read_text())["confusion"] == expected.confusion.tolist()
    assert fuse([read_scores(fused)]).confusion.tolist() == expected.confusion.tolist()
