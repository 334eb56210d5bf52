"""Settings that must stand before torch, Triton and vidops are imported."""

import contextlib
import gc
import os

with contextlib.suppress(ImportError):
    # Before anything imports the standard library's distutils: inductor imports setuptools, which then refuses.
    import setuptools  # noqa: F401

import pytest
import torch

if not torch.cuda.is_available():
    # Without a GPU the Triton kernels run in Triton's interpreter, on CPU tensors.
    os.environ.setdefault("TRITON_INTERPRET", "1")
else:
    # The reference's error is what kernels are allowed twice of: convolutions in tf32 would allow anything.
    torch.backends.cudnn.allow_tf32 = False
os.environ.pop("VIDOPS_BACKEND", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What may take longest begins first, or one worker would still be at it when the others have nothing left."""

    def allowed(item: pytest.Item) -> float:
        marker = item.get_closest_marker("timeout")
        return float(marker.args[0]) if marker and marker.args else 0.0

    items.sort(key=allowed, reverse=True)


def pytest_unconfigure() -> None:
    """Take hypothesis' hook of the garbage collector away.

    pytest-xdist ends a worker by an interrupt of its main thread and swallows that; raised in a callback of the
    collector it would be printed instead.
    """
    gc.callbacks[:] = [hook for hook in gc.callbacks if not hook.__module__.startswith("hypothesis")]
