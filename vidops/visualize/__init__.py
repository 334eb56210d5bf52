"""Pictures: functions that return matplotlib figures and touch no global state of it."""

from __future__ import annotations

from .benchmarks import benchmark_bars
from .clips import frame_grid
from .figures import check_picture, save
from .training import accuracy_bars, training_curves

__all__ = ["accuracy_bars", "benchmark_bars", "check_picture", "frame_grid", "save", "training_curves"]
