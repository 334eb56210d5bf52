"""Ten videos in two folders to a trained network and a report, by the commands the README shows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lightning", reason="training needs lightning")
pytest.importorskip("matplotlib", reason="the report's pictures need matplotlib")

import torch

from vidops.cli import main

from ._videos import write_video

RECIPE = Path(__file__).parents[2] / "configs" / "demo" / "tiny_tsm.yaml"


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_ten_videos_in_two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    rng = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 180)):
        (tmp_path / "clips" / name).mkdir(parents=True)
        for i in range(5):
            clip = rng.integers(low, low + 70, (12 + i, 48, 64, 3), dtype=np.uint8)
            write_video(tmp_path / "clips" / name / f"{i}.mp4", clip=clip)
    monkeypatch.chdir(tmp_path)
    commands = [
        "dataset make-list clips --workers 0",
        "dataset check clips --workers 0",
        f"train --config {RECIPE} data.root=clips data.symmetric=false data.batch_size=4 output=runs/own"
        " epochs=6 accelerator=cpu",
        "evaluate --weights runs/own/best.ckpt --report runs/own/report",
    ]
    for command in commands:
        assert main(command.split()) == 0, capsys.readouterr().err
    report = json.loads(next((tmp_path / "runs" / "own").glob("report*/*.json")).read_text())
    assert report["samples"] == 2
    assert report["top1"] == 1.0  # a tiny network tells dark from light
    assert [c["name"] for c in report["classes"]] == ["dark", "light"]
