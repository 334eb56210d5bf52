"""Networks, and the registry that builds them by name."""

from . import attention as attention
from . import bqn as bqn
from .attention_tsm import CPATSM, NLTSM, RNLTSM, AttentionTSM, ChannelTSM
from .backbone import Backbone, Block, SegmentConsensus
from .btsnet import BTSNet, PathwayBottleneck
from .busy_quiet import BusyQuietNet
from .cards import Comparison, Figure, ModelCard, Score, count_gmacs, count_params
from .dan import DANTSM, DANX3D
from .i3d import I3D
from .inception_resnet_v2 import InceptionResNetV2, TSNInceptionResNetV2
from .kpsem import MFKPSEM, R3DKPSEM, KeyPointNetwork
from .mbpm import MBPMTSM, MBPMX3D, MBPMTSMMobileNetV2
from .mfnet import MFNet, MultiFiberUnit
from .mobilenetv2 import InvertedResidual, MobileNetV2
from .mstnet import MSTNet
from .r3d import R3D, FlatBottleneck
from .registry import create_model, is_model, list_models, model_card, register_model
from .resnet import BasicBlock, Bottleneck, ResNet
from .st_slowfast import I3DActors, STSlowFast
from .tesnet import TeSNet
from .tsm import TSM, TSMMobileNetV2
from .tsn import TSN
from .weights import LoadResult, load_weights, read_weights
from .x3d import X3D

__all__ = [
    "CPATSM",
    "DANTSM",
    "DANX3D",
    "I3D",
    "MBPMTSM",
    "MBPMX3D",
    "MFKPSEM",
    "NLTSM",
    "R3D",
    "R3DKPSEM",
    "RNLTSM",
    "TSM",
    "TSN",
    "X3D",
    "AttentionTSM",
    "BTSNet",
    "Backbone",
    "BasicBlock",
    "Block",
    "Bottleneck",
    "BusyQuietNet",
    "ChannelTSM",
    "Comparison",
    "Figure",
    "FlatBottleneck",
    "I3DActors",
    "InceptionResNetV2",
    "InvertedResidual",
    "KeyPointNetwork",
    "LoadResult",
    "MBPMTSMMobileNetV2",
    "MFNet",
    "MSTNet",
    "MobileNetV2",
    "ModelCard",
    "MultiFiberUnit",
    "PathwayBottleneck",
    "ResNet",
    "STSlowFast",
    "Score",
    "SegmentConsensus",
    "TSMMobileNetV2",
    "TSNInceptionResNetV2",
    "TeSNet",
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
