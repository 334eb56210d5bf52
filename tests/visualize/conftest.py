"""What the pictures need, a run to draw, and its videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="pictures need matplotlib")

from tests.training.conftest import NEEDED, find_spec

if all(find_spec(name) is not None for name in NEEDED):
    from tests.evaluation.conftest import run  # noqa: F401
    from tests.training.fixtures import motion, one_thread  # noqa: F401

    @pytest.fixture(scope="session")
    def checkpoint(run: Path) -> Path:  # noqa: F811
        return run / "last.ckpt"  # after two epochs; which one is the best is not known beforehand


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that commands write."""
    from vidops import visualize

    figures: list[Any] = []
    save = visualize.save

    def keep(figure: Any, path: Any) -> None:
        figures.append(figure)
        save(figure, path)

    monkeypatch.setattr(visualize, "save", keep)
    return figures


@pytest.fixture
def video(motion: Path) -> Path:
    """A clip of 8 frames of 32 x 32."""
    return motion / "videos" / "left" / "val_00000.mp4"
