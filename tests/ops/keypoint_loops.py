"""keypoint_shifts as slow, obvious loops over numbers, and random inputs of every awkward kind."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

NAN, INF = float("nan"), float("inf")
CASES = (
    600  # each of the 100 combinations of regions, of what the maps hold and of how lines lie comes up twice
)


def placed(lines: list[float], side: int) -> list[float]:
    """The borders of the bands of an axis."""
    r = len(lines) + 1
    lines = sorted(i * (side / r) if math.isnan(line) else line for i, line in enumerate(lines, 1))
    for i in range(r - 1):
        lines[i] = max(lines[i], (lines[i - 1] if i else 0) + 1)
    for i in reversed(range(r - 1)):
        lines[i] = min(lines[i], (lines[i + 1] if i < r - 2 else side) - 1)
    return [0.0, *lines, float(side)]


def region_of(
    frame: Any, left: float, right: float, top: float, bottom: float
) -> tuple[float, int, int, float]:
    """Largest value, its x and y, and the mean of one region of a frame."""
    best, area_sum = None, 0.0
    for y, row in enumerate(frame):
        for x, value in enumerate(row):
            inside = left <= x + 0.5 < right and top <= y + 0.5 < bottom
            if inside and (best is None or value > best[0] or math.isnan(value) > math.isnan(best[0])):
                best = (value, x, y)
            wide = min(x + 1, right) - max(x, left)
            high = min(y + 1, bottom) - max(y, top)
            if wide > 0 and high > 0:
                area_sum += value * wide * high
    assert best is not None
    return (*best, area_sum / ((right - left) * (bottom - top)))


def softmax(logits: list[float]) -> Any:
    with np.errstate(invalid="ignore"):
        powers = np.exp(np.array(logits) - np.max(logits))
    return powers / powers.sum()


def by_hand(features: Tensor, separators: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    n, c, t, h, w = features.shape
    g, r = separators.shape[1], separators.shape[4] + 1
    shifts = torch.empty(n, g, r * r, c, max(t - 1, 0), 2, dtype=torch.float64)
    points = torch.empty(n, g, r * r, c, t, 2, dtype=torch.int16)
    values = torch.empty(n, g, r * r, c, t, dtype=torch.float64)
    maps, lines = features.tolist(), separators.tolist()
    for i, s, ch in itertools.product(range(n), range(g), range(c)):
        frames = []
        for f in range(t):
            across, down = placed(lines[i][s][f][0], w), placed(lines[i][s][f][1], h)
            frames.append(
                [
                    region_of(maps[i][ch][f], *across[b % r : b % r + 2], *down[b // r : b // r + 2])
                    for b in range(r * r)
                ]
            )
            for k, (value, x, y, _) in enumerate(frames[f]):
                values[i, s, k, ch, f] = value
                points[i, s, k, ch, f] = torch.tensor([x, y])
        for f in range(t - 1):
            now, then = frames[f], frames[f + 1]
            region = softmax([(a[3] + b[3]) / 2 for a, b in zip(now, then, strict=True)])
            for k, a in enumerate(now):
                weight = softmax([1 / (abs(a[0] - b[0]) + epsilon) for b in then])
                for axis in (1, 2):
                    moved = sum(p * (b[axis] - a[axis]) for p, b in zip(weight, then, strict=True))
                    shifts[i, s, k, ch, f, axis - 1] = region[k] * moved
    return shifts, points, values


def a_case(seed: int) -> tuple[Tensor, Tensor, float]:
    """Maps with ties, plateaus, NaN and infinities; lines inside, outside, on edges and centres, equal, NaN."""
    rng = np.random.default_rng(seed)
    r = int(rng.integers(1, 5))
    n, g, c, t = (int(rng.integers(1, m)) for m in (3, 3, 3, 4))
    h, w = (int(rng.integers(r, r + 5)) for _ in range(2))
    kind = rng.integers(0, 5)
    x = rng.standard_normal((n, c, t, h, w))
    if kind == 1:
        x = np.round(x)
    elif kind == 2:
        x[..., h // 3 :, : w // 2 + 1] = 2.0
    elif kind == 3:
        x[rng.random(x.shape) < 0.05] = NAN
    elif kind == 4:
        x[rng.random(x.shape) < 0.05] = rng.choice([INF, -INF])
    side = np.array([w, h])[:, None]
    lines = rng.uniform(-2, 2, (n, g, t, 2, r - 1)) + rng.random((n, g, t, 2, r - 1)) * side
    how = rng.integers(0, 5)
    if how == 1:
        lines = np.round(2 * lines) / 2
    elif how == 2:
        lines[..., :] = lines[..., :1] if r > 1 else lines
    elif how == 3:
        lines[rng.random(lines.shape) < 0.3] = NAN
    elif how == 4:
        lines[rng.random(lines.shape) < 0.3] = rng.choice([INF, -INF, 0.0, 1e30])
    return torch.from_numpy(x), torch.from_numpy(lines), float(rng.choice([0.1, 1.0]))


@functools.cache
def case_by_hand(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """The loops' results of a case: computed once for all backends."""
    return by_hand(*a_case(seed))
