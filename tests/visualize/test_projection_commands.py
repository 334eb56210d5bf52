"""``vidops visualize squeeze``, ``appearance``, ``schedule`` and ``scatter``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lightning", reason="checkpoints need lightning")
pytest.importorskip("skimage", reason="the motion dataset needs scikit-image")
pytest.importorskip("av", reason="video files need av")

from tests.training.fixtures import recipe
from vidops.cli import main
from vidops.data import UniformSampling, read_frames
from vidops.layers import PixelwiseTemporalProjection, TemporalSqueezePool
from vidops.training.checkpoint import KEY, PREFIX, describe
from vidops.training.config import validate
from vidops.training.start import build_network
from vidops.visualize import ShownFrames, appearances, load_subject, squeeze


def call(*arguments: object) -> int:
    return main(["visualize", *map(str, arguments)])


def pictures(figure: Any) -> list[np.ndarray]:
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


@pytest.fixture(scope="module")
def weights(motion: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A checkpoint of a network with its first weights."""

    def make(name: str, segments: int, frames: int, **options: Any) -> Path:
        folder = tmp_path_factory.mktemp(name)
        model = {"name": name, "num_segments": segments, "options": options}
        content = recipe(motion, folder, model=model, data__frames_per_segment=frames)
        config = validate(content, name)
        with torch.random.fork_rng([]):
            net = build_network(config, 4)
        own = describe(config, ["a", "b", "c", "d"], (1, 0), {}, {})
        state = {PREFIX + key: value for key, value in net.state_dict().items()}
        torch.save({KEY: own, "state_dict": state}, folder / "best.ckpt")
        return folder / "best.ckpt"

    return make


def test_squeezed_images_of_a_video(video: Path, tmp_path: Path, drawn: list[Any]) -> None:
    options = ("--frames", 6, "--images", 2, "--activations", "sigmoid+tanh,relu+relu", "--steps", 3)
    assert call("squeeze", video, *options, "-o", tmp_path / "squeeze.png") == 0
    assert (tmp_path / "squeeze.png").stat().st_size > 1000
    assert drawn[0].get_suptitle() == "val_00000.mp4, trained on these frames for 3 steps"
    shown = pictures(drawn[0])
    assert len(shown) == 6 + 2 + 2
    assert np.allclose(shown[0], read_frames(video, [1])[0] / 255, atol=1e-6)  # 1 to 6 of 8
    labels = [axes.get_ylabel().split("\n")[0] for axes in drawn[0].axes if axes.get_ylabel()]
    assert labels == ["sigmoid + tanh", "relu + relu"]


def test_squeezed_flow(video: Path, tmp_path: Path, drawn: list[Any]) -> None:
    options = ("--frames", 3, "--images", 1, "--steps", 0, "--flow")
    assert call("squeeze", video, *options, "-o", tmp_path / "squeeze.png") == 0
    labels = [axes.get_ylabel().split("\n")[0] for axes in drawn[0].axes if axes.get_ylabel()]
    assert labels == ["sigmoid + leaky_relu", "flow, sigmoid + leaky_relu"]
    assert len(pictures(drawn[0])) == 2 * (3 + 1)


def test_squeezed_images_as_a_network_makes_them(
    video: Path, weights: Callable[..., Path], tmp_path: Path, drawn: list[Any]
) -> None:
    file = weights("tiny_tesnet", 1, 4, num_frames=4, setting=1)
    assert call("squeeze", video, "--weights", file, "-o", tmp_path / "squeeze.png") == 0
    subject = load_subject(weights=file)
    layer = next(m for m in subject.net.modules() if isinstance(m, TemporalSqueezePool))
    clip, frames = subject.read(video)
    found = squeeze(layer, clip[0]).pictures()
    shown = pictures(drawn[0])
    assert len(shown) == 4 + len(found)
    assert np.allclose(shown[0], frames.frames[0] / 255, atol=1e-6)
    assert np.allclose(shown[4], found[0], atol=1e-5)


