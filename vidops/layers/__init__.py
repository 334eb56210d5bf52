"""Modules over the operators: they take and return clips ``(N, C, T, H, W)`` in any native layout."""

from .depthwise_conv3d import DepthwiseConv3d
from .fold_time import FoldTime
from .lateral_connection import BandPassLateralConnection, LateralConnection
from .mix_t_conv import MixTConv
from .motion_band_pass import MotionBandPass
from .pixelwise_temporal_projection import PixelwiseTemporalProjection
from .temporal_shift import TemporalShift
from .temporal_squeeze_pool import TemporalSqueezePool

__all__ = [
    "BandPassLateralConnection",
    "DepthwiseConv3d",
    "FoldTime",
    "LateralConnection",
    "MixTConv",
    "MotionBandPass",
    "PixelwiseTemporalProjection",
    "TemporalShift",
    "TemporalSqueezePool",
]
