"""Measured values of the kernels' knobs: block shapes, vector widths, stages, and CUDA's or Triton's turn.

A kernel reads what may be tuned from a :class:`Knob` that is made beside it. Values that were measured lie in files of
this folder, chosen by the GPU's name or its compute capability when CUDA starts; where there is none, built-in values
are used. ``VIDOPS_TUNING=FILE`` names another file, ``VIDOPS_TUNING=none`` keeps the built-in values, ``vidops info``
says which are in use, ``vidops tune`` measures.
"""

from .file import Tuning, choose, read_tuning, write_tuning
from .knob import KNOBS, Knob, Value, trial

__all__ = ["KNOBS", "Knob", "Tuning", "Value", "choose", "read_tuning", "trial", "write_tuning"]
