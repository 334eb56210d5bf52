"""Case of pathway_select: the pathways of BTSNet-50 on 30 frames of 112 x 112, stage by stage."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import ops, reference
from ..case import Baseline, Benchmark, Params, Target, Tensors, Workload

LAYOUTS = ("NCTHW", "NTCHW", "NTHWC")

Shape = tuple[int, int, int, int, int]


def _params(shape: Shape, pathways: int, per_frame: bool = True) -> Params:
    return {"shape": shape, "pathways": pathways, "per_frame": per_frame}


def _inputs(params: Params, generator: torch.Generator) -> Tensors:
    """The first path, the logits, and the other paths: whatever their number, the second is no clip."""
    n, c, t = params["shape"][:3]
    size = (n, params["pathways"], c, t) if params["per_frame"] else (n, params["pathways"], c)
    first, *others = (
        torch.randn(params["shape"], generator=generator, dtype=torch.float64)
        for _ in range(params["pathways"])
    )
    return first, torch.randn(size, generator=generator, dtype=torch.float64), *others


def _arguments(tensors: Tensors) -> tuple[list[Tensor], Tensor]:
    first, logits, *others = tensors
    return [first, *others], logits


def _call(params: Params, tensors: Tensors, backend: str | None) -> Tensor:
    return ops.pathway_select(*_arguments(tensors), backend=backend)


def _weights(logits: Tensor) -> Tensor:
    """Softmax over pathways, ``(N, M, C, T or 1, 1, 1)``."""
    weights = logits.softmax(1)
    return weights.view(*weights.shape, *(1,) * (6 - weights.dim()))


def _stacked(params: Params, tensors: Tensors) -> Tensor:
    """All pathways in one tensor, times the weights, and a sum: as the sources write it."""
    paths, logits = _arguments(tensors)
    return (torch.stack(paths, 1) * _weights(logits)).sum(1)


def _chain(params: Params, tensors: Tensors) -> Tensor:
    """Pathway by pathway, each product and each sum a pass of its own."""
    return reference.pathway_select(*_arguments(tensors))


def _fused_products(params: Params, tensors: Tensors) -> Tensor:
    """Pathway by pathway, each product with its sum one pass."""
    paths, logits = _arguments(tensors)
    weights = _weights(logits)
    total = paths[0] * weights[:, 0]
    for m in range(1, len(paths)):
        total = torch.addcmul(total, paths[m], weights[:, m])
    return total


_CPU_TARGETS = (
    Target("forward", "floor", 1.15),
    Target("backward", "floor", 1.25),
    Target("forward", "speedup", 4.0, against="stack"),
    Target("backward", "speedup", 2.0, against="stack"),
    Target("forward", "speedup", 1.8),
    Target("backward", "speedup", 2.0),
)
_GPU_TARGETS = (Target("forward", "floor", 1.2), Target("backward", "floor", 1.3))
_STAGES = ((128, 15, 28), (256, 8, 14), (512, 4, 7))

BENCHMARK = Benchmark(
    operator="pathway_select",
    inputs=_inputs,
    call=_call,
    eager={
        "stack": Baseline(_stacked),
        "chain": Baseline(_chain),
        "chain_last": Baseline(_chain, "NTHWC"),
        "addcmul": Baseline(_fused_products),
        "addcmul_last": Baseline(_fused_products, "NTHWC"),
    },
    clips=(0, *range(2, 9)),
    batched=tuple(range(9)),
    workloads=(
        *(
            Workload(
                f"1x{c}x{t}x{side}x{side} M3 {'TC' if per_frame else 'C'}",
                "cpu",
                _params((1, c, t, side, side), 3, per_frame),
                layouts=LAYOUTS,
                quick=side == 28 and per_frame,
                targets=_CPU_TARGETS if side == 28 else (),
            )
            for c, t, side in _STAGES
            for per_frame in (True, False)
        ),
        Workload("1x128x15x28x28 M7 TC", "cpu", _params((1, 128, 15, 28, 28), 7), layouts=("NCTHW", "NTHWC")),
        Workload("1x8x4x2x2 M3 TC", "cpu", _params((1, 8, 4, 2, 2), 3), directions=("call", "call_grad")),
        *(
            Workload(
                f"32x{c}x{t}x{side}x{side} M3 TC",
                "cuda",
                _params((32, c, t, side, side), 3),
                dtypes=("float32", "bfloat16"),
                layouts=LAYOUTS,
                quick=side == 28,
                targets=_GPU_TARGETS if side == 28 else (),
            )
            for c, t, side in _STAGES
        ),
        Workload(
            "32x128x15x28x28 M3 C",
            "cuda",
            _params((32, 128, 15, 28, 28), 3, False),
            dtypes=("float32", "bfloat16"),
            layouts=LAYOUTS,
            targets=_GPU_TARGETS,
        ),
        Workload("32x128x15x28x28 M7 TC", "cuda", _params((32, 128, 15, 28, 28), 7), layouts=LAYOUTS),
    ),
    small=(
        _params((2, 19, 4, 5, 7), 3),
        _params((2, 17, 3, 3, 5), 3, False),
        _params((1, 5, 3, 4, 4), 1),
        _params((1, 16, 2, 2, 3), 2, False),
        _params((1, 6, 2, 3, 3), 8),
        _params((1, 9, 1, 2, 5), 5, False),
        _params((2, 8, 3, 1, 1), 4),
        _params((1, 3, 4, 2, 2), 6),
        _params((1, 48, 4, 13, 15), 2),
        _params((1, 4, 2, 3, 2), 7, False),
    ),
)
