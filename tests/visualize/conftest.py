"""What the pictures need, a run to draw, and its videos."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="pictures need matplotlib")

from tests.training.conftest import NEEDED, find_spec

if all(find_spec(name) is not None for name in NEEDED):
    from tests.evaluation.conftest import run  # noqa: F401
    from tests.training.fixtures import motion, one_thread  # noqa: F401

    @pytest.fixture(scope="session")
    def checkpoint(run: Path) -> Path:  # noqa: F811
        return run / "best.ckpt"


@pytest.fixture
def video(motion: Path) -> Path:
    """A clip of 8 frames of 32 x 32."""
    return motion / "videos" / "left" / "val_00000.mp4"
