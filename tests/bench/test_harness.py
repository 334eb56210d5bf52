"""The harness: no speed for wrong results, no verdict on a busy machine, reports that are whole."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from vidops.bench import Options, cases, load_benchmarks, run
from vidops.bench import machine as machine_module
from vidops.bench.cases import temporal_shift as shift_case
from vidops.bench.harness import plan
from vidops.bench.judge import FOREIGN_LOAD_LIMIT, relate
from vidops.bench.machine import LoadMeter, cache_bytes, describe, peak_growth
from vidops.bench.report import compare_lines, group_lines, grouped, read_report, summary_lines, write_report
from vidops.bench.timing import CpuClock, Effort, Timing, interleave
from vidops.cli import main

TINY = "temporal_shift/cpu/tiny"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """temporal_shift's case with one small size that is timed in no time."""
    workload = dataclasses.replace(
        shift_case.BENCHMARK.workloads[0],
        name="tiny",
        params={"shape": (1, 16, 4, 8, 8), "fold_div": 8},
        layouts=("NCTHW", "NTHWC"),
    )
    monkeypatch.setattr(
        shift_case, "BENCHMARK", dataclasses.replace(shift_case.BENCHMARK, workloads=(workload,))
    )
    monkeypatch.setattr(Options, "effort", lambda self: Effort(rounds=3, least=3, budget=0.01, sample=1e-5))
    monkeypatch.setattr(machine_module.LoadMeter, "_between", staticmethod(lambda start, end: 0.0))


def options(**more: Any) -> Options:
    return Options(**{"pattern": TINY, "backends": ("reference",), "threads": (1,), **more})


@pytest.mark.usefixtures("tiny")
def test_a_report_holds_every_figure() -> None:
    report = json.loads(json.dumps(run(options()), allow_nan=False))
    assert report["machine"]["versions"]["torch"] == torch.__version__
    assert report["ceilings"][0]["fma"] > 0
    assert [r[0]["direction"] for r in grouped(report)] == ["forward", "backward"]
    for records in grouped(report):
        assert {(r["variant"], r["layout"]) for r in records} == {
            ("reference", "NCTHW"),
            ("reference", "NTHWC"),
            ("slices", "NCTHW"),
            ("slices_last", "NTHWC"),
            ("cat", "NCTHW"),
        }
        for record in records:
            assert record["status"] == "ok"
            assert record["quartiles"][0] <= record["seconds"] <= record["quartiles"][1]
            assert record["bytes_per_second"] == pytest.approx(2 * 16384 / record["seconds"])
            assert record["floor_multiple"] == pytest.approx(record["seconds"] / record["floor_seconds"])
            assert record["error"] <= record["allowed_error"]
            assert ("copy_multiple" in record) == (record["direction"] == "forward")
        kernel = records[0]
        baselines = {r["variant"]: r["seconds"] for r in records if r["kind"] == "eager"}
        assert kernel["ratios"] == pytest.approx({n: s / kernel["seconds"] for n, s in baselines.items()})
        fastest = min(baselines, key=lambda name: baselines[name])
        assert kernel["best"]["eager"]["variant"] == fastest
        assert [t["verdict"] in ("met", "missed") for t in kernel["targets"]] == [True]


@pytest.mark.usefixtures("tiny")
def test_a_wrong_result_gets_no_speed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right = shift_case.BENCHMARK.call

    def call(params: Any, tensors: Any, backend: str | None) -> Any:
        result = right(params, tensors, backend)
        return result * 1.001 if backend == "cpu" else result

    monkeypatch.setattr(shift_case, "BENCHMARK", dataclasses.replace(shift_case.BENCHMARK, call=call))
    if plan(Options(TINY))[0].backends != ("cpu",):
        pytest.skip("the CPU kernels are not built")
    file = tmp_path / "report.json"
    assert main(["bench", TINY, "--backend", "cpu", "--threads", "1", "--json", str(file)]) == 1
    out = capsys.readouterr().out
    assert "WRONG: result 0 is off by" in out
    kernels = [r for r in read_report(file)["results"] if r["kind"] == "kernel"]
    assert len(kernels) == 4
    for record in kernels:
        assert record["status"] == "wrong"
        assert "seconds" not in record
        assert all(t["verdict"] == "missed" and t["value"] is None for t in record["targets"])
    assert not [line for line in out.splitlines() if line.startswith("  cpu") and "ms" in line]


