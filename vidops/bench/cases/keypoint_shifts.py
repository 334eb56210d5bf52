"""Case of keypoint_shifts: the features that KPSEM reads in MFNet, 8 sets of 4 regions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import ops
from ...reference.keypoint_shifts import borders, coverage, members
from ..case import Baseline, Benchmark, Params, Target, Tensors, Workload

LAYOUTS = ("NCTHW", "NTCHW", "NTHWC")

Shape = tuple[int, int, int, int, int]


def _params(shape: Shape, sets: int, bands: int, epsilon: float = 0.1) -> Params:
    return {"shape": shape, "sets": sets, "bands": bands, "epsilon": epsilon}


def _inputs(params: Params, generator: torch.Generator) -> Tensors:
    """Lines of an equal grid, moved by up to a quarter of the frame, as KPSEM's centres are."""
    n, _, t, h, w = params["shape"]
    count = params["bands"] - 1
    features = torch.randn(params["shape"], generator=generator, dtype=torch.float64)
    moved = torch.rand((n, params["sets"], t, 2, count), generator=generator, dtype=torch.float64) / 2 - 0.25
    places = torch.arange(1, count + 1, dtype=torch.float64) / (count + 1)
    return features, (places + moved) * torch.tensor([w, h], dtype=torch.float64)[:, None]


def _call(params: Params, tensors: Tensors, backend: str | None) -> Any:
    return ops.keypoint_shifts(*tensors, epsilon=params["epsilon"], backend=backend)


def _masks(lines: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Pixels of each region, and their shares of its area, ``(N, T, K, H * W)``."""
    across, down = borders(lines[:, :, 0], width), borders(lines[:, :, 1], height)
    inside = members(down, height)[:, :, :, None, :, None] & members(across, width)[:, :, None, :, None, :]
    rows = coverage(down, height) / down.diff(dim=-1).unsqueeze(-1)
    columns = coverage(across, width) / across.diff(dim=-1).unsqueeze(-1)
    shares = rows[:, :, :, None, :, None] * columns[:, :, None, :, None, :]
    return inside.flatten(4).flatten(2, 3), shares.flatten(4).flatten(2, 3)


def _shifts(values: Tensor, means: Tensor, places: Tensor, width: int, epsilon: float) -> Tensor:
    """Eq. 8-12, from ``(N, G, T, C, K)`` each."""
    distance = (values[:, :, :-1, :, :, None] - values[:, :, 1:, :, None, :]).abs()
    weights = (1 / (distance + epsilon)).softmax(-1)
    regions = ((means[:, :, :-1] + means[:, :, 1:]) / 2).softmax(-1)
    results = []
    for at in (places % width, places // width):
        at = at.to(values.dtype)
        expected = (weights @ at[:, :, 1:, :, :, None]).squeeze(-1)
        results.append(regions * (expected - at[:, :, :-1]))
    return torch.stack(results, -1).permute(0, 1, 4, 3, 2, 5)


def _wide(tensors: Tensors) -> Tensors:
    return tuple(t if t.dtype == torch.float64 else t.float() for t in tensors)


def _masked(params: Params, tensors: Tensors) -> Tensor:
    """A masked maximum with its place and a weighted mean for every set and region."""
    x, separators = _wide(tensors)
    height, width = x.shape[3:]
    pixels = x.transpose(1, 2).flatten(3)  # (N, T, C, H * W)
    found = []
    for lines in separators.unbind(1):
        inside, shares = _masks(lines, height, width)
        for k in range(inside.shape[2]):
            largest = torch.where(inside[:, :, k, None], pixels, -torch.inf).max(-1)
            found.append((largest.values, (pixels * shares[:, :, k, None]).sum(-1), largest.indices))
    values, means, places = (
        torch.stack(each, -1).unflatten(-1, (separators.shape[1], -1)).movedim(-2, 1)
        for each in zip(*found, strict=True)
    )
    return _shifts(values, means, places, width, params["epsilon"])


def _products(params: Params, tensors: Tensors) -> Tensor:
    """The same with one masked maximum a set, and all means of a frame by one matrix product."""
    x, separators = _wide(tensors)
    height, width = x.shape[3:]
    pixels = x.transpose(1, 2).flatten(3)
    masks = [_masks(lines, height, width) for lines in separators.unbind(1)]
    largest = [
        torch.where(inside[:, :, None], pixels.unsqueeze(3), -torch.inf).max(-1) for inside, _ in masks
    ]
    values = torch.stack([each.values for each in largest], 1)
    places = torch.stack([each.indices for each in largest], 1)
    means = torch.stack([pixels @ shares.mT for _, shares in masks], 1)
    return _shifts(values, means, places, width, params["epsilon"])


_CPU_TARGETS = (Target("forward", "speedup", 20.0), Target("backward", "speedup", 10.0))
_GPU_TARGETS = (Target("forward", "floor", 2.0), Target("forward", "speedup", 50.0, against="masked"))

BENCHMARK = Benchmark(
    operator="keypoint_shifts",
    inputs=_inputs,
    call=_call,
    eager={"masked": Baseline(_masked), "products": Baseline(_products)},
    batched=(0, 1),
    workloads=(
        Workload(
            "mfnet 1x384x8x14x14 G8 K4",
            "cpu",
            _params((1, 384, 8, 14, 14), 8, 2),
            layouts=LAYOUTS,
            quick=True,
            targets=_CPU_TARGETS,
        ),
        Workload("r3d 1x512x4x28x28 G8 K4", "cpu", _params((1, 512, 4, 28, 28), 8, 2)),
        Workload("1x384x8x14x14 G8 K9", "cpu", _params((1, 384, 8, 14, 14), 8, 3)),
        Workload("1x16x2x4x4", "cpu", _params((1, 16, 2, 4, 4), 1, 2), directions=("call", "call_grad")),
        Workload(
            "mfnet 64x384x8x14x14 G8 K4",
            "cuda",
            _params((64, 384, 8, 14, 14), 8, 2),
            dtypes=("float32", "bfloat16"),
            layouts=LAYOUTS,
            quick=True,
            targets=_GPU_TARGETS,
        ),
    ),
    small=(
        _params((2, 5, 4, 5, 7), 2, 3, 0.3),
        _params((1, 2, 2, 2, 3), 1, 2),
        _params((1, 17, 3, 6, 4), 3, 4),
        _params((2, 33, 2, 9, 20), 2, 2),
        _params((1, 3, 5, 1, 6), 2, 1),
    ),
)
