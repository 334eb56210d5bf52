"""Video files, annotation lists, sampling, transforms, datasets."""

from . import transforms
from ._scenes import MOTION_PAIRS
from .annotations import read_annotations
from .dataset import VideoDataset
from .mirrors import mirrored_classes
from .motion import make_motion, motion_clip
from .samples import AnnotationList, FrameFolder, Sample
from .sampling import DenseSampling, UniformSampling
from .video import VideoError, num_frames, read_frames, sample_frames
from .views import SpatialCrops, Views

__all__ = [
    "MOTION_PAIRS",
    "AnnotationList",
    "DenseSampling",
    "FrameFolder",
    "Sample",
    "SpatialCrops",
    "UniformSampling",
    "VideoDataset",
    "VideoError",
    "Views",
    "make_motion",
    "mirrored_classes",
    "motion_clip",
    "num_frames",
    "read_annotations",
    "read_frames",
    "sample_frames",
    "transforms",
]