@pytest.mark.usefixtures("tiny")
def test_an_unwritten_element_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = shift_case.BENCHMARK.call

    def call(params: Any, tensors: Any, backend: str | None) -> Any:
        if backend == "reference":
            return right(params, tensors, backend)
        result = torch.empty_like(tensors[0])
        result[:, :, 1:] = right(params, tensors, "reference")[:, :, 1:]
        return result

    monkeypatch.setattr(shift_case, "BENCHMARK", dataclasses.replace(shift_case.BENCHMARK, call=call))
    groups = plan(Options(TINY + "*forward"))
    if groups[0].backends != ("cpu",):
        pytest.skip("the CPU kernels are not built")
    report = run(Options(TINY + "*forward", ("cpu",), (1,)))
    assert {r["status"] for r in report["results"] if r["kind"] == "kernel"} == {"wrong"}


@pytest.mark.usefixtures("tiny")
def test_a_baseline_that_cannot_run_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(params: Any, tensors: Any) -> Any:
        raise RuntimeError("no such kernel\nmore")

    eager = {
        **shift_case.BENCHMARK.eager,
        "cat": dataclasses.replace(shift_case.BENCHMARK.eager["cat"], run=fail),
    }
    monkeypatch.setattr(shift_case, "BENCHMARK", dataclasses.replace(shift_case.BENCHMARK, eager=eager))
    records = run(options(pattern=TINY + "*forward"))["results"]
    assert [(r["status"], r["reason"]) for r in records if r["variant"] == "cat"] == [
        ("unavailable", "no such kernel")
    ]
    assert any("not run: no such kernel" in line for line in group_lines(records))


@pytest.mark.usefixtures("tiny")
def test_a_kernel_that_raises_is_wrong_and_the_others_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    right = shift_case.BENCHMARK.call

    def call(params: Any, tensors: Any, backend: str | None) -> Any:
        if backend == "cpu":
            raise RuntimeError("misaligned address")
        return right(params, tensors, backend)

    monkeypatch.setattr(shift_case, "BENCHMARK", dataclasses.replace(shift_case.BENCHMARK, call=call))
    if plan(Options(TINY))[0].backends != ("cpu",):
        pytest.skip("the CPU kernels are not built")
    report = run(Options(TINY + "*forward", ("cpu", "reference"), (1,)))
    found = {(r["variant"], r["status"], r["reason"]) for r in report["results"] if r["kind"] == "kernel"}
    assert found == {("cpu", "wrong", "misaligned address"), ("reference", "ok", "")}
    assert any("misaligned address" in line for line in summary_lines(report))


def kernel(**more: Any) -> dict[str, Any]:
    return {
        "status": "ok",
        "kind": "kernel",
        "variant": "cpu",
        "device": "cpu",
        "direction": "forward",
        "layout": "NCTHW",
        "threads": 1,
        "foreign_load": 0.0,
        "seconds": 1.0,
        "floor_multiple": 1.05,
        "copy_multiple": 1.5,
        **more,
    }


def eager(seconds: float, name: str = "conv3d") -> dict[str, Any]:
    return {**kernel(), "kind": "eager", "variant": name, "seconds": seconds}


def verdicts(record: dict[str, Any], *baselines: dict[str, Any]) -> list[str]:
    targets = load_benchmarks()["temporal_conv"].workloads[0].targets
    relate([record, *baselines], targets)
    return [t["verdict"] for t in record["targets"]]


def test_targets_are_judged() -> None:
    assert verdicts(kernel(), eager(8.1)) == ["met", "missed"]
    assert verdicts(kernel(copy_multiple=1.3), eager(7.9)) == ["missed", "met"]
    assert verdicts(kernel(layout="NTHWC"), eager(8.1)) == []
    # the named baseline counts, not the fastest one
    record = kernel()
    assert verdicts(record, eager(8.1), eager(2.0, "conv2d"))[0] == "met"
    assert record["best"]["eager"] == {"variant": "conv2d", "ratio": 2.0}
    assert verdicts(kernel())[0] == "not judged"


