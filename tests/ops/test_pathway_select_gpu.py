"""What is particular to pathway_select's CUDA and Triton kernels; the operator's own tests run them as any other."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.common import DTYPES, compare, device_for, in_layout
from vidops import ops

cuda = pytest.mark.parametrize("backend", ["cuda_host", "cuda"])


def select(logits: Tensor, *paths: Tensor, backend: str | None = None) -> Tensor:
    return ops.pathway_select(paths, logits, backend=backend)


def arguments(
    shape: tuple[int, ...], pathways: int, per_frame: bool, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    g = torch.Generator().manual_seed(pathways)
    n, c, t = shape[:3]
    shapes = [(n, pathways, c, t) if per_frame else (n, pathways, c), *[shape] * pathways]
    return [torch.randn(size, generator=g, dtype=torch.float64).to(dtype) for size in shapes]


@cuda
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["NCTHW", "NTCHW", "NTHWC", "offset"])
def test_every_width_and_number_of_pathways(backend: str, dtype: torch.dtype, layout: str) -> None:
    """Rows aligned for 16 bytes in every dtype, for 8 in the 2-byte ones, and for one element."""
    device = device_for(backend, "pathway_select")
    sizes = [((1, 8, 2, 4, 4), 4), ((2, 16, 3, 2, 6), 5), ((1, 5, 2, 3, 5), 3), ((1, 24, 2, 3, 3), 8)]
    for (shape, pathways), per_frame in itertools.product(sizes, (False, True)):
        logits, *paths = arguments(shape, pathways, per_frame, dtype)
        paths = [in_layout(path, layout) for path in paths]
        compare(select, [logits, *paths], backend, device, grad_layout=layout)


@cuda
@pytest.mark.parametrize("layout", ["NCTHW", "NTCHW", "NTHWC"])
@pytest.mark.parametrize(
    ("shape", "pathways", "per_frame"),
    [
        (
            (1, 2, 3, 30, 41),
            3,
            False,
        ),  # rows of several blocks, of odd frames that are one where nothing is between
        ((1, 8, 1, 60, 64), 5, True),
        ((2, 40, 3, 9, 8), 2, True),  # channels last, lanes that are no power of two
        ((1, 264, 2, 2, 3), 8, True),  # and several blocks of them
        ((3, 7, 5, 1, 1), 4, False),  # rows of one unit
    ],
)
def test_rows_of_several_blocks(
    backend: str, shape: Any, pathways: int, per_frame: bool, layout: str
) -> None:
    device = device_for(backend, "pathway_select")
    for dtype, one_sign in ((torch.float32, False), (torch.float32, True), (torch.bfloat16, False)):
        logits, *paths = arguments(shape, pathways, per_frame, dtype)
        if one_sign:  # sums that run too long in fp32 show
            paths = [path.abs() + 1 for path in paths]
        paths = [in_layout(path, layout) for path in paths]
        compare(select, [logits, *paths], backend, device, grad_layout=layout, one_sign=one_sign)


@pytest.mark.parametrize("layout", ["NCTHW", "NTHWC"])
@pytest.mark.parametrize("programs", [1, 8, 4096])
def test_programs_of_several_tiles(programs: int, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of tiles, the last one shorter, as large clips have them: all tiles of a row, some, or one."""
    pytest.importorskip("triton", reason="Triton is not installed")
    from vidops.triton_kernels import pathway_select as kernels

    device = device_for("triton", "pathway_select")
    monkeypatch.setattr(kernels.RUNS.programs, "value", programs)
    monkeypatch.setattr(kernels, "PARTS", 2)
    for per_frame, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        logits, *paths = arguments((1, 2, 2, 37, 20), 3, per_frame, dtype)
        paths = [in_layout(path, layout) for path in paths]
        compare(select, [logits, *paths], "triton", device, grad_layout=layout)
