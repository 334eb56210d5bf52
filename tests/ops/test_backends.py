from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import vidops
from tests.ops.common import device_for
from vidops.ops import backends

X = torch.randn(1, 8, 4, 2, 2)


# Imports torch once, and forks a process for each environment: vidops reads its own when it is imported.
EACH = """
import json, os, sys, torch
for number, env in enumerate(json.loads(sys.argv[1])):
    if (child := os.fork()) == 0:
        os.environ.update(env)
        for stream in (1, 2):
            os.dup2(os.open(f"{sys.argv[2]}/{number}.{stream}", os.O_CREAT | os.O_WRONLY), stream)
        break
    os.waitpid(child, 0)
else:
    sys.exit()
import vidops
x = torch.randn(1, 8, 4, 2, 2)
"""


def run(folder: Path, code: str, *environments: dict[str, str]) -> list[tuple[str, str]]:
    """Output and errors of a program in each environment."""
    subprocess.run(
        [sys.executable, "-c", EACH + code, json.dumps(environments), str(folder)],
        env=os.environ | {"TRITON_INTERPRET": "0"},
        check=True,
    )
    return [
        ((folder / f"{number}.1").read_text(), (folder / f"{number}.2").read_text())
        for number in range(len(environments))
    ]


def backend_of(y: torch.Tensor) -> str:
    return "reference" if "Cat" in type(y.grad_fn).__name__ else "kernel"


@pytest.mark.parametrize("name", ["fast", "CPU", ""])
def test_an_unknown_backend_is_named(name: str) -> None:
    with pytest.raises(
        ValueError, match=f"backend must be one of reference, cpu, cuda, triton.*got {name!r}"
    ):
        vidops.ops.temporal_shift(X, backend=name)
    with pytest.raises(ValueError, match=r"backend must be one of"), vidops.use_backend(name):
        pass


def test_a_backend_that_cannot_run_says_why() -> None:
    with pytest.raises(
        RuntimeError, match=r"temporal_shift cannot run on backend 'cuda': .*(not built|x is on cpu)"
    ):
        vidops.ops.temporal_shift(X, backend="cuda")


def test_argument_before_context_before_automatic() -> None:
    device_for("cpu", "temporal_shift")
    x = X.clone().requires_grad_()
    assert backend_of(vidops.ops.temporal_shift(x)) == "kernel"
    with vidops.use_backend("reference"):
        assert backend_of(vidops.ops.temporal_shift(x)) == "reference"
        assert backend_of(vidops.ops.temporal_shift(x, backend="cpu")) == "kernel"
        with vidops.use_backend(None):
            assert backend_of(vidops.ops.temporal_shift(x)) == "kernel"
        assert backend_of(vidops.ops.temporal_shift(x)) == "reference"
    with pytest.raises(KeyError), vidops.use_backend("reference"):
        raise KeyError
    assert backend_of(vidops.ops.temporal_shift(x)) == "kernel"


def test_the_environment_chooses_and_its_mistakes_are_named(tmp_path: Path) -> None:
    device_for("cpu", "temporal_shift")
    code = "x.requires_grad_(); print(type(vidops.ops.temporal_shift(x).grad_fn).__name__)"
    environments = [{"VIDOPS_BACKEND": name} for name in ("reference", "", "quick", "cuda")]
    reference, automatic, unknown, missing = run(tmp_path, code, *environments)
    assert "Cat" in reference[0]
    assert automatic[0]
    assert "Cat" not in automatic[0]
    assert "VIDOPS_BACKEND must be one of" in unknown[1]
    assert "cannot run on backend 'cuda'" in missing[1]


def test_an_automatic_fallback_is_told_once(caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    operator = backends.OPERATORS["temporal_shift"]
    monkeypatch.setitem(operator.missing, "cpu", "it was taken away for a test")
    monkeypatch.setattr(operator, "_automatic", {"cpu": ("reference",)})
    monkeypatch.setattr(operator, "_told", set())
    with caplog.at_level(logging.WARNING, logger="vidops"):
        vidops.ops.temporal_shift(X)
        vidops.ops.temporal_shift(X)
    assert [r.getMessage() for r in caplog.records] == [
        "temporal_shift falls back to backend 'reference' for cpu tensors (cpu: it was taken away for a test)"
    ]
    torch._dynamo.reset()
    monkeypatch.setattr(operator, "_told", set())
    torch.compile(lambda: vidops.ops.temporal_shift(X), fullgraph=True, backend="eager")()


def test_a_limit_of_a_backend_is_a_reason(monkeypatch: Any) -> None:
    operator = backends.OPERATORS["temporal_shift"]
    device_for("cpu", "temporal_shift")
    monkeypatch.setitem(operator.limits, "cpu", lambda x, fold: "too many folds" if fold > 2 else "")
    x = X.clone().requires_grad_()
    assert backend_of(vidops.ops.temporal_shift(x, 4)) == "kernel"
    assert backend_of(vidops.ops.temporal_shift(x, 2)) == "reference"
    with pytest.raises(RuntimeError, match=r"too many folds"):
        vidops.ops.temporal_shift(x, 2, backend="cpu")


LEVELS = ["baseline", "avx2", "avx512"]
LEVEL = """
from vidops._build import status
print(status()['cpu'].level)
torch.manual_seed(0)
groups = ((5, 1, 1), (9, 3, 1), (20, 7, 2))
limits = {torch.float32: 1e-5, torch.float64: 1e-13, torch.bfloat16: 2e-2, torch.float16: 3e-3}
for dtype, limit in limits.items():
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        x = torch.randn(2, 34, 8, 5, 7, dtype=dtype).to(memory_format=layout).requires_grad_()
        w = torch.randn(172, dtype=dtype, requires_grad=True)
        out = []
        for backend in ('cpu', 'reference'):
            y = vidops.ops.temporal_conv(x, w, groups=groups, backend=backend)
            out.append([y, *torch.autograd.grad(y.sum(), (x, w))])
        for a, b in zip(*out):
            assert (a - b).abs().max() <= limit * b.abs().max(), (dtype, layout)
        assert torch.equal(vidops.ops.temporal_shift(x), vidops.ops.temporal_shift(x, backend='reference'))
print("all is well")
"""


@pytest.fixture(scope="module")
def said_by_levels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """What a process of each level says."""
    found = run(tmp_path_factory.mktemp("levels"), LEVEL, *({"VIDOPS_CPU_LEVEL": level} for level in LEVELS))
    return dict(zip(LEVELS, found, strict=True))


@pytest.mark.parametrize("level", LEVELS)
def test_every_cpu_level_gives_the_reference(said_by_levels: dict[str, tuple[str, str]], level: str) -> None:
    device_for("cpu", "temporal_conv")
    out, errors = said_by_levels[level]
    assert out.endswith("all is well\n"), errors
    ran = out.splitlines()[0]
    if ran != level:
        pytest.skip(f"this processor has no {level}; {ran} ran instead")


@pytest.mark.parametrize("name", backends.OPERATORS)
def test_limits_of_calls_stand_against_no_backend_as_such(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for backend in backends.OPERATORS[name].limits:
        monkeypatch.setitem(backends.OPERATORS[name].missing, backend, "")
        assert backends.OPERATORS[name].why_not(backend, "cuda") == ""
