"""``vidops visualize busy``, ``kernels`` and ``filters``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lightning", reason="checkpoints need lightning")
pytest.importorskip("skimage", reason="the motion dataset needs scikit-image")
pytest.importorskip("av", reason="video files need av")

from vidops.cli import main
from vidops.data import read_frames
from vidops.layers import MotionBandPass
from vidops.training import read_checkpoint, restore


def call(*arguments: object) -> int:
    return main(["visualize", *map(str, arguments)])


def pictures(figure: Any) -> list[np.ndarray]:
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


def test_busy_of_a_video(video: Path, tmp_path: Path, drawn: list[Any]) -> None:
    options = ("--sigma", 0.8, "--kernel-size", 5, "--rows", "busy,frames", "--frames", 2)
    assert call("busy", video, *options, "-o", tmp_path / "busy.png") == 0
    assert (tmp_path / "busy.png").stat().st_size > 1000
    assert drawn[0].get_suptitle() == "val_00000.mp4, sigma 0.8, 5 x 5"
    frames = torch.from_numpy(read_frames(video, [1, 2, 3, 4, 5, 6])) / 255  # two runs of three
    clip = frames.permute(3, 0, 1, 2)[None]
    busy = MotionBandPass.stem(kernel_size=5, sigma=0.8)(clip)[0].permute(1, 2, 3, 0).detach()
    limit = max(np.quantile(busy.abs().numpy(), 0.995), 4 / 3 / 255)
    shown = pictures(drawn[0])
    for i in range(2):
        assert np.allclose(shown[i], (0.5 + busy[i] / (2 * limit)).clamp(0, 1), atol=1e-5)
        assert np.allclose(shown[2 + i], frames[1 + 3 * i], atol=1e-6)


def test_filters_of_checkpoints(checkpoint: Path, tmp_path: Path, drawn: list[Any]) -> None:
    out = tmp_path / "filters.png"
    assert call("filters", checkpoint, f"again={checkpoint}", "--channel", 2, "-o", out) == 0
    titles = [axes.get_title() for axes in drawn[0].axes]
    assert titles == ["tiny_tsm, last.ckpt after 2 epochs", "again"]
    weight = restore(read_checkpoint(checkpoint)).conv1.weight.detach()[0, 2]
    for picture in pictures(drawn[0]):
        assert np.allclose(picture[:3, :3], weight / weight.abs().max())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("busy", "VIDEO", "--frames", "0"), "--frames must be at least 1, got 0"),
        (("busy", "VIDEO", "--rows", "busy,loud"), "rows must be some of frames, busy, colors, quiet, flow"),
        (("busy", "VIDEO", "--kernel-size", "4"), "--kernel-size must be odd"),
        (("busy", "VIDEO", "--weights", "CKPT", "--sigma", "1"), "--sigma: the network says it"),
        (("busy", "VIDEO", "--weights", "CKPT"), "TSM holds no motion band-pass"),
        (("busy", "no.mp4"), "no.mp4: no such file"),
        (("kernels", "CKPT"), "TSM holds no motion band-pass"),
        (("filters", "CKPT", "CKPT"), "two networks are named 'tiny_tsm, last.ckpt after 2 epochs'"),
        (("filters", "CKPT", "--channel", "3"), "channel must be 0 to 2"),
    ],
)
def test_errors_are_one_line_and_nothing_is_written(
    arguments: tuple[str, ...],
    message: str,
    video: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"VIDEO": str(video), "CKPT": str(checkpoint)}
    out = tmp_path / "a.png"
    assert call(*(places.get(a, a) for a in arguments), "-o", out) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not out.exists()
