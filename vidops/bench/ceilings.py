"""The machine's ceilings: how fast it copies, multiplies and adds, measured in the operators' own run."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import math
from collections.abc import Callable
from typing import Any

import torch

from .. import ops
from ..ops.backends import OPERATORS
from .timing import Effort, Timing, clock_for, interleave

__all__ = ["Rates", "copy_step", "measure_rates"]

Rates = dict[str, Any]


def copy_step(nbytes: int, device: str, cache: int) -> Callable[[], Any]:
    """One copy that moves ``nbytes``, half of them read and half written, between buffers that exist already.

    Sources take turns, so that none is still in the cache of ``cache`` bytes. The target is one buffer: an
    allocator hands an operator's last result out again in the same way.

    Example:
        >>> copy_step(1 << 16, "cpu", 1 << 20)().nbytes
        32768
    """
    count = max(1, nbytes // 8)
    number = max(2, min(6, math.ceil(4 * cache / max(nbytes, 1))))
    sources = itertools.cycle([torch.full((count,), float(i), device=device) for i in range(number)])
    target = torch.zeros(count, device=device)
    return lambda: target.copy_(next(sources))


def measure_rates(device: str, effort: Effort) -> Rates:
    """Measure multiply-adds a second: fp32 ones outside matrix units, and those of the best matrix product.

    On a GPU the fp32 rate is that of a loop of multiply-adds in registers, and the matrix product is bf16.
    On a CPU both are those of the faster of two fp32 products, PyTorch's and that of vidops' attention: the former
    keeps to AVX2 on AMD's cores, at half of what AVX-512 does. No product reaches what the processor could, so
    `harness` raises the rate to that of the fastest variant it measures.

    Args:
        device: ``"cpu"`` or ``"cuda"``.
        effort: how long to measure.

    Returns:
        ``fma``, ``matrix``: multiply-adds a second; ``fma_by``, ``matrix_by``: what was run.

    Example:
        >>> measure_rates("cpu", Effort(rounds=1, least=1, budget=0.01))["fma"] > 0
        True
    """
    clock = clock_for(device, "forward")
    if device == "cpu":
        by, rate = _best_of_cpu(effort)
        return {"fma": rate, "matrix": rate, "fma_by": by, "matrix_by": by}
    matrix = _matrix_rate(8192, torch.bfloat16, device, effort)
    if importlib.util.find_spec("triton") is None:
        fma, by = _matrix_rate(8192, torch.float32, device, effort), "fp32 matrix product 8192^3 (no Triton)"
    else:
        step, products = _fma_loop()
        fma = products / interleave({"fma": step}, clock, effort)["fma"].median
        by = "fp32 multiply-adds in registers"
    return {"fma": fma, "matrix": matrix, "fma_by": by, "matrix_by": "bf16 matrix product 8192^3"}


def _best_of_cpu(effort: Effort) -> tuple[str, float]:
    """The fastest fp32 product on this CPU, and its multiply-adds a second."""
    size, channels = 768, 256
    a, b = torch.randn(size, size), torch.randn(size, size)
    out = torch.empty(size, size)
    clip = torch.randn(1, 8, 14, 14, channels).permute(0, 4, 1, 2, 3) / channels**0.25
    positions = clip[0, 0].numel()
    steps: dict[str, Callable[[], Any]] = {
        "PyTorch's fp32 product": lambda: torch.mm(a, b, out=out),
    }
    products = [size**3]
    if not OPERATORS["nonlocal_attention"].missing["cpu"]:
        steps["vidops' attention"] = lambda: ops.nonlocal_attention(clip, clip, clip, backend="cpu")
        products.append(2 * positions**2 * channels)
    with torch.inference_mode():
        timings = interleave(steps, clock_for("cpu", "forward"), effort)
    rates = {name: n / timings[name].median for name, n in zip(steps, products, strict=True)}
    return max(rates.items(), key=lambda item: item[1])


def _matrix_rate(size: int, dtype: torch.dtype, device: str, effort: Effort) -> float:
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty(size, size, dtype=dtype, device=device)
    with torch.inference_mode():
        timing: Timing = interleave(
            {"mm": functools.partial(torch.mm, a, b, out=out)}, clock_for(device, "forward"), effort
        )["mm"]
    return size**3 / timing.median


def _fma_loop() -> tuple[Callable[[], Any], int]:
    """A Triton kernel of nothing but multiply-adds, and how many of them a call does."""
    from .fma_loop import ELEMENTS, UNROLL, fma_loop

    programs = 64 * torch.cuda.get_device_properties(0).multi_processor_count
    turns = 256
    out = torch.empty(programs * ELEMENTS, device="cuda")

    def step() -> None:
        fma_loop[(programs,)](out, 0.999, 0.001, turns, ELEMENTS, UNROLL)

    return step, programs * ELEMENTS * UNROLL * turns
