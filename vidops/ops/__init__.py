"""Fused video operators, each on several backends."""

from .backends import explain, use_backend
from .motion_band_pass import motion_band_pass
from .resize import resize
from .temporal_conv import temporal_conv
from .temporal_shift import temporal_shift

__all__ = ["explain", "motion_band_pass", "resize", "temporal_conv", "temporal_shift", "use_backend"]
