from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="PyAV is not installed")

import av

Maker = Callable[..., Path]


def write_video(
    path: Path,
    *,
    codec: str = "libx264",
    frames: int = 24,
    width: int = 64,
    height: int = 48,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    rotation: tuple[float, bool, bool] | None = None,
    clip: np.ndarray | None = None,
    times: list[int] | None = None,
) -> Path:
    """Write a video of noise that drifts by two pixels a frame, or the given RGB clip.

    ``times`` are the milliseconds at which the frames are shown; else there are 25 a second.
    """
    if clip is None:
        base = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        clip = np.stack([np.roll(base, 2 * i, axis=1) for i in range(frames)])
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = pix_fmt
        if rotation is not None:
            stream.set_display_rotation(*rotation)
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for i, array in enumerate(clip):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def make_video(tmp_path: Path) -> Maker:
    def make(name: str = "clip.mp4", **kwargs) -> Path:
        return write_video(tmp_path / name, **kwargs)

    return make


@pytest.fixture(scope="session")
def motion_set(tmp_path_factory) -> Path:
    """A small motion dataset: 4 pairs, 320 training and 400 validation clips of 8 frames, 32x32."""
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    from vidops.data import make_motion

    out = tmp_path_factory.mktemp("motion") / "set"
    return make_motion(out, train=320, val=400, size=32, progress=False)
