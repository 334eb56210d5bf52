from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
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
from vidops import ops, reference
from vidops.ops.layouts import layout_of

OP = "nonlocal_attention"
KINDS = ("gaussian", "dot", "cosine", "concatenation")


def make(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights_for(kind: str, channels: int) -> dict[str, Tensor]:
    if kind != "concatenation":
        return {}
    return {"query_weight": make((channels,), 8), "key_weight": make((channels,), 9)}


def likeness(kind: str, q: list[float], k: list[float], weights: dict[str, Tensor]) -> float:
    product = sum(a * b for a, b in zip(q, k, strict=True))
    if kind == "gaussian":
        return math.exp(product)
    if kind == "dot":
        return product
    if kind == "cosine":
        lengths = math.sqrt(sum(a * a for a in q)) * math.sqrt(sum(b * b for b in k))
        return max(product / lengths, 0.0)
    w_q, w_k = (w.tolist() for w in weights.values())
    return max(sum(a * b for a, b in zip((*q, *k), (*w_q, *w_k), strict=True)), 0.0)


def sees(over: str, i: tuple[int, ...], j: tuple[int, ...]) -> bool:
    return over == "all" or (i[0] == j[0] if over == "space" else i[1:] == j[1:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("over", "keys"), [("all", (1, 3, 2)), ("space", (2, 1, 3)), ("time", (3, 2, 2))], ids=lambda v: str(v)
)
def test_reference_is_the_definition(kind: str, over: str, keys: tuple[int, int, int]) -> None:
    query, key, value = make((2, 3, 2, 2, 2)), make((2, 3, *keys), 1), make((2, 4, *keys), 2)
    weights = weights_for(kind, 3)
    y = reference.nonlocal_attention(query, key, value, kind=kind, over=over, **weights)
    assert y.shape == (2, 4, 2, 2, 2)
    for n, *i in itertools.product(range(2), range(2), range(2), range(2)):
        seen = [j for j in itertools.product(*map(range, keys)) if sees(over, tuple(i), j)]
        alike = {
            j: likeness(
                kind, query[(n, slice(None), *i)].tolist(), key[(n, slice(None), *j)].tolist(), weights
            )
            for j in seen
        }
        total = sum(alike.values()) if kind == "gaussian" else len(seen)
        by_hand = sum(alike[j] / total * value[(n, slice(None), *j)] for j in seen)
        torch.testing.assert_close(y[(n, slice(None), *i)], by_hand, rtol=1e-12, atol=1e-12)
        of_point = ops.attention_map(query, key, (i[0], i[1], i[2]), kind=kind, over=over, **weights)
        assert of_point.shape == (2, *keys)
        for j in itertools.product(*map(range, keys)):
            assert math.isclose(of_point[(n, *j)].item(), alike.get(j, 0.0) / total, abs_tol=1e-12)


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize("kind", KINDS)
def test_region_attention_has_its_queries_for_keys(backend: str, kind: str) -> None:
    device = device_for(backend, OP)
    query, value = (make((1, 4, 2, 3, 3), i).to(device) for i in range(2))
    weights = {name: w.to(device) for name, w in weights_for(kind, 4).items()}
    y = ops.region_attention(query, value, kind=kind, **weights, backend=backend)
    expected = ops.nonlocal_attention(query, query, value, kind=kind, **weights, backend=backend)
    assert torch.equal(y, expected)
    exact = reference.region_attention(query, value, kind=kind, **weights)
    torch.testing.assert_close(y, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize("scale", [None, 1.0, 0.25])
def test_equals_scaled_dot_product_attention(backend: str, scale: float | None) -> None:
    device = device_for(backend, OP)
    clips = [(make((2, 8, 2, 5, 7), i) / 8**0.25).to(device) for i in range(3)]
    y = ops.nonlocal_attention(*clips, scale=scale, backend=backend)
    tokens = [x.flatten(2).mT for x in clips]
    expected = F.scaled_dot_product_attention(*tokens, scale=scale or 1.0).mT.unflatten(2, (2, 5, 7))
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dot_in_both_orders(backend: str, dtype: torch.dtype) -> None:
    """q (kt v) against (q kt) v: the same sums, also where that over all keys leaves fp16's range."""
    device = device_for(backend, OP)
    query, key, value = make((1, 5, 2, 6, 7)), make((1, 5, 4, 9, 9), 1) * 40, make((1, 3, 4, 9, 9), 2) * 40
    clips = [query, key.abs(), value.abs()]
    compare(
        lambda *x, backend: ops.nonlocal_attention(*x, kind="dot", backend=backend),
        [x.to(dtype) for x in clips], backend, device,
    )  # fmt: skip


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_large_logits(backend: str, dtype: torch.dtype) -> None:
    """Products of -80 to 80, whose exponentials are far out of fp16's range.

    Not in fp64: the truth would be the reference's, whose rounding of such products shows.
    """
    device = device_for(backend, OP)
    query, key, value = make((1, 4, 1, 4, 9)), make((1, 4, 2, 5, 7), 1), make((1, 3, 2, 5, 7), 2)
    query = (query / query.norm(dim=1, keepdim=True) * 80**0.5).to(dtype)
    key = (key / key.norm(dim=1, keepdim=True) * 80**0.5).to(dtype)
    key[:, :, 0, 0] = query[:, :, 0, 0, :7]
    key[:, :, 1, 0] = -query[:, :, 0, 0, :7]
    products = torch.einsum("ndthw,ndrij->nthwrij", query.double(), key.double())
    assert products.max() > 79
    assert products.min() < -79
    compare(ops.nonlocal_attention, [query, key, value.to(dtype)], backend, device)


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("shape", "keys", "channels"),
    [
        ((0, 3, 2, 3, 3), (2, 3, 3), 4),
        ((2, 3, 2, 3, 3), (0, 3, 3), 4),
        ((2, 3, 2, 3, 3), (2, 0, 3), 4),
        ((2, 3, 2, 0, 3), (2, 3, 3), 4),
        ((2, 3, 2, 3, 3), (2, 3, 3), 0),
    ],
    ids=["clips", "key frames", "key pixels", "pixels", "channels"],
)
def test_zero_sizes(
    backend: str, kind: str, shape: tuple[int, ...], keys: tuple[int, int, int], channels: int
) -> None:
    device = device_for(backend, OP)
    shapes = (shape, (shape[0], shape[1], *keys), (shape[0], channels, *keys))
    clips = [torch.randn(s, device=device, requires_grad=True) for s in shapes]
    weights = {name: w.float().to(device).requires_grad_() for name, w in weights_for(kind, shape[1]).items()}
    y = ops.nonlocal_attention(*clips, kind=kind, **weights, backend=backend)
    assert y.shape == (shape[0], channels, *shape[2:])
    assert not y.any()
    y.sum().backward()
    for leaf in (*clips, *weights.values()):
        assert leaf.grad is not None
        assert not leaf.grad.any()


@pytest.mark.parametrize("backend", EVERY_BACKEND)
def test_zero_vectors_have_no_cosine(backend: str) -> None:
    device = device_for(backend, OP)
    query, key, value = (make((1, 3, 1, 2, 3), i).float().to(device) for i in range(3))
    query[:, :, 0, 1, 1] = 0
    key[:, :, 0, 0] = 0
    leaves = [x.requires_grad_() for x in (query, key, value)]
    y = ops.nonlocal_attention(*leaves, kind="cosine", backend=backend)
    assert not y[:, :, 0, 1, 1].any()
    y.square().sum().backward()
    assert query.grad is not None
    assert key.grad is not None
    assert not query.grad[:, :, 0, 1, 1].any()
    assert not key.grad[:, :, 0, 0].any()
    assert key.grad.isfinite().all()
    tiny = [x.detach() * 1e-30 for x in (query, key)]
    same = ops.nonlocal_attention(*tiny, value, kind="cosine", backend=backend)
    torch.testing.assert_close(same, y)


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck_of_every_kind(backend: str, kind: str) -> None:
    device = device_for(backend, OP)
    shapes = ((1, 2, 1, 2, 3), (1, 2, 2, 1, 2), (1, 3, 2, 1, 2))
    clips = [make(s, i).to(device).requires_grad_() for i, s in enumerate(shapes)]
    weights = [w.to(device).requires_grad_() for w in weights_for(kind, 2).values()]

    def f(q: Tensor, k: Tensor, v: Tensor, *w: Tensor) -> Tensor:
        named = dict(zip(("query_weight", "key_weight"), w, strict=False))
        return ops.nonlocal_attention(q, k, v, kind=kind, **named, backend=backend)

    assert torch.autograd.gradcheck(f, (*clips, *weights), fast_mode=interpreted(backend))
    if backend == "reference":
        assert torch.autograd.gradgradcheck(f, (*clips, *weights))


@pytest.mark.parametrize("backend", EVERY_BACKEND)
@pytest.mark.parametrize("layout", ["NCTHW", "NTCHW", "NTHWC"])
@pytest.mark.parametrize("over", ["all", "space", "time"])
@pytest.mark.parametrize("pixels", [1, 6])
def test_the_result_lies_as_the_query_does(backend: str, layout: str, over: str, pixels: int) -> None:
    device = device_for(backend, OP)
    query, value = (make((2, c, 3, pixels // 2 or 1, 2), c).float() for c in (4, 5))
    query, value = in_layout(query, layout).to(device), value.to(device)
    y = ops.nonlocal_attention(query, query, value, over=over, backend=backend)
    assert y.is_contiguous() == (layout == "NCTHW")
    assert layout_of(y) == layout


@pytest.mark.parametrize("backend", FAST)
def test_random_calls(backend: str) -> None:
    device = device_for(backend, OP)

    @random_examples(backend, device)
    @given(
        clips=st.integers(1, 2),
        size=st.tuples(*[st.integers(1, m) for m in (3, 5, 9)]),
        keys=st.tuples(*[st.integers(1, m) for m in (3, 5, 9)]),
        channels=st.tuples(st.integers(1, 40), st.integers(1, 40)),
        kind=st.sampled_from(KINDS),
        over=st.sampled_from(["all", "space", "time"]),
        layout=st.sampled_from(LAYOUTS),
        dtype=st.sampled_from(DTYPES),
    )
    def check(
        clips: int,
        size: Any,
        keys: Any,
        channels: tuple[int, int],
        kind: str,
        over: str,
        layout: str,
        dtype: Any,
    ) -> None:
        d, e = channels
        keys = {"all": keys, "space": (size[0], *keys[1:]), "time": (keys[0], *size[1:])}[over]
        shapes = ((clips, d, *size), (clips, d, *keys), (clips, e, *keys))
        given = [in_layout((make(s, i) / d**0.25).to(dtype), layout) for i, s in enumerate(shapes)]
        weights = [w.to(dtype) for w in weights_for(kind, d).values()]

        def f(q: Tensor, k: Tensor, v: Tensor, *w: Tensor, backend: str) -> Tensor:
            named = dict(zip(("query_weight", "key_weight"), w, strict=False))
            return ops.nonlocal_attention(q, k, v, kind=kind, over=over, **named, backend=backend)

        compare(f, [*given, *weights], backend, device)

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_runs_under_autocast(kind: str) -> None:
    """Products in fp32 are not rounded to autocast's dtype on the way."""
    clips = [make((1, 4, 2, 5, 5), i).float() for i in range(3)]
    weights = {name: w.float() for name, w in weights_for(kind, 4).items()}
    for backend in ("reference", None):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = ops.nonlocal_attention(*clips, kind=kind, **weights, backend=backend)
        low = [x.bfloat16() for x in clips]
        lows = {name: w.bfloat16() for name, w in weights.items()}
        assert torch.equal(y, ops.nonlocal_attention(*low, kind=kind, **lows, backend=backend))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("over", ["all", "space", "time"])
def test_compiles_in_one_graph_and_exports(kind: str, over: str) -> None:
    clips = [make((1, 4, 2, 3, 3), i).float() for i in range(3)]
    weights = {name: w.float() for name, w in weights_for(kind, 4).items()}

    class Net(torch.nn.Module):
        def forward(self, *x: Tensor) -> Tensor:
            return ops.nonlocal_attention(*x, kind=kind, over=over, **weights).sin()

    net = Net()
    torch._dynamo.reset()
    expected = net(*clips)
    torch.testing.assert_close(torch.compile(net, fullgraph=True, backend="aot_eager")(*clips), expected)
    torch.testing.assert_close(torch.export.export(net, tuple(clips)).module()(*clips), expected)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_goes_where_it_goes_by_definition(backend: str, kind: str, value: float) -> None:
    device = device_for(backend, OP)
    weights = {name: w.float().to(device) for name, w in weights_for(kind, 3).items()}
    clips = {
        "query": make((1, 3, 1, 2, 3)),
        "key": make((1, 3, 2, 1, 4), 1),
        "value": make((1, 4, 2, 1, 4), 2),
    }
    for where in (*clips, "grad"):
        given = {name: x.float() for name, x in clips.items()} | {"grad": make((1, 4, 1, 2, 3), 3).float()}
        given[where][0, 1, 0, 0, 1] = value
        results = []
        for run in ("reference", backend):
            leaves = [given[name].clone().to(device).requires_grad_() for name in clips]
            y = ops.nonlocal_attention(*leaves, kind=kind, **weights, backend=run)
            results.append([y, *torch.autograd.grad(y, leaves, given["grad"].to(device))])
        for name, ours, expected in zip(("y", *clips), *results[::-1], strict=True):
            assert torch.equal(ours.isfinite(), expected.isfinite()), f"{value} in {where}: {name}"


def test_keys_that_all_are_minus_infinity_but_one() -> None:
    """Whole blocks of keys have the weight zero, and no maximum."""
    query, key, value = make((1, 1, 1, 1, 3)).abs(), make((1, 1, 1, 30, 30), 1), make((1, 2, 1, 30, 30), 2)
    key[...] = -math.inf
    for place in (0, 450, 899):
        one = key.clone()
        one[0, 0, 0, place // 30, place % 30] = 1
        for backend in ("reference", None):
            y = ops.nonlocal_attention(query, one, value, backend=backend)
            torch.testing.assert_close(y, value.flatten(2)[:, :, place, None].expand(1, 2, 3).view_as(y))
    assert ops.nonlocal_attention(query, key, value).isnan().all()
