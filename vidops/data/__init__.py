"""Video files, annotation lists, sampling, transforms, datasets."""

from . import modalities, transforms
from ._scenes import MOTION_PAIRS
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
    "MOTION_PAIRS",
    "AnnotationList",
    "BrokenVideo",
    "DenseSampling",
    "FlowSettings",
    "FlowStore",
    "FrameFolder",
    "Sample",
    "ShuffledSampling",
    "SpatialCrops",
    "UniformSampling",
    "VideoDataset",
    "VideoError",
    "Views",
    "check_videos",
    "make_lists",
    "make_motion",
    "make_shards",
    "mirrored_classes",
    "modalities",
    "motion_clip",
    "num_frames",
    "read_annotations",
    "read_frames",
    "sample_frames",
    "transforms",
]
