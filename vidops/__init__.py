"""Fused video operators for PyTorch and the action-recognition models built from them."""

from . import ops, reference
from .ops import explain, use_backend

__version__ = "0.1.0"
__all__ = ["explain", "ops", "reference", "use_backend"]
