"""Case of temporal_projection: the dynamic appearance of RGB clips at the sizes of the Dynamic Appearance Net."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import ops, reference
from ..case import Baseline, Benchmark, Params, Target, Tensors, Workload

LAYOUTS = ("NCTHW", "NTCHW", "NTHWC")
EVERYTHING = reference.Projection._fields
DYNAMIC = ("residual_mean", "energy")

Shape = tuple[int, int, int, int, int]


def _params(
    shape: Shape,
    columns: int,
    grid: tuple[int, int],
    outputs: tuple[str, ...] = DYNAMIC,
    ridge: float = 1e-6,
) -> Params:
    return {"shape": shape, "columns": columns, "grid": grid, "outputs": outputs, "ridge": ridge}


def _inputs(params: Params, generator: torch.Generator) -> Tensors:
    """A basis of cosines with noise: the condition of one of noise alone would be all that its errors tell."""

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    n, _, t, _, _ = params["shape"]
    d = params["columns"]
    time = (torch.arange(t, dtype=torch.float64) + 0.5) * torch.pi / t
    cosines = torch.cos(time[:, None] * torch.arange(d, dtype=torch.float64))
    noise = randn(n, t, d, *params["grid"])
    return randn(*params["shape"]), cosines[:, :, None, None] + 0.25 * noise


def _call(params: Params, tensors: Tensors, backend: str | None) -> Any:
    options = {key: params[key] for key in ("ridge", "outputs")}
    return ops.temporal_projection(*tensors, **options, backend=backend)


def _wide(tensors: Tensors) -> Tensors:
    """In fp32 at least: PyTorch solves no system in fewer bits."""
    return tuple(t if t.dtype == torch.float64 else t.float() for t in tensors)


def _full_size(params: Params, basis: Tensor) -> Tensor:
    """The basis ``(N, T, D, H, W)``, by PyTorch's interpolation."""
    a = F.interpolate(basis.flatten(1, 2), params["shape"][3:], mode="bilinear", align_corners=False)
    return a.unflatten(1, basis.shape[1:3])


def _results(
    params: Params, dtype: torch.dtype, x: Tensor, y: Tensor, projection: Tensor
) -> reference.Projection:
    """What is wanted, from the clip, the coefficients ``(N, D, C, H, W)`` and the projection."""
    residual = x - projection
    compute = {
        "coefficients": lambda: y.to(dtype),
        "projection": lambda: projection.to(dtype),
        "residual": lambda: residual.to(dtype),
        "residual_mean": lambda: residual.mean(2).to(dtype),
        "energy": lambda: residual.square().sum(2).mean((1, 2, 3)),
        "error": lambda: residual.norm(dim=2).mean((1, 2, 3)),
    }
    return reference.Projection(*(compute[f]() if f in params["outputs"] else None for f in EVERYTHING))


def _solve(params: Params, tensors: Tensors) -> reference.Projection:
    """The basis up-sampled by interpolate, and one batched solve over all pixels."""
    x, basis = _wide(tensors)
    a = _full_size(params, basis).permute(0, 3, 4, 1, 2)  # (N, H, W, T, D)
    pixels = x.permute(0, 3, 4, 2, 1)  # (N, H, W, T, C)
    gram = a.mT @ a + params["ridge"] * torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    y = torch.linalg.solve(gram, a.mT @ pixels)
    return _results(params, tensors[0].dtype, x, y.permute(0, 3, 4, 1, 2), (a @ y).permute(0, 4, 3, 1, 2))


