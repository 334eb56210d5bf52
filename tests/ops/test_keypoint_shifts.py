from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.ops.common import (
    DTYPES,
    EVERY_BACKEND,
    FAST,
    LAYOUTS,
    compare,
    device_for,
    in_layout,
    interpreted,
    random_examples,
)
from tests.ops.keypoint_loops import CASES, INF, NAN, a_case, by_hand, case_by_hand, region_of
from vidops import ops
from vidops.ops.backends import OPERATORS

OP = "keypoint_shifts"


@pytest.mark.parametrize("backend", EVERY_BACKEND)
def test_is_the_definition(backend: str) -> None:
    device = device_for(backend, OP)
    native = backend in ("reference", "cpu") or device == "cuda"
    for seed in range(CASES if native else 10 if interpreted(backend) else 40):
        x, lines, epsilon = a_case(seed)
        ours = ops.keypoint_shifts(
            x.to(device), lines.to(device), epsilon=epsilon, return_keypoints=True, backend=backend
        )
        for name, a, b in zip(("shifts", "keypoints", "values"), ours, case_by_hand(seed), strict=True):
            torch.testing.assert_close(
                a.cpu(), b, rtol=1e-10, atol=1e-10, equal_nan=True,
                msg=lambda text, seed=seed, name=name: f"case {seed}, {name}: {text}",
            )  # fmt: skip


