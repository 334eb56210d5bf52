"""What values a process uses, on GPUs that are not there."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import vidops
from vidops._command import is_command
from vidops.ops.backends import BACKENDS, OPERATORS, PREFERENCE
from vidops.tuning import KNOBS, Knob, in_use, write_tuning

from .test_files import tuning

H200 = SimpleNamespace(name="NVIDIA H200", major=9, minor=0)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A PyTorch with CUDA that has not started; what starts it on an H200."""
    queued: list[Any] = []
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "_queued_calls", queued)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: H200)

    def start() -> None:
        for call, _ in queued:
            call()

    return start


def test_nothing_is_applied_before_cuda_starts(
    cuda: Callable[[], None], knob: Knob[int], tmp_path: Path
) -> None:
    path = tmp_path / "h200.json"
    write_tuning(path, tuning("NVIDIA H200", values={knob.key: 16}))
    in_use.arrange({in_use.VARIABLE: str(path)})
    assert knob.value == 8
    assert in_use.state().text == f"built-in values: no GPU is in use, on which {path} would be"
    cuda()
    assert knob.value == 16
    expected = f"values measured on NVIDIA H200, 2026-01-02 ({path}): 1 values, 0 orders of backends"
    assert in_use.state().text == expected


def test_where_nothing_was_measured_built_in_values_stay(
    cuda: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_use, "shipped", lambda: [tuning("NVIDIA A100", "8.0")])
    in_use.arrange({})
    cuda()
    assert in_use.state().text == "built-in values: no measurement of NVIDIA H200 is shipped"
    assert in_use.state().tuning is None


