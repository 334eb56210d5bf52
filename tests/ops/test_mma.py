"""Products by warps and asynchronous copies: the layouts that the manual gives, and what is built on them."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import host_cuda

# As the probe counts them: dtype in memory and of sums.
HALF, BFLOAT16, TF32, FLOAT, DOUBLE = range(5)
PRODUCTS = {
    HALF: (torch.float16, torch.float32),
    BFLOAT16: (torch.bfloat16, torch.float32),
    TF32: (torch.float32, torch.float32),
    FLOAT: (torch.float32, torch.float32),
    DOUBLE: (torch.float64, torch.float64),
}


@pytest.fixture(scope="module")
def probe() -> Any:
    if reason := host_cuda.available():
        pytest.skip(f"cuda_host: {reason}")
    library = ctypes.CDLL(
        str(host_cuda.build([host_cuda.ROOT / "tests" / "host_cuda" / "mma_probe.cu"], "mma_probe"))
    )
    library.probe_tf32.restype = ctypes.c_uint32
    return library


def at(tensor: Tensor) -> ctypes.c_void_p:
    assert tensor.is_contiguous()
    return ctypes.c_void_p(tensor.data_ptr())


def integers(*shape: int, seed: int = 0) -> Tensor:
    """Whole numbers whose products and sums are exact in every dtype."""
    return torch.randint(-8, 9, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("product", PRODUCTS, ids=["fp16", "bf16", "tf32", "fp32", "fp64"])
@pytest.mark.parametrize("by_rows", [False, True], ids=["columns", "rows"])
@pytest.mark.parametrize("k", [16, 48])
def test_products_are_those_of_matrices(probe: Any, product: int, by_rows: bool, k: int) -> None:
    dtype, wide = PRODUCTS[product]
    a, b = integers(16, k).to(dtype), integers(k, 16, seed=1).to(dtype)
    c = torch.full((16, 16), float("nan"), dtype=wide)
    stored = b if by_rows else b.mT.contiguous()
    probe.probe_product(product, at(a), at(stored), k, int(by_rows), at(c))
    assert torch.equal(c.double(), a.double() @ b.double())


def fragments(a: Tensor, b: Tensor, elements: int) -> tuple[list[list[list[float]]], list[list[list[float]]]]:
    """Registers of A (16 x 8e) and B (8e x 8) by lane, of ``elements`` e each, as the PTX manual has them.

    With g = lane / 4 and t = lane % 4: A's registers 0..3 hold row g, g + 8, g, g + 8, columns from e t, the last two
    4 e further on; B's hold column g, rows from e t, the second 4 e further on.
    """
    of_a, of_b = [], []
    for lane in range(32):
        g, t = divmod(lane, 4)
        first, second = (
            range(start + elements * t, start + elements * (t + 1)) for start in (0, 4 * elements)
        )
        places = [(g, first), (g + 8, first), (g, second), (g + 8, second)]
        of_a.append([[a[row, k].item() for k in ks] for row, ks in places])
        of_b.append([[b[k, g].item() for k in ks] for ks in (first, second)])
    return of_a, of_b


@pytest.mark.parametrize("product", [HALF, BFLOAT16, TF32], ids=["fp16", "bf16", "tf32"])
def test_registers_are_laid_out_as_the_manual_says(probe: Any, product: int) -> None:
    dtype, _ = PRODUCTS[product]
    elements = 1 if product == TF32 else 2
    a, b, c = integers(16, 8 * elements), integers(8 * elements, 8, seed=1), integers(16, 8, seed=2)
    of_a, of_b = (torch.tensor(x).to(dtype).contiguous() for x in fragments(a, b, elements))
    lanes = torch.empty(32, 4)
    places = [(lane // 4 + i // 2 * 8, lane % 4 * 2 + i % 2) for lane in range(32) for i in range(4)]
    for i, (row, column) in enumerate(places):
        lanes[i // 4, i % 4] = c[row, column]
    probe.probe_registers(product, at(of_a), at(of_b), at(lanes))
    expected = a @ b + c
    assert lanes.flatten().tolist() == [expected[place].item() for place in places]


@pytest.mark.parametrize("transposed", [False, True])
def test_matrices_are_loaded_as_the_manual_says(probe: Any, transposed: bool) -> None:
    rows = torch.arange(32 * 8, dtype=torch.int16)  # lane l names row l % 8 of matrix l // 8
    to = torch.zeros(32, 4, 2, dtype=torch.int16)
    probe.probe_matrices(int(transposed), at(rows), at(to))
    matrices = rows.view(4, 8, 8)
    for lane in range(32):
        g, t = divmod(lane, 4)
        for i, matrix in enumerate(matrices.mT if transposed else matrices):
            assert to[lane, i].tolist() == matrix[g, 2 * t : 2 * t + 2].tolist()


def test_tf32_is_rounded_to_the_nearest(probe: Any) -> None:
    step = 2.0**-10
    for value, expected in [
        (1 + step, 1 + step), (1 + step / 2, 1 + step), (-1 - step / 2, -1 - step), (1 + step * 0.49, 1.0),
        (2 - step / 4, 2.0), (float("inf"), float("inf")), (0.0, 0.0),
    ]:  # fmt: skip
        bits = torch.tensor(probe.probe_tf32(ctypes.c_float(value)), dtype=torch.int64).to(torch.int32)
        assert bits.view(torch.float32).item() == expected
    bits = torch.tensor(probe.probe_tf32(ctypes.c_float(float("nan"))), dtype=torch.int64).to(torch.int32)
    assert bits.view(torch.float32).isnan()


def copied(probe: Any, left: int, barrier: int) -> list[Tensor]:
    """What threads find in the two places that their neighbours copied to."""
    source, found = torch.arange(192.0), torch.zeros(192)
    probe.probe_copies(at(source), left, barrier, at(found))
    return list(found.view(2, 96).roll(33, 1))


def test_copies_arrive_when_they_are_waited_for(probe: Any) -> None:
    place = torch.arange(96)
    expected = [torch.where(place % 3 == 0, 0, place + first).float() for first in (0, 96)]
    for found, wanted in zip(copied(probe, 0, 1), expected, strict=True):
        assert torch.equal(found, wanted)
    early, late = copied(probe, 1, 1)  # all but the last group
    assert torch.equal(early, expected[0])
    assert late.isnan().all()
    assert all(found.isnan().any() for found in copied(probe, 0, 0))  # no barrier: others have not waited yet
    assert all(found.isnan().all() for found in copied(probe, 2, 1))  # nobody waits
