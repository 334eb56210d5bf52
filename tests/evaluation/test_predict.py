"""Predictions for made files, real ones, and files that are none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning", reason="training needs lightning")
pytest.importorskip("skimage", reason="the motion dataset needs scikit-image")
pytest.importorskip("av", reason="video files need av")

from vidops.cli import main
from vidops.evaluation import file_predictor, predict, predictor
from vidops.evaluation.evaluator import fp32_of_gpus
from vidops.training import read_checkpoint, restore
from vidops.training.loading import build_dataset, read_list

REAL = Path(__file__).parents[3] / "shared" / "videos"


def videos(motion: Path, count: int = 3) -> list[Path]:
    return sorted((motion / "videos" / "left").glob("val_*.mp4"))[:count]


def test_scores_are_the_networks_softmax(run: Path, motion: Path) -> None:
    checkpoint = read_checkpoint(run / "best.ckpt")
    net, config = restore(checkpoint), checkpoint.config
    annotations = read_list(config, "val")
    dataset = build_dataset(config, annotations, training=False)
    paths = [sample.path for sample in annotations.samples]
    found = list(predict(paths, run / "best.ckpt", top=4, batch_size=5))
    assert [p.path for p in found] == paths
    for index, prediction in enumerate(found):
        with torch.no_grad():
            expected = net(dataset[index]["clip"][None])[0].softmax(0)
        assert prediction.error is None
        assert dict(prediction.scores) == pytest.approx(
            dict(zip(checkpoint.classes, expected.tolist(), strict=True)), abs=1e-6
        )
        probabilities = [p for _, p in prediction.scores]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)


def test_top_and_workers(run: Path, motion: Path) -> None:
    one = list(predict(videos(motion), run / "best.ckpt", top=2))
    two = list(predict(videos(motion), run / "best.ckpt", top=2, batch_size=1, workers=2))
    assert [len(p.scores) for p in one] == [2, 2, 2]
    assert [[c for c, _ in p.scores] for p in one] == [[c for c, _ in p.scores] for p in two]
    assert len(next(iter(predict(videos(motion), run / "best.ckpt", top=99))).scores) == 4


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_a_broken_file_does_not_stop_the_others(
    run: Path, motion: Path, tmp_path: Path, batch_size: int
) -> None:
    good = videos(motion)
    (tmp_path / "cut.mp4").write_bytes(good[0].read_bytes()[:300])
    (tmp_path / "notes.txt").write_text("no video")
    paths = [tmp_path / "cut.mp4", good[0], tmp_path / "missing.mp4", tmp_path / "notes.txt", good[1]]
    found = list(predict(paths, run / "best.ckpt", batch_size=batch_size))
    assert [p.path for p in found] == [str(p) for p in paths]
    assert [p.error is None for p in found] == [False, True, False, False, True]
    for prediction in found:
        if prediction.error is not None:
            assert prediction.error.startswith(f"{prediction.path}: ")
            assert "\n" not in prediction.error
            assert prediction.scores == []


def test_an_output_that_is_not_finite_does_not_stop_the_others(
    run: Path, motion: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(checkpoint: Any, backend: str | None = None) -> torch.nn.Module:
        net = restore(checkpoint, backend=backend)
        net.register_forward_hook(
            lambda module, clips, logits: logits.index_fill(0, torch.tensor(1), torch.nan)
        )
        return net

    monkeypatch.setattr(file_predictor, "restore", poisoned)
    paths = videos(motion)
    found = list(predict(paths, run / "best.ckpt"))
    assert [p.error for p in found] == [None, f"{paths[1]}: the network's output is not finite", None]
    assert [len(p.scores) for p in found] == [4, 0, 4]


def test_bad_arguments(run: Path, motion: Path) -> None:
    with pytest.raises(ValueError, match=r"paths: no video"):
        predict([], run / "best.ckpt")
    with pytest.raises(ValueError, match=r"top must be at least 1, got 0"):
        predict(videos(motion), run / "best.ckpt", top=0)
    with pytest.raises(FileNotFoundError, match=r"none.ckpt: no such file"):
        predict(videos(motion), "none.ckpt")


def test_weights_alone_are_enough(run: Path, motion: Path, tmp_path: Path) -> None:
    weights, video = tmp_path / "elsewhere.ckpt", tmp_path / "a.mp4"
    shutil.copy(run / "best.ckpt", weights)
    shutil.copy(videos(motion)[0], video)
    assert len(next(iter(predict([video], weights))).scores) == 4


def test_fp32_of_a_gpu_is_that_of_the_evaluation(
    run: Path, motion: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    scores = predictor.video_scores

    def noted(*args: Any, **options: Any) -> torch.Tensor:
        seen.add(torch.backends.cudnn.allow_tf32)
        return scores(*args, **options)

    monkeypatch.setattr(predictor, "video_scores", noted)
    with fp32_of_gpus(tf32=True):
        list(predict(videos(motion), run / "best.ckpt"))
        assert torch.backends.cudnn.allow_tf32
    assert seen == {False}


def test_command_prints_a_table(run: Path, motion: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(p) for p in videos(motion, 2)]
    assert main(["predict", *paths, "--weights", str(run / "best.ckpt"), "--top", "2"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert captured.err == ""
    assert [lines[0], lines[3]] == paths
    assert all(line.startswith("  ") and "%" in line for line in (lines[1], lines[2], lines[4], lines[5]))


def test_command_prints_json_lines_and_fails_for_a_missing_file(
    run: Path, motion: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(videos(motion, 1)[0])
    assert main(["predict", "none.mp4", path, "--weights", str(run / "best.ckpt"), "--json"]) == 1
    captured = capsys.readouterr()
    first, second = (json.loads(line) for line in captured.out.splitlines())
    assert captured.err == "vidops predict: error: none.mp4: no such file\n"
    assert first == {"path": "none.mp4", "error": "none.mp4: no such file"}
    assert second["path"] == path
    assert [set(p) for p in second["predictions"]] == [{"class", "probability"}] * 4


def test_command_names_a_file_that_is_no_checkpoint(motion: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(videos(motion, 1)[0])
    assert main(["predict", path, "--weights", path]) == 2
    assert (
        capsys.readouterr().err
        == f"vidops predict: error: {path}: is no checkpoint (or only a part of one)\n"
    )


@pytest.mark.skipif(not REAL.is_dir(), reason="real clips are not here")
def test_real_clips(run: Path) -> None:
    paths = sorted(p for p in REAL.iterdir() if p.suffix in (".mp4", ".avi"))
    found = list(predict(paths, run / "best.ckpt", top=1))
    assert [p.error for p in found] == [None] * len(paths)
    assert all(len(p.scores) == 1 for p in found)
