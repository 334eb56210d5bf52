"""Fused video operators, each on several backends."""

import torch.fx

from .attention_map import attention_map
from .backends import use_backend
from .depthwise_conv3d import depthwise_conv3d
from .explain import explain
from .keypoint_shifts import keypoint_shifts
from .motion_band_pass import motion_band_pass
from .nonlocal_attention import nonlocal_attention
from .pathway_select import pathway_select
from .region_aggregate import region_aggregate
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
    "explain",
    "keypoint_shifts",
    "motion_band_pass",
    "nonlocal_attention",
    "pathway_select",
    "region_aggregate",
    "region_attention",
    "resize",
    "temporal_conv",
    "temporal_descriptor",
    "temporal_projection",
    "temporal_shift",
    "use_backend",
]

# For torch.fx each is one call, as PyTorch's own functions are: it cannot follow their checks.
for _name in __all__:
    if _name not in ("Projection", "explain", "use_backend"):
        torch.fx.wrap(_name)
