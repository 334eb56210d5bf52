"""RGB and MBPM by score fusion (thesis, table 5.2), and a Busy-Quiet Net, from recipe to scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lightning", reason="training needs lightning")
pytest.importorskip("skimage", reason="the motion dataset needs scikit-image")
pytest.importorskip("av", reason="video files need av")

import torch

from vidops.cli import main
from vidops.evaluation import read_scores
from vidops.training import fit

SMALL = {"model__num_segments": 2, "data__frames_per_segment": 3, "data__size": 32, "epochs": 1}


def scored(weights: Path, to: Path) -> Path:
    assert main(["evaluate", "--weights", str(weights), "--scores", str(to)]) == 0
    return to


def test_fusing_rgb_and_mbpm(run: Path, make_config: Any, tmp_path: Path) -> None:
    motion = fit(make_config(model__name="tiny_mbpm", **SMALL)).last
    paths = [scored(run / "last.ckpt", tmp_path / "rgb.npz"), scored(motion, tmp_path / "mbpm.npz")]
    arguments = [
        "--fuse",
        *map(str, paths),
        "--fuse-weights",
        "1",
        "2",
        "--json",
        str(tmp_path / "fused.json"),
    ]
    assert main(["evaluate", *arguments]) == 0
    rgb, mbpm = map(read_scores, paths)
    assert list(rgb.paths) == list(mbpm.paths)
    chances = [torch.from_numpy(np.asarray(run.logits)).double().softmax(1) for run in (rgb, mbpm)]
    told = (chances[0] + 2 * chances[1]).argmax(1).numpy()
    confusion = np.zeros((4, 4), int)
    np.add.at(confusion, (np.asarray(rgb.labels), told), 1)
    assert json.loads((tmp_path / "fused.json").read_text())["confusion"] == confusion.tolist()


def test_a_recipe_reaches_the_options_of_a_busy_quiet_net(make_config: Any, tmp_path: Path) -> None:
    options = {
        "busy_size": 32, "quiet_size": 24, "num_lateral": 4, "lateral": "lc3", "fusion": "concatenate",
        "quiet": "frame", "quiet_frames": 1, "phi": "mlp", "norm": "sum", "trainable": False, "dropout": 0.5,
    }  # fmt: skip
    groups = {"classifier_weight": {"lr": 5, "decay": 5}}
    config = make_config(
        model__name="tiny_bqn",
        model__options=options,
        optimizer__groups=groups,
        freeze_norms="all_but_first",
        **SMALL,
    )
    result = fit(config)
    scored(result.last, tmp_path / "bqn.npz")