@pytest.mark.parametrize("backend", EVERY_BACKEND)
def test_a_line_that_rounding_moves_leaves_every_band_a_pixel(backend: str) -> None:
    """1.5 and a little, less than half of what 2.5 is rounded to: the line behind is at 2.5, and takes it along."""
    device = device_for(backend, OP)
    x = random_maps(1, 2, 2, 5, 5)
    at = torch.tensor(1.5, dtype=torch.float64).nextafter(torch.tensor(2.0, dtype=torch.float64))
    lines = at.expand(1, 1, 2, 2, 2)
    found = ops.keypoint_shifts(x.to(device), lines.to(device), return_keypoints=True, backend=backend)
    for a, b in zip(found, by_hand(x, lines, 0.1), strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", EVERY_BACKEND)
def test_softmaxes_of_large_numbers(backend: str) -> None:
    """Means of thousands and distances of 0 with a small epsilon, whose powers of e pass any number."""
    device = device_for(backend, OP)
    x, lines = random_maps(1, 2, 3, 6, 6) + 5000, random_lines(1, 2, 3, 6, 6, 2)
    x[..., 0, 0] = 5010
    y = ops.keypoint_shifts(x.to(device), lines.to(device), epsilon=1e-3, backend=backend)
    torch.testing.assert_close(y.cpu(), by_hand(x, lines, 1e-3)[0], rtol=1e-10, atol=1e-10)
    ours, theirs = (gradients(b, x, lines, epsilon=1e-3) for b in (backend, "reference"))
    for a, b in zip(ours, theirs, strict=True):
        assert b.isfinite().all()
        assert b.any()
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


# Gradients: stated one by one. -----------------------------------------------------------------------------------


def gradients(
    backend: str, x: Tensor, lines: Tensor, grad: Tensor | None = None, epsilon: float = 0.1
) -> tuple[Tensor, Tensor]:
    device = device_for(backend, OP)
    leaves = [x.to(device).requires_grad_(), lines.to(device).requires_grad_()]
    y = ops.keypoint_shifts(*leaves, epsilon=epsilon, backend=backend)
    grad = (
        torch.randn(y.shape, generator=torch.Generator().manual_seed(3), dtype=y.dtype)
        if grad is None
        else grad
    )
    dx, dlines = torch.autograd.grad(y, leaves, grad.to(device))
    return dx.cpu(), dlines.cpu()


def random_maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_lines(n: int, g: int, t: int, h: int, w: int, r: int, seed: int = 1) -> Tensor:
    share = torch.rand(
        (n, g, t, 2, r - 1), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return (share * 1.2 - 0.1) * torch.tensor([w, h], dtype=torch.float64)[:, None]


@pytest.mark.parametrize("backend", FAST)
def test_gradients_of_ties_edges_and_moved_lines_are_the_references(backend: str) -> None:
    for seed in range(300 if backend == "cpu" else 6 if interpreted(backend) else 10):
        x, lines, epsilon = a_case(seed)
        ours, theirs = (gradients(b, x, lines, epsilon=epsilon) for b in (backend, "reference"))
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(
                a, b, rtol=1e-8, atol=1e-9, equal_nan=True, msg=lambda text, seed=seed: f"case {seed}: {text}"
            )


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize("r", [1, 2, 3, 4])
def test_gradcheck_away_from_ties(backend: str, r: int) -> None:
    device = device_for(backend, OP)
    x, lines = random_maps(1, 2, 2, 4, 5), random_lines(1, 2, 2, 4, 5, r)
    leaves = [t.to(device).requires_grad_() for t in (x, lines)]
    emulated = backend not in ("reference", "cpu") and device == "cpu"
    assert torch.autograd.gradcheck(
        lambda *given: ops.keypoint_shifts(*given, backend=backend), leaves, fast_mode=emulated
    )


@pytest.mark.parametrize("backend", EVERY_BACKEND)
def test_equal_maxima_give_the_gradient_to_the_first(backend: str) -> None:
    x = random_maps(1, 1, 2, 2, 4)
    x[0, 0, 0] = torch.tensor([[5.0, 5.0, 2.0, 1.0], [3.0, 4.0, 4.0, 1.0]])
    lines = torch.tensor([[3.0], [1.0]], dtype=torch.float64).repeat(1, 1, 2, 1, 1)
    upper, lower = gradients(backend, x, lines)[0][0, 0, 0, :, :3]
    # What comes through the mean is the same for all pixels of a region.
    assert upper[1] == upper[2] != upper[0]
    assert lower[0] == lower[2] != lower[1]
    # Where all values are equal, |.| has gradient 0, so that nothing but the means is left.
    dx, _ = gradients(backend, torch.full_like(x, 4.0), lines)
    assert torch.equal(dx[..., 0], dx[..., 1])


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize("at", [1.0, 2.0, 2.5, 3.0])
def test_gradient_of_a_line_is_its_mean_less_the_regions(backend: str, at: float) -> None:
    """Regions of one row each; the line between columns of the first frame is the one asked about."""
    x = random_maps(1, 1, 2, 2, 5)
    lines = torch.full((1, 1, 2, 2, 1), 1.0, dtype=torch.float64)
    lines[0, 0, 0, 0, 0] = at
    grad = random_maps(1, 1, 4, 1, 1, 2, seed=5)
    _, dlines = gradients(backend, x, lines, grad)
    shifts, _, _ = by_hand(x, lines, 0.1)
    means = []
    for t, line in ((0, at), (1, 1.0)):
        sides = ((0.0, line), (line, 5.0))
        rows = [[region_of(x[0, 0, t].tolist(), *side, y, y + 1)[3] for side in sides] for y in (0, 1)]
        means.append(torch.tensor(rows, dtype=torch.float64))
    weights = ((means[0] + means[1]) / 2).flatten().softmax(0)
    slope = (grad * shifts).sum(-1).flatten()  # of each region, times its weight
    dmeans = ((slope - weights * slope.sum()) / 2).view(2, 2)
    along = x[0, 0, 0, :, int(at)]  # on an edge, of the pixels behind it
    expected = dmeans[:, 0] * (along - means[0][:, 0]) / at - dmeans[:, 1] * (along - means[0][:, 1]) / (
        5 - at
    )
    torch.testing.assert_close(dlines[0, 0, 0, 0, 0], expected.sum(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", EVERY_BACKEND)
def test_where_gradients_of_moved_lines_go(backend: str) -> None:
    """Of 3 lines of 8 pixels, along x; the ones along y are placed well."""
    x = random_maps(1, 3, 2, 8, 8)

    def reached(*across: float) -> list[bool]:
        lines = torch.tensor([2.5, 4.25, 6.5], dtype=torch.float64).repeat(1, 1, 2, 2, 1)
        lines[0, 0, 0, 0] = torch.tensor(across)
        _, dlines = gradients(backend, x, lines)
        assert dlines.isfinite().all()
        return [bool(g) for g in dlines[0, 0, 0, 0] != 0]

    assert reached(1.5, 3.5, 6.5) == [True, True, True]
    assert reached(6.5, 1.5, 3.5) == [True, True, True]
    assert reached(-1.0, 3.5, 9.5) == [False, True, False]  # borders take the outer ones
    assert reached(NAN, 3.5, NAN) == [False, True, False]
    assert reached(3.5, 3.75, 6.5) == [True, False, True]  # the second is pushed by the first
    assert reached(3.5, 4.5, 5.5) == [True, True, True]  # ties are the line's own
    assert reached(1.0, 3.5, 7.0) == [True, True, True]  # on its border
    assert reached(3.25, 3.25, 3.25) == [True, False, False]
    assert reached(6.75, 6.75, 6.75) == [False, False, False]  # all follow from the border


# What it is for. -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize("move", [(2, 0), (0, -1), (-1, 3)])
@pytest.mark.parametrize("crosses", [False, True])
def test_a_moving_blob(backend: str, move: tuple[int, int], crosses: bool) -> None:
    device = device_for(backend, OP)
    dx, dy = move
    x = torch.zeros(1, 1, 2, 14, 14, dtype=torch.float64)
    start = (
        (6 if dx > 0 else 7, 6 if dy > 0 else 7) if crosses else (3 if dx >= 0 else 4, 3 if dy >= 0 else 4)
    )
    for t in (0, 1):
        row, column = start[1] + t * dy, start[0] + t * dx
        x[0, 0, t, row - 1 : row + 2, column - 1 : column + 2] = 50.0
        x[0, 0, t, row, column] = 100.0
    lines = torch.full((1, 1, 2, 2, 1), 7.0, dtype=torch.float64)
    shifts, points, _ = ops.keypoint_shifts(
        x.to(device), lines.to(device), return_keypoints=True, backend=backend
    )
    region = start[1] // 7 * 2 + start[0] // 7
    assert points[0, 0, region, 0, 0].tolist() == list(start)
    quarters = x.view(1, 1, 2, 2, 7, 2, 7).mean((4, 6)).mean(2).flatten()
    moved = shifts[0, 0, region, 0, 0].cpu() / quarters.softmax(0)[region]
    torch.testing.assert_close(moved, torch.tensor(move, dtype=torch.float64), rtol=0, atol=0.01)


# Sizes, dtypes, bad input. ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize(
    ("shape", "g", "r"),
    [((0, 3, 4, 5, 6), 2, 2), ((2, 0, 4, 5, 6), 2, 2), ((2, 3, 0, 5, 6), 2, 3), ((2, 3, 1, 5, 6), 2, 2),
     ((2, 3, 4, 5, 6), 0, 2), ((2, 3, 4, 1, 1), 2, 1)],
)  # fmt: skip
def test_zero_and_small_sizes(backend: str, shape: tuple[int, ...], g: int, r: int) -> None:
    device = device_for(backend, OP)
    n, c, t, _, _ = shape
    x = torch.randn(shape, device=device, requires_grad=True)
    lines = torch.rand(n, g, t, 2, r - 1, device=device, requires_grad=True)
    shifts, points, values = ops.keypoint_shifts(x, lines, return_keypoints=True, backend=backend)
    assert shifts.shape == (n, g, r * r, c, max(t - 1, 0), 2)
    assert (points.shape, points.dtype) == ((n, g, r * r, c, t, 2), torch.int16)
    assert (values.shape, values.dtype) == ((n, g, r * r, c, t), torch.float32)
    assert not shifts.any() or x.shape[3] > 1
    shifts.sum().backward()
    assert not x.grad.any()
    assert not lines.grad.any()


@pytest.mark.parametrize("backend", EVERY_BACKEND)
def test_key_points_carry_no_gradient_and_stay_integers(backend: str) -> None:
    device = device_for(backend, OP)
    x, lines = (
        random_maps(1, 2, 3, 5, 5).float().to(device),
        random_lines(1, 1, 3, 5, 5, 2).float().to(device),
    )
    with torch.autocast(device, dtype=torch.bfloat16):
        shifts, points, values = ops.keypoint_shifts(
            x.requires_grad_(), lines, return_keypoints=True, backend=backend
        )
    assert (shifts.dtype, points.dtype, values.dtype) == (torch.float32, torch.int16, torch.float32)
    assert (shifts.requires_grad, points.requires_grad, values.requires_grad) == (True, False, False)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("layout", ["NCTHW", "NTHWC"])
def test_sizes_of_real_networks(backend: str, layout: str) -> None:
    device = device_for(backend, OP)
    emulated = backend != "cpu" and device == "cpu"
    for shape, g in (
        (((1, 20, 2, 14, 14), 2),) if emulated else (((2, 48, 8, 14, 14), 8), ((1, 40, 4, 28, 28), 3))
    ):
        n, _, t, h, w = shape
        x, lines = random_maps(*shape).float(), random_lines(n, g, t, h, w, 2).float()
        compare(ops.keypoint_shifts, [in_layout(x, layout), lines], backend, device, grad_layout=layout)


@pytest.mark.parametrize("backend", FAST)
def test_random_calls(backend: str) -> None:
    device = device_for(backend, OP)
    channels, pixels = (5, 5) if interpreted(backend) else (20, 9)

    @random_examples(backend, device)
    @given(
        shape=st.tuples(*[st.integers(1, m) for m in (2, channels, 4)]),
        more=st.tuples(st.integers(0, pixels), st.integers(0, pixels)),
        g=st.integers(1, 3),
        r=st.integers(1, 4),
        layout=st.sampled_from(LAYOUTS),
        dtype=st.sampled_from(DTYPES),
    )
    def check(shape: Any, more: Any, g: int, r: int, layout: str, dtype: torch.dtype) -> None:
        n, c, t = shape
        h, w = more[0] + r, more[1] + r
        x, lines = random_maps(n, c, t, h, w).to(dtype), random_lines(n, g, t, h, w, r).to(dtype)
        compare(ops.keypoint_shifts, [in_layout(x, layout), lines], backend, device)

    check()


X, LINES = torch.zeros(1, 2, 3, 4, 5), torch.zeros(1, 2, 3, 2, 1)


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        ((X[0], LINES), {}, ValueError, r"features must be a clip \(N, C, T, H, W\), got 4 dimensions"),
        ((X, LINES[0]), {}, ValueError, r"separators must be \(N, G, T, 2, r-1\), got 4 dimensions"),
        ((X, [7.0]), {}, TypeError, "separators must be a Tensor, got list"),
        ((X, LINES.double()), {}, TypeError, "separators must have the dtype of features, torch.float32"),
        ((X, LINES.to("meta")), {}, ValueError, "separators must be on the device of features"),
        ((X, LINES[:, :, :2]), {}, ValueError, "separators must be .* with N = 1, T = 3"),
        ((X, LINES.expand(2, -1, -1, -1, -1)), {}, ValueError, "separators must be .* with N = 1, T = 3"),
        ((X, LINES[:, :, :, :1]), {}, ValueError, "separators must be .* with N = 1, T = 3"),
        ((X, LINES.expand(-1, -1, -1, -1, 4)), {}, ValueError, "separators must have at most 3 lines"),
        (
            (X[..., :2], LINES.expand(-1, -1, -1, -1, 2)),
            {},
            ValueError,
            "separators must have at most 1 lines",
        ),
        ((X[..., :0], LINES), {}, ValueError, "features must have pixels"),
        ((X[..., :1].expand(1, 2, 3, 4, 32769), LINES), {}, ValueError, "features must have at most 32768"),
        ((X, LINES), {"epsilon": 0.0}, ValueError, "epsilon must be finite and above 0"),
        ((X, LINES), {"epsilon": INF}, ValueError, "epsilon must be finite and above 0"),
        ((X, LINES), {"epsilon": "0.1"}, TypeError, "epsilon must be a number, got str"),
        ((X, LINES), {"return_keypoints": 1}, TypeError, "return_keypoints must be a bool, got int"),
    ],
)
def test_bad_input(backend: str, arguments: Any, options: Any, error: type[Exception], text: str) -> None:
    device_for(backend, OP)
    with pytest.raises(error, match=text):
        ops.keypoint_shifts(*arguments, **options, backend=backend)


@pytest.mark.parametrize("backend", [b for b in FAST if b != "triton"])
def test_registered_operators_refuse_what_would_read_past_the_end(backend: str) -> None:
    device = device_for(backend, OP)
    forward = OPERATORS[OP].kernels[backend].op
    backward = getattr(torch.ops, forward.namespace).keypoint_shifts_backward.default
    x, lines = X.to(device), LINES.to(device)
    for bad, text in (
        ((x[0], lines), "features must be a clip"),
        ((x, lines[:, :, :2]), "separators must be"),
        ((x, lines.double()), "separators must have the dtype"),
        ((x[..., :1], lines), "separators must have fewer lines"),
    ):
        with pytest.raises(RuntimeError, match=text):
            forward(*bad, 0.1)
    shifts, *kept = forward(x, lines, 0.1)
    for place, name in enumerate(("grad", "keypoints", "values", "means")):
        given = [shifts, *kept]
        given[place] = given[place][:, :, :3]
        with pytest.raises(RuntimeError, match=f"{name} must have the shape"):
            backward(given[0], x, lines, *given[1:], 0.1, True, True)
        given[place] = [shifts, *kept][place].to(torch.float64 if place != 1 else torch.int32)
        with pytest.raises(RuntimeError, match=f"{name} must have the dtype"):
            backward(given[0], x, lines, *given[1:], 0.1, True, True)