def test_a_network_that_squeezes_features_is_refused(
    video: Path, weights: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = weights("tiny_tesnet", 1, 4, num_frames=4, setting=5)
    assert call("squeeze", video, "--weights", file, "-o", tmp_path / "squeeze.png") == 2
    assert "its first squeeze pooling sees 4 feature maps, not frames" in capsys.readouterr().err


def test_dynamic_appearances_of_a_video(video: Path, tmp_path: Path, drawn: list[Any]) -> None:
    options = ("--lengths", "2,4", "--segments", 2, "--steps", 2, "--rows", "appearance,average")
    assert call("appearance", video, *options, "-o", tmp_path / "a.png") == 0
    assert drawn[0].get_suptitle() == "val_00000.mp4, trained on these frames for 2 steps"
    shown = pictures(drawn[0])
    assert len(shown) == 2 * 2 * 2
    second = UniformSampling(2, training=False, frames_per_segment=4)(8)[4:]
    assert np.allclose(shown[7], read_frames(video, second).mean(0) / 255, atol=1e-6)


def test_dynamic_appearances_as_a_network_sees_them(
    video: Path, weights: Callable[..., Path], tmp_path: Path, drawn: list[Any]
) -> None:
    file = weights("tiny_dan", 2, 3, frames_per_segment=3)
    assert call("appearance", video, "--weights", file, "-o", tmp_path / "a.png") == 0
    subject = load_subject(weights=file)
    layer = next(m for m in subject.net.modules() if isinstance(m, PixelwiseTemporalProjection))
    clip, frames = subject.read(video)
    assert isinstance(frames, ShownFrames)
    dynamic = appearances(layer, frames, clip).dynamic
    limit = max(float(np.quantile(dynamic.abs().numpy(), 0.995)), 1 / 255)
    assert np.allclose(pictures(drawn[0])[3], (0.5 + dynamic[1] / (2 * limit)).clamp(0, 1), atol=1e-5)


def test_schedules_and_scatter(tmp_path: Path, drawn: list[Any]) -> None:
    assert call("schedule", "--steps", 200, "--curves", "0.2,0.3", "0.5,0.1", "-o", tmp_path / "s.png") == 0
    assert drawn[0].axes[0].lines[2].get_label() == "gamma 0.5, lambda 0.1, 200 steps"
    assert call("schedule", "-o", tmp_path / "s.png") == 0
    assert len(drawn[1].axes[0].lines) == 6
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.csv").write_text("epoch,step,train_loss,l1\n1,1,2.0,0.9\n1,2,1.5,0.8\n")
    assert call("scatter", run, f"again={run}", "-o", tmp_path / "e.png") == 0
    assert [axes.get_title() for axes in drawn[2].axes[:2]] == [
        "run (correlation 1.00)",
        "again (correlation 1.00)",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("squeeze", "VIDEO", "--activations", "sigmoid+swish"), "activations must be two of sigmoid, tanh"),
        (("squeeze", "VIDEO", "--frames", "4", "--images", "4"), "basis_size must be 1 to 3"),
        (("squeeze", "VIDEO", "--steps", "-1"), "--steps must be at least 0, got -1"),
        (("squeeze", "no.mp4"), "no.mp4: no such file"),
        (("squeeze", "VIDEO", "--weights", "CKPT", "--frames", "6"), "--frames: the network says it"),
        (("squeeze", "VIDEO", "--weights", "CKPT"), "TSM holds no TemporalSqueezePool"),
        (("appearance", "VIDEO", "--lengths", "4,x"), "--lengths must be whole numbers such as 4,8,16"),
        (("appearance", "VIDEO", "--rows", "loud"), "rows must be some of average, appearance"),
        (("appearance", "VIDEO", "--weights", "CKPT"), "TSM holds no PixelwiseTemporalProjection"),
        (("schedule", "--curves", "0.2"), "--curves must be two numbers each such as 0.2,0.3, got '0.2'"),
        (("schedule", "--curves", "1.5,0.3"), "gamma must be above 0 and below 1, got 1.5"),
        (("scatter", "RUN"), "holds 0 steps with l1 and train_loss"),
        (("scatter", "RUN", "RUN"), "two runs are named"),
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
    places = {"VIDEO": str(video), "CKPT": str(checkpoint), "RUN": str(checkpoint.parent)}
    out = tmp_path / "a.png"
    assert call(*(places.get(a, a) for a in arguments), "-o", out) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not out.exists()
