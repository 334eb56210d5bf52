"""The demo: its report shows what was measured, and bad arguments are refused before anything is written."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from vidops.bench import Options, run
from vidops.cli import demo, main
from vidops.data import MOTION_PAIRS, make_motion
from vidops.visualize.demo_report import Facts, Run, write_report

for module in ("matplotlib", "av", "skimage", "lightning"):
    pytest.importorskip(module)

CLASSES = [name for pair in list(MOTION_PAIRS.values())[:2] for name in pair]


@pytest.fixture(scope="module")
def motion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_motion(tmp_path_factory.mktemp("demo") / "motion", pairs=2, train=4, val=4, progress=False)


@pytest.fixture(scope="module")
def bench() -> dict[str, Any]:
    return run(Options("temporal_shift/cpu/1x256*forward", ("reference",), threads=(1,), quick=True))


@pytest.fixture
def facts(motion: Path, bench: dict[str, Any], tmp_path: Path) -> Facts:
    log = tmp_path / "metrics.csv"
    log.write_text("epoch,step,train_loss,val_top1\n1,10,2.0,\n1,20,1.5,0.25\n")

    def measured(top1: float, pairs: float) -> Run:
        return Run(Path("w.ckpt"), log, 1, 4, top1, pairs, CLASSES, [top1, None, top1, top1], 47.6)

    return Facts(
        info="vidops <info>",
        data=motion,
        runs={"tiny_tsn": measured(0.125, 0.5), "tiny_mstnet": measured(0.975, 0.987)},
        predictions=[
            {
                "network": "tiny_tsn",
                "path": "a/b/c.mp4",
                "predictions": [{"class": "left", "probability": 0.61}],
            },
            {"network": "tiny_mstnet", "path": "broken.mp4", "error": "broken.mp4: <is damaged>"},
        ],
        bench=bench,
    )


def test_the_report_shows_what_was_measured(facts: Facts, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "report"
    folder.mkdir(parents=True)
    (folder / "old.txt").write_text("of an earlier run")
    page = write_report(folder, facts)
    text = page.read_text(encoding="utf-8")
    pictures = re.findall(r"<img src='([^']+)'", text)
    assert sorted(pictures) == [
        "accuracy.png",
        "bench.png",
        "frames_down_up.png",
        "frames_right_left.png",
        "training.png",
    ]
    for name in pictures:
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    for shown in (
        "12.5%",
        "97.5%",
        "48 s",
        "98.7%",
        "85.0 points above",
        "left 61.0%",
        "broken.mp4: &lt;is damaged&gt;",
        "b/c.mp4",
    ):
        assert shown in text
    assert "vidops &lt;info&gt;" in text
    assert "temporal_shift  1x256x8x56x56 float32" in text
    assert sorted(p.name for p in folder.parent.iterdir()) == ["report"]
    assert not (folder / "old.txt").exists()
    results = json.loads((folder / "results.json").read_text())
    assert results["runs"]["tiny_mstnet"]["within_pairs"] == 0.987
    assert results["bench"]["results"]


def test_a_report_that_fails_leaves_the_old_one(facts: Facts, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "index.html").write_text("old")
    facts.data = tmp_path / "nowhere"
    with pytest.raises(ValueError, match="nowhere"):
        write_report(folder, facts)
    assert (folder / "index.html").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.csv", "report"]


def test_without_kernels_the_page_says_so(facts: Facts, tmp_path: Path) -> None:
    facts.bench = "no backend but the reference runs"
    text = write_report(tmp_path / "report", facts).read_text(encoding="utf-8")
    assert "Not measured: no backend but the reference runs" in text
    assert "bench.png" not in text


def test_accuracies_on_the_terminal(facts: Facts) -> None:
    lines = demo.accuracy_lines(facts.runs, 8)
    assert lines[1].split() == ["tiny_tsn", "12.5%", "50.0%"]
    assert lines[2].split() == ["tiny_mstnet", "97.5%", "98.7%"]
    assert lines[3].split() == ["guessing", "12.5%", "50.0%"]
    assert lines[-1] == "tiny_mstnet is 85.0 points above tiny_tsn."


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["out", "--video", "missing.mp4"], "--video missing.mp4: no such file"),
        (["out", "--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["file"], "file is a file; the demo needs a folder"),
        (["full"], "full holds other things (thesis.txt); choose an empty folder"),
    ],
)
def test_bad_arguments(
    arguments: list[str],
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("full").mkdir()
    Path("full/thesis.txt").write_text("")
    assert main(["demo", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"vidops demo: error: {text}\n"
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["demo", "out"],
            "skimage, lightning and matplotlib are not installed; install them with: pip install",
        ),
        (
            ["evaluate", "--weights", "w", "--report", "out"],
            "matplotlib is not installed; install it with: pip",
        ),
    ],
)
def test_all_that_is_missing_is_named_at_once(
    arguments: list[str], text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    missing = ("skimage", "lightning", "matplotlib")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in missing else find(name, *a)
    )
    assert main(arguments) == 2
    error = capsys.readouterr().err
    extras = "[motion,train,viz]" if arguments[0] == "demo" else "[viz]"
    assert error.startswith(f"vidops {arguments[0]}: error: {text}")
    assert error.endswith(f"'vidops{extras}'\n")


def test_another_dataset_is_not_taken_for_the_demos(motion: Path, tmp_path: Path) -> None:
    (tmp_path / "motion").symlink_to(motion)
    with pytest.raises(ValueError, match="is not the dataset that the demo makes"):
        demo._dataset(tmp_path)


def test_a_video_that_cannot_be_decoded_is_refused_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.mp4").write_bytes(b"no video")
    assert main(["demo", str(tmp_path / "out"), "--video", str(tmp_path / "own.mp4")]) == 2
    assert f"{tmp_path / 'own.mp4'}: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_predictions_say_what_is_right(facts: Facts, tmp_path: Path) -> None:
    (first, second) = facts.predictions
    facts.predictions = [{**first, "right": True}, {**first, "right": False}, first, second]
    page = write_report(tmp_path / "report", facts).read_text()
    cells = re.findall(r"<td class='text'>(right|wrong|)</td>", page)
    assert cells == ["right", "wrong", "", ""]
    assert "MISSED" not in page
