from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("skimage", reason="scikit-image is not installed")
pytest.importorskip("av", reason="PyAV is not installed")

from vidops.data.flow_store import FlowStore

from .._videos import write_video
from ._moving import FAST, moving


@pytest.fixture
def video(tmp_path: Path) -> Path:
    (tmp_path / "videos").mkdir()
    return write_video(tmp_path / "videos" / "a.mkv", codec="ffv1", pix_fmt="bgr0", clip=moving(6))


@pytest.fixture
def store(tmp_path: Path) -> FlowStore:
    return FlowStore(tmp_path / "flow", videos=tmp_path / "videos", settings=FAST)
