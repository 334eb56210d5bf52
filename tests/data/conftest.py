from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("av", reason="PyAV is not installed")

from ._videos import write_video

Maker = Callable[..., Path]


@pytest.fixture
def make_video(tmp_path: Path) -> Maker:
    def make(name: str = "clip.mp4", **kwargs) -> Path:
        return write_video(tmp_path / name, **kwargs)

    return make


@pytest.fixture(scope="session")
def video_bytes(tmp_path_factory) -> bytes:
    """A video whose index comes first, so that one that is cut short still opens."""
    path = tmp_path_factory.mktemp("source") / "a.mp4"
    return write_video(path, container_options={"movflags": "faststart"}).read_bytes()


@pytest.fixture(scope="session")
def motion_set(tmp_path_factory) -> Path:
    """A small motion dataset: 4 pairs, 320 training and 400 validation clips of 8 frames, 32x32."""
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    from vidops.data import make_motion

    out = tmp_path_factory.mktemp("motion") / "set"
    return make_motion(out, train=320, val=400, size=32, progress=False)


@pytest.fixture(scope="session")
def actors_set(tmp_path_factory) -> Path:
    """A small synthetic detection set: 60 training and 20 validation clips, 2 excluded ones, 64x64."""
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    from vidops.data import make_actors

    out = tmp_path_factory.mktemp("actors") / "set"
    return make_actors(out, train=60, val=20, excluded=2, progress=False)
