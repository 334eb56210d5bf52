"""Case of temporal_descriptor: the features that the Pixel-Wise Temporal Projection describes."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import ops
from ..case import Baseline, Benchmark, Params, Target, Tensors, Workload

LAYOUTS = ("NCTHW", "NTCHW", "NTHWC")

Shape = tuple[int, int, int, int, int]


def _params(shape: Shape) -> Params:
    return {"shape": shape}


def _inputs(params: Params, generator: torch.Generator) -> Tensors:
    return (torch.randn(params["shape"], generator=generator, dtype=torch.float64),)


def _call(params: Params, tensors: Tensors, backend: str | None) -> Tensor:
    return ops.temporal_descriptor(tensors[0], backend=backend)


def _pairs(frames: int, device: torch.device) -> tuple[Tensor, Tensor]:
    first, second = torch.triu_indices(frames, frames, 1, device=device).unbind()
    return first, second


def _gram(params: Params, tensors: Tensors) -> Tensor:
    """All products of frames by one batched matrix product, of which the upper triangle is taken."""
    (x,) = tensors
    frames = x.permute(0, 3, 4, 2, 1)  # (N, h, w, T, C)
    first, second = _pairs(x.shape[2], x.device)
    products = torch.matmul(frames, frames.mT)[..., first, second] / x.shape[1]
    return products.permute(0, 3, 1, 2)


def _gathered(params: Params, tensors: Tensors) -> Tensor:
    """Both frames of every pair gathered and multiplied."""
    (x,) = tensors
    first, second = _pairs(x.shape[2], x.device)
    return (x[:, :, first] * x[:, :, second]).mean(1)


def _frame_by_frame(params: Params, tensors: Tensors) -> Tensor:
    """Every frame times all the later ones."""
    (x,) = tensors
    return torch.cat([(x[:, :, i : i + 1] * x[:, :, i + 1 :]).mean(1) for i in range(x.shape[2] - 1)], 1)


def _products(params: Params, direction: str) -> int:
    n, c, t, h, w = params["shape"]
    forward: int = n * c * t * (t - 1) // 2 * h * w
    return 2 * forward if direction == "backward" else forward


_TARGETS = (Target("forward", "speedup", 1.0), Target("backward", "speedup", 1.0))

BENCHMARK = Benchmark(
    operator="temporal_descriptor",
    inputs=_inputs,
    call=_call,
    eager={
        "gram": Baseline(_gram),
        "gram_last": Baseline(_gram, "NTHWC"),
        "gathered": Baseline(_gathered),
        "frame_by_frame": Baseline(_frame_by_frame),
    },
    products=_products,
    workloads=(
        Workload(
            "8x24x8x28x28", "cpu", _params((8, 24, 8, 28, 28)), layouts=LAYOUTS, quick=True, targets=_TARGETS
        ),
        Workload("4x24x16x20x20", "cpu", _params((4, 24, 16, 20, 20)), layouts=LAYOUTS, targets=_TARGETS),
        Workload("1x8x4x2x2", "cpu", _params((1, 8, 4, 2, 2)), directions=("call", "call_grad")),
        *(
            Workload(
                f"64x24x{t}x28x28",
                "cuda",
                _params((64, 24, t, 28, 28)),
                dtypes=("float32", "bfloat16"),
                layouts=LAYOUTS,
                quick=t == 8,
                targets=_TARGETS,
            )
            for t in (8, 16)
        ),
    ),
    small=(
        _params((2, 5, 5, 3, 7)),
        _params((1, 24, 6, 3, 5)),
        _params((3, 2, 3, 4, 4)),
        _params((1, 1, 2, 1, 1)),
        _params((1, 3, 17, 2, 3)),
    ),
)
