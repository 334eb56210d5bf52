"""Case of depthwise_conv3d: X3D's channel-wise convolutions, and the aggregation of regions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import ops
from ..case import Baseline, Benchmark, Params, Target, Tensors, Workload

LAYOUTS = ("NCTHW", "NTCHW", "NTHWC")


def _params(shape: tuple[int, int, int, int, int], kernel: tuple[int, int, int], **more: Any) -> Params:
    params = {"shape": shape, "kernel": kernel, "stride": (1, 1, 1), "dilation": (1, 1, 1), "bias": False}
    params |= {"padding": tuple(k // 2 for k in kernel)}
    return params | more


def _inputs(params: Params, generator: torch.Generator) -> Tensors:
    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    channels = params["shape"][1]
    x, weight = randn(*params["shape"]), randn(channels, 1, *params["kernel"])
    return (x, weight, randn(channels)) if params["bias"] else (x, weight)


def _call(params: Params, tensors: Tensors, backend: str | None) -> Tensor:
    keys = ("stride", "padding", "dilation")
    return ops.depthwise_conv3d(*tensors, **{key: params[key] for key in keys}, backend=backend)


def _conv3d(params: Params, tensors: Tensors) -> Tensor:
    x, weight, *bias = tensors
    return F.conv3d(
        x,
        weight,
        bias[0] if bias else None,
        params["stride"],
        params["padding"],
        params["dilation"],
        x.shape[1],
    )


def _products(params: Params, direction: str) -> int:
    n, c, *size = params["shape"]
    taps = results = 1
    for i, s in enumerate(size):
        k, step, pad, apart = (params[key][i] for key in ("kernel", "stride", "padding", "dilation"))
        taps *= k
        results *= (s + 2 * pad - apart * (k - 1) - 1) // step + 1
    return n * c * taps * results * (2 if direction == "backward" else 1)


_BACKWARD = (Target("backward", "speedup", 10.0), Target("backward", "own forward", 4.0))
_HALVED = {"stride": (1, 2, 2)}

# Widths and sizes of X3D-M, 16 frames of 224 x 224; the first block of a stage halves the size.
_X3D: tuple[tuple[str, Params, bool, tuple[Target, ...]], ...] = (
    (
        "x3d-3x3x3-1x54x16x56x56",
        _params((1, 54, 16, 56, 56), (3, 3, 3)),
        True,
        (Target("forward", "speedup", 1.5), *_BACKWARD),
    ),
    ("x3d-3x3x3-1x54x8x112x112-halved", _params((1, 54, 8, 112, 112), (3, 3, 3), **_HALVED), False, ()),
    ("x3d-3x3x3-1x108x16x28x28", _params((1, 108, 16, 28, 28), (3, 3, 3)), False, ()),
    ("x3d-3x3x3-1x108x16x56x56-halved", _params((1, 108, 16, 56, 56), (3, 3, 3), **_HALVED), False, ()),
    ("x3d-3x3x3-1x216x16x14x14", _params((1, 216, 16, 14, 14), (3, 3, 3)), False, ()),
    ("x3d-3x3x3-1x432x16x7x7", _params((1, 432, 16, 7, 7), (3, 3, 3)), False, ()),
    ("x3d-stem-5x1x1-1x24x16x112x112", _params((1, 24, 16, 112, 112), (5, 1, 1)), False, ()),
    (
        "aggregate-3x7x7-1x256x8x28x28",
        _params((1, 256, 8, 28, 28), (3, 7, 7)),
        True,
        (Target("forward", "speedup", 1.2), *_BACKWARD),
    ),
    ("aggregate-3x3x3-1x256x8x28x28", _params((1, 256, 8, 28, 28), (3, 3, 3)), False, ()),
)

_GPU_TARGETS = (
    Target("forward", "floor", 1.6),
    Target("forward", "speedup", 5.0),
    Target("backward", "speedup", 10.0),
)

BENCHMARK = Benchmark(
    operator="depthwise_conv3d",
    inputs=_inputs,
    call=_call,
    eager={"conv3d": Baseline(_conv3d), "conv3d_last": Baseline(_conv3d, "NTHWC")},
    products=_products,
    workloads=(
        *(
            Workload(name, "cpu", params, layouts=LAYOUTS, quick=quick, targets=targets)
            for name, params, quick, targets in _X3D
        ),
        Workload("1x8x4x2x2", "cpu", _params((1, 8, 4, 2, 2), (3, 3, 3)), directions=("call", "call_grad")),
        *(
            Workload(
                name, "cuda", _params(shape, kernel), dtypes=("bfloat16", "float32"), layouts=LAYOUTS, quick=quick,
                targets=targets,
            )
            for name, shape, kernel, quick, targets in (
                ("3x3x3-16x54x16x56x56", (16, 54, 16, 56, 56), (3, 3, 3), True, _GPU_TARGETS),
                ("3x3x3-16x216x16x14x14", (16, 216, 16, 14, 14), (3, 3, 3), False, _GPU_TARGETS),
                (
                    "3x7x7-16x256x8x28x28", (16, 256, 8, 28, 28), (3, 7, 7), False,
                    (Target("forward", "floor", 2.0),),
                ),
            )
        ),
    ),
    small=(
        _params((2, 3, 4, 5, 6), (3, 3, 3), bias=True, stride=(1, 2, 1), padding=(1, 2, 1), dilation=(1, 1, 2)),
        _params((1, 19, 4, 9, 11), (3, 3, 3), bias=True),
        _params((1, 33, 3, 10, 8), (3, 3, 3), stride=(2, 2, 3)),
        _params((1, 3, 4, 9, 18), (3, 7, 7), bias=True),
        _params((1, 2, 1, 1, 1), (1, 3, 5)),
        _params((1, 4, 2, 5, 19), (1, 1, 9), padding=(0, 1, 2), bias=True),
        _params((1, 3, 6, 4, 5), (5, 1, 1), stride=(2, 1, 1)),
        _params((1, 17, 4, 6, 9), (3, 5, 5), padding=(0, 0, 0)),
        _params((1, 2, 2, 3, 2), (3, 9, 3)),
    ),
)  # fmt: skip
