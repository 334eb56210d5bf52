"""Video files, annotation lists, sampling, transforms, datasets."""

from . import modalities, transforms
from ._actor_scenes import ACTOR_LOOKS, ACTOR_PAIRS
from ._scenes import MOTION_PAIRS
from .actor_lists import read_actors
from .actor_set import make_actors
from .actors import ActorDataset, ActorList, KeyFrame, collate_actors
from .annotations import read_annotations
from .check import BrokenVideo, check_videos
from .dataset import VideoDataset
from .flow import FlowSettings
from .flow_store import FlowStore
from .lists import make_lists
from .mirrors import mirrored_classes
from .motion import make_motion, motion_clip
from .packing import make_shards
from .samples import AnnotationList, FrameFolder, Sample
from .sampling import DenseSampling, ShuffledSampling, UniformSampling
from .video import VideoError, num_frames, read_frames, sample_frames
from .views import SpatialCrops, Views

__all__ = [
    "ACTOR_LOOKS",
    "ACTOR_PAIRS",
    "MOTION_PAIRS",
    "ActorDataset",
    "ActorList",
    "AnnotationList",
    "BrokenVideo",
    "DenseSampling",
    "FlowSettings",
    "FlowStore",
    "FrameFolder",
    "KeyFrame",
    "Sample",
    "ShuffledSampling",
    "SpatialCrops",
    "UniformSampling",
    "VideoDataset",
    "VideoError",
    "Views",
    "check_videos",
    "collate_actors",
    "make_actors",
    "make_lists",
    "make_motion",
    "make_shards",
    "mirrored_classes",
    "modalities",
    "motion_clip",
    "num_frames",
    "read_actors",
    "read_annotations",
    "read_frames",
    "sample_frames",
    "transforms",
]