def _planes(params: Params, tensors: Tensors) -> reference.Projection:
    """Elimination written out: every number of the D x D system is an image. For D = 1 one division."""
    x, basis = _wide(tensors)
    columns = [column.unsqueeze(1) for column in _full_size(params, basis).unbind(2)]  # (N, 1, T, H, W)
    size, rows = len(columns), range(len(columns))
    gram = [[(columns[i] * columns[j]).sum(2) for j in rows] for i in rows]  # (N, 1, H, W)
    right = [(column * x).sum(2) for column in columns]  # (N, C, H, W)
    for k in rows:
        gram[k][k] = gram[k][k] + params["ridge"]
        for i in range(k + 1, size):
            factor = gram[i][k] / gram[k][k]
            right[i] = right[i] - factor * right[k]
            gram[i] = [gram[i][j] - factor * gram[k][j] if j > k else gram[i][j] for j in rows]
    y: list[Tensor] = [torch.empty(0)] * size
    for k in reversed(rows):
        rest = [gram[k][j] * y[j] for j in range(k + 1, size)]
        y[k] = (right[k] - sum(rest)) / gram[k][k] if rest else right[k] / gram[k][k]
    projection = columns[0] * y[0].unsqueeze(2)
    for k in range(1, size):
        projection = torch.addcmul(projection, columns[k], y[k].unsqueeze(2))
    return _results(params, tensors[0].dtype, x, torch.stack(y, 1), projection)


def _products(params: Params, direction: str) -> int:
    """Multiply-adds of G (its half), At x and A y; backward these again, At gp, A z, r yt and p zt."""
    n, c, t, h, w = params["shape"]
    d = params["columns"]
    forward: int = n * h * w * t * d * ((d + 1) // 2 + 2 * c)
    return n * h * w * t * d * ((d + 1) // 2 + 6 * c) if direction == "backward" else forward


_CPU_TARGETS = (
    Target("forward", "speedup", 20.0, against="solve", layouts=("NCTHW",)),
    Target("backward", "speedup", 15.0, against="solve", layouts=("NCTHW",)),
)
_GPU_TARGETS = (Target("forward", "floor", 1.2), Target("backward", "floor", 1.6))

BENCHMARK = Benchmark(
    operator="temporal_projection",
    inputs=_inputs,
    call=_call,
    eager={
        "solve": Baseline(_solve),
        "solve_last": Baseline(_solve, "NTHWC"),
        "planes": Baseline(_planes),
    },
    products=_products,
    batched=(0, 1),
    workloads=(
        *(
            Workload(
                f"4x3x8x224x224 D{d}",
                "cpu",
                _params((4, 3, 8, 224, 224), d, (28, 28)),
                layouts=LAYOUTS,
                quick=True,
                targets=_CPU_TARGETS,
            )
            for d in (1, 3)
        ),
        Workload(
            "squeeze 4x3x10x224x224 D3",
            "cpu",
            _params((4, 3, 10, 224, 224), 3, (1, 1), ("coefficients", "error"), 0.0),
            layouts=("NCTHW", "NTHWC"),
        ),
        Workload("1x8x4x2x2", "cpu", _params((1, 8, 4, 2, 2), 1, (2, 2)), directions=("call", "call_grad")),
        *(
            Workload(
                f"64x3x{t}x224x224 D{d}",
                "cuda",
                _params((64, 3, t, 224, 224), d, (28, 28)),
                dtypes=("float32", "bfloat16"),
                layouts=LAYOUTS,
                quick=t == 8 and d == 1,
                targets=_GPU_TARGETS if d == 1 else (),
            )
            for t, d in ((8, 1), (16, 1), (8, 3))
        ),
    ),
    small=(
        _params((2, 4, 5, 3, 7), 3, (2, 3), EVERYTHING),
        _params((2, 3, 4, 9, 16), 1, (2, 3)),
        _params((1, 5, 6, 4, 5), 2, (1, 1), ("coefficients", "error"), 0.0),
        _params((1, 2, 8, 4, 3), 5, (4, 3), ("residual_mean", "energy", "error"), 0.1),
        _params((1, 3, 4, 11, 13), 1, (7, 9), ("residual", "energy")),
        _params((1, 2, 3, 1, 1), 2, (1, 1), ("projection",)),
        _params((1, 2, 18, 2, 3), 16, (1, 2), ("coefficients", "residual_mean")),
        _params((1, 1, 64, 2, 2), 4, (2, 1)),
    ),
)
