"""Groups of channels as temporal_conv's kernels take them: bundles of four, cut into tiles."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Bundle", "Groups", "blocks", "parse"]

BUNDLE = 4  # groups that one launch takes


class Bundle(NamedTuple):
    """Up to four neighbouring groups; missing ones have no channels and no taps."""

    channel: int
    tap: int
    channels: tuple[int, ...]
    taps: tuple[int, ...]
    dilations: tuple[int, ...]


class Groups(NamedTuple):
    """Checked groups, without empty ones, and what follows from them."""

    bundles: tuple[Bundle, ...]
    widest: int  # channels of the widest group
    reach: int
    weights: int


@functools.lru_cache(maxsize=256)
def _parse(flat: tuple[int, ...]) -> Groups:
    merged: list[list[int]] = []
    for c, k, d in zip(*[iter(flat)] * 3, strict=True):
        if merged and merged[-1][1:] == [k, d]:  # neighbours of one kind lie in memory as one group does
            merged[-1][0] += c
        elif c:
            merged.append([c, k, d])
    found, channel, tap = [], 0, 0
    for i in range(0, len(merged), BUNDLE):
        part = merged[i : i + BUNDLE]
        columns = zip(*part, *[(0, 0, 1)] * (BUNDLE - len(part)), strict=True)
        found.append(Bundle(channel, tap, *columns))
        channel += sum(c for c, _, _ in part)
        tap += sum(c * k for c, k, _ in part)
    widest = max((c for c, _, _ in merged), default=0)
    reach = max(((k - 1) // 2 * d for _, k, d in merged), default=0)
    return Groups(tuple(found), widest, reach, tap)


def parse(flat: Sequence[int]) -> Groups:
    """Read the operator's flat ``groups``: C_0, k_0, d_0, C_1, ..."""
    return _parse(tuple(int(value) for value in flat))


def blocks(bundle: Bundle, c_block: int) -> int:
    """Tiles of ``c_block`` channels; none holds channels of two groups."""
    return sum(-(-c // c_block) for c in bundle.channels)
