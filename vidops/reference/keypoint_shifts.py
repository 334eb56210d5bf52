"""Definition of keypoint_shifts in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def keypoint_shifts(
    features: Tensor, separators: Tensor, *, epsilon: float = 0.1, return_keypoints: bool = False
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """Key points and means region by region, then eq. 8-12 of KPSEM between adjacent frames.

    Shapes and meaning are those of :func:`vidops.ops.keypoint_shifts`.
    """
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    x, lines = features.to(dtype).transpose(1, 2), separators.to(dtype)  # x is (N, T, C, H, W)
    n, t, c, _, width = x.shape
    sets, regions = lines.shape[1], (lines.shape[-1] + 1) ** 2
    found = [_regions(x, lines[:, g]) for g in range(sets)]
    if found:
        values, means, points = (torch.stack(each, 1) for each in zip(*found, strict=True))
    else:
        values = means = x.sum() * 0 + lines.sum() * 0 + x.new_zeros((n, sets, t, regions, c))
        points = torch.zeros_like(values, dtype=torch.int64)
    shifts = _shifts(values, means, points, width, epsilon)  # each is (N, G, T, K, C)
    if not return_keypoints:
        return shifts
    coordinates = torch.stack([points % width, points // width], -1).to(torch.int16)
    return (
        shifts,
        coordinates.permute(0, 1, 3, 4, 2, 5).contiguous(),
        values.detach().permute(0, 1, 3, 4, 2).contiguous(),
    )


def borders(lines: Tensor, side: int) -> Tensor:
    """Place the lines ``(..., r-1)`` that separate r bands of an axis of ``side`` pixels; ``(..., r+1)`` with its ends.

    They are sorted, then moved the least that gives every band a width of at least 1. The gradient goes to whichever
    side a maximum or minimum picked, to the line itself where both are equal.
    """
    count = lines.shape[-1]
    grid = torch.arange(1, count + 1, dtype=lines.dtype, device=lines.device) * (side / (count + 1))
    lines = torch.where(lines.isnan(), grid, lines)
    placed = list(torch.sort(lines, dim=-1, stable=True).values.unbind(-1))
    ends = lines[..., :0].sum(-1)  # zeros, and a gradient for separators without lines
    for i in range(count):
        low = (placed[i - 1] if i else ends) + 1
        placed[i] = torch.where(placed[i] >= low, placed[i], low)
    for i in reversed(range(count)):
        high = (placed[i + 1] if i + 1 < count else ends + side) - 1
        placed[i] = torch.where(placed[i] <= high, placed[i], high)
    return torch.stack([ends, *placed, ends + side], -1)


def coverage(limits: Tensor, side: int) -> Tensor:
    """How much of every pixel lies in every band, ``(..., r, side)``; ``limits`` is what `borders` returns.

    Pixel j is [j, j+1). A line on the edge of two pixels is in the second one: that is the pixel its gradient sees.
    """
    pixels = torch.arange(side, dtype=limits.dtype, device=limits.device)
    line = limits.unsqueeze(-1)
    before = torch.where(line.floor() == pixels, line - pixels, (pixels < line).to(limits.dtype))
    return before[..., 1:, :] - before[..., :-1, :]


def members(limits: Tensor, side: int) -> Tensor:
    """Which pixels belong to which band, by their centres, ``(..., r, side)``: every band has one, every pixel too.

    For no band is less than 1 wide: of a border from 1 on, 1 is subtracted without rounding.
    """
    centres = torch.arange(side, dtype=limits.dtype, device=limits.device) + 0.5
    after = centres >= limits.detach().unsqueeze(-1)
    return after[..., :-1, :] & ~after[..., 1:, :]


def _regions(x: Tensor, lines: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Maxima, means and places ``y * W + x`` of the maxima in every region of one set, ``(N, T, K, C)`` each.

    ``x`` is ``(N, T, C, H, W)``, ``lines`` ``(N, T, 2, r-1)``.
    """
    height, width = x.shape[3:]
    across, down = borders(lines[:, :, 0], width), borders(lines[:, :, 1], height)
    # Rows of regions, columns of regions, then pixels: (N, T, K, 1, H * W).
    inside = members(down, height)[:, :, :, None, :, None] & members(across, width)[:, :, None, :, None, :]
    inside = inside.flatten(2, 3).flatten(3).unsqueeze(3)
    weight = coverage(down, height)[:, :, :, None, :, None] * coverage(across, width)[:, :, None, :, None, :]
    weight = weight.flatten(2, 3).flatten(3).unsqueeze(3)
    area = (down.diff(dim=-1)[..., :, None] * across.diff(dim=-1)[..., None, :]).flatten(2).unsqueeze(3)

    pixels = x.flatten(3).unsqueeze(2)  # (N, T, 1, C, H * W)
    points = _first_maximum(pixels.detach(), inside)
    values = torch.gather(pixels.expand(-1, -1, points.shape[2], -1, -1), -1, points.unsqueeze(-1)).squeeze(
        -1
    )
    # What is not finite counts only where it has an area: 0 times it would be NaN.
    finite = torch.where(pixels.isfinite(), pixels, 0).detach()
    counted = torch.where(weight > 0, pixels, finite)
    return values, (counted * weight).sum(-1) / area, points


def _first_maximum(pixels: Tensor, inside: Tensor) -> Tensor:
    """Index of the first pixel that is NaN among those inside, or else the first of the largest."""
    largest = torch.where(inside, pixels, -torch.inf).amax(-1, keepdim=True)  # NaN where there is one
    hit = torch.where(largest.isnan(), pixels.isnan(), pixels == largest) & inside
    return hit.to(torch.uint8).argmax(-1)


def _shifts(values: Tensor, means: Tensor, points: Tensor, width: int, epsilon: float) -> Tensor:
    """Eq. 8-12 of maxima, means and their places ``(N, G, T, K, C)``, as ``(N, G, K, C, T-1, 2)``."""
    frames = max(values.shape[2] - 1, 0)
    # a is a region of the frame, b one of the next: (N, G, T-1, K of a, K of b, C)
    this, following = slice(0, frames), slice(1, frames + 1)
    distance = (values[:, :, this, :, None] - values[:, :, following, None]).abs()
    weights = torch.softmax(1 / (distance + epsilon), 4)
    regions = torch.softmax((means[:, :, this] + means[:, :, following]) / 2, 3)
    shifts = []
    for place in (points % width, points // width):
        away = (place[:, :, following, None] - place[:, :, this, :, None]).to(values.dtype)
        shifts.append(regions * (weights * away).sum(4))
    return torch.stack(shifts, -1).permute(0, 1, 3, 4, 2, 5).contiguous()
