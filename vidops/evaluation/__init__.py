"""Evaluation: exact accuracies of a network on a list of videos, and predictions for single files."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vidops._extras import require_all

# At once, as they need numpy alone: frame_map is a module's name and its function's, of which this is the latter.
from .detections import LabelledBoxes, read_detections, write_detections
from .frame_map import FrameMap, frame_map

if TYPE_CHECKING:
    from .actor_evaluator import evaluate_actors, evaluate_detections
    from .actor_predictor import ActorPrediction, ActorPredictor
    from .actor_report import ActorReport
    from .evaluator import evaluate
    from .find import find_videos
    from .metrics import Counts, Report
    from .predictor import Prediction, Predictor, predict
    from .results import ResultFile
    from .scores import Scores, fuse, read_scores, save_scores
    from .splits import Splits, average_splits
    from .views import video_scores

__all__ = [
    "ActorPrediction",
    "ActorPredictor",
    "ActorReport",
    "Counts",
    "FrameMap",
    "LabelledBoxes",
    "Prediction",
    "Predictor",
    "Report",
    "ResultFile",
    "Scores",
    "Splits",
    "average_splits",
    "evaluate",
    "evaluate_actors",
    "evaluate_detections",
    "find_videos",
    "frame_map",
    "fuse",
    "predict",
    "read_detections",
    "read_scores",
    "save_scores",
    "video_scores",
    "write_detections",
]

# evaluator and predictor read recipes, for which they need training, which needs the counts of metrics.
_HOMES = {
    "ActorPrediction": "actor_predictor",
    "ActorPredictor": "actor_predictor",
    "ActorReport": "actor_report",
    "Counts": "metrics",
    "Prediction": "predictor",
    "Predictor": "predictor",
    "Report": "metrics",
    "ResultFile": "results",
    "Scores": "scores",
    "Splits": "splits",
    "average_splits": "splits",
    "evaluate": "evaluator",
    "evaluate_actors": "actor_evaluator",
    "evaluate_detections": "actor_evaluator",
    "find_videos": "find",
    "fuse": "scores",
    "predict": "predictor",
    "read_scores": "scores",
    "save_scores": "scores",
    "video_scores": "views",
}
_EXTRAS = dict.fromkeys(
    ("actor_evaluator", "actor_predictor", "evaluator", "predictor", "results"), ("yaml", "pydantic", "tqdm")
)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require_all(dict.fromkeys(_EXTRAS.get(home, ()), "train"))
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
