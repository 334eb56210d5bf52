"""The harness: no speed for wrong results, and every figure where a report needs it."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.bench.common import TINY, options
from vidops.bench import Options, cases, load_benchmarks, run
from vidops.bench.cases import temporal_shift as shift_case
from vidops.bench.harness import left_out, plan
from vidops.bench.report import group_lines, grouped, read_report, summary_lines, write_report
from vidops.cli import main
from vidops.ops.backends import BACKENDS


@pytest.mark.usefixtures("tiny")
def test_a_report_holds_every_figure() -> None:
    so_far: list[dict[str, Any]] = []
    report = run(options(), finished=lambda records, report: so_far.append(json.loads(json.dumps(report))))
    report = json.loads(json.dumps(report, allow_nan=False))
    assert [len(grouped(part)) for part in so_far] == [1, 2]
    assert [len(part["left"]) for part in so_far] == [1, 0]
    assert so_far[0]["foreign_load"] is not None
    assert report["machine"]["versions"]["torch"] == torch.__version__
    assert report["ceilings"][0]["fma"] > 0
    assert report["left_out"] == []
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
    if BACKENDS["cpu"].missing:
        pytest.skip(f"no CPU kernels: {BACKENDS['cpu'].missing}")
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
    if BACKENDS["cpu"].missing:
        pytest.skip(f"no CPU kernels: {BACKENDS['cpu'].missing}")
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
@pytest.mark.parametrize("triton", [False, True])
def test_a_kernel_that_raises_is_wrong_and_the_others_are_measured(
    monkeypatch: pytest.MonkeyPatch, triton: bool
) -> None:
    # Triton's errors, as of a block that takes more shared memory than there is, are no RuntimeErrors.
    error = pytest.importorskip("triton").TritonError if triton else RuntimeError
    right = shift_case.BENCHMARK.call

    def call(params: Any, tensors: Any, backend: str | None) -> Any:
        if backend == "cpu":
            raise error("misaligned address")
        return right(params, tensors, backend)

    monkeypatch.setattr(shift_case, "BENCHMARK", dataclasses.replace(shift_case.BENCHMARK, call=call))
    if BACKENDS["cpu"].missing:
        pytest.skip(f"no CPU kernels: {BACKENDS['cpu'].missing}")
    report = run(Options(TINY + "*forward", ("cpu", "reference"), (1,)))
    found = {(r["variant"], r["status"], r["reason"]) for r in report["results"] if r["kind"] == "kernel"}
    assert found == {("cpu", "wrong", "misaligned address"), ("reference", "ok", "")}
    assert any("misaligned address" in line for line in summary_lines(report))


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
    names = [g.name for g in plan(Options("temporal_shift*backward/2", ("reference",), threads=(1, 2)))]
    assert names == ["temporal_shift/cpu/1x256x8x56x56/float32/backward/2-thread"]
    quick = plan(Options("/cpu/", ("reference",), quick=True))
    assert {g.threads for g in quick} == {torch.get_num_threads()}
    assert {g.layouts for g in quick} == {("NCTHW",)}
    assert len(quick) < len(plan(Options("/cpu/", ("reference",))))


def test_quick_says_what_it_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    given = Options("nonlocal_attention/cpu/", ("reference",), (1, 2), quick=True)
    lines = left_out(given)
    assert (
        lines[0]
        == f"--quick: 4 of {len(plan(dataclasses.replace(given, quick=False)))} groups, with fewer samples; left out:"
    )
    assert lines[1].startswith("  nonlocal_attention: cosine L6272 D256, dot L6272 D256, ")
    assert "gaussian L6272" not in lines[1]
    assert "  layouts: NTHWC" in lines
    assert left_out(dataclasses.replace(given, quick=False)) == []
    shown = summary_lines({"results": [], "left_out": lines})
    assert shown[1] == lines[0]
    assert max(map(len, shown)) <= 110
    assert "".join(shown[1:]).replace(" ", "") == "".join(lines).replace(" ", "")
    with pytest.raises(
        ValueError, match=r"^--quick leaves out all that is called like 'cosine'; `vidops bench --list`"
    ):
        plan(Options("cosine", ("reference",), quick=True))


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
def test_every_group_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """All groups compile one function, of which PyTorch keeps few versions before it runs others eagerly."""
    compiled = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    with torch._dynamo.config.patch(recompile_limit=1):
        run(options(pattern=TINY, compile=True))
    assert len(compiled) == 2


@pytest.mark.usefixtures("tiny")
def test_a_run_that_must_end_says_what_is_left_and_another_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = [tmp_path / "first.json", tmp_path / "second.json"]
    rest = ["--backend", "reference", "--threads", "1", "--json"]
    assert main(["bench", TINY, "--limit", "1e-6", *rest, str(parts[0])]) == 0
    last = "temporal_shift/cpu/tiny/float32/backward/1-thread"
    assert f"not measured for want of time: {last}" in capsys.readouterr().out
    assert read_report(parts[0])["left"] == [last]
    assert main(["bench", last, *rest, str(parts[1])]) == 0
    whole = tmp_path / "whole.json"
    assert main(["bench", "--show", *map(str, parts), "--json", str(whole)]) == 0
    report = read_report(whole)
    assert report["left"] == []
    assert [r[0]["direction"] for r in grouped(report)] == ["forward", "backward"]
    assert len(report["ceilings"]) == 1
    other = read_report(parts[1])
    other["machine"]["cores"] += 1
    write_report(parts[1], other)
    assert main(["bench", "--show", *map(str, parts)]) == 2
    assert "their machines differ: cores is" in capsys.readouterr().err
