"""The command, and reports that are whole or an error."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.bench.common import TINY, kernel, options
from tests.bench.test_against import record as timed
from tests.bench.test_against import report as made_of
from vidops.bench import harness, run
from vidops.bench.report import read_report, summary_lines, write_report
from vidops.cli import main


@pytest.mark.usefixtures("tiny")
def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    first, second = tmp_path / "a" / "first.json", tmp_path / "second.json"
    common = ["bench", TINY, "--backend", "reference", "--threads", "1", "--json"]
    assert main([*common, str(first)]) == 0
    picture = tmp_path / "bars.png"
    # Two runs of microseconds on any machine: whether the second is slower is test_against.py's matter.
    against = ["--against", str(first), "--tolerance", "1000000"]
    assert main([*common, str(second), *against, "--plot", str(picture)]) == 0
    out = capsys.readouterr().out
    assert "temporal_shift  tiny float32 on cpu, 1 thread: forward" in out
    assert "against the report of 20" in out
    assert max(map(len, out.splitlines())) <= 160
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [
        "bars.png",
        "first.json",
        "second.json",
    ]
    roof = tmp_path / "roof.png"
    assert main(["bench", "--show", str(first), "--roofline", str(roof)]) == 0
    assert roof.read_bytes().startswith(b"\x89PNG")
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
    for record in report["results"]:
        for target in record.get("targets", ()):
            target["stretch"] = True
    write_report(file, report)
    assert main(["bench", "--show", str(file), "--strict"]) == 0  # a wish is told, not asked for


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--plot", "bars.jpg"], "picture bars.jpg: the name must end in .png, .svg or .pdf"),
        (["--roofline", "roof.jpg"], "picture roof.jpg: the name must end in .png, .svg or .pdf"),
        (["--against", "none.json"], "report none.json: no such file"),
        (["--backend", "cuda,nonsense"], "got 'nonsense'"),
        (["--json", "."], "--json . is a folder; name a file"),
        (["--json", "/dev/null/new.json"], "--json: there is no folder /dev/null"),
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


@pytest.mark.usefixtures("tiny")
def test_who_interrupts_a_run_is_told_where_its_figures_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    command = [
        "bench",
        TINY,
        "--backend",
        "reference",
        "--threads",
        "1",
        "--json",
        str(tmp_path / "part.json"),
    ]
    real = harness.Data.traffic

    def second(data: harness.Data, direction: str) -> int:
        return interrupted() or 0 if direction == "backward" else real(data, direction)

    monkeypatch.setattr(harness.Data, "traffic", second)
    assert main(command) == 130
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith(
        "[1/2] temporal_shift/cpu/tiny/float32/forward"
    )  # a line, where it is no terminal
    assert told[-1] == f"vidops bench: interrupted: the figures measured so far are in {command[-1]}"
    assert len(read_report(command[-1])["left"]) == 1
    monkeypatch.setattr(harness.Data, "traffic", interrupted)
    assert main([*command[:-1], str(tmp_path / "none.json")]) == 130
    assert capsys.readouterr().err.endswith("vidops bench: interrupted\n")


@pytest.mark.parametrize("content", ["not json", "[]", '{"format": 0, "results": []}', '{"format": 1}'])
def test_a_file_that_is_no_report(content: str, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"report .*report\.json (is no JSON|was not written by)"):
        read_report(file)


def test_a_folder_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"report {tmp_path} is a folder"):
        read_report(tmp_path)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda r: r.pop("machine"), "machine is no table"),
        (lambda r: r["machine"].pop("cpu"), "machine has no cpu"),
        (lambda r: r["machine"].update(gpu="H200"), "the machine's gpu is no table with a name"),
        (lambda r: r.pop("options"), "options is no table with a pattern"),
        (lambda r: r["results"].append(3), "results is no list of tables"),
        (lambda r: r["results"].append({}), "record 2 of results: group is missing or no text"),
        (
            lambda r: r["results"][0].update(seconds="1.0"),
            "record 1 of results: seconds is missing or no number",
        ),
        (lambda r: r["results"][0].update(quartiles=[1]), "quartiles is missing or no pair of numbers"),
        (lambda r: r["results"][0].update(floor_multiple="2"), "floor_multiple is no number"),
        (lambda r: r["results"][0].pop("targets"), "targets is missing or no list of targets"),
    ],
)
def test_a_damaged_report_is_one_line(
    change: Callable[[dict[str, Any]], object],
    fault: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made, file = copy.deepcopy(made_of(timed(1.0))), tmp_path / "report.json"
    write_report(file, made)
    assert main(["bench", "--show", str(file)]) == 0
    change(made)
    write_report(file, made)
    assert main(["bench", "--show", str(file)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"vidops bench: error: report {file} is damaged: ")
    assert told.endswith(f"{fault}\n")


def test_summary_counts() -> None:
    targets = [{"verdict": "met"}, {"verdict": "missed"}, {"verdict": "met"}]
    record = {**kernel(), "group": "g", "targets": targets}
    assert summary_lines({"results": [record]}) == ["1 kernels measured, targets: 2 met, 1 missed"]
    record["targets"] += [{"verdict": "missed", "stretch": True}, {"verdict": "met", "stretch": True}]
    assert summary_lines({"results": [record]}) == [
        "1 kernels measured, targets: 2 met, 1 missed",
        "1 of 2 stretch targets met",
    ]
