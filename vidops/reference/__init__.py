"""Plain PyTorch definitions of every operator: any device, any floating dtype, double backward."""

from .depthwise_conv3d import depthwise_conv3d
from .motion_band_pass import motion_band_pass
from .resize import resize
from .temporal_conv import temporal_conv
from .temporal_descriptor import temporal_descriptor
from .temporal_projection import Projection, temporal_projection
from .temporal_shift import temporal_shift

__all__ = [
    "Projection",
    "depthwise_conv3d",
    "motion_band_pass",
    "resize",
    "temporal_conv",
    "temporal_descriptor",
    "temporal_projection",
    "temporal_shift",
]
