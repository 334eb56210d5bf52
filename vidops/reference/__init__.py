"""Plain PyTorch definitions of every operator: any device, any floating dtype, double backward."""

from .depthwise_conv3d import depthwise_conv3d
from .keypoint_shifts import keypoint_shifts
from .motion_band_pass import motion_band_pass
from .nonlocal_attention import attention_map, nonlocal_attention
from .pathway_select import pathway_select
from .region_attention import region_attention
from .resize import resize
from .temporal_conv import temporal_conv
from .temporal_descriptor import temporal_descriptor
from .temporal_projection import Projection, temporal_projection
from .temporal_shift import temporal_shift

__all__ = [
    "Projection",
    "attention_map",
    "depthwise_conv3d",
    "keypoint_shifts",
    "motion_band_pass",
    "nonlocal_attention",
    "pathway_select",
    "region_attention",
    "resize",
    "temporal_conv",
    "temporal_descriptor",
    "temporal_projection",
    "temporal_shift",
]
