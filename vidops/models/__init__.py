"""Networks, and the registry that builds them by name."""

from .backbone import Backbone, Block, SegmentConsensus
from .cards import Comparison, Figure, ModelCard, Score, count_gmacs, count_params
from .mstnet import MSTNet
from .registry import create_model, is_model, list_models, model_card, register_model
from .resnet import BasicBlock, Bottleneck, ResNet
from .tsm import TSM
from .tsn import TSN
from .weights import LoadResult, load_weights, read_weights

__all__ = [
    "TSM",
    "TSN",
    "Backbone",
    "BasicBlock",
    "Block",
    "Bottleneck",
    "Comparison",
    "Figure",
    "LoadResult",
    "MSTNet",
    "ModelCard",
    "ResNet",
    "Score",
    "SegmentConsensus",
    "count_gmacs",
    "count_params",
    "create_model",
    "is_model",
    "list_models",
    "load_weights",
    "model_card",
    "read_weights",
    "register_model",
]
