from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from tests.ops.common import (
    DTYPES,
    EVERY_BACKEND,
    FAST,
    LAYOUTS,
    compare,
    device_for,
    in_layout,
    random_examples,
)
from vidops import ops, reference


def by_hand(row: torch.Tensor, out: int) -> list[float]:
    """One axis, pixel by pixel."""
    last = len(row) - 1
    result = []
    for d in range(out):
        place = min(max((d + 0.5) * (last + 1) / out - 0.5, 0), last)
        low = int(place)
        result.append(float(row[low] + (place - low) * (row[min(low + 1, last)] - row[low])))
    return result


@pytest.mark.parametrize("size, out", [(7, 5), (5, 7), (4, 8), (9, 3), (1, 3), (6, 1), (256, 160), (35, 56)])
def test_reference_is_the_definition(size: int, out: int) -> None:
    x = torch.randn(1, 1, 1, 1, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.tensor(by_hand(x.flatten(), out), dtype=torch.float64)
    torch.testing.assert_close(reference.resize(x, (1, out)).flatten(), expected, rtol=1e-12, atol=1e-12)
    upright = reference.resize(x.transpose(3, 4), (out, 1))
    torch.testing.assert_close(upright.flatten(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(5, 11), (14, 6), (1, 1), (10, 12), (40, 3)])
def test_reference_is_interpolate_frame_by_frame(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, 4, 10, 8, dtype=torch.float64, requires_grad=True)
    y = reference.resize(x, size)
    frames = [F.interpolate(x[:, :, t], size, mode="bilinear", align_corners=False) for t in range(4)]
    torch.testing.assert_close(y, torch.stack(frames, 2), rtol=1e-12, atol=1e-12)
    grad = torch.randn_like(y)
    (found,) = torch.autograd.grad(y, x, grad)
    (wanted,) = torch.autograd.grad(torch.stack(frames, 2), x, grad)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", FAST)
def test_random_calls(backend: str) -> None:
    device = device_for(backend, "resize")

    @random_examples(backend, device)
    @given(
        shape=st.tuples(*[st.integers(0, m) for m in (2, 9, 2)], *[st.integers(1, 9)] * 2),
        size=st.tuples(*[st.integers(1, 12)] * 2),
        layout=st.sampled_from(LAYOUTS),
        grad_layout=st.sampled_from(LAYOUTS),
        dtype=st.sampled_from(DTYPES),
    )
    def check(shape: Any, size: Any, layout: str, grad_layout: str, dtype: torch.dtype) -> None:
        x = in_layout(torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype), layout)
        compare(
            lambda x, backend: ops.resize(x, size, backend=backend),
            [x],
            backend,
            device,
            grad_layout=grad_layout,
        )

    check()


@pytest.mark.parametrize("backend", EVERY_BACKEND)
def test_the_same_size_is_the_same_clip(backend: str) -> None:
    x = torch.randn(1, 2, 3, 4, 5, device=device_for(backend, "resize"))
    assert ops.resize(x, (4, 5), backend=backend) is x


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize("layout", ["NCTHW", "NTHWC"])
def test_pixels_of_weight_zero_are_not_read(backend: str, layout: str) -> None:
    """To a third, every result is the middle of three pixels: the others may hold anything, either way."""
    device = device_for(backend, "resize")
    x = torch.full((1, 4, 1, 3, 9), float("inf"), device=device)
    x[..., 1, 1::3] = 2.0
    x = in_layout(x, layout).requires_grad_()
    y = ops.resize(x, (1, 3), backend=backend)
    assert (y == 2).all()
    (dx,) = torch.autograd.grad(y, x, torch.full_like(y, float("nan")))
    if backend != "reference":  # which multiplies by zero, as autograd does
        middle = torch.zeros_like(dx, dtype=torch.bool)
        middle[..., 1, 1::3] = True
        assert torch.equal(dx.isnan(), middle)


