"""Speed of every operator beside eager PyTorch, the machine's own copy rate and the least possible time.

``vidops bench`` is the command. A case is data: one file an operator in :mod:`vidops.bench.cases`, found by
its name.
"""

from __future__ import annotations

from .case import Baseline, Benchmark, Target, Workload, load_benchmarks
from .harness import Options, run

__all__ = ["Baseline", "Benchmark", "Options", "Target", "Workload", "load_benchmarks", "run"]