def test_a_shipped_measurement_is_chosen(
    cuda: Callable[[], None], knob: Knob[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [tuning("NVIDIA A100", "8.0", values={knob.key: 4}), tuning("NVIDIA H100", values={knob.key: 16})]
    monkeypatch.setattr(in_use, "shipped", lambda: found)
    in_use.arrange({in_use.VARIABLE: "none"})
    cuda()
    assert (knob.value, in_use.state().text) == (8, "built-in values: VIDOPS_TUNING=none")
    in_use.arrange({})
    cuda()
    assert knob.value == 16
    assert "measured on NVIDIA H100" in in_use.state().text


def test_a_named_file_comes_before_shipped_ones(
    cuda: Callable[[], None], knob: Knob[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "own.json"
    write_tuning(path, tuning("NVIDIA H200", date="2026-01-01", values={knob.key: 4}))
    later = tuning("NVIDIA H200", date="2026-09-01", values={knob.key: 16})
    monkeypatch.setattr(in_use, "shipped", lambda: [later])
    in_use.arrange({in_use.VARIABLE: str(path)})
    cuda()
    assert knob.value == 4


def test_a_file_of_another_gpu_is_refused(cuda: Callable[[], None], tmp_path: Path) -> None:
    path = tmp_path / "a100.json"
    write_tuning(path, tuning("NVIDIA A100", "8.0"))
    in_use.arrange({in_use.VARIABLE: str(path)})
    reason = r"a100\.json was measured on NVIDIA A100, compute capability 8\.0, and this is NVIDIA H200, 9\.0"
    with pytest.raises(ValueError, match=reason):
        cuda()


def test_a_bad_file_is_an_error_at_import(tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    path.write_text("{}")
    done = subprocess.run(
        [sys.executable, "-c", "import vidops"], capture_output=True, text=True,
        env=os.environ | {in_use.VARIABLE: str(path)},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith(
        f"ValueError: VIDOPS_TUNING: {path} holds no measured values; `vidops tune` writes files that do"
    )


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        (in_use.VARIABLE, "none.json", "VIDOPS_TUNING: none.json cannot be read: No such file or directory"),
        ("VIDOPS_CPU_LEVEL", "sse", "VIDOPS_CPU_LEVEL='sse' is not one of baseline, avx2, avx512"),
    ],
)
def test_a_bad_setting_is_one_line_of_a_command(setting: str, value: str, reason: str) -> None:
    command = [sys.executable, "-m", "vidops", "info"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {setting: value})
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"vidops: error: {reason}\n")


def test_a_damaged_file_is_told_without_a_chain(tmp_path: Path) -> None:
    path = tmp_path / "half.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"half\.json is damaged or no JSON") as caught:
        in_use.arrange({in_use.VARIABLE: str(path)})
    assert caught.value.__suppress_context__


def test_who_is_a_command() -> None:
    python = ["python", "-X", "dev", "-m"]
    assert is_command(["-m", "info"], [*python, "vidops", "info"])
    assert is_command(["/usr/bin/vidops", "info"], ["python", "/usr/bin/vidops", "info"])
    assert not is_command(["-m", "vidops"], [*python, "other", "vidops"])
    assert not is_command(["-m", "info", "--traceback"], [*python, "vidops", "info", "--traceback"])
    assert not is_command(["-c"], ["python", "-c", "import vidops"])


def test_what_there_is_no_more_is_told(knob: Knob[int], caplog: pytest.LogCaptureFixture) -> None:
    values = {knob.key: 16, "temporal_shift/triton/gone": 3, "temporal_conv/abacus/beads": 3, "old": 1}
    orders = {"optical_flow": ["cuda", "triton"], "resize": ["cuda", "abacus"]}
    made = [tuning(values=values, orders=orders), tuning(values={knob.key: 7})]
    with caplog.at_level(logging.WARNING, logger="vidops"):
        told = in_use.apply(made[0]).told
    if not BACKENDS["triton"].missing:
        assert told[0] == "there is no knob temporal_shift/triton/gone"
    assert told[-4:] == [
        "there is no knob temporal_conv/abacus/beads", "there is no knob old", "there is no operator optical_flow",
        "resize: cuda, abacus is no order of cuda, triton",
    ]  # fmt: skip
    assert len(caplog.records) == len(told)
    assert knob.value == 16
    assert "1 values, 0 orders" in in_use.state().text
    knob.set(8)
    assert in_use.apply(made[1]).told == [f"{knob.key} must be one of 4, 8, 16, got 7"]
    assert knob.value == 8


def test_knobs_of_a_backend_that_is_not_here_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BACKENDS["cuda"], "missing", "not built")
    assert in_use.apply(tuning(values={"temporal_shift/cuda/gone": 3})).told == []


def test_an_order_of_backends_is_the_operators_own(monkeypatch: pytest.MonkeyPatch) -> None:
    shift, conv = OPERATORS["temporal_shift"], OPERATORS["temporal_conv"]
    for operator in (shift, conv):
        for backend in ("cuda", "triton"):
            monkeypatch.setitem(operator.missing, backend, "")
        operator.prefer("cuda", None)
    in_use.apply(tuning("NVIDIA H200", orders={"temporal_shift": ["triton", "cuda"]}))
    assert shift.order("cuda") == ("triton", "cuda", "reference")
    assert conv.order("cuda") == PREFERENCE["cuda"]
    x = torch.zeros(1, 8, 4, 2, 2)
    assert [op.choose(None, "cuda", x) for op in (shift, conv)] == ["triton", "cuda"]
    assert shift.choose(None, "cpu", x) == conv.choose(None, "cpu", x)
    in_use.withdraw()
    assert shift.choose(None, "cuda", x) == "cuda"


def test_explain_shows_a_measured_order() -> None:
    x = torch.zeros(1, 8, 4, 2, 2, device="meta")
    OPERATORS["temporal_shift"].prefer("cuda", ["triton", "cuda"], by="NVIDIA H200")
    assert "measured" not in vidops.explain("temporal_shift", x)
    fake = torch._subclasses.FakeTensorMode()
    with fake:
        y = torch.zeros(1, 8, 4, 2, 2, device="cuda")
    told = vidops.explain("temporal_shift", y)
    assert "tried in the order measured on NVIDIA H200: triton, cuda, reference" in told
    in_use.withdraw()
    assert "measured" not in vidops.explain("temporal_shift", y)


def test_a_measured_order_is_traced_without_a_break_and_guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = OPERATORS["temporal_shift"]
    for backend in ("cuda", "triton"):
        monkeypatch.setitem(operator.missing, backend, "")
    operator.prefer("cuda", None)
    torch._dynamo.reset()

    @torch.compile(fullgraph=True, backend="eager")
    def chosen(x: torch.Tensor) -> torch.Tensor:
        return x + BACKENDS_BY_NUMBER.index(operator.choose(None, "cuda", x))

    x = torch.zeros(())
    assert chosen(x) == BACKENDS_BY_NUMBER.index("cuda")
    operator.prefer("cuda", ["triton", "cuda"])
    assert chosen(x) == BACKENDS_BY_NUMBER.index("triton")


BACKENDS_BY_NUMBER = list(BACKENDS)


def test_a_library_without_knobs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def knobs() -> None:
        raise AttributeError("undefined symbol: vidops_tunables")

    monkeypatch.setattr(in_use, "_told", [])
    monkeypatch.setattr(in_use.native, "knobs", knobs)
    in_use.take_native()
    told = (
        "the CUDA library has no knobs (undefined symbol: vidops_tunables); it is older than the Python code"
    )
    assert in_use.state().told == [f"{told}: reinstall vidops"]
    assert in_use.apply(tuning()).told == in_use.state().told


def test_info_says_what_is_in_use(knob: Knob[int]) -> None:
    from vidops.cli import info

    assert "  tuning     built-in values: " in info.format_report(info.collect())
    in_use.apply(tuning("NVIDIA H200", values={knob.key: 16, "old": 1}))
    report = json.loads(json.dumps(info.collect()))
    assert report["tuning"]["values"] == {knob.key: 16}
    assert report["tuning"]["machine"]["gpu"] == "NVIDIA H200"
    text = " ".join(info.format_report(report).split())
    assert "tuning values measured on NVIDIA H200, 2026-01-02: 1 values, 0 orders of backends;" in text
    assert "there is no knob old" in text
    assert KNOBS[knob.key].value == 16
