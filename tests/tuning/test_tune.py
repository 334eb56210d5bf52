"""``vidops tune``: rehearsed in Triton's interpreter."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from vidops.bench import load_benchmarks
from vidops.cli import main
from vidops.ops.backends import BACKENDS
from vidops.tuning import KNOBS, Knob, Tuning, in_use, read_tuning, write_tuning
from vidops.tuning.measure import Bench
from vidops.tuning.search import Ratio, Timer
from vidops.tuning.tune import Options, Plan, plan, tune

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@NO_GPU
@pytest.mark.skipif(bool(BACKENDS["triton"].missing), reason="Triton is not here")
def test_a_rehearsal_runs_everything_and_its_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new.json"
    assert main(["tune", "temporal_descriptor", "--rehearse", "--out", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "a rehearsal: these figures mean nothing" in printed
    assert f"2 values, 0 orders of backends: {path}" in printed
    found = read_tuning(path, rehearsal=True)
    assert set(found.values) == {key for key in KNOBS if key.startswith("temporal_descriptor/triton/")}
    assert all(KNOBS[key].value == KNOBS[key].default for key in KNOBS)
    tried = [step for step in found.measured if step["knob"] == "temporal_descriptor/triton/warps"]
    assert set(tried[0]["tried"]) == {"1", "4"}
    assert all(t["typical"] > 0 and t["groups"] == 2 for t in tried[0]["tried"].values())
    with pytest.raises(ValueError, match="is of a rehearsal"):
        in_use.arrange({in_use.VARIABLE: str(path)})


@NO_GPU
@pytest.mark.skipif(bool(BACKENDS["triton"].missing), reason="Triton is not here")
def test_a_limit_is_kept_and_what_it_left_out_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new.json"
    assert main(["tune", "resize", "--rehearse", "--limit", "1e-9", "--out", str(path)]) == 0
    content = json.loads(path.read_text())
    keys = sorted(key for key in KNOBS if key.startswith("resize/triton/"))
    assert (content["values"], sorted(content["not_reached"])) == ({}, keys)
    assert "not reached: resize/triton/bytes" in capsys.readouterr().out


@NO_GPU
@pytest.mark.skipif(bool(BACKENDS["triton"].missing), reason="Triton is not here")
def test_a_rehearsal_turns_the_interpreter_on_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    path = tmp_path / "new.json"
    assert main(["tune", "resize", "--rehearse", "--quick", "--limit", "1e-9", "--out", str(path)]) == 0
    assert read_tuning(path, rehearsal=True).not_reached
    assert "a rehearsal: these figures mean nothing" in capfd.readouterr().out
    assert main(["tune", "flow", "--rehearse", "--out", str(path)]) == 2
    assert capfd.readouterr().err == "vidops tune: error: no operator is called like 'flow'\n"


@NO_GPU
def test_without_a_gpu_nothing_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new.json"
    assert main(["tune", "--out", str(path)]) == 2
    assert "no GPU is visible; --rehearse runs everything but the measurement" in capsys.readouterr().err
    assert not path.exists()


def test_what_fails_when_cuda_starts_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def starts(options: Options) -> None:
        raise torch.cuda.DeferredCudaCallError(
            "CUDA call failed lazily at initialization with error: VIDOPS_TUNING: a.json was measured on A\n\nplaces"
        )

    monkeypatch.setattr("vidops.tuning.tune.plan", starts)
    command = ["tune", "--out", str(tmp_path / "new.json")]
    assert main(command) == 2
    reason = "CUDA call failed lazily at initialization with error: VIDOPS_TUNING: a.json was measured on A"
    assert capsys.readouterr().err == f"vidops tune: error: {reason}\n"
    with pytest.raises(torch.cuda.DeferredCudaCallError):
        main([*command, "--traceback"])


@pytest.mark.parametrize(
    ("out", "reason"), [(".", "is a folder; name a file"), ("none/new.json", "there is no folder")]
)
def test_the_path_is_checked_first(
    out: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", "--rehearse", "--out", str(tmp_path / out)]) == 2
    assert reason in capsys.readouterr().err


def test_a_bad_pattern_or_limit_is_named() -> None:
    with pytest.raises(ValueError, match="no operator is called like 'flow'"):
        plan(Options("flow"))
    with pytest.raises(ValueError, match="limit must be above 0 seconds, got -1"):
        plan(Options(limit=-1))


@NO_GPU
@pytest.mark.skipif(bool(BACKENDS["triton"].missing), reason="Triton is not here")
@pytest.mark.parametrize("end", [KeyboardInterrupt, RuntimeError])
def test_a_run_that_ends_before_its_time_leaves_what_it_found(
    end: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = Bench.compare

    def ends(bench: Bench, *args: Any, **kwargs: Any) -> Any:
        if bench.benchmark.operator == "temporal_shift":
            KNOBS["temporal_shift/triton/frames"].set(2)
            raise end("in the middle")
        return compare(bench, *args, **kwargs)

    monkeypatch.setattr(Bench, "compare", ends)
    path = tmp_path / "new.json"
    options = Options("temporal_[ds]*", rehearsal=True)
    plans = plan(options)
    assert [each.benchmark.operator for each in plans] == ["temporal_descriptor", "temporal_shift"]
    with pytest.raises(end, match="in the middle"):
        tune(options, kept=functools.partial(write_tuning, path), plans=plans)
    found = read_tuning(path, rehearsal=True)
    assert set(found.values) == {key for key in KNOBS if key.startswith("temporal_descriptor/triton/")}
    assert list(found.not_reached) == [key for key in KNOBS if key.startswith("temporal_shift/triton/")]
    assert all(knob.value == knob.default for knob in KNOBS.values())


def test_the_order_is_measured_at_the_values_found_and_each_part_has_its_share_of_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    knobs = {
        backend: Knob("temporal_shift", backend, "spare", 8, (4, 8, 16)) for backend in ("cuda", "triton")
    }
    best = {"cuda": "4", "triton": "16"}
    limits: list[float] = []

    def compare(bench: Bench, backend: str, settings: Any, timer: Timer) -> dict[str, Ratio]:
        limits.append(timer.left())
        return {name: Ratio(0.5, 0.6, 1) for name in settings if name == best[backend]}

    def ordered(bench: Bench, values: Any, timer: Timer) -> tuple[list[str], dict[str, Ratio]]:
        limits.append(timer.left())
        assert values == {b: {knob.key: int(best[b])} for b, knob in knobs.items()}
        return ["triton", "cuda"], {"triton": Ratio(0.5, 0.6, 1)}

    monkeypatch.setattr(Bench, "compare", compare)
    monkeypatch.setattr("vidops.tuning.tune.order", ordered)
    plans = [Plan(load_benchmarks()["temporal_shift"], {b: [knob] for b, knob in knobs.items()})]
    so_far: list[Tuning] = []
    found = tune(Options(limit=90, rehearsal=True), plans=plans, kept=so_far.append)
    assert limits == pytest.approx([30, 45, 90], abs=5)
    assert found.values == {knob.key: int(best[b]) for b, knob in knobs.items()}
    assert found.orders == {"temporal_shift": ["triton", "cuda"]}
    rest = ["temporal_shift/triton/spare", "temporal_shift: order of cuda, triton"]
    assert [list(part.not_reached) for part in so_far] == [rest, rest[1:], []]
    assert [len(part.values) for part in so_far] == [1, 2, 2]