@pytest.mark.parametrize("backend", [name for name in FAST if name != "triton"])  # minutes in its interpreter
@pytest.mark.parametrize("layout,channels", [("NCTHW", 2), ("NTHWC", 1), ("NTHWC", 3), ("NTHWC", 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("width,out", [(40, 64), (56, 35), (37, 37 * 4), (100, 23), (3, 70), (17, 1)])
def test_wide_rows(
    backend: str, layout: str, channels: int, dtype: torch.dtype, width: int, out: int
) -> None:
    """Rows of several vectors, their ends among them; what is not finite stays with those that read it."""
    device = device_for(backend, "resize")
    generator = torch.Generator().manual_seed(width)
    x = torch.randn(1, channels, 2, 5, width, generator=generator, dtype=torch.float64).to(dtype)
    x = in_layout(x, layout).to(device)
    compare(lambda x, backend: ops.resize(x, (6, out), backend=backend), [x], backend, device)
    given = x.requires_grad_()
    grad = torch.ones(1, channels, 2, 6, out, dtype=dtype, device=device)
    for place in range(0, width, 7):
        spoilt = given.detach().index_fill(-1, torch.tensor(place, device=device), torch.inf)
        found, wanted = (ops.resize(spoilt, (6, out), backend=name) for name in (backend, "reference"))
        assert torch.equal(found.isfinite(), wanted.isfinite())
    y = ops.resize(given, (6, out), backend=backend)
    for place in range(0, out, 7):
        spoilt = grad.index_fill(-1, torch.tensor(place, device=device), torch.inf)
        (found,) = torch.autograd.grad(y, given, spoilt, retain_graph=True)
        read = torch.zeros(out, dtype=torch.float64)
        read[place] = 1
        row = torch.zeros(1, 1, 1, 1, width, dtype=torch.float64, requires_grad=True)
        (hit,) = torch.autograd.grad(reference.resize(row, (1, out)).flatten(), row, read)
        assert torch.equal(found[0, 0, 0, 0].isfinite().cpu(), (hit == 0).flatten())


@pytest.mark.parametrize("backend", FAST)
def test_gradients_of_many_and_of_none(backend: str) -> None:
    """Enlarged, a pixel is read by many; reduced, most are read by nobody."""
    device = device_for(backend, "resize")
    for given_size, size in (((2, 1), (13, 9)), ((50, 40), (3, 2))):
        x = torch.randn(1, 1, 1, *given_size, generator=torch.Generator().manual_seed(0))
        compare(lambda x, backend, size=size: ops.resize(x, size, backend=backend), [x], backend, device)


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize(
    "x,size,error,text",
    [
        (torch.zeros(2, 3, 4, 5), 8, ValueError, r"x must be a clip \(N, C, T, H, W\), got 4 dimensions"),
        (torch.zeros(1, 8, 4, 2, 2, dtype=torch.int64), 8, TypeError, "x must be float32"),
        (torch.zeros(1, 8, 4, 0, 2), 8, ValueError, "x must have pixels to resize"),
        (torch.zeros(1, 8, 4, 2, 2), 0, ValueError, "size must be at least 1, got 0"),
        (torch.zeros(1, 8, 4, 2, 2), (3, -1), ValueError, "size must be at least 1, got -1"),
        (torch.zeros(1, 8, 4, 2, 2), (3, 4, 5), ValueError, "size must be height and width.*got 3"),
        (
            torch.zeros(1, 8, 4, 2, 2),
            2**28,
            ValueError,
            r"size must be less than 2\^29 over the side of x, 2",
        ),
        (torch.zeros(1, 8, 4, 2, 2), 8.0, TypeError, "size must be an int or two of them, got float"),
        (torch.zeros(1, 8, 4, 2, 2), (8, 8.0), TypeError, "size must be an int, got float"),
        (torch.zeros(1, 8, 4, 2, 2), True, TypeError, "size must be an int or two of them, got bool"),
    ],
)
def test_bad_input(backend: str, x: Any, size: Any, error: type[Exception], text: str) -> None:
    device_for(backend, "resize")
    with pytest.raises(error, match=text):
        ops.resize(x, size, backend=backend)
