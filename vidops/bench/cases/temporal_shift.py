"""Case of temporal_shift: TSM's shift at the sizes of ResNet-50's stages."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import ops, reference
from ..case import Baseline, Benchmark, Params, Target, Tensors, Workload

LAYOUTS = ("NCTHW", "NTCHW", "NTHWC")


def _params(shape: tuple[int, int, int, int, int], fold_div: int = 8) -> Params:
    return {"shape": shape, "fold_div": fold_div}


def _inputs(params: Params, generator: torch.Generator) -> Tensors:
    return (torch.randn(params["shape"], generator=generator, dtype=torch.float64),)


def _call(params: Params, tensors: Tensors, backend: str | None) -> Tensor:
    return ops.temporal_shift(tensors[0], params["fold_div"], backend=backend)


def _slices(params: Params, tensors: Tensors) -> Tensor:
    """Zeros and three slice copies, the usual way to write the shift."""
    (x,) = tensors
    fold = x.shape[1] // params["fold_div"]
    y = torch.zeros_like(x)
    y[:, :fold, :-1] = x[:, :fold, 1:]
    y[:, fold : 2 * fold, 1:] = x[:, fold : 2 * fold, :-1]
    y[:, 2 * fold :] = x[:, 2 * fold :]
    return y


def _cat(params: Params, tensors: Tensors) -> Tensor:
    return reference.temporal_shift(tensors[0], params["fold_div"])


def _traffic(direction: str, inputs: Tensors, outputs: Tensors) -> int:
    """One clip is read and one written in both directions: the gradient does not need ``x``."""
    return 2 * inputs[0].nbytes


_GPU = tuple(
    Workload(
        name,
        "cuda",
        _params(shape),
        dtypes=("bfloat16", "float32"),
        layouts=LAYOUTS,
        quick=quick,
        targets=(Target("forward", "floor", 1.1), Target("backward", "floor", 1.1)),
    )
    for name, shape, quick in (
        ("16x256x8x56x56", (16, 256, 8, 56, 56), True),
        ("64x1024x8x14x14", (64, 1024, 8, 14, 14), False),
    )
)

BENCHMARK = Benchmark(
    operator="temporal_shift",
    inputs=_inputs,
    call=_call,
    eager={
        "slices": Baseline(_slices),
        "slices_last": Baseline(_slices, "NTHWC"),
        "cat": Baseline(_cat),
    },
    traffic=_traffic,
    workloads=(
        Workload(
            "1x256x8x56x56",
            "cpu",
            _params((1, 256, 8, 56, 56)),
            layouts=LAYOUTS,
            quick=True,
            targets=(Target("forward", "floor", 1.1), Target("backward", "floor", 1.1)),
        ),
        Workload("1x8x4x2x2", "cpu", _params((1, 8, 4, 2, 2)), directions=("call", "call_grad")),
        *_GPU,
    ),
    small=(
        _params((2, 19, 5, 7, 9), fold_div=4),
        _params((2, 32, 8, 14, 14)),
        _params((1, 8, 1, 3, 5)),
        _params((2, 3, 4, 2, 2)),
        _params((1, 16, 2, 1, 1), fold_div=2),
    ),
)
