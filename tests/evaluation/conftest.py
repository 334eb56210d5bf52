"""A trained run to measure, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training.conftest import NEEDED, find_spec

if all(find_spec(name) is not None for name in NEEDED):
    from tests.training.fixtures import make_config, motion, one_thread, recipe  # noqa: F401


@pytest.fixture(scope="session")
def run(motion: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run of two epochs."""
    from vidops.training import fit
    from vidops.training.config import validate

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("runs") / "run"
    fit(validate(recipe(motion, output, epochs=2), "test recipe"))
    torch.set_num_threads(threads)
    return output
