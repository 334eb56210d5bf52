"""Case of temporal_conv: MixTConv's four groups at the sizes of ResNet-50's stages."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import ops
from ..case import Baseline, Benchmark, Params, Target, Tensors, Workload

LAYOUTS = ("NCTHW", "NTCHW", "NTHWC")
KERNEL_SIZES = (1, 3, 5, 7)


def _groups(channels: int, kernel_sizes: tuple[int, ...] = KERNEL_SIZES) -> tuple[tuple[int, int, int], ...]:
    sizes = [len(part) for part in torch.empty(channels).tensor_split(len(kernel_sizes))]
    return tuple((c, k, 1) for c, k in zip(sizes, kernel_sizes, strict=True))


def _params(shape: tuple[int, int, int, int, int], **more: Any) -> Params:
    return {
        "shape": shape,
        "groups": _groups(shape[1]),
        "stride": 1,
        "padding": "zeros",
        "bias": False,
        **more,
    }


def _inputs(params: Params, generator: torch.Generator) -> Tensors:
    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, weight = randn(*params["shape"]), randn(sum(c * k for c, k, _ in params["groups"]))
    return (x, weight, randn(params["shape"][1])) if params["bias"] else (x, weight)


def _call(params: Params, tensors: Tensors, backend: str | None) -> Tensor:
    keys = ("groups", "stride", "padding")
    return ops.temporal_conv(*tensors, **{key: params[key] for key in keys}, backend=backend)


def _parts(params: Params, tensors: Tensors) -> list[tuple[Tensor, Tensor, int]]:
    """Each group's channels, its taps as ``(C_m, 1, k_m)`` and its padding, as a layer would hold them."""
    x, weight = tensors
    groups = params["groups"]
    channels = x.split([c for c, _, _ in groups], 1)
    taps = weight.split([c * k for c, k, _ in groups])
    return [(p, w.view(c, 1, k), k // 2) for p, w, (c, k, _) in zip(channels, taps, groups, strict=True)]


def _conv3d(params: Params, tensors: Tensors) -> Tensor:
    parts = _parts(params, tensors)
    return torch.cat(
        [F.conv3d(p, w[..., None, None], padding=(r, 0, 0), groups=len(w)) for p, w, r in parts], 1
    )


def _conv2d(params: Params, tensors: Tensors) -> Tensor:
    x, weight = tensors
    parts = _parts(params, (x.flatten(3), weight))
    y = torch.cat([F.conv2d(p, w[..., None], padding=(r, 0), groups=len(w)) for p, w, r in parts], 1)
    return y.unflatten(3, x.shape[3:])


def _products(params: Params, direction: str) -> int:
    n, _, t, h, w = params["shape"]
    forward: int = n * t * h * w * sum(c * k for c, k, _ in params["groups"])
    return 2 * forward if direction == "backward" else forward


_GPU = tuple(
    Workload(
        name,
        "cuda",
        _params(shape),
        dtypes=("bfloat16", "float32"),
        layouts=LAYOUTS,
        quick=quick,
        targets=(Target("forward", "floor", 1.1), Target("backward", "floor", 1.2)),
    )
    for name, shape, quick in (
        ("16x256x8x56x56", (16, 256, 8, 56, 56), True),
        ("64x1024x8x14x14", (64, 1024, 8, 14, 14), False),
    )
)

BENCHMARK = Benchmark(
    operator="temporal_conv",
    inputs=_inputs,
    call=_call,
    eager={
        "conv3d": Baseline(_conv3d),
        "conv3d_last": Baseline(_conv3d, "NTHWC"),
        "conv2d": Baseline(_conv2d),
    },
    products=_products,
    workloads=(
        Workload(
            "1x256x8x56x56",
            "cpu",
            _params((1, 256, 8, 56, 56)),
            layouts=LAYOUTS,
            quick=True,
            targets=(
                Target("forward", "speedup", 8.0, against="conv3d", layouts=("NCTHW",)),
                Target("forward", "copy", 1.4, layouts=("NCTHW",)),
                Target("backward", "speedup", 8.0, against="conv3d", layouts=("NCTHW",)),
            ),
        ),
        *(
            Workload(
                "1x8x4x2x2",
                device,
                _params((1, 8, 4, 2, 2)),
                directions=("call", "call_grad"),
                quick=True,
                targets=(Target("call", "seconds", 15e-6), Target("call_grad", "seconds", 30e-6)),
            )
            for device in ("cpu", "cuda")
        ),
        *_GPU,
    ),
    small=(
        _params((2, 13, 8, 5, 7), bias=True, groups=((3, 1, 1), (0, 5, 1), (4, 3, 2), (2, 5, 1), (4, 7, 1))),
        _params((2, 32, 8, 14, 14), bias=True),
        _params((2, 19, 5, 7, 9), bias=True, padding="replicate", stride=2),
        _params((1, 8, 9, 3, 5), padding="valid"),
        _params((2, 6, 1, 1, 1), groups=((6, 3, 2),)),
        _params((1, 5, 2, 4, 4), groups=((2, 7, 1), (0, 3, 1), (3, 1, 1))),
    ),
)