def test_a_busy_machine_is_not_judged() -> None:
    busy = kernel(foreign_load=FOREIGN_LOAD_LIMIT + 0.01)
    assert verdicts(busy, eager(9.0)) == ["not judged", "not judged"]
    assert "others kept 0.31 cores busy" in busy["targets"][0]["why"]
    assert verdicts(kernel(foreign_load=FOREIGN_LOAD_LIMIT), eager(9.0))[0] == "met"
    assert verdicts(kernel(foreign_load=None), eager(9.0))[0] == "not judged"
    assert verdicts(kernel(threads=4096), eager(9.0))[0] == "not judged"
    assert verdicts(kernel(device="cuda", foreign_load=3.0), eager(9.0))[0] == "met"


def test_variants_take_turns() -> None:
    order: list[str] = []

    class Clock:
        def sample(self, step: Any, calls: int) -> float:
            step()
            return {"fast": 1e-3, "slow": 1.0}[order[-1]]

    effort = Effort(rounds=10, least=2, budget=0.1, sample=1e-3)
    steps = {"fast": lambda: order.append("fast"), "slow": lambda: order.append("slow")}
    timings = interleave(steps, Clock(), effort)
    assert (timings["fast"].samples, timings["slow"].samples) == (10, 2)
    assert timings["slow"].median == 1.0
    timed = order[2:]
    assert timed.index("slow") < 8  # not left to the end
    assert timed[-1] == "slow" or "slow" in timed[5:]


def test_short_calls_are_timed_many_at_a_time() -> None:
    count = [0]

    def step() -> None:
        count[0] += 1

    interleave({"a": step}, CpuClock(), Effort(rounds=2, least=2, budget=1.0, sample=1e-3))
    assert count[0] > 100


def test_timing_sums_samples_up() -> None:
    assert Timing.of([1.0]) == Timing(1.0, 1.0, 1.0, 1)
    assert Timing.of([4.0, 1.0, 2.0, 3.0]).median == 2.5


def test_load_of_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine_module, "_PROC", tmp_path)
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 0 0 500 0 0 0 0 0 0\n")
    with LoadMeter() as meter:
        time.sleep(0.1)
        stat.write_text("cpu  1100 0 0 500 50 0 0 0 0 0\n")  # 10 s of others' work in 0.1 s
    assert meter.cores is not None
    assert meter.cores > 10
    with LoadMeter() as meter:
        time.sleep(0.02)
    assert meter.cores == 0.0
    stat.unlink()
    with LoadMeter() as meter:
        pass
    assert meter.cores is None


def test_own_work_is_no_foreign_load(monkeypatch: pytest.MonkeyPatch) -> None:
    spent = LoadMeter._between((0.0, 100.0, 7.0), (10.0, 130.0, 27.0))
    assert spent == pytest.approx(1.0)  # 30 s busy, 20 s of them ours, over 10 s


