"""A case that is timed in no time."""

from __future__ import annotations

import dataclasses

import pytest

from vidops.bench import Options
from vidops.bench import machine as machine_module
from vidops.bench.cases import temporal_shift as shift_case
from vidops.bench.timing import Effort


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """temporal_shift's case with one small size that is timed in no time."""
    workload = dataclasses.replace(
        shift_case.BENCHMARK.workloads[0],
        name="tiny",
        params={"shape": (1, 16, 4, 8, 8), "fold_div": 8},
        layouts=("NCTHW", "NTHWC"),
    )
    monkeypatch.setattr(
        shift_case, "BENCHMARK", dataclasses.replace(shift_case.BENCHMARK, workloads=(workload,))
    )
    monkeypatch.setattr(Options, "effort", lambda self: Effort(rounds=3, least=3, budget=0.01, sample=1e-5))
    monkeypatch.setattr(machine_module.LoadMeter, "_between", staticmethod(lambda start, end: 0.0))
