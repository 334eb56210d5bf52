"""Training: recipes, Lightning, checkpoints."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vidops._extras import require_all

if TYPE_CHECKING:
    from .checkpoint import Checkpoint, read_checkpoint, restore
    from .checks import NonFiniteLossError
    from .config import Config, load_config
    from .joint import JointLoss, ScaleSchedule, Separate, mgda_alpha
    from .trainer import FitResult, fit

__all__ = [
    "Checkpoint",
    "Config",
    "FitResult",
    "JointLoss",
    "NonFiniteLossError",
    "ScaleSchedule",
    "Separate",
    "fit",
    "load_config",
    "mgda_alpha",
    "read_checkpoint",
    "restore",
]

# Lightning takes seconds to import: only what trains pays for it.
_HOMES = {
    "Checkpoint": "checkpoint",
    "Config": "config",
    "FitResult": "trainer",
    "JointLoss": "joint",
    "NonFiniteLossError": "checks",
    "ScaleSchedule": "joint",
    "Separate": "joint",
    "fit": "trainer",
    "load_config": "config",
    "mgda_alpha": "joint",
    "read_checkpoint": "checkpoint",
    "restore": "checkpoint",
}
_EXTRAS = {
    "config": ("yaml", "pydantic"),
    "checkpoint": ("yaml", "pydantic"),
    "trainer": ("yaml", "pydantic", "lightning", "tqdm"),
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require_all(dict.fromkeys(_EXTRAS.get(home, ()), "train"))
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