def test_memory_of_a_call() -> None:
    size = 24 << 20
    grown = peak_growth(lambda: torch.ones(size // 4), "cpu")
    if grown is None:
        pytest.skip("this system does not tell peak memory")
    assert 0.98 * size <= grown < 1.5 * size
    twice = peak_growth(lambda: torch.ones(size // 4) + torch.ones(size // 4), "cpu")
    assert twice is not None
    assert twice >= 1.96 * size
    assert peak_growth(lambda: None, "cpu") < size


def test_machine_is_described() -> None:
    facts = describe("cpu")
    assert facts["cores"] >= 1
    assert facts["gpu"] is None
    assert cache_bytes("cpu") >= 1 << 18


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        (Options(backends=("gpu",)), ValueError, "backend must be one of .*, got 'gpu'"),
        (Options("no_such"), ValueError, "nothing is called like 'no_such'"),
        (Options(threads=(0,)), ValueError, "threads must be at least 1"),
        (Options("/cpu/", ("cuda",)), RuntimeError, "backend 'cuda' runs none of these cases here"),
        (Options(backends=("triton",)), RuntimeError, "the speed of its interpreter means nothing|no GPU"),
    ],
)
def test_bad_options(given: Options, error: type[Exception], text: str) -> None:
    if given.backends == ("triton",) and torch.cuda.is_available():
        pytest.skip("Triton runs here")
    with pytest.raises(error, match=text):
        plan(given)


def test_patterns_and_quick() -> None:
    names = [g.name for g in plan(Options("shift*backward/2", ("reference",), threads=(1, 2)))]
    assert names == ["temporal_shift/cpu/1x256x8x56x56/float32/backward/2-thread"]
    quick = plan(Options("/cpu/", ("reference",), quick=True))
    assert {g.threads for g in quick} == {torch.get_num_threads()}
    assert {g.layouts for g in quick} == {("NCTHW",)}
    assert len(quick) < len(plan(Options("/cpu/", ("reference",))))


def test_a_case_must_bear_its_files_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "other_name.py").write_text("from vidops.bench.cases.temporal_shift import BENCHMARK\n")
    monkeypatch.setattr(cases, "__path__", [*cases.__path__, str(tmp_path)])
    with pytest.raises(RuntimeError, match=r"bench/cases/other_name.py holds the case of temporal_shift"):
        load_benchmarks()


@pytest.mark.usefixtures("tiny")
def test_threads_are_restored() -> None:
    before = torch.get_num_threads()
    run(options(pattern=TINY + "*forward", threads=(before + 1,)))
    assert torch.get_num_threads() == before


@pytest.mark.usefixtures("tiny")
def test_torch_compile_is_a_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    report = run(options(pattern=TINY, compile=True))
    found = [r for r in report["results"] if r["kind"] == "compile"]
    assert len(found) == 2
    assert {r["status"] for r in found} == {"ok"}
    kernels = [r for r in report["results"] if r["kind"] == "kernel"]
    assert all("torch.compile" in r["ratios"] for r in kernels)


@pytest.mark.usefixtures("tiny")
def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    first, second = tmp_path / "a" / "first.json", tmp_path / "second.json"
    common = ["bench", TINY, "--backend", "reference", "--threads", "1", "--json"]
    assert main([*common, str(first)]) == 0
    picture = tmp_path / "bars.png"
    assert main([*common, str(second), "--against", str(first), "--plot", str(picture)]) == 0
    out = capsys.readouterr().out
    assert "temporal_shift  tiny float32 on cpu, 1 thread: forward" in out
    assert "(below 1: faster now)" in out
    assert max(map(len, out.splitlines())) <= 160
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [
        "bars.png",
        "first.json",
        "second.json",
    ]
    assert main(["bench", "--show", str(first)]) == 0
    assert "temporal_shift  tiny float32 on cpu, 1 thread: backward" in capsys.readouterr().out


@pytest.mark.usefixtures("tiny")
def test_strict_fails_on_a_missed_target(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run(options(pattern=TINY + "*forward"))
    for record in report["results"]:
        for target in record.get("targets", ()):
            target["verdict"] = "missed"
    file = tmp_path / "report.json"
    write_report(file, report)
    assert main(["bench", "--show", str(file)]) == 0
    assert main(["bench", "--show", str(file), "--strict"]) == 1
    assert "targets: 2 missed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--plot", "bars.jpg"], "picture bars.jpg: the name must end in .png, .svg or .pdf"),
        (["--against", "none.json"], "report none.json: no such file"),
        (["--backend", "cuda,nonsense"], "got 'nonsense'"),
        (["no_such_operator"], "nothing is called like 'no_such_operator'"),
    ],
)
def test_bad_arguments_are_one_line(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert text in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("content", ["not json", "[]", '{"format": 0, "results": []}', '{"format": 1}'])
def test_a_file_that_is_no_report(content: str, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"report .*report\.json: (is not JSON|was not written by)"):
        read_report(file)


def test_comparison_with_an_older_report() -> None:
    def record(seconds: float, **more: Any) -> dict[str, Any]:
        return {**kernel(seconds=seconds, floor_multiple=seconds), "group": "g", **more}

    old = {"date": "then", "results": [record(2.0), record(1.0, layout="NTHWC"), record(1.0, group="gone")]}
    new = {"results": [record(1.0), record(1.5, layout="NTHWC"), record(9.0, status="wrong", group="w")]}
    lines = compare_lines(new, old)
    assert lines[0].startswith("against the report of then")
    assert "time 0.50, multiple of the floor 0.50  (2.00 s -> 1.00 s)" in lines[1]
    assert "NTHWC: time 1.50" in lines[2]
    assert len(lines) == 3


def test_summary_counts() -> None:
    targets = [{"verdict": "met"}, {"verdict": "missed"}, {"verdict": "met"}]
    record = {**kernel(), "group": "g", "targets": targets}
    assert summary_lines({"results": [record]}) == ["1 kernels measured, targets: 2 met, 1 missed"]
