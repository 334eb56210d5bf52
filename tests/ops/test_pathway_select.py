from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import vidops
from tests.ops.common import (
    DTYPES,
    EVERY_BACKEND,
    FAST,
    LAYOUTS,
    compare,
    compare_not_finite,
    device_for,
    in_layout,
    interpreted,
    past_32_bits,
    random_examples,
)
from vidops import ops, reference
from vidops.ops.layouts import layout_of

OP = "pathway_select"
NATIVE = ["NCTHW", "NTCHW", "NTHWC"]


def make(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def arguments(shape: tuple[int, ...], pathways: int, per_frame: bool) -> list[Tensor]:
    """Logits, which are no clip, and the pathways."""
    n, c, t = shape[:3]
    logits = make((n, pathways, c, t) if per_frame else (n, pathways, c))
    return [logits, *(make(shape, 1 + m) for m in range(pathways))]


def select(logits: Tensor, *paths: Tensor, backend: str | None = None) -> Tensor:
    return ops.pathway_select(paths, logits, backend=backend)


@pytest.mark.parametrize("pathways", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("per_frame", [False, True])
def test_reference_is_the_definition(pathways: int, per_frame: bool) -> None:
    logits, *paths = arguments((2, 3, 4, 2, 3), pathways, per_frame)
    expected = torch.empty_like(paths[0])
    for n in range(2):
        for c in range(3):
            for t in range(4):
                column = logits[n, :, c, t] if per_frame else logits[n, :, c]
                powers = [math.exp(v) for v in column.tolist()]
                expected[n, c, t] = sum(
                    power / sum(powers) * path[n, c, t] for power, path in zip(powers, paths, strict=True)
                )
    torch.testing.assert_close(reference.pathway_select(paths, logits), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize(
    "shape", [(0, 3, 4, 2, 2), (2, 0, 4, 2, 2), (2, 3, 0, 2, 2), (2, 3, 4, 0, 2), (2, 3, 4, 2, 0)]
)
@pytest.mark.parametrize("per_frame", [False, True])
def test_zero_sizes(backend: str, shape: tuple[int, ...], per_frame: bool) -> None:
    device = device_for(backend, OP)
    leaves = [t.float().to(device).requires_grad_() for t in arguments(shape, 2, per_frame)]
    y = select(*leaves, backend=backend)
    assert y.shape == shape
    y.sum().backward()
    for leaf in leaves:
        assert leaf.grad is not None
        assert leaf.grad.shape == leaf.shape
        assert not leaf.grad.any()


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("per_frame", [False, True])
@pytest.mark.parametrize("layout", NATIVE)
@pytest.mark.parametrize("pathways", range(1, 9))
def test_every_number_of_pathways(backend: str, per_frame: bool, layout: str, pathways: int) -> None:
    device = device_for(backend, OP)
    logits, *paths = (t.float() for t in arguments((2, 18, 3, 3, 7), pathways, per_frame))
    compare(select, [logits, *(in_layout(p, layout) for p in paths)], backend, device, grad_layout=layout)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("per_frame", [False, True])
@pytest.mark.parametrize("layouts", [("NCTHW", "NTHWC", "NTCHW"), ("NTHWC", "NTCHW", "strided")], ids=str)
def test_pathways_of_different_layouts(backend: str, per_frame: bool, layouts: tuple[str, ...]) -> None:
    device = device_for(backend, OP)
    logits, *paths = (t.float() for t in arguments((2, 5, 3, 4, 3), 3, per_frame))
    paths = [in_layout(path, layout) for path, layout in zip(paths, layouts, strict=True)]
    compare(select, [logits, *paths], backend, device, grad_layout="NTCHW")
    leaves = [t.to(device).requires_grad_() for t in (logits, *paths)]
    y = select(*leaves, backend=backend)
    assert layout_of(y) == layouts[0]


def test_compilers_know_the_layouts_of_all_gradients() -> None:
    device_for("cpu", OP)
    logits, *paths = (t.float() for t in arguments((2, 5, 3, 4, 3), 3, True))
    given = [in_layout(path, layout) for path, layout in zip(paths, NATIVE, strict=True)]
    op = torch.ops.vidops.pathway_select_backward.default
    torch.library.opcheck(op, (paths[0], given, logits), test_utils="test_faketensor")


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("layout", NATIVE)
def test_pathways_that_are_parts_of_larger_clips(backend: str, layout: str) -> None:
    """Every second clip, channel or frame, as half of a convolution's channels: read where they lie."""
    device = device_for(backend, OP)
    cases = [(n, axis, per_frame) for n in (1, 2) for axis in (0, 1, 2) for per_frame in (False, True)]
    for n, axis, per_frame in cases[:6] if interpreted(backend) else cases:
        logits, *paths = (t.float() for t in arguments((n, 4, 3, 4, 5), 2, per_frame))
        wide = [torch.stack([p, p * math.nan], axis + 1).flatten(axis, axis + 1) for p in paths]
        parts = [in_layout(w, layout)[(slice(None),) * axis + (slice(None, None, 2),)] for w in wide]
        for clips in (parts, [in_layout(paths[0], layout), parts[1]]):
            compare(select, [logits, *clips], backend, device, grad_layout=layout)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("per_frame", [False, True])
@pytest.mark.parametrize("layout", NATIVE)
def test_sizes_of_btsnet(backend: str, per_frame: bool, layout: str) -> None:
    """Rows past kTerms products a lane, results too large for the caches."""
    device = device_for(backend, OP)
    emulated = backend != "cpu" and device == "cpu"
    for shape in ((1, 33, 2, 9, 12),) if emulated else ((1, 128, 15, 28, 28), (2, 200, 8, 14, 14)):
        logits, *paths = (t.float() for t in arguments(shape, 3, per_frame))
        compare(select, [logits, *(in_layout(p, layout) for p in paths)], backend, device, grad_layout=layout)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_logits_far_apart(backend: str, dtype: torch.dtype) -> None:
    """Exponentials of them would overflow; of the smallest the weight is 0."""
    device = device_for(backend, OP)
    logits = torch.tensor([[3e4, -3e4, 2.9e4], [-6e4, -6e4, -6e4], [88.0, 0.0, -20.0]]).T[None].to(dtype)
    paths = [make((1, 3, 2, 3, 4), m).to(dtype) for m in range(3)]
    compare(select, [logits, *paths], backend, device)
    y = select(*(t.to(device) for t in (logits, *paths)), backend=backend).cpu()
    assert torch.equal(y[:, 0], paths[0][:, 0])


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("layout", ["NCTHW", "NTHWC"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_in_its_place(backend: str, layout: str, value: float) -> None:
    device = device_for(backend, OP)
    logits, *paths = (t.float() for t in arguments((1, 3, 2, 3, 4), 3, True))
    inputs = {"x": paths[0], "logits": logits, "second": paths[1], "third": paths[2]}
    inputs["grad"] = make((1, 3, 2, 3, 4), 9).float()
    places = {
        "x": (0, 1, 1, 1, 2),
        "second": (0, 2, 0, 2, 3),
        "grad": (0, 0, 1, 0, 1),
        "logits": (0, 1, 2, 1),
    }
    for where, place in places.items():
        compare_not_finite(
            lambda x, logits, *others: ops.pathway_select([x, *others], logits, backend=backend),
            lambda x, logits, *others: reference.pathway_select([x, *others], logits),
            inputs, where, place, value, device, layout,
        )  # fmt: skip


@pytest.mark.parametrize("backend", FAST)
def test_a_pathway_without_weight_still_makes_what_is_not_finite_nan(backend: str) -> None:
    device = device_for(backend, OP)
    logits = torch.tensor([[[0.0], [-math.inf]], [[-math.inf], [-math.inf]]], device=device)
    paths = [torch.ones(2, 1, 1, 1, 2, device=device) for _ in range(2)]
    paths[1][0, 0, 0, 0, 1] = math.inf
    y = select(logits, *paths, backend=backend).flatten()
    assert y[0] == 1
    assert y[1:].isnan().all()  # 0 * infinity, and a softmax of nothing but -infinity


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_strides_past_32_bits(backend: str, axis: int) -> None:
    device = device_for(backend, OP)
    x = past_32_bits([1, 1, 2, 1, 8] if axis == 2 else [1, 1, 1, 1, 8], axis, device)
    logits = torch.randn(x.shape[0], 2, x.shape[1], device=device).half()
    leaves = [t.requires_grad_() for t in (x, torch.ones_like(x), logits)]
    y = ops.pathway_select(leaves[:2], logits, backend=backend)
    copies = [t.detach().contiguous().requires_grad_() for t in leaves]
    same = ops.pathway_select(copies[:2], copies[2], backend=backend)
    assert torch.equal(y, same)
    for a, b in zip(
        torch.autograd.grad(y.sum(), leaves), torch.autograd.grad(same.sum(), copies), strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("backend", FAST)
def test_random_calls(backend: str) -> None:
    device = device_for(backend, OP)

    @random_examples(backend, device)
    @given(
        shape=st.tuples(*[st.integers(1, m) for m in (2, 40, 5, 6, 9)]),
        pathways=st.integers(1, 8),
        per_frame=st.booleans(),
        layouts=st.lists(st.sampled_from(LAYOUTS), min_size=8, max_size=8),
        alike=st.booleans(),
        dtype=st.sampled_from(DTYPES),
    )
    def check(
        shape: Any, pathways: int, per_frame: bool, layouts: list[str], alike: bool, dtype: torch.dtype
    ) -> None:
        logits, *paths = (t.to(dtype) for t in arguments(shape, pathways, per_frame))
        given = [in_layout(path, layouts[0 if alike else m]) for m, path in enumerate(paths)]
        compare(select, [logits, *given], backend, device, grad_layout=layouts[-1])

    check()


@pytest.mark.parametrize("backend", EVERY_BACKEND)
def test_the_same_tensor_twice(backend: str) -> None:
    device = device_for(backend, OP)
    x = make((1, 3, 2, 2, 3)).to(device).requires_grad_()
    logits = make((1, 3, 3), 1).to(device).requires_grad_()
    y = ops.pathway_select([x, x, x], logits, backend=backend)
    torch.testing.assert_close(y, x)
    dx, slope = torch.autograd.grad(y, [x, logits], x.detach())
    torch.testing.assert_close(dx, x.detach())
    torch.testing.assert_close(slope, torch.zeros_like(slope))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("pathways", [1, 3])
def test_second_derivatives_by_any_input_say_what_to_use(backend: str, pathways: int) -> None:
    device = device_for(backend, OP)
    leaves = [t.to(device).requires_grad_() for t in arguments((1, 2, 2, 1, 2), pathways, True)]
    y = select(*leaves, backend=backend)
    for leaf in leaves:
        (slope,) = torch.autograd.grad(y.square().sum(), leaf, create_graph=True)
        with pytest.raises(RuntimeError, match=r'pathway_select has no double backward.*backend="reference"'):
            slope.sum().backward()


X = torch.zeros(2, 3, 4, 2, 2)
L = torch.zeros(2, 2, 3)


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize(
    "paths,logits,error,text",
    [
        (X, L, TypeError, "^paths must be a list or tuple of clips, got Tensor"),
        (X[0], L, TypeError, "^paths must be a list or tuple of clips, got Tensor"),
        (None, L, TypeError, "^paths must be a list or tuple of clips, got NoneType"),
        ([], L, ValueError, "^paths must hold 1 to 8 clips, got 0"),
        ([X] * 9, L, ValueError, "^paths must hold 1 to 8 clips, got 9"),
        ([X, "x"], L, TypeError, r"^paths\[1\] must be a Tensor, got str"),
        ([X, X[0]], L, ValueError, r"^paths\[1\] must be a clip \(N, C, T, H, W\), got 4 dimensions"),
        ([X, X.int()], L, TypeError, r"^paths\[1\] must be float32, .*torch\.int32"),
        ([X, X.half()], L, TypeError, r"^paths\[1\] must have the dtype of paths\[0\], torch.float32"),
        (
            [X, X[:, :2]],
            L,
            ValueError,
            r"^paths\[1\] must have shape \(2, 3, 4, 2, 2\), got \(2, 2, 4, 2, 2\)",
        ),
        ([X, X.to("meta")], L, ValueError, r"^paths\[1\] must be on the device of paths\[0\], cpu, got meta"),
        ([X, X], "x", TypeError, "^logits must be a Tensor, got str"),
        ([X, X], L.double(), TypeError, "^logits must have the dtype of paths, torch.float32"),
        ([X, X], L.to("meta"), ValueError, "^logits must be on the device of paths, cpu, got meta"),
        ([X, X], L[0], ValueError, r"^logits must have shape \(2, 2, 3\) or \(2, 2, 3, 4\), .*got \(2, 3\)"),
        ([X, X, X], L, ValueError, r"^logits must have shape \(2, 3, 3\) or .*got \(2, 2, 3\)"),
        ([X, X], L[..., None], ValueError, r"^logits must have shape .*got \(2, 2, 3, 1\)"),
    ],
)
def test_bad_input(backend: str, paths: Any, logits: Any, error: type[Exception], text: str) -> None:
    device_for(backend, OP)
    with pytest.raises(error, match=text):
        ops.pathway_select(paths, logits, backend=backend)


def test_explain_takes_paths_alone() -> None:
    device_for("cpu", OP)
    text = vidops.explain(OP, [X, X])
    assert text.startswith("pathway_select on cpu: backend 'cpu' is chosen")
    assert text.endswith("as far as paths tells, without logits")
    assert "is chosen" in vidops.explain(OP, [X, X], L)
    with pytest.raises(ValueError, match=r"^paths\[0\] must be a clip"):
        vidops.explain(OP, [X[0]])
    with pytest.raises(ValueError, match=r"^logits must have shape \(2, 1, 3\) or"):
        vidops.explain(OP, [X], L)
