"""The machine: what it is, what others do on it meanwhile, and its ceilings."""

from __future__ import annotations

import ctypes
import gc
import importlib.metadata
import os
import platform
import resource
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .. import __version__, _build

__all__ = ["LoadMeter", "cache_bytes", "describe", "peak_growth"]

_PROC = Path("/proc")


class LoadMeter:
    """Cores that other processes kept busy inside a ``with`` block, from ``/proc/stat``.

    Time that a hypervisor took away counts too. ``cores`` is None where there is no ``/proc/stat``.

    Example:
        >>> with LoadMeter() as meter:
        ...     _ = sum(range(1000))
        >>> meter.cores is None or meter.cores >= 0
        True
    """

    cores: float | None = None

    def __enter__(self) -> LoadMeter:
        """Start."""
        self._start = self._read()
        return self

    def __exit__(self, *_: Any) -> None:
        """Stop, and set ``cores``."""
        self.cores = self.so_far()

    def so_far(self) -> float | None:
        """The cores since the start, without stopping."""
        return self._between(self._start, self._read())

    @staticmethod
    def _read() -> tuple[float, float, float] | None:
        try:
            first = (_PROC / "stat").read_text(encoding="ascii").splitlines()[0].split()
        except OSError:
            return None
        # user nice system idle iowait irq softirq steal; guest time is in user and nice already
        ticks = [int(v) for v in first[1:9]]
        busy = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
        own = sum(
            usage.ru_utime + usage.ru_stime
            for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        )
        return time.monotonic(), busy, own

    @staticmethod
    def _between(
        start: tuple[float, float, float] | None, end: tuple[float, float, float] | None
    ) -> float | None:
        if start is None or end is None:
            return None
        wall, busy, own = (b - a for a, b in zip(start, end, strict=True))
        return round(max(0.0, busy - own) / max(wall, 1e-3), 3)


def describe(device: str) -> dict[str, Any]:
    """Say what machine and which versions a measurement is of.

    Args:
        device: ``"cpu"`` or ``"cuda"``; with the latter the GPU is described too.

    Returns:
        Plain values, ready for JSON.

    Example:
        >>> sorted(describe("cpu"))
        ['cores', 'cpu', 'cpu_level', 'gpu', 'revision', 'system', 'versions']
    """
    gpu = None
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        gpu = {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "count": torch.cuda.device_count(),
        }
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu_level": _build.status()["cpu"].level or None,
        "gpu": gpu,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "revision": _revision(),
        "versions": {
            "vidops": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "triton": _version("triton"),
            "cuda": torch.version.cuda,
        },
    }


def _cpu_name() -> str:
    try:
        lines = (_PROC / "cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _revision() -> str | None:
    """The commit of the checkout that vidops lies in, marked where files differ; None in an install.

    VIDOPS_REVISION says it of a copy without its repository, as on a machine that is lent.
    """
    if given := os.environ.get("VIDOPS_REVISION"):
        return given
    root = _build.package_folder().parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def cache_bytes(device: str) -> int:
    """Size of the last cache before memory, in bytes.

    Example:
        >>> cache_bytes("cpu") > 0
        True
    """
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).L2_cache_size)
    sizes = []
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = index.read_text(encoding="ascii").strip()
        sizes.append(int(text.rstrip("KM")) << {"K": 10, "M": 20}.get(text[-1], 0))
    return max(sizes, default=32 << 20)


def peak_growth(step: Callable[[], Any], device: str) -> int | None:
    """Run ``step`` and return the most memory held beyond what was held before, its results included.

    On a CPU these are the pages touched, kernels' own buffers included, give or take a few; None where the
    system does not tell.

    Args:
        step: the call; its results are dropped.
        device: ``"cpu"`` or ``"cuda"``.

    Returns:
        Bytes.

    Example:
        >>> grown = peak_growth(lambda: torch.ones(4 << 20), "cpu")
        >>> grown is None or grown >= 15 << 20
        True
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    _give_back()
    try:
        (_PROC / "self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark starts anew
        before = _status("VmRSS")
        step()
        return max(0, _status("VmHWM") - before)
    except (OSError, KeyError):
        return None


def _give_back() -> None:
    """Return freed pages to the system, so that those used again are counted."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):
        return  # another C library than glibc


def _status(name: str) -> int:
    lines = (_PROC / "self/status").read_text(encoding="ascii").splitlines()
    values = dict(line.split(":", 1) for line in lines)
    return int(values[name].split()[0]) * 1024
