"""Video files, annotation lists, sampling, transforms, datasets."""

from . import transforms
from ._scenes import MOTION_PAIRS
from .annotations import AnnotationList, Sample, read_annotations
from .dataset import VideoDataset
from .motion import make_motion, motion_clip
from .sampling import UniformSampling
from .video import VideoError, num_frames, read_frames, sample_frames

__all__ = [
    "MOTION_PAIRS",
    "AnnotationList",
    "Sample",
    "UniformSampling",
    "VideoDataset",
    "VideoError",
    "make_motion",
    "motion_clip",
    "num_frames",
    "read_annotations",
    "read_frames",
    "sample_frames",
    "transforms",
]
