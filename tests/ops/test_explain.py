"""explain: the operator's own checks, its keywords, and what no kernel runs."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

import vidops
from tests.ops.common import device_for
from vidops import ops

X = torch.randn(1, 8, 4, 2, 2)


def test_a_line_a_backend(capsys: pytest.CaptureFixture[str]) -> None:
    device_for("cpu", "temporal_conv")
    text = vidops.explain("temporal_conv", X)
    assert capsys.readouterr().out == ""
    lines = text.splitlines()
    assert lines[0] == "temporal_conv on cpu: backend 'cpu' is chosen"
    assert [line.split()[0] for line in lines[1:5]] == ["reference", "cpu", "cuda", "triton"]
    assert [line for line in lines if line.endswith("<- chosen")] == ["  cpu        yes  <- chosen"]
    assert any(line.startswith("  cuda       no: ") for line in lines)
    assert lines[-1] == "  as far as x tells, without weight"
    with vidops.use_backend("cuda"):
        text = vidops.explain("temporal_conv", X)
    assert "cannot run on backend 'cuda'" in text
    assert "(by vidops.use_backend)" in text


@pytest.mark.parametrize(
    ("name", "args", "keywords", "error", "text"),
    [
        ("convolution", (X,), {}, ValueError, "operator must be one of .*attention_map.*temporal_shift"),
        ("temporal_shfit", (X,), {}, ValueError, "did you mean temporal_shift"),
        ("temporal_shift", (X[0],), {}, ValueError, r"^x must be a clip \(N, C, T, H, W\), got 4 dimensions"),
        ("temporal_shift", (X.int(),), {}, TypeError, "^x must be float32, .* got torch.int32"),
        ("temporal_conv", (X.int(),), {}, TypeError, "^x must be float32, .* got torch.int32"),
        ("resize", ("x",), {}, TypeError, "^x must be a Tensor, got str"),
        ("resize", (), {}, TypeError, "^resize: x is missing"),
        ("resize", (X, 0), {}, ValueError, "^size must be "),
        ("temporal_shift", (X,), {"fold_div": 1}, ValueError, "^fold_div must be at least 2, got 1"),
        ("temporal_shift", (X,), {"fold": 1}, TypeError, "keyword argument 'fold'; it takes x, fold_div, backend"),
        ("nonlocal_attention", (X, X, X), {"kind": "softmax"}, ValueError, "^kind must be one of gaussian"),
        ("nonlocal_attention", (X, X[:, :3], X), {}, ValueError, "^key must have the clips and channels"),
        ("region_aggregate", (X,), {}, ValueError, "^weight is required with kind 'conv'"),
        ("region_attention", (X,), {}, TypeError, "^region_attention needs value, too"),
    ],
)  # fmt: skip
def test_what_the_operator_refuses_is_refused(
    name: str, args: tuple[Any, ...], keywords: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        vidops.explain(name, *args, **keywords)
    assert ops.temporal_shift(X).shape == X.shape  # nothing of the question stays behind


def test_keywords_and_a_backend_that_is_asked_for() -> None:
    assert "temporal_shift on cpu: backend" in vidops.explain("temporal_shift", x=X, fold_div=4)
    text = vidops.explain("temporal_shift", X, backend="reference")
    assert text.startswith("temporal_shift on cpu: backend 'reference' is chosen")
    assert "cannot run on backend 'cuda'" in vidops.explain("temporal_shift", X, backend="cuda")


def test_limits_see_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    device_for("cpu", "nonlocal_attention")
    operator = ops.backends.OPERATORS["nonlocal_attention"]
    monkeypatch.setitem(operator.limits, "cpu", operator.limits["cuda"])
    wide = torch.zeros(1, 1025, 1, 1, 2)
    assert "cpu        no: query has 1025 channels" in vidops.explain("nonlocal_attention", wide, wide, wide)
    assert "cpu        yes" in vidops.explain("nonlocal_attention", wide, wide, wide, kind="dot")


def test_nothing_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = ops.backends.OPERATORS["nonlocal_attention"]
    monkeypatch.setattr(operator, "kernels", {})
    monkeypatch.setattr(operator, "reference", None)
    x = torch.zeros(1, 1, 1, 1000, 1000)  # a million million pairs
    for kind in ("gaussian", "dot"):
        assert "on cpu" in vidops.explain("nonlocal_attention", x, x, x, kind=kind)


def test_what_no_kernel_runs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    device_for("cpu", "nonlocal_attention")
    dot = vidops.explain("nonlocal_attention", X, X, X, kind="dot")
    assert dot.endswith("'dot' is two products of PyTorch's own there, q (kt v)")
    assert "two products" not in vidops.explain(
        "nonlocal_attention", X, X, X, kind="dot", backend="reference"
    )
    assert "two products" not in vidops.explain("nonlocal_attention", X, X, X)
    text = vidops.explain("attention_map", X, X, (0, 1, 1))
    assert text == "attention_map on cpu: plain PyTorch on every device, no backend is chosen"
    with pytest.raises(ValueError, match=r"^point must lie in query's \(4, 2, 2\) positions"):
        vidops.explain("attention_map", X, X, (4, 1, 1))
    module = importlib.import_module("vidops.ops.nonlocal_attention")
    monkeypatch.setattr(module, "flash_serves", lambda *clips: True)
    assert "scaled_dot_product_attention runs it" in vidops.explain("nonlocal_attention", X, X, X)
    assert "scaled_dot" not in vidops.explain("nonlocal_attention", X, X, X, backend="cpu")


def test_functions_that_call_another_operator() -> None:
    device_for("cpu", "depthwise_conv3d")
    text = vidops.explain("region_aggregate", X, "avg", kernel_size=3)
    assert text.startswith("region_aggregate on cpu, by depthwise_conv3d: backend 'cpu' is chosen")
    text = vidops.explain("region_aggregate", X, "max", kernel_size=3)
    assert text.endswith("'max' is PyTorch's pooling on every backend")
    text = vidops.explain("region_attention", X, X)
    assert text.startswith("region_attention on cpu, by nonlocal_attention: ")


def test_a_function_stands_for_its_name() -> None:
    assert vidops.explain(vidops.ops.temporal_shift, X) == vidops.explain("temporal_shift", X)
    with pytest.raises(ValueError, match=r"operator must be one of .*, got <built-in function len>"):
        vidops.explain(len, X)
    with pytest.raises(
        TypeError, match="temporal_conv: x is missing; give explain what a call would be given"
    ):
        vidops.explain("temporal_conv")
