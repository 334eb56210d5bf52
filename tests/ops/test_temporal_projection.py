from __future__ import annotations

import functools
from typing import Any

import numpy as np
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
    random_examples,
)
from vidops import ops, reference
from vidops.bench import load_benchmarks
from vidops.bench.machine import peak_growth

OP = "temporal_projection"
ALL = ops.Projection._fields
NAN = float("nan")


def make(
    shape: tuple[int, ...],
    columns: int,
    grid: tuple[int, int],
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """A clip and a basis that is well conditioned, so that errors are those of the kernels."""
    params = {"shape": shape, "columns": columns, "grid": grid}
    x, basis = load_benchmarks()[OP].inputs(params, torch.Generator().manual_seed(seed))
    return x.to(dtype), basis.to(dtype)


def emulated(backend: str, device: str) -> bool:
    return backend not in ("cpu", "reference") and device == "cpu"


def by_hand(coarse: Tensor, i: int, j: int, size: tuple[int, int]) -> np.ndarray:
    """A of pixel (i, j), from ``(T, D, h, w)``."""
    result = np.zeros(coarse.shape[:2])
    axes = []
    for place, cells, pixels in zip((i, j), coarse.shape[2:], size, strict=True):
        at = min(max((place + 0.5) * cells / pixels - 0.5, 0), cells - 1)
        low = int(at)
        axes.append(((low, 1 - (at - low)), (min(low + 1, cells - 1), at - low)))
    for u, row in axes[0]:
        for v, column in axes[1]:
            result += row * column * coarse[:, :, u, v].numpy()
    return result


@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("columns,grid", [(1, (2, 3)), (2, (1, 1)), (3, (4, 5)), (4, (3, 2))])
def test_reference_is_the_definition(columns: int, grid: tuple[int, int], ridge: float) -> None:
    n, c, h, w = 2, 3, 4, 5
    x, basis = make((n, c, 6, h, w), columns, grid)
    found = reference.temporal_projection(x, basis, ridge=ridge, outputs=ALL)
    expected = [torch.zeros(f.shape, dtype=f.dtype) for f in found]
    for k, i, j in np.ndindex(n, h, w):
        a, pixel = by_hand(basis[k], i, j, (h, w)), x[k, :, :, i, j].numpy().T
        y = np.linalg.solve(a.T @ a + ridge * np.eye(columns), a.T @ pixel)
        p = pixel - a @ y
        expected[0][k, :, :, i, j] = torch.from_numpy(y)
        expected[1][k, :, :, i, j] = torch.from_numpy((a @ y).T)
        expected[2][k, :, :, i, j] = torch.from_numpy(p.T)
        expected[3][k, :, i, j] = torch.from_numpy(p.mean(0))
        expected[4][k] += (p**2).sum() / (h * w * c)
        expected[5][k] += np.sqrt((p**2).sum(0)).sum() / (h * w * c)
    for field, one, other in zip(ALL, found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12, msg=lambda m, f=field: f"{f}: {m}")


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("ridge", [0.0, 1e-6, 0.5])
@pytest.mark.parametrize("frames,columns", [(4, 1), (3, 2), (8, 3), (20, 7), (64, 16)])
def test_against_lstsq(backend: str, dtype: torch.dtype, ridge: float, frames: int, columns: int) -> None:
    """Condition 1 to 1e6 in fp64, to 1e2 in fp32, one a pixel, against lstsq of [A; sqrt(ridge) I]."""
    device = device_for(backend, OP)
    conditions = np.logspace(0, 6 if dtype == torch.float64 else 2, 5)
    draw = np.random.default_rng(frames)
    basis = torch.empty(1, frames, columns, 1, len(conditions), dtype=torch.float64)
    for i, condition in enumerate(conditions):
        u, _ = np.linalg.qr(draw.normal(size=(frames, columns)))
        v, _ = np.linalg.qr(draw.normal(size=(columns, columns)))
        values = np.geomspace(1, 1 / condition, columns) if columns > 1 else np.ones(1)
        basis[0, :, :, 0, i] = torch.from_numpy(u * values @ v.T)
    basis = basis.to(dtype)
    x = torch.from_numpy(draw.normal(size=(1, 2, frames, 1, len(conditions)))).to(dtype)
    found = ops.temporal_projection(
        x.to(device), basis.to(device), ridge=ridge, outputs=["coefficients"], backend=backend
    ).coefficients
    assert found is not None
    for i, condition in enumerate(conditions):
        a = np.concatenate([basis[0, :, :, 0, i].double().numpy(), np.sqrt(ridge) * np.eye(columns)])
        right = np.concatenate([x[0, :, :, 0, i].double().numpy().T, np.zeros((columns, 2))])
        expected = np.linalg.lstsq(a, right, rcond=None)[0]
        error = np.abs(found[0, :, :, 0, i].double().cpu().numpy() - expected).max() / np.abs(expected).max()
        assert error <= 10 * condition**2 * torch.finfo(dtype).eps, condition


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize("columns,grid", [(1, (2, 2)), (3, (1, 1)), (3, (3, 4)), (6, (2, 4))])
def test_facts_without_ridge(backend: str, columns: int, grid: tuple[int, int]) -> None:
    """The residual is orthogonal to the columns, and projecting again changes nothing."""
    device = device_for(backend, OP)
    x, basis = (t.to(device) for t in make((1, 2, 8, 3, 4), columns, grid))
    call = functools.partial(ops.temporal_projection, basis=basis, ridge=0.0, outputs=ALL, backend=backend)
    once = call(x)
    a = reference.resize(basis, (3, 4))
    assert torch.einsum("ntdhw,ncthw->ndchw", a, once.residual).abs().max() < 1e-12
    again = call(once.projection)
    torch.testing.assert_close(again.projection, once.projection, rtol=1e-12, atol=1e-12)
    assert again.residual.abs().max() < 1e-12


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_still_clip_leaves_nothing_beside_a_constant_column(backend: str, dtype: torch.dtype) -> None:
    device = device_for(backend, OP)
    x, basis = (t.to(device) for t in make((1, 3, 8, 3, 4), 2, (2, 3), dtype))
    basis[:, :, 0] = 0.7
    still = x[:, :, :1].expand_as(x)
    found = ops.temporal_projection(still, basis, ridge=0.0, outputs=ALL, backend=backend)
    eps = torch.finfo(dtype).eps
    for field in (found.residual, found.residual_mean, found.error):
        assert field.abs().max() < 100 * eps
    assert found.energy.max() < (100 * eps) ** 2


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("columns", [1, 2, 3, 5])
def test_dependent_columns_give_finite_numbers(backend: str, dtype: torch.dtype, columns: int) -> None:
    device = device_for(backend, OP)
    x, basis = (t.to(device) for t in make((1, 2, 6, 2, 3), columns, (1, 2), dtype))
    for dependent in (
        torch.zeros_like(basis),
        basis[:, :, :1].expand_as(basis),
        basis[:, :1].expand_as(basis),
    ):
        leaves = [x.clone().requires_grad_(), dependent.clone().requires_grad_()]
        found = ops.temporal_projection(*leaves, outputs=ALL, backend=backend)
        sum(f.double().square().sum() for f in found).backward()
        assert all(f.isfinite().all() for f in found)
        assert all(leaf.grad.isfinite().all() for leaf in leaves)


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize(
    "outputs",
    [("coefficients", "projection", "residual_mean", "energy", "error"), *((name,) for name in ALL)],
    ids="+".join,
)
@pytest.mark.parametrize("columns,grid", [(1, (2, 2)), (3, (2, 1))])
def test_gradcheck(backend: str, outputs: tuple[str, ...], columns: int, grid: tuple[int, int]) -> None:
    device = device_for(backend, OP)
    leaves = tuple(t.to(device).requires_grad_() for t in make((1, 2, 4, 3, 3), columns, grid, seed=3))

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        found = ops.temporal_projection(*tensors, ridge=0.01, outputs=outputs, backend=backend)
        return tuple(f for f in found if f is not None)

    assert torch.autograd.gradcheck(function, leaves, fast_mode=emulated(backend, device))
    if backend == "reference" and len(outputs) > 1:
        assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("backend", EVERY_BACKEND)
def test_the_length_of_nothing_has_gradient_zero(backend: str) -> None:
    device = device_for(backend, OP)
    x, basis = (t.to(device).requires_grad_() for t in make((1, 2, 4, 2, 3), 2, (1, 2)))
    found = ops.temporal_projection(x * 0, basis, outputs=("error",), backend=backend)
    dx, dbasis = torch.autograd.grad(found.error.sum(), [x, basis])
    assert not dx.any()
    assert not dbasis.any()


@pytest.mark.parametrize("backend", EVERY_BACKEND)
def test_only_what_is_wanted(backend: str) -> None:
    device = device_for(backend, OP)
    x, basis = (t.to(device) for t in make((2, 3, 5, 4, 6), 2, (2, 3)))
    full = ops.temporal_projection(x, basis, outputs=ALL, backend=backend)
    for field in ALL:
        found = ops.temporal_projection(x, basis, outputs=[field], backend=backend)
        assert [f is not None for f in found] == [f == field for f in ALL]
        torch.testing.assert_close(getattr(found, field), getattr(full, field), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("layout", ["NCTHW", "NTCHW", "NTHWC"])
def test_images_lie_as_the_clip_does(backend: str, layout: str) -> None:
    device = device_for(backend, OP)
    x, basis = make((2, 3, 5, 4, 6), 2, (2, 3), torch.float32)
    found = ops.temporal_projection(
        in_layout(x, layout).to(device), basis.to(device), outputs=ALL, backend=backend
    )
    memory = torch.channels_last if layout == "NTHWC" else torch.contiguous_format
    assert found.residual_mean.is_contiguous(memory_format=memory)
    assert found.coefficients.flatten(0, 1).is_contiguous(memory_format=memory)


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize("layout", ["NCTHW", "NTHWC"])
@pytest.mark.parametrize("columns", [1, 3])
def test_what_is_not_a_number_stays_in_its_pixel_and_channel(backend: str, layout: str, columns: int) -> None:
    device = device_for(backend, OP)
    x, basis = make((2, 3, 5, 4, 6), columns, (2, 3), torch.float32)
    x[1, 2, 3, 1, 4] = NAN
    x = in_layout(x, layout).to(device).requires_grad_()
    found = ops.temporal_projection(x, basis.to(device), outputs=ALL, backend=backend)
    for field in found[:4]:
        reached = field.isnan()
        assert reached.select(-2, 1).select(-1, 4)[1].any()
        reached.select(-2, 1).select(-1, 4)[1].fill_(False)
        assert not reached.any()
    coefficients, mean = found.coefficients[1, :, :, 1, 4].isnan(), found.residual_mean[1, :, 1, 4].isnan()
    assert coefficients[:, 2].all()
    assert not coefficients[:, :2].any()
    assert mean.tolist() == [False, False, True]
    for field in found[4:]:
        assert field.isnan().tolist() == [False, True]
    (dx,) = torch.autograd.grad(found.residual_mean.sum() + found.energy[0], x)
    assert dx.isfinite()[0].all()


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("columns", [1, 2, 3, 5])
@pytest.mark.parametrize("grid", [(1, 1), (2, 3)])
def test_extreme_bases_reach_what_they_reach_in_the_reference(
    backend: str, columns: int, grid: tuple[int, int]
) -> None:
    """Also where AtA overflows, and what is not finite depends on the order of the operations."""
    device = device_for(backend, OP)
    for value in (1e20, 3e38) if emulated(backend, device) else (NAN, float("inf"), 1e20, 1e30, 3e38):
        x, basis = (t.to(device) for t in make((2, 2, 6, 4, 5), columns, grid, torch.float32))
        basis[0, 3, 0, -1, -1] = value
        results = []
        for name in (backend, "reference"):
            leaves = [t.clone().requires_grad_() for t in (x, basis)]
            found = ops.temporal_projection(*leaves, outputs=ALL, backend=name)
            grads = torch.autograd.grad([f.sum() for f in found], leaves)
            results.append(dict(zip((*ALL, "dx", "dbasis"), (*found, *grads), strict=True)))
        ours, expected = results
        for field in expected:
            what = f"{value}: {field}"
            assert torch.equal(ours[field].isnan(), expected[field].isnan()), what
            assert torch.equal(ours[field].isinf(), expected[field].isinf()), what


@pytest.mark.parametrize("kind", [int, np.int64, np.float16, np.float32, np.float64])
def test_ridge_is_any_real_number(kind: Any) -> None:
    expected = ops.temporal_projection(X + 1, BASIS + 1, ridge=2.0, backend="reference")
    found = ops.temporal_projection(X + 1, BASIS + 1, ridge=kind(2), backend="reference")
    assert torch.equal(found.residual_mean, expected.residual_mean)


@pytest.mark.parametrize("backend", FAST)
def test_random_calls(backend: str) -> None:
    device = device_for(backend, OP)
    frames, side = (6, 5) if emulated(backend, device) else (18, 20)

    @random_examples(backend, device)
    @given(
        shape=st.tuples(*[st.integers(1, m) for m in (2, 5)], st.integers(2, frames), *[st.integers(1, side)] * 2),
        columns=st.integers(1, 9),
        grid=st.tuples(st.integers(1, side), st.integers(1, side)),
        outputs=st.lists(st.sampled_from(ALL), min_size=1, unique=True),
        layout=st.sampled_from(LAYOUTS),
        grad_layout=st.sampled_from(LAYOUTS),
        dtype=st.sampled_from(DTYPES),
    )  # fmt: skip
    def check(
        shape: Any, columns: int, grid: Any, outputs: Any, layout: str, grad_layout: str, dtype: torch.dtype
    ) -> None:
        columns, grid = min(columns, (shape[2] + 1) // 2), (min(grid[0], shape[3]), min(grid[1], shape[4]))
        x, basis = make(shape, columns, grid, dtype)
        function = functools.partial(ops.temporal_projection, ridge=0.1, outputs=outputs)
        compare(function, [in_layout(x, layout), basis], backend, device, grad_layout=grad_layout)

    check()


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
@pytest.mark.parametrize("layout", ["NCTHW", "NTCHW", "NTHWC"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sizes_of_real_networks(backend: str, layout: str, dtype: torch.dtype) -> None:
    device = device_for(backend, OP)
    for shape, columns, grid, outputs in (
        ((2, 3, 8, 112, 112), 1, (14, 14), ("residual_mean", "energy")),
        ((1, 3, 3, 64, 56), 1, (64, 56), ("residual_mean", "energy")),
        ((1, 3, 10, 75, 75), 3, (1, 1), ("coefficients", "error")),
        ((1, 32, 10, 35, 35), 4, (1, 1), ("coefficients", "error")),
    ):
        x, basis = make(shape, columns, grid, dtype)
        function = functools.partial(ops.temporal_projection, outputs=outputs)
        compare(function, [in_layout(x, layout), basis], backend, device, grad_layout=layout)


@pytest.mark.parametrize("backend", FAST)
def test_the_longest_clip_with_the_largest_basis(backend: str) -> None:
    """64 frames as 16 images, as the first layer of TeSNet's setting 5 has them, forward and backward."""
    device = device_for(backend, OP)
    cases = [((1, 1), torch.float32), ((2, 3), torch.float32), ((1, 1), torch.bfloat16)]
    for grid, dtype in cases[: 1 if emulated(backend, device) and backend == "triton" else None]:
        x, basis = make((1, 2, 64, 2, 3), 16, grid, dtype)
        function = functools.partial(ops.temporal_projection, ridge=0.01, outputs=ALL)
        compare(function, [x, basis], backend, device)


@pytest.mark.parametrize("layout", ["NCTHW", "NTCHW", "NTHWC"])
def test_nothing_of_the_size_of_the_clip_is_made_but_its_gradient(layout: str) -> None:
    device_for("cpu", OP)
    x, basis = make((4, 3, 16, 224, 224), 1, (28, 28), torch.float32)
    x, basis = in_layout(x, layout).requires_grad_(), basis.requires_grad_()

    def step() -> tuple[Tensor, ...]:
        found = ops.temporal_projection(x, basis, backend="cpu")
        return torch.autograd.grad(found.residual_mean.square().sum() + found.energy.sum(), [x, basis])

    grown = peak_growth(step, "cpu")
    if grown is None:
        pytest.skip("this system does not tell peak memory")
    assert grown < 1.5 * x.nbytes


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize("grid", [False, True])
@pytest.mark.parametrize("shape", [(2, 0, 6, 5, 4), (2, 3, 6, 0, 4), (2, 3, 6, 5, 0), (0, 0, 6, 0, 0)])
def test_zero_sizes(backend: str, grid: bool, shape: tuple[int, ...]) -> None:
    n, c, t, h, w = shape
    x = torch.randn(shape, device=device_for(backend, OP), requires_grad=True)
    cells = [1 if grid or size else 0 for size in (h, w)]  # one also where there is no pixel
    basis = torch.full((n, t, 2, *cells), NAN, device=x.device, requires_grad=True)
    found = ops.temporal_projection(x, basis, outputs=ALL, backend=backend)
    clip, image = shape, (n, c, h, w)
    assert [f.shape for f in found] == [(n, 2, c, h, w), clip, clip, image, (n,), (n,)]
    assert not found.energy.any()
    assert not found.error.any()
    for some in (found.energy, found.residual_mean):
        dx, dbasis = torch.autograd.grad(some.sum(), [x, basis], retain_graph=True)
        assert (dx.shape, dbasis.shape) == (x.shape, basis.shape)
        assert not dbasis.any()


X, BASIS = torch.zeros(2, 3, 6, 5, 4), torch.zeros(2, 6, 2, 3, 2)


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize(
    "change,error,text",
    [
        ({"x": X[..., :0]}, ValueError, "basis must have a grid of 1 x 0 to 5 x 1 cells, got 3 x 2"),
        ({"x": X[:, :, :1], "basis": BASIS[:, :1]}, ValueError, "x must have 2 to 64 frames, got 1"),
        ({"x": torch.zeros(2, 3, 65, 1, 1)}, ValueError, "x must have 2 to 64 frames, got 65"),
        ({"basis": BASIS[0]}, ValueError, r"basis must be \(N, T, D, h, w\), got 4 dimensions"),
        ({"basis": BASIS.double()}, TypeError, "basis must have the dtype of x, torch.float32"),
        ({"basis": BASIS.to("meta")}, ValueError, "basis must be on the device of x"),
        ({"basis": BASIS[:1]}, ValueError, r"basis must be .* with N = 2, T = 6, got \(1, 6, 2, 3, 2\)"),
        ({"basis": BASIS[:, :5]}, ValueError, r"basis must be .* with N = 2, T = 6, got \(2, 5, 2, 3, 2\)"),
        ({"basis": BASIS[:, :, :0]}, ValueError, "basis must have 1 to 5 columns for 6 frames, got 0"),
        ({"basis": torch.zeros(2, 6, 6, 3, 2)}, ValueError, "basis must have 1 to 5 columns for 6 frames, got 6"),
        ({"basis": torch.zeros(2, 6, 2, 6, 2)}, ValueError, "basis must have a grid of 1 x 1 to 5 x 4 cells"),
        ({"basis": BASIS[..., :0]}, ValueError, "basis must have a grid of 1 x 1 to 5 x 4 cells"),
        ({"basis": [1.0]}, TypeError, "basis must be a Tensor, got list"),
        ({"ridge": -1.0}, ValueError, "ridge must be finite and at least 0, got -1.0"),
        ({"ridge": NAN}, ValueError, "ridge must be finite and at least 0, got nan"),
        ({"ridge": "1"}, TypeError, "ridge must be a number, got str"),
        ({"ridge": True}, TypeError, "ridge must be a number, got bool"),
        ({"ridge": np.float32(-1)}, ValueError, "ridge must be finite and at least 0, got -1.0"),
        ({"outputs": "energy"}, TypeError, "outputs must be a tuple or list of names, got str"),
        ({"outputs": ()}, ValueError, "outputs must name at least one result"),
        ({"outputs": ("mean",)}, ValueError, "outputs must be names among coefficients.*, got 'mean'"),
    ],
)  # fmt: skip
def test_bad_input(backend: str, change: dict[str, Any], error: type[Exception], text: str) -> None:
    device = device_for(backend, OP)
    arguments: dict[str, Any] = {"x": X, "basis": BASIS} | change
    arguments = {
        k: v.to(device) if isinstance(v, Tensor) and v.device.type != "meta" else v
        for k, v in arguments.items()
    }
    with pytest.raises(error, match=text):
        ops.temporal_projection(backend=backend, **arguments)
