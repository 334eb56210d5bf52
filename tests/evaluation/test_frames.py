"""The thesis' ensembles "En": networks of 8 and of 16 frames on the same videos, their scores averaged (table 4.8)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lightning", reason="training needs lightning")
pytest.importorskip("skimage", reason="the motion dataset needs scikit-image")
pytest.importorskip("av", reason="video files need av")

from vidops.cli import main
from vidops.evaluation import fuse, read_scores
from vidops.training import fit


def test_networks_of_other_numbers_of_frames_fuse(make_config: Any, tmp_path: Path) -> None:
    files = []
    for frames in (2, 4):
        config = make_config(
            model__name="tiny_rnl",
            model__num_segments=frames,
            model__options={"chain": True},
            data__size=32,
            epochs=1,
            output=str(tmp_path / f"{frames}f"),
        )
        files.append(tmp_path / f"{frames}.npz")
        assert main(["evaluate", "--weights", str(fit(config).last), "--scores", str(files[-1])]) == 0
    assert main(["evaluate", "--fuse", *map(str, files), "--json", str(tmp_path / "fused.json")]) == 0
    runs = [read_scores(file) for file in files]
    assert list(runs[0].paths) == list(runs[1].paths)
    assert not np.allclose(runs[0].logits, runs[1].logits)
    chances = [np.exp(run.logits) / np.exp(run.logits).sum(1, keepdims=True) for run in runs]
    report = fuse(runs)
    np.testing.assert_allclose(np.exp(report.logits), (chances[0] + chances[1]) / 2, rtol=1e-5)
    told = (chances[0] + chances[1]).argmax(1)
    written = json.loads((tmp_path / "fused.json").read_text())
    assert written["top1"] == pytest.approx(float(np.mean(told == runs[0].labels)), abs=1e-6)
