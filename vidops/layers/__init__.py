"""Modules over the operators: they take and return clips ``(N, C, T, H, W)`` in any native layout."""

from .fold_time import FoldTime
from .mix_t_conv import MixTConv
from .motion_band_pass import MotionBandPass
from .temporal_shift import TemporalShift

__all__ = ["FoldTime", "MixTConv", "MotionBandPass", "TemporalShift"]
