"""Knobs and operators go back to what they were."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vidops.tuning import KNOBS, Knob, in_use


@pytest.fixture(autouse=True)
def built_in() -> Iterator[None]:
    before, tuning = dict(KNOBS), in_use.state().tuning
    in_use.withdraw()
    yield
    KNOBS.clear()
    KNOBS.update(before)
    in_use.withdraw()
    if tuning is not None:
        in_use.apply(tuning)


@pytest.fixture
def knob() -> Knob[int]:
    """A knob of no kernel."""
    return Knob("temporal_shift", "triton", "spare", 8, (4, 8, 16))
