"""Fused video operators for PyTorch and the action-recognition models built from them."""

from __future__ import annotations

import importlib
from typing import Any

from . import layers, models, ops, reference
from ._command import one_line as _one_line
from .acceleration import accelerate, restore
from .models import create_model, list_models, load_weights
from .ops import explain, use_backend
from .tuning.in_use import arrange as _arrange_tuning
from .tuning.in_use import take_native as _take_native

__version__ = "0.1.0"
__all__ = [
    "accelerate",
    "create_model",
    "explain",
    "layers",
    "list_models",
    "load_weights",
    "models",
    "ops",
    "reference",
    "restore",
    "use_backend",
]

_take_native()
with _one_line():
    _arrange_tuning()  # applied once CUDA starts

# Imported when first asked for: most of them need an extra.
_LAZY = ("bench", "data", "evaluation", "training", "visualize")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
