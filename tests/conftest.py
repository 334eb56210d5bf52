"""Settings that must stand before torch, Triton and vidops are imported."""

import contextlib
import os

with contextlib.suppress(ImportError):
    # Before anything imports the standard library's distutils: inductor imports setuptools, which then refuses.
    import setuptools  # noqa: F401

import torch

if not torch.cuda.is_available():
    # Without a GPU the Triton kernels run in Triton's interpreter, on CPU tensors.
    os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.pop("VIDOPS_BACKEND", None)
