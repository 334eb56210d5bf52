"""Fused video operators, each on several backends."""

from .backends import explain, use_backend
from .resize import resize
from .temporal_conv import temporal_conv
from .temporal_shift import temporal_shift

__all__ = ["explain", "resize", "temporal_conv", "temporal_shift", "use_backend"]
