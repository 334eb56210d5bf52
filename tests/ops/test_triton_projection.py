"""What is particular to the Triton kernels of temporal_projection and temporal_descriptor."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

from tests.ops.common import compare, device_for, in_layout, past_32_bits
from vidops import ops

EVERYTHING = ops.Projection._fields


@pytest.fixture
def device() -> str:
    return device_for("triton", "temporal_projection")


@pytest.fixture
def kernels(device: str) -> Any:
    from vidops.triton_kernels import temporal_projection

    return temporal_projection


def pair(shape: tuple[int, ...], columns: int, grid: tuple[int, int]) -> list[Tensor]:
    """A clip and a basis of cosines with noise."""
    generator = torch.Generator().manual_seed(3)
    n, _, t, _, _ = shape
    time = (torch.arange(t) + 0.5) * torch.pi / t
    cosines = torch.cos(time[:, None] * torch.arange(columns))[:, :, None, None]
    noise = torch.randn(n, t, columns, *grid, generator=generator)
    return [torch.randn(shape, generator=generator), cosines + 0.25 * noise]


def project(x: Tensor, basis: Tensor, backend: str) -> tuple[Tensor, ...]:
    return tuple(ops.temporal_projection(x, basis, ridge=0.01, outputs=EVERYTHING, backend=backend))


@pytest.mark.parametrize(
    ("layout", "columns", "grid", "keep", "gather"),
    [
        ("NCTHW", 1, (2, 3), 0, 8),
        ("NTHWC", 2, (2, 3), 99, 64),
        ("NCTHW", 3, (7, 11), 0, 8),
        ("NTCHW", 2, (1, 1), 99, 8),
    ],
)
def test_clips_that_take_many_programs(
    layout: str,
    columns: int,
    grid: tuple[int, int],
    keep: int,
    gather: int,
    device: str,
    kernels: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What only large clips need: several strips of columns, several programs from one row of the grid to the next, and
    # a row of the grid that is gathered by several programs in several steps.
    monkeypatch.setattr(kernels.RUN, "value", 2)
    monkeypatch.setattr(kernels.PIXELS, "value", 16)
    monkeypatch.setattr(kernels, "KEEP", (keep, keep))
    monkeypatch.setattr(kernels.GATHER, "value", gather)
    x, basis = pair((1, 2, 4, 7, 11), columns, grid)
    compare(project, [in_layout(x, layout), basis], "triton", device, grad_layout=layout)


@pytest.mark.parametrize("layout", ["NCTHW", "NTHWC"])
def test_long_offsets(layout: str, device: str, kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from vidops.triton_kernels import temporal_descriptor

    monkeypatch.setattr(kernels, "far", lambda *_: True)
    monkeypatch.setattr(temporal_descriptor, "far", lambda *_: True)
    for grid in ((2, 1), (3, 5)):
        x, basis = pair((2, 2, 3, 3, 5), 2, grid)
        x = in_layout(x, layout)
        compare(project, [x, basis], "triton", device, grad_layout=layout)
    compare(ops.temporal_descriptor, [x], "triton", device, grad_layout=layout)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_offsets_have_64_bits(axis: int, device: str) -> None:
    x = past_32_bits([1, 1, 2, 1, 8], axis, device)
    basis = torch.ones(x.shape[0], 2, 1, 1, 1, dtype=torch.float16, device=device)
    call = functools.partial(ops.temporal_projection, basis=basis, ridge=0.0, outputs=("residual", "energy"))
    for ours, expected in zip(
        call(x, backend="triton"), call(x.contiguous(), backend="reference"), strict=True
    ):
        assert (ours is None) == (expected is None)
        if ours is not None:
            torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    described = ops.temporal_descriptor(x, backend="triton")
    expected = ops.temporal_descriptor(x.contiguous(), backend="reference")
    torch.testing.assert_close(described, expected, rtol=0, atol=0)


@pytest.mark.parametrize("side", [1, 2, 7, 16, 56, 61])
def test_rows_between_rows_of_the_grid(side: int, kernels: Any) -> None:
    for grid in {1, 2, 3, side // 8, side // 2, side - 1, side} & set(range(1, side + 1)):
        places = [((d + 0.5) * grid / side - 0.5) for d in range(side)]
        rows = [int(min(max(place, 0), grid - 1)) for place in places]
        assert kernels._longest(grid, side) == max(rows.count(i) for i in range(grid))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 192])
@pytest.mark.parametrize(("columns", "frames"), [(1, 8), (1, 16), (3, 8), (4, 10), (1, 64), (16, 64)])
def test_tiles_have_whole_warps_of_elements(
    columns: int, frames: int, channels: int, last: bool, kernels: Any
) -> None:
    for share in (32, 16, 8):
        for rows, width in ((8, 224), (16, 35), (16, 7), (1, 1), (1, 224)):
            tile = kernels._tile(columns, frames, channels, rows, width, last, share, kernels.PIXELS.value)
            assert all(size & (size - 1) == 0 for size in tile)
            assert tile.columns >= columns
            assert tile.frames >= frames
            assert tile.warps <= 8
            elements = tile.pixels * tile.channels
            assert elements <= kernels.PIXELS.value
            # A thread's part of the matrices, where they have no threads to share among them twice as much.
            assert tile.columns * tile.frames * elements <= 2 * 32 * tile.warps * share or elements == 1
            # Fewer than a third of the pixels are not there, unless there is too little for one warp.
            tiles = -(-width // tile.width) * -(-rows // (tile.pixels // tile.width))
            assert tiles * tile.pixels * 2 <= 3 * rows * width or elements < 32 or width < 16
