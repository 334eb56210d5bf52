"""What nonlocal_attention and attention_map refuse, and what they hand on."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from tests.ops.common import DTYPES, EVERY_BACKEND, FAST, device_for
from vidops import ops, use_backend
from vidops.ops.backends import BACKENDS, OPERATORS, Operator
from vidops.ops.nonlocal_attention import by_flash, flash_serves
from vidops.reference.nonlocal_attention import clip_of

OP = "nonlocal_attention"


def make(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


X = torch.zeros(1, 4, 2, 3, 3)
W = torch.zeros(4)
BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"query": X[0]}, ValueError, r"query must be a clip \(N, C, T, H, W\), got 4 dimensions"),
    ({"key": X[0]}, ValueError, r"key must be a clip \(N, C, T, H, W\), got 4 dimensions"),
    ({"value": X[0]}, ValueError, r"value must be a clip \(N, C, T, H, W\), got 4 dimensions"),
    ({"value": [1.0]}, TypeError, "value must be a Tensor, got list"),
    ({"key": X.int()}, TypeError, "key must be float32.*int32"),
    ({"key": X.double()}, TypeError, "key must have the dtype of query, torch.float32, got torch.float64"),
    ({"value": X.half()}, TypeError, "value must have the dtype of query, torch.float32, got torch.float16"),
    ({"key": X.to("meta")}, ValueError, "key must be on the device of query, cpu, got meta"),
    ({"query": X[:, :0], "key": X[:, :0]}, ValueError, "query must have channels"),
    ({"key": X[:, :3]}, ValueError, r"key must have the clips and channels of query, \(1, 4\), got \(1, 3\)"),
    ({"key": X[:0]}, ValueError, r"key must have the clips and channels of query, \(1, 4\), got \(0, 4\)"),
    ({"value": X[:, :, :1]}, ValueError, r"value must have .* of the keys, \(1, E, 2, 3, 3\), got"),
    ({"value": X[:0]}, ValueError, r"value must have .* of the keys, \(1, E, 2, 3, 3\), got \(0"),
    (
        {"key": X[:, :, :1], "value": X[:, :, :1], "over": "space"},
        ValueError,
        "key must have the frames of query, 2, over space, got 1",
    ),
    (
        {"key": X[..., :1], "value": X[..., :1], "over": "time"},
        ValueError,
        "key must have frames of the size of query's, 3 x 3, over time, got 3 x 1",
    ),
    ({"kind": "softmax"}, ValueError, "kind must be one of gaussian.*, got 'softmax'"),
    ({"kind": None}, TypeError, "kind must be a str, got NoneType"),
    ({"over": "frames"}, ValueError, "over must be one of all, space, time, got 'frames'"),
    ({"over": 1}, TypeError, "over must be a str, got int"),
    ({"scale": "1"}, TypeError, "scale must be a number or None, got str"),
    ({"scale": True}, TypeError, "scale must be a number or None, got bool"),
    ({"scale": math.inf}, ValueError, "scale must be finite, got inf"),
    ({"scale": 0.5, "kind": "dot"}, ValueError, "scale must be None with kind 'dot', got 0.5"),
    ({"query_weight": W}, ValueError, "query_weight must be None with kind 'gaussian'"),
    ({"key_weight": W, "kind": "cosine"}, ValueError, "key_weight must be None with kind 'cosine'"),
    ({"kind": "concatenation"}, ValueError, r"query_weight is required with kind 'concatenation': \(4,\)"),
    (
        {"kind": "concatenation", "query_weight": W},
        ValueError,
        r"key_weight is required with kind 'concatenation': \(4,\)",
    ),
    (
        {"kind": "concatenation", "query_weight": W[:3], "key_weight": W},
        ValueError,
        r"query_weight must have shape \(4,\), got \(3,\)",
    ),
    (
        {"kind": "concatenation", "query_weight": W, "key_weight": W.double()},
        TypeError,
        "key_weight must have the dtype of query",
    ),
    ({"kind": "concatenation", "query_weight": 1.0}, TypeError, "query_weight must be a Tensor, got float"),
    ({"backend": "gpu"}, ValueError, "backend must be one of"),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD, ids=[text[:40] for _, _, text in BAD])
def test_bad_arguments(change: dict[str, Any], error: type[Exception], text: str) -> None:
    for backend in EVERY_BACKEND:
        if backend not in BACKENDS or OPERATORS[OP].why_not(backend, "cpu"):
            continue
        call = {"query": X, "key": X, "value": X, "backend": backend} | change
        with pytest.raises(error, match=f"^{text}"):
            ops.nonlocal_attention(**call)


@pytest.mark.parametrize(
    ("point", "error", "text"),
    [
        ((0, 0), ValueError, r"point must be three ints \(t, y, x\), got 2"),
        ((0, 0, 1.0), TypeError, r"point must be three ints \(t, y, x\), got \(0, 0, 1.0\)"),
        (3, TypeError, r"point must be three ints \(t, y, x\), got 3"),
        ((0, 3, 0), ValueError, r"point must lie in query's \(2, 3, 3\) positions, got \(0, 3, 0\)"),
        ((-1, 0, 0), ValueError, "point must lie in query's"),
    ],
)
def test_points_that_are_none(point: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^{text}"):
        ops.attention_map(X, X, point)


def test_attention_maps_of_zero_sizes_and_of_their_dtype() -> None:
    assert ops.attention_map(X[:0], X[:0], (0, 0, 0)).shape == (0, 2, 3, 3)
    assert ops.attention_map(X, X[:, :, :0], (0, 0, 0)).shape == (1, 0, 3, 3)
    for dtype in DTYPES:
        seen = ops.attention_map(X.to(dtype), X.to(dtype), (1, 2, 2))
        assert seen.dtype == dtype
        torch.testing.assert_close(seen.sum(), torch.ones((), dtype=dtype))


@pytest.mark.parametrize("backend", [b for b in FAST if b != "triton"])
def test_registered_operators_refuse_what_would_read_past_the_end(backend: str) -> None:
    device = device_for(backend, OP)
    forward = OPERATORS[OP].kernels[backend].op
    backward = getattr(torch.ops, forward.namespace).nonlocal_attention_backward.default
    query, key, value, grad = (
        make(shape).to(device) for shape in ((2, 5, 3), (2, 4, 3), (2, 4, 6), (2, 5, 6))
    )
    bad: list[tuple[tuple[Tensor, Tensor, Tensor, int], str]] = [
        ((query[0], key, value, 0), "query must be contiguous tokens"),
        ((query, key.mT.contiguous().mT, value, 0), "key must be contiguous tokens"),
        ((query, key, value.double(), 0), "value must have the dtype of query"),
        ((query, key[:1], value, 0), "key must have shape"),
        ((query, key[:, :, :2].contiguous(), value, 0), "key must have shape"),
        ((query, key, value[:, :3].contiguous(), 0), "value must have shape"),
        ((query, key, value[:, :, :0].contiguous(), 0), "must not be empty"),
        ((query, key, value, 2), "query must have one channel with kind 2"),
        ((query, key, value, 3), "kind must be 0, 1 or 2"),
    ]
    for arguments, text in bad:
        with pytest.raises(RuntimeError, match=text):
            forward(*arguments, 1.0, False)
    out, lse = forward(query, key, value, 0, 1.0, False)
    for g, o, s, text in (
        (grad[:, :4].contiguous(), out, lse, "grad must have shape"),
        (grad.double(), out, lse, "grad must have the dtype of query"),
        (grad, out[:, :, :5].contiguous(), lse, "out must have shape"),
        (grad, out, lse[:1], "lse must have shape"),
        (grad, out, lse.double(), "lse must be"),
    ):
        with pytest.raises(RuntimeError, match=text):
            backward(g, query, key, value, o, s, 0, 1.0, False)


@pytest.mark.parametrize("compiled", [False, True])
def test_tf32_is_allowed_as_pytorch_is_told(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    device_for("cpu", OP)
    matmul = torch.backends.cuda.matmul
    x = make((1, 2, 1, 2, 2))
    seen = []
    kernel = OPERATORS[OP].kernels["cpu"]

    def spy(*arguments: Any) -> Any:
        seen.append(arguments[-1])
        return kernel(*arguments)

    def call(x: Tensor) -> Tensor:
        return ops.nonlocal_attention(x, x, x, backend="cpu")

    monkeypatch.setitem(OPERATORS[OP].kernels, "cpu", spy)
    torch._dynamo.reset()
    function = torch.compile(call, fullgraph=True, backend="eager") if compiled else call
    before = matmul.fp32_precision
    try:
        for precision in ("tf32", "ieee"):
            matmul.fp32_precision = precision
            function(x)
    finally:
        matmul.fp32_precision = before
    assert seen == [True, False]


def test_another_scale_leaves_a_compiled_graph_whole() -> None:
    x = torch.randn(1, 4, 2, 3, 3)
    compiled = torch.compile(
        lambda x, scale: ops.nonlocal_attention(x, x, x, scale=scale, backend="reference"),
        fullgraph=True,
        backend="aot_eager",
    )
    for scale in (0.1, 0.2, 0.3):
        torch.testing.assert_close(
            compiled(x, scale), ops.nonlocal_attention(x, x, x, scale=scale, backend="reference")
        )


def test_maps_under_autocast_cast_what_a_block_has_learned() -> None:
    x, weight = torch.randn(1, 4, 2, 3, 3), torch.randn(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weights = ops.attention_map(
            x, x, (0, 0, 0), kind="concatenation", query_weight=weight, key_weight=weight
        )
    low = [t.bfloat16() for t in (x, x, weight, weight)]
    expected = ops.attention_map(
        *low[:2], (0, 0, 0), kind="concatenation", query_weight=low[2], key_weight=low[3]
    )
    torch.testing.assert_close(weights, expected)


@pytest.mark.parametrize("kind", ["gaussian", "cosine", "concatenation", "dot"])
def test_keys_that_are_the_queries(kind: str) -> None:
    """They are made ready once, and both gradients come back."""
    device_for("cpu", "nonlocal_attention")
    x, v = torch.randn(2, 1, 5, 2, 3, 4, dtype=torch.float64)
    weights = {name: torch.randn(5, dtype=torch.float64) for name in ("query_weight", "key_weight")}
    options = {"kind": kind, "backend": "cpu", **(weights if kind == "concatenation" else {})}
    found = []
    for same in (True, False):
        q = x.clone().requires_grad_()
        out = ops.nonlocal_attention(q, q if same else q.clone(), v, **options)
        found.append((out, *torch.autograd.grad(out.square().sum(), q)))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("over", ["all", "space", "time"])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_flash_attention_is_the_gaussian_kind(over: str, scale: float | None) -> None:
    """What a GPU's automatic choice calls is tried here on the CPU."""
    q, k, v = torch.randn(3, 2, 8, 3, 4, 5, dtype=torch.float64)
    exact = ops.nonlocal_attention(q, k, v, over=over, scale=scale, backend="reference")
    tokens = by_flash(q, k, v, over, scale)
    torch.testing.assert_close(clip_of(tokens, q.shape, over), exact)


def test_flash_attention_serves_no_gradients_and_no_cpu() -> None:
    q = torch.randn(1, 8, 2, 3, 3, dtype=torch.float16)
    assert not flash_serves(q, q, q)
    on_gpu = SimpleNamespace(
        device=torch.device("cuda"), dtype=torch.float16, shape=q.shape, requires_grad=False
    )
    learning = SimpleNamespace(**{**vars(on_gpu), "requires_grad": True})
    wide = SimpleNamespace(**{**vars(on_gpu), "dtype": torch.float32})
    other = SimpleNamespace(**{**vars(on_gpu), "shape": torch.Size((1, 16, 2, 3, 3))})
    assert flash_serves(*cast("Any", (on_gpu, on_gpu, on_gpu)))
    for refused in (learning, wide, other):
        assert not flash_serves(*cast("Any", (refused, on_gpu, on_gpu)))
    with torch.no_grad():
        assert flash_serves(*cast("Any", (learning, on_gpu, on_gpu)))
    for chosen in ("cuda", None):
        with use_backend(chosen):
            assert Operator.automatic(None) == (chosen is None)
